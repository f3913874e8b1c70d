"""Parts of an actor into a layer of pixels, and layers into a picture.

A layer is the window that an actor takes of each frame, with colour times
coverage, so that what lies behind shows through soft edges. A part in front of
what is drawn goes over it, one behind goes under, pixel by pixel, so parts come
in any order. Colours are linear light.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from sora_jax.data.worlds import shapes, tracing

SHARP = 16  # exponent of the highlight
FAINT = 0.02  # what covers less of a pixel has no depth there
# From coordinates in a shape, how much of the second colour is seen.
Pattern = Callable[..., np.ndarray]


class Part(NamedTuple):
  """A shape and what it is painted with."""

  shape: shapes.Shape
  colour: tuple[float, float, float]
  second: tuple[float, float, float] | None = None
  pattern: Pattern | None = None
  gloss: float = 0.15
  opacity: float = 1.0
  shadow: float = 1.0  # how dark it is


class Light(NamedTuple):
  """A sun, and the sky and the ground as lights from all sides."""

  direction: Float[np.ndarray, '3']  # towards the sun
  sun: Float[np.ndarray, '3']
  sky: Float[np.ndarray, '3']
  ground: Float[np.ndarray, '3']


class Layer(NamedTuple):
  """What is drawn of an actor."""

  left: Int[np.ndarray, ' T']
  top: Int[np.ndarray, ' T']
  colour: Float[np.ndarray, '3 T h w']  # times cover
  cover: Float[np.ndarray, 'T h w']
  depth: float | Float[np.ndarray, ' T']  # of the actor, units


def window_of(
  boxes: Int[np.ndarray, 'n 4 T'], view: tracing.View
) -> tuple[Int[np.ndarray, ' T'], Int[np.ndarray, ' T'], int, int]:
  """Left and top at each frame, and width and height at all, of all boxes."""
  empty = boxes[:, 2] <= boxes[:, 0]
  low = np.where(empty[:, None], 10**6, boxes[:, :2]).min(0)
  high = boxes[:, 2:].max(0)
  low = np.minimum(low, np.maximum(high, 0))
  width, height = (int(v) for v in (high - low).max(1))
  left = np.clip(low[0], 0, view.width - width)
  top = np.clip(low[1], 0, view.height - height)
  return left, top, width, height


def rays(
  view: tracing.View,
  left: Int[np.ndarray, ' T'],
  top: Int[np.ndarray, ' T'],
  width: int,
  height: int,
) -> tracing.Window:
  """The rays through the centres of the pixels of a window."""
  columns = left[:, None] + np.arange(width) + (0.5 - view.width / 2)
  rows = top[:, None] + np.arange(height) + (0.5 - view.height / 2)
  x = (columns / view.focal).astype(np.float32)[:, None]
  y = (rows / -view.focal).astype(np.float32)[:, :, None]
  return tracing.Window(x, y, view.focal)


def _directions(
  light: Light,
  turn: Float[np.ndarray, 'T 3 3'],
  middle: Float[np.ndarray, 'T 3'],
) -> tracing.Light:
  """Where light comes from in the camera's axes, and the half vector."""
  sun = turn @ light.direction
  half = sun - middle / np.linalg.norm(middle, axis=-1, keepdims=True)
  half /= np.linalg.norm(half, axis=-1, keepdims=True)
  return tracing.Light(sun, turn[:, :, 1], half)


def draw(
  parts: list[Part],
  view: tracing.View,
  light: Light,
  mirror: bool = False,
  cut: bool = False,
) -> Layer | None:
  """Draws the parts of an actor, given in the world's axes.

  Args:
    parts: of one actor.
    view: the camera.
    light: of the scene.
    mirror: whether to draw what a mirror at height 0 shows of it.
    cut: whether what is below height 0 is not seen, as under a water surface.

  Returns:
    A layer, or None where nothing of it is in the picture.
  """
  flip = np.diag([1.0, -1.0 if mirror else 1.0, 1.0])
  turn = view.axes @ flip
  shift = -(view.axes @ view.position[:, :, None])[:, :, 0]
  moved = [shapes.moved(p.shape, turn, shift) for p in parts]
  centres, reaches, counts = shapes.joint_bounds(moved)
  boxes = tracing.outlines(centres, reaches, counts, view)
  left, top, width, height = window_of(boxes, view)
  if not width or not height:
    return None
  window = rays(view, left, top, width, height)
  middle = centres.mean(1)
  directions = _directions(light, turn, middle)
  canvas = np.zeros((5, len(left), height, width), np.float32)
  canvas[4] = 1e6
  for part, shape, edges in zip(parts, moved, boxes, strict=True):
    # The same pixels of the window in every frame, so that they are a view.
    own = edges[2] > edges[0]
    if not own.any():
      continue
    columns = slice((edges[0] - left)[own].min(), (edges[2] - left)[own].max())
    rows = slice((edges[1] - top)[own].min(), (edges[3] - top)[own].max())
    inner = window._replace(x=window.x[..., columns], y=window.y[:, rows])
    trace = tracing.TRACERS[type(shape)]
    seen = trace(shape, inner, directions, part.pattern is not None)
    _add(canvas[:, :, rows, columns], seen, part, light)
  if cut:
    _cut(canvas, view, window, -1 if mirror else 1)
  return Layer(left, top, canvas[:3], canvas[3], middle[:, 2])


