"""Solids and vehicles as trees of simple shapes, posed at each time.

An actor is built in axes of its own, x ahead, y up and z to its right, with its
origin on the ground beneath it (a ball's, in its centre), about two units long;
`placed` brings it to where its path says. A builder takes a path, for what
turns with it, and a colour.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from sora_jax.data.worlds import drawing, motion, shapes

Colour = tuple[float, float, float]  # linear light
RUBBER: Colour = (0.02, 0.02, 0.025)
STEEL: Colour = (0.42, 0.44, 0.48)
GLASS: Colour = (0.03, 0.05, 0.08)
LAMP: Colour = (1.0, 0.9, 0.55)
PALE: Colour = (0.85, 0.83, 0.78)

BALL, CUBE = 0.62, 0.55  # radius and half a side, units
CYLINDER = (0.45, 1.3)  # radius and height
CONE = (0.62, 1.5)


def darker(colour: Colour, by: float = 0.45) -> Colour:
  """A darker shade, for what is not an actor's main part."""
  r, g, b = colour
  return (by * r, by * g, by * b)


def paler(colour: Colour, share: float) -> Colour:
  """A pale shade that has some share of a colour, for a belly or a paw."""
  r, g, b = (share * c + 0.9 * (1 - share) for c in colour)
  return (r, g, b)


def contrast(colour: Colour) -> Colour:
  """Pale on dark colours and dark on pale ones, for marks."""
  return PALE if sum(colour) < 1.7 else (0.05, 0.05, 0.07)


def points(*p) -> Float[np.ndarray, 'T 3']:
  """One point from its coordinates, numbers or one for each time."""
  return np.stack(np.broadcast_arrays(*np.atleast_1d(*p)), -1).astype(float)


def about(axis: str, angle) -> Float[np.ndarray, 'T 3 3']:
  """Rotations by an angle in radians, as matrices whose columns turn."""
  c, s = np.cos(np.atleast_1d(angle)), np.sin(np.atleast_1d(angle))
  zero, one = np.zeros_like(c), np.ones_like(c)
  rows = {
    'x': ((one, zero, zero), (zero, c, -s), (zero, s, c)),
    'y': ((c, zero, s), (zero, one, zero), (-s, zero, c)),
    'z': ((c, -s, zero), (s, c, zero), (zero, zero, one)),
  }[axis]
  return np.stack([np.stack(row, -1) for row in rows], -2)


def turned(turn: np.ndarray, point, pivot=(0.0, 0.0, 0.0)) -> np.ndarray:
  """A point turned about a pivot."""
  off = np.asarray(point, float) - np.asarray(pivot, float)
  return (turn @ off[..., None])[..., 0] + pivot


def egg(centre, radii, colour: Colour, turn=None, **paint) -> drawing.Part:
  """An ellipsoid, its axes turned or along the actor's."""
  axes = np.eye(3)[None] if turn is None else turn.transpose(0, 2, 1)
  centre = np.atleast_2d(np.asarray(centre, float))
  shape = shapes.Ellipsoid(centre, axes, np.array(radii, float))
  return drawing.Part(shape, colour, **paint)


def limb(start, end, radii, colour: Colour, **paint) -> drawing.Part:
  """A rounded rod, its radius one number or one at each end."""
  start, end = (np.atleast_2d(np.asarray(p, float)) for p in (start, end))
  radii = radii if isinstance(radii, tuple) else (radii, radii)
  return drawing.Part(shapes.Limb(start, end, radii), colour, **paint)


def block(low, high, colour: Colour, top=(1.0, 1.0), lean=0.0, **paint):
  """A box between two corners, its top narrowed in x and z and moved in x."""
  low, high = np.array(low, float), np.array(high, float)
  middle, half = (low + high) / 2, (high - low) / 2
  narrow = np.array([
    [top[0], 1, top[1]] if y > 0 else [1, 1, 1] for _, y, _ in shapes.CORNERS
  ])
  corners = middle + shapes.CORNERS * half * narrow
  corners[:, 0] += np.where(shapes.CORNERS[:, 1] > 0, lean, 0)
  return drawing.Part(shapes.Block(corners[None]), colour, **paint)


def placed(parts: list[drawing.Part], path: motion.Path) -> list[drawing.Part]:
  """Parts in the world's axes, at every time of the path."""
  turn = about('y', path.heading) @ about('z', path.pitch)
  return [
    p._replace(shape=shapes.moved(p.shape, turn, path.position)) for p in parts
  ]


