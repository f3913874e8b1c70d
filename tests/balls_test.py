"""The balls world obeys mechanics, its captions, and its splits."""

import collections

import numpy as np
import pytest

from sora_jax import batch
from sora_jax.data.worlds import balls, captions

SIZE = batch.Size(64, 64, 33)


def simulated(n, split='train', size=SIZE):
  return [balls.simulate(0, i, size, split) for i in range(n)]


def of_law(law, n=300, **kwargs):
  found = [truth for _, truth in simulated(n, **kwargs) if truth.law == law]
  assert len(found) > n / 6
  return found


def test_uniform_motion_is_straight_and_horizontal():
  for truth in of_law('uniform'):
    x, y = truth.position[:, 0].T
    np.testing.assert_allclose(y, y[0])
    np.testing.assert_allclose(np.diff(x) * 10, truth.velocity[:-1, 0, 0])


def test_a_thrown_ball_falls_by_gravity_and_keeps_its_pace():
  for truth in of_law('parabola'):
    x, y = truth.position[:, 0].T
    np.testing.assert_allclose(np.diff(y, n=2) / 0.1**2, -2.5, rtol=1e-6)
    np.testing.assert_allclose(np.diff(x, n=2), 0, atol=1e-9)
    assert truth.velocity[0, 0, 1] == 0
    np.testing.assert_allclose(truth.velocity[-1, 0, 1], -2.5 * 3.2)


def test_a_collision_keeps_momentum_and_energy_and_changes_velocity():
  for truth in of_law('collision'):
    mass = truth.radius**2
    momentum = truth.velocity[..., 0] @ mass
    energy = truth.velocity[..., 0] ** 2 @ mass
    np.testing.assert_allclose(momentum, momentum[0], atol=1e-9)
    np.testing.assert_allclose(energy, energy[0])
    assert np.ptp(truth.velocity[..., 0], axis=0).min() > 0.1


def test_a_bounce_keeps_its_place_and_its_energy_for_ever():
  long = SIZE._replace(frames=601)
  for truth in of_law('bounce', n=60, size=long):
    x, y = truth.position[:, 0].T
    assert (truth.velocity[:, 0, 0] == 0).all() and np.ptp(x) == 0
    height = y - truth.radius[0]
    energy = 2.5 * height + truth.velocity[:, 0, 1] ** 2 / 2
    np.testing.assert_allclose(energy, energy[0])
    assert height.min() >= 0
    assert 0.8 - 1e-9 <= energy[0] / 2.5 <= 3.6
    # Off the ground it falls as it should, and it is there more than once.
    bend = np.diff(y, n=2) / 0.1**2
    assert np.median(bend) == pytest.approx(-2.5)
    assert 60 / 3.4 - 1 <= (bend > 0).sum() / 2 <= 60 / 1.6 + 1


def test_balls_meet_head_on_and_never_overlap():
  for truth in of_law('collision'):
    apart = np.linalg.norm(truth.position[:, 0] - truth.position[:, 1], axis=-1)
    assert (apart >= truth.radius.sum() - 1e-9).all()
    # Between frames they come closer by less than they move in one frame.
    closing = np.abs(np.diff(truth.velocity[0, :, 0]))[0]
    assert apart.min() <= truth.radius.sum() + closing * 0.1
    np.testing.assert_allclose(truth.position[..., 1], truth.position[0, 0, 1])


@pytest.mark.parametrize('frames', [17, 33, 65])
def test_a_quarter_of_the_frames_lies_on_either_side_of_the_contact(frames):
  clear = min(frames - 1, 32) // 4
  for truth in of_law('collision', size=SIZE._replace(frames=frames)):
    before = (truth.velocity[:, 0] == truth.velocity[0, 0]).all(-1).sum()
    assert clear <= before <= frames - clear


def test_equal_balls_swap_velocities_and_a_wall_turns_a_ball_round():
  swapped = balls.elastic(np.array([2.0, 2.0]), np.array([3.0, -1.0]))
  np.testing.assert_allclose(swapped, [-1.0, 3.0])
  turned = balls.elastic(np.array([1e12, 1.0]), np.array([0.0, -2.0]))
  np.testing.assert_allclose(turned, [0.0, 2.0], atol=1e-9)


