"""Frames that are moved to meet a known one."""

import numpy as np
import pytest

from sora_jax import batch, canvas, registration, tasks

LEAD = registration.LEAD


def clip(frames=20, size=64, start=20.0, speed=1.5, row=30.0):
  """A soft red disc on a slope of greys, that goes right by `speed` pixels."""
  y, x = np.indices((size, size), np.float64)
  ground = 160 + 60 * np.sin(x / 9 + y / 7)
  column = start + speed * np.arange(frames)[:, None, None]
  away = np.hypot(y - row, x - column)
  cover = np.clip(0.5 - (away - size / 9), 0, 1)[..., None]
  colour = np.array([220.0, 30, 20])
  video = cover * colour + (1 - cover) * ground[..., None]
  return np.rint(video).astype(np.uint8)


def middle(frame):
  """Of what is red, in pixels."""
  red = np.clip(frame[..., 0].astype(float) - frame[..., 1], 0, None) ** 2
  y, x = np.indices(red.shape)
  return np.array([(red * y).sum(), (red * x).sum()]) / red.sum()


def test_a_ball_that_would_miss_by_a_pixel_arrives():
  true, painted = clip(), clip(start=21.2, row=29.2)
  lead, last = slice(13 - LEAD, 13), 13
  moved = registration.meet(painted[lead], painted[last], true[last])
  off = [
    np.abs(middle(frame) - middle(whole)).max()
    for frame, whole in zip(moved, true[lead], strict=True)
  ]
  was = np.abs(middle(painted[5]) - middle(true[5])).max()
  assert was > 1.1
  assert off[-1] < 0.3 and off[-1] < off[-6] < off[0] < was + 0.1
  # Nowhere does it jump: 1.5 pixels a step, and what is made up for on the way.
  ways = np.diff([middle(f)[1] for f in (*moved, true[last])])
  assert np.abs(ways - 1.5).max() < 0.3
  # What stands still does not move, but for splines' rounding.
  far = np.s_[:, 48:, :]
  difference = np.abs(moved[far].astype(int) - painted[lead][far])
  assert difference.mean() < 1


def test_large_frames_are_looked_at_from_afar():
  true, painted = (
    clip(2, 384, start=150.0 + shift, row=190.0) for shift in (0.0, 6.0)
  )
  flow = registration.between(painted[0], true[0])
  assert flow.shape == (384, 384, 2)
  # At the ball's edge, where anything of it can be seen; but not far from it.
  assert flow[190, 150 + 42, 1] == pytest.approx(6, abs=1)
  assert np.abs(flow[350]).max() < 0.1


@pytest.mark.parametrize('other', ['noise', 'far'])
def test_what_is_something_else_stays_as_it_is(other):
  painted = clip()
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  known = {'noise': noise, 'far': clip(1, start=30, row=50)[0]}[other]
  moved = registration.meet(painted[:LEAD], painted[LEAD], known)
  np.testing.assert_array_equal(moved, painted[:LEAD])


@pytest.mark.parametrize('sizes', [(33,), (1, 4, 4, 4, 20), (1,) * 33])
def test_a_scene_moves_the_same_frames_however_they_come(sizes):
  """Of a clip that is known from frame 20 on."""
  true, painted = clip(33, speed=0.5), clip(33, start=21, speed=0.5)
  keep = np.zeros((33, 64, 64), np.float32)
  keep[20:] = 1
  blank = canvas.text_to_video(9, 8, 8, 4)
  none = true[:0]
  scene = tasks.Scene(blank, true, keep, none, none, meets=(20,))
  assert scene.size == batch.Size(64, 64, 33)
  parts = np.split(painted, np.cumsum(sizes)[:-1])
  made = np.concatenate(list(scene.finish(parts)))
  np.testing.assert_array_equal(made[20:], true[20:])
  np.testing.assert_array_equal(made[: 20 - LEAD], painted[: 20 - LEAD])
  lead = slice(20 - LEAD, 20)
  moved = registration.meet(painted[lead], painted[20], true[20])
  np.testing.assert_array_equal(made[lead], moved)
  assert (moved[-1] != painted[19]).any()


@pytest.mark.parametrize('gap', [3, 7])
def test_a_short_way_between_two_clips_steps_evenly_at_both_joins(gap):
  """A ball that is painted ever farther off, up to 1.2 pixels."""
  true, frames = clip(), 9 + gap
  off = np.clip(np.arange(20) - 8, 0, gap + 1) * 1.2 / (gap + 1)
  painted = np.concatenate([
    clip(1, start=20 + 1.5 * i + off[i]) for i in range(20)
  ])
  keep = np.ones((20, 64, 64), np.float32)
  keep[9:frames] = 0
  blank, none = canvas.text_to_video(5, 8, 8, 4), true[:0]
  scene = tasks.Scene(blank, true, keep, none, none, meets=(frames,))
  made = np.concatenate(list(scene.finish([painted])))
  steps = np.diff([middle(frame)[1] for frame in made])[7 : frames + 2]
  before = np.diff([middle(f)[1] for f in (*painted[:frames], *true[frames:])])
  assert np.abs(before[7 : frames + 2] - 1.5).max() > 0.8
  assert np.abs(steps - 1.5).max() < 0.35
