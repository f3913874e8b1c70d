"""Attention of rows that hold one clip, by what computes it on a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax.models import attention, flash

ONE = np.repeat([[2, 0], [1, 1]], [30, 10], axis=1)  # ends early; is full
SEVERAL = np.repeat([[1, 2, 0], [1, 1, 1]], [10, 20, 10], axis=1)


def draw():
  keys = jax.random.split(jax.random.key(0), 3)
  return [jax.random.normal(key, (2, 40, 3, 8)) for key in keys]


def refuse(q, k, v, segment):
  """Numbers that no attention has."""
  del k, segment
  return q + 100.0 * v


attend = functools.partial(
  flash.attend, scale=0.2, otherwise=refuse, implementation='xla'
)


def test_a_row_of_one_clip_is_computed_whole():
  q, k, v = draw()
  segment = jnp.asarray(ONE)
  got = jax.jit(attend)(q, k, v, segment)
  expected = attention.attend(q, k, v, segment, segment, scale=0.2)
  np.testing.assert_allclose(got, expected, atol=1e-6)
  assert not got[0, 30:].any()


def test_its_gradients_are_those_of_other_platforms():
  q, k, v = draw()
  segment = jnp.asarray(ONE)
  loss = lambda way: lambda q, k, v: jnp.sum(jnp.sin(way(q, k, v)))
  one = lambda q, k, v: attend(q, k, v, segment)
  other = lambda q, k, v: attention.attend(q, k, v, segment, segment, scale=0.2)
  got, expected = (
    jax.jit(jax.grad(loss(way), (0, 1, 2)))(q, k, v) for way in (one, other)
  )
  for a, b in zip(got, expected, strict=True):
    assert jnp.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_rows_of_several_clips_take_the_other_way():
  q, k, v = draw()
  got = attend(q, k, v, jnp.asarray(SEVERAL))
  np.testing.assert_array_equal(got, refuse(q, k, v, None))


@pytest.mark.parametrize(
  ('row', 'one'),
  [
    ([3, 3, 3, 3], True),
    ([1, 1, 0, 0], True),
    ([0, 0, 0, 0], True),
    ([1, 1, 2, 2], False),
    ([1, 0, 1, 1], False),
    ([0, 1, 1, 1], False),
  ],
)
def test_a_row_is_one_clip_if_nothing_comes_between_or_after(row, one):
  assert flash.is_one(jnp.asarray([row]))[0] == one


@pytest.mark.parametrize(
  ('dtype', 'features', 'fits'),
  [
    (jnp.bfloat16, 128, True),
    (jnp.float16, 64, True),
    (jnp.float32, 128, False),
    (jnp.bfloat16, 12, False),
    (jnp.bfloat16, 256, False),
  ],
)
def test_what_the_kernel_can_take(monkeypatch, dtype, features, fits):
  q = jax.ShapeDtypeStruct((1, 8, 2, features), dtype)
  assert not flash.can(q)  # a CPU has none
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert flash.can(q) == fits
