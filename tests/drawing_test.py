"""Parts and layers lie over each other in any order."""

import numpy as np
import pytest

from sora_jax import batch
from sora_jax.data.worlds import actors, cameras, drawing

SIZE = batch.Size(48, 48, 1)
LIGHT = drawing.Light(
  np.array([0.0, 1.0, 0.0]), np.zeros(3), np.ones(3), np.ones(3)
)
EYE, AIM = np.array([[0.0, 1.0, 6.0]]), np.array([[0.0, 1.0, 0.0]])
VIEW = cameras.view(cameras.look(EYE, AIM), SIZE)
AT = np.zeros((1, 3))


def ball(z, colour, radius=1.0, x=0.0, y=1.0):
  colour = tuple(map(float, colour))
  return actors.egg([[x, y, z]], [radius] * 3, colour, gloss=0.0)


def painted(layer):
  picture = np.zeros((3, 1, 48, 48), np.float32)
  drawing.paste(picture, [layer], (0.0, np.zeros(3)))
  return picture[:, 0]


def test_a_nearer_part_hides_a_farther_one_in_any_order():
  near, far = ball(1.0, (1.0, 0, 0), 0.4), ball(-1.0, (0, 1.0, 0))
  one, other = (
    painted(drawing.draw(parts, VIEW, LIGHT))
    for parts in ([near, far], [far, near])
  )
  np.testing.assert_allclose(one, other, atol=1e-6)
  np.testing.assert_allclose(one[:, 24, 24], [1, 0, 0], atol=1e-5)
  # On the edge of the nearer one its colour and the farther one's add to 1.
  np.testing.assert_allclose(one[:2].sum(0)[24, 16:32], 1, atol=1e-5)


def test_layers_are_pasted_by_depth_and_labelled():
  layers = [
    drawing.draw([ball(1.0, (1.0, 0, 0), 0.4)], VIEW, LIGHT),
    drawing.draw([ball(-1.0, (0, 1.0, 0))], VIEW, LIGHT),
  ]
  picture = np.zeros((3, 1, 48, 48), np.float32)
  labels = np.zeros((1, 48, 48), np.uint8)
  drawing.paste(picture, layers, (0.0, np.zeros(3)), labels)
  np.testing.assert_allclose(picture[:, 0, 24, 24], [1, 0, 0], atol=1e-5)
  assert set(np.unique(labels)) == {0, 1, 2}
  assert labels[0, 24, 24] == 1
  assert labels[0, 24, 15] == 2


def test_haze_takes_light_by_the_exponential_law():
  layer = drawing.draw([ball(0.0, (1.0, 0, 0))], VIEW, LIGHT)
  picture = np.zeros((3, 1, 48, 48), np.float32)
  drawing.paste(picture, [layer], (0.2, np.array([0.0, 0.0, 1.0])))
  kept = np.exp(-0.2 * 6)
  np.testing.assert_allclose(
    picture[:, 0, 24, 24], [kept, 0, 1 - kept], rtol=0.02, atol=1e-6
  )


def test_a_mirror_shows_an_actor_upside_down_under_the_ground():
  part = ball(0.0, (1.0, 1.0, 1.0), 0.5, x=0.4, y=1.0)
  view = cameras.view(cameras.look(EYE, AIM - [[0, 1, 0]]), SIZE)
  seen = painted(drawing.draw([part], view, LIGHT))[0]
  image = painted(drawing.draw([part], view, LIGHT, mirror=True))[0]
  below = ball(0.0, (1.0, 1.0, 1.0), 0.5, x=0.4, y=-1.0)
  expected = painted(drawing.draw([below], view, LIGHT))[0]
  np.testing.assert_allclose(image, expected, atol=1e-6)
  assert seen.any() and (seen * image).max() == 0


def test_water_cuts_what_is_below_its_surface():
  part = ball(0.0, (1.0, 1.0, 1.0), 1.0, y=0.0)
  view = cameras.view(cameras.look(EYE, AIM), SIZE)
  whole = drawing.draw([part], view, LIGHT).cover.sum()
  above = drawing.draw([part], view, LIGHT, cut=True).cover.sum()
  below = drawing.draw([part], view, LIGHT, mirror=True, cut=True).cover.sum()
  assert 0.4 < above / whole < 0.65
  # Of a sphere half under water one sees as much of its image, from above.
  assert 0.2 < below / whole < above / whole


def test_a_translucent_part_lets_light_through():
  part = ball(0.0, (1.0, 1.0, 1.0))._replace(opacity=0.4)
  layer = drawing.draw([part], VIEW, LIGHT)
  assert layer.cover.max() == pytest.approx(0.4)


def test_nothing_is_drawn_of_what_is_out_of_the_picture():
  assert drawing.draw([ball(0.0, (1.0, 1, 1), x=30.0)], VIEW, LIGHT) is None
  assert drawing.draw([ball(9.0, (1.0, 1, 1))], VIEW, LIGHT) is None
