"""Rays against simple solids: what of a part each pixel of a window sees.

A pixel's ray is D = (x, y, 1) in a camera's own axes (right, up, forward), so
whatever is linear in D costs one addition of a row and a column, and so do the
coefficients of a quadratic equation for where the ray meets a quadric. All
frames are done at once, each part in the window of pixels that it can touch.

Edges are soft over a pixel: an implicit function divided by the length of its
gradient is the distance from its zero in pixels, to first order, and what a
pixel is covered by is half of it plus that distance.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sora_jax.data.worlds import shapes

NEAR = 0.2  # units; what is nearer than this is not drawn


class View(NamedTuple):
  """A pinhole camera at each frame, in pixels of a size."""

  position: Float[np.ndarray, 'T 3']  # units
  axes: Float[np.ndarray, 'T 3 3']  # rows: right, up and forward
  focal: float  # pixels at distance 1
  width: int
  height: int


class Window(NamedTuple):
  """The rays of a box of pixels, which may lie elsewhere in each frame."""

  x: Float[np.ndarray, 'T 1 w']
  y: Float[np.ndarray, 'T h 1']
  focal: float


class Light(NamedTuple):
  """Directions in the camera's axes at each frame."""

  sun: Float[np.ndarray, 'T 3']  # towards it
  up: Float[np.ndarray, 'T 3']
  half: Float[np.ndarray, 'T 3']  # between the sun and the eye


class Seen(NamedTuple):
  """What a window sees of a shape, each [T h w]."""

  cover: np.ndarray  # of the pixel, 0 to 1
  depth: np.ndarray  # along the camera's forward axis, units
  cosines: list[np.ndarray]  # between the surface and each direction of light
  local: tuple[np.ndarray, ...]  # coordinates in the shape, for patterns


def _f32(a: np.ndarray) -> np.ndarray:
  return np.asarray(a, np.float32)


def linear(c: Float[np.ndarray, 'T 3'], window: Window) -> np.ndarray:
  """c . D at every pixel, [T h w]."""
  c = _f32(c)[:, :, None, None]
  return (c[:, 0] * window.x + c[:, 2]) + c[:, 1] * window.y


def quadratic(s: Float[np.ndarray, 'T 3 3'], window: Window) -> np.ndarray:
  """D . s . D of a symmetric matrix at every pixel, [T h w]."""
  s = _f32(s)[:, :, :, None, None]
  x, y = window.x, window.y
  across = (s[:, 0, 0] * x + 2 * s[:, 0, 2]) * x + s[:, 2, 2]
  down = (s[:, 1, 1] * y + 2 * s[:, 1, 2]) * y
  both = (2 * s[:, 0, 1] * y) * x
  both += across
  both += down
  return both


def soft(distance: np.ndarray) -> np.ndarray:
  """How much of a pixel lies inside an edge at a distance in pixels."""
  distance += np.float32(0.5)
  return np.clip(distance, 0, 1, out=distance)


def slope(f: np.ndarray) -> np.ndarray:
  """Length of the gradient of [T h w] values, per pixel."""
  if min(f.shape[1:]) < 2:
    return np.ones_like(f)
  across, down = np.empty_like(f), np.empty_like(f)
  np.subtract(f[:, :, 1:], f[:, :, :-1], out=across[:, :, 1:])
  across[:, :, 0] = across[:, :, 1]
  np.subtract(f[:, 1:], f[:, :-1], out=down[:, 1:])
  down[:, 0] = down[:, 1]
  return np.sqrt(across * across + down * down) + np.float32(1e-9)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return (a * b).sum(-1)


def _wide(a: np.ndarray) -> np.ndarray:
  """A number a frame, beside [T h w]."""
  return _f32(a)[:, None, None]


