"""Self-attention on a TPU by JAX's splash kernel, which keeps no scores.

The kernel is told which of its tiles to leave out, those between tokens that
share no segment, so that a row of four clips costs a quarter of one clip of its
length; segments mask inside of the others. Source: Dao et al. 2022
(arXiv:2205.14135) for the form,
`jax.experimental.pallas.ops.tpu.splash_attention` for the kernel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Queries and keys of a tile; a row is filled up to a multiple of it.
TILE = 512
# On a side: their table lies in scalar memory, of which a core has 1 MB.
MOST_TILES = 512


class Plan(NamedTuple):
  """Which tiles run, and what lies ready for each of them.

  That is the tile itself, or before the first that runs that one and after the
  last that one, so that nothing is fetched in vain.
  """

  run: Bool[Array, 'I J']
  keys: Int[Array, 'I J']  # tile of keys that lies ready, by queries
  queries: Int[Array, 'I J']  # tile of queries that lies ready, by keys


def attend(
  q: Float[Array, 'B N A K'],
  k: Float[Array, 'B L A K'],
  v: Float[Array, 'B L A K'],
  segment_q: Int[Array, 'B N'],
  segment_k: Int[Array, 'B L'],
  *,
  scale: float,
  tile: int = TILE,
  interpret: bool = False,
) -> Float[Array, 'B N A K']:
  """Softmax attention of tokens to those of their segment; 0 is empty.

  Args:
    q: queries.
    k: keys.
    v: values.
    segment_q: of each query.
    segment_k: of each key.
    scale: factor of the scores.
    tile: tokens of a tile, a multiple of 128; twice that for very long rows.
    interpret: compute it without a TPU, slowly.
  """
  N = q.shape[1]
  while max(N, k.shape[1]) > MOST_TILES * tile:
    tile *= 2

  def fill(x):  # up to whole tiles, with what is empty
    more = ((0, 0), (0, -x.shape[1] % tile))
    return jnp.pad(x, more + ((0, 0),) * (x.ndim - 2))

  # The kernel takes scores as they are.
  scaled = (q * scale).astype(q.dtype)
  heads_first = [fill(x).swapaxes(1, 2) for x in (scaled, k, v)]
  inputs = (*heads_first, fill(segment_q), fill(segment_k))
  y = _tiles(*inputs, tile=tile, interpret=interpret)
  y = jnp.where(segment_q[:, :, None, None] > 0, y.swapaxes(1, 2)[:, :N], 0)
  return y.astype(v.dtype)


def _tiles(
  q: Float[Array, 'B A N K'],
  k: Float[Array, 'B A L K'],
  v: Float[Array, 'B A L K'],
  segment_q: Int[Array, 'B N'],
  segment_k: Int[Array, 'B L'],
  *,
  tile: int,
  interpret: bool,
) -> Float[Array, 'B A N K']:
  """The kernel, row by row, each with a plan of its own."""
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as lib,  # slow, and for long rows alone
    splash_attention_mask_info as masks,
  )

  sizes = lib.BlockSizes(
    block_q=tile,
    block_kv=tile,
    block_q_dkv=tile,
    block_kv_dkv=tile,
    block_q_dq=tile,
    block_kv_dq=tile,
  )

  def one(row):
    q, k, v, segment_q, segment_k = row
    tiles = plan(segment_q, segment_k, tile)
    info = lambda ready: masks.MaskInfo(
      data_next=ready[None].astype(jnp.int16),
      mask_next=None,
      block_mask=2 * tiles.run[None].astype(jnp.int8),  # 1 would be a mask's
      partial_mask_blocks=None,
      q_sequence=None,
    )
    kernel = lib.SplashAttentionKernel(
      *(info(tiles.keys), info(tiles.keys), info(tiles.queries)),
      block_sizes=sizes,
      is_mqa=False,
      save_residuals=False,
      mask_value=lib.DEFAULT_MASK_VALUE,
      attn_logits_soft_cap=None,
      residual_checkpoint_name=None,
      mask_function=None,
      interpret=interpret,
    )
    return kernel(q, k, v, lib.SegmentIds(segment_q, segment_k))

  return jax.lax.map(one, (q, k, v, segment_q, segment_k))


def plan(
  segment_q: Int[Array, ' N'], segment_k: Int[Array, ' L'], tile: int
) -> Plan:
  """Leaves out tiles of queries and keys whose ranges of segments do not meet.

  Those are all that can be left out where each clip is one run of tokens and
  clips are numbered along the row. Queries of an empty tile see one tile, so
  that what is made of them is a number.
  """
  low_q, high_q = _range(segment_q, tile)
  low_k, high_k = _range(segment_k, tile)
  meet = (low_q[:, None] <= high_k[None]) & (low_k[None] <= high_q[:, None])
  rows, columns = meet.shape
  alone = ~meet.any(axis=1, keepdims=True)
  run = meet | (alone & (jnp.arange(columns) == 0)[None])
  first, last = run.argmax(axis=1), columns - 1 - run[:, ::-1].argmax(axis=1)
  keys = jnp.clip(jnp.arange(columns)[None], first[:, None], last[:, None])
  first, last = run.argmax(axis=0), rows - 1 - run[::-1].argmax(axis=0)
  queries = jnp.clip(jnp.arange(rows)[:, None], first[None], last[None])
  return Plan(run, keys, queries)


def _range(
  segment: Int[Array, ' N'], tile: int
) -> tuple[Int[Array, ' I'], Int[Array, ' I']]:
  """The lowest and the highest segment of each tile; empty ones have none."""
  tiles = segment.reshape(-1, tile)
  most = jnp.iinfo(tiles.dtype).max
  return jnp.where(tiles > 0, tiles, most).min(axis=1), tiles.max(axis=1)
