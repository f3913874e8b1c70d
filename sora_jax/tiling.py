"""Frames in overlapping tiles, and back, for frames too large at once.

All tiles are of one size, so that one program is compiled. Where they overlap,
each counts the more the further its own edge is, so that there is no seam:
beyond an edge a network sees nothing, where in the whole frame there was more.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

SHARE = 4  # of a tile's side, at the least, lies in its neighbour: one in four


class Tile(NamedTuple):
  """A part of a frame."""

  top: int
  left: int
  height: int
  width: int

  def scaled(self, factor: int) -> 'Tile':
    """The same part of a frame so many times as large."""
    return Tile(*(factor * value for value in self))

  def cut(self, frames: Shaped[np.ndarray, 'B T H W C']) -> np.ndarray:
    """The part, of each frame."""
    rows = slice(self.top, self.top + self.height)
    columns = slice(self.left, self.left + self.width)
    return frames[:, :, rows, columns]


def split(height: int, width: int, side: int) -> list[Tile]:
  """Tiles that cover a frame, no larger than `side`; 0: the frame is one."""
  rows, columns = (min(n, side) if side else n for n in (height, width))
  return [
    Tile(top, left, rows, columns)
    for top in _starts(height, rows)
    for left in _starts(width, columns)
  ]


def _starts(length: int, side: int) -> list[int]:
  """Where tiles begin, as evenly as may be."""
  step = side - side // SHARE
  count = 1 + math.ceil((length - side) / step)
  return np.linspace(0, length - side, count).round().astype(int).tolist()


def blend(
  parts: Iterable[tuple[Tile, Shaped[np.ndarray, 'B T h w C']]],
) -> Float[np.ndarray, 'B T H W C']:
  """Frames of their tiles.

  Args:
    parts: Tiles from `split`, in its order, and what they hold.
  """
  parts = list(parts)
  last, content = parts[-1]
  shape = (last.top + last.height, last.left + last.width)
  total = np.zeros((*content.shape[:2], *shape, content.shape[-1]), np.float32)
  weights = np.zeros((1, 1, *shape, 1), np.float32)
  weight = np.outer(_ramp(last.height), _ramp(last.width))[..., None]
  for tile, content in parts:
    tile.cut(total)[:] += weight * content
    tile.cut(weights)[:] += weight
  return total / weights


def _ramp(side: int) -> Float[np.ndarray, ' side']:
  """Weights that fall to the edges over the part that may overlap."""
  place = np.arange(side) + 0.5
  reach = np.minimum(place, side - place) / max(1, side // SHARE)
  return np.minimum(reach, 1.0).astype(np.float32)
