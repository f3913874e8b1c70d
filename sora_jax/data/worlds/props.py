"""What stands about in a place: trees, columns, rocks, weed, a fence of posts.

Props stand behind the actors as the camera first sees them, which gives depth
to its motion; they are no part of what a caption promises.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from sora_jax.data.worlds import actors, drawing, shapes
from sora_jax.data.worlds.actors import Colour, block, egg, limb, points

STONE: Colour = (0.46, 0.41, 0.34)
BARK: Colour = (0.12, 0.07, 0.04)
LEAF: Colour = (0.05, 0.2, 0.035)
ROCK: Colour = (0.3, 0.24, 0.19)
WEED: Colour = (0.03, 0.22, 0.1)


def _column(u: Float[np.ndarray, '4'], time) -> list[drawing.Part]:
  """A column of some height on its base; a whole one has a capital."""
  height = 0.9 + 2.2 * u[2]
  radius = 0.3
  shape = shapes.Frustum(
    points(0, 0.2, 0), points(0, height, 0), (radius, 0.88 * radius)
  )
  parts = [
    block([-0.42, 0, -0.42], [0.42, 0.22, 0.42], STONE, gloss=0.0),
    drawing.Part(
      shape, STONE, second=actors.darker(STONE, 0.6), pattern=_drums, gloss=0.0
    ),
  ]
  if u[3] > 0.5:
    parts.append(
      block([-0.4, height, -0.4], [0.4, height + 0.2, 0.4], STONE, gloss=0.0)
    )
  return parts


def _drums(z):
  """Joints between the drums of a column."""
  return np.clip(6 * np.abs((z / np.float32(0.6)) % 1 - 0.5) - 2.4, 0, 1)


def _tree(u: Float[np.ndarray, '4'], time) -> list[drawing.Part]:
  height = 1.3 + 1.0 * u[2]
  size = 0.62 + 0.25 * u[3]
  sway = 0.04 * np.sin(1.5 * time + 6 * u[2])
  parts = [limb([0, 0, 0], [0, height, 0], (0.16, 0.09), BARK, gloss=0.0)]
  for x, y, z, r in (
    (0, 0.3, 0, 1.0),
    (0.45, -0.05, 0.2, 0.75),
    (-0.45, 0.0, 0.1, 0.8),
    (0.05, 0.75, -0.1, 0.7),
  ):
    centre = points(size * x + sway * (1 + y), height + size * y, size * z)
    leaf = actors.darker(LEAF, 0.85 + 0.4 * r)
    parts.append(
      egg(centre, [size * r, 0.85 * size * r, size * r], leaf, gloss=0.0)
    )
  return parts


def _rock(u: Float[np.ndarray, '4'], time) -> list[drawing.Part]:
  size = 0.3 + 0.45 * u[2]
  turn = actors.about('y', 6 * u[3]) @ actors.about('z', 0.3)
  return [
    egg(
      [[0, 0.25 * size, 0]],
      [size, 0.55 * size, 0.7 * size],
      ROCK,
      turn,
      gloss=0.0,
    ),
    egg(
      [[0.6 * size, 0.1 * size, 0.2 * size]],
      [0.5 * size, 0.35 * size, 0.45 * size],
      actors.darker(ROCK, 0.8),
      turn,
      gloss=0.0,
    ),
  ]


def _weed(u: Float[np.ndarray, '4'], time) -> list[drawing.Part]:
  """Blades that sway in the current."""
  parts = []
  for i in range(3):
    joint = points(0.16 * (i - 1), 0.0, 0.1 * (i % 2))
    for k in range(3):
      lean = 0.35 * np.sin(1.6 * time + 6 * u[3] + 0.8 * k + i) + 0.25 * (i - 1)
      tip = joint + (0.3 + 0.22 * u[2]) * points(
        np.sin(lean), np.cos(lean), 0.0
      )
      radii = (0.07 - 0.02 * k, 0.05 - 0.02 * k)
      parts.append(limb(joint, tip, radii, WEED, gloss=0.1))
      joint = tip
  return parts


def _coral(u: Float[np.ndarray, '4'], time) -> list[drawing.Part]:
  return _weed(u, time) if u[2] > 0.35 else _rock(u, time)


def _cactus(u: Float[np.ndarray, '4'], time) -> list[drawing.Part]:
  if u[3] < 0.5:
    return _rock(u, time)
  green, height = (0.08, 0.22, 0.07), 0.9 + 0.6 * u[2]
  return [
    limb([0, 0, 0], [0, height, 0], (0.17, 0.16), green, gloss=0.0),
    limb([0, 0.4 * height, 0], [0.42, 0.5 * height, 0], 0.1, green, gloss=0.0),
    limb(
      [0.42, 0.5 * height, 0], [0.44, 0.85 * height, 0], 0.1, green, gloss=0.0
    ),
    limb(
      [0, 0.55 * height, 0],
      [-0.36, 0.62 * height, 0.05],
      0.09,
      green,
      gloss=0.0,
    ),
    limb(
      [-0.36, 0.62 * height, 0.05],
      [-0.38, 0.9 * height, 0.05],
      0.09,
      green,
      gloss=0.0,
    ),
  ]


Prop = Callable[[Float[np.ndarray, '4'], np.ndarray], list[drawing.Part]]
# What there is of a place, how many, and how far behind the actors, units.
PROPS: dict[str, tuple[Prop, int, tuple[float, float]]] = {
  'grass': (_tree, 3, (4.0, 9.0)),
  'sand': (_cactus, 3, (3.0, 7.0)),
  'ruins': (_column, 5, (2.6, 6.5)),
  'underwater': (_coral, 4, (2.0, 5.0)),
}


def props_of(
  place: str,
  azimuth: float,
  seed: Float[np.ndarray, 'n 4'],
  time: Float[np.ndarray, ' T'],
) -> list[list[drawing.Part]]:
  """The props of a place, behind the scene as seen from an azimuth.

  Args:
    place: of places.PLACES.
    azimuth: of the camera, radians.
    seed: numbers in [0, 1) of each prop.
    time: of each frame, seconds.
  """
  if place not in PROPS:
    return []
  build, count, (near, far) = PROPS[place]
  turn = actors.about('y', np.array([azimuth]))
  props = []
  for i, u in enumerate(seed[:count]):
    back = near + (far - near) * u[1]
    # One after the other from left to right, over what is seen that far away.
    across = ((i + 0.15 + 0.7 * u[0]) / count - 0.5) * (6.0 + back)
    shift = actors.turned(turn, np.array([across, 0.0, -back]))
    shift = np.broadcast_to(shift, (len(time), 3))
    turns = np.broadcast_to(turn, (len(time), 3, 3))
    props.append([
      p._replace(shape=shapes.moved(p.shape, turns, shift))
      for p in build(u, time)
    ])
  return props
