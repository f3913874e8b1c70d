"""What of a training clip is clean, as it is when something is known.

A model that shall go on from a piece of video has to have seen such pieces
beside noise, encoded as they will be: one at the start is of its own first
frame, as the clip's latents are; one further on is of a stream that starts
anew, whose image latent is shown behind the clip or left out. Prepared clips
keep such a stream.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from sora_jax import canvas as canvas_lib

Latent = Float[np.ndarray, '_F _h _w _C']


@dataclasses.dataclass(kw_only=True)
class Shares:
  """Shares of the clips; what is left of 1 is noise all over, at one level."""

  frames: float = 0.0  # a level for every latent frame (arXiv:2407.01392)
  start: float = 0.0  # a clean piece at the start: animate, go on
  end: float = 0.0  # at the end: begin earlier
  both: float = 0.0  # at both: connect
  middle: float = 0.0  # in between: keyframes
  # Of those with an end, both or a middle, so many are shown the image latent
  # that opens the later piece.
  opening: float = 0.0
  region: float = 0.0  # all but a box in space: replace, outpaint
  # The image latent, clean, far ahead of a window with a clean start.
  anchor: float = 0.0
  # Of those with noise all over or a clean start, so many lack the image
  # latent and more: windows of a longer clip, loops.
  midstream: float = 0.0


OF_OTHERS = ('opening', 'midstream')  # shares of those shares


class Outline(NamedTuple):
  """How a clip is to be learned from, as is drawn before it is read.

  Its last latent may be one that is only shown, see `canvas.keyframes`.
  """

  source: Int[np.ndarray, ' _F']  # which latent frame of the clip each one is
  # Which one of the stream that started anew it is taken from; -1: none.
  again: Int[np.ndarray, ' _F']
  frame: Int[np.ndarray, ' _F']  # position in time of each latent frame
  clean: Bool[np.ndarray, '_F _h _w']
  by_frame: bool  # a level for every frame


def check(shares: Shares) -> None:
  """Raises ValueError for shares that are none, or are more than all."""
  values = dataclasses.asdict(shares)
  for name, value in values.items():
    if not 0 <= value <= 1:
      raise ValueError(f'data.shares.{name}={value} must be from 0 to 1')
  total = sum(v for name, v in values.items() if name not in OF_OTHERS)
  if total > 1 + 1e-9:
    raise ValueError(
      f'data.shares: all but {" and ".join(OF_OTHERS)} add up to {total:g}; it '
      'must be 1 at most'
    )


def restarts(shares: Shares) -> bool:
  """Whether a share needs streams that start anew."""
  return max(shares.end, shares.both, shares.middle) > 0


def groups(shares: Shares, frames: int) -> int:
  """Noise levels that a clip of so many latent frames may need."""
  known = dataclasses.replace(shares, frames=0.0, midstream=0.0, opening=0.0)
  any_known = max(dataclasses.astuple(known)) > 0
  return max(frames if shares.frames else 1, 2 if any_known else 1)


def most_latents(shares: Shares, frames: int) -> int:
  """Latents that a clip of so many may need a place for."""
  return frames + (frames > 1 and restarts(shares) and shares.opening > 0)


def restart_at(frames: int, choice: int) -> int:
  """The latent frame whose last frame a second stream of a clip starts from.

  One of three places, and far from each other, as a clip keeps one stream only.
  """
  return max(0, min(frames - 2, frames * (1 + choice % 3) // 4))


def outline(
  size: tuple[int, int, int],
  restarted: int,
  shares: Shares,
  side: int,
  rng: np.random.Generator,
) -> Outline:
  """Draws how a clip is to be learned from.

  Args:
    size: Latent frames, rows and columns of the whole clip.
    restarted: Latent frames of a stream that started anew behind its image
      latent, which are the last ones of the clip; 0: there is no such stream.
    shares: How often which way.
    side: Rows and columns of a token, at which a region is cut.
    rng: Of this draw of this clip.
  """
  kind, cut = _kind(shares, rng), rng.random() < shares.midstream
  frames = size[0]
  if frames < {'frames': 1, 'anchor': 3}.get(kind, 2):
    kind = ''  # an image, or near to one
  if kind in ('end', 'both', 'middle') and not restarted:
    kind = ''
  if kind == 'anchor':
    return _anchored(size, rng)
  source = frame = np.arange(frames)
  if cut and kind in ('', 'start') and frames > 2:
    source = source[rng.integers(1, frames - 1) :]
    frame = 1 + np.arange(len(source))
  again, known = np.full(len(source), -1), np.zeros(len(source), bool)
  if kind in ('start', 'both'):
    most = len(source) - 1 if kind == 'start' else frames - restarted - 1
    known[: rng.integers(1, most + 1) if most > 0 else 0] = True
  if kind in ('end', 'both', 'middle'):
    at = frames - restarted
    # The clip ends with the piece, or goes on after it.
    last = rng.integers(at + 1, frames + 1)
    again[at:last] = 1 + np.arange(last - at)
    known[at:last] = True
    if kind != 'middle':
      source, again = source[:last], again[:last]
      frame, known = frame[:last], known[:last]
    if rng.random() < shares.opening and at > 1:
      source, again = np.append(source, at - 1), np.append(again, 0)
      frame, known = np.append(frame, at - 1), np.append(known, True)
  clean = np.broadcast_to(known[:, None, None], (len(known), *size[1:]))
  if kind == 'region':
    clean = np.broadcast_to(~_box(size[1:], side, rng), clean.shape)
  return Outline(source, again, frame, clean, kind == 'frames')


def take(
  drawn: Outline, latent: Latent, restart: Latent | None = None
) -> Latent:
  """The latents of a clip that are to be learned from.

  Args:
    drawn: How, by `outline`.
    latent: Of the whole clip.
    restart: Of the stream that started anew, if `outline` was told of one: its
      image latent, and then the last latent frames of the clip again.
  """
  taken, renewed = latent[drawn.source], drawn.again >= 0
  if restart is not None:
    taken[renewed] = restart[drawn.again[renewed]]
  return taken


def _anchored(size: tuple[int, int, int], rng: np.random.Generator) -> Outline:
  """A window that goes on from clean latents, behind the clip's first one.

  How far it truly is behind is not told, as in a long clip it may be any time.
  """
  frames = size[0]
  source = np.append(0, np.arange(rng.integers(1, frames - 1), frames))
  clean = np.zeros((len(source), *size[1:]), bool)
  clean[: rng.integers(2, len(source))] = True
  return Outline(
    source,
    again=np.full(len(source), -1),
    frame=canvas_lib.anchored(len(source)),
    clean=clean,
    by_frame=False,
  )


def _kind(shares: Shares, rng: np.random.Generator) -> str:
  """What is known of a clip, as a share is named; '' for noise all over."""
  at = rng.random()
  for name, share in dataclasses.asdict(shares).items():
    if name not in OF_OTHERS:
      if at < share:
        return name
      at -= share
  return ''


def _box(
  size: tuple[int, int], side: int, rng: np.random.Generator
) -> Bool[np.ndarray, 'h w']:
  """A box of a quarter to three quarters of each side, of whole tokens."""
  box = np.zeros(size, bool)
  spans = []
  for length in size:
    cells = length // side
    wide = max(1, round(cells * rng.uniform(0.25, 0.75)))
    low = rng.integers(0, cells - wide + 1)
    spans.append(slice(low * side, (low + wide) * side))
  box[spans[0], spans[1]] = True
  return box
