"""Segment-masked attention: the one place where a kernel is chosen.

This is the reference form, for every platform: all scores at once, softmax in
float32.
"""

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

  Returns:
    Weighted means of the values; zeros for a query that sees no key.
  """
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  scores_BANL = scale * jnp.einsum(
      'BNAK,BLAK->BANL', q, k, preferred_element_type=jnp.float32
  )
  if bias is not None:
    scores_BANL += bias
  if segment_q is None:
    weights_BANL = jax.nn.softmax(scores_BANL)
  else:
    visible = visibility(segment_q, segment_k)[:, None]
    # A finite mask and a second `where` keep a row without any key, and its
    # gradient, at zero instead of 0 / 0.
    scores_BANL = jnp.where(visible, scores_BANL, -1e30)
    weights_BANL = jnp.where(visible, jax.nn.softmax(scores_BANL), 0.0)
  return jnp.einsum('BANL,BLAK->BNAK', weights_BANL.astype(v.dtype), v)


def visibility(
    segment_q: Int[Array, 'B N'], segment_k: Int[Array, 'B L']
) -> Array:
  """Boolean [B, N, L]: whether query and key lie in one non-empty segment."""
  same = segment_q[:, :, None] == segment_k[:, None, :]
  return same & (segment_k > 0)[:, None, :]
