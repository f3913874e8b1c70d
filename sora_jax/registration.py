"""Frames that lead to a known one, moved so that they meet it.

What a network paints before a known clip ends in that clip's first frame, as
the network has it: a ball there is where it should be to a pixel or so, and
would jump by that much. How far each pixel is off is told by that one frame,
which there is twice; the frames before it are moved along, the earlier the
less. Source: Lucas & Kanade 1981, in windows, and again at what is left.
"""

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

Frame = UInt8[np.ndarray, 'H W 3']
Image = Float[np.ndarray, 'H W 3']
Flow = Float[np.ndarray, 'H W 2']  # pixels, down and right

LEAD = 12  # frames that are moved, ever more towards the one after them
ROUNDS = 12
SIDE = 128  # pixels of a short side at most, where a flow is looked for
# Parts of the short side: of a window, and the most that anything is moved.
WINDOW, FARTHEST = 1 / 8, 1 / 16
# What is added to the squared slopes of a window, (levels of 255 a pixel)^2:
# where nothing is seen nothing moves.
DAMPING = 25.0
HARM = 0.5  # levels of 255 by which a place is worse
# A flow that leaves more of the difference than this explains too little.
MOST_LEFT = 0.9


def meet(
  lead: UInt8[np.ndarray, 'K H W 3'], painted: Frame, known: Frame
) -> UInt8[np.ndarray, 'K H W 3']:
  """The frames before a known one, moved to it.

  Args:
    lead: K frames that were painted before, up to LEAD.
    painted: What was painted after them.
    known: What comes after them instead.

  Returns:
    As they are, if what was painted is something else and not elsewhere.
  """
  flow = between(painted, known)
  left = np.abs(_warp(painted, flow) - known).mean()
  whole = np.abs(painted.astype(np.float32) - known).mean()
  farthest = FARTHEST * min(known.shape[:2])
  if left > MOST_LEFT * whole or np.abs(flow).max() > farthest:
    return lead
  moved = lead.copy()
  for k in range(1, len(lead) + 1):
    warped = _warp(lead[-k], (1 - k / (len(lead) + 1)) * flow, order=3)
    moved[-k] = np.rint(warped).clip(0, 255)
  return moved


def between(image: Frame, target: Frame) -> Flow:
  """Where in an image each pixel of another one is, relative to itself."""
  scale = max(1, min(image.shape[:2]) // SIDE)
  small, wanted = (_shrunk(frame, scale) for frame in (image, target))
  width = WINDOW * min(small.shape[:2])
  flow = np.zeros((*small.shape[:2], 2), np.float32)
  for _ in range(ROUNDS):
    here = _warp(small, flow)
    down, right = np.gradient(here, axis=(0, 1))
    products = np.stack(
      [
        (a * b).sum(-1)
        for a, b in (
          *((down, down), (down, right), (right, right)),
          *((down, wanted - here), (right, wanted - here)),
        )
      ],
      axis=-1,
    )
    dd, dr, rr, de, re = np.moveaxis(_blurred(products, width), -1, 0)
    dd, rr = dd + DAMPING, rr + DAMPING
    step = np.stack([rr * de - dr * re, dd * re - dr * de], axis=-1)
    flow = _blurred(flow + step / (dd * rr - dr * dr)[..., None], 1.0)
  flow *= _blurred(_gain(small, wanted, flow, width / 4), 1.0)
  if scale == 1:
    return flow
  # Squares' middles, in which the flow is known, and the pixels between them.
  at = (np.indices(image.shape[:2], np.float32) + 0.5) / scale - 0.5
  parts = (
    ndimage.map_coordinates(part, at, order=1, mode='nearest')
    for part in np.moveaxis(flow, -1, 0)
  )
  return scale * np.stack(list(parts), axis=-1)


def _gain(
  image: Image, target: Image, flow: Flow, width: float
) -> Float[np.ndarray, 'H W 1']:
  """1 where a flow makes nothing worse, and 0 where it does.

  So ground that stands still is not moved with what stands before it.
  """
  without, left = (
    _blurred(np.abs(x - target).mean(-1, keepdims=True), width)
    for x in (image, _warp(image, flow))
  )
  return (1 - (left - without) / HARM).clip(0, 1)


def _shrunk(image: Frame, scale: int) -> Float[np.ndarray, 'h w 3']:
  """Means of squares of so many pixels a side; of whole ones alone."""
  height, width = (side // scale * scale for side in image.shape[:2])
  squares = (
    image[:height, :width]
    .astype(np.float32)
    .reshape(height // scale, scale, width // scale, scale, 3)
  )
  return squares.mean(axis=(1, 3))


def _blurred(
  x: Float[np.ndarray, 'H W C'], width: float
) -> Float[np.ndarray, 'H W C']:
  return ndimage.gaussian_filter(x, (width, width, 0), mode='nearest')


def _warp(image: Frame | Image, flow: Flow, order: int = 1) -> Image:
  """The image at each pixel's place plus its flow, by splines of an order."""
  at = np.indices(flow.shape[:2], np.float32) + np.moveaxis(flow, -1, 0)
  channels = (
    ndimage.map_coordinates(channel, at, order=order, mode='nearest')
    for channel in np.moveaxis(image.astype(np.float32), -1, 0)
  )
  return np.stack(list(channels), axis=-1)
