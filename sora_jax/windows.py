"""Long canvases, painted window by window.

A window has as many latents as the model paints at once. It begins with some
that the one before it has finished, and goes on from them. All windows but the
first are led by an anchor, the canvas's first latent, which keeps what is seen
as it was at first (as the first tokens do in arXiv:2309.17453).
"""

from typing import NamedTuple

import numpy as np

from sora_jax import canvas as canvas_lib


class Window(NamedTuple):
  """A part of a canvas that is painted by itself."""

  at: int  # its first latent frame in the canvas, after the anchor
  done: int  # latent frames of the canvas that are finished before it
  frames: int  # latent frames, the anchor included

  @property
  def known(self) -> int:
    """Of its latents, the first ones, which are finished before it."""
    return int(self.at > 0) + self.done - self.at


def split(frames: int, most: int, overlap: int) -> list[Window]:
  """Windows that between them paint a canvas.

  The last one overlaps by more, so that all are of one length.

  Args:
    frames: Latent frames of the canvas.
    most: Of a window.
    overlap: Finished ones that a window goes on from, beside the anchor.
  """
  windows = [Window(0, 0, min(frames, most))]
  while (done := windows[-1].at + most - (len(windows) > 1)) < frames:
    at = min(done - overlap, frames - (most - 1))
    windows.append(Window(at, done, most))
  return windows


def cut(canvas: canvas_lib.Canvas, window: Window) -> canvas_lib.Canvas:
  """The canvas of a window; its finished latents are still to be filled in."""
  if window.frames < canvas.frames:
    canvas = canvas_lib.hide(canvas)
  which = np.arange(window.frames + canvas.shown)
  if window.at:
    which = np.append(0, window.at + which[:-1])
  per_frame = ('known', 'start', 'text_of', 'position', 'index')
  part = canvas._replace(**{
    name: getattr(canvas, name)[which] for name in per_frame
  })
  part.start[: window.known] = 0
  if window.at:
    part = part._replace(position=canvas_lib.anchored(window.frames))
  return part
