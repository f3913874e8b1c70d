"""Tensors in safetensors files: which there are, and the numbers of any part.

A file is eight bytes that hold the length of a header, the header, which is
JSON, and the numbers. A network is one file, or several and an index that says
which tensor lies in which. Nothing but headers is read until numbers are asked
for, and then no more than those.

Source: https://github.com/huggingface/safetensors, section Format.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

# Types of stored numbers, by their names in a file.
DTYPES = {
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(jnp.bfloat16),
}
ENDING = '.safetensors'
INDEX_ENDING = '.safetensors.index.json'
LARGEST_HEADER = 100_000_000  # bytes, as in the library
LARGEST_FILE = 5_000_000_000  # bytes of numbers in a file that we write


class Tensor(NamedTuple):
  """Where the numbers of a tensor lie."""

  path: epath.Path
  name: str
  dtype: np.dtype
  shape: tuple[int, ...]
  start: int  # in bytes, from the start of the file


def find(folder: epath.PathLike, stem: str) -> dict[str, Tensor]:
  """The tensors of a network, by name: of STEM.safetensors or of its index.

  Raises:
    ValueError: there is neither file or there are both, one is damaged, or the
      files are not those of the index.
  """
  folder = epath.Path(folder)
  single, index = folder / (stem + ENDING), folder / (stem + INDEX_ENDING)
  if single.exists() and index.exists():
    raise ValueError(
      f'{folder} has both {single.name} and {index.name}; remove the one that '
      'is not meant'
    )
  if index.exists():
    return _find_indexed(index)
  if not single.exists():
    raise ValueError(f'{folder} has neither {single.name} nor {index.name}')
  return read_header(single)


def _find_indexed(index: epath.Path) -> dict[str, Tensor]:
  file_of = read_json(index).get('weight_map')
  if not isinstance(file_of, dict) or not file_of:
    raise ValueError(f'{index}: "weight_map" must say which file has a tensor')
  for name, file in file_of.items():
    plain = isinstance(file, str) and file.endswith(ENDING)
    if not plain or '/' in file or '\\' in file or '\0' in file:
      raise ValueError(
        f'{index}: {name!r} is said to lie in {file!r}, which is no name of a '
        f'{ENDING} file beside it'
      )
  found = {}
  for file in sorted(set(file_of.values())):
    path = index.parent / file
    if not path.exists():
      raise ValueError(f'{path} is missing; {index.name} names it')
    for name, tensor in read_header(path).items():
      if file_of.get(name) != file:
        raise ValueError(
          f'{path} has {name!r}, which {index.name} does not look for there: '
          'files of two versions are mixed'
        )
      found[name] = tensor
  if missing := sorted(set(file_of) - set(found)):
    name = missing[0]
    raise ValueError(
      f'{index.parent / file_of[name]} lacks {name!r}, which {index.name} '
      'looks for there: files of two versions are mixed'
    )
  return found


def read_header(path: epath.PathLike) -> dict[str, Tensor]:
  """The tensors of one file, in the order of their numbers.

  Raises:
    ValueError: the file is cut or is none of this kind, or holds other types.
  """
  path = epath.Path(path)
  header, size, length = _read_start(path)
  header.pop('__metadata__', None)
  tensors = [
    _tensor(path, name, entry, 8 + length) for name, entry in header.items()
  ]
  tensors.sort(key=lambda tensor: (tensor.start, _bytes(tensor)))
  end = 8 + length
  for tensor in tensors:
    if tensor.start != end:
      raise ValueError(
        f'{path}: {tensor.name!r} starts at byte {tensor.start}, and what is '
        f'before it ends at {end}'
      )
    end += _bytes(tensor)
  if end != size:
    raise ValueError(
      f'{path}: {size} bytes, and its tensors end at {end}: it is cut short or '
      'something follows them'
    )
  return {tensor.name: tensor for tensor in tensors}


def read_metadata(path: epath.PathLike) -> dict[str, Any]:
  """What a file says of itself; ValueError as `read_header`."""
  said = _read_start(epath.Path(path))[0].get('__metadata__', {})
  return said if isinstance(said, dict) else {}


def _read_start(path: epath.Path) -> tuple[dict[str, Any], int, int]:
  """A file's header, its bytes, and those of the header."""
  size = path.stat().length
  with path.open('rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    if size < 8 or length > min(size - 8, LARGEST_HEADER):
      raise ValueError(
        f'{path}: {size} bytes with a header of {length} is a file cut short, '
        f'or none of {ENDING[1:]}'
      )
    return _parse(path, file.read(length)), size, length


def _tensor(path: epath.Path, name: str, entry: Any, base: int) -> Tensor:
  """One entry of a header, checked."""
  fields = {'dtype', 'shape', 'data_offsets'}
  if not isinstance(entry, dict) or set(entry) != fields:
    raise ValueError(f'{path}: {name!r} must have {", ".join(sorted(fields))}')
  dtype, shape, offsets = (entry[k] for k in ('dtype', 'shape', 'data_offsets'))
  if not isinstance(dtype, str) or dtype not in DTYPES:
    raise ValueError(
      f'{path}: {name} is stored as {dtype}; what can be read is '
      f'{", ".join(DTYPES)}'
    )
  if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
    raise ValueError(
      f'{path}: {name!r} has {shape=} and data_offsets={offsets}, which must '
      'be whole numbers from 0 on, two of the latter'
    )
  tensor = Tensor(path, name, DTYPES[dtype], tuple(shape), base + offsets[0])
  if offsets[1] - offsets[0] != _bytes(tensor):
    raise ValueError(
      f'{path}: {name!r} has {offsets[1] - offsets[0]} bytes, and {shape=} of '
      f'{dtype} takes {_bytes(tensor)}'
    )
  return tensor


def _counts(values: Any) -> bool:
  """Whether these are lengths: few of them, and none absurd."""
  return (
    isinstance(values, list)
    and len(values) <= 32
    and all(type(value) is int and 0 <= value < 2**48 for value in values)
  )


def _bytes(tensor: Tensor) -> int:
  return math.prod(tensor.shape) * tensor.dtype.itemsize


def read(tensor: Tensor, index: tuple[slice, ...] = ()) -> np.ndarray:
  """A tensor's numbers, or a part of them, in the type in which they lie.

  Args:
    tensor: From `find`.
    index: Slices of its first axes, without steps; all of it by default.
  """
  if not tensor.shape:
    index = ()
  rows = math.prod(tensor.shape[:1])
  first, last, _ = index[0].indices(rows) if index else (0, rows, 1)
  row_bytes = _bytes(tensor) // max(rows, 1)
  data = _read_bytes(
    tensor.path,
    tensor.start + first * row_bytes,
    max(last - first, 0) * row_bytes,
  )
  shape = (max(last - first, 0), *tensor.shape[1:]) if tensor.shape else ()
  part = data.view(tensor.dtype).reshape(shape)
  return part[(slice(None), *index[1:])] if index else part


def _read_bytes(path: epath.Path, start: int, count: int) -> np.ndarray:
  """Bytes of a file. Of a local one, pages are read where they are used."""
  local = os.fspath(path)
  if not count:
    return np.zeros(0, np.uint8)
  if os.path.exists(local):
    return np.asarray(np.memmap(local, np.uint8, 'r', start, (count,)))
  with path.open('rb') as file:
    file.seek(start)
    return np.frombuffer(file.read(count), np.uint8)


def write(
  folder: epath.PathLike,
  stem: str,
  arrays: Iterable[tuple[str, np.ndarray]],
  largest: int = LARGEST_FILE,
) -> None:
  """Writes STEM.safetensors; or several files and an index, if it is large.

  Args:
    folder: An existing one, with none of these files in it.
    stem: Of the names of the files.
    arrays: Names and numbers, of a type in DTYPES. They are taken as they are
      written, and no more of them are held than go into one file.
    largest: Bytes of numbers in one file, but for a larger tensor.
  """
  folder = epath.Path(folder)
  parts, total, file_of = [], 0, []
  for part in _split(arrays, largest):
    path = folder / f'{stem}-{len(parts) + 1:05d}.part'
    # With the word that other libraries ask for.
    path.write_bytes(safetensors.numpy.save(part, {'format': 'pt'}))
    parts.append(path)
    file_of += [(name, len(parts)) for name in part]
    total += sum(array.nbytes for array in part.values())
  if len(parts) == 1:
    parts[0].rename(folder / (stem + ENDING))
    return
  name_of = lambda i: f'{stem}-{i:05d}-of-{len(parts):05d}{ENDING}'
  for i, path in enumerate(parts, 1):
    path.rename(folder / name_of(i))
  index = {
    'metadata': {'total_size': total},
    'weight_map': {name: name_of(i) for name, i in file_of},
  }
  path = folder / (stem + INDEX_ENDING)
  path.write_text(json.dumps(index, indent=1) + '\n')


def _split(
  arrays: Iterable[tuple[str, np.ndarray]], largest: int
) -> Iterator[dict[str, np.ndarray]]:
  """Groups of arrays in their order, each as large as a file may be."""
  group, size = {}, 0
  for name, array in arrays:
    if group and size + array.nbytes > largest:
      yield group
      group, size = {}, 0
    group[name] = np.asarray(array, order='C')
    size += array.nbytes
  yield group


def read_json(path: epath.PathLike) -> dict[str, Any]:
  """The object that a JSON file holds.

  Raises:
    ValueError: the file is not there, or holds something else.
  """
  path = epath.Path(path)
  try:
    text = path.read_bytes()
  except OSError as error:
    raise ValueError(f'{path}: {error.strerror or error}') from error
  return _parse(path, text)


def _parse(path: epath.Path, text: bytes) -> dict[str, Any]:
  try:
    values = json.loads(text, object_pairs_hook=_unique)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path}: {error}') from error
  if not isinstance(values, dict):
    raise ValueError(f'{path}: it must hold an object, in braces')
  return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  values = dict(pairs)
  if len(values) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'{twice!r} occurs twice')
  return values
