"""What is drawn over a picture as short bright lines: rain, ripples, bubbles.

Everything is a set of segments in the world at each frame, of a width of one
pixel and a strength that grows with the picture's side, so that a larger
picture of a scene shows the same.
"""

import numpy as np
from jaxtyping import Float

from sora_jax.data.worlds import tracing

DROPS = 90
SPLASHES = 26
SPEED = 9.0  # of rain, units/s
EXPOSURE = 0.035  # seconds that a drop is seen for
SPLASH = 0.45  # seconds that a splash lasts
RING = 10  # segments of a ripple
REGION = np.array([9.0, 5.0, 9.0])  # of rain, about the scene, units
BUBBLES = 14  # of one diver
RISE = 0.9  # of bubbles, units/s


def project(
  points: Float[np.ndarray, 'T n 3'], view: tracing.View
) -> tuple[Float[np.ndarray, 'T n 2'], Float[np.ndarray, 'T n']]:
  """Column and row in pixels, and distance ahead, of points in the world."""
  seen = (points - view.position[:, None]) @ view.axes.transpose(0, 2, 1)
  ahead = np.maximum(seen[:, :, 2], tracing.NEAR)
  column = view.width / 2 + view.focal * seen[:, :, 0] / ahead
  row = view.height / 2 - view.focal * seen[:, :, 1] / ahead
  return np.stack([column, row], -1), seen[:, :, 2]


def streaks(
  start: Float[np.ndarray, 'T n 3'],
  end: Float[np.ndarray, 'T n 3'],
  strength: Float[np.ndarray, 'T n'],
  view: tracing.View,
) -> Float[np.ndarray, 'T H W']:
  """How much of each pixel segments cover, each shared by pixels beside it."""
  (a, near), (b, _) = project(start, view), project(end, view)
  shown = (near > 2 * tracing.NEAR) & (strength > 0.01)
  shown &= np.abs(b - a).max(-1) < min(view.width, view.height) / 2
  frame, a, b = np.nonzero(shown)[0], a[shown], b[shown]
  # A point for each pixel of its length, and one at least.
  length = np.abs(b - a).max(-1)
  counts = np.maximum(np.ceil(length), 1).astype(int)
  which = np.repeat(np.arange(len(a)), counts)
  step = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
  part = ((step + 0.5) / counts[which])[:, None]
  at = a[which] + (b - a)[which] * part - 0.5
  weight = (np.maximum(length, 1) / counts * strength[shown])[which]
  low = np.floor(at).astype(int)
  off = at - low
  indices, values = [], []
  for i in (0, 1):
    for j in (0, 1):
      x, y = low[:, 0] + i, low[:, 1] + j
      share = np.abs(1 - i - off[:, 0]) * np.abs(1 - j - off[:, 1])
      inside = (x >= 0) & (x < view.width) & (y >= 0) & (y < view.height)
      index = (frame[which] * view.height + y) * view.width + x
      indices.append(index[inside])
      values.append((share * weight)[inside])
  pixels = len(start) * view.height * view.width
  total = np.bincount(np.concatenate(indices), np.concatenate(values), pixels)
  total = np.minimum(total, 1).astype(np.float32)
  return total.reshape(-1, view.height, view.width)


def rain(
  seed: Float[np.ndarray, 'n 4'],
  time: Float[np.ndarray, ' T'],
  wind: float,
  view: tracing.View,
) -> Float[np.ndarray, 'T H W']:
  """Drops that fall, and again from above when they reach the ground.

  Args:
    seed: numbers in [0, 1) of each drop.
    time: of each frame, seconds.
    wind: sideways speed, of the speed of falling.
    view: the camera.
  """
  way = np.array([wind, -1.0, 0.3 * wind]) * SPEED
  pace = (0.85 + 0.3 * seed[:, 3])[:, None]
  gone = time[:, None, None] * way * pace
  place = (seed[:, :3] * REGION + gone) % REGION - [
    REGION[0] / 2,
    0,
    REGION[2] / 2,
  ]
  scale = min(view.width, view.height) / 64
  strength = np.full(place.shape[:2], 0.3 * min(scale, 1.5))
  return streaks(place, place - way * pace * EXPOSURE, strength, view)