def ellipsoid(
  shape: shapes.Ellipsoid, window: Window, light: Light, textured: bool
) -> Seen:
  """With u = M (t D - c), which maps to the unit sphere, |u|^2 = 1 is
  a t^2 - 2 b t + k = 0 with a = D.Q.D, b = g.D, Q = M'M and g = Q c.
  """
  m = shape.axes / shape.radii[:, None]
  q = m.transpose(0, 2, 1) @ m
  f = (m @ shape.centre[:, :, None])[:, :, 0]
  g = (q @ shape.centre[:, :, None])[:, :, 0]
  k = _dot(f, f) - 1
  # The discriminant is a quadratic form in D too.
  s = g[:, :, None] * g[:, None] - k[:, None, None] * q
  root = quadratic(s, window)
  pixel = np.float32(2 / window.focal)
  across, down = (
    linear(s[:, 0] * pixel, window),
    linear(s[:, 1] * pixel, window),
  )
  across *= across
  down *= down
  across += down
  cover = root / np.sqrt(across, out=across).clip(1e-9)
  cover = soft(cover)
  t = linear(g, window)
  t -= np.sqrt(np.maximum(root, 0, out=root), out=root)
  t /= quadratic(q, window)
  # The normal is M'u, whose length squared is again a quadratic in t.
  weight = m / shape.radii[:, None]
  w = weight.transpose(0, 2, 1) @ weight
  length = quadratic(w, window)
  h = (w @ shape.centre[:, :, None])[:, :, 0]
  length *= t
  length -= 2 * linear(h, window)
  length *= t
  length += _wide(_dot(h, shape.centre))
  np.sqrt(np.maximum(length, 1e-6, out=length), out=length)
  np.reciprocal(length, out=length)

  def towards(direction):
    along = (q @ direction[:, :, None])[:, :, 0]
    cosine = linear(along, window)
    cosine *= t
    cosine -= _wide(_dot(along, shape.centre))
    cosine *= length
    return cosine

  local = ()
  if textured:
    local = tuple(
      linear(m[:, i], window) * t - _wide(f[:, i]) for i in range(3)
    )
  return Seen(cover, t, [towards(d) for d in light], local)


def limb(
  shape: shapes.Limb, window: Window, light: Light, textured: bool
) -> Seen:
  """The ray meets the limb where it comes nearest to the axis, less a chord.

  Nearest points of t D and p + s d, with s kept within the segment.
  """
  p, d = shape.start, shape.end - shape.start
  e, b = linear(p, window), linear(d, window)
  a = (window.x * window.x + 1) + window.y * window.y
  s = b * e - a * _wide(_dot(d, p))
  s /= np.maximum(a * _wide(_dot(d, d)) - b * b, np.float32(1e-9))
  np.clip(s, 0, 1, out=s)
  t = (e + s * b) / a
  radius = s * np.float32(shape.radii[1] - shape.radii[0])
  radius += np.float32(shape.radii[0])
  # The distance squared, as (p + s d)^2 - t^2 D^2.
  off = (s * _wide(_dot(d, d)) + _wide(2 * _dot(p, d))) * s + _wide(_dot(p, p))
  off -= t * t * a
  np.maximum(off, 0, out=off)
  chord = np.maximum(radius * radius - off, 0)
  scale = np.float32(window.focal) / np.maximum(t, np.float32(NEAR))
  # What is thinner than a pixel covers no more of it than it is wide.
  cover = soft((radius - np.sqrt(off)) * scale)
  np.minimum(cover, 2 * radius * scale, out=cover)
  t = t - np.sqrt(chord / a)
  radius = 1 / np.maximum(radius, np.float32(1e-4))

  def towards(direction):
    cosine = linear(direction, window)
    cosine *= t
    cosine -= _wide(_dot(p, direction))
    cosine -= s * _wide(_dot(d, direction))
    cosine *= radius
    return cosine

  return Seen(cover, t, [towards(v) for v in light], (s,))


