"""Segment-masked attention, and which form of it computes.

Short rows take all scores at once. Of long ones, whose scores would fill the
memory (51 GB for 32,760 tokens of 12 heads), a TPU computes self-attention by
its splash kernel (`splash.py`), a GPU rows that hold one clip by cuDNN's
(`flash.py`), and all else comes by blocks of queries, each with all of its
keys. Softmax is in float32 everywhere.

This is the one model file that knows of the mesh: along its context axis each
device has some tokens of a row, whose queries see the keys of all.
"""

import functools
from collections.abc import Callable

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sora_jax.models import flash, splash

# Bytes of a row's scores above which they are not all kept.
MOST_SCORES = 2**28
# Queries of a block come in so many: fewer leave a matrix unit idle.
LEAST_BLOCK = 128


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
  N, L, A = q.shape[1], k.shape[1], q.shape[2]
  if bias is not None or 4 * A * N * L <= MOST_SCORES:
    return _dense(q, k, v, segment_q, segment_k, copies, bias, scale=scale)
  blocks = functools.partial(_by_blocks, scale=scale)
  if segment_q is None:
    return blocks(q, k, v, None, None, None)
  kernels = {}
  if segment_q is segment_k and copies is None:
    kernels['tpu'] = lambda q, k, v, segment_q, segment_k, _: splash.attend(
      q, k, v, segment_q, segment_k, scale=scale
    )
  if flash.can(q):
    kernels['cuda'] = functools.partial(
      flash.attend, scale=scale, otherwise=blocks
    )
  run = functools.partial(jax.lax.platform_dependent, **kernels, default=blocks)
  return _shared_out(run, q, k, v, segment_q, segment_k, copies)


def by_tokens(x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
  """Shares tokens out over the context axis, if the mesh that is set has one.

  Rows, tokens and heads must each be a multiple of the devices that share them
  out, which is checked when a run starts.
  """
  mesh = _mesh()
  (axis,) = nn.logical_to_mesh_axes(('tokens',))
  if mesh is None or mesh.shape[axis] == 1:
    return x
  return nn.with_logical_constraint(x, ('batch', 'tokens', None))


def _shared_out(run: Callable[..., Array], *inputs: Array | None) -> Array:
  """Runs a kernel on what each device has: rows, heads, and its own queries.

  Keys and values of a row are gathered from all; where they are of the same
  tokens as the queries, their gradients go back to each device in parts.
  """
  mesh = _mesh()
  if mesh is None:
    return run(*inputs)
  *_, segment_q, segment_k, _ = inputs
  (axis,) = nn.logical_to_mesh_axes(('tokens',))
  apart = segment_q is segment_k and mesh.shape[axis] > 1
  tokens, row = ('batch', 'tokens'), ('batch', None)
  keys = (*(tokens if apart else row), 'heads', None)
  names = ((*tokens, 'heads', None), keys, keys, tokens, row, tokens)
  specs = tuple(
    None if x is None else nn.logical_to_mesh_axes(axes)
    for x, axes in zip(inputs, names, strict=True)
  )

  def whole(q, k, v, *others):
    if apart:
      k, v = (jax.lax.all_gather(x, axis, axis=1, tiled=True) for x in (k, v))
    return run(q, k, v, *others)

  return jax.shard_map(
    whole, in_specs=specs, out_specs=specs[0], check_vma=False
  )(*inputs)


def _mesh() -> jax.sharding.AbstractMesh | None:
  """That of `sharding.use`, unless the caller has shared all of it out."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or set(mesh.manual_axes) == set(mesh.axis_names):
    return None
  assert not mesh.manual_axes, 'a mesh is shared out as a whole'
  return mesh


def _by_blocks(
  q: Float[Array, 'B N A K'],
  k: Float[Array, 'B L A K'],
  v: Float[Array, 'B L A K'],
  segment_q: Int[Array, 'B N'] | None,
  segment_k: Int[Array, 'B L'] | None,
  copies: Float[Array, 'B N'] | None,
  *,
  scale: float,
) -> Float[Array, 'B N A K']:
  """Blocks of queries, one after the other; the backward pass repeats them."""
  N, L, A = q.shape[1], k.shape[1], q.shape[2]
  most = max(1, MOST_SCORES // (4 * A * L) // LEAST_BLOCK) * LEAST_BLOCK
  count = -(-N // most)
  # Alike, so that little is filled up where a device has few queries.
  block = -(-N // (count * LEAST_BLOCK)) * LEAST_BLOCK

  def cut(x):  # B N ... -> blocks B n ...; what fills the last one sees nothing
    if x is None:
      return None
    fill = ((0, 0), (0, count * block - N))
    x = jnp.pad(x, fill + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], count, block, *x.shape[2:]), 1, 0)

  @jax.checkpoint
  def one(part):
    q, segment, copies = part
    return _dense(q, k, v, segment, segment_k, copies, None, scale=scale)

  y = jax.lax.map(one, (cut(q), cut(segment_q), cut(copies)))
  y = einops.rearrange(y, 'J B n A K -> B (J n) A K')
  return y[:, :N]


def _dense(
  q: Float[Array, 'B N A K'],
  k: Float[Array, 'B L A K'],
  v: Float[Array, 'B L A K'],
  segment_q: Int[Array, 'B N'] | None,
  segment_k: Int[Array, 'B L'] | None,
  copies: Float[Array, 'B N'] | None,
  bias: Float[Array, '#B #A #N L'] | None,
  *,
  scale: float,
) -> Float[Array, 'B N A K']:
  """All scores at once."""
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
