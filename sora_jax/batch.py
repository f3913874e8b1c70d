"""Clip, Frames, Labelled, Pack: what the data pipeline hands to training.

A `Clip` is one video or image as pixels, `Frames` a batch of equal crops. A
`Pack` is many clips, already as latent tokens, laid end to end in rows of one
fixed length; it is the only shape that the denoising train step ever sees, so
clips of every size and duration share one compiled program.
"""

import re
from typing import Any, NamedTuple

import numpy as np


class Size(NamedTuple):
  """Pixels and frames of a clip, written `WIDTHxHEIGHTxFRAMES`."""

  width: int
  height: int
  frames: int

  def __str__(self) -> str:
    return f'{self.width}x{self.height}x{self.frames}'


# In place of a draw: no clip here, and a clip that could not be read.
EMPTY, BROKEN = -1, -2


class Clip(NamedTuple):
  """One video, or one image (T = 1)."""

  video: np.ndarray  # uint8 [T, H, W, 3], sRGB
  caption: str
  fps: float  # frames per second
  id: str  # unique within its source


class Pack(NamedTuple):
  """Clips of any size in `B` rows of `N` token slots.

  A row holds up to `M` clips; slot `m` of a row is segment `m + 1`. Tokens of
  a clip share one noise level per group, and its `G` groups a row point back
  to the clip that they belong to. Indices within a clip, never rows or slots,
  name every random number, so a clip gets the same noise wherever it lies.
  """

  tokens: Any  # float32 [B, N, P]: clean latent patches
  position: Any  # int32 [B, N, 3]: frame, row, column in the clip's token grid
  index: Any  # int32 [B, N]: token index in its own clip, raster order
  segment: Any  # int32 [B, N]: clip slot + 1; 0 where empty
  group: Any  # int32 [B, N]: which of the row's groups sets its noise level
  group_clip: Any  # int32 [B, G]: clip slot + 1 of a group; 0 where unused
  group_index: Any  # int32 [B, G]: index of a group within its clip
  group_clean: Any  # int32 [B, G]: 1 where a group has no noise, and is known
  text_of: Any  # int32 [B, N]: the text segment that a token listens to
  # int32 [B, L]: clip slot + 1, and M more for each further part of a caption
  # `A | B`; 0 where empty
  text_segment: Any
  draw: Any  # int32 [B, M]: global draw index of a clip, EMPTY or BROKEN
  tokens_in_clip: Any  # int32 [B, M]: number of tokens of a clip
  text_ids: Any = None  # int32 [B, L]: for a text encoder trained here
  text: Any = None  # float32 [B, L, E]: cached features of a frozen encoder
  # float32 [B, N, Q]: patches that the network sees beside the noisy ones
  condition: Any = None


class Frames(NamedTuple):
  """Crops of one size, as pixels: what the autoencoder trains on."""

  video: Any  # uint8 [B, T, H, W, 3]
  draw: Any  # int32 [B]: global draw index of a clip, or BROKEN


class Labelled(NamedTuple):
  """Clips of one size and what is true of them: what the probe trains on."""

  video: Any  # uint8 [B, T, H, W, 3]
  labels: Any  # int32 [B, A]: of each attribute the value's place, or ABSENT
  mask: Any  # bool [B, T, H, W]: where an actor is
  motions: Any  # float32 [B, T, 8]: of the camera and the actors


def parse_size(text: str) -> Size:
  """Reads `WIDTHxHEIGHTxFRAMES`, or `WIDTHxHEIGHT` for one frame.

  Raises:
    ValueError: not of that form, a side under 1, or frames other than 1 + 4k
      (latents are one frame, then four frames each).
  """
  match = re.fullmatch(r'(\d+)x(\d+)(?:x(\d+))?', text)
  if not match:
    raise ValueError(f'size {text!r} is not WIDTHxHEIGHTxFRAMES, as 64x64x33')
  size = Size(*(int(g) for g in match.groups(default='1')))
  if min(size) < 1:
    raise ValueError(f'size {text!r} has a side or a duration of 0')
  if size.frames % 4 != 1:
    low = max(1, size.frames - (size.frames - 1) % 4)
    raise ValueError(
      f'size {text!r} has {size.frames} frames, which is not 1 + 4k; '
      f'the nearest that are: {low} and {low + 4}'
    )
  return size
