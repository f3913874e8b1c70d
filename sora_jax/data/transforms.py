"""Small pure steps between a clip and a batch; every draw is named.

A random number is a function of (seed, purpose, index), where the index is
the global draw index of a clip: never of the worker, host or step that
happens to compute it.
"""

import zlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Video = UInt8[np.ndarray, 'T H W 3']

PAD, END, BYTE_OFFSET = 0, 1, 3  # the ids of ByT5 (arXiv:2105.13626); 2: unk
BYTE_VOCABULARY = 256 + BYTE_OFFSET


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
  """A random stream that belongs to one purpose and one index."""
  entropy = (seed, zlib.crc32(purpose.encode()), *index)
  return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def parts(caption: str) -> list[str]:
  """The parts of a caption `A | B`, each of which speaks to a part of time."""
  return [part.strip() for part in caption.split(' | ')]


def byte_ids(caption: str, limit: int) -> list[int]:
  """UTF-8 bytes of a caption as token ids, with an end token.

  Raises:
    ValueError: the caption needs more than `limit` ids.
  """
  ids = [byte + BYTE_OFFSET for byte in caption.encode()] + [END]
  if len(ids) > limit:
    raise ValueError(
      f'caption of {len(ids) - 1} bytes does not fit {limit} text slots '
      f'with its end token; say it in fewer words: {caption[:40]!r}...'
    )
  return ids


def resize(
  video: Video,
  width: int,
  height: int,
  box: tuple[float, float, float, float] | None = None,
) -> UInt8[np.ndarray, 'T {height} {width} 3']:
  """Scales every frame, or a box of it, with a filter that does not alias.

  A box is left, top, right and bottom, in pixels.
  """
  if box is None and video.shape[1:3] == (height, width):
    return video
  filter_ = Image.Resampling.BICUBIC
  frames = [
    np.asarray(Image.fromarray(f).resize((width, height), filter_, box))
    for f in video
  ]
  return np.stack(frames)


def cover(
  video: Video, width: int, height: int
) -> UInt8[np.ndarray, 'T {height} {width} 3']:
  """Scales to cover width x height at native aspect, then cuts the middle."""
  H, W = video.shape[1:3]
  scale = max(width / W, height / H)
  video = resize(
    video, max(width, round(W * scale)), max(height, round(H * scale))
  )
  top = (video.shape[1] - height) // 2
  left = (video.shape[2] - width) // 2
  return video[:, top : top + height, left : left + width]


def random_crop(
  video: Video, width: int, height: int, rng: np.random.Generator
) -> UInt8[np.ndarray, 'T {height} {width} 3']:
  """A window of width x height at native aspect and a random scale.

  The scale is log-uniform between the whole frame just covering the window
  and its native resolution, so that fine and coarse detail are both seen.
  """
  H, W = video.shape[1:3]
  smallest = max(width / W, height / H)
  scale = np.exp(rng.uniform(min(0.0, np.log(smallest)), 0.0))
  scale = max(scale, smallest)
  across, down = max(width, round(W * scale)), max(height, round(H * scale))
  top = rng.integers(down - height + 1)
  left = rng.integers(across - width + 1)
  if (across, down) == (W, H):
    return video[:, top : top + height, left : left + width]
  # What is cut off is not scaled, which is most of it.
  x, y = W / across, H / down
  box = (left * x, top * y, (left + width) * x, (top + height) * y)
  return resize(video, width, height, box)
