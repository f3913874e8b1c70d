"""Labels by flags, and what they do to frames and files."""

import datetime
import types

import numpy as np
import pytest
import tiny
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from etils import epath

from sora_jax import certificate, label, metrics, provenance, watermark
from sora_jax.data import video


def of(**flags):
  return label.of(types.SimpleNamespace(**flags))


def test_without_flags_clips_are_labelled_by_the_local_signer():
  assert of() == label.Label(certificate.local())
  assert of(unlabelled=True).signer is None


def test_a_certificate_of_the_user_signs(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CONFIG_HOME', str(tmp_path / 'user'))
  user, files = certificate.local(), certificate.home()
  monkeypatch.setenv('XDG_CONFIG_HOME', str(tmp_path / 'other'))
  given = of(
    certificate=str(files / certificate.CERTIFICATE),
    key=str(files / certificate.KEY),
  )
  assert given.signer == user
  assert given.card['signed_by'] == user.fingerprint
  assert not certificate.home().exists()


def test_a_certificate_that_c2pa_does_not_take_is_refused_at_once(tmp_path):
  key = ec.generate_private_key(ec.SECP256R1())
  name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'me')])
  now = datetime.datetime.now(datetime.UTC)
  own = (
    x509
    .CertificateBuilder()
    .subject_name(name)
    .issuer_name(name)
    .public_key(key.public_key())
    .serial_number(1)
    .not_valid_before(now)
    .not_valid_after(now + datetime.timedelta(days=9))
    .sign(key, hashes.SHA256())
  )
  pem = serialization.Encoding.PEM
  (tmp_path / 'own.pem').write_bytes(own.public_bytes(pem))
  (tmp_path / 'key.pem').write_bytes(
    key.private_bytes(
      pem,
      serialization.PrivateFormat.PKCS8,
      serialization.NoEncryption(),
    )
  )
  with pytest.raises(ValueError, match='own.pem: cannot sign: .* in the PEM'):
    of(certificate=f'{tmp_path}/own.pem', key=f'{tmp_path}/key.pem')


def test_an_authority_that_does_not_answer_is_noticed_at_once():
  url = 'http://127.0.0.1:9/'  # where nobody listens
  with pytest.raises(ValueError, match=f'--tsa_url={url}: cannot sign: '):
    of(tsa_url=url)


def write(path, frames, made, inputs=(), **more):
  cut = len(frames) // 2  # where it is cut does not matter
  parts = [frames[:0], frames[:cut], frames[cut:]]
  facts = lambda: {'seed': 1} | more
  return label.write(epath.Path(path), parts, 10.0, made, facts, inputs)


def test_equal_frames_are_equal_before_signing_only(tmp_path):
  frames = tiny.gradient(5, 32, 32)
  one, two = (write(tmp_path / f'{i}.mp4', frames, of()) for i in range(2))
  assert one['video_sha256'] == two['video_sha256']
  assert one['file_sha256'] != two['file_sha256']
  plain = write(tmp_path / 'plain.mp4', frames, of(unlabelled=True))
  assert plain == dict.fromkeys(plain, one['video_sha256'])


@pytest.mark.parametrize('unlabelled', [False, True])
def test_a_failing_signature_fails_the_write_unless_none_is_wanted(
  tmp_path, monkeypatch, unlabelled
):
  def fail(*unused):
    raise ValueError('cannot sign: no ink')

  monkeypatch.setattr(provenance, 'sign', fail)
  path, frames = tmp_path / 'a.mp4', tiny.gradient(5, 32, 32)
  made = of(unlabelled=unlabelled)
  if unlabelled:
    write(path, frames, made)
    assert path.exists()
  else:
    with pytest.raises(ValueError, match='a.mp4: .* no ink; --unlabelled'):
      write(path, frames, made)
    assert list(tmp_path.iterdir()) == []


def test_flags_of_a_compiler_do_not_leave_with_a_file(tmp_path):
  path = tmp_path / 'a.mp4'
  flags = '--xla_dump_to=/home/someone'
  write(path, tiny.gradient(5, 32, 32), of(), xla_flags=flags)
  facts = provenance.read(path.read_bytes()).facts
  assert facts['seed'] == 1 and 'xla_flags' not in facts
  assert b'someone' not in path.read_bytes()


def test_large_frames_are_marked_unless_unlabelled(tmp_path):
  frames = tiny.gradient(5, 256, 256)
  for unlabelled in (False, True):
    path = tmp_path / f'{unlabelled}.mp4'
    write(path, frames, of(unlabelled=unlabelled))
    read = video.read_frames(path, 0, 5)
    assert watermark.found(read) != unlabelled


def test_frames_that_are_kept_again_and_again_are_marked_once(tmp_path):
  """And frames that are new beside them are marked too."""
  # Grey: a video holds colours at half the size only.
  first = tiny.gradient(5, 256, 256)[..., :1].repeat(3, axis=-1)
  frames, inputs, quality = first, (), []
  for i in range(3):
    path = tmp_path / f'{i}.mp4'
    write(path, np.concatenate([frames, first[::-1]]), of(), inputs)
    frames = video.read_frames(path, 0, 5)
    quality.append(metrics.psnr(frames, first))
    assert watermark.found(frames)
    assert watermark.found(video.read_frames(path, 5, 5))
    inputs = (
      provenance.examine(path.name, path.read_bytes(), provenance.PARENT),
    )
  assert min(quality) > quality[0] - 2  # of encoding; a mark takes 3 to 5


@pytest.mark.parametrize('side', [48, 64, 256])
def test_letters_are_white_on_black_in_a_corner(side):
  frames = np.full((2, side, side, 3), 128, np.uint8)
  lettered = label.marked(frames, label.Label(None, visible=True))
  changed = (lettered != frames).any(axis=(0, 3))
  rows, columns = np.nonzero(changed)
  assert rows.min() > side // 2 and columns.min() > side // 2
  corner = lettered[0, rows.min() :, columns.min() :]
  assert corner.max() > 230 and corner.min() == 0
  assert changed.mean() < 0.12
