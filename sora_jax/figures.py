"""What is read off made clips, beside what is read off true ones.

The world `balls` knows what is true, and its tracker what pixels show. Beside
each figure stands the same one of true clips through the autoencoder, below
whose error no latent model can come.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from sora_jax import batch, metrics
from sora_jax.data.worlds import balls, captions, tracker

Video = metrics.Video
Videos = list[Video]
Mask = Bool[np.ndarray, 'T H W']
Truths = list[balls.Truth]


class Figure(NamedTuple):
  """One figure of a task."""

  name: str
  made: float
  bound: float = float('nan')  # of true clips through the autoencoder

  def __str__(self) -> str:
    bound = '' if np.isnan(self.bound) else f'{self.bound:10.3f}'
    return f'  {self.name:<54}{self.made:9.3f}{bound}'


class Cases(NamedTuple):
  """Clips that training never sees."""

  captions: list[str]
  videos: Videos
  truths: Truths
  decoded: Videos  # through the autoencoder


def mean(measure: Callable[..., float], *columns: Sequence[Any]) -> float:
  """Over rows, without those of which it cannot be said (NaN)."""
  values = np.array([measure(*row) for row in zip(*columns, strict=True)])
  said = values[~np.isnan(values)]
  return float(said.mean()) if len(said) else float('nan')


def promises(made: Videos, cases: Cases) -> list[Figure]:
  """Shares of clips that keep what their captions promise."""
  tallies = [metrics.tally(v, cases.captions) for v in (made, cases.decoded)]
  figures = [
    Figure(f'{name}, share', *(getattr(tally, name) for tally in tallies))
    for name in ('colour', 'direction', 'law', 'size')
  ]
  errors = (tally.velocity_error for tally in tallies)
  return [*figures, Figure('first speed, off by units/s', *errors)]


def nearness(made: Videos, cases: Cases, frames: slice) -> list[Figure]:
  """How near some frames are to the truth."""
  truths = [balls.span(truth, frames) for truth in cases.truths]
  cuts = [[v[frames] for v in videos] for videos in (made, cases.decoded)]
  return [
    Figure(name, *(mean(error, cut, truths) for cut in cuts))
    for name, error in (
      ('velocity, off by units/s', tracker.velocity_error),
      ('position, off by units', tracker.position_error),
    )
  ]


def step(
  name: str, made: Videos, bound: Videos, truths: Truths, at: int
) -> Figure:
  """How far a step from one frame to the next is from the simulator's."""
  frames = slice(at, at + 2)
  spans = [balls.span(truth, frames) for truth in truths]
  errors = (
    mean(tracker.velocity_error, [v[frames] for v in videos], spans)
    for videos in (made, bound)
  )
  return Figure(f'step {name}, off by units/s', *errors)


def across(made: Videos, cases: Cases, at: int) -> Figure:
  """The step between what is known and what is made, on its own."""
  return step('across the join', made, cases.decoded, cases.truths, at)


def changed(made: Videos, cases: Cases, keeps: list[Mask]) -> Figure:
  """What became of pixels that were to be kept, before they are encoded.

  Raises:
    ValueError: a clip has none, of which nothing could be said.
  """
  if not all(keep.any() for keep in keeps):
    raise ValueError('figures: a clip has no pixels that were to be kept')
  most = [
    np.abs(a.astype(int) - b)[keep].max()
    for a, b, keep in zip(made, cases.videos, keeps, strict=True)
  ]
  return Figure(
    'largest change of what was to be kept, of 255', float(max(most))
  )


def recoloured(cases: Cases, decode: Callable[[Videos], Videos]) -> Cases:
  """The same clips with another colour for the first ball."""
  prompts, truths = [], []
  for caption, truth in zip(cases.captions, cases.truths, strict=True):
    old = truth.colours[0]
    names = [name for name in captions.COLOURS if name not in truth.colours]
    new = names[len(prompts) % len(names)]
    prompts.append(caption.replace(f'{old} ball', f'{new} ball'))
    truths.append(truth._replace(colours=[new, *truth.colours[1:]]))
  frames, height, width, _ = cases.videos[0].shape
  size = batch.Size(width, height, frames)
  videos = [balls.render(truth, size) for truth in truths]
  return Cases(prompts, videos, truths, decode(videos))


def far_from(mask: Mask, pixels: int) -> Mask:
  """What lies further than so many pixels from what a mask marks.

  In the frame, and in those that can be of one latent with it.
  """
  window = (7, 2 * pixels + 1, 2 * pixels + 1)
  return ~ndimage.maximum_filter(mask, window, mode='constant')


def disc(truth: balls.Truth, size: batch.Size) -> Mask:
  """Where the first ball is, and a pixel around it."""
  pixel = balls.UNITS / min(size.width, size.height)
  only = truth._replace(
    colours=['black'],
    radius=truth.radius[:1] + pixel,
    position=truth.position[:, :1],
  )
  return balls.render(only, size).min(axis=-1) < 255


def repainted(made: Videos, told: Cases) -> list[Figure]:
  """Of clips with other colours: have they, and is nothing else changed?

  Args:
    made: The clips.
    told: What they would be.
  """
  tallies = [metrics.tally(v, told.captions) for v in (made, told.decoded)]
  figures = [
    Figure(f'{name}, share', *(getattr(tally, field) for tally in tallies))
    for name, field in (
      ('colours as told', 'colour'),
      ('direction kept', 'direction'),
      ('law kept', 'law'),
      ('size kept', 'size'),
    )
  ]
  position = nearness(made, told, slice(None))[1]
  return [*figures, position]


def has_colour(video: Video, caption: str) -> float:
  """1 where balls of a caption's colours are there and no other, else 0."""
  wanted = {ball.colour for ball in captions.attributes(caption).balls}
  return float({ball.colour for ball in tracker.track(video).balls} == wanted)


def drift(made: Videos, cases: Cases, frames: slice) -> list[Figure]:
  """What some frames keep of as many at the beginning."""
  first = slice(0, frames.stop - frames.start)
  label = f'{frames.start / balls.FPS:.0f} s: '
  figures = []
  for name, measure in (
    ('sharpness', metrics.sharpness),
    ('size', _radius),
    ('motion', metrics.motion),
  ):
    ratios = (
      mean(lambda v, of=measure: _ratio(of(v[frames]), of(v[first])), videos)
      for videos in (made, cases.decoded)
    )
    figures.append(Figure(f'{label}{name}, of that at first', *ratios))
  shares = (
    mean(has_colour, [v[frames] for v in videos], cases.captions)
    for videos in (made, cases.decoded)
  )
  return [*figures, Figure(f'{label}colour, share', *shares)]


def _ratio(value: float, of: float) -> float:
  return value / of if of else float('nan')


def _radius(video: Video) -> float:
  found = tracker.track(video).balls
  return found[0].radius if found else float('nan')
