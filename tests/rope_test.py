import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax.models import rope


@pytest.fixture
def position():
  """Positions of two rows of five tokens, far and near."""
  generator = np.random.default_rng(0)
  return jnp.asarray(generator.integers(0, 1000, size=(2, 5, 3)), jnp.int32)


@pytest.fixture
def x():
  """Two rows of five tokens, three heads of 32 features."""
  return jax.random.normal(jax.random.key(1), (2, 5, 3, 32))


def as_complex(x):
  """Neighbouring features as real and imaginary parts, in float64."""
  x = np.asarray(x, np.float64)
  return x[..., 0::2] + 1j * x[..., 1::2]


@jax.jit
def rotated(x, position):
  return rope.rotate(x, rope.rotations(position, x.shape[-1]))


def test_features_are_shared_as_in_wan():
  assert rope.axis_features(128) == (44, 42, 42)
  for head_dim in range(6, 130, 2):
    features = rope.axis_features(head_dim)
    assert sum(features) == head_dim
    assert all(f > 0 and f % 2 == 0 for f in features)


def test_each_pair_is_a_complex_number_turned_by_its_axis(x, position):
  frequency = [
    [10000 ** (-2 * i / f) for i in range(f // 2)]
    for f in rope.axis_features(32)
  ]
  angle = np.concatenate(
    [
      np.asarray(position, np.float64)[..., axis : axis + 1] * frequency[axis]
      for axis in range(3)
    ],
    axis=-1,
  )
  expected = as_complex(x) * np.exp(1j * angle)[:, :, None]
  # Rounding alone: the angles themselves are right at any position.
  np.testing.assert_allclose(
    as_complex(rotated(x, position)), expected, atol=2e-6
  )


def test_scores_depend_on_differences_of_positions_only(x, position):
  q, k = x[:, :, 0:1], x[:, :, 1:2]

  def scores(shift):
    shift = jnp.asarray(shift, jnp.int32)[None, None]
    return jnp.einsum(
      'BNAK,BLAK->BNL',
      rotated(q, position + shift),
      rotated(k, position + shift),
    )

  near, far = scores([0, 0, 0]), scores([3, 17, 23])
  np.testing.assert_allclose(near, far, atol=2e-5)
  still = jnp.einsum('BNAK,BLAK->BNL', q, k)
  assert np.abs(near - still).max() > 1


def test_the_origin_is_not_turned(x):
  origin = jnp.zeros((2, 5, 3), jnp.int32)
  np.testing.assert_array_equal(rotated(x, origin), x)


def test_a_position_off_the_tables_is_not_taken_for_another(x):
  position = jnp.zeros((2, 5, 3), jnp.int32).at[0, 0, 1].set(rope.MAX_POSITION)
  lost = np.isnan(rotated(x, position)).any(axis=(2, 3))
  np.testing.assert_array_equal(lost, np.arange(10).reshape(2, 5) == 0)


def test_bfloat16_is_turned_in_float32(x, position):
  x = x.astype(jnp.bfloat16)
  y = rotated(x, position)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    y, rotated(x.astype(jnp.float32), position).astype(jnp.bfloat16)
  )
