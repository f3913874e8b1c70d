import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import AxisType, PartitionSpec as P

from sora_jax import batch, sharding

MESHES = [
  sharding.MeshConfig(),
  sharding.MeshConfig(fsdp=8),
  sharding.MeshConfig(data=2, fsdp=4),
  sharding.MeshConfig(fsdp=2, context=2, tensor=2),
  sharding.MeshConfig(data=1, fsdp=2, tensor=4),
]


class Net(nn.Module):
  """A parameter of each kind: sharded, odd in size, stacked, unnamed."""

  heads: int = 8

  @nn.compact
  def __call__(self, x):
    def param(name, axes, shape):
      init = nn.with_logical_partitioning(nn.initializers.normal(1.0), axes)
      return self.param(name, init, shape)

    q = param('q', ('embed', 'heads'), (16, self.heads))
    out = param('out', ('layers', 'heads', 'embed'), (3, self.heads, 16))
    bias = param('bias', ('embed',), (5,))
    scale = self.param('scale', nn.initializers.ones, ())
    return jnp.einsum('be,eh,lhf->bf', x, q, out) * scale + bias.sum()


def abstract(net):
  x = jnp.zeros((8, 16))
  return jax.eval_shape(net.init, jax.random.key(0), x)['params']


@pytest.mark.parametrize('config', MESHES)
def test_mesh_has_four_automatic_axes_over_all_devices(config):
  mesh = sharding.make_mesh(config)
  assert mesh.axis_names == ('data', 'fsdp', 'context', 'tensor')
  assert math.prod(mesh.shape.values()) == 8
  assert set(mesh.axis_types) == {AxisType.Auto}
  assert mesh.shape['fsdp'] == config.fsdp
  assert len(set(mesh.devices.flat)) == 8


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ({'fsdp': 3}, 'fsdp=3.* multiple of 3 devices.* 8'),
    ({'data': 2, 'tensor': 2}, 'data=2.* needs 4 devices.* 8'),
    ({'fsdp': 16}, 'multiple of 16 devices.* 8'),
    ({'fsdp': 0}, 'fsdp=0 must be at least 1'),
    ({'data': -2}, 'data=-2 must be at least 1'),
  ],
)
def test_sizes_that_do_not_fit_the_devices_are_named(sizes, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(sharding.MeshConfig(**sizes))


@dataclasses.dataclass(frozen=True)
class Chip:
  """Stands in for a TPU chip of a line of eight, as `mesh_utils` sees one."""

  id: int
  platform: str = 'tpu'
  device_kind: str = 'TPU v4'
  core_on_chip: int = 0

  @property
  def process_index(self):
    return self.id // 4

  @property
  def slice_index(self):
    return self.id // 8

  @property
  def coords(self):
    return (self.id % 8, 0, 0)


def test_only_the_data_axis_crosses_slices():
  config = sharding.MeshConfig(fsdp=2, tensor=2)
  mesh = sharding.make_mesh(config, [Chip(i) for i in range(16)])
  assert tuple(mesh.shape.values()) == (4, 2, 1, 2)
  for row in mesh.devices:
    assert len({device.slice_index for device in row.flat}) == 1


def test_data_must_cover_the_slices():
  with pytest.raises(ValueError, match='data=1 .* 2 slices'):
    sharding.make_mesh(
      sharding.MeshConfig(fsdp=16), [Chip(i) for i in range(16)]
    )


def test_names_become_mesh_axes_by_the_table():
  mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=2))
  specs = jax.tree.map(
    lambda s: s.spec, sharding.param_shardings(abstract(Net()), mesh)
  )
  assert specs == {
    'q': P('fsdp', 'tensor'),
    'out': P(None, 'tensor', 'fsdp'),
    'bias': P(None),  # 5 is not a multiple of 2: kept whole
    'scale': P(),
  }


@pytest.mark.parametrize('config', MESHES)
def test_sharded_creation_gives_the_numbers_of_one_device(config):
  mesh = sharding.make_mesh(config)
  net, x = Net(), jnp.ones((8, 16))
  init = lambda key: nn.unbox(net.init(key, x))['params']
  expected = init(jax.random.key(1))
  shardings = sharding.param_shardings(abstract(net), mesh)
  with sharding.use(mesh):
    params = jax.jit(init, out_shardings=shardings)(jax.random.key(1))
    y = jax.jit(net.apply)({'params': params}, sharding.shard_batch(x, mesh))
  jax.tree.map(np.testing.assert_array_equal, params, expected)
  assert jax.tree.map(lambda p: p.sharding, params) == shardings
  np.testing.assert_allclose(
    y, net.apply({'params': expected}, x), rtol=1e-4, atol=1e-4
  )


