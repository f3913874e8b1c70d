"""Every byte of a signed file bound, also those that C2PA leaves open.

C2PA hashes the media and the assertions, but not the names of the boxes around
them, padding, or an mp4's first box: in a small file a thousand bytes could
change unseen. So a second signature of all bytes of the file but its own lies
where the first one has its padding, as a header of its COSE structure that
readers of C2PA pass over. Its key is used once and forgotten; the public half
is in an assertion, which the first signature covers.

What is signed is the file with zeros for the seal. From it and the seal follows
the file, byte for byte, so no other file verifies with that key.
Source: RFC 9052, 3.1 and 4.2 (COSE headers and COSE_Sign1); C2PA 2.2,
A.3 (embedding).
"""

import re
import zlib

import numpy as np
from cryptography import exceptions
from cryptography.hazmat.primitives.asymmetric import ed25519
from jaxtyping import Int

# The superbox of a manifest store, after the 4 bytes of its length.
STORE = b'jumb\0\0\0\x1ejumdc2pa\0\x11\0\x10\x80\0\0\xaa\08\x9bq\x03c2pa\0'
SIZE = 64  # of an Ed25519 signature
NAME = b'\x64seal\x58' + bytes([SIZE])  # of the header, in CBOR
PADDING = re.compile(rb'\x63pad\x59(..)', re.DOTALL)
# A JPEG holds a store in segments of so many bytes, with headers between them.
JPEG_SEGMENT, JPEG_HEADER = 64000, 20


def seal(data: bytes, suffix: str, key: ed25519.Ed25519PrivateKey) -> bytes:
  """A file that C2PA signed, sealed.

  Raises:
    ValueError: its signature has no room for a seal.
  """
  places = _places(data, suffix)
  store = bytes(_array(data)[places])
  blank = _put(data, suffix, places, _with_header(store))
  return _fill(blank, suffix, key.sign(blank))


def holds(data: bytes, suffix: str, key: str) -> bool:
  """Whether a file is, byte for byte, as this public key (hex) sealed it."""
  try:
    at = _seal_places(data, suffix)
    signature = bytes(_array(data)[at])
    blank = _fill(data, suffix, bytes(SIZE))
    public = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    public.verify(signature, blank)
    return _fill(blank, suffix, signature) == data
  except (ValueError, IndexError, exceptions.InvalidSignature):
    return False


def _array(data: bytes) -> np.ndarray:
  return np.frombuffer(data, np.uint8)


def _places(data: bytes, suffix: str) -> Int[np.ndarray, ' N']:
  """Where in a file the bytes of its manifest store lie, in their order."""
  at = data.index(STORE) - 4
  size = int.from_bytes(data[at : at + 4])
  if size > len(data):
    raise ValueError(f'a manifest of {size} bytes in {len(data)}')
  i = np.arange(size)
  if suffix == '.gif':  # a length after each 255 bytes
    i += i // 255
  if suffix in ('.jpg', '.jpeg'):
    i += JPEG_HEADER * (i // JPEG_SEGMENT)
  return at + i


def _with_header(store: bytes) -> bytes:
  """Takes a seal of zeros from the padding of the last signature."""
  map_ = _headers(store)
  padding = next(PADDING.finditer(store, map_), None)
  entry = NAME + bytes(SIZE)
  if padding is None or (size := int.from_bytes(padding[1])) < 256 + len(entry):
    raise ValueError('the signature has no room for a seal')
  start, end = padding.end(), padding.end() + size
  head = bytes([store[map_] + 1])  # a map of one more, in CBOR
  left = (size - len(entry)).to_bytes(2)
  return (
    store[:map_]
    + head
    + store[map_ + 1 : start - 2]
    + left
    + store[start : end - len(entry)]
    + entry
    + store[end:]
  )


def _headers(store: bytes) -> int:
  """Where the unprotected headers of the last signature begin."""
  at = store.rindex(b'cbor\xd2\x84') + 6  # COSE_Sign1, tagged
  width = {0x58: 1, 0x59: 2}[store[at]]  # of the length of protected headers
  protected = int.from_bytes(store[at + 1 : at + 1 + width])
  return at + 1 + width + protected


def _seal_places(data: bytes, suffix: str) -> Int[np.ndarray, ' N']:
  places = _places(data, suffix)
  at = bytes(_array(data)[places]).rindex(NAME) + len(NAME)
  return places[at : at + SIZE]


def _fill(data: bytes, suffix: str, value: bytes) -> bytes:
  return _put(data, suffix, _seal_places(data, suffix), value)


def _put(
  data: bytes, suffix: str, places: Int[np.ndarray, ' N'], value: bytes
) -> bytes:
  """Replaces bytes of the store, and the checksum that a png has of it."""
  file = _array(data).copy()
  file[places] = _array(value)
  if suffix == '.png':
    store = _places(data, suffix)
    chunk = file[store[0] - 4 : store[-1] + 1]  # with its name
    checksum = zlib.crc32(chunk.tobytes()).to_bytes(4)
    file[store[-1] + 1 : store[-1] + 5] = _array(checksum)
  return file.tobytes()
