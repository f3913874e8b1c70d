"""Soft shadows of parts on the ground, each in closed form.

A point of the ground is dark where its line to the sun meets a part. Instead of
many lines to a sun of some width, the edge of the shadow is widened with the
height of the part above the ground, as a penumbra is.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sora_jax.data.worlds import drawing, places, shapes, tracing

PENUMBRA = 0.16  # width of the edge, of the distance to the part
SHARPEST = 0.05  # units


class Shadow(NamedTuple):
  """The light that reaches the ground in a window of each frame."""

  left: np.ndarray
  top: np.ndarray
  light: Float[np.ndarray, 'T h w']  # of the sun, 0 to 1


def _wide(a: np.ndarray) -> np.ndarray:
  return np.asarray(a, np.float32)[:, None, None]


def _ellipsoid(shape: shapes.Ellipsoid, x, z, sun) -> np.ndarray:
  """With f = M (p - c) and e = M sun, the line passes the unit sphere's centre
  at a distance of |f|^2 - (f.e)^2 / |e|^2, squared.
  """
  m = shape.axes / shape.radii[:, None]
  e = m @ sun
  e /= np.linalg.norm(e, axis=-1, keepdims=True)
  n = m.transpose(0, 2, 1) @ (np.eye(3) - e[:, :, None] * e[:, None]) @ m
  c = shape.centre
  foot = c - sun * (c[:, 1:2] / sun[1])
  u, v = x - _wide(foot[:, 0]), z - _wide(foot[:, 2])
  square = (_wide(n[:, 0, 0]) * u + _wide(2 * n[:, 0, 2]) * v) * u
  square += _wide(n[:, 2, 2]) * v * v
  far = np.sqrt(np.maximum(square, 0))
  size = np.sqrt(np.linalg.det(n[:, ::2, ::2]) + 1e-9) ** -0.5
  wide = (SHARPEST + PENUMBRA * c[:, 1]) / size
  return np.clip((1 - far) / _wide(wide) + 0.5, 0, 1) * _wide(
    np.minimum(1, 1.5 / wide)
  )


def _limb(shape: shapes.Limb | shapes.Frustum, x, z, sun) -> np.ndarray:
  """Distance from the shadow of the axis, as a segment."""
  start, end = (
    (p - sun * (p[:, 1:2] / sun[1]))[:, ::2] for p in (shape.start, shape.end)
  )
  along = end - start
  u, v = x - _wide(start[:, 0]), z - _wide(start[:, 1])
  du, dv = _wide(along[:, 0]), _wide(along[:, 1])
  s = (u * du + v * dv) / (du * du + dv * dv + np.float32(1e-6))
  np.clip(s, 0, 1, out=s)
  far = np.hypot(u - s * du, v - s * dv)
  first, last = shape.radii
  radius = np.float32(first) + s * np.float32(last - first)
  height = (shape.start[:, 1] + shape.end[:, 1]) / 2
  wide = SHARPEST + PENUMBRA * height
  thin = np.minimum(1, 1.6 * radius / _wide(wide))
  return np.clip((radius - far) / _wide(wide) + 0.5, 0, 1) * thin


def _block(shape: shapes.Block, x, z, sun) -> np.ndarray:
  """The union of the shadows of its faces, which are polygons."""
  corners = shape.corners
  flat = (corners - sun * (corners[:, :, 1:2] / sun[1]))[:, :, ::2]
  wide = _wide(SHARPEST + PENUMBRA * corners[:, :, 1].mean(1))
  faces = flat[:, shapes.FACES]
  lines = shapes.sides(faces)
  across, along = (
    faces[:, :, 2] - faces[:, :, 0],
    faces[:, :, 3] - faces[:, :, 1],
  )
  area = across[..., 0] * along[..., 1] - across[..., 1] * along[..., 0]
  dark = np.zeros_like(x)
  for i in range(len(shapes.FACES)):
    inside = np.full_like(x, 1e3)
    for k in range(4):
      u, v, w = (_wide(lines[:, i, k, j]) for j in range(3))
      np.minimum(inside, u * x + v * z + w, out=inside)
    # A face in line with the sun throws none, and its sides have no inside.
    inside = np.clip(inside / wide + 0.5, 0, 1) * _wide(abs(area[:, i]) > 1e-6)
    np.maximum(dark, inside, out=dark)
  return dark


def _wheel(shape: shapes.Wheel, x, z, sun) -> np.ndarray:
  """A ring: a flat ellipsoid without a smaller one."""
  outer = np.array([shape.radius, shape.radius, 0.03])
  inner = outer * [shape.tyre, shape.tyre, 0.5]
  ring, hole = (
    _ellipsoid(shapes.Ellipsoid(shape.centre, shape.axes, r), x, z, sun)
    for r in (outer, inner)
  )
  return np.clip(ring - hole * np.float32(0.85 - shape.veil), 0, 1)


_DARK: dict[type, Callable[..., np.ndarray]] = {
  shapes.Ellipsoid: _ellipsoid,
  shapes.Limb: _limb,
  shapes.Frustum: _limb,
  shapes.Block: _block,
  shapes.Wheel: _wheel,
}


def _boxes(
  parts: list[drawing.Part], view: tracing.View, sun: Float[np.ndarray, '3']
) -> Int[np.ndarray, 'n 4 T']:
  """The pixels that the shadow of each part can touch."""
  centre, reach, counts = shapes.joint_bounds([p.shape for p in parts])
  feet = centre - sun * (centre[:, :, 1:2] / sun[1])
  edge = PENUMBRA * centre[:, :, 1:2] + SHARPEST
  wide = 1.3 * reach.max(-1, keepdims=True) / sun[1] + edge
  corners = np.array([[x, 0, z] for x in (-1, 1) for z in (-1, 1)])
  feet = feet[:, :, None] + wide[:, :, None] * corners
  feet = feet.reshape(len(feet), -1, 3) * [1, 0, 1] - view.position[:, None]
  feet = feet @ view.axes.transpose(0, 2, 1)
  counts = [4 * n for n in counts]
  boxes = tracing.outlines(feet, np.zeros_like(feet), counts, view)
  # What reaches behind the camera may be anywhere in the picture.
  first = np.cumsum([0, *counts[:-1]])
  behind = np.minimum.reduceat(feet[:, :, 2], first, axis=1) < tracing.NEAR
  frame = np.array([0, 0, view.width, view.height])
  return np.where(behind.T[:, None], frame[:, None], boxes)


def cast(
  parts: list[drawing.Part], view: tracing.View, sun: Float[np.ndarray, '3']
) -> Shadow | None:
  """The shadow of an actor, or None where none is in the picture.

  Args:
    parts: of one actor, in the world's axes.
    view: the camera.
    sun: direction towards the light.
  """
  boxes = _boxes(parts, view, sun)
  left, top, width, height = drawing.window_of(boxes, view)
  if not width or not height:
    return None
  window = drawing.rays(view, left, top, width, height)
  ground = places.ground_of(view, window)
  light = np.ones((len(left), height, width), np.float32)
  for part, edges in zip(parts, boxes, strict=True):
    own = edges[2] > edges[0]
    if not own.any():
      continue
    columns = slice((edges[0] - left)[own].min(), (edges[2] - left)[own].max())
    rows = slice((edges[1] - top)[own].min(), (edges[3] - top)[own].max())
    dark = _DARK[type(part.shape)](
      part.shape, ground.x[:, rows, columns], ground.z[:, rows, columns], sun
    )
    region = light[:, rows, columns]
    np.minimum(region, 1 - np.float32(part.shadow) * dark, out=region)
  return Shadow(left, top, light)