def test_heads_that_the_tensor_axis_does_not_divide_are_named_with_what_fits():
  mesh = sharding.make_mesh(sharding.MeshConfig(tensor=4))
  with pytest.raises(ValueError, match='heads of 6 .* tensor=4.*1, 2, 3, 6'):
    sharding.param_shardings(abstract(Net(heads=6)), mesh)


def test_an_unknown_axis_name_lists_the_names():
  box = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((4,), 'float32'), ('hat',))
  mesh = sharding.make_mesh(sharding.MeshConfig())
  with pytest.raises(ValueError, match="layer/w .*'hat'.*'embed'"):
    sharding.param_shardings({'layer': {'w': box}}, mesh)


def test_optimizer_and_average_lie_as_the_parameters():
  mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=2))
  boxed = abstract(Net())
  params, shardings = nn.unbox(boxed), sharding.param_shardings(boxed, mesh)
  optimizer = optax.masked(optax.adamw(1e-3), {n: n != 'scale' for n in params})
  state = {
    'step': jax.ShapeDtypeStruct((), 'int32'),
    'ema': params,
    'opt': jax.eval_shape(optimizer.init, params),
  }
  placed = sharding.state_shardings(state, params, shardings, mesh)
  assert jax.tree.structure(placed) == jax.tree.structure(state)
  assert placed['step'].spec == P()
  assert placed['ema'] == shardings
  adam = placed['opt'].inner_state[0]
  assert adam.count.spec == P()
  assert adam.mu['q'] == adam.nu['q'] == shardings['q']


def test_statistics_of_another_shape_are_replicated():
  mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2))
  boxed = {
    'w': nn.LogicallyPartitioned(
      jax.ShapeDtypeStruct((256, 512), 'float32'), ('embed', 'mlp')
    )
  }
  params, shardings = nn.unbox(boxed), sharding.param_shardings(boxed, mesh)
  state = jax.eval_shape(optax.adafactor(1e-3).init, params)
  placed = sharding.state_shardings(state, params, shardings, mesh)
  shapes = {leaf.spec for leaf in jax.tree.leaves(placed)}
  assert shapes == {P()}


def test_a_longer_path_is_preferred_to_its_ending():
  mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2))
  leaf = jax.ShapeDtypeStruct((4,), 'float32')
  params = {'bias': leaf, 'head': {'bias': leaf}}
  split = jax.sharding.NamedSharding(mesh, P('fsdp'))
  whole = sharding.replicated(mesh)
  shardings = {'bias': split, 'head': {'bias': whole}}
  placed = sharding.state_shardings({'mu': params}, params, shardings, mesh)
  assert placed['mu'] == shardings


@pytest.mark.parametrize('config', MESHES)
def test_a_batch_is_shared_out_by_rows_and_kept_whole(config):
  mesh = sharding.make_mesh(config)
  pack = batch.Pack(*(None for _ in batch.Pack._fields))._replace(
    tokens=np.arange(8 * 6 * 2, dtype=np.float32).reshape(8, 6, 2),
    segment=np.ones((8, 6), np.int32),
  )
  placed = sharding.shard_batch(pack, mesh)
  np.testing.assert_array_equal(placed.tokens, pack.tokens)
  assert placed.text is None
  rows = 8 // (mesh.shape['data'] * mesh.shape['fsdp'])
  assert placed.tokens.addressable_shards[0].data.shape == (rows, 6, 2)
  np.testing.assert_array_equal(sharding.process_rows(8, mesh), np.arange(8))


def test_rows_that_cannot_be_shared_out_are_named():
  mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=4))
  with pytest.raises(ValueError, match='12 rows .* = 8'):
    sharding.process_rows(12, mesh)


def test_logical_names_of_activations_work_inside_a_mesh():
  mesh = sharding.make_mesh(sharding.MeshConfig(data=2, context=4))

  @jax.jit
  def spread(x):
    return nn.with_logical_constraint(x, ('batch', 'tokens', None))

  with sharding.use(mesh):
    placed = spread(jnp.zeros((4, 8, 3)))
  assert placed.sharding.shard_shape(placed.shape) == (2, 2, 3)


def test_work_of_the_first_process_fails_on_all(monkeypatch):
  def refuse():
    raise KeyError('why')

  sharding.on_first(lambda: None, 'work')
  with pytest.raises(KeyError, match='why'):
    sharding.on_first(refuse, 'work')
  # On the second of two, which does not do it, and hears how it went.
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  hears = lambda failed: monkeypatch.setattr(
    sharding.multihost_utils, 'broadcast_one_to_all', lambda told: failed
  )
  hears(False)
  sharding.on_first(refuse, 'work')
  hears(True)
  with pytest.raises(ValueError, match='work failed on process 0'):
    sharding.on_first(refuse, 'work')
