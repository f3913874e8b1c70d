"""Self-attention on a TPU by JAX's splash kernel, which keeps no scores.

Segments mask inside of its tiles; tiles between two segments are still
computed. Source: Dao et al. 2022 (arXiv:2205.14135) for the form,
`jax.experimental.pallas.ops.tpu.splash_attention` for the kernel.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Queries and keys of a tile; a row is filled up to a multiple of it.
TILE = 512


def attend(
  q: Float[Array, 'B N A K'],
  k: Float[Array, 'B N A K'],
  v: Float[Array, 'B N A K'],
  segment: Int[Array, 'B N'],
  *,
  scale: float,
  tile: int = TILE,
  interpret: bool = False,
) -> Float[Array, 'B N A K']:
  """Softmax attention of tokens to those of their segment; 0 is empty.

  Rows and heads are shared out over the mesh that is set, if one is and the
  caller has not done so.

  Args:
    q: queries.
    k: keys.
    v: values.
    segment: of each token.
    scale: factor of the scores.
    tile: tokens of a tile; a multiple of 128.
    interpret: compute it without a TPU, slowly.
  """
  N = q.shape[1]
  fill = -N % tile
  heads_first = lambda x: jnp.pad(
    x.swapaxes(1, 2), ((0, 0), (0, 0), (0, fill), (0, 0))
  )
  run = functools.partial(_tiles, tile=tile, interpret=interpret)
  mesh = jax.sharding.get_abstract_mesh()
  # A caller that has shared out rows itself gives what one device has.
  if set(mesh.axis_names) - set(mesh.manual_axes):
    spec = nn.logical_to_mesh_axes(('batch', 'heads', None, None))
    rows = nn.logical_to_mesh_axes(('batch', None))
    run = jax.shard_map(
      run, in_specs=(spec, spec, spec, rows), out_specs=spec, check_vma=False
    )
  filled = jnp.pad(segment, ((0, 0), (0, fill)))
  # The kernel takes scores as they are.
  scaled = (q * scale).astype(q.dtype)
  y = run(heads_first(scaled), heads_first(k), heads_first(v), filled)
  y = jnp.where(segment[:, :, None, None] > 0, y.swapaxes(1, 2)[:, :N], 0)
  return y.astype(v.dtype)


def _tiles(
  q: Float[Array, 'B A N K'],
  k: Float[Array, 'B A N K'],
  v: Float[Array, 'B A N K'],
  segment: Int[Array, 'B N'],
  *,
  tile: int,
  interpret: bool,
) -> Float[Array, 'B A N K']:
  """The kernel over what one device has."""
  from jax.experimental.pallas.ops.tpu import (  # slow, and for long rows alone
    splash_attention as lib,
  )

  A, N = q.shape[1:3]
  sizes = lib.BlockSizes(
    block_q=tile,
    block_kv=tile,
    block_q_dkv=tile,
    block_kv_dkv=tile,
    block_q_dq=tile,
    block_kv_dq=tile,
  )
  kernel = lib.make_splash_mha(
    lib.MultiHeadMask([lib.FullMask((N, N))] * A),
    block_sizes=sizes,
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
  one: Any = lambda q, k, v, s: kernel(q, k, v, lib.SegmentIds(s, s))
  return jax.vmap(one)(q, k, v, segment)
