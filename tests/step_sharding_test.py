"""A train step on eight devices, along data and fsdp, and on one."""

import jax
import numpy as np
import pytest
import tiny

from sora_jax import optimizer, problems, program, sharding, state as state_lib
from sora_jax.models import attention

MESHES = [
  dict(data=8),
  dict(fsdp=8),
  dict(data=2, fsdp=4),
]
STEPS = 3


@pytest.fixture(scope='module')
def problem(tmp_path_factory):
  """A diffusion run over latents of three sizes, as all hosts see it."""
  folder = tmp_path_factory.mktemp('places')
  model = tiny.write_model(folder / 'model')
  tiny.write_latents(folder / 'latents', model.params)
  config = tiny.config(latents=str(folder / 'latents'))
  config.autoencoder_from = str(folder / 'model')
  config.optim.learning_rate = 1e-3
  rows = np.arange(config.data.limits.rows)
  return config, problems.diffusion_problem(config, folder, rows)


def run(problem, mesh):
  """Creates a state where it will lie, and steps; returns it and its sums."""
  config, stage = problem
  transform = optimizer.make_optimizer(config.optim, config.run.steps)
  create = lambda key: state_lib.initialise(
    stage.init, transform, key, start={}, frozen={}
  )
  key = jax.random.key(config.seed)
  shape = jax.eval_shape(create, key)
  where = state_lib.shardings(stage.init, shape, mesh, frozen={})
  batches = stage.open_data()
  with sharding.use(mesh):
    state = jax.jit(create, out_shardings=where)(key)
    first = jax.device_get(state['trainable'])
    step = jax.jit(
      program.make_step(config, stage, transform),
      in_shardings=(where, sharding.batch_sharding(mesh)),
      out_shardings=(where, sharding.replicated(mesh)),
    )
    history = []
    for i in range(STEPS):
      pack = sharding.shard_batch(batches(i), mesh)
      state, sums = step(state, pack)
      history.append(jax.device_get(sums))
  return first, state, history


@pytest.fixture(scope='module')
def alone(problem):
  mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
  return run(problem, mesh)


def assert_same_steps(found, alone):
  first, state, history = found
  jax.tree.map(np.testing.assert_array_equal, first, alone[0])
  for sums, expected in zip(history, alone[2], strict=True):
    # Counts are exact; so the clips and tokens of each step are the same.
    for name in ('count', 'clips'):
      assert sums[name] == expected[name]
    for name in ('loss', 'grad_norm'):
      np.testing.assert_allclose(sums[name], expected[name], rtol=2e-5)
  # Adam's first steps are the signs of the gradients, so that a parameter
  # whose gradient is rounding alone may go another way by the learning rate.
  moment = lambda state: state['opt'][1][0].mu
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-3, atol=2e-5 * np.abs(b).max() + 1e-9
    ),
    moment(state),
    moment(alone[1]),
  )


# The mesh of both kinds is in the default suite; each takes 20 s.
ALONE = [pytest.param(m, marks=pytest.mark.slow) for m in MESHES if len(m) < 2]
BOTH = [mesh for mesh in MESHES if len(mesh) == 2]


@pytest.mark.parametrize('sizes', BOTH + ALONE, ids=str)
def test_eight_devices_take_the_steps_of_one(problem, alone, sizes):
  mesh = sharding.make_mesh(sharding.MeshConfig(**sizes))
  assert_same_steps(run(problem, mesh), alone)


def test_devices_that_share_tokens_take_the_steps_of_one(
  problem, alone, monkeypatch
):
  """Where no scores are kept, as in long rows."""
  monkeypatch.setattr(attention, 'MOST_SCORES', 64)
  shape = sharding.MeshConfig(fsdp=2, context=2)
  mesh = sharding.make_mesh(shape, jax.devices()[:4])
  with sharding.use(mesh):
    x = jax.jit(attention.by_tokens)(np.ones((8, 16, 4), np.float32))
  assert x.sharding.shard_shape(x.shape) == (4, 8, 4)
  assert_same_steps(run(problem, mesh), alone)


@pytest.mark.slow
def test_two_devices_that_share_heads_take_the_steps_of_one(problem, alone):
  mesh = sharding.make_mesh(sharding.MeshConfig(tensor=2), jax.devices()[:2])
  first, state, history = run(problem, mesh)
  block = state['trainable']['dit']['blocks']
  split = lambda x: x.sharding.shard_shape(x.shape)
  assert split(block['ffn']['linear_1']['kernel']) == (2, 32, 32)
  kernel = block['attn1']['to_q']['kernel']
  assert np.prod(split(kernel)) == kernel.size / 2
  assert_same_steps((first, state, history), alone)


@pytest.mark.parametrize('sizes', MESHES[1:], ids=str)
def test_fsdp_shares_out_parameters_averages_and_moments(problem, sizes):
  mesh = sharding.make_mesh(sharding.MeshConfig(**sizes))
  config, stage = problem
  transform = optimizer.make_optimizer(config.optim, config.run.steps)
  shape = jax.eval_shape(
    lambda key: state_lib.initialise(
      stage.init, transform, key, start={}, frozen={}
    ),
    jax.random.key(0),
  )
  where = state_lib.shardings(stage.init, shape, mesh, frozen={})
  count = mesh.shape['fsdp']
  for tree in (where['trainable'], where['ema'], where['opt'][1][0].nu):
    kernel = tree['dit']['blocks']['ffn']['linear_1']['kernel']
    assert kernel.shard_shape((2, 32, 64)) == (2, 32 // count, 64)
  shares = jax.tree.map(
    lambda leaf, s: np.prod(s.shard_shape(leaf.shape)) / leaf.size,
    shape['trainable'],
    where['trainable'],
  )
  of_blocks = [
    share
    for path, share in jax.tree_util.tree_leaves_with_path(shares)
    if 'blocks' in (key.key for key in path) and path[-1].key == 'kernel'
  ]
  assert of_blocks and max(of_blocks) == 1 / count
