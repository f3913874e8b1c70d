"""Segment-masked attention, in one form for every platform.

All scores at once, softmax in float32; memory grows with N x L.
"""

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def attend(
  q: Float[Array, 'B N A K'],
  k: Float[Array, 'B L A K'],
  v: Float[Array, 'B L A K'],
  segment_q: Int[Array, 'B N'] | None = None,
  segment_k: Int[Array, 'B L'] | None = None,
  *,
  scale: float | None = None,
  bias: Float[Array, '#B #A #N L'] | None = None,
  copies: Float[Array, 'B N'] | None = None,
) -> Float[Array, 'B N A K']:
  """Softmax attention of N queries to the L keys of their own segment.

  Args:
    q: queries.
    k: keys.
    v: values.
    segment_q: segment of each query; 0 is empty and sees nothing.
    segment_k: segment of each key; both or neither are given.
    scale: factor of the scores, K^-1/2 by default.
    bias: added to the scaled scores.
    copies: how often each query sees the last key, which is of no segment: so
      many keys that are alike. With segments only.

  Returns:
    Weighted means of the values; zeros for a query that sees no key.
  """
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  # Heads go first: XLA for CPU multiplies contiguous matrices faster.
  q, k, v = (einops.rearrange(y, 'B N A K -> B A N K') for y in (q, k, v))
  scores_BANL = scale * jnp.einsum(
    'BANK,BALK->BANL', q, k, preferred_element_type=jnp.float32
  )
  if bias is not None:
    scores_BANL += bias
  times_BANL = None  # that a query sees each key
  if segment_q is not None and segment_k is not None:
    visible = visibility(segment_q, segment_k)[:, None]
    times_BANL = visible.astype(jnp.float32)
    if copies is not None:
      times_BANL = times_BANL.at[..., -1].set(copies[:, None])
    scores_BANL = jnp.where(times_BANL > 0, scores_BANL, -1e30)
  highest = jax.lax.stop_gradient(scores_BANL.max(axis=-1, keepdims=True))
  weights_BANL = jnp.exp(scores_BANL - highest)
  if times_BANL is not None:
    weights_BANL *= times_BANL
  total = weights_BANL.sum(axis=-1, keepdims=True)
  # Dividing after the product handles N x K numbers instead of N x L. The
  # `where` gives a query without keys 0 / 1 and a gradient of zero, not NaN.
  y = jnp.einsum(
    'BANL,BALK->BANK',
    weights_BANL.astype(v.dtype),
    v,
    preferred_element_type=jnp.float32,
  ) / jnp.where(total > 0, total, 1.0)
  return einops.rearrange(y.astype(v.dtype), 'B A N K -> B N A K')


def visibility(
  segment_q: Int[Array, 'B N'], segment_k: Int[Array, 'B L']
) -> Array:
  """Boolean [B, N, L]: whether query and key lie in one non-empty segment."""
  same = segment_q[:, :, None] == segment_k[:, None, :]
  return same & (segment_k > 0)[:, None, :]
