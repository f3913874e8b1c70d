"""The shapes that actors are made of, and how they are moved.

Every array has one row for each time, or a single one for a shape that keeps
its place in the axes it is given in. Lengths are units.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Ellipsoid(NamedTuple):
  """Semi-axes along orthogonal directions."""

  centre: Float[np.ndarray, 'T 3']
  axes: Float[np.ndarray, 'T 3 3']  # rows: unit directions
  radii: Float[np.ndarray, ' 3']


class Limb(NamedTuple):
  """A sphere swept along a segment while its radius changes evenly."""

  start: Float[np.ndarray, 'T 3']
  end: Float[np.ndarray, 'T 3']
  radii: tuple[float, float]


class Frustum(NamedTuple):
  """A cylinder or cone with its flat ends."""

  start: Float[np.ndarray, 'T 3']
  end: Float[np.ndarray, 'T 3']
  radii: tuple[float, float]


class Block(NamedTuple):
  """A box with slanted sides; corners in the order of CORNERS."""

  corners: Float[np.ndarray, 'T 8 3']


class Wheel(NamedTuple):
  """A flat ring with spokes, or a disc that lets light through."""

  centre: Float[np.ndarray, 'T 3']
  axes: Float[np.ndarray, 'T 3 3']  # rows: two that turn with it, and the axle
  radius: float
  tyre: float  # inner radius of the ring, of the whole
  spokes: int  # lines through the centre
  veil: float  # how much of the light between the spokes is kept back


CORNERS = np.array([
  [x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)
])
# Corners of each face, one after the other around it.
FACES = np.array([
  (0, 1, 3, 2),
  (4, 6, 7, 5),
  (0, 4, 5, 1),
  (2, 3, 7, 6),
  (0, 2, 6, 4),
  (1, 5, 7, 3),
])

Shape = Ellipsoid | Limb | Frustum | Block | Wheel


def moved(
  shape: Shape,
  turn: Float[np.ndarray, 'T 3 3'],
  shift: Float[np.ndarray, 'T 3'],
) -> Shape:
  """A shape with every point p at turn p + shift; turn may mirror.

  A shape that is given at one time is at all times of turn and shift.
  """

  def point(p):
    return (turn @ p[:, :, None])[:, :, 0] + shift

  back = turn.transpose(0, 2, 1)
  match shape:
    case Ellipsoid(centre, axes, radii):
      return Ellipsoid(point(centre), axes @ back, radii)
    case Limb(start, end, radii):
      return Limb(point(start), point(end), radii)
    case Frustum(start, end, radii):
      return Frustum(point(start), point(end), radii)
    case Block(corners):
      return Block(corners @ back + shift[:, None])
    case Wheel(centre, axes):
      return shape._replace(centre=point(centre), axes=axes @ back)


def bounds(
  shape: Shape,
) -> tuple[Float[np.ndarray, 'T n 3'], Float[np.ndarray, 'S n 3']]:
  """Centres and half sides of upright boxes that hold a shape."""
  match shape:
    case Ellipsoid(centre, axes, radii):
      reach = np.sqrt(((axes * radii[:, None]) ** 2).sum(1))
      return centre[:, None], reach[:, None]
    case Wheel(centre, axes):
      reach = shape.radius * np.sqrt((axes[:, :2] ** 2).sum(1))
      return centre[:, None], reach[:, None]
    case Block(corners):
      return corners, np.zeros((1, 8, 3))
    case Limb(start, end, radii) | Frustum(start, end, radii):
      reach = np.array(radii)[:, None] * np.ones(3)
      return np.stack([start, end], 1), reach[None]


def joint_bounds(
  shapes: list[Shape],
) -> tuple[Float[np.ndarray, 'T N 3'], Float[np.ndarray, 'T N 3'], list[int]]:
  """The boxes of all shapes in a row, and how many each has."""
  centres, reaches = zip(*map(bounds, shapes), strict=True)
  frames = max(len(c) for c in centres)
  whole = [np.broadcast_to(r, (frames, *r.shape[1:])) for r in reaches]
  counts = [c.shape[1] for c in centres]
  return np.concatenate(centres, 1), np.concatenate(whole, 1), counts


def sides(polygon: Float[np.ndarray, '*S n 2']) -> Float[np.ndarray, '*S n 3']:
  """Lines along the sides of convex polygons, positive within them.

  Of a line (a, b, c), a x + b y + c is the distance from it; that of a side
  without length, as at a pyramid's top, is far away from everything.
  """
  start, middle = np.roll(polygon, 1, -2), polygon.mean(-2, keepdims=True)
  along = polygon - start
  normal = np.stack([-along[..., 1], along[..., 0]], -1)
  length = np.linalg.norm(normal, axis=-1, keepdims=True)
  real = length > 1e-9
  normal = normal / np.where(real, length, 1) * real
  offset = -(normal * start).sum(-1, keepdims=True)
  outwards = (normal * middle).sum(-1, keepdims=True) + offset < 0
  line = np.concatenate([normal, offset], -1) * np.where(outwards, -1, 1)
  return np.where(real, line, [0.0, 0.0, 1e3])
