"""Self-attention on a GPU by cuDNN's flash kernel, which keeps no scores.

The kernel knows how long a row is, and not which segments lie in it. Where a
row holds one clip, as in sampling, it computes; rows that hold several take
another way. Source: Dao et al. 2022 (arXiv:2205.14135) for the form,
`jax.nn.dot_product_attention` for the kernel.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# What the kernel takes on every GPU that has it.
TYPES = (jnp.bfloat16, jnp.float16)
MOST_FEATURES = 128


def can(q: Float[Array, 'B N A K']) -> bool:
  """Whether the kernel is there, for queries of this type and shape."""
  K = q.shape[-1]
  fits = q.dtype in TYPES and K <= MOST_FEATURES and K % 8 == 0
  return jax.default_backend() == 'gpu' and fits


def attend(
  q: Float[Array, 'B N A K'],
  k: Float[Array, 'B N A K'],
  v: Float[Array, 'B N A K'],
  segment: Int[Array, 'B N'],
  *,
  scale: float,
  otherwise: Callable[..., Array],
  implementation: str = 'cudnn',
) -> Float[Array, 'B N A K']:
  """Softmax attention of tokens to those of their segment; 0 is empty.

  Args:
    q: queries.
    k: keys.
    v: values.
    segment: of each token.
    scale: factor of the scores.
    otherwise: takes q, k, v and segment where a row has several segments.
    implementation: 'cudnn', or 'xla' to compute it without a GPU.
  """

  def alone(q, k, v, segment):
    lengths = jnp.sum(segment > 0, axis=-1, dtype=jnp.int32)
    y = jax.nn.dot_product_attention(
      *(q, k, v),
      scale=scale,
      query_seq_lengths=lengths,
      key_value_seq_lengths=lengths,
      implementation=implementation,
    )
    return jnp.where(segment[:, :, None, None] > 0, y, 0).astype(v.dtype)

  whole = jnp.all(is_one(segment))
  return jax.lax.cond(whole, alone, otherwise, q, k, v, segment)


def is_one(segment: Int[Array, 'B N']) -> Bool[Array, ' B']:
  """Whether each row is one segment, with nothing but emptiness after it."""
  inside = jnp.arange(segment.shape[1]) < jnp.sum(segment > 0, -1)[:, None]
  return jnp.all(segment == jnp.where(inside, segment[:, :1], 0), axis=-1)
