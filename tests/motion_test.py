"""Motion obeys mechanics, and velocity is how place changes."""

import numpy as np
import pytest

from sora_jax.data.worlds import motion

FINE = np.arange(0, 4, 1e-3)
DRAW = motion.Draw(1.2, 1.3, 0.4, np.array([0.3, 0.0, -0.2]), 0.35, 0.6)


@pytest.mark.parametrize('event', motion.EVENTS)
def test_velocity_is_the_change_of_place(event):
  path = motion.EVENTS[event](DRAW, FINE)
  change = np.diff(path.position, axis=0) / 1e-3
  mean = (path.velocity[1:] + path.velocity[:-1]) / 2
  # But in the steps in which a body hits the ground, of which there are few.
  error = np.abs(change - mean).max(axis=1)
  assert (error > 5e-3).mean() < 0.012
  way = np.cumsum(np.abs(change).sum(1)) * 1e-3
  assert way[-1] > (0.5 if event != 'rest' else -1)


@pytest.mark.parametrize('event', motion.EVENTS)
def test_motion_at_a_time_does_not_depend_on_the_other_times(event):
  whole = motion.EVENTS[event](DRAW, FINE[::100])
  for i in (0, 7, 39):
    one = motion.EVENTS[event](DRAW, FINE[::100][i : i + 1])
    np.testing.assert_allclose(one.position[0], whole.position[i])
    np.testing.assert_allclose(one.travelled[0], whole.travelled[i])


@pytest.mark.parametrize('event', ['roll', 'ride', 'walk', 'fly', 'swim'])
def test_what_crosses_the_picture_is_at_its_place_after_a_second(event):
  path = motion.EVENTS[event](DRAW, np.array([1.0]))
  np.testing.assert_allclose(path.position[0, ::2], [0.3, -0.2], atol=1e-9)
  np.testing.assert_allclose(
    path.velocity[0, ::2], 1.2 * np.array([np.cos(0.4), -np.sin(0.4)])
  )


def test_a_bounce_falls_by_gravity_and_loses_energy_on_the_ground_alone():
  path = motion.bounce(DRAW, FINE)
  height, speed = path.position[:, 1] - 0.6, path.velocity[:, 1]
  assert height.min() >= -1e-9
  assert height[0] == pytest.approx(1.3)
  energy = motion.GRAVITY * height + speed**2 / 2
  drops = np.flatnonzero(np.diff(energy) < -1e-9)
  assert (np.abs(np.diff(energy)[np.diff(energy) > 0]) < 1e-9).all()
  # Each bounce leaves the square of the restitution.
  first = [energy[drops[i] + 2] / energy[drops[i] - 1] for i in range(3)]
  np.testing.assert_allclose(first, 0.75**2, rtol=1e-6)
  fall = np.sqrt(2 * 1.3 / motion.GRAVITY)
  assert FINE[drops[0]] == pytest.approx(fall, abs=2e-3)


def test_a_thrown_body_keeps_its_pace_in_the_air_and_loses_some_on_landing():
  path = motion.throw(DRAW, FINE)
  pace = np.hypot(path.velocity[:, 0], path.velocity[:, 2])
  flat = path.position[:, ::2]
  steps = np.hypot(*np.diff(flat, axis=0).T) / 1e-3
  np.testing.assert_allclose(np.unique(pace)[::-1][:3], [1.2, 1.02, 0.867])
  assert (np.abs(steps - pace[1:]) > 1e-6).sum() <= motion.BOUNCES + 1
  top = path.position[:, 1].max() - 0.6
  assert top == pytest.approx(1.3 + 0.4, abs=1e-3)


def test_a_start_is_rest_and_then_even_acceleration_to_twice_its_speed():
  path = motion.start(DRAW, FINE)
  speed = np.hypot(path.velocity[:, 0], path.velocity[:, 2])
  begins = FINE[np.flatnonzero(speed > 0)[0]]
  assert 0.2 < begins < 0.9
  gains = np.diff(speed) / 1e-3
  moving = (speed[1:] < 2.39) & (speed[:-1] > 0)
  np.testing.assert_allclose(gains[moving], 1.8, rtol=1e-6)
  assert speed[-1] == pytest.approx(2.4)


def test_a_leap_reaches_its_height_and_comes_back():
  path = motion.jump(DRAW, FINE)
  height = path.position[:, 1] - 0.6
  assert height.max() == pytest.approx(1.3, abs=1e-3)
  assert (height == 0).any() and height.min() >= -1e-9
  in_air = height > 0.05
  np.testing.assert_allclose(
    np.diff(height, 2)[in_air[1:-1]] / 1e-6, -motion.GRAVITY, rtol=1e-3
  )
  # Nose up on its way up, and down on its way down.
  assert (path.pitch * path.velocity[:, 1] >= -1e-9).all()


def test_balls_that_collide_keep_momentum_and_energy():
  one, two = DRAW._replace(low=0.5), DRAW._replace(low=0.5, speed=0.7)
  a, b = motion.collide((one, two), FINE)
  apart = np.linalg.norm(a.position - b.position, axis=-1)
  assert apart.min() == pytest.approx(1.0, abs=2e-3)
  total = a.velocity + b.velocity
  np.testing.assert_allclose(total, np.broadcast_to(total[0], total.shape))
  energy = (a.velocity**2 + b.velocity**2).sum(-1)
  np.testing.assert_allclose(energy, energy[0])
  assert (a.velocity[0] != a.velocity[-1]).any()


def test_masses_swap_speeds_if_equal_and_turn_round_at_a_wall():
  assert motion.elastic((2.0, 2.0), (3.0, -1.0)) == pytest.approx((-1.0, 3.0))
  _, turned = motion.elastic((1e12, 1.0), (0.0, -2.0))
  assert turned == pytest.approx(2.0)
