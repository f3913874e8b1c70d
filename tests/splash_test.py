"""The TPU's kernel computes the same, and its programs keep no scores.

The kernel is interpreted on the CPU. Programs for TPUs are compiled where
libtpu is installed, which needs none to be there.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec as P

from sora_jax import sharding
from sora_jax.models import attention, dit, splash

attend = functools.partial(splash.attend, scale=0.2, tile=128, interpret=True)


def draw(tokens=200, heads=2, features=128, rows=2):
  keys = jax.random.split(jax.random.key(0), 3)
  shape = (rows, tokens, heads, features)
  return [jax.random.normal(key, shape) for key in keys]


def segments():
  """Of three clips and an empty end, and of a whole row."""
  row = np.repeat([1, 2, 3, 0], [60, 90, 30, 20])
  return jnp.asarray(np.stack([row, np.ones_like(row)]))


def test_it_is_the_attention_of_other_platforms():
  q, k, v = draw()
  y = jax.jit(attend)(q, k, v, segments())
  expected = attention.attend(q, k, v, segments(), segments(), scale=0.2)
  np.testing.assert_allclose(y, expected, atol=1e-5)
  assert not y[0, 180:].any()
  assert jnp.abs(expected[0, :180]).max() > 1


def test_so_are_its_gradients():
  def loss(attend, q, k, v):
    return jnp.sum(jnp.sin(attend(q, k, v)))

  one = lambda q, k, v: attend(q, k, v, segments())
  other = lambda q, k, v: attention.attend(
    q, k, v, segments(), segments(), scale=0.2
  )
  got, expected = (
    jax.jit(jax.grad(functools.partial(loss, way), (0, 1, 2)))(*draw())
    for way in (one, other)
  )
  for a, b in zip(got, expected, strict=True):
    assert jnp.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_rows_and_heads_are_shared_out():
  shape = sharding.MeshConfig(data=1, fsdp=2, tensor=2)
  mesh = sharding.make_mesh(shape, jax.devices()[:4])
  alone = attend(*draw(), segments())
  with sharding.use(mesh):
    place = NamedSharding(mesh, P(('data', 'fsdp'), None, 'tensor'))
    parts = jax.device_put(draw(), place)
    y = jax.jit(attend)(*parts, segments())
  assert y.sharding.shard_shape(y.shape) == (1, 200, 1, 128)
  np.testing.assert_allclose(y, alone, atol=1e-6)


def test_a_sampler_that_shares_out_clips_itself_can_have_long_rows(monkeypatch):
  """`paint` runs the network on what each device has."""
  monkeypatch.setattr(attention, 'MOST_SCORES', 1)
  q, k, v = draw(rows=16)
  segment = jnp.tile(segments(), (8, 1))
  alone = attention.attend(q, k, v, segment, segment)
  mesh = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2))
  with sharding.use(mesh):
    rows = P(('data', 'fsdp'))
    run = jax.shard_map(
      lambda q, k, v, s: attention.attend(q, k, v, s, s),
      in_specs=(rows,) * 4,
      out_specs=rows,
      check_vma=False,
    )
    y = jax.jit(run)(q, k, v, segment)
  np.testing.assert_allclose(y, alone, atol=1e-6)


@pytest.fixture
def chips():
  """Eight chips of a v5p, to compile for."""
  pytest.importorskip('libtpu')
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name='v5p:2x2x2'
  )
  return topology.devices


def test_no_scores_are_kept_on_a_tpu(chips):
  mesh = sharding.make_mesh(
    sharding.MeshConfig(data=2, fsdp=2, tensor=2), chips
  )
  shape = (4, 8192, 4, 128)
  with sharding.use(mesh):
    place = NamedSharding(mesh, P(('data', 'fsdp'), None, 'tensor'))
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)
    row = NamedSharding(mesh, P(('data', 'fsdp')))
    segment = jax.ShapeDtypeStruct(shape[:2], jnp.int32, sharding=row)

    def loss(q, k, v, segment):
      y = attention.attend(q, k, v, segment, segment)
      return y.astype(jnp.float32).sum()

    step = jax.jit(jax.grad(loss, (0, 1, 2)))
    compiled = step.lower(x, x, x, segment).compile()
  assert 'splash' in compiled.as_text()
  scores = 4 * 8192 * 8192 * 2  # of a chip's two heads
  assert compiled.memory_analysis().temp_size_in_bytes < scores / 4


def test_the_1_3b_model_samples_480p_within_8_gb_of_a_tpu(chips):
  """One evaluation of 81 frames, bf16 weights, batch 1."""
  config = dit.DiTConfig(**dit.SIZES['1.3b'])
  N, L = 21 * 30 * 52, 512
  mesh = sharding.make_mesh(sharding.MeshConfig(), chips[:1])
  with sharding.use(mesh):
    here = NamedSharding(mesh, P())
    abstract = lambda dtype, *shape: jax.ShapeDtypeStruct(
      shape, dtype, sharding=here
    )
    params = jax.eval_shape(lambda: dit.init(config, jax.random.key(0)))
    params = jax.tree.map(
      lambda x: abstract(jnp.bfloat16, *x.shape), sharding.unbox(params)
    )
    run = jax.jit(
      lambda params, *inputs: dit.SpacetimeDiT(config).apply(
        {'params': params}, *inputs
      )
    )
    compiled = run.lower(
      params,
      abstract(jnp.float32, 1, N, 64),
      abstract(jnp.float32, 1, 1),
      abstract(jnp.int32, 1, N, 3),
      abstract(jnp.int32, 1, N),
      abstract(jnp.int32, 1, N),
      abstract(jnp.float32, 1, L, 4096),
      abstract(jnp.int32, 1, L),
      abstract(jnp.int32, 1, N),
    ).compile()
  used = compiled.memory_analysis()
  assert 2.8e9 < used.argument_size_in_bytes < 3.2e9  # 1.42 B parameters
  assert used.argument_size_in_bytes + used.temp_size_in_bytes < 8e9