def band(low: float, high: float, axis: int = 0, edge: float = 0.12):
  """A pattern: second colour between two heights of an ellipsoid's axis."""

  def mix(*u):
    middle, half = (low + high) / 2, (high - low) / 2
    return np.clip((half - np.abs(u[axis] - middle)) / edge + 0.5, 0, 1)

  return mix


def stripes(count: float, axis: int = 0, share: float = 0.5):
  """A pattern of soft stripes across an axis of an ellipsoid."""

  def mix(*u):
    wave = np.sin(np.float32(np.pi * count) * u[axis])
    return np.clip(2.5 * (wave - 1 + 2 * share) + 0.5, 0, 1)

  return mix


def _spinning(path: motion.Path, radius: float) -> np.ndarray:
  """Rolling without slipping: turned by the way gone over the radius."""
  return about('z', -path.travelled / radius)


def ball(path: motion.Path, colour: Colour) -> list[drawing.Part]:
  """A ball with a band around it, by which it is seen to roll."""
  turn = _spinning(path, BALL) @ about('y', 0.5)
  paint = dict(second=contrast(colour), pattern=band(-0.2, 0.2), gloss=0.5)
  return [egg([0, 0, 0], [BALL] * 3, colour, turn, **paint)]


def cube(path: motion.Path, colour: Colour) -> list[drawing.Part]:
  """A cube, its origin in the middle of its lower face."""
  return [block([-CUBE, 0, -CUBE], [CUBE, 2 * CUBE, CUBE], colour)]


def cylinder(path: motion.Path, colour: Colour) -> list[drawing.Part]:
  """A cylinder that stands, or lies across its way and rolls."""
  radius, height = CYLINDER
  if path.vigour == 0:
    ends = points(0, 0, 0), points(0, height, 0)
    return [drawing.Part(shapes.Frustum(*ends, (radius, radius)), colour)]
  ends = points(0, radius, -height / 2), points(0, radius, height / 2)
  barrel = drawing.Part(shapes.Frustum(*ends, (radius, radius)), colour)
  axes = (_spinning(path, radius)).transpose(0, 2, 1)
  marks = [
    drawing.Part(
      shapes.Wheel(points(0, radius, z), axes, 0.97 * radius, 0.9, 1, 0.0),
      contrast(colour),
    )
    for z in (-height / 2 - 0.01, height / 2 + 0.01)
  ]
  return [barrel, *marks]


def cone(path: motion.Path, colour: Colour) -> list[drawing.Part]:
  """A cone that stands."""
  radius, height = CONE
  ends = points(0, 0, 0), points(0, height, 0)
  return [drawing.Part(shapes.Frustum(*ends, (radius, 0.0)), colour)]


def _wheel(
  path: motion.Path, centre, radius: float, colour: Colour, **kind
) -> drawing.Part:
  """A wheel about the axle z; its hub is the second colour of the pattern."""
  axes = _spinning(path, radius).transpose(0, 2, 1)
  shape = shapes.Wheel(points(*centre), axes, radius, **kind)
  return drawing.Part(
    shape,
    RUBBER,
    second=colour,
    pattern=lambda u, v, ring: 1 - ring,
    gloss=0.05,
  )


def bicycle(path: motion.Path, colour: Colour) -> list[drawing.Part]:
  """A bicycle whose wheels and cranks turn as far as it has gone."""
  r = 0.52
  rear, front = np.array([-0.72, r, 0]), np.array([0.78, r, 0])
  bottom, seat = np.array([-0.1, 0.5, 0]), np.array([-0.3, 1.22, 0])
  head, grip = np.array([0.5, 1.2, 0]), np.array([0.44, 1.42, 0])
  tube, thin = 0.055, 0.035
  wheels = [
    _wheel(path, c, r, STEEL, tyre=0.84, spokes=3, veil=0.0)
    for c in (rear, front)
  ]
  lower = np.array([0.54, 1.05, 0])
  frame = [
    limb(bottom, lower, tube, colour),
    limb(seat, head - [0.0, 0.06, 0], tube, colour),
    limb(bottom, seat + [-0.04, 0.16, 0], tube, colour),
    limb(rear, bottom, thin, colour),
    limb(rear, seat, thin, colour),
    limb(front, grip, (thin, tube), colour),
  ]
  top = seat + [-0.05, 0.2, 0]
  rest = [
    egg(top, [0.24, 0.06, 0.12], RUBBER),
    limb(grip + [0, 0, -0.3], grip + [0, 0, 0.3], 0.035, STEEL),
    limb(grip + [0, 0, -0.3], grip + [-0.18, -0.04, -0.3], 0.045, RUBBER),
    limb(grip + [0, 0, 0.3], grip + [-0.18, -0.04, 0.3], 0.045, RUBBER),
  ]
  cranks = about('z', -path.travelled / r / 1.6)
  for side in (-1, 1):
    pedal = turned(cranks, [0.2 * side, 0, 0.1 * side]) + bottom
    rest.append(limb(bottom + [0, 0, 0.1 * side], pedal, 0.03, STEEL))
    rest.append(limb(pedal, pedal + [0, 0, 0.12 * side], 0.05, RUBBER))
  return [*wheels, *frame, *rest]


