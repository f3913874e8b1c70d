"""Every experiment can be built at its size, and the smallest one trains."""

import importlib
import pathlib

import jax
import numpy as np
import pytest
from etils import epath

from sora_jax import (
  batch,
  config as config_lib,
  experiment,
  generate,
  networks,
  objectives,
  sharding,
  train,
)
from sora_jax.data.worlds import scene_labels

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / 'experiments').glob('*.py'))
SPECS = [
  f'{path}:{variant}'
  for path in FILES
  if path.stem != 'wan'  # is of a model that is given to it: see `wan_test`
  for variant in importlib.import_module(f'experiments.{path.stem}').VARIANTS
]


def shape(*sizes, dtype=np.float32):
  return jax.ShapeDtypeStruct(sizes, dtype)


def abstract_pack(config):
  """The one shape of a pack that the limits of a config allow."""
  at = config.data.limits
  B, N, M, L, G = at.rows, at.tokens, at.clips, at.text, at.groups
  ints = lambda *sizes: shape(*sizes, dtype=np.int32)
  values = int(np.prod(config.model.patch)) * config.model.channels
  return batch.Pack(
    tokens=shape(B, N, values),
    position=ints(B, N, 3),
    index=ints(B, N),
    segment=ints(B, N),
    group=ints(B, N),
    group_clip=ints(B, G),
    group_index=ints(B, G),
    group_clean=ints(B, G),
    text_of=ints(B, N),
    text_segment=ints(B, L),
    draw=ints(B, M),
    tokens_in_clip=ints(B, M),
    text_ids=ints(B, L),
  )


def abstract_loss(config):
  """Shapes of the gradients of one step, and its metrics, unevaluated."""
  key = jax.random.key(0)
  if config.stage is config_lib.Stage.AUTOENCODER:
    params = {'autoencoder': networks.abstract(config, 'autoencoder')}
    size = batch.parse_size(config.data.crops[0])
    rows = config.data.limits.rows
    data = batch.Frames(
      shape(rows, size.frames, size.height, size.width, 3, dtype=np.uint8),
      shape(rows, dtype=np.int32),
    )
    loss = lambda params, data: objectives.reconstruction(
      params, data, key, model=config.autoencoder, config=config.reconstruction
    )
  elif config.stage is config_lib.Stage.PROBE:
    config.probe.classes = scene_labels.CLASSES
    config.probe.motions = len(scene_labels.MOTION_SCALES)
    params = {'probe': networks.abstract(config, 'probe')}
    size = batch.parse_size(config.data.sizes[0])
    rows, labels = config.data.limits.rows, len(scene_labels.FIELDS)
    data = batch.Labelled(
      shape(rows, size.frames, size.height, size.width, 3, dtype=np.uint8),
      shape(rows, labels, dtype=np.int32),
      shape(rows, size.frames, size.height, size.width, dtype=bool),
      shape(rows, size.frames, config.probe.motions),
    )
    loss = lambda params, data: objectives.recognition(
      params, data, model=config.probe
    )
  elif config.stage is config_lib.Stage.TEXT:
    params = {'text': networks.abstract(config, 'text')}
    data = abstract_pack(config)
    params['contrast'] = jax.eval_shape(
      lambda key: networks.init_towers(config, key), key
    )
    loss = lambda params, data: objectives.contrast(
      params, data, encoder=config.text
    )
  else:
    params = {n: networks.abstract(config, n) for n in ('dit', 'text')}
    data = abstract_pack(config)
    loss = lambda params, data: objectives.denoising(
      params,
      data,
      key,
      model=config.model,
      encoder=config.text,
      config=config.denoising,
    )
  params = sharding.unbox(params)
  grads, sums = jax.eval_shape(
    jax.grad(
      lambda params, data: (lambda total, count, sums: (total, sums))(
        *loss(params, data)
      ),
      has_aux=True,
    ),
    params,
    data,
  )
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  assert shapes(grads) == shapes(params)
  return sums


@pytest.mark.parametrize('spec', SPECS, ids=lambda s: s.rpartition('/')[2])
def test_an_experiment_can_be_built(spec):
  config = experiment.load(spec)
  train.check(config)
  latent = config.stage in (
    config_lib.Stage.TEXT,
    config_lib.Stage.DIFFUSION,
  )
  if latent and config.autoencoder_from:
    networks.read_frozen(config)
  if latent:
    assert config.model.channels == config.autoencoder.channels or (
      not config.autoencoder_from
    )
  assert 'clips' in abstract_loss(config)


def test_every_experiment_is_in_the_table():
  table = (ROOT / 'experiments' / 'README.md').read_text()
  for path in FILES:
    assert f'`{path.name}' in table, f'{path.name} has no row'


@pytest.mark.slow
def test_the_smallest_experiments_train_and_what_they_leave_samples(
  tmp_path, one_device, monkeypatch
):
  monkeypatch.setattr(train, 'STATISTICS_BATCHES', 2)
  smoke = str(ROOT / 'experiments' / 'smoke.py')
  place = epath.Path(tmp_path)
  for variant in ('autoencoder', 'text', 'diffusion'):
    config = experiment.load(f'{smoke}:{variant}')
    config.run.steps, config.optim.warmup_steps = 2, 1
    config.run.sample_every, config.data.clips = 0, 8
    if variant != 'autoencoder':
      config.autoencoder_from = str(place / 'autoencoder' / 'model')
    if variant == 'diffusion':
      config.init_from = str(place / 'text' / 'model')
      config.data.latents = str(place / 'text' / 'latents')
    state = train.train(config, place / variant)
    assert int(state['step']) == 2
    assert int(state['counters']['skipped']) == 0
  alone = networks.read(place / 'text' / 'model')
  assert list(alone.params) == ['text']
  of_run = networks.read(place / 'text').params
  jax.tree.map(np.testing.assert_array_equal, of_run, alone.params)
  model = networks.read(place / 'diffusion' / 'model')
  settings = generate.settings_of(model.config.sample)._replace(steps=1)
  (clip,) = generate.sample(model, [generate.Request('a', 0)], settings)
  assert clip.video.shape == (5, 32, 32, 3)
  assert np.isfinite(clip.latent).all()
