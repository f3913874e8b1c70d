"""The TPU's kernel, interpreted on the CPU, computes the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from sora_jax import sharding
from sora_jax.models import attention, splash

kernel = functools.partial(splash.attend, scale=0.2, tile=128, interpret=True)


def attend(q, k, v, segment):
  return kernel(q, k, v, segment, segment)


def draw(tokens=200, heads=2, features=128, rows=2):
  keys = jax.random.split(jax.random.key(0), 3)
  shape = (rows, tokens, heads, features)
  return [jax.random.normal(key, shape) for key in keys]


def packed():
  """Of three clips and an empty end, and of a whole row."""
  row = np.repeat([1, 2, 3, 0], [60, 90, 30, 20])
  return jnp.asarray(np.stack([row, np.ones_like(row)]))


def test_it_is_the_attention_of_other_platforms():
  q, k, v = draw()
  y = jax.jit(attend)(q, k, v, packed())
  expected = attention.attend(q, k, v, packed(), packed(), scale=0.2)
  np.testing.assert_allclose(y, expected, atol=1e-5)
  assert not y[0, 180:].any()
  assert jnp.abs(expected[0, :180]).max() > 1


def test_so_are_its_gradients():
  def loss(attend, q, k, v):
    return jnp.sum(jnp.sin(attend(q, k, v)))

  one = lambda q, k, v: attend(q, k, v, packed())
  other = lambda q, k, v: attention.attend(
    q, k, v, packed(), packed(), scale=0.2
  )
  got, expected = (
    jax.jit(jax.grad(functools.partial(loss, way), (0, 1, 2)))(*draw())
    for way in (one, other)
  )
  for a, b in zip(got, expected, strict=True):
    assert jnp.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize('platform', ['tpu', 'cpu'])
def test_rows_heads_and_tokens_are_shared_out(monkeypatch, platform):
  if platform == 'tpu':
    take = lambda *inputs, tpu, **others: tpu(*inputs)
    monkeypatch.setattr(jax.lax, 'platform_dependent', take)
    monkeypatch.setattr(splash, 'attend', kernel)
  monkeypatch.setattr(attention, 'MOST_SCORES', 1)

  def loss(q, k, v):
    y = attention.attend(q, k, v, segments, segments, scale=0.2)
    return jnp.sum(jnp.sin(y)), y

  segments = packed()
  step = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
  expected, alone = step(*draw())
  mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, context=2, tensor=2))
  with sharding.use(mesh):
    place = NamedSharding(mesh, P(('data', 'fsdp'), 'context', 'tensor'))
    got, y = step(*jax.device_put(draw(), place))
    program = str(jax.make_jaxpr(step)(*draw()))
  assert program.count('reduce_scatter[') == 2  # of keys and of values
  assert y.sharding.shard_shape(y.shape) == (1, 100, 1, 128)
  np.testing.assert_allclose(y, alone, atol=1e-6)
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_sampler_that_shares_out_clips_itself_can_have_long_rows(monkeypatch):
  """`paint` runs the network on what each device has."""
  monkeypatch.setattr(attention, 'MOST_SCORES', 1)
  q, k, v = draw(rows=16)
  segment = jnp.tile(packed(), (8, 1))
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


def test_tiles_between_clips_are_left_out():
  """Numbers that are none would spread from a tile that runs, masked or not."""
  row = jnp.asarray(np.repeat([1, 2, 3, 0], [128, 200, 100, 84])[None])
  q, k, v = draw(tokens=512, rows=1)
  # In the last tile, which the third sees, and the first two do not.
  k, v = (x.at[:, 384:].set(jnp.nan) for x in (k, v))

  def loss(q, k, v):
    y = attend(q, k, v, row)
    return jnp.sum(jnp.sin(y[:, :256])), y

  dq, dk, dv = jax.jit(jax.grad(lambda *x: loss(*x)[0], (0, 1, 2)))(q, k, v)
  _, y = loss(q, k, v)
  assert jnp.isfinite(y[:, :256]).all() and jnp.isnan(y[:, 256:428]).all()
  for part in (dq[:, :256], dk[:, :128], dv[:, :128]):
    assert jnp.isfinite(part).all() and jnp.abs(part).max() > 0.1


def written(table):
  return ' '.join(''.join(str(int(cell)) for cell in line) for line in table)


def plan(queries, keys):
  """Of segments, a digit each, two to a tile."""
  rows = (jnp.asarray([int(cell) for cell in row]) for row in (queries, keys))
  return splash.plan(*rows, 2)


@pytest.mark.parametrize(
  ('row', 'run', 'keys'),
  [
    ('11112222', '1100 1100 0011 0011', '0111 0111 2223 2223'),
    ('11122233', '1100 1110 0110 0001', '0111 0122 1122 3333'),
    ('111122', '110 110 001', '011 011 222'),
    # What is empty sees one tile, and nothing sees it.
    ('11100000', '1100 1100 1000 1000', '0111 0111 0000 0000'),
    # Clips that are no runs are seen too; more may run than has to.
    ('211233', '110 110 001', '011 011 222'),
    ('1322', '11 11', '01 01'),
  ],
)
def test_a_tile_runs_where_segments_meet(row, run, keys):
  found = plan(row, row)
  assert [written(found.run), written(found.keys)] == [run, keys]


def test_a_part_of_a_row_sees_the_keys_of_all_of_it():
  found = plan('112333', '11112233')
  assert written(found.run) == '1100 0011 0001'
  assert written(found.keys) == '0111 2223 3333'
  # By keys, a column each: none of the second queries for the first keys.
  assert written(found.queries.T) == '000 000 111 112'
  # No query sees the first three, and none is fetched for them but one.
  assert written(plan('3333', '11112233').queries.T) == '00 00 00 01'


def test_a_row_of_too_many_tiles_is_refused():
  shape = lambda *rest: jax.ShapeDtypeStruct((1, 2**19 + 1, *rest), jnp.float32)
  row = jax.ShapeDtypeStruct((1, 2**19 + 1), jnp.int32)
  with pytest.raises(ValueError, match='over a larger mesh.context'):
    jax.eval_shape(
      functools.partial(splash.attend, scale=1.0),
      *(shape(1, 128), shape(1, 128), shape(1, 128)),
      *(row, row),
    )
