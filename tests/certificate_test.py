"""Who signs: certificates that are given, and one that is made."""

import stat
from concurrent import futures

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from sora_jax import certificate


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CONFIG_HOME', str(tmp_path))
  return tmp_path / 'sora_jax' / 'signer'


def test_a_local_signer_is_made_once_and_said_to_be_unknown(home, capsys):
  first = certificate.local()
  said = capsys.readouterr().out
  assert str(home / 'certificate.pem') in said
  assert 'others need it to trust it' in said
  assert certificate.local() == first
  assert capsys.readouterr().out == ''
  assert stat.S_IMODE((home / 'key.pem').stat().st_mode) == 0o600
  assert sorted(path.name for path in home.parent.iterdir()) == ['signer']


def test_a_root_signs_the_signer_who_may_sign_documents_only(home):
  own, root = x509.load_pem_x509_certificates(certificate.local().chain)
  own.verify_directly_issued_by(root)
  root.verify_directly_issued_by(root)
  usage = own.extensions.get_extension_for_class(x509.KeyUsage).value
  assert usage.digital_signature and not usage.key_cert_sign


def test_signers_made_at_once_are_one(home):
  with futures.ThreadPoolExecutor(4) as pool:
    made = list(pool.map(lambda _: certificate.local(), range(4)))
  assert len({signer.fingerprint for signer in made}) == 1


def test_what_is_given_must_be_a_certificate_and_its_key(home, tmp_path):
  certificate.local()
  pem, key = home / 'certificate.pem', home / 'key.pem'
  other = tmp_path / 'other.pem'
  other.write_bytes(
    ed25519.Ed25519PrivateKey.generate().private_bytes(
      serialization.Encoding.PEM,
      serialization.PrivateFormat.PKCS8,
      serialization.NoEncryption(),
    )
  )
  for given, said in [
    ((key, key), 'holds no PEM certificate'),
    ((pem, pem), 'holds no PEM private key without a password'),
    ((pem, other), 'is not the key of the certificate'),
  ]:
    with pytest.raises(ValueError, match=said):
      certificate.load(*map(str, given))
