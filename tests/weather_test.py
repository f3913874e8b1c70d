"""Drops, splashes, bubbles and stars are where the world has them."""

import numpy as np
import pytest

from sora_jax import batch
from sora_jax.data.worlds import cameras, weather

TIME = np.arange(9) / 8


def view(side=64, frames=9):
  eye = np.tile([0.0, 1.5, 6.0], (frames, 1))
  aim = np.tile([0.0, 1.0, 0.0], (frames, 1))
  size = batch.Size(side, side, frames)
  return cameras.view(cameras.look(eye, aim), size)


def seeds(n):
  return np.random.default_rng(0).random((n, 4))


def test_a_streak_covers_its_length():
  start = np.tile([[[-0.5, 1.0, 0.0]]], (9, 1, 1))
  end = np.tile([[[0.5, 1.0, 0.0]]], (9, 1, 1))
  seen = view()
  cover = weather.streaks(start, end, np.ones((9, 1)), seen)
  length = seen.focal / np.linalg.norm([0.5, 6.0])
  assert cover[0].sum() == pytest.approx(length, rel=0.02)
  at, ahead = weather.project(start, seen)
  assert ahead[0, 0] == pytest.approx(6.0, rel=0.01)
  rows, columns = np.nonzero(cover[0] > 0.3)
  assert columns.min() == pytest.approx(at[0, 0, 0], abs=1)
  assert np.abs(rows + 0.5 - at[0, 0, 1]).max() < 1


def test_rain_falls_at_its_speed_for_ever():
  drops = seeds(1)
  seen = view(256, 2)
  step = 0.02
  rows = []
  for t in (0.0, step):
    cover = weather.rain(drops, np.array([t, t + 100.0]), 0.0, seen)
    assert cover.max() > 0
    r, _ = np.nonzero(cover[0] > 0.1)
    rows.append(r.mean())
  z = drops[0, 2] * 9 - 4.5
  pace = weather.SPEED * (0.85 + 0.3 * drops[0, 3])
  moved = seen.focal * pace * step / (6.0 - z)
  assert rows[1] - rows[0] == pytest.approx(moved, rel=0.25)


def test_rain_is_of_one_density_at_all_times():
  cover = weather.rain(seeds(90), np.arange(40) / 8, 0.2, view(64, 40))
  shares = cover.mean((1, 2))
  assert shares.min() > 0.4 * shares.max()
  assert 0.002 < shares.mean() < 0.06


def test_splashes_lie_on_the_ground_and_rings_spread_further_on_water():
  areas = []
  for wet in (False, True):
    cover = weather.splashes(seeds(26), TIME, wet, view())
    assert cover[:, :20].sum() == 0  # nothing above the horizon
    areas.append((cover > 0.02).sum())
  assert areas[1] > 1.2 * areas[0]


def test_bubbles_rise_from_a_mouth():
  mouth = np.tile([0.0, 0.5, 0.0], (9, 1))
  still = np.zeros((9, 3))
  seen = view()
  cover = weather.bubbles(mouth, still, seeds(14), TIME, seen)
  at, _ = weather.project(mouth[:, None], seen)
  rows, _ = np.nonzero(cover[0])
  assert len(rows) > 5
  assert (rows <= at[0, 0, 1] + 1).all()


def test_stars_stay_where_they_are_while_the_camera_moves():
  seen = view(64, 2)
  seen = seen._replace(position=np.array([[0.0, 1.5, 6.0], [1.0, 1.5, 5.0]]))
  cover = weather.stars(seeds(96), seen)
  np.testing.assert_allclose(cover[0], cover[1], atol=0.1)
  assert cover[:, 40:].sum() == 0 and cover.max() > 0.2
