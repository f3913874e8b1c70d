"""Latents to tokens and back, and where each token lies in its clip.

A token is one patch of a latent, t frames x h rows x w columns. Tokens are in
raster order: frame by frame, row by row. The values of a token are in the
order (t, h, w, C), channels fastest. Values may be numpy or JAX arrays and
stay what they are; positions, which no network makes, are numpy.
"""

import math
from typing import Any, TypeVar

import einops
import numpy as np
from jaxtyping import Int, Shaped

# Of numpy, or of JAX, which the workers of the data need not import.
Array = TypeVar('Array', bound=Any)
Patch = tuple[int, int, int]  # latent frames, rows, columns
Grid = tuple[int, int, int]  # tokens along time, down, across


def token_grid(size: tuple[int, int, int], patch: Patch) -> Grid:
  """Counts the tokens of a latent of `size` (frames, rows, columns).

  Raises:
    ValueError: the patch does not divide the size.
  """
  if any(s < 1 or s % p for s, p in zip(size, patch, strict=True)):
    raise ValueError(
      f'latent of {size} frames, rows, columns is not a multiple of the '
      f'patch {patch}'
    )
  frames, rows, columns = (s // p for s, p in zip(size, patch, strict=True))
  return frames, rows, columns


def patchify(
  x: Shaped[Array, 'B F h w C'], patch: Patch
) -> Shaped[Array, 'B N P']:
  """Folds latents into tokens, frame by frame; a token is one patch."""
  _, frames, rows, columns, _ = x.shape
  token_grid((frames, rows, columns), patch)
  t, h, w = patch
  return einops.rearrange(
    x, 'B (F t) (H h) (W w) C -> B (F H W) (t h w C)', t=t, h=h, w=w
  )


def unpatchify(
  x: Shaped[Array, 'B N P'], size: tuple[int, int, int], patch: Patch
) -> Shaped[Array, 'B F h w C']:
  """Unfolds tokens into latents of `size`; the inverse of `patchify`."""
  frames, rows, columns = token_grid(size, patch)
  if x.shape[1] != frames * rows * columns:
    raise ValueError(
      f'{x.shape[1]} tokens do not fill a latent of {size} in patches of '
      f'{patch}, which takes {frames} x {rows} x {columns}'
    )
  t, h, w = patch
  return einops.rearrange(
      x, 'B (F H W) (t h w C) -> B (F t) (H h) (W w) C',
      F=frames, H=rows, W=columns, t=t, h=h, w=w,
  )  # fmt: skip


def join(
  x: Shaped[Array, 'B N P'], other: Shaped[Array, 'B N Q'], patch: Patch
) -> Shaped[Array, 'B N P+Q']:
  """Tokens of latents that have the channels of both, those of `x` first."""
  parts = [
    einops.rearrange(part, 'B N (L C) -> B N L C', L=math.prod(patch))
    for part in (x, other)
  ]
  both, _ = einops.pack(parts, 'B N L *')
  return einops.rearrange(both, 'B N L C -> B N (L C)')


def positions(grid: Grid) -> Int[np.ndarray, 'N 3']:
  """Frame, row and column of each token of a clip, in raster order, int32."""
  axes = (np.arange(n, dtype=np.int32) for n in grid)
  return np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1).reshape(-1, 3)


def raster_index(
  position: Int[np.ndarray, '*S 3'], grid: Grid
) -> Int[np.ndarray, '*S']:
  """Index of the token at each position: what names its noise (`rng`)."""
  _, rows, columns = grid
  frame, row, column = position[..., 0], position[..., 1], position[..., 2]
  return (frame * rows + row) * columns + column
