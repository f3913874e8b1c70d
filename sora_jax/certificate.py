"""Who signs: a user's certificate and key, or local ones made at first use."""

import datetime
import os
import pathlib
import tempfile
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import oid

NAME = 'sora_jax on this computer'
YEARS = 10  # that a local certificate is good for

# The two files of a signer.
CERTIFICATE, KEY = 'certificate.pem', 'key.pem'

CURVES = {'secp256r1': 'es256', 'secp384r1': 'es384', 'secp521r1': 'es512'}


class Signer(NamedTuple):
  """A chain of certificates, the signer's own first, and its private key."""

  chain: bytes  # PEM
  key: bytes  # PEM
  algorithm: str  # as C2PA calls it

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the signer's own certificate."""
    (own, *_) = x509.load_pem_x509_certificates(self.chain)
    return own.fingerprint(hashes.SHA256()).hex()


def load(certificate: str, key: str) -> Signer:
  """Reads the PEM files that a user gives.

  Raises:
    ValueError: they are no certificate and key, or not of one another.
    OSError: a file cannot be read.
  """
  chain, secret = pathlib.Path(certificate), pathlib.Path(key)
  try:
    (own, *_) = x509.load_pem_x509_certificates(chain.read_bytes())
  except ValueError as error:
    raise ValueError(f'{certificate} holds no PEM certificate') from error
  try:
    private = serialization.load_pem_private_key(secret.read_bytes(), None)
  except (ValueError, TypeError) as error:
    raise ValueError(
      f'{key} holds no PEM private key without a password'
    ) from error
  if private.public_key() != own.public_key():
    raise ValueError(f'{key} is not the key of the certificate {certificate}')
  return Signer(chain.read_bytes(), secret.read_bytes(), _algorithm(private))


def _algorithm(key: object) -> str:
  if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
    return CURVES[key.curve.name]
  if isinstance(key, ed25519.Ed25519PrivateKey):
    return 'ed25519'
  if isinstance(key, rsa.RSAPrivateKey):
    return 'ps256'
  raise ValueError(
    f'C2PA knows no {type(key).__name__}; take EC P-256, P-384 or P-521, '
    'Ed25519 or RSA'
  )


def home() -> pathlib.Path:
  """Where the local signer lies."""
  config = os.environ.get('XDG_CONFIG_HOME') or pathlib.Path.home() / '.config'
  return pathlib.Path(config) / 'sora_jax' / 'signer'


def local() -> Signer:
  """The signer of this user on this computer, made where there is none.

  Nobody else trusts it: it shows that a file is as it was written, and that the
  same signer wrote another one, but not who that is.
  """
  folder = home()
  if not folder.exists():
    _make(folder)
    print(
      f'signing with a new certificate, {folder / CERTIFICATE}; others need '
      'it to trust it, or give --certificate and --key'
    )
  return load(str(folder / CERTIFICATE), str(folder / KEY))


def _make(folder: pathlib.Path) -> None:
  """Writes a signer; of two processes that do so at once, one wins."""
  chain, key = _issue()
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder.parent) as made:
    new = pathlib.Path(made, folder.name)
    new.mkdir(mode=0o700)
    (new / CERTIFICATE).write_bytes(chain)
    (new / KEY).touch(mode=0o600)
    (new / KEY).write_bytes(key)
    try:
      new.rename(folder)
    except OSError:
      if not folder.exists():
        raise


def _issue() -> tuple[bytes, bytes]:
  """PEM of a certificate with its root, and of its key.

  C2PA takes no certificate that signs itself, so a root signs it, whose key
  is forgotten at once.
  Source: C2PA 2.2, 14.5.1, certificate profiles.
  """
  root_key = ec.generate_private_key(ec.SECP256R1())
  key = ec.generate_private_key(ec.SECP256R1())
  root = _certificate(f'{NAME}, root', root_key, f'{NAME}, root', root_key)
  own = _certificate(NAME, key, f'{NAME}, root', root_key)
  pem = serialization.Encoding.PEM
  chain = own.public_bytes(pem) + root.public_bytes(pem)
  secret = key.private_bytes(
    pem,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
  )
  return chain, secret


def _certificate(
  name: str,
  key: ec.EllipticCurvePrivateKey,
  issuer: str,
  issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
  """A root if the issuer is itself, else a signer of documents."""
  root = key is issuer_key
  now = datetime.datetime.now(datetime.UTC)
  usage = dict.fromkeys(
    (
      *('content_commitment', 'key_encipherment', 'data_encipherment'),
      *('key_agreement', 'encipher_only', 'decipher_only'),
      *('digital_signature', 'key_cert_sign', 'crl_sign'),
    ),
    False,
  )
  usage['key_cert_sign' if root else 'digital_signature'] = True
  issued = x509.AuthorityKeyIdentifier.from_issuer_public_key
  builder = (
    x509
    .CertificateBuilder()
    .subject_name(_name(name))
    .issuer_name(_name(issuer))
    .public_key(key.public_key())
    .serial_number(x509.random_serial_number())
    .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
    .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
    .add_extension(x509.BasicConstraints(root, 0 if root else None), True)
    .add_extension(x509.KeyUsage(**usage), True)
    .add_extension(issued(issuer_key.public_key()), False)
    .add_extension(
      x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
    )
  )
  if not root:
    purpose = [oid.ExtendedKeyUsageOID.EMAIL_PROTECTION]
    builder = builder.add_extension(x509.ExtendedKeyUsage(purpose), False)
  return builder.sign(issuer_key, hashes.SHA256())


def _name(text: str) -> x509.Name:
  return x509.Name([
    x509.NameAttribute(oid.NameOID.ORGANIZATION_NAME, 'sora_jax'),
    x509.NameAttribute(oid.NameOID.COMMON_NAME, text),
  ])
