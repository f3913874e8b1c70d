"""Self-attention on a TPU by JAX's splash kernel, which keeps no scores.

The kernel is told which of its tiles to leave out, those between tokens that
share no segment, so that a row of four clips costs a quarter of one clip of its
length; segments mask inside of the others. Source: Dao et al. 2022
(arXiv:2205.14135) for the form,
`jax.experimental.pallas.ops.tpu.splash_attention` for the kernel.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Queries and keys of a tile; a row is filled up to a multiple of it.
TILE = 512
# On a side: their table lies in scalar memory, of which a core has 1 MB.
MOST_TILES = 512


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
    tile: tokens of a tile, a multiple of 128; twice that for very long rows.
    interpret: compute it without a TPU, slowly.
  """
  N = q.shape[1]
  while N > MOST_TILES * tile:
    tile *= 2
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
    q, k, v, segment = row
    runs, fetched = plan(segment, tile)
    info = lambda fetched: masks.MaskInfo(
      data_next=fetched[None],
      mask_next=None,
      block_mask=2 * runs[None].astype(jnp.int8),  # 1 would be a mask's
      partial_mask_blocks=None,
      q_sequence=None,
    )
    kernel = lib.SplashAttentionKernel(
      *(info(fetched), info(fetched), info(fetched.T)),
      block_sizes=sizes,
      is_mqa=False,
      save_residuals=False,
      mask_value=lib.DEFAULT_MASK_VALUE,
      attn_logits_soft_cap=None,
      residual_checkpoint_name=None,
      mask_function=None,
      interpret=interpret,
    )
    return kernel(q, k, v, lib.SegmentIds(segment, segment))

  return jax.lax.map(one, (q, k, v, segment))


def plan(
  segment: Int[Array, ' N'], tile: int
) -> tuple[Bool[Array, 'J J'], Int[Array, 'J J']]:
  """Which tiles of queries and keys run, and which keys lie ready for each.

  Those run whose ranges of segments meet, which leaves out all that can be
  where each clip is one run of tokens and clips are numbered along the row; and
  those on the diagonal, so that each token, an empty one too, sees itself.

  Returns:
    Whether each tile runs; and by queries, which tile of keys lies ready then:
    its own, or before the first that runs that one, and after the last that
    one, so that none is fetched in vain. Transposed, by keys.
  """
  tiles = segment.reshape(-1, tile)
  highest = tiles.max(axis=1)
  lowest = jnp.where(tiles > 0, tiles, jnp.iinfo(tiles.dtype).max).min(axis=1)
  before = lowest[:, None] <= highest[None]
  J = len(tiles)
  runs = (before & before.T) | jnp.eye(J, dtype=bool)
  first, last = runs.argmax(axis=1), J - 1 - runs[:, ::-1].argmax(axis=1)
  fetched = jnp.clip(jnp.arange(J)[None], first[:, None], last[:, None])
  return runs, fetched.astype(jnp.int16)