@pytest.mark.parametrize('size', ['64x64x33', '96x64x33', '32x64x33'])
def test_a_single_ball_stays_in_view_for_three_quarters_of_the_clip(size):
  size = batch.parse_size(size)
  width, height = balls.extent_of(size.width, size.height)
  for _, truth in simulated(300, size=size):
    if truth.law != 'collision':
      assert truth.in_view.sum() >= 25
    assert truth.in_view[0].all()
    y = truth.position[0, :, 1]
    lowest = 0.0 if truth.law == 'bounce' else 0.5
    assert (y >= lowest + truth.radius - 1e-9).all()
    assert (y <= height - 0.5 - truth.radius + 1e-9).all()
    assert min(width, height) == 10


def test_speeds_and_radii_keep_to_the_ranges_of_their_split():
  for split, (low, high) in {'train': (1, 4), 'test': (1, 4)}.items():
    for _, truth in simulated(300, split):
      speed = np.abs(truth.velocity[0, :, 0])
      if truth.law != 'bounce':
        assert (speed >= low).all() and (speed <= high).all()
      least, most = (0.5, 1.5) if truth.law == 'collision' else (0.7, 1.4)
      assert (truth.radius >= least).all() and (truth.radius <= most).all()
  for _, truth in simulated(300, 'outside'):
    speed = np.abs(truth.velocity[0, :, 0])
    if truth.law != 'bounce':
      assert ((speed <= 0.8) | ((speed >= 4.5) & (speed <= 6))).all()
    least, most = (0.4, 1.7) if truth.law == 'collision' else (0.6, 1.5)
    assert ((truth.radius <= least) | (truth.radius >= most)).all()


def test_a_clip_depends_on_seed_index_and_split_alone():
  first, _ = balls.clip(3, 7, SIZE)
  balls.clip(3, 8, SIZE)
  again, _ = balls.clip(3, 7, SIZE)
  np.testing.assert_array_equal(first.video, again.video)
  others = [(4, 7, 'train'), (3, 8, 'train'), (3, 7, 'test')]
  for seed, index, split in others:
    other, _ = balls.clip(seed, index, SIZE, split)
    assert (other.caption, other.id) != (first.caption, first.id)
    assert (other.video != first.video).any()