def car(path: motion.Path, colour: Colour) -> list[drawing.Part]:
  """A car with a cabin of glass, and wheels that turn as far as it has gone."""
  r, width = 0.3, 0.52
  body = block(
    [-1.15, 0.26, -width], [1.15, 0.7, width], colour, (0.96, 0.94), gloss=0.3
  )
  cabin = block(
    [-0.8, 0.7, -0.47],
    [0.55, 1.12, 0.47],
    GLASS,
    (0.66, 0.84),
    -0.06,
    gloss=0.6,
  )
  roof = block(
    [-0.56, 1.11, -0.41], [0.3, 1.18, 0.41], colour, (0.94, 0.94), gloss=0.3
  )
  parts = [body, cabin, roof]
  for side in (-1, 1):
    # Pillars between the windows, in the colour of the body.
    z0, z1 = 0.475 * side, 0.4 * side
    for low, high in ((-0.12, -0.13), (-0.78, -0.54), (0.53, 0.28)):
      parts.append(limb([low, 0.7, z0], [high, 1.13, z1], 0.04, colour))
    parts.append(
      egg([1.13, 0.52, 0.33 * side], [0.06, 0.09, 0.13], LAMP, gloss=0.8)
    )
    parts.append(
      egg([-1.13, 0.52, 0.36 * side], [0.05, 0.09, 0.1], (0.5, 0.01, 0.01))
    )
    for x in (-0.7, 0.7):
      tyre = [x, r, side * (width - 0.05)]
      parts.append(egg(tyre, [r, r, 0.13], RUBBER, gloss=0.0))
      hub = points(x, r, side * (width + 0.085))
      axes = _spinning(path, r).transpose(0, 2, 1)
      shape = shapes.Wheel(hub, axes, 0.72 * r, 0.72, 2, 0.0)
      parts.append(drawing.Part(shape, (0.65, 0.66, 0.7)))
  return parts


def drone(path: motion.Path, colour: Colour) -> list[drawing.Part]:
  """A drone with four rotors, which turn if it is not at rest."""
  lift = 0.42
  parts = [
    egg([0, lift, 0], [0.46, 0.2, 0.3], colour, gloss=0.5),
    egg([0.36, lift - 0.03, 0], [0.14, 0.13, 0.13], GLASS, gloss=0.8),
    egg([-0.05, lift + 0.14, 0], [0.22, 0.08, 0.16], darker(colour), gloss=0.4),
  ]
  for i, (x, z) in enumerate(((1, 1), (1, -1), (-1, 1), (-1, -1))):
    arm = np.array([0.68 * x, lift + 0.12, 0.62 * z])
    parts.append(
      limb([0.2 * x, lift + 0.02, 0.14 * z], arm, (0.085, 0.06), colour)
    )
    parts.append(
      limb(arm + [0, -0.08, 0], arm + [0, 0.1, 0], 0.075, darker(colour))
    )
    parts.append(
      limb(
        [0.22 * x, lift - 0.1, 0.2 * z], [0.3 * x, 0.03, 0.34 * z], 0.035, STEEL
      )
    )
    # Neighbours turn against each other, half a turn in three frames.
    spin = np.pi / 3 * 8 * path.time * path.vigour * (-1) ** i * np.sign(x * z)
    hub = arm + [0, 0.13, 0]
    blur = 0.22 if path.vigour else 0.0
    turn = about('y', spin + 0.4 + i)
    axes = turn.transpose(0, 2, 1)[:, [0, 2, 1]]
    disc = shapes.Wheel(points(*hub), axes, 0.44, 0.94, 0, blur)
    paint = dict(second=STEEL, pattern=lambda u, v, ring: 0 * u + 1, gloss=0.0)
    if path.vigour:
      parts.append(drawing.Part(disc, STEEL, opacity=0.6, shadow=0.3, **paint))
    tip = turned(turn, [0.42, 0, 0])
    parts.append(limb(hub - tip, hub + tip, 0.045, RUBBER))
  for side in (-1, 1):
    foot = np.array([0.42, 0.03, 0.34 * side])
    parts.append(limb(foot * [-1, 1, 1], foot, 0.035, STEEL))
  return parts


Builder = Callable[[motion.Path, Colour], list[drawing.Part]]
