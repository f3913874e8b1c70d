"""Tiles cover a frame, are of one size, and make it again."""

import numpy as np
import pytest

from sora_jax import tiling


@pytest.mark.parametrize(
  ('height', 'width', 'side', 'count'),
  [
    (60, 104, 0, 1),
    (60, 104, 200, 1),
    (60, 104, 32, 12),  # starts 0, 14, 28 by 0, 24, 48, 72
    (60, 104, 64, 2),
    (7, 9, 4, 6),
  ],
)
def test_every_place_is_covered_by_tiles_of_one_size(
  height, width, side, count
):
  tiles = tiling.split(height, width, side)
  assert len(tiles) == count
  assert len({(tile.height, tile.width) for tile in tiles}) == 1
  seen = np.zeros((1, 1, height, width, 1), int)
  for tile in tiles:
    tile.cut(seen)[:] += 1
  assert seen.min() == 1
  if count > 1:  # each overlaps its neighbours by a quarter
    assert (tiles[1].left - tiles[0].left) <= side - side // 4


@pytest.mark.parametrize('factor', [1, 8])
def test_tiles_of_a_frame_make_it_again(factor):
  shape = (2, 3, 13 * factor, 22 * factor, 3)
  frames = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  tiles = [tile.scaled(factor) for tile in tiling.split(13, 22, 8)]
  made = tiling.blend((tile, tile.cut(frames)) for tile in tiles)
  np.testing.assert_allclose(made, frames, atol=1e-6)


def test_what_tiles_disagree_on_goes_over_from_one_to_the_other():
  """Two tiles of 0 and of 1: a straight line over the half that they share."""
  tiles = [tiling.Tile(0, 0, 1, 8), tiling.Tile(0, 6, 1, 8)]
  made = tiling.blend(
    (tile, np.full((1, 1, 1, 8, 1), value, np.float32))
    for value, tile in enumerate(tiles)
  )
  expected = [0] * 6 + [0.25, 0.75] + [1] * 6
  np.testing.assert_allclose(made[0, 0, 0, :, 0], expected, atol=1e-6)
