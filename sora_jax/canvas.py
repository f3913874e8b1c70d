"""What is already painted before sampling starts: one builder per task.

Every way of prompting is a canvas, not another model. A position with start
level 0 is known and stays; with 1 it is made from noise alone; between, it is
the known value noised to that level, as in SDEdit (arXiv:2108.01073).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sora_jax import tokens


class Canvas(NamedTuple):
  """A latent to be filled in."""

  known: Float[np.ndarray, 'F h w C']  # 0 where nothing is known
  start: Float[np.ndarray, 'F h w']  # the level to start from; 0 keeps
  loop: bool  # time wraps over the latents after the first
  prompts: tuple[str, ...]
  text_of: Int[np.ndarray, 'F h w']  # k listens to prompts[k - 1]


class CanvasTokens(NamedTuple):
  """A canvas as the network sees it: one clip of N tokens in raster order."""

  known: Float[np.ndarray, 'N P']
  start: Float[np.ndarray, ' N']
  position: Int[np.ndarray, 'N 3']
  index: Int[np.ndarray, ' N']
  text_of: Int[np.ndarray, ' N']
  group: Int[np.ndarray, ' N']  # tokens of one group start at one level
  first: Int[np.ndarray, ' G']  # the first token of each group


def text_to_video(
  frames: int, rows: int, columns: int, channels: int, prompt: str
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
    loop=False,
    prompts=(prompt,),
    text_of=np.ones(size, np.int32),
  )


def animate(
  first: Float[np.ndarray, 'K h w C'], frames: int, prompt: str
) -> Canvas:
  """Known first latents, the rest from noise: animates an image, or extends.

  Args:
    first: An image's one latent, or those of a clip's beginning, encoded from
      its own first frame.
    frames: Latent frames in all, more than there are in `first`.
    prompt: What is to happen.
  """
  count, rows, columns, channels = first.shape
  if frames <= count:
    raise ValueError(
      f'canvas: {frames=} must exceed the {count} known first latent frames'
    )
  canvas = text_to_video(frames, rows, columns, channels, prompt)
  canvas.known[:count] = first
  canvas.start[:count] = 0
  return validate(canvas)


def edit(
  latent: Float[np.ndarray, 'F h w C'], strength: float, prompt: str
) -> Canvas:
  """Repaints a clip: all of it starts from itself, noised to `strength`.

  Strength 0 keeps the clip as it is, 1 keeps nothing of it but its size.
  """
  if not 0 <= strength <= 1:
    raise ValueError(f'canvas: {strength=} must be from 0 to 1')
  frames, rows, columns, channels = latent.shape
  canvas = text_to_video(frames, rows, columns, channels, prompt)
  canvas.known[:] = latent
  canvas.start[:] = strength
  return validate(canvas)


def validate(canvas: Canvas) -> Canvas:
  """Returns the canvas if it can be sampled.

  Raises:
    ValueError: shapes that disagree, levels outside [0, 1], known latents that
      are not finite, or a text that is not there.
  """
  size = canvas.known.shape[:3]
  for name in ('start', 'text_of'):
    shape = getattr(canvas, name).shape
    if shape != size:
      raise ValueError(
        f"canvas: {name} is {shape}; it must be the latent's {size}"
      )
  low, high = canvas.start.min(), canvas.start.max()
  if not (low >= 0 and high <= 1):
    raise ValueError(
      f'canvas: start levels are from {low} to {high}; 0 (keep) to 1 '
      '(noise) can be'
    )
  if not np.isfinite(canvas.known).all():
    raise ValueError('canvas: known latents must be finite; some are not')
  low, high = canvas.text_of.min(), canvas.text_of.max()
  if low < 1 or high > len(canvas.prompts):
    raise ValueError(
      f'canvas: text_of is from {low} to {high}; there are '
      f'{len(canvas.prompts)} prompts, counted from 1'
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
  position = tokens.positions(grid := tokens.token_grid(size, patch))
  _, first, group = np.unique(start, return_index=True, return_inverse=True)
  return CanvasTokens(
    known=fold(canvas.known),
    start=start,
    position=position,
    index=tokens.raster_index(position, grid),
    text_of=text_of[:, 0],
    group=group.astype(np.int32),
    first=first.astype(np.int32),
  )
