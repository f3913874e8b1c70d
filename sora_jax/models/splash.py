"""Self-attention on a TPU by JAX's splash kernel, which keeps no scores.

The kernel is told which of its tiles to leave out, those between tokens that
share no segment, so that of a row of four clips a quarter of all products is
computed; a tile that is left out is still a step of the kernel's grid. Segments
mask inside of the others. Source: Dao et al. 2022 (arXiv:2205.14135) for the
form, `jax.experimental.pallas.ops.tpu.splash_attention` for the kernel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Queries and keys of a tile, to a multiple of which a row is filled up; and the
# most that the fast memory of a v5p holds.
TILE, MOST_TILE = 512, 1024
# Their table lies in scalar memory, of which a core has 1 MB.
MOST_TILES = 512**2


class Plan(NamedTuple):
  """Which tiles of queries (I) and keys (J) run, and what lies ready by then.

  That is the tile itself, but before the first that runs that one, and after
  the last that one, so that nothing is fetched beyond these.
  """

  run: Bool[Array, 'I J']
  # Where a tile of queries goes through keys, and one of keys through queries.
  keys: Int[Array, 'I J']
  queries: Int[Array, 'I J']


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
    tile: tokens of a tile, a multiple of 128; or twice that, if a very long row
      has too many.
    interpret: compute it without a TPU, slowly.

  Raises:
    ValueError: the row is too long even so.
  """
  N, L = q.shape[1], k.shape[1]
  while -(-N // tile) * -(-L // tile) > MOST_TILES:
    tile *= 2
  if tile > MOST_TILE:
    raise ValueError(
      f'{N} queries of {L} keys have more than {MOST_TILES} tiles of '
      f'{MOST_TILE}; share them out over a larger mesh.context'
    )

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
  clips are numbered along the row. A tile of queries that meets no keys sees
  the first ones, so that what is made of it is a number.
  """
  low_q, high_q = _range(segment_q, tile)
  low_k, high_k = _range(segment_k, tile)
  meet = (low_q[:, None] <= high_k[None]) & (low_k[None] <= high_q[:, None])
  rows, columns = meet.shape
  alone = ~meet.any(axis=1, keepdims=True)
  run = meet | (alone & (jnp.arange(columns) == 0)[None])
  first, last = run.argmax(axis=1), columns - 1 - run[:, ::-1].argmax(axis=1)
  keys = jnp.clip(jnp.arange(columns)[None], first[:, None], last[:, None])
  first = run.argmax(axis=0)
  last = jnp.where(run.any(axis=0), rows - 1 - run[::-1].argmax(axis=0), first)
  queries = jnp.clip(jnp.arange(rows)[:, None], first[None], last[None])
  return Plan(run, keys, queries)


def _range(
  segment: Int[Array, ' N'], tile: int
) -> tuple[Int[Array, ' I'], Int[Array, ' I']]:
  """The lowest and the highest segment of each tile; empty ones have none."""
  tiles = segment.reshape(-1, tile)
  most = jnp.iinfo(tiles.dtype).max
  return jnp.where(tiles > 0, tiles, most).min(axis=1), tiles.max(axis=1)
