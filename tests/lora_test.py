"""Adapters: what they add, what of a run they leave alone, and their files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
from etils import epath
from flax import traverse_util

from sora_jax import (
  config as config_lib,
  networks,
  problems,
  sharding,
  state as state_lib,
  train,
)
from sora_jax.models import dit, lora
from sora_jax.weights import adapters, directory

TARGETS = ('attn1.to_q', 'to_out', 'ffn.linear_1')


def adapters_of(config, rank=2, targets=TARGETS, seed=0):
  """Random ones, as those of a fresh run would add nothing."""
  one = lora.LoRAConfig(rank=rank, targets=targets)
  made = sharding.unbox(
    lora.init(one, networks.abstract(config, 'dit'), jax.random.key(seed))
  )
  rng = np.random.default_rng(seed)
  draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)
  return jax.tree.map(draw, made)


def assert_same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def names_of(tree):
  return {'.'.join(path) for path in traverse_util.flatten_dict(tree)}


def test_targets_get_two_matrices_a_layer():
  config = tiny.config()
  found = adapters_of(config)
  assert names_of(found) == {
    f'blocks.{module}.{side}'
    for module in ('attn1.to_q', 'attn1.to_out', 'attn2.to_out', 'ffn.linear_1')
    for side in 'ab'
  }
  c = config.model
  linear = found['blocks']['ffn']['linear_1']
  assert linear['a'].shape == (c.depth, c.width, 2)
  assert linear['b'].shape == (c.depth, 2, c.mlp)


@pytest.mark.parametrize('scan', [True, False])
def test_beside_a_matrix_they_are_what_is_added_to_it(scan):
  config = tiny.config()
  c = config.model
  c.scan, c.dtype = scan, 'float32'
  params, added = tiny.params(config, 'dit')['dit'], adapters_of(config)
  rng = np.random.default_rng(0)
  draw = lambda *size: rng.normal(size=size).astype(np.float32)
  x, text = draw(1, 6, 4 * c.channels), draw(1, 5, c.text_width)
  ints = lambda *size: jnp.ones(size, jnp.int32)
  position = jnp.asarray(rng.integers(0, 4, (1, 6, 3)), jnp.int32)

  @jax.jit
  def run(variables):
    return dit.SpacetimeDiT(c).apply(
      variables,
      jnp.asarray(x),
      jnp.array([[0.6]]),
      position,
      ints(1, 6),
      0 * ints(1, 6),
      jnp.asarray(text),
      ints(1, 5),
      ints(1, 6),
    )

  expected = run({'params': lora.merge(params, added)})
  assert np.abs(expected - run({'params': params})).max() > 1e-2
  found = run({'params': params, lora.COLLECTION: added})
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
  ('targets', 'words'), [(('to_x',), 'attn1.to_k, '), ((), 'each must end the')]
)
def test_unknown_targets_are_told_the_known_ones(targets, words):
  with pytest.raises(ValueError, match=words):
    adapters_of(tiny.config(), targets=targets)


def test_alpha_over_rank_scales_what_is_added():
  added = adapters_of(tiny.config(), rank=4)
  half = lora.scaled(lora.LoRAConfig(rank=4, alpha=2.0), added)
  same = lora.scaled(lora.LoRAConfig(rank=4), added)
  q, h, s = (x['blocks']['attn1']['to_q'] for x in (added, half, same))
  np.testing.assert_array_equal(h['b'], 0.5 * q['b'])
  np.testing.assert_array_equal(h['a'], q['a'])
  np.testing.assert_array_equal(s['b'], q['b'])


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  folder = epath.Path(tmp_path_factory.mktemp('lora')) / 'model'
  tiny.write_model(folder)
  return folder


def run_config(place) -> config_lib.Config:
  config = tiny.config(clips=8)
  config.init_from = config.text_from = config.autoencoder_from = str(place)
  config.data.limits.text = 128
  config.lora.rank, config.lora.alpha = 2, 6.0
  config.optim.learning_rate = 1e-2
  return config


@pytest.fixture(scope='module')
def done(place):
  """A run of a few steps, and where it is."""
  workdir = place.parent / 'run'
  return train.train(run_config(place), workdir), workdir


def test_a_run_moves_adapters_and_nothing_else(place, done):
  state, _ = done
  assert set(state['trainable']) == {'lora'}
  before = networks.read(place).params
  # Of the rest there are features and latents: no device holds it.
  assert_same(jax.device_get(state['frozen']), {'dit': before['dit']})
  config = run_config(place)
  init = networks.make_adapters(config)
  key, _ = jax.random.split(jax.random.key(config.seed))
  fresh = sharding.unbox(jax.jit(init)(key))['lora']
  fresh = traverse_util.flatten_dict(jax.device_get(fresh))
  moved = traverse_util.flatten_dict(jax.device_get(state['trainable']['lora']))
  assert {path[-2] for path in moved} == {'to_q', 'to_k', 'to_v', 'to_out'}
  for path, value in moved.items():
    # In four steps of Adam, each a hundredth at the most.
    assert 1e-3 < np.abs(value - fresh[path]).max() < 0.05, path


def test_what_a_run_leaves_is_the_merged_model_and_its_adapters(place, done):
  state, workdir = done
  before = networks.read(place)
  model = networks.read(workdir / 'model')
  assert set(model.params) == {'dit', 'text', 'autoencoder'}
  ema = jax.device_get(state['ema']['lora'])
  q = ema['blocks']['attn1']['to_q']
  expected = before.params['dit']['blocks']['attn1']['to_q']['kernel']
  expected = expected + 3.0 * np.einsum('lir,lro->lio', q['a'], q['b'])
  found = model.params['dit']['blocks']['attn1']['to_q']['kernel']
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
  assert_same(model.params['text'], before.params['text'])
  # The run itself speaks as its model does, and so does the file of adapters.
  assert_same(networks.read(workdir).params['dit'], model.params['dit'])
  file = workdir / 'model' / f'{adapters.STEM}.safetensors'
  adapted = networks.adapt(before, file)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
  jax.tree.map(close, adapted.params['dit'], model.params['dit'])


def test_what_is_adapted_is_shared_out_over_devices(place, tmp_path):
  config = run_config(place)
  config.data.latents = str(place.parent / 'run' / 'latents')
  config.mesh.fsdp = 8
  mesh = sharding.make_mesh(config.mesh)
  problem = problems.diffusion_problem(config, tmp_path, np.arange(8))
  boxed = {name: weights.boxed for name, weights in problem.adapted.items()}
  with sharding.use(mesh):
    state = jax.eval_shape(
      lambda key, frozen: dict(
        trainable=sharding.unbox(problem.init(key)), frozen=frozen
      ),
      jax.random.key(0),
      sharding.unbox(boxed),
    )
    where = state_lib.shardings(problem.init, state, mesh, boxed)
  kernel = where['frozen']['dit']['blocks']['attn1']['to_q']['kernel']
  assert 'fsdp' in kernel.spec
  adapter = where['trainable']['lora']['blocks']['attn1']['to_q']
  assert 'fsdp' in adapter['a'].spec


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (dict(text_from=''), 'trains nothing but adapters: text_from must name'),
    (dict(init_from=''), 'lora.rank=2: init_from must name the model'),
  ],
)
def test_adapters_need_what_they_lie_beside(place, tmp_path, change, words):
  config = run_config(place)
  for name, value in change.items():
    setattr(config, name, value)
  with pytest.raises(ValueError, match=words):
    problems._check_adapters(
      config,
      ('dit',) if config.text_from else ('dit', 'text'),
      networks.read_start(config, ('dit',)),
    )


def test_a_rank_below_0_is_refused(place):
  config = run_config(place)
  config.lora.rank = -1
  with pytest.raises(ValueError, match='lora.rank=-1 must be 0 or more'):
    train.check(config)


def test_adapters_of_another_stage_are_refused(place):
  config = run_config(place)
  config.stage = config_lib.Stage.TEXT
  with pytest.raises(ValueError, match='stage text does not train; it must be'):
    train.check(config)


def test_files_have_the_names_that_diffusers_gives(tmp_path):
  config = tiny.config()
  added = adapters_of(config)
  adapters.write(tmp_path, added, 'float32')
  file = tmp_path / f'{adapters.STEM}.safetensors'
  stored = safetensors.numpy.load_file(file)
  q = added['blocks']['attn1']['to_q']
  a = stored['transformer.blocks.1.attn1.to_q.lora_A.weight']
  np.testing.assert_array_equal(a, q['a'][1].T)
  b = stored['transformer.blocks.0.attn2.to_out.0.lora_B.weight']
  to_out = added['blocks']['attn2']['to_out']
  np.testing.assert_array_equal(b, to_out['b'][0].T)
  assert 'transformer.blocks.0.ffn.net.0.proj.lora_A.weight' in stored
  assert_same(adapters.read(file, config.model), {'dit': added})


def test_other_names_ranks_and_alphas_are_read(tmp_path):
  """As others write them: original names, `down` and `up`, two experts."""
  config = tiny.config()
  rng = np.random.default_rng(0)
  c = config.model
  draw = lambda *size: rng.normal(size=size).astype(np.float32)
  down, up = draw(3, c.width), draw(c.width, 3)
  short, long = draw(1, c.width), draw(c.width, 1)
  safetensors.numpy.save_file(
    {
      'diffusion_model.blocks.1.self_attn.q.lora_down.weight': down,
      'diffusion_model.blocks.1.self_attn.q.lora_up.weight': up,
      'diffusion_model.blocks.1.self_attn.q.alpha': np.array(6.0, np.float32),
      'diffusion_model.blocks.0.self_attn.q.lora_down.weight': short,
      'diffusion_model.blocks.0.self_attn.q.lora_up.weight': long,
      'transformer_2.blocks.0.attn2.to_k.lora_A.default.weight': down,
      'transformer_2.blocks.0.attn2.to_k.lora_B.default.weight': up,
    },
    tmp_path / 'other.safetensors',
  )
  found = adapters.read(tmp_path / 'other.safetensors', c)
  assert names_of(found['dit']) == {f'blocks.attn1.to_q.{s}' for s in 'ab'}
  q = found['dit']['blocks']['attn1']['to_q']
  np.testing.assert_allclose(
    q['a'][1] @ q['b'][1], 2 * (up @ down).T, rtol=1e-5
  )
  np.testing.assert_allclose(q['a'][0] @ q['b'][0], (long @ short).T, rtol=1e-5)
  k = found['dit_low']['blocks']['attn2']['to_k']
  np.testing.assert_allclose(k['a'][0] @ k['b'][0], (up @ down).T, rtol=1e-5)
  assert not k['b'][1].any()
  model = networks.Networks(config, tiny.params(config))
  with pytest.raises(
    ValueError, match='adapts a dit_low, which the model does'
  ):
    networks.adapt(model, tmp_path / 'other.safetensors')


@pytest.mark.parametrize('prefix', ['transformer.', ''])
def test_alpha_and_rank_of_a_header_are_the_scale(tmp_path, prefix):
  config = tiny.config().model
  down, up = np.ones((4, config.width), 'f4'), np.ones((config.width, 4), 'f4')
  name = f'{prefix}blocks.0.attn1.to_q'
  both = {f'{name}.lora_A.weight': down, f'{name}.lora_B.weight': up}
  file = tmp_path / 'said.safetensors'

  def read(**said):
    said = {prefix + key: value for key, value in said.items()}
    header = {'format': 'pt', 'lora_adapter_metadata': json.dumps(said)}
    safetensors.numpy.save_file(both, file, header)
    return adapters.read(file, config)['dit']['blocks']['attn1']['to_q']['b']

  np.testing.assert_array_equal(read(r=4, lora_alpha=8)[0], 2.0)
  np.testing.assert_array_equal(read()[0], 1.0)
  for said in (dict(r=4), dict(r=0, lora_alpha=1), dict(use_rslora=True)):
    with pytest.raises(ValueError, match='lora_adapter_metadata of its header'):
      read(**said)


def test_of_two_experts_it_must_be_said_which_is_adapted(tmp_path):
  config = tiny.config()
  params = tiny.params(config)
  model = networks.Networks(config, params | {'dit_low': params['dit']})
  adapters.write(tmp_path, adapters_of(config), 'float32')
  with pytest.raises(ValueError, match='does not say which of two experts'):
    networks.adapt(model, tmp_path / f'{adapters.STEM}.safetensors')


@pytest.mark.parametrize(
  ('tensors', 'words'),
  [
    ({'text.q.lora_A.weight': (2, 4)}, 'text.q.lora_A.weight is no adapter of'),
    (
      {'blocks.9.attn1.to_q.lora_A.weight': (2, 4)},
      'linear layer of the 2 blo',
    ),
    (
      {'blocks.0.attn1.norm_q.lora_A.weight': (2, 4)},
      'norm_q.lora_A.weight is',
    ),
    ({'blocks.0.attn1.to_q.alpha': ()}, 'has no adapters'),
    ({'blocks.0.attn1.to_q.lora_A.weight': (2, 4)}, 'of the same layers'),
    (
      {
        'blocks.0.attn1.to_q.lora_A.weight': (2, 4),
        'blocks.0.attn1.to_q.lora_B.weight': (4, 3),
      },
      'layer 0 has lora_A .* whose ranks must be the same',
    ),
    (
      {
        'blocks.0.attn1.to_q.lora_A.weight': (2, 4),
        'blocks.0.attn1.to_q.lora_B.weight': (4, 2),
      },
      'is of another size of DiT',
    ),
  ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, tensors, words):
  config = tiny.config()
  file = tmp_path / 'bad.safetensors'
  stored = {name: np.ones(s, np.float32) for name, s in tensors.items()}
  safetensors.numpy.save_file(stored, file)
  model = networks.Networks(config, tiny.params(config, 'dit'))
  with pytest.raises(ValueError, match=words):
    networks.adapt(model, file)


def test_every_linear_layer_of_a_block_has_a_name_in_files():
  config = tiny.config()
  kernels = {
    '.'.join(path[:-1])
    for path in traverse_util.flatten_dict(networks.abstract(config, 'dit'))
    if path[0] == 'blocks' and path[-1] == 'kernel'
  }
  assert set(adapters._MODULES.values()) == kernels
  assert directory.KINDS['dit'].folder in adapters.NETWORKS
