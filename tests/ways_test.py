"""The cubic between two motions, against what defines it."""

import numpy as np

from sora_jax.data.worlds import ways

ENDS = np.array([0.0, 1.0]), np.array([3.0, -2.0])
VELOCITIES = np.array([2.0, -1.0]), np.array([-4.0, 0.5])


def way(part, duration=2.0):
  return ways.hermite(ENDS, VELOCITIES, duration, np.asarray(part, float))


def test_it_has_the_places_and_velocities_of_both_ends():
  np.testing.assert_array_equal(way([0, 1]), np.stack(ENDS))
  step = 1e-6
  first, last = np.diff(way([0, step, 1 - step, 1]), axis=0)[[0, 2]]
  np.testing.assert_allclose(first / (2 * step), VELOCITIES[0], atol=1e-4)
  np.testing.assert_allclose(last / (2 * step), VELOCITIES[1], atol=1e-4)


def test_it_is_a_cubic():
  fourth = np.diff(way(np.linspace(0, 1, 20)), 4, axis=0)
  np.testing.assert_allclose(fourth, 0, atol=1e-12)


def test_steady_motion_goes_on_as_a_line():
  still = np.array([1.0, 1.0])
  part = np.linspace(0, 1, 7)
  line = ways.hermite((0 * still, 3 * still), (still, still), 3.0, part)
  np.testing.assert_allclose(line, 3 * part[:, None] * still, atol=1e-12)


def test_a_smooth_change_begins_and_ends_at_rest():
  part = np.linspace(0, 1, 1001)
  values = ways.smooth(part)
  assert values[0] == 0 and values[-1] == 1 and (np.diff(values) > 0).all()
  assert np.diff(values)[[0, -1]].max() < 1e-5
