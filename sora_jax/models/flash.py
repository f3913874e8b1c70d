"""Attention on a GPU by cuDNN's flash kernel, which keeps no scores.

The kernel knows how many queries and keys a row has, and not which segments lie
among them. Where every row of a batch holds one clip and its caption, as in
sampling, it computes; other batches take another way. Source: Dao et al. 2022
(arXiv:2205.14135) for the form, `jax.nn.dot_product_attention` for the kernel.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# What the kernel takes on every GPU that has it.
TYPES = (jnp.bfloat16, jnp.float16)
MOST_FEATURES = 128
LEAST_CAPABILITY = 8  # Ampere


def can(q: Float[Array, 'B N A K']) -> bool:
  """Whether the kernel is there, for queries of this type and shape."""
  K = q.shape[-1]
  if q.dtype not in TYPES or K > MOST_FEATURES or K % 8:
    return False
  device = jax.local_devices()[0]
  if device.platform != 'gpu' or 'cuda' not in device.client.platform_version:
    return False
  return int(device.compute_capability.split('.')[0]) >= LEAST_CAPABILITY


def attend(
  q: Float[Array, 'B N A K'],
  k: Float[Array, 'B L A K'],
  v: Float[Array, 'B L A K'],
  segment_q: Int[Array, 'B N'],
  segment_k: Int[Array, 'B L'],
  copies: Float[Array, 'B N'] | None = None,
  *,
  scale: float,
  otherwise: Callable[..., Array],
  implementation: Literal['cudnn', 'xla'] = 'cudnn',
) -> Float[Array, 'B N A K']:
  """Softmax attention of queries to the keys of their segment; 0 is empty.

  Args:
    q: queries.
    k: keys.
    v: values.
    segment_q: of each query.
    segment_k: of each key.
    copies: how often each query sees the last key, which is of no segment.
    scale: factor of the scores.
    otherwise: takes the first six where a row has several segments.
    implementation: 'cudnn', or 'xla' to compute it without a GPU.
  """

  def alone(q, k, v, segment_q, segment_k, copies):
    queries, keys = _length(segment_q), _length(segment_k)
    if copies is not None:
      k, v = (_repeat_last(x, keys) for x in (k, v))
      keys += copies[:, 0].astype(jnp.int32)
    # What the kernel does with empty slots, gradients too, does not matter.
    cut = lambda x, length: jnp.where(
      _inside(x.shape[1], length)[..., None, None], x, 0
    )
    y = jax.nn.dot_product_attention(
      *(cut(q, queries), cut(k, keys), cut(v, keys)),
      scale=scale,
      query_seq_lengths=queries,
      key_value_seq_lengths=keys,
      implementation=implementation,
    )
    return cut(y, jnp.where(keys > 0, queries, 0)).astype(v.dtype)

  whole = jnp.all(is_one(segment_q, segment_k, copies))
  inputs = (q, k, v, segment_q, segment_k, copies)
  return jax.lax.cond(whole, alone, otherwise, *inputs)


def is_one(
  segment_q: Int[Array, 'B N'],
  segment_k: Int[Array, 'B L'],
  copies: Float[Array, 'B N'] | None = None,
) -> Bool[Array, ' B']:
  """Whether all that a row has is one segment, before its empty slots.

  Copies must be as many for each query, and there must be room for them.
  """
  queries, keys = _length(segment_q), _length(segment_k)
  one = _is_run(segment_q, queries) & _is_run(segment_k, keys)
  nothing = (queries == 0) | (keys == 0)
  one &= nothing | (segment_q[:, 0] == segment_k[:, 0])
  if copies is None:
    return one
  alike = (copies == copies[:, :1]) | (segment_q == 0)
  room = segment_k.shape[1] - keys
  return one & jnp.all(alike, axis=-1) & (copies[:, 0] <= room)


def _length(segment: Int[Array, 'B N']) -> Int[Array, ' B']:
  return jnp.sum(segment > 0, axis=-1, dtype=jnp.int32)


def _is_run(
  segment: Int[Array, 'B N'], length: Int[Array, ' B']
) -> Bool[Array, ' B']:
  """Whether the first slots are of one segment, and the others empty."""
  inside = _inside(segment.shape[1], length)
  return jnp.all(segment == jnp.where(inside, segment[:, :1], 0), axis=-1)


def _repeat_last(
  x: Float[Array, 'B L A K'], length: Int[Array, ' B']
) -> Float[Array, 'B L A K']:
  """The last key in every place after the first ones."""
  inside = _inside(x.shape[1], length)
  return jnp.where(inside[..., None, None], x, x[:, -1:])


def _inside(slots: int, length: Int[Array, ' B']) -> Bool[Array, 'B N']:
  """Whether each of so many slots is one of the first."""
  return jnp.arange(slots)[None] < length[:, None]
