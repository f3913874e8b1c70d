"""Actors are whole, of their colour, and move their limbs as they should."""

import numpy as np
import pytest

from sora_jax import batch
from sora_jax.data.worlds import (
  actors,
  animals,
  cameras,
  drawing,
  motion,
  scene_captions,
  shapes,
  staging,
)

SIDE = 64
TIME = np.arange(9) / 8
EVENT = {
  'ball': 'roll',
  'cube': 'rest',
  'cylinder': 'roll',
  'cone': 'rest',
  'bicycle': 'ride',
  'car': 'ride',
  'drone': 'fly',
  'butterfly': 'fly',
  'fish': 'swim',
  'diver': 'swim',
  'cat': 'walk',
}
LIGHT = drawing.Light(
  np.array([0.0, 0.8, 0.6]), np.full(3, 0.7), np.full(3, 0.4), np.full(3, 0.3)
)


def acted(name, event=None, colour='red', speed=1.0):
  low = actors.BALL if name == 'ball' else 0.0
  draw = motion.Draw(speed, 0.6, 0.0, np.zeros(3), 0.2, low)
  path = motion.EVENTS[event or EVENT[name]](draw, TIME)
  return path, staging.parts_of(staging.Player(name, colour, path))


def seen(parts, azimuth=0.0):
  aim = np.tile([0.0, 0.8, 0.0], (len(TIME), 1))
  eye = aim + 6 * np.array([np.sin(azimuth), 0.25, np.cos(azimuth)])
  view = cameras.view(cameras.look(eye, aim), batch.Size(SIDE, SIDE, len(TIME)))
  return drawing.draw(parts, view, LIGHT)


def test_there_is_a_builder_for_every_object():
  assert set(animals.BUILDERS) == set(scene_captions.OBJECTS) == set(EVENT)


@pytest.mark.parametrize('name', EVENT)
def test_an_actor_fills_a_part_of_the_picture_with_its_colour(name):
  for colour in ('red', 'blue'):
    layer = seen(acted(name, colour=colour)[1])
    area = (layer.cover > 0.5).mean((1, 2)) * layer.cover[0].size
    assert (area > 0.025 * SIDE**2).all() and (area < 0.3 * SIDE**2).all()
    light = layer.colour.sum((1, 2, 3))
    strongest = {'red': 0, 'blue': 2}[colour]
    assert light.argmax() == strongest


@pytest.mark.parametrize('name', EVENT)
def test_an_actor_stands_on_the_ground_and_is_about_two_units_long(name):
  event = 'rest' if name in ('drone', 'butterfly', 'cylinder') else None
  path, parts = acted(name, event)
  centre, reach, _ = shapes.joint_bounds([p.shape for p in parts])
  low, high = (centre - reach).min((0, 1)), (centre + reach).max((0, 1))
  # Boxes about round ends are too large, and a butterfly sits on long legs.
  if name not in ('fish', 'diver', 'butterfly', 'cylinder', 'cone'):
    assert low[1] == pytest.approx(0, abs=0.05)
  way = np.ptp(path.position[:, 0])
  assert 0.8 < high[0] - low[0] - way < 2.9


def test_outlines_differ_between_all_actors_from_two_sides():
  for azimuth in (0.0, 0.5):
    masks = {}
    for name in EVENT:
      layer = seen(acted(name)[1], azimuth)
      whole = np.zeros((SIDE, SIDE), bool)
      t = 4
      h, w = layer.cover.shape[1:]
      rows, columns = layer.top[t] + np.arange(h), layer.left[t] + np.arange(w)
      whole[np.ix_(rows, columns)] = layer.cover[t] > 0.5
      masks[name] = whole
    for name, mask in masks.items():
      for other, against in masks.items():
        common = (mask & against).sum() / (mask | against).sum()
        assert (common == 1) == (name == other)
        assert name == other or common < 0.8, (name, other)


