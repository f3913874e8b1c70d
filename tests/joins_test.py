"""Clips that lead from one ball into another one."""

import numpy as np
import pytest

from sora_jax import batch
from sora_jax.data import transforms
from sora_jax.data.worlds import balls, captions, joins

SIZE = batch.Size(64, 64, 33)
COUNT = 60


@pytest.fixture(scope='module')
def made():
  return [joins.simulate(5, i, SIZE) for i in range(COUNT)]


def test_a_clip_has_two_captions_of_one_ball_and_their_colours(made):
  for caption, truth in made:
    one, other = map(captions.attributes, transforms.parts(caption))
    for said, at in ((one, truth.leaves), (other, truth.meets)):
      (ball,) = said.balls
      assert said.law in joins.LAWS
      assert captions.size_word(truth.radius[at]) == ball.size
      np.testing.assert_array_equal(
        truth.ink[at], captions.COLOURS[ball.colour]
      )


def test_both_clips_move_by_their_laws(made):
  """By a law of a ball in flight, acceleration is 0 or gravity, but on impact.

  Three frames in a row say what it is; an impact spoils at most three of them
  and comes every 1.6 s at most.
  """
  for _, truth in made:
    across, up = np.diff(truth.position, 2, axis=0).T * balls.FPS**2
    for part in (slice(truth.leaves - 1), slice(truth.meets, None)):
      np.testing.assert_allclose(across[part], 0, atol=1e-9)
      falls = np.isclose(up[part], -balls.GRAVITY)
      spoilt = ~(falls | np.isclose(up[part], 0, atol=1e-9))
      assert spoilt.sum() <= 3 * (1 + len(spoilt) // 16)


def test_place_and_velocity_have_no_jump(made):
  """A step differs from the next by acceleration alone, which is bounded.

  A cubic over 14 units in 1 s, from 5 units/s to as much, has 114 units/s^2 at
  most; an impact turns 4.3 units/s round.
  """
  jumps = np.concatenate([
    np.linalg.norm(np.diff(t.position, 2, axis=0), axis=-1) for _, t in made
  ])
  assert jumps.max() < 1.2
  # Most need far less.
  assert np.quantile(jumps, 0.95) < 0.25


def test_the_way_meets_both_ends_with_their_velocities():
  ends = []
  for index in range(40):
    _, truth = joins.simulate(7, index, SIZE)
    steps = truth.meets - truth.leaves
    knots = truth.position[truth.leaves : truth.meets + 1]
    # A cubic has no fourth difference.
    np.testing.assert_allclose(np.diff(knots, 4, axis=0), 0, atol=1e-9)
    third = np.diff(knots, 3, axis=0)[0]
    second = np.diff(knots, 2, axis=0)[0]
    # Slope at its first knot by Newton's forward differences.
    slope = (knots[1] - knots[0]) - second / 2 + third / 3
    before = truth.position[truth.leaves] - truth.position[truth.leaves - 1]
    # A frame before the way, the law's mean velocity: half a frame of gravity.
    ends.append(np.abs(slope - before).max() * balls.FPS)
    assert 9 <= steps <= 25
  # But where the ball hits the ground just then.
  assert np.median(ends) < balls.GRAVITY / 2 / balls.FPS + 1e-6


def test_a_clip_is_the_same_at_every_resolution_and_time_it_is_made():
  (small, truth), (large, same) = (
    joins.clip(3, 4, batch.Size(side, side, 33)) for side in (32, 64)
  )
  assert small.caption == large.caption
  for a, b in zip(truth, same, strict=True):
    np.testing.assert_array_equal(a, b)
  again = joins.clip(3, 4, batch.Size(64, 64, 33))[0]
  np.testing.assert_array_equal(large.video, again.video)
  assert joins.simulate(3, 5, SIZE)[0] != small.caption


def test_pixels_show_the_truth():
  clip, truth = joins.clip(0, 3, SIZE)
  for frame, place, radius in zip(
    clip.video, truth.position, truth.radius, strict=True
  ):
    ink = 1 - frame.min(axis=-1) / 255
    area = ink.sum() / 6.4**2
    x, y = place
    if radius < x < 10 - radius and radius < y < 10 - radius:
      # Its strongest channel may be paler than black.
      assert 0.3 < area / (np.pi * radius**2) < 1.02
      rows, columns = np.indices(ink.shape) + 0.5
      centre = (ink * columns).sum() / ink.sum() / 6.4
      height = 10 - (ink * rows).sum() / ink.sum() / 6.4
      np.testing.assert_allclose([centre, height], place, atol=0.02)


def test_an_image_is_of_the_first_ball_alone():
  caption, truth = joins.simulate(0, 0, batch.Size(64, 64, 1))
  assert captions.attributes(caption).law == 'still'
  assert len(truth.position) == 1


@pytest.mark.parametrize('frames', [5, 9, 33])
def test_short_clips_have_a_way_too(frames):
  for index in range(20):
    _, truth = joins.simulate(0, index, batch.Size(64, 64, frames))
    assert len(truth.position) == len(truth.ink) == len(truth.radius) == frames
    assert 0 <= truth.leaves < truth.meets < frames


def test_an_unknown_split_is_refused():
  with pytest.raises(ValueError, match='split'):
    joins.simulate(0, 0, SIZE, 'other')


def test_a_clip_cut_in_two_is_joined_as_it_was():
  size = batch.Size(64, 64, 33)
  truths = (balls.simulate(0, i, size, 'test')[1] for i in range(40))
  truth = next(t for t in truths if t.law == 'uniform')
  before, after = (
    balls.span(truth, slice(9)),
    balls.span(truth, slice(20, None)),
  )
  joined = joins.join(before, after, 12)
  np.testing.assert_allclose(joined.position, truth.position[:, 0], atol=1e-5)
  assert (joined.leaves, joined.meets) == (8, 20)
