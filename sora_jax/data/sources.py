"""Clips by index: of the embedded worlds, a folder, or a TFDS directory.

A source has `len`, `source[i]` (a whole `batch.Clip`), `info(i)` (its width,
height and frames), `captions(i)` (all it has) and `window(i, start, count)`
(some of its frames). Clip `i` is the same on every host and in every worker,
and a source pickles: files are opened when their clip is asked for. A clip
that cannot be read raises `BrokenVideo`.
"""

import types
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from sora_jax import batch
from sora_jax.data import manifest, video
from sora_jax.data.worlds import balls, joins, scene_joins, scenes

BrokenVideo = video.BrokenVideo
WORLDS = {
  'balls': balls,
  'joins': joins,
  'scenes': scenes,
  'scene_joins': scene_joins,
}


class WorldSource:
  """Clips rendered as they are asked for; clip `i` has size `i % len(sizes)`.

  Args:
    name: of the world; of several, as `balls+balls+joins`, clips are in turn.
    sizes: of its clips, in turn.
    length: number of clips.
    seed: which clips these are.
    split: of the world, as 'train' or 'test'.
  """

  def __init__(
    self,
    name: str,
    sizes: tuple[batch.Size, ...],
    length: int,
    seed: int = 0,
    split: str = 'train',
  ):
    self._names = name.split('+')
    for part in self._names:
      if part not in WORLDS:
        raise ValueError(f'unknown world {part!r}; one of {", ".join(WORLDS)}')
      if split not in (splits := WORLDS[part].SPLITS):
        raise ValueError(
          f'world {part} has no split {split!r}; one of {", ".join(splits)}'
        )
    if length < 1 or not sizes:
      raise ValueError(f'a world of {length=} and {sizes=} has no clips')
    self._sizes, self._length = tuple(sizes), length
    self._seed, self._split = seed, split

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> batch.Clip:
    index = _checked(index, self._length)
    size = self.info(index)
    return self._world(index).clip(self._seed, index, size, self._split)[0]

  def info(self, index: int) -> batch.Size:
    return self._sizes[index % len(self._sizes)]

  def name(self, index: int) -> str:
    """Says all that a clip is a function of, but for the code."""
    index = _checked(index, self._length)
    world = self._names[index % len(self._names)]
    return f'{world}-{self._split}-{self._seed}-{index}-{self.info(index)}'

  def captions(self, index: int) -> list[str]:
    index = _checked(index, self._length)
    size = self.info(index)
    return [
      self._world(index).simulate(self._seed, index, size, self._split)[0]
    ]

  def _world(self, index: int) -> types.ModuleType:
    return WORLDS[self._names[index % len(self._names)]]

  def window(
    self, index: int, start: int, count: int
  ) -> UInt8[np.ndarray, 'T H W 3']:
    return self[index].video[start : start + count]


class FolderSource:
  """Videos and images of a folder, as a manifest lists them.

  Args:
    path: the manifest, from `manifest.build`.

  Raises:
    ValueError: it is missing or damaged.
  """

  def __init__(self, path: epath.PathLike):
    self.rows = manifest.read(path)
    self._manifest = epath.Path(path)

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> batch.Clip:
    row = self.rows[_checked(index, len(self))]
    frames = self.window(index, 0, row.frames)
    return batch.Clip(frames, row.captions[0], row.fps, row.id)

  def info(self, index: int) -> batch.Size:
    row = self.rows[index]
    return batch.Size(row.width, row.height, row.frames)

  def captions(self, index: int) -> list[str]:
    return self.rows[index].captions

  def window(
    self, index: int, start: int, count: int
  ) -> UInt8[np.ndarray, 'T H W 3']:
    row = self.rows[index]
    path = manifest.locate(self._manifest, row)
    frames = video.read_frames(path, start, count)
    _, height, width, _ = frames.shape
    if (width, height) != (row.width, row.height):
      raise BrokenVideo(
        path, f'it is {width}x{height}, not {row.width}x{row.height} as listed'
      )
    return frames


class Mixed:
  """A source among whose clips every fourth is another one's, over and over."""

  EVERY = 4

  def __init__(self, source: Any, beside: Any):
    self._source, self._beside = source, beside

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> batch.Clip:
    source, index = self._at(index)
    return source[index]

  def info(self, index: int) -> batch.Size:
    source, index = self._at(index)
    return source.info(index)

  def captions(self, index: int) -> list[str]:
    source, index = self._at(index)
    return source.captions(index)

  def window(
    self, index: int, start: int, count: int
  ) -> UInt8[np.ndarray, 'T H W 3']:
    source, index = self._at(index)
    return source.window(index, start, count)

  def _at(self, index: int) -> tuple[Any, int]:
    turn, place = divmod(_checked(index, len(self)), self.EVERY)
    if place < self.EVERY - 1:
      # One after the other, as what a clip is may go by its number's remainder.
      return self._source, turn * (self.EVERY - 1) + place
    return self._beside, turn % len(self._beside)