def frustum(
  shape: shapes.Frustum, window: Window, light: Light, textured: bool
) -> Seen:
  """The round side, F = |P|^2 - z^2 - (r + m z)^2 = 0 with P = t D - p, and
  the flat end that faces the camera.
  """
  p, d = shape.start, shape.end - shape.start
  height = np.sqrt(_dot(d, d))
  k = d / height[:, None]
  r, m = shape.radii[0], (shape.radii[1] - shape.radii[0]) / height
  pk = _dot(p, k)
  rest = r - m * pk
  square = k[:, :, None] * k[:, None] * (1 + m * m)[:, None, None]
  q = np.eye(3) - square
  g = p + k * (rest * m - pk)[:, None]
  c = _dot(p, p) - pk * pk - rest * rest
  s = g[:, :, None] * g[:, None] - c[:, None, None] * q
  root = quadratic(s, window)
  pixel = np.float32(2 / window.focal)
  across, down = (
    linear(s[:, 0] * pixel, window),
    linear(s[:, 1] * pixel, window),
  )
  side = soft(root / (np.sqrt(across * across + down * down) + 1e-9))
  a = quadratic(q, window)
  t = (linear(g, window) - np.sqrt(np.maximum(root, 0))) / np.maximum(a, 1e-6)
  z = linear(k, window) * t - _wide(pk)
  steep = 1 / slope(z)
  side = np.minimum(side, soft(z * steep))
  side = np.minimum(side, soft((_wide(height) - z) * steep))
  radius = np.maximum(np.float32(r) + _wide(m) * z, 1e-3)
  lean = _wide(1 / np.sqrt(1 + m * m))

  def towards(direction):
    cosine = linear(direction, window) * t - _wide(_dot(p, direction))
    cosine -= (z + radius * _wide(m)) * _wide(_dot(k, direction))
    return cosine / radius * lean

  normals = [towards(v) for v in light]
  # The end on the camera's side of the other one.
  last = pk + height < 0
  centre = np.where(last[:, None], shape.end, p)
  reach = np.where(last, shape.radii[1], r)
  out = np.where(last, 1.0, -1.0)
  seen = last | (pk > 0)
  plane = _away(linear(k, window))
  depth = _wide(_dot(centre, k)) / plane
  a = (window.x * window.x + 1) + window.y * window.y
  far = a * depth * depth - 2 * depth * linear(centre, window)
  far = np.sqrt(np.maximum(far + _wide(_dot(centre, centre)), 0))
  end = soft((_wide(reach) - far) / slope(far))
  # Towards its horizon a plane's slope is too steep to say what is near.
  end *= (depth > NEAR) & (far < _wide(1.3 * reach * seen))
  cover = np.minimum(side + end, 1)
  share = end / np.maximum(side + end, np.float32(1e-6))
  normals = [
    n + share * (_wide(out * _dot(k, v)) - n)
    for n, v in zip(normals, light, strict=True)
  ]
  return Seen(cover, np.where(end > side, depth, t), normals, (z,))


def _away(a: np.ndarray) -> np.ndarray:
  """Keeps a divisor away from zero."""
  return np.where(np.abs(a) < 1e-6, np.float32(1e-6), a)


def block(
  shape: shapes.Block, window: Window, light: Light, textured: bool
) -> Seen:
  """Faces that look at the camera, as polygons that meet without a seam."""
  faces = shape.corners[:, shapes.FACES]
  ahead = np.maximum(faces[..., 2:], NEAR)
  lines = shapes.sides(faces[..., :2] / ahead) * window.focal
  out = np.cross(
    faces[:, :, 2] - faces[:, :, 0], faces[:, :, 3] - faces[:, :, 1]
  )
  out /= np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-9)
  centre = faces.mean(2)
  inwards = _dot(out, centre - shape.corners.mean(1)[:, None]) < 0
  out *= np.where(inwards, -1, 1)[..., None]
  plane = _dot(out, centre)
  size = (len(faces), window.y.shape[1], window.x.shape[2])
  total = np.zeros((5, *size), np.float32)
  for i in np.flatnonzero((plane < 0).any(0)):
    part = linear(lines[:, i, 0], window)
    for k in range(1, 4):
      np.minimum(part, linear(lines[:, i, k], window), out=part)
    part = soft(part) * _wide(plane[:, i] < 0)
    total[0] += part
    total[1] += part * (_wide(plane[:, i]) / _away(linear(out[:, i], window)))
    for k, direction in enumerate(light, 2):
      total[k] += part * _wide(_dot(out[:, i], direction))
  total[1:] /= np.maximum(total[0], np.float32(1e-6))
  return Seen(np.minimum(total[0], 1), total[1], list(total[2:]), ())


