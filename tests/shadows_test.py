"""Shadows lie where lines to the sun meet an actor."""

import numpy as np
import pytest

from sora_jax import batch
from sora_jax.data.worlds import actors, cameras, drawing, shadows, shapes

SIZE = batch.Size(96, 96, 1)
# From straight above; the picture's right is x, its upper side -z.
EYE = np.array([[0.0, 12.0, 1e-3]])
VIEW = cameras.view(cameras.look(EYE, np.zeros((1, 3))), SIZE)
SCALE = VIEW.focal / 12  # pixels per unit on the ground
SUN = np.array([0.6, 0.8, 0.0])
OVERHEAD = np.array([0.0, 1.0, 0.0])


def dark(part, sun=SUN):
  """How dark the ground is in the whole picture."""
  shadow = shadows.cast([part], VIEW, sun)
  whole = np.zeros((96, 96))
  _, h, w = shadow.light.shape
  top, left = int(shadow.top[0]), int(shadow.left[0])
  whole[top : top + h, left : left + w] = 1 - shadow.light[0]
  return whole


def centre(image):
  rows, columns = np.indices(image.shape) + 0.5
  x, z = columns - 48, rows - 48
  return np.array([(v * image).sum() / image.sum() / SCALE for v in (x, z)])


BALL = actors.egg([[0.5, 1.0, -0.5]], [0.6] * 3, (1.0, 1.0, 1.0))


def test_a_ball_throws_an_ellipse_away_from_the_sun():
  image = dark(BALL)
  # A line at slope 4 / 3 falls 1 unit within 0.75.
  np.testing.assert_allclose(centre(image), [0.5 - 0.75, -0.5], atol=0.03)
  # Stretched by 1 over the sine of the sun's height.
  assert image.sum() / SCALE**2 == pytest.approx(np.pi * 0.36 / 0.8, rel=0.05)
  assert image.max() == pytest.approx(1)


@pytest.mark.parametrize(
  'part, area',
  [
    (
      actors.limb([-1.0, 0.5, 0], [1.0, 0.5, 0], 0.3, (1.0, 1.0, 1.0)),
      1.2 + np.pi * 0.09,
    ),
    (actors.block([-0.6, 0, -0.4], [0.6, 1.0, 0.4], (1.0, 1.0, 1.0)), 0.96),
    (
      drawing.Part(
        shapes.Wheel(
          np.array([[0, 0.5, 0.0]]),
          np.array([[[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]]]),
          1.0,
          0.5,
          0,
          0.85,
        ),
        (1.0, 1.0, 1.0),
      ),
      np.pi,
    ),
  ],
)
def test_the_sun_overhead_draws_outlines(part, area):
  image = dark(part, OVERHEAD)
  assert image.sum() / SCALE**2 == pytest.approx(area, rel=0.1)
  np.testing.assert_allclose(centre(image), 0, atol=0.03)


def test_a_box_throws_a_longer_shadow_from_a_lower_sun():
  part = actors.block([-0.5, 0, -0.5], [0.5, 1.0, 0.5], (1.0, 1.0, 1.0))
  image = dark(part)
  # Its foot, and the way of its upper edge: 1 unit down within 0.75.
  assert image.sum() / SCALE**2 == pytest.approx(1 + 0.75, rel=0.08)
  assert image[48, 48 - int(1.1 * SCALE)] > 0.9
  assert image[48, 48 + int(0.7 * SCALE)] == 0


def test_penumbrae_widen_with_height():
  widths = []
  for height in (0.7, 2.5):
    part = actors.egg([[0, height, 0]], [0.6] * 3, (1.0, 1.0, 1.0))
    row = dark(part, OVERHEAD)[48]
    widths.append(((row > 0.02) & (row < 0.98)).sum())
  assert widths[1] > 2 * widths[0]


def test_no_shadow_of_what_is_far_away():
  part = actors.egg([[40.0, 1, 0]], [0.6] * 3, (1.0, 1.0, 1.0))
  assert shadows.cast([part], VIEW, SUN) is None