def _cut(
  canvas: Float[np.ndarray, '5 T h w'],
  view: tracing.View,
  window: tracing.Window,
  sign: int,
) -> None:
  """Leaves what is above height 0, or in a mirror below it."""
  rise = tracing.linear(view.axes[:, :, 1], window)
  scale = np.float32(sign * view.focal) / np.maximum(canvas[4], 1)
  height = (
    rise * canvas[4] + view.position[:, 1].astype(np.float32)[:, None, None]
  )
  kept = np.clip(height * scale + 0.5, 0, 1)
  canvas[:4] *= np.where(canvas[4] < 1e5, kept, 1)


def _add(
  canvas: Float[np.ndarray, '5 T h w'],
  seen: tracing.Seen,
  part: Part,
  light: Light,
) -> None:
  """Adds a part to a canvas of colour, coverage and depth."""
  cover, behind = seen.cover, canvas[3]
  if part.opacity < 1:
    cover = cover * np.float32(part.opacity)
  front = seen.depth < canvas[4]
  weight = np.where(front, cover, cover * (1 - behind))
  keep = np.where(front, 1 - cover, np.float32(1))
  sun, up, half = seen.cosines
  direct = np.clip(sun, 0, 1)
  sky = np.float32(0.5) + np.float32(0.5) * np.clip(up, -1, 1)
  shine = np.clip(half, 0, 1) ** SHARP if part.gloss else None
  mix = part.pattern(*seen.local) if part.pattern else None
  for k in range(3):
    lit = direct * np.float32(light.sun[k])
    lit += sky * np.float32(light.sky[k] - light.ground[k])
    lit += np.float32(light.ground[k])
    if mix is None or part.second is None:
      lit *= np.float32(part.colour[k])
    else:
      change = part.second[k] - part.colour[k]
      lit *= mix * np.float32(change) + np.float32(part.colour[k])
    if shine is not None:
      bright = part.gloss * (light.sun[k] + 0.3 * light.sky[k])
      lit += shine * np.float32(bright)
    lit *= weight
    canvas[k] *= keep
    canvas[k] += lit
  canvas[3] *= keep
  canvas[3] += weight
  np.copyto(canvas[4], seen.depth, where=front & (cover > FAINT))


def paste(
  picture: Float[np.ndarray, '3 T H W'],
  layers: list[Layer],
  haze: tuple[float, Float[np.ndarray, '3']],
  labels: UInt8[np.ndarray, 'T H W'] | None = None,
) -> None:
  """Puts layers into a picture, the farthest first, and says where each is.

  Args:
    picture: what lies behind them; changed.
    layers: of actors that are not within each other.
    haze: how much light is lost per unit of distance, and to what colour.
    labels: 1 + the layer that a pixel mostly shows; changed.
  """
  if not layers:
    return
  density, air = haze
  depths = np.stack([np.broadcast_to(v.depth, v.left.shape) for v in layers])
  for t in range(depths.shape[1]):
    for which in np.argsort(-depths[:, t], kind='stable'):
      layer = layers[which]
      rows = slice(layer.top[t], layer.top[t] + layer.cover.shape[1])
      columns = slice(layer.left[t], layer.left[t] + layer.cover.shape[2])
      lost = 1 - np.exp(-density * depths[which, t])
      cover = layer.cover[t]
      region = picture[:, t, rows, columns]
      region *= 1 - cover
      region += layer.colour[:, t] * np.float32(1 - lost)
      if density:
        region += cover * (air * lost).astype(np.float32)[:, None, None]
      if labels is not None:
        labels[t, rows, columns][cover > 0.5] = which + 1
