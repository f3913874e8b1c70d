"""Scores beside their bounds, and files that cannot be read."""

import json
import math
import types

import jax
import pytest
import tiny
from etils import epath

from sora_jax import evaluate, generate, networks, sharding
from sora_jax.data import video


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A model of random weights that makes clips of 32x32x5."""
  path = epath.Path(tmp_path_factory.mktemp('models')) / 'model'
  tiny.write_model(path)
  return path


def flags_of(model, out, **given):
  """What the command line gives by default, and some of it otherwise."""
  flags = dict(model=str(model), out=str(out), seed=0, suite=None)
  flags |= dict(world='balls', extractor=None, data=None)
  return types.SimpleNamespace(**(flags | given))


def test_true_clips_keep_their_promises_and_noise_does_not(model, one_device):
  found = networks.read(model)
  found.config.sample.text_slots = 128
  settings = generate.settings_of(found.config.sample)._replace(steps=1)
  mesh = sharding.make_mesh(sharding.MeshConfig())
  make = generate.make_generator(found, settings, mesh)
  scores = evaluate.on_balls(found, settings, make, cases=6, seed=0)
  assert scores.true.cases == scores.generated.cases == 6
  assert scores.true.colour == scores.true.law == scores.true.direction == 1
  assert scores.true.velocity_error < 0.05 and scores.true_motion < 0.2
  assert scores.generated.law < 0.5 < scores.generated.velocity_error
  assert scores.psnr < 20 and scores.decoded_motion > scores.true_motion
  table = evaluate.world_table(scores)
  assert [line.split('  ')[0] for line in table.splitlines()[2:5]] == [
    'true clips (the tracker itself)',
    'true clips through the autoencoder',
    'made from the prompts',
  ]


def test_files_are_scored_and_a_broken_one_is_told(
  model, tmp_path, one_device, capsys, monkeypatch
):
  folder = tiny.write_videos(tmp_path / 'v', [(9, 48, 32), (5, 32, 32)])
  monkeypatch.setattr(evaluate, 'on_balls', lambda *unused, **also: SCORES)
  monkeypatch.setattr(
    evaluate.heldout, 'loss_by_level', lambda *unused: {'0.5': 0.1, '0.9': 1.0}
  )
  out = tmp_path / 'out'
  flags = flags_of(model, out, cases=1, data=str(folder))
  evaluate.main(None, flags)
  (folder / '1.mp4').write_bytes(b'')
  evaluate.main(None, flags)
  printed = capsys.readouterr().out
  assert 'left out: broken video' in printed and '1.mp4' in printed
  results = json.loads((out / 'scores.json').read_text())
  assert list(results['files']) == ['0.mp4']
  assert results['loss_by_level'] == {'0.5': 0.1, '0.9': 1.0}
  assert results['card']['weights_sha256'] == networks.digest(
    networks.read(model).params
  )
  assert results['run']['versions']['jax'] == jax.__version__
  for name in ('shares', 'loss'):
    assert video.read_info(out / f'{name}.png')[2] == 1
  row = results['files']['0.mp4']
  monkeypatch.setattr(evaluate.heldout, 'reads_bytes', lambda networks: False)
  evaluate.main(None, flags)
  assert 'no held-out loss' in capsys.readouterr().out
  again = json.loads((out / 'scores.json').read_text())
  assert again == {k: v for k, v in results.items() if k != 'loss_by_level'}
  # What is left of a gradient by bicubic scaling; random weights leave less.
  assert row['psnr'] < row['bicubic_psnr'] < math.inf
  assert row['bicubic_ssim'] > row['ssim']


def test_scenes_are_scored_by_the_probe(
  tmp_path, one_device, capsys, monkeypatch
):
  """True clips keep what a probe that knows them says; noise keeps little."""
  config = tiny.config()
  config.sample.text_slots = 192
  model = tmp_path / 'model'
  made = networks.Networks(config, tiny.params(config))
  networks.write(model, made, 'float32')
  monkeypatch.setattr(
    evaluate.heldout, 'loss_by_level', lambda *unused: {'0.5': 0.1, '0.9': 1.0}
  )
  out = tmp_path / 'out'
  flags = flags_of(model, out, cases=22, world='scenes')
  evaluate.main(None, flags)
  printed = capsys.readouterr().out
  results = json.loads((out / 'scores.json').read_text())
  assert results['world'] == 'scenes' and len(results['probe_sha256']) == 64
  rows = results['generation']
  assert rows['true']['object']['cases'] == 22
  assert rows['true']['object']['share'] > 0.6
  assert rows['generated']['object']['share'] < 0.5
  for name, (made, decoded) in rows['frechet'].items():
    assert made > 0 and decoded > 0 and f'{name} from the true' in printed
  assert set(rows['frechet']) == {'frechet[latents]', 'frechet[probe]'}
  table = [line.split('  ')[0] for line in printed.splitlines()]
  assert 'true clips (the probe itself)' in table
  assert rows['autoencoder']['psnr'] < 20


def test_what_would_be_scored_otherwise_than_asked_is_refused(model, tmp_path):
  flags = flags_of(model, tmp_path, suite='loop', world='scenes')
  with pytest.raises(ValueError, match='--suite=loop scores balls, not scenes'):
    evaluate.main(None, flags)
  flags.suite = 'lop'
  with pytest.raises(ValueError, match="no task 'lop'"):
    evaluate.main(None, flags)


TALLY = evaluate.metrics.Tally(1, 1.0, 1.0, 1.0, 1.0, 0.0)
SCORES = evaluate.WorldScores(TALLY, TALLY, TALLY, 30.0, 0.9, 0.0, 0.1, {})
