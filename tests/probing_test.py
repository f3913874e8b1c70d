"""The probe that ships tells scenes, and shares count what was promised."""

import pathlib

import jax
import numpy as np
import pytest
import tiny
from etils import epath

from sora_jax import batch, experiment, networks, probing, sharding, train
from sora_jax.data.worlds import scene_labels, scenes
from sora_jax.models import probe as probe_lib

ROOT = pathlib.Path(__file__).parent.parent


def test_true_clips_are_seen_as_what_they_are(one_device):
  """Of combinations that models never train on, at twice the probe's size."""
  prompts = scenes.held_out_prompts(1234, 44)
  size = batch.Size(128, 128, 17)
  videos = [scenes.clip(1234, i, size, 'test')[0].video for _, i in prompts]
  promised = [scenes.attributes(caption) for caption, _ in prompts]
  probe = probing.Probe()
  kept = probing.kept(probe.attributes(videos), promised)
  assert {n: k for n, k in kept.items() if k.cases > 9 and k.share < 0.9} == {}
  assert kept['event'].share > 0.95 and kept['object'].share > 0.95
  assert kept['object'].cases == 44 > kept['hour'].cases
  # Of stills less is seen, though many events go with an object.
  stills = [np.repeat(video[:1], 17, axis=0) for video in videos]
  moved = probing.kept(probe.attributes(stills), promised)
  for name, lost in dict(event=0.3, way=0.3, camera=0.5).items():
    assert moved[name].share < kept[name].share - lost
  assert moved['object'].share > 0.6


def test_a_clip_is_shown_at_its_aspect_and_held():
  video = np.arange(5, dtype=np.uint8)[:, None, None, None]
  video = np.broadcast_to(video, (5, 112, 192, 3))
  seen = probing.view(video, 16)
  assert seen.shape == (17, 48, 80, 3)
  assert seen[:, 0, 0, 0].tolist() == [0, 1, 2, 3, *[4] * 13]


def test_a_share_is_of_what_is_promised():
  captions = ['a red cat walks on grass', 'two blue cars drive left on sand']
  promised = [scenes.attributes(caption) for caption in captions]
  seen = np.stack([scene_labels.encode(said) for said in promised])
  seen[0, 1] += 1  # another colour
  kept = probing.kept(seen, promised)
  assert kept['object'] == (1.0, 2) and kept['colour'] == (0.5, 2)
  assert kept['way'] == (1.0, 1) and 'camera' not in kept


def test_a_model_without_a_probe_of_these_labels_is_refused(tmp_path):
  tiny.write_model(tmp_path / 'model')
  with pytest.raises(ValueError, match='has no probe; experiments/probe.py'):
    probing.Probe(tmp_path / 'model')
  config = tiny.config()
  config.probe.classes, config.probe.motions = 5, 2
  init = networks.make_init(config, ('probe',))
  params = jax.device_get(sharding.unbox(init(jax.random.key(0))))
  path = tmp_path / 'probe'
  networks.write(path, networks.Networks(config, params), 'float32')
  read = networks.read(path)
  assert read.config.probe == config.probe
  jax.tree.map(np.testing.assert_array_equal, read.params, params)
  with pytest.raises(ValueError, match='tells 5 classes, and scenes have'):
    probing.Probe(path)


def test_a_run_teaches_it_and_leaves_a_model(tmp_path, one_device):
  """From scenes as small as they come, in a network as small."""
  config = experiment.load(str(ROOT / 'experiments' / 'probe.py'))
  config.probe = probe_lib.ProbeConfig(widths=(8, 8), blocks=(1, 1), features=8)
  config.data.sizes = ('16x16x5', '24x16x5')
  config.data.limits.rows, config.data.workers = 2, 0
  config.optim.warmup_steps, config.run.steps = 0, 2
  config.run.export_dtype = 'float32'
  run = epath.Path(tmp_path) / 'run'
  state = train.train(config, run)
  exported, read = networks.read(run / 'model'), networks.read(run)
  for found in (exported, read):
    jax.tree.map(
      np.testing.assert_array_equal, found.params, jax.device_get(state['ema'])
    )
    assert found.config.probe.classes == scene_labels.CLASSES
  video = np.zeros((9, 48, 80, 3), np.uint8)
  seen = probing.Probe(run / 'model').attributes([video])
  assert seen.shape == (1, len(scene_labels.FIELDS))


@pytest.mark.parametrize(
  ('name', 'value'),
  [('world', 'balls'), ('beside', 'clips'), ('sizes', ('60x64x17',))],
)
def test_what_it_cannot_learn_from_is_refused(tmp_path, name, value):
  config = experiment.load(str(ROOT / 'experiments' / 'probe.py'))
  setattr(config.data, name, value)
  with pytest.raises(ValueError, match='the probe'):
    train.train(config, epath.Path(tmp_path))