class TFDSSource:
  """Records of a directory that TFDS prepared; needs no TensorFlow.

  The video of a record is the bytes of a video file, or uint8 [T, H, W, C];
  an image, uint8 [H, W, C], is a video of one frame. C is 1 or 3.

  Args:
    directory: of one dataset, config and version, with `features.json`.
    split: as 'train' or 'train[:80%]'.
    video_key: the feature that holds the video or image.
    caption_key: the feature that holds its caption, or a list of them.
    fps: frames per second of arrays, which do not say it.

  Raises:
    ValueError: no such directory, split or feature, or records in a format
      without random access.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    split: str,
    video_key: str = 'video',
    caption_key: str = 'caption',
    fps: float = 24.0,
  ):
    builder = _open_builder(directory)
    for key in (video_key, caption_key):
      if key not in builder.info.features:
        raise ValueError(
          f'{directory} has no feature {key!r}; it has '
          f'{", ".join(builder.info.features)}'
        )
    name = split.split('[')[0]
    if name not in builder.info.splits:
      raise ValueError(
        f'{directory} has no split {name!r}; it has '
        f'{", ".join(builder.info.splits)}'
      )
    self._records: Sequence[Any] = builder.as_data_source(split)
    self._name = f'{builder.info.full_name}/{split}'
    self._video_key, self._caption_key = video_key, caption_key
    self._fps = fps
    self._sizes: dict[int, batch.Size] = {}

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> batch.Clip:
    record = self._record(index)
    frames, fps = self._frames(index, record)
    caption = ''.join(_texts(record[self._caption_key])[:1])
    return batch.Clip(frames, caption, fps, self._id(index))

  def info(self, index: int) -> batch.Size:
    if index not in self._sizes:  # a whole video is decoded to measure it
      self._sizes[index] = self._measure(index)
    return self._sizes[index]

  def _measure(self, index: int) -> batch.Size:
    value = self._record(index)[self._video_key]
    if isinstance(value, bytes):
      measured = self._decode(index, video.read_info, value)
      return batch.Size(measured.width, measured.height, measured.frames)
    count, height, width, _ = self._as_video(index, value).shape
    return batch.Size(width, height, count)

  def captions(self, index: int) -> list[str]:
    return _texts(self._record(index)[self._caption_key])

  def window(
    self, index: int, start: int, count: int
  ) -> UInt8[np.ndarray, 'T H W 3']:
    value = self._record(index)[self._video_key]
    if isinstance(value, bytes):
      return self._decode(index, video.read_frames, value, start, count)
    return self._as_video(index, value)[start : start + count]

  def _id(self, index: int) -> str:
    return f'{self._name}/{index}'

  def _record(self, index: int) -> dict[str, Any]:
    try:
      return self._records[_checked(index, len(self))]
    except RuntimeError as error:  # a checksum that does not match
      raise BrokenVideo(self._id(index), video.reason(error)) from error

  def _frames(
    self, index: int, record: dict[str, Any]
  ) -> tuple[UInt8[np.ndarray, 'T H W 3'], float]:
    value = record[self._video_key]
    if not isinstance(value, bytes):
      return self._as_video(index, value), self._fps
    info = self._decode(index, video.read_info, value)
    frames = self._decode(index, video.read_frames, value, 0, info.frames)
    return frames, info.fps

  def _decode(self, index: int, read, data: bytes, *args):
    try:
      return read(data, *args)
    except BrokenVideo as error:
      raise BrokenVideo(self._id(index), error.reason) from error

  def _as_video(self, index: int, value) -> UInt8[np.ndarray, 'T H W 3']:
    value = np.asarray(value)
    if value.ndim == 3:
      value = value[None]
    if (
      value.dtype != np.uint8
      or value.ndim != 4
      or value.shape[-1] not in (1, 3)
    ):
      raise BrokenVideo(
        self._id(index),
        f'feature {self._video_key!r} is {value.dtype} {value.shape}, not the '
        'bytes of a video or uint8 frames',
      )
    return np.broadcast_to(value, (*value.shape[:3], 3))


def random_window(
  source: Any, index: int, count: int, rng: np.random.Generator
) -> UInt8[np.ndarray, 'T H W 3']:
  """Reads `count` frames that follow one another, from anywhere in a clip.

  The last frame of a shorter clip is held, as a still is.
  """
  frames = source.info(index).frames
  start = int(rng.integers(max(1, frames - count + 1)))
  window = source.window(index, start, min(count, frames))
  held = np.repeat(window[-1:], count - len(window), axis=0)
  return np.concatenate([window, held])


def _checked(index: int, length: int) -> int:
  """Python's iteration needs the IndexError; a negative index has no clip."""
  if not 0 <= index < length:
    raise IndexError(f'clip {index} of {length}')
  return index


def _open_builder(directory: epath.PathLike) -> Any:
  import tensorflow_datasets as tfds  # slow, and for this source alone

  try:
    builder = tfds.builder_from_directory(str(directory))
  except Exception as error:  # TFDS raises many kinds for what it cannot read
    raise ValueError(
      f'{directory} is not a TFDS dataset directory: {video.reason(error)}'
    ) from error
  file_format = builder.info.file_format
  if file_format is None or 'array_record' not in file_format.value:
    raise ValueError(
      f'{directory} holds {file_format and file_format.value} files, which '
      "cannot be read by index; prepare it with file_format='array_record'"
    )
  return builder


def _texts(value: Any) -> list[str]:
  """Captions of a record: one, or a list of them."""
  values = np.atleast_1d(np.asarray(value, object))
  texts = (v.decode() if isinstance(v, bytes) else str(v) for v in values)
  return [' '.join(text.split()) for text in texts]  # each is one line
