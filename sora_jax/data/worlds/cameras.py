"""Cameras that stand still, pan, orbit and move closer, in closed form."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sora_jax import batch
from sora_jax.data.worlds import motion, tracing

FOCAL = 1.37  # shorter sides of the picture; 40 degrees across one
LOWEST = 0.35  # units above the ground


class Camera(NamedTuple):
  """Where the camera is and looks, at each frame."""

  position: Float[np.ndarray, 'T 3']  # units
  axes: Float[np.ndarray, 'T 3 3']  # rows: right, up and forward


class Draw(NamedTuple):
  """What is random of a camera."""

  kind: str  # still, pan, orbit or dolly
  azimuth: float  # radians; 0 looks along -z
  elevation: float  # radians
  distance: float  # units
  aim: Float[np.ndarray, '3']  # units
  rate: float  # how far it goes, and which way: from -1 to 1
  follows: bool  # a pan turns after its subject, or sweeps over it


def look(
  position: Float[np.ndarray, 'T 3'], aim: Float[np.ndarray, 'T 3']
) -> Camera:
  """A camera that looks at a point and does not roll."""
  forward = aim - position
  forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
  right = np.cross(forward, [0.0, 1.0, 0.0])
  right /= np.linalg.norm(right, axis=-1, keepdims=True)
  up = np.cross(right, forward)
  return Camera(position, np.stack([right, up, forward], 1))


def camera(
  draw: Draw, time: Float[np.ndarray, ' T'], followed: Float[np.ndarray, 'T 3']
) -> Camera:
  """The camera at each time.

  Args:
    draw: of the camera.
    time: seconds.
    followed: where its subject is.
  """
  since = time - motion.MIDDLE
  azimuth = np.full_like(time, draw.azimuth)
  distance = np.full_like(time, draw.distance)
  aim = np.tile(draw.aim, (len(time), 1))
  if draw.kind == 'orbit':
    azimuth = (
      azimuth
      + 0.55 * np.copysign(0.6 + 0.4 * abs(draw.rate), draw.rate) * since
    )
  elif draw.kind == 'dolly':
    distance = distance * np.exp(-0.25 * np.tanh(since))
  back = np.stack(
    [
      np.sin(azimuth) * np.cos(draw.elevation),
      np.full_like(azimuth, np.sin(draw.elevation)),
      np.cos(azimuth) * np.cos(draw.elevation),
    ],
    -1,
  )
  position = aim + distance[:, None] * back
  if draw.kind == 'pan':
    # Its place stays; it looks further along the way of its subject.
    right = np.array([np.cos(draw.azimuth), 0, -np.sin(draw.azimuth)])
    along = 0.85 * (followed - draw.aim) @ right
    if not draw.follows:
      along = np.copysign(0.55, draw.rate) * np.tanh(since)
    aim = aim + along[:, None] * right
  position[:, 1] = np.maximum(position[:, 1], LOWEST)
  return look(position, aim)


def view(shot: Camera, size: batch.Size) -> tracing.View:
  """A camera in pixels; the shorter side of a picture sees 40 degrees."""
  focal = FOCAL * min(size.width, size.height)
  return tracing.View(shot.position, shot.axes, focal, size.width, size.height)