@pytest.mark.parametrize(
  'name, radius', [('ball', actors.BALL), ('bicycle', 0.52), ('car', 0.3)]
)
def test_wheels_and_balls_roll_without_slipping(name, radius):
  """The point that touches the ground is at rest: v = omega r."""
  path, parts = acted(name, speed=0.7)
  shape = next(
    p.shape
    for p in parts
    if isinstance(p.shape, shapes.Ellipsoid if name == 'ball' else shapes.Wheel)
  )
  axes = shape.axes
  # The rotation from each time to the next one, about z.
  turn = axes.transpose(0, 2, 1)[1:] @ axes[:-1]
  angle = np.arctan2(turn[:, 1, 0], turn[:, 0, 0])
  # It rolls along x: clockwise as seen from +z.
  np.testing.assert_allclose(angle, -0.7 / 8 / radius, rtol=1e-6)
  if name == 'ball':
    assert shape.centre[0, 1] == pytest.approx(radius)


def test_a_bicycle_at_rest_does_not_turn_its_wheels():
  for event, turns in (('rest', False), ('ride', True)):
    _, parts = acted('bicycle', event)
    wheel = next(p.shape for p in parts if isinstance(p.shape, shapes.Wheel))
    assert (np.ptp(wheel.axes, axis=0).max() > 0.1) == turns


def test_a_bicycle_that_starts_to_ride_turns_its_wheels_ever_faster():
  path, parts = acted('bicycle', 'start')
  wheel = next(p.shape for p in parts if isinstance(p.shape, shapes.Wheel))
  turn = wheel.axes.transpose(0, 2, 1)[1:] @ wheel.axes[:-1]
  angle = -np.arctan2(turn[:, 1, 0], turn[:, 0, 0])
  assert angle[0] == pytest.approx(0, abs=1e-9)
  assert (np.diff(angle) > -1e-9).all() and angle[-1] > 0.1


@pytest.mark.parametrize('name', ['butterfly', 'fish', 'diver', 'cat', 'drone'])
def test_what_is_alive_moves_its_limbs(name):
  path, parts = acted(name)
  offs = [shapes.bounds(p.shape)[0].mean(1) - path.position for p in parts]
  moving = [np.ptp(o, axis=0).max() for o in offs]
  # Limbs move against the body, and the body of an animal but little.
  assert max(moving) > (0.1 if name != 'drone' else 0.02)
  if name == 'drone':
    blades = [p.shape for p in parts if isinstance(p.shape, shapes.Wheel)]
    assert len(blades) == 4
    assert all(np.ptp(b.axes, axis=0).max() > 1 for b in blades)
  if name == 'butterfly':
    wings = [o for o, p in zip(offs, parts, strict=True) if p.pattern]
    assert len(wings) == 4
    # Both sides rise together.
    np.testing.assert_allclose(wings[0][:, 1], wings[2][:, 1], atol=1e-9)
    assert np.ptp(wings[0][:, 1]) > 0.3


def test_feet_of_a_walking_cat_rest_on_the_ground_in_turn():
  """A paw that is down stays where it is, while the body moves on."""
  draw = motion.Draw(0.9, 0.0, 0.0, np.zeros(3), 0.0, 0.0)
  path = motion.roll(draw, np.arange(0, 2, 0.01))
  paws = [
    p.shape.centre
    for p in staging.parts_of(staging.Player('cat', 'white', path))
    if isinstance(p.shape, shapes.Ellipsoid) and p.shape.radii[0] == 0.11
  ]
  assert len(paws) == 4
  down = np.stack([p[:, 1] < 0.0501 for p in paws])
  assert 1.5 < down.sum(0).mean() < 3.2 and down.any(0).all()
  speeds = [
    np.diff(p[:, 0])[d[1:] & d[:-1]] / 0.01
    for p, d in zip(paws, down, strict=True)
  ]
  for speed in speeds:
    assert np.abs(speed.mean()) < 0.25 * 0.9
