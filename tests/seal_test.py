"""A signature of all bytes of a file but its own."""

import pytest
import tiny
from cryptography.hazmat.primitives.asymmetric import ed25519

from sora_jax import certificate, provenance, seal
from sora_jax.data import encoders


@pytest.fixture(scope='module')
def signed():
  data = encoders.mp4(iter(tiny.gradient(5, 32, 32)), 10.0)
  return provenance.sign(data, '.mp4', certificate.local(), {})


def key_of(signed):
  return provenance.read(signed).facts['seal']


def test_a_seal_holds_with_its_own_key_only(signed):
  other = ed25519.Ed25519PrivateKey.generate().public_key()
  assert seal.holds(signed, '.mp4', key_of(signed))
  assert not seal.holds(signed, '.mp4', other.public_bytes_raw().hex())
  assert not seal.holds(signed, '.mp4', 'no key')


def test_a_file_without_a_manifest_has_no_seal(signed):
  plain = encoders.mp4(iter(tiny.gradient(5, 32, 32)), 10.0)
  assert not seal.holds(plain, '.mp4', key_of(signed))


def test_a_length_beyond_the_file_is_no_manifest(signed):
  at = signed.index(seal.STORE) - 4
  longer = signed[:at] + b'\xff' * 4 + signed[at + 4 :]
  assert not seal.holds(longer, '.mp4', key_of(signed))


def test_a_signature_without_room_is_refused(signed):
  key = ed25519.Ed25519PrivateKey.generate()
  with pytest.raises(ValueError, match='no room'):
    seal.seal(signed.replace(b'\x63pad', b'\x63dap'), '.mp4', key)
