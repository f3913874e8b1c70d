"""Networks from where they are kept: a model directory, or a run."""

import copy
import hashlib
import json

import jax
import numpy as np
import pytest
import tiny
from etils import epath

from experiments import smoke
from sora_jax import (
  checkpoint,
  config as config_lib,
  networks,
  optimizer,
  sharding,
  state as state_lib,
)


def assert_same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_a_model_reads_back_with_its_configs_and_how_to_sample(tmp_path):
  config = tiny.config()
  config.sample.guidance, config.denoising.level.std = 7.0, 0.5
  written = networks.Networks(config, tiny.params(config))
  networks.write(tmp_path / 'model', written, 'float32')
  found = networks.read(tmp_path / 'model')
  assert_same(found.params, written.params)
  for part in ('model', 'text', 'autoencoder', 'denoising', 'sample'):
    assert getattr(found.config, part) == getattr(config, part)


def write_run(path, config, trained, digests):
  """What `train` leaves of a run: its config and one checkpoint."""
  transform = optimizer.make_optimizer(config.optim, config.run.steps)
  init = networks.make_init(config, trained)
  state = jax.jit(
    lambda key: state_lib.initialise(init, transform, key, start={}, frozen={})
  )(jax.random.key(0))
  state['ema'] = jax.tree.map(lambda x: x + 1, state['ema'])
  values = {'config': config_lib.to_dict(config), 'frozen': digests}
  path.mkdir()
  (path / 'config.json').write_text(json.dumps(values))
  with checkpoint.CheckpointStore(path / 'checkpoints') as store:
    store.save(3, state, {'step': 3}, block=True)
  return state


def test_a_run_speaks_by_the_average_of_its_last_checkpoint(tmp_path):
  path = epath.Path(tmp_path) / 'run'
  config = tiny.config()
  config.autoencoder_from = str(tmp_path / 'model')
  frozen = tiny.write_model(tmp_path / 'model', 'autoencoder').params
  digests = {'autoencoder': networks.digest(frozen['autoencoder'])}
  state = write_run(path, config, ('dit', 'text'), digests)
  found = networks.read(path)
  assert set(found.params) == {'dit', 'text', 'autoencoder'}
  assert_same(found.params, state['ema'] | frozen)
  assert found.config == config


def test_a_run_must_find_what_it_took_as_it_was(tmp_path):
  path = epath.Path(tmp_path) / 'run'
  config = tiny.config()
  config.autoencoder_from = config.text_from = str(tmp_path / 'model')
  names = ('autoencoder', 'text')
  frozen = tiny.write_model(tmp_path / 'model', *names).params
  digests = {name: networks.digest(frozen[name]) for name in names}
  state = write_run(path, config, ('dit',), digests)
  assert_same(networks.read(path).params, state['ema'] | frozen)
  rescaled = copy.deepcopy(config)
  rescaled.autoencoder.latent_std = (9.0,) * 4
  changed = (
    (config, frozen | {'text': jax.tree.map(lambda x: x + 1, frozen['text'])}),
    (rescaled, frozen),
  )
  for name, other in zip(('text', 'autoencoder'), changed, strict=True):
    networks.write(tmp_path / 'model', networks.Networks(*other), 'float32')
    with pytest.raises(ValueError, match=f'is not the {name} that this run'):
      networks.read(path)
  (tmp_path / 'model').rename(tmp_path / 'elsewhere')
  with pytest.raises(ValueError, match='once it has ended, '):
    networks.read(path)


def test_a_run_starts_from_another_by_what_it_needs_alone(tmp_path):
  path = epath.Path(tmp_path) / 'run'
  config = tiny.config()
  config.autoencoder_from = str(tmp_path / 'nowhere')
  digests = {'autoencoder': 'of what is not there'}
  state = write_run(path, config, ('dit', 'text'), digests)
  config.init_from = str(path)
  (weights,) = networks.read_start(config, ('dit',)).values()
  mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=8))
  where = sharding.param_shardings({'dit': weights.boxed}, mesh)['dit']
  placed = weights.place(where)
  assert_same(placed, state['ema']['dit'])
  assert jax.tree.map(lambda x: x.sharding, placed) == where


def test_a_run_of_an_autoencoder_has_one_network(tmp_path):
  path = epath.Path(tmp_path) / 'run'
  config = smoke.autoencoder()
  config.autoencoder.multiples, config.autoencoder.halve_time = (1,), ()
  state = write_run(path, config, ('autoencoder',), {})
  found = networks.read(path)
  assert_same(found.params, state['ema'])
  # Its statistics are measured at the end of training only.
  with pytest.raises(ValueError, match='run: its autoencoder has no latent st'):
    networks.check_statistics(found.config, path)


def test_frozen_networks_bring_their_configs_along(tmp_path):
  model = tiny.write_model(tmp_path / 'model')
  config = smoke.diffusion()
  config.autoencoder_from = config.text_from = str(tmp_path / 'model')
  assert config.autoencoder != model.config.autoencoder
  frozen = networks.read_frozen(config)
  assert config.autoencoder == model.config.autoencoder
  expected = {k: model.params[k] for k in ('autoencoder', 'text')}
  assert_same(frozen, expected)


def test_networks_of_one_run_start_from_keys_of_their_own():
  config = tiny.config()
  init = networks.make_init(config, ('dit', 'text'))
  make = jax.jit(lambda key: sharding.unbox(init(key)))
  made, other = make(jax.random.key(0)), make(jax.random.key(1))
  embedding = made['text']['embedding']
  assert (embedding != other['text']['embedding']).all()
  alone = networks.KINDS['text'][1](config.text, jax.random.key(0))
  assert (embedding != sharding.unbox(alone)['embedding']).all()


def test_damaged_weights_are_named(tmp_path):
  tiny.write_model(tmp_path / 'model', 'text')
  (file,) = (tmp_path / 'model').rglob('*.safetensors')
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(ValueError, match='text_encoder/model.safetensors: '):
    networks.read(tmp_path / 'model')
  # Before there is a place for them, so before latents are prepared.
  config = tiny.config()
  config.init_from = str(tmp_path / 'model')
  with pytest.raises(ValueError, match='text_encoder/model.safetensors: '):
    networks.read_start(config, ('text',))


def test_a_curve_counts_only_where_a_cache_goes_by_it():
  config = tiny.config()
  digest = lambda cache: networks.config_digest(
    networks.Networks(config, {'dit': {}}), cache
  )
  before = digest(0.0), digest(0.1)
  config.sample.cache_curve = (0.5, 0.25)
  assert digest(0.0) == before[0] and digest(0.1) != before[1]
  config.model.depth += 1
  assert digest(0.0) != before[0]


def test_a_digest_is_of_names_and_numbers():
  tree = {'a': np.ones(2, np.float32), 'b': {'c': np.zeros(1, np.float32)}}
  total = hashlib.sha256()
  for name, leaf in (("['a']", tree['a']), ("['b']['c']", tree['b']['c'])):
    total.update(name.encode() + leaf.tobytes())
  assert networks.digest(tree) == total.hexdigest()
  assert networks.digest(tree) != networks.digest({
    'a': tree['a'],
    'd': tree['b'],
  })
