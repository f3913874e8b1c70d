import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax.models import attention

SEGMENT_Q = jnp.asarray([[1, 1, 2, 0, 3], [2, 2, 2, 1, 1]])
SEGMENT_K = jnp.asarray([[1, 2, 2, 0, 0, 1, 4], [1, 1, 2, 2, 0, 0, 0]])
attend = jax.jit(attention.attend, static_argnames='scale')
EMPTY = np.asarray([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], bool)  # see no key


def draw(queries=5, keys=7, heads=3, features=8, rows=2):
  q, k, v = (jax.random.key(i) for i in range(3))
  return (
    jax.random.normal(q, (rows, queries, heads, features)),
    jax.random.normal(k, (rows, keys, heads, features)),
    jax.random.normal(v, (rows, keys, heads, features)),
  )


def naive(q, k, v, segment_q=None, segment_k=None, scale=None, bias=None):
  """One query and head at a time, in float64."""
  q, k, v = (np.asarray(y, np.float64) for y in (q, k, v))
  out = np.zeros_like(q)
  for b, n, a in np.ndindex(q.shape[:3]):
    see = np.ones(k.shape[1], bool)
    if segment_q is not None:
      see = (segment_k[b] == segment_q[b, n]) & (segment_k[b] > 0)
    if not see.any():
      continue
    scores = k[b, see, a] @ q[b, n, a] * (scale or q.shape[-1] ** -0.5)
    if bias is not None:
      scores += np.broadcast_to(bias, (*q.shape[:1], 3, 5, 7))[b, a, n, see]
    weights = np.exp(scores - scores.max())
    out[b, n, a] = weights @ v[b, see, a] / weights.sum()
  return out


def test_it_is_softmax_attention_within_segments():
  q, k, v = draw()
  y = attend(q, k, v, SEGMENT_Q, SEGMENT_K)
  expected = naive(q, k, v, np.asarray(SEGMENT_Q), np.asarray(SEGMENT_K))
  np.testing.assert_allclose(y, expected, atol=1e-6)
  assert not y[EMPTY].any()
  assert np.abs(expected[~EMPTY]).min() > 0


def test_without_segments_every_key_is_seen():
  q, k, v = draw()
  np.testing.assert_allclose(attend(q, k, v), naive(q, k, v), atol=1e-6)


def test_scale_and_bias_enter_the_scores():
  q, k, v = draw()
  bias = jax.random.normal(jax.random.key(3), (1, 3, 5, 7))
  y = attend(q, k, v, scale=1.0, bias=bias)
  expected = naive(q, k, v, scale=1.0, bias=np.asarray(bias))
  np.testing.assert_allclose(y, expected, atol=1e-6)


def test_a_query_without_keys_has_finite_gradients():
  def loss(q, k, v):
    return jnp.sum(jnp.sin(attend(q, k, v, SEGMENT_Q, SEGMENT_K)))

  gradients = jax.grad(loss, (0, 1, 2))(*draw())
  assert all(np.isfinite(g).all() for g in gradients)
  assert not gradients[0][EMPTY].any()
  assert gradients[0][~EMPTY].any()
  unseen = np.asarray(SEGMENT_K[0] == 0) | np.asarray(SEGMENT_K[0] == 4)
  assert not gradients[2][0, unseen].any()


def test_huge_scores_neither_overflow_nor_lose_the_largest():
  q, k, v = draw()
  y = attend(1e4 * q, k, v)
  best = jnp.argmax(jnp.einsum('BNAK,BLAK->BNAL', q, k), axis=-1)
  expected = jnp.take_along_axis(
    v.swapaxes(1, 2)[:, None], best[..., None, None], axis=3
  )[..., 0, :]
  np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize('features', [16, 128])
def test_bfloat16_stays_close_over_many_keys(features):
  q, k, v = draw(queries=300, keys=700, features=features, rows=1)
  segment_q = jnp.arange(300)[None] // 100
  segment_k = jnp.arange(700)[None] // 200
  y = attend(q, k, v, segment_q, segment_k)
  low = attend(
    *(z.astype(jnp.bfloat16) for z in (q, k, v)), segment_q, segment_k
  )
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(low.astype(jnp.float32), y, atol=0.03)


def test_a_key_of_many_copies_is_that_many_keys():
  """Also where a caption has no rows, and where a query listens to none."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  q, k, v = draw(1, 4, 2, 6), draw(1, 5, 2, 6), draw(1, 5, 2, 6)
  segment_q = jnp.array([[1, 2, 3, 0]])
  segment_k = jnp.array([[1, 1, 1, 2, 0]])
  copies = jnp.array([[4.0, 6.0, 7.0, 0.0]])
  y = attention.attend(q, k, v, segment_q, segment_k, copies=copies)
  for i, keys in enumerate([[0, 1, 2] + [4] * 4, [3] + [4] * 6, [4] * 7]):
    alone = attention.attend(q[:, i : i + 1], k[:, keys], v[:, keys])
    np.testing.assert_allclose(y[:, i], alone[:, 0], atol=1e-6)
  np.testing.assert_array_equal(y[:, 3], 0.0)


def test_long_rows_come_by_blocks_of_queries(monkeypatch):
  """Also where the last block is not full, and with copies of a key."""
  rng = np.random.default_rng(1)
  q, k, v = draw(queries=21, keys=13)
  segment_q = jnp.asarray(rng.integers(0, 4, (2, 21)))
  segment_k = jnp.asarray(rng.integers(0, 3, (2, 13))).at[:, -1].set(0)
  copies = jnp.asarray(rng.integers(0, 3, (2, 21)), jnp.float32)

  def outcome(q, k, v):
    def loss(q, k, v):
      ways = (
        attention.attend(q, k, v),
        attention.attend(q, k, v, segment_q, segment_k),
        attention.attend(q, k, v, segment_q, segment_k, copies=copies),
      )
      return sum(jnp.sum(jnp.sin(y)) for y in ways), ways

    return jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)

  whole = outcome(q, k, v)
  monkeypatch.setattr(attention, 'MOST_SCORES', 4 * 3 * 13 * 20)
  monkeypatch.setattr(attention, 'LEAST_BLOCK', 8)
  text = str(jax.make_jaxpr(lambda *x: outcome(*x))(q, k, v))
  assert '[2,2,16,3,8]' in text  # of 20 that there is room for
  for a, b in zip(
    *map(jax.tree.leaves, (outcome(q, k, v), whole)), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_self_attention_of_a_long_row_is_not_kept(monkeypatch):
  """The form for any platform; `splash_test` has the TPU's."""
  monkeypatch.setattr(attention, 'MOST_SCORES', 2**20)
  x = jax.ShapeDtypeStruct((1, 4096, 2, 128), jnp.float32)
  segment = jax.ShapeDtypeStruct((1, 4096), jnp.int32)

  def loss(q, k, v, segment):
    return jnp.sum(attention.attend(q, k, v, segment, segment))

  step = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, segment).compile()
  scores = 4 * 4096 * 4096 * 2
  assert step.memory_analysis().temp_size_in_bytes < scores / 2