def splashes(
  seed: Float[np.ndarray, 'n 4'],
  time: Float[np.ndarray, ' T'],
  wet: bool,
  view: tracing.View,
) -> Float[np.ndarray, 'T H W']:
  """Rings that spread where drops hit the ground, and drops that leap up.

  Args:
    seed: numbers in [0, 1) of each place where drops fall in turn.
    time: of each frame, seconds.
    wet: whether the ground is water, on which rings spread further.
    view: the camera.
  """
  turn = time[:, None] / SPLASH + seed[:, 3]
  since = (turn % 1)[..., None]
  # Every new drop falls elsewhere.
  moved = (seed[:, :2] + np.floor(turn)[..., None] * [0.618, 0.414]) % 1
  centre = np.zeros((*turn.shape, 3))
  centre[..., 0] = (moved[..., 0] - 0.5) * 7
  centre[..., 2] = (moved[..., 1] - 0.5) * 7
  radius = (0.04 + (0.42 if wet else 0.18) * since)[..., None]
  angle = np.arange(RING + 1) * 2 * np.pi / RING
  circle = np.stack([np.cos(angle), 0 * angle, np.sin(angle)], -1)
  rings = centre[:, :, None] + radius * circle
  strength = np.broadcast_to((1 - since) * 0.45, (*turn.shape, RING))
  frames = len(time)
  starts, ends = (
    rings[:, :, :-1].reshape(frames, -1, 3),
    rings[:, :, 1:].reshape(frames, -1, 3),
  )
  cover = streaks(starts, ends, strength.reshape(frames, -1), view)
  height = 0.35 * 4 * since * (1 - since)
  for x in (-0.3, 0.3):
    low = centre + np.concatenate([x * since, height, 0 * since], -1)
    high = low + [0, 0.07, 0]
    cover += streaks(low, high, (1 - since[..., 0]) * 0.7, view)
  return np.minimum(cover, 1)


def bubbles(
  mouth: Float[np.ndarray, 'T 3'],
  velocity: Float[np.ndarray, 'T 3'],
  seed: Float[np.ndarray, 'n 4'],
  time: Float[np.ndarray, ' T'],
  view: tracing.View,
) -> Float[np.ndarray, 'T H W']:
  """Bubbles that rise from where a diver was when they left it."""
  lasts = 2.4
  age = (time[:, None] / lasts + seed[:, 3]) % 1 * lasts
  place = mouth[:, None] - velocity[:, None] * age[..., None]
  sway = 0.1 * np.sin(6 * age + 6 * seed[:, 0])
  place = place + np.stack(
    [sway + 0.1 * seed[:, 1], RISE * age, sway * 0.5], -1
  )
  tall = (0.05 + 0.06 * seed[:, 2])[:, None] * np.array([0.0, 1.0, 0.0])
  scale = min(view.width, view.height) / 64
  strength = np.full(age.shape, 0.55 * min(scale, 1.5))
  return streaks(place, place + tall, strength, view)


def stars(
  seed: Float[np.ndarray, 'n 4'], view: tracing.View
) -> Float[np.ndarray, 'T H W']:
  """Points of light, far away above the horizon."""
  turn, rise = 2 * np.pi * seed[:, 0], 0.08 + 0.7 * seed[:, 1]
  way = np.stack([np.sin(turn), rise, np.cos(turn)], -1) * 1e3
  place = np.broadcast_to(way, (len(view.axes), *way.shape))
  strength = np.broadcast_to(0.25 + 0.75 * seed[:, 2] ** 2, place.shape[:2])
  return streaks(place, place + 0.1, strength, view)
