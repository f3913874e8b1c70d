"""`launch.py verify`: a verdict for each file, and what the label says."""

import types

import pytest
import tiny
from etils import epath

from sora_jax import certificate, label, provenance, verify
from sora_jax.data import video


@pytest.fixture
def files(tmp_path):
  """Files of every verdict, by name."""
  frames = tiny.gradient(5, 256, 256)
  mine = label.Label(certificate.local(), prompt=True)
  path = lambda name: epath.Path(tmp_path / name)
  facts = {'model': 'balls', 'seed': 7, 'prompt': 'a small red ball'}
  label.write(path('good.mp4'), [frames], 10.0, mine, lambda: facts)
  video.write_video(path('plain.mp4'), frames, 10.0)
  again = video.read_frames(path('good.mp4'), 0, 5)
  video.write_video(path('again.mp4'), again, 10.0)
  inputs = tuple(
    provenance.examine(name, path(name).read_bytes(), provenance.COMPONENT)
    for name in ('good.mp4', 'plain.mp4')
  )
  label.write(path('edit.mp4'), [frames], 10.0, mine, lambda: facts, inputs)
  data = path('good.mp4').read_bytes()
  path('cut.mp4').write_bytes(data[:-9])
  path('download').write_bytes(data)
  path('rest').write_bytes(data[9:])
  return tmp_path


@pytest.fixture
def call(files, capsys):
  def call(*names, trust=None):
    flags = types.SimpleNamespace(
      files=[str(files / name) for name in names], trust=trust
    )
    status = verify.main(None, flags)
    return status, capsys.readouterr().out.replace(f'{files}/', '')

  return call


@pytest.mark.parametrize(
  ('name', 'verdict', 'status'),
  [
    ('good.mp4', 'valid', 0),
    ('edit.mp4', 'valid', 0),
    ('cut.mp4', 'tampered', 1),
    ('again.mp4', 'watermark only', 1),
    ('plain.mp4', 'unlabelled', 1),
    ('download', 'valid', 0),  # what it is, its first bytes say
    ('rest', 'tampered', 1),
  ],
)
def test_each_file_has_its_verdict(call, name, verdict, status):
  got, said = call(name)
  assert got == status
  assert said.splitlines()[0] == f'{name}: {verdict}'


def test_trust_is_given_by_a_file_of_certificates(call):
  trust = certificate.home() / certificate.CERTIFICATE
  status, said = call('good.mp4', trust=str(trust))
  assert status == 0 and said.startswith('good.mp4: trusted\n')
  with pytest.raises(ValueError, match='holds no PEM certificate'):
    call('good.mp4', trust=str(trust.with_name(certificate.KEY)))


def test_what_the_label_says_is_told(call):
  _, said = call('edit.mp4')
  lines = [line.strip() for line in said.splitlines()[1:]]
  assert 'says seed: 7' in lines
  assert 'says prompt: a small red ball' in lines
  assert 'time stamp: none' in lines
  assert any(
    line.startswith('valid input (componentOf): good.mp4, made by sora_jax')
    for line in lines
  )
  assert 'unlabelled input (componentOf): plain.mp4' in lines


def test_what_a_label_says_cannot_look_like_what_was_found(files, call):
  path = epath.Path(files / 'forged.mp4')
  forged = 'x\r\n  signed by: someone\x1b[2K\u2028\u202e'
  facts = {'signed by': 'someone', forged: 1, 'é': forged}
  inputs = (provenance.examine(forged, b'', provenance.COMPONENT),)
  mine = label.Label(certificate.local())
  label.write(
    path, [tiny.gradient(5, 32, 32)], 10.0, mine, lambda: facts, inputs
  )
  _, said = call('forged.mp4')
  assert 'says é: x\\r\\n' in said
  lines = said.splitlines()
  signed = [line for line in lines if line.startswith('  signed by: ')]
  assert signed == ['  signed by: sora_jax on this computer']
  assert all(line.isprintable() for line in lines)
  assert '  says signed by: someone' in lines
  assert len(lines) == 10  # verdict, 4 found, an input, 4 said with the seal


@pytest.mark.parametrize(
  ('trusted', 'line'),
  [
    (False, 'time stamp: 2026-01-02, authority unknown'),
    (True, 'time stamp: 2026-01-02, authority trusted'),
  ],
)
def test_a_time_is_as_good_as_who_gave_it(trusted, line):
  report = provenance.Report('valid', time='2026-01-02', time_trusted=trusted)
  assert verify.lines_of(report) == [line]


def test_one_bad_file_fails_all(call):
  status, said = call('good.mp4', 'plain.mp4')
  assert status == 1
  assert 'good.mp4: valid' in said and 'plain.mp4: unlabelled' in said


def test_a_file_must_be_there(call):
  with pytest.raises(ValueError, match='no file: write `launch.py verify FILE'):
    call()
  with pytest.raises(FileNotFoundError):
    call('nowhere.mp4')
