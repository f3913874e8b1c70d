"""A step taken twice: what it notices, and that it changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from sora_jax import replay


@pytest.fixture
def state():
  keys = jax.random.split(jax.random.key(0), 3)
  params = {
    'kernel': jax.random.normal(keys[0], (16, 8)),
    'half': jax.random.normal(keys[1], (32,), jnp.bfloat16),
  }
  opt = optax.adam(1e-2).init(params)
  return dict(step=jnp.int32(3), trainable=params, opt=opt)


def differing(tree, other):
  return replay._differing(replay._equal(tree, other))


def flip(tree, rng):
  """One bit of one number of one leaf, as a particle would."""
  leaves, structure = jax.tree.flatten(tree)
  chosen = rng.integers(len(leaves))
  whole = np.array(leaves[chosen]).reshape(-1)
  bits = whole.view(np.dtype(f'uint{8 * whole.itemsize}'))
  bits[rng.integers(bits.size)] ^= 1 << int(rng.integers(8 * whole.itemsize))
  shape = leaves[chosen].shape
  leaves[chosen] = jnp.asarray(whole.reshape(shape))
  return jax.tree.unflatten(structure, leaves), chosen


def test_every_flipped_bit_is_noticed_and_its_tensor_named(state):
  rng = np.random.default_rng(0)
  paths = [
    jax.tree_util.keystr(path)
    for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]
  ]
  for _ in range(100):
    flipped, chosen = flip(state, rng)
    assert differing(state, flipped) == [paths[chosen]]


def test_equal_bits_are_equal_though_they_are_nan(state):
  state['trainable']['kernel'] = jnp.full((16, 8), jnp.nan)
  same = jax.tree.map(jnp.copy, state)
  assert differing(state, same) == []
  zero = dict(state, step=jnp.float32(0.0))
  assert differing(zero, dict(zero, step=jnp.float32(-0.0)))


def test_a_step_that_is_taken_twice_is_the_step(state):
  step_fn = jax.jit(
    lambda state, batch: (
      jax.tree.map(lambda x: x * 2 + batch.astype(x.dtype), state),
      batch.sum(),
    ),
    donate_argnums=0,
  )
  expected = step_fn(replay._copy(state), jnp.float32(1.0))
  found, equal = replay.twice(step_fn, state, jnp.float32(1.0))
  replay.check(equal, 7)
  assert differing(expected, found) == []


def test_a_step_that_differs_the_second_time_stops_the_run(state):
  calls = []

  def step_fn(state, batch):
    calls.append(batch)
    if len(calls) == 2:
      kernel = state['trainable']['kernel'].at[3, 4].add(1e-6)
      state = state | {'trainable': state['trainable'] | {'kernel': kernel}}
    return state, batch

  _, equal = replay.twice(step_fn, state, jnp.float32(0))
  with pytest.raises(replay.SilentCorruption) as error:
    replay.check(equal, 12)
  assert 'step 12' in str(error.value)
  assert "in 1 tensors: [0]['trainable']['kernel'];" in str(error.value)


def mesh_of(**axes):
  kinds = (jax.sharding.AxisType.Auto,) * len(axes)
  return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds)


def test_a_bit_on_one_of_eight_devices_is_noticed():
  sharding = NamedSharding(mesh_of(x=8), P('x'))
  values = np.arange(64, dtype=np.float32)
  wrong = values.copy()
  wrong[61] = np.nextafter(wrong[61], 100)
  place = lambda x: {'w': jax.device_put(x, sharding)}
  assert differing(place(values), place(values)) == []
  assert differing(place(values), place(wrong)) == ["['w']"]


@pytest.mark.parametrize('bad', [0, 5, 7])
@pytest.mark.parametrize('spec', [P(), P('fsdp'), P(None, ('fsdp',))])
def test_a_copy_that_differs_from_the_others_is_noticed(bad, spec):
  """Of two runs that agree, too: a chip may be wrong in the same way twice."""
  mesh = mesh_of(data=2, fsdp=4)
  sharding = NamedSharding(mesh, spec)
  values = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)

  def place(wrong):
    parts = []
    for i, device in enumerate(mesh.devices.flat):
      part = values[sharding.devices_indices_map((8, 8))[device]].copy()
      if wrong and i == bad:
        part.reshape(-1)[3] = np.nextafter(part.reshape(-1)[3], 100)
      parts.append(jax.device_put(part, device))
    whole = jax.make_array_from_single_device_arrays((8, 8), sharding, parts)
    step = jax.device_put(np.int32(1), NamedSharding(mesh, P()))
    return {'step': step, 'w': whole}

  assert differing(place(False), place(False)) == []
  assert differing(place(False), place(True)) == ["['w']"]
  assert differing(place(True), place(True)) == ["['w']"]