def test_resolution_changes_the_pixels_and_not_the_world():
  for index in range(20):
    small, truth = balls.clip(0, index, batch.Size(32, 32, 33))
    large, same = balls.clip(0, index, batch.Size(64, 64, 33))
    assert small.caption == large.caption
    np.testing.assert_array_equal(truth.position, same.position)
    # Four pixels average to one, but for the width of the soft edge.
    pooled = large.video.reshape(33, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    error = np.abs(pooled - small.video)
    assert error.mean() < 1.0
    assert error.max() < 64


def test_longer_clips_begin_as_shorter_ones():
  for index in range(30):
    _, truth = balls.simulate(0, index, SIZE)
    _, longer = balls.simulate(0, index, SIZE._replace(frames=65))
    np.testing.assert_array_equal(longer.position[:33], truth.position)
    _, image = balls.simulate(0, index, SIZE._replace(frames=1))
    np.testing.assert_array_equal(image.position[0], truth.position[0])
    if truth.law != 'collision':
      _, short = balls.simulate(0, index, SIZE._replace(frames=5))
      np.testing.assert_array_equal(short.position, truth.position[:5])


def test_held_out_combinations_never_occur_in_training():
  seen = collections.defaultdict(set)
  for split in ('train', 'test'):
    for caption, truth in simulated(2000, split):
      promised = balls.attributes(caption).balls
      # In training no ball, the second one included, is of a held-out kind.
      for ball in promised[: None if split == 'train' else 1]:
        seen[split].add((truth.law, ball.colour, ball.size, ball.direction))
  assert not seen['train'] & seen['test']
  kinds = 3 * 3 * 2 + 3  # three laws with a direction and one without
  assert len(seen['test']) == kinds
  assert len(seen['train']) == kinds * 7
  for split in seen:
    # Every word is in both splits: only their combination is new.
    words = {word for combination in seen[split] for word in combination}
    assert len(words) == 4 + 8 + 3 + 3


@pytest.mark.parametrize('split', balls.SPLITS)
def test_captions_promise_what_happens(split):
  for caption, truth in simulated(1500, split):
    assert caption.isascii() and caption == caption.lower()
    assert len(caption) <= 90
    promised = balls.attributes(caption)
    assert promised.law == truth.law
    assert [b.colour for b in promised.balls] == truth.colours
    assert len(set(truth.colours)) == len(truth.colours)
    velocity = truth.velocity[0, :, 0]
    for ball, radius, v in zip(
      promised.balls, truth.radius, velocity, strict=True
    ):
      low, high = captions.SIZES[ball.size]
      assert low <= radius <= high
      way = {1: 'right', -1: 'left', 0: ''}[int(np.sign(v))]
      assert ball.direction == way
      assert ball.speed[0] - 1e-9 <= abs(v) <= ball.speed[1] + 1e-9


def test_an_image_is_the_first_frame_with_a_caption_of_things_only():
  for index in range(50):
    image, truth = balls.clip(0, index, batch.Size(32, 32, 1))
    assert image.video.shape == (1, 32, 32, 3)
    promised = balls.attributes(image.caption)
    assert promised.law == 'still'
    assert [b.colour for b in promised.balls] == truth.colours


def test_every_sentence_is_written():
  for law in balls.LAWS:
    written = {
      caption.split(' ball', 1)[1][:9]
      for caption, truth in simulated(400)
      if truth.law == law
    }
    assert len(written) >= 3


def scene(position, radius, colours, frames=1):
  """A truth of balls at rest."""
  position = np.broadcast_to(
    np.array(position, float), (frames, len(radius), 2)
  )
  return balls.Truth(
    law='uniform',
    colours=colours,
    radius=np.array(radius),
    position=position,
    velocity=np.zeros_like(position),
    in_view=np.ones(position.shape[:2], bool),
    whole=np.ones(position.shape[:2], bool),
  )


def test_a_disc_is_drawn_where_it_is_with_y_up():
  # One unit is one pixel; the centre is that of the pixel in column 2, row 3.
  truth = scene([[2.5, 6.5]], [1.0], ['blue'])
  (frame,) = balls.render(truth, batch.Size(10, 10, 1))
  np.testing.assert_array_equal(frame[3, 2], [0, 0, 255])
  # A pixel centre on the rim is half covered; beyond a pixel, not at all.
  np.testing.assert_array_equal(frame[3, [1, 3]], [[128, 128, 255]] * 2)
  np.testing.assert_array_equal(frame[[2, 4], 2], [[128, 128, 255]] * 2)
  np.testing.assert_array_equal(frame[3, 4], [255, 255, 255])


def test_the_area_of_a_disc_is_that_of_a_circle():
  truth = scene([[5.13, 4.71]], [1.3], ['black'])
  (frame,) = balls.render(truth, batch.Size(64, 64, 1))
  area = (1 - frame[..., 0] / 255).sum() / 6.4**2
  assert area == pytest.approx(np.pi * 1.3**2, rel=2e-3)


def test_later_balls_lie_over_earlier_and_those_outside_draw_nothing():
  truth = scene([[5, 5], [5, 5]], [2.0, 1.0], ['red', 'blue'])
  (frame,) = balls.render(truth, batch.Size(20, 20, 1))
  np.testing.assert_array_equal(frame[10, 10], [0, 0, 255])
  np.testing.assert_array_equal(frame[10, 12], [255, 0, 0])
  truth = scene([[-3, 5], [5, 14]], [1.0, 1.0], ['red', 'blue'])
  assert (balls.render(truth, batch.Size(20, 20, 1)) == 255).all()


def test_prompts_are_held_out_and_balanced_over_laws():
  prompts = balls.held_out_prompts(0, 40)
  promised = [balls.attributes(caption) for caption, _ in prompts]
  count = collections.Counter(p.law for p in promised)
  assert count == dict.fromkeys(balls.LAWS, 10)
  assert len({index for _, index in prompts}) == 40
  for (caption, index), p in zip(prompts, promised, strict=True):
    ball = p.balls[0]
    assert balls.held_out(
      balls.Combination(p.law, ball.colour, ball.size, ball.direction)
    )
    assert balls.clip(0, index, SIZE, 'test')[0].caption == caption


def test_an_unknown_split_names_the_choices():
  with pytest.raises(ValueError, match=r"'dev'.*train, test, outside"):
    balls.clip(0, 0, SIZE, 'dev')
  with pytest.raises(ValueError, match='index=-1'):
    balls.clip(0, -1, SIZE)
