"""Grounds keep to their colours at any distance; skies, air and mirrors."""

import numpy as np
import pytest

from sora_jax import batch
from sora_jax.data.worlds import cameras, drawing, places

TIME = np.arange(3) / 8
SIZE = batch.Size(64, 64, 3)


def ground(size=SIZE, height=2.0, ahead=8.0):
  eye = np.tile([0.0, height, 6.0], (3, 1))
  aim = np.tile([0.0, 0.0, 6.0 - ahead], (3, 1))
  view = cameras.view(cameras.look(eye, aim), size)
  zero = np.zeros(3, int)
  window = drawing.rays(view, zero, zero, size.width, size.height)
  return view, places.ground_of(view, window)


def setting(place='grass', hour='day', weather='clear'):
  return places.Setting(place, hour, weather, 0.7, np.array([3.0, 4.0]))


def test_rays_meet_the_ground_where_it_projects():
  view, g = ground()
  row, column = 50, 20
  point = np.array([g.x[1, row, column], 0.0, g.z[1, row, column]])
  seen = view.axes[1] @ (point - view.position[1])
  assert view.focal * seen[0] / seen[2] == pytest.approx(
    column + 0.5 - 32, abs=1e-3
  )
  assert view.focal * seen[1] / seen[2] == pytest.approx(
    32 - row - 0.5, abs=1e-3
  )
  assert g.reach[1, row, 0] == pytest.approx(seen[2], rel=1e-5)


def test_a_pixel_covers_its_grain_of_the_ground():
  _, g = ground()
  step = g.z[0, 40, 32] - g.z[0, 39, 32]
  assert g.grain[0, 40, 0] == pytest.approx(step, rel=0.1)


@pytest.mark.parametrize('place', places.PLACES)
def test_grounds_have_colours_of_surfaces(place):
  _, g = ground()
  albedo = places.PLACES[place].albedo(g, np.array([1.0, 2.0]), TIME)
  for channel in albedo:
    channel = np.broadcast_to(channel, (3, 64, 64))
    assert np.isfinite(channel).all()
    assert (channel >= 0).all() and np.quantile(channel, 0.99) < 1.3
  means = [float(np.mean(c)) for c in albedo]
  if place == 'grass':
    assert means[1] > 1.5 * max(means[0], means[2])
  if place == 'sand':
    assert means[0] > means[1] > means[2]


def test_far_grounds_do_not_alias():
  """What a pixel shows at the horizon is the mean, not one of the squares."""
  _, g = ground(height=0.5, ahead=200.0)
  red = places.checker(g, np.array([0.3, 0.2]), TIME)[0][0]
  near, far = red[60:], red[33]
  assert np.ptp(near) > 0.3
  assert np.ptp(far) < 0.12
  assert far.mean() == pytest.approx((0.07 + 0.69) / 2, abs=0.05)


def test_squares_of_the_checker_are_one_unit_wide():
  _, g = ground(batch.Size(256, 256, 3), height=6.0, ahead=0.5)
  red = places.checker(g, np.zeros(2), TIME)[0][0]
  row = red[128]
  flips = np.flatnonzero(np.diff(np.sign(row - 0.38)))
  x = g.x[0, 128, flips]
  np.testing.assert_allclose(np.diff(x), 1, atol=0.05)


def test_noise_is_smooth_repeats_and_is_read_between_texels():
  tile = places.noise()
  assert tile.mean() == pytest.approx(0, abs=1e-5)
  assert tile.std() == pytest.approx(1, abs=1e-5)
  at = np.array([[3.0, 3.5, 255.5, 259.0]], np.float32)
  read = places.sample(at, np.full_like(at, 7.0))[0]
  expected = [
    tile[7, 3],
    (tile[7, 3] + tile[7, 4]) / 2,
    (tile[7, 255] + tile[7, 0]) / 2,
    tile[7, 3],
  ]
  np.testing.assert_allclose(read, expected, atol=1e-6)


def test_mirrors_follow_schlick():
  steep = np.array([1.0, 0.5, 0.0], np.float32)
  shares = places.fresnel(steep, 0.04)
  np.testing.assert_allclose(shares, [0.04, 0.04 + 0.96 / 32, 1], rtol=1e-6)


def test_waves_are_slopes_that_run():
  _, g = ground()
  across, down = places.waves(g, TIME)
  assert 0.02 < np.abs(across).max() < 0.3 and np.abs(down).max() < 0.3
  assert np.abs(across[1] - across[0]).max() > 0.01


def test_hours_and_weathers_differ_in_light():
  brightness = {}
  for hour in places.HOURS:
    for weather in places.WEATHERS:
      air = places.air_of(setting(hour=hour, weather=weather))
      brightness[hour, weather] = air.light.sun.sum()
      assert np.linalg.norm(air.light.direction) == pytest.approx(1)
      assert air.light.direction[1] > 0.3
  for weather in places.WEATHERS:
    day, dusk, night = (brightness[h, weather] for h in places.HOURS)
    assert day > dusk > night
  for hour in places.HOURS:
    assert brightness[hour, 'clear'] > brightness[hour, 'fog']
  red, _, blue = places.air_of(setting(hour='dusk')).horizon
  assert red > 2 * blue
  thick, thin = (
    places.air_of(setting(weather=w)).haze[0] for w in ('fog', 'clear')
  )
  assert thick > 10 * thin


def test_the_sky_is_its_horizon_below_and_its_zenith_above():
  for place in ('studio', 'underwater'):
    air = places.air_of(setting(place))
    rise = np.array([[[0.0]], [[1e3]]], np.float32)
    one = np.ones_like(rise)
    colours = places.sky(setting(place), air, rise, one, one)[:, :, 0, 0].T
    np.testing.assert_allclose(colours, [air.horizon, air.zenith], atol=1e-3)
