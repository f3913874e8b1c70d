"""The tracker reads true clips right, spoilt ones too, and false ones wrong."""

import numpy as np
import pytest

from sora_jax import batch
from sora_jax.data.worlds import balls, captions, tracker

SIZE = batch.Size(64, 64, 33)


def blurred(video):
  """Blurs each frame by the binomial kernel of five, about one pixel wide."""
  video = video.astype(np.float32)
  for axis in (1, 2):
    pad = [(2, 2) if a == axis else (0, 0) for a in range(4)]
    padded = np.pad(video, pad, mode='edge')
    parts = [
      np.take(padded, range(i, i + video.shape[axis]), axis) for i in range(5)
    ]
    weights = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
    video = sum(w * p for w, p in zip(weights, parts, strict=True))
  return video


def coarse_colour(video):
  """Averages colour, but not brightness, over 2 x 2 pixels, as codecs do."""
  light = video @ np.array([0.299, 0.587, 0.114], np.float32)
  colour = video - light[..., None]
  t, h, w, _ = video.shape
  colour = colour.reshape(t, h // 2, 2, w // 2, 2, 3).mean(axis=(2, 4))
  return light[..., None] + colour.repeat(2, axis=1).repeat(2, axis=2)


def spoilt(video, rng):
  video = coarse_colour(blurred(video)) + rng.normal(0, 6, video.shape)
  return np.clip(np.rint(video), 0, 255).astype(np.uint8)


def kept(score):
  return score.colour and score.direction and score.law and score.size


def test_true_clips_keep_their_promises():
  scores, errors = [], []
  for index in range(50):
    clip, truth = balls.clip(1, index, SIZE, 'test')
    scores.append(tracker.score(clip.video, balls.attributes(clip.caption)))
    errors.append(tracker.velocity_error(clip.video, truth))
  assert np.mean([kept(s) for s in scores]) >= 0.98
  assert np.mean([s.velocity_error for s in scores]) < 0.01
  assert np.mean(errors) < 0.03


def test_blur_noise_and_coarse_colour_are_forgiven():
  rng = np.random.default_rng(0)
  scores = []
  for index in range(24):
    clip, _ = balls.clip(2, index, SIZE, 'test')
    video = spoilt(clip.video, rng)
    scores.append(tracker.score(video, balls.attributes(clip.caption)))
  assert np.mean([kept(s) for s in scores]) >= 0.95
  assert np.mean([s.velocity_error for s in scores]) < 0.03


@pytest.mark.parametrize('size', ['96x64x33', '32x48x17', '64x64x5', '64x64'])
def test_other_sizes_and_durations_are_tracked(size):
  for index in range(15):
    clip, _ = balls.clip(3, index, batch.parse_size(size))
    score = tracker.score(clip.video, balls.attributes(clip.caption))
    assert kept(score), (clip.caption, score)


def test_path_and_radius_are_those_of_the_simulator():
  for index in range(15):
    clip, truth = balls.clip(4, index, SIZE)
    track = tracker.track(clip.video)
    for k, colour in enumerate(truth.colours):
      (ball,) = [b for b in track.balls if b.colour == colour]
      assert ball.radius == pytest.approx(truth.radius[k], abs=0.02)
      which = truth.whole[:, k]
      np.testing.assert_allclose(
        ball.position[which], truth.position[which, k], atol=0.03
      )


@pytest.mark.parametrize(
  ('broken', 'caption'),
  [
    ('colour', 'a small green ball rolls left at speed 2.0'),
    ('direction', 'a small red ball rolls right at speed 2.0'),
    ('size', 'a large red ball rolls left at speed 2.0'),
    ('law', 'a small red ball flies left at speed 2.0 and drops'),
  ],
)
def test_each_broken_promise_is_found_and_no_other(broken, caption):
  video = rolling(speed=2.0)
  score = tracker.score(video, captions.attributes(caption))
  names = ('colour', 'direction', 'law', 'size')
  assert [n for n in names if not getattr(score, n)] == [broken]
  assert score.velocity_error == pytest.approx(0, abs=0.01)


def test_velocity_error_is_the_distance_from_the_promised_interval():
  promised = captions.attributes('a small red ball rolls left at speed 1.0')
  score = tracker.score(rolling(speed=2.0), promised)
  assert score.velocity_error == pytest.approx(2.0 - 1.05, abs=0.02)
  promised = captions.attributes('a small red ball rolls left fast')
  score = tracker.score(rolling(speed=2.0), promised)
  assert score.velocity_error == pytest.approx(3.2 - 2.0, abs=0.02)


@pytest.mark.parametrize(
  ('after', 'lawful'),
  [
    ((-1.0, 2.0), True),  # equal masses exchange their velocities
    ((0.0, 0.0), False),  # stop dead
    ((2.0, -1.0), False),  # pass through
    ((-2.0, 4.0), False),  # rebound twice as fast
  ],
)
def test_a_collision_is_one_if_it_keeps_the_law(after, lawful):
  video = meeting(after, touch=0.0)
  promised = captions.attributes(COLLISION)
  assert tracker.score(video, promised).law == lawful


def test_balls_that_turn_round_without_meeting_are_no_collision():
  video = meeting((-1.0, 2.0), touch=1.5)
  assert not tracker.score(video, captions.attributes(COLLISION)).law


COLLISION = (
  'a small red ball going right at 2.0 hits a small blue ball going left at 1.0'
)


def meeting(after, touch):
  """Two small balls that turn after 1.55 s, then `touch` units apart."""
  since = np.arange(33)[:, None] / 10 - 1.55
  velocity = np.where(since < 0, [2.0, -1.0], after)
  x = np.array([5 - 0.8 - touch / 2, 5 + 0.8 + touch / 2]) + velocity * since
  truth = balls.Truth(
    'collision',
    ['red', 'blue'],
    np.array([0.8, 0.8]),
    np.stack([x, np.full_like(x, 5.0)], axis=-1),
    np.stack([velocity, np.zeros_like(x)], axis=-1),
    np.ones((33, 2), bool),
    np.ones((33, 2), bool),
  )
  return balls.render(truth, SIZE)


def rolling(speed):
  """A small red ball to the left, drawn without the world's own plan."""
  time = np.arange(33)[:, None] / 10
  position = np.stack([9.0 - speed * time, np.full_like(time, 4.0)], axis=-1)
  everywhere = np.ones((33, 1), bool)
  velocity = np.broadcast_to([-speed, 0.0], position.shape)
  truth = balls.Truth(
    'uniform',
    ['red'],
    np.array([0.8]),
    position,
    velocity,
    everywhere,
    everywhere,
  )
  return balls.render(truth, SIZE)


def test_a_ball_twice_as_fast_is_off_by_its_speed():
  video = rolling(speed=2.0)
  time = np.arange(33)[:, None] / 10
  position = np.stack([9.0 - time, np.full_like(time, 4.0)], axis=-1)
  counted = np.arange(33)[:, None] < 20  # until the drawn ball is cut
  truth = balls.Truth(
    'uniform',
    ['red'],
    np.array([0.8]),
    position,
    np.broadcast_to([-1.0, 0.0], position.shape),
    counted,
    counted,
  )
  assert tracker.velocity_error(video, truth) == pytest.approx(1.0, abs=0.02)


def test_faint_ghosts_and_specks_are_no_balls():
  video = rolling(speed=2.0)
  video[:, 50:60, 5:15] = [240, 255, 240]  # a pale green patch
  video[::3, 8, 8] = [0, 0, 255]  # a blue speck
  promised = captions.attributes('a small red ball rolls left at speed 2.0')
  assert kept(tracker.score(video, promised))


def test_a_flash_of_colour_is_no_second_ball():
  video = rolling(speed=2.0)
  video[10:13, 40:55, 5:20] = [0, 0, 255]
  promised = captions.attributes('a small red ball rolls left at speed 2.0')
  assert kept(tracker.score(video, promised))


def test_a_dark_rim_is_no_second_ball():
  video = rolling(speed=2.0)
  amount = 1 - video[..., 1:2] / 255
  rim = (amount > 0.2) & (amount < 0.9)
  video = np.where(rim, (255 * (1 - amount)).astype(np.uint8), video)
  track = tracker.track(video)
  assert [b.colour for b in track.balls] == ['red']


def test_a_grey_veil_does_not_swell_a_ball():
  (ball,) = tracker.track(np.minimum(rolling(speed=2.0), 240)).balls
  assert ball.radius == pytest.approx(0.8, abs=0.03)


def test_a_ball_cut_by_the_edge_is_not_measured():
  (ball,) = tracker.track(rolling(speed=4.0)).balls
  x = 9.0 - 0.4 * np.arange(33)
  np.testing.assert_array_equal(ball.whole, (x >= 0.8) & (x <= 9.2))
  both = ball.whole[1:] & ball.whole[:-1]
  np.testing.assert_allclose(ball.velocity[both, 0], -4.0, atol=0.1)
  assert np.isnan(ball.velocity[~both]).all()
  assert ball.initial == pytest.approx(-4.0, abs=0.01)


def test_an_empty_video_keeps_no_promise():
  video = np.full((33, 64, 64, 3), 255, np.uint8)
  promised = captions.attributes('a small red ball rolls left at speed 2.0')
  score = tracker.score(video, promised)
  assert score[:4] == (False, False, False, False)
  assert score.velocity_error == pytest.approx(1.95)
  assert tracker.track(video) == tracker.Track('none', ())


def bouncing(height, sideways=0.0, frames=33):
  """A small red ball that bounces so high, or lies still at height 0."""
  time = np.arange(frames) / 10
  period = 2 * np.sqrt(2 * height / 2.5) or 1.0
  since = (time + 0.3) % period
  y = 0.8 + (1.25 * since * (period - since) if height else 0 * time)
  position = np.stack([4.0 + sideways * time, y], axis=-1)[:, None]
  some = np.ones((frames, 1), bool)
  truth = balls.Truth(
    'bounce', ['red'], np.array([0.8]), position, 0 * position, some, some
  )
  return balls.render(truth, batch.Size(64, 64, frames))


@pytest.mark.parametrize(
  ('video', 'law'),
  [
    (dict(height=0.8), 'bounce'),
    (dict(height=3.6), 'bounce'),
    (dict(height=3.6, frames=9), 'bounce'),
    (dict(height=0.0), 'uniform'),
    (dict(height=0.1), 'uniform'),
    (dict(height=2.0, sideways=1.0), 'uniform'),
  ],
)
def test_a_bounce_is_in_place_and_high_enough_to_be_seen(video, law):
  assert tracker.track(bouncing(**video)).law == law
