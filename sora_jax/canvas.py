"""What is already painted before sampling starts: one builder per task.

Every way of prompting is a canvas, not another model. A position with start
level 0 is known and stays; with 1 it is made from noise alone; between, it is
the known value noised to that level, as in SDEdit (arXiv:2108.01073).
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from sora_jax import tokens

# Position in time of a window that goes on from an anchor at 0. Further than a
# clip of one window is long, so that it says nothing of how much lies between.
FAR = 16


class Canvas(NamedTuple):
  """A latent to be filled in.

  At position 0 in time there is an image latent, of one frame; all others are
  of four, which others came before. A loop has none, and its last latent meets
  its first. Its last latents may be no part of the clip: see `keyframes`.
  """

  known: Float[np.ndarray, 'F h w C']  # 0 where nothing is known
  start: Float[np.ndarray, 'F h w']  # the level to start from; 0 keeps
  text_of: Int[np.ndarray, 'F h w']  # k listens to line k of the prompt
  position: Int[np.ndarray, ' F']  # in time, as the network is told
  index: Int[np.ndarray, ' F']  # in the clip; this names the noise
  loop: bool = False
  # What a network that has channels for it sees beside the noise.
  condition: Float[np.ndarray, 'F h w Q'] | None = None
  # Of two stories that are told at once, how much each latent is of the second.
  second: Float[np.ndarray, ' F'] | None = None
  shown: int = 0  # of its latents, the last ones, which only the network sees

  @property
  def frames(self) -> int:
    """Latent frames of the clip."""
    return len(self.start) - self.shown

  @property
  def lines(self) -> int:
    """Lines that a prompt for it has."""
    return int(self.text_of.max())


class CanvasTokens(NamedTuple):
  """A canvas as the network sees it: one clip of N tokens in raster order."""

  known: Float[np.ndarray, 'N P']
  start: Float[np.ndarray, ' N']
  position: Int[np.ndarray, 'N 3']
  index: Int[np.ndarray, ' N']
  text_of: Int[np.ndarray, ' N']
  group: Int[np.ndarray, ' N']  # tokens of one group start at one level
  first: Int[np.ndarray, ' G']  # the first token of each group
  shown: Bool[np.ndarray, ' N']  # tokens that are no part of the clip
  second: Float[np.ndarray, ' N'] | None = None


Latent = Float[np.ndarray, 'K h w C']
Image = Float[np.ndarray, '1 h w C']  # the latent of one frame


def text_to_video(
  frames: int, rows: int, columns: int, channels: int
) -> Canvas:
  """Nothing known: a video, or with one frame an image, from its prompt.

  Sizes are of the latent: 1 + k latent frames are 1 + 4 k frames.
  """
  size = (frames, rows, columns)
  if min(*size, channels) < 1:
    raise ValueError(
      f'canvas: latent of {size} and {channels} channels must have no 0'
    )
  return Canvas(
    known=np.zeros((*size, channels), np.float32),
    start=np.ones(size, np.float32),
    text_of=np.ones(size, np.int32),
    position=np.arange(frames, dtype=np.int32),
    index=np.arange(frames, dtype=np.int32),
  )


def keyframes(
  pieces: dict[int, Latent],
  frames: int,
  openings: dict[int, Image] | None = None,
) -> Canvas:
  """Known pieces at chosen places, the rest from noise.

  A piece at 0 begins with the image latent of its own first frame, which
  animates an image or goes on from a clip. One further on is of a stream of
  its own whose image latent is left out: it ends a clip, which is then extended
  backwards, or is a keyframe, or where another clip is to be met. That image
  latent can be shown behind the clip, with the place in time of the latent that
  its frame closes: else the piece hardly says where in its motion it begins.

  Args:
    pieces: Latents of each piece, by its first latent frame.
    frames: Latent frames in all.
    openings: Image latents of pieces further on, likewise.

  Raises:
    ValueError: no piece, pieces that overlap, leave the canvas or differ in
      size, or that leave nothing to make; or an opening of no piece.
  """
  if not pieces:
    raise ValueError('canvas: no piece is known; that is text_to_video')
  canvas = text_to_video(frames, *next(iter(pieces.values())).shape[1:])
  for at, piece in pieces.items():
    end = at + len(piece)
    if piece.shape[1:] != canvas.known.shape[1:]:
      raise ValueError(
        f'canvas: the piece at {at} is {piece.shape[1:]}, another one is '
        f'{canvas.known.shape[1:]}; their sizes must be the same'
      )
    if at < 0 or end > frames:
      raise ValueError(
        f'canvas: the piece at {at} ends at {end}, outside the {frames} latent '
        'frames'
      )
    if (canvas.start[at:end] == 0).any():
      raise ValueError(f'canvas: the piece at {at} overlaps another one')
    canvas.known[at:end] = piece
    canvas.start[at:end] = 0
  if not canvas.start.any():
    raise ValueError(
      f'canvas: all of the {frames} latent frames are known, which leaves none '
      'to make; ask for a longer clip'
    )
  for at, opening in (openings or {}).items():
    if at < 1 or at not in pieces:
      raise ValueError(
        f'canvas: an opening at {at} belongs to no piece further on'
      )
    canvas = _show(canvas, opening, at - 1)
  return validate(canvas)


def _show(canvas: Canvas, latent: Image, position: int) -> Canvas:
  """With a known latent behind the clip, at a place in its time."""
  add = lambda x, value: np.concatenate([x, np.full_like(x[:1], value)])
  return canvas._replace(
    known=np.concatenate([canvas.known, latent]),
    start=add(canvas.start, 0),
    text_of=add(canvas.text_of, 1),
    position=add(canvas.position, position),
    index=add(canvas.index, len(canvas.index)),
    shown=canvas.shown + 1,
  )


def hide(canvas: Canvas) -> Canvas:
  """Without what is shown behind the clip."""
  if not canvas.shown:
    return canvas
  names = ('known', 'start', 'text_of', 'position', 'index', 'second')
  arrays = {name: getattr(canvas, name) for name in names}
  own = {k: v[: canvas.frames] for k, v in arrays.items() if v is not None}
  return canvas._replace(**own, shown=0)


def edit(latent: Latent, strength: float) -> Canvas:
  """Repaints a clip: all of it starts from itself, noised to `strength`.

  Strength 0 keeps the clip as it is, 1 keeps nothing of it but its size.
  """
  check_strength(strength)
  canvas = text_to_video(*latent.shape)
  canvas.known[:] = latent
  canvas.start[:] = strength
  return validate(canvas)


def check_strength(strength: float) -> None:
  """Raises ValueError for a strength that `edit` does not know."""
  if not 0 <= strength <= 1:
    raise ValueError(f'canvas: {strength=} must be from 0 to 1')


def replace(latent: Latent, mask: Bool[np.ndarray, '_ _ _']) -> Canvas:
  """Repaints what a mask marks, and keeps the rest.

  Raises:
    ValueError: a mask of another size, or one that marks nothing.
  """
  canvas = edit(latent, 1.0)
  if mask.shape != canvas.start.shape:
    raise ValueError(
      f"canvas: the mask is {mask.shape}; it must be the latent's "
      f'{canvas.start.shape}'
    )
  if not mask.any():
    raise ValueError('canvas: the mask marks nothing to repaint')
  canvas.start[~mask] = 0
  return validate(canvas)


def loop(frames: int, rows: int, columns: int, channels: int) -> Canvas:
  """Nothing known, of 4 `frames` frames whose end is their beginning."""
  if frames < 2:
    raise ValueError(f'canvas: a loop of {frames=} must have 2 or more')
  canvas = text_to_video(frames, rows, columns, channels)
  return canvas._replace(position=canvas.position + 1, loop=True)


def even_starts(frames: int, lines: int) -> list[int]:
  """The latent frame at which each of so many lines starts, as long each."""
  return [line * frames // lines for line in range(lines)]


def storyboard(canvas: Canvas, starts: Sequence[int]) -> Canvas:
  """Lets the k-th line of the prompt speak from latent frame starts[k] on.

  Raises:
    ValueError: starts that do not rise from 0 within the canvas.
  """
  frames = canvas.frames
  rising = all(a < b for a, b in itertools.pairwise(starts))
  if not starts or starts[0] != 0 or not rising or starts[-1] >= frames:
    raise ValueError(
      f'canvas: scenes start at {list(starts)}; they must rise from 0 within '
      f'{frames} latent frames'
    )
  # What is shown behind the clip belongs to its place in time.
  frame = np.append(np.arange(frames), canvas.position[frames:])
  line = line_of(frame, starts)
  text_of = np.broadcast_to(line[:, None, None], canvas.start.shape)
  return canvas._replace(text_of=text_of.astype(np.int32))


def two_stories(canvas: Canvas) -> Canvas:
  """Lets two known ends that share nothing lead into one another.

  The canvas is painted twice at once: as the first end that goes on, by the
  first line of the prompt, and as the last one that begins earlier, by the
  second line. Neither sees the other end, so each moves on as clips do, and
  what lies between them is blended from the one to the other at every step, as
  overlapping windows are in MultiDiffusion (arXiv:2302.08113). Of four latents
  and more the last two are of the second one alone, since a latent's frames are
  decoded from the latent before it too.

  Raises:
    ValueError: one of the ends is not known, or what lies between them is not
      all made from noise.
  """
  made = np.flatnonzero(canvas.start.any(axis=(1, 2)))
  first, last = made[[0, -1]] if made.size else (0, 0)
  ends = 0 < first <= last < canvas.frames - 1
  if not ends or (canvas.start[first : last + 1] < 1).any():
    raise ValueError(
      'canvas: two stories need a known beginning, a known end and nothing '
      'known between them'
    )
  second = np.zeros(len(canvas.start), np.float32)
  second[first:] = 1
  turning = last - first + 1 - (last - first > 2)
  second[first : first + turning] = (
    np.linspace(0, 1, turning) if turning > 1 else 0.5
  )
  line = 1 + (second >= 0.5)[:, None, None].astype(np.int32)
  text_of = np.broadcast_to(line, canvas.start.shape)
  return canvas._replace(second=second, text_of=text_of)


def line_of(
  frame: Int[np.ndarray, ' F'], starts: Sequence[int]
) -> Int[np.ndarray, ' F']:
  """The line of a prompt, from 1, that speaks to each latent frame."""
  return np.searchsorted(starts, frame, side='right')


def condition(
  known: Float[np.ndarray, ' T'],
  latent: Float[np.ndarray, 'F h w C'],
  time: int,
) -> Float[np.ndarray, 'F h w Q']:
  """What a network that has channels for it sees beside the noise.

  Args:
    known: Of each frame, 1 where it is known and 0 where it is not.
    latent: Of the clip, grey where it is not known.
    time: Frames that a latent after the first covers.

  Returns:
    Of the frames of each latent whether they are known, that of the first one
    `time` times, and then the latent. So A14B-I2V takes its image.
  """
  mask = np.concatenate([np.repeat(known[:1], time), known[1:]])
  mask = np.broadcast_to(
    mask.reshape(-1, 1, 1, time), (*latent.shape[:3], time)
  )
  return np.concatenate([mask, latent], axis=-1)


def anchored(frames: int) -> Int[np.ndarray, ' F']:
  """Positions in time of an anchor and the latents of a window behind it."""
  return np.append(0, FAR + np.arange(frames - 1)).astype(np.int32)


def validate(canvas: Canvas) -> Canvas:
  """Returns the canvas if it can be sampled.

  Raises:
    ValueError: shapes that disagree, levels outside [0, 1], known latents that
      are not finite, or lines that are not counted from 1.
  """
  size = canvas.known.shape[:3]
  fits = {'start': size, 'text_of': size}
  fits |= {'position': size[:1], 'index': size[:1]}
  if canvas.second is not None:
    fits['second'] = size[:1]
  for name, wanted in fits.items():
    shape = getattr(canvas, name).shape
    if shape != wanted:
      raise ValueError(
        f"canvas: {name} is {shape}; it must be the latent's {wanted}"
      )
  low, high = canvas.start.min(), canvas.start.max()
  if not (low >= 0 and high <= 1):
    raise ValueError(
      f'canvas: start levels are from {low} to {high}; 0 (keep) to 1 '
      '(noise) can be'
    )
  if not np.isfinite(canvas.known).all():
    raise ValueError('canvas: known latents must be finite; some are not')
  if (low := canvas.text_of.min()) < 1:
    raise ValueError(
      f'canvas: text_of is from {low}; lines of a prompt are counted from 1'
    )
  return canvas


def to_tokens(canvas: Canvas, patch: tokens.Patch) -> CanvasTokens:
  """Cuts a canvas into tokens.

  A token starts at the highest level in its patch: it is known only if all of
  it is.

  Raises:
    ValueError: the patch does not divide the canvas, or a border between
      prompts cuts through a patch.
  """
  canvas = validate(canvas)
  size = canvas.start.shape
  fold = lambda x: tokens.patchify(x[None], patch)[0]
  text_of = fold(canvas.text_of[..., None])
  if (text_of != text_of[:, :1]).any():
    raise ValueError(
      f'canvas: prompts must change at multiples of the patch {patch}'
    )
  start = fold(canvas.start[..., None]).max(axis=-1)
  place = tokens.positions(grid := tokens.token_grid(size, patch))
  at = lambda frame: np.column_stack([
    frame[:: patch[0]][place[:, 0]],
    place[:, 1:],
  ])
  second = None if canvas.second is None else at(canvas.second)[:, 0]
  # Ends of two stories are known to one of them each, so groups of their own.
  apart = start if second is None else start - (start == 0) * second
  _, first, group = np.unique(apart, return_index=True, return_inverse=True)
  return CanvasTokens(
    known=fold(canvas.known),
    start=start,
    position=at(canvas.position // patch[0]),
    index=tokens.raster_index(at(canvas.index // patch[0]), grid),
    text_of=text_of[:, 0],
    group=group.astype(np.int32),
    first=first.astype(np.int32),
    shown=place[:, 0] >= canvas.frames // patch[0],
    second=second,
  )
