"""How good a picture, a video or a batch of them is, as numbers.

Pictures are uint8 or float arrays in [0, 255]; a higher score is better.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from sora_jax.data.worlds import balls, captions, tracker

Video = UInt8[np.ndarray, 'T H W 3']
PEAK = 255.0

# Window and constants of Wang et al. 2004, "Image quality assessment: from
# error visibility to structural similarity", section III.
SSIM_WINDOW = 7
SSIM_C1, SSIM_C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr(video: Video, reference: Video) -> float:
  """Peak signal-to-noise ratio in dB over all pixels and frames."""
  difference = video.astype(np.float64) - reference.astype(np.float64)
  error = np.mean(difference**2)
  return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def ssim(video: Video, reference: Video) -> float:
  """Mean structural similarity of the brightness, frame by frame.

  Every window of 7 x 7 pixels counts alike (equation 13 of the source, with
  a flat window and the unbiased variance).
  """
  x, y = _brightness(video), _brightness(reference)
  mean_x, mean_y = _window_mean(x), _window_mean(y)
  samples = SSIM_WINDOW**2
  unbiased = samples / (samples - 1)
  var_x = unbiased * (_window_mean(x * x) - mean_x**2)
  var_y = unbiased * (_window_mean(y * y) - mean_y**2)
  cov = unbiased * (_window_mean(x * y) - mean_x * mean_y)
  likeness = (2 * mean_x * mean_y + SSIM_C1) * (2 * cov + SSIM_C2)
  scale = (mean_x**2 + mean_y**2 + SSIM_C1) * (var_x + var_y + SSIM_C2)
  return float(np.mean(likeness / scale))


def _brightness(video: Video) -> Float[np.ndarray, 'T H W']:
  """Luma of ITU-R BT.601, as SSIM is usually computed on."""
  return video.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def _window_mean(x: Float[np.ndarray, 'T H W']) -> Float[np.ndarray, 'T U V']:
  windows = np.lib.stride_tricks.sliding_window_view(
    x, (SSIM_WINDOW, SSIM_WINDOW), axis=(1, 2)
  )
  return windows.mean(axis=(-2, -1))


def motion(video: Video) -> float:
  """Mean step between neighbouring frames, of values in 0 ... 255."""
  return float(np.mean([step(a, b) for a, b in itertools.pairwise(video)]))


def flicker(video: Video, reference: Video) -> float:
  """How much the error changes from frame to frame: its root mean square.

  0 for an error that stays, which an eye takes for a part of the scene.
  """
  change = np.diff(video.astype(np.float32) - reference, axis=0)
  return float(np.sqrt(np.mean(change**2))) if len(change) else 0.0


def seam(video: Video) -> float:
  """The step from the last frame to the first, as in `motion`."""
  return step(video[-1], video[0])


def step(a: UInt8[np.ndarray, 'H W 3'], b: UInt8[np.ndarray, 'H W 3']) -> float:
  """Mean absolute difference of two frames."""
  return float(np.mean(np.abs(a.astype(np.float32) - b)))


def sharpness(video: Video) -> float:
  """Mean squared slope of the brightness; blur makes it less."""
  light = _brightness(video)
  down, across = np.diff(light, axis=1), np.diff(light, axis=2)
  return float(np.mean(down**2) + np.mean(across**2))


def interval(share: float, cases: int) -> tuple[float, float]:
  """Between which shares the true one lies, 95 of 100 times.

  Source: Wilson 1927, "Probable inference, the law of succession, and
  statistical inference"; it holds for few cases and shares of 0 and 1 too.
  """
  z2 = 1.959964**2
  middle = (share + z2 / (2 * cases)) / (1 + z2 / cases)
  variance = share * (1 - share) / cases + z2 / (4 * cases**2)
  half = math.sqrt(z2 * variance) / (1 + z2 / cases)
  # They hold the share, which rounding would lose where it is 0 or 1.
  low, high = min(share, middle - half), max(share, middle + half)
  return max(0.0, low), min(1.0, high)


class Tally(NamedTuple):
  """Shares of clips that keep what their captions promise, and the error."""

  cases: int
  colour: float
  direction: float
  law: float
  size: float
  velocity_error: float  # mean distance from the promised speed, units/s

  def __str__(self) -> str:
    share = lambda value: f'{100 * value:5.1f} %'
    return (
      f'{share(self.colour)}  {share(self.direction)}  {share(self.law)}  '
      f'{share(self.size)}  {self.velocity_error:8.3f}'
    )

  def intervals(self) -> str:
    """What the shares may be, as a row of the table."""
    ends = [
      interval(share, self.cases)
      for share in (self.colour, self.direction, self.law, self.size)
    ]
    cells = (f'{100 * low:.0f}-{100 * high:.0f} %' for low, high in ends)
    return '  '.join(f'{cell:>7}' for cell in cells)


def motion_error(videos: list[Video], truths: list[balls.Truth]) -> float:
  """Mean of `tracker.velocity_error` over clips of known truth, in units/s."""
  errors = [
    tracker.velocity_error(video, truth)
    for video, truth in zip(videos, truths, strict=True)
  ]
  return float(np.nanmean(errors))


def broken_promises(video: Video, prompt: str) -> list[str]:
  """Which of what a prompt promises of `balls` a clip does not keep."""
  score = tracker.score(video, captions.attributes(prompt))
  names = ('colour', 'direction', 'law', 'size')
  return [name for name in names if not getattr(score, name)]


TALLY_HEADER = ' colour  direct.      law     size  velocity'


def tally(videos: list[Video], prompts: list[str]) -> Tally:
  """Scores clips of the world `balls` by what its tracker sees in them.

  A velocity that cannot be measured, since no ball is there, counts as an
  error of the whole promised speed.
  """
  scores = [
    tracker.score(video, captions.attributes(prompt))
    for video, prompt in zip(videos, prompts, strict=True)
  ]
  mean = lambda name: float(np.mean([getattr(s, name) for s in scores]))
  return Tally(
    cases=len(scores),
    **{name: mean(name) for name in Tally._fields if name != 'cases'},
  )