def wheel(
  shape: shapes.Wheel, window: Window, light: Light, textured: bool
) -> Seen:
  """The plane of the wheel, and in it a ring and lines through the centre."""
  centre, axle = shape.centre, shape.axes[:, 2]
  plane = _away(linear(axle, window))
  t = _wide(_dot(centre, axle)) / plane
  u, v = (
    linear(shape.axes[:, i] / shape.radius, window) * t
    - _wide(_dot(centre, shape.axes[:, i]) / shape.radius)
    for i in (0, 1)
  )
  r = np.sqrt(u * u + v * v)
  steep = 1 / slope(r)
  rim = soft((1 - r) * steep)
  ring = np.minimum(rim, soft((r - np.float32(shape.tyre)) * steep))
  # Where the ring is thinner than a pixel, it covers no more than that.
  ring = np.minimum(ring, np.float32(1 - shape.tyre) * steep)
  lines = np.zeros_like(r)
  for i in range(shape.spokes):
    angle = np.pi * i / shape.spokes
    off = np.abs(u * np.float32(np.sin(angle)) - v * np.float32(np.cos(angle)))
    np.maximum(lines, 1 - off * steep, out=lines)
  lines = np.minimum(np.maximum(lines, np.float32(shape.veil)) * rim, 1)
  cover = np.maximum(ring, lines) * ((t > NEAR) & (r < 1.3))
  side = np.where(_dot(centre, axle) > 0, -1.0, 1.0)
  cosines = [
    np.broadcast_to(_wide(side * _dot(axle, d)), cover.shape) for d in light
  ]
  inner = ring / np.maximum(np.maximum(ring, lines), np.float32(1e-6))
  return Seen(cover, t, cosines, (u, v, inner))


TRACERS: dict[type, Callable[..., Seen]] = {
  shapes.Ellipsoid: ellipsoid,
  shapes.Limb: limb,
  shapes.Frustum: frustum,
  shapes.Block: block,
  shapes.Wheel: wheel,
}


def outlines(
  centre: Float[np.ndarray, 'T N 3'],
  reach: Float[np.ndarray, 'T N 3'],
  counts: list[int],
  view: View,
) -> Int[np.ndarray, 'n 4 T']:
  """Left, top, right and bottom pixels (exclusive) that each shape can touch.

  Kept within the picture; all 0 where there is nothing in it.

  Args:
    centre: of upright boxes in the camera's axes, those of a shape in a row.
    reach: half their sides.
    counts: how many boxes each shape has.
    view: the camera.
  """
  # A sphere's outline is a little wider than its shadow from its centre.
  ahead = np.maximum(centre[:, :, 2] - reach[:, :, 2] / 3, NEAR)
  scale = view.focal / ahead
  x, y = centre[:, :, 0] * scale, centre[:, :, 1] * scale
  dx, dy = reach[:, :, 0] * (1.05 * scale), reach[:, :, 1] * (1.05 * scale)
  first = np.cumsum([0, *counts[:-1]])
  low = lambda v: np.minimum.reduceat(v, first, axis=1)
  high = lambda v: np.maximum.reduceat(v, first, axis=1)
  edges = np.stack([
    np.floor(low(x - dx) + (view.width / 2 - 1)),
    np.floor(view.height / 2 - 1 - high(y + dy)),
    np.ceil(high(x + dx) + (view.width / 2 + 1)),
    np.ceil(view.height / 2 + 1 - low(y - dy)),
  ])
  most = np.array([view.width, view.height] * 2)[:, None, None]
  edges = np.clip(edges, 0, most).astype(int)
  gone = low(centre[:, :, 2]) < NEAR
  gone |= (edges[2:] <= edges[:2]).any(0)
  edges[:, gone] = 0
  return edges.transpose(2, 0, 1)
