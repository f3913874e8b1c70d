"""Attention of rows that hold one clip, by what computes it on a GPU."""

import functools
import types

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


def refuse(q, k, v, *unused):
  """Numbers that no attention has."""
  return q + 100.0 * v.mean(1, keepdims=True)


attend = functools.partial(
  flash.attend, scale=0.2, otherwise=refuse, implementation='xla'
)


def test_a_row_of_one_clip_is_computed_whole():
  q, k, v = draw()
  segment = jnp.asarray(ONE)
  got = jax.jit(attend)(q, k, v, segment, segment)
  expected = attention.attend(q, k, v, segment, segment, scale=0.2)
  np.testing.assert_allclose(got, expected, atol=1e-6)
  assert not got[0, 30:].any()


def test_its_gradients_are_those_of_other_platforms():
  q, k, v = draw()
  segment = jnp.asarray(ONE)
  loss = lambda way: lambda q, k, v: jnp.sum(jnp.sin(way(q, k, v)))
  one = lambda q, k, v: attend(q, k, v, segment, segment)
  other = lambda q, k, v: attention.attend(q, k, v, segment, segment, scale=0.2)
  got, expected = (
    jax.jit(jax.grad(loss(way), (0, 1, 2)))(q, k, v) for way in (one, other)
  )
  for a, b in zip(got, expected, strict=True):
    assert jnp.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_rows_of_several_clips_take_the_other_way():
  q, k, v = draw()
  segment = jnp.asarray(SEVERAL)
  got = attend(q, k, v, segment, segment)
  np.testing.assert_allclose(got, refuse(q, k, v), atol=1e-4)


def test_empty_slots_do_not_reach_the_gradients():
  """Whatever a kernel leaves there."""
  q, k, v = draw()
  segment = jnp.asarray(ONE).at[1].set(0)  # a row with nothing in it
  spoil = lambda x: jnp.where(segment[..., None, None] > 0, x, jnp.nan)
  one = lambda q, k, v: jnp.sum(jnp.sin(attend(q, k, v, segment, segment)))
  y = attend(spoil(q), spoil(k), spoil(v), segment, segment)
  assert not y[0, 30:].any() and not y[1].any()
  for g in jax.grad(one, (0, 1, 2))(spoil(q), spoil(k), spoil(v)):
    assert jnp.isfinite(g).all() and g[0, :30].any() and not g[1].any()


def caption(rows, copies):
  """Queries of a clip, keys of its caption, and copies of the last of them."""
  q, k, v = draw()
  segment_q = jnp.ones((2, 40), int)
  segment_k = jnp.asarray([[1] * n + [0] * (10 - n) for n in rows])
  copies = jnp.tile(jnp.asarray(copies, jnp.float32)[:, None], (1, 40))
  return q, k[:, :10], v[:, :10], segment_q, segment_k, copies


@pytest.mark.parametrize('rows', [(4, 6), (0, 9)])
def test_copies_of_the_last_key_are_so_many_keys(rows):
  inputs = caption(rows, [10 - n for n in rows])
  assert flash.is_one(*inputs[3:]).all()
  expected = attention.attend(*inputs[:5], copies=inputs[5], scale=0.2)
  np.testing.assert_allclose(attend(*inputs), expected, atol=1e-6)


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
  segment = jnp.asarray([row])
  assert flash.is_one(segment, segment)[0] == one


def test_queries_hear_one_caption_that_is_theirs_and_fits():
  *_, segment_q, segment_k, copies = caption((4, 6), (6, 4))
  whole = functools.partial(flash.is_one, segment_q)
  assert not whole(2 * segment_k).any()  # another's
  assert not whole(segment_k, copies.at[:, 7].add(1)).any()
  np.testing.assert_array_equal(
    whole(segment_k, copies + jnp.asarray([[0], [1]])), [1, 0]
  )
  empty = segment_q.at[:, 7:].set(0)  # whose copies do not count
  assert flash.is_one(empty, segment_k, copies.at[:, 7].add(1)).all()


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
  q = jnp.zeros((1, 8, 2, features), dtype)
  assert not flash.can(q)  # a CPU has none
  for platform, capability, has in [
    ('cuda 13000', '9.0', True),
    ('cuda 13000', '12.1', True),
    ('cuda 13000', '7.5', False),
    ('rocm 70000', 'gfx942', False),
  ]:
    device = types.SimpleNamespace(
      platform='gpu',
      client=types.SimpleNamespace(platform_version=platform),
      compute_capability=capability,
    )
    monkeypatch.setattr(jax, 'local_devices', lambda device=device: [device])
    assert flash.can(q) == (fits and has)
