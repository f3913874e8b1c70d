"""Video files and images: decode to uint8 frames, seek exactly, write.

Frame `i` of a file is the picture on screen `i / fps` seconds after its
first. At a constant rate that is the i-th picture; where a camera dropped
some, the last one holds, so motion keeps its speed. Paths are local, `gs://` or
whatever else `etils.epath` opens.
"""

import contextlib
import errno
import fractions
import io
import itertools
import math
import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import av
import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageOps, ImageSequence

from sora_jax.data import encoders

VIDEO_TYPES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm')
IMAGE_TYPES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.webp')  # may move
IMAGE_FPS = 1.0  # of a still, which has no rate of its own

Source = epath.PathLike | bytes  # where a video is, or the bytes of its file


class VideoInfo(NamedTuple):
  """Size and rate of a file as it is displayed, rotation applied."""

  width: int
  height: int
  frames: int
  fps: float


class BrokenVideo(ValueError):
  """A file whose frames cannot all be read, and why, in one line."""

  def __init__(self, source: Source, reason: str):
    inline = isinstance(source, bytes)
    name = f'of {len(source)} bytes' if inline else os.fspath(source)
    super().__init__(name, reason)  # both, so that it pickles
    self.reason = reason

  def __str__(self) -> str:
    return f'broken video {self.args[0]}: {self.reason}'


def read_info(source: Source) -> VideoInfo:
  """Decodes a whole file and measures it.

  Headers are not to be believed: a file cut short may still announce all its
  frames, and a damaged one may decode without an error to grey blocks.

  Raises:
    BrokenVideo: it cannot be opened, some frame is damaged, there is none, or
      there are far fewer than its duration needs.
  """
  if _is_image(source):
    return _read_images(source)[0]
  with _open(source) as (container, stream):
    clock, frames = _start(source, container, stream)
    size: tuple[int, int] | None = None
    decoded = spanned = 0
    for frame in frames:
      if frame.is_corrupt:
        raise BrokenVideo(source, f'frame {decoded} is damaged')
      if size not in (None, _displayed(frame)):
        raise BrokenVideo(source, f'its size changes at frame {decoded}')
      size, decoded = _displayed(frame), decoded + 1
      spanned = clock.frame_of(frame) + 1
    if size is None:
      raise BrokenVideo(source, 'it holds 0 frames')
    _check_complete(source, container, stream, clock, decoded, spanned)
    return VideoInfo(*size, frames=spanned, fps=float(clock.rate))


def read_frames(
  source: Source, start: int, count: int
) -> UInt8[np.ndarray, 'T H W 3']:
  """Reads `count` frames from `start` on, as sRGB.

  Only the frames from the keyframe before `start` on are decoded.

  Raises:
    BrokenVideo: it cannot be opened, a frame on the way is damaged, or it ends
      before the last frame asked for.
  """
  if start < 0 or count < 1:
    raise ValueError(f'frames {start=} {count=} must be at least 0 and 1')
  wanted = range(start, start + count)
  if _is_image(source):
    frames = dict(enumerate(_read_images(source)[1]))
  else:
    frames = _read_video(source, wanted)
  missing = [i for i in wanted if i not in frames]
  if missing:
    raise BrokenVideo(source, f'ends before frame {missing[0]}')
  return np.stack([frames[i] for i in wanted])


def write_video(
  path: epath.PathLike, frames: UInt8[np.ndarray, 'T H W 3'], fps: float
) -> None:
  """Writes frames, encoded by the type of the path.

  A file of that name is replaced once the new one is complete.

  Raises:
    ValueError: an unknown type, a rate not above 0, or frames that the type
      cannot hold.
    OSError: it cannot be written, as on a full disk; nothing is left behind.
  """
  publish(epath.Path(path), encode(path, [frames], fps))


def encode(
  path: epath.PathLike,
  parts: Iterable[UInt8[np.ndarray, '_ _ _ 3']],
  fps: float,
) -> bytes:
  """The bytes of `.mp4`, looping `.gif` or `.webp`, or of a `.png` or `.jpg`.

  They depend on the frames and the rate only; the last two hold one frame. Of
  an mp4, no more than a part of the frames is in memory.

  Args:
    path: Whose suffix says the type.
    parts: Frames, in any number of parts.
    fps: Frames per second.

  Raises:
    ValueError: as `write_video`.
  """
  path = epath.Path(path)
  suffix = path.suffix.lower()
  if suffix not in encoders.ENCODERS:
    known = ', '.join(encoders.ENCODERS)
    raise ValueError(f'{path}: cannot write type {suffix!r}; one of {known}')
  try:
    frames = _each(parts)
    first = next(frames, None)
    if first is None or not fps > 0:
      count = 'no' if first is None else 'some'
      raise ValueError(f'{count} frames at {fps=} make no video')
    return encoders.ENCODERS[suffix](itertools.chain([first], frames), fps)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _each(
  parts: Iterable[UInt8[np.ndarray, '_ _ _ 3']],
) -> Iterator[UInt8[np.ndarray, '_ _ 3']]:
  for part in parts:
    if part.ndim != 4 or part.shape[-1] != 3 or part.dtype != np.uint8:
      raise ValueError(
        f'frames are {part.dtype} {part.shape}, not uint8 [T,H,W,3]'
      )
    yield from part


# Reading.


class _Clock(NamedTuple):
  """Which frame a time stamp belongs to."""

  first: int  # time stamp of frame 0, in time bases
  time_base: fractions.Fraction  # seconds
  rate: fractions.Fraction  # frames per second

  def frame_of(self, frame: av.VideoFrame) -> int:
    if frame.pts is None:
      raise av.error.InvalidDataError(errno.EINVAL, 'a frame has no time')
    seconds = (frame.pts - self.first) * self.time_base
    return math.floor(seconds * self.rate + fractions.Fraction(1, 2))

  def pts(self, index: int, seconds_before: int = 0) -> int:
    seconds = index / self.rate - seconds_before
    return self.first + math.floor(seconds / self.time_base)


def _is_image(source: Source) -> bool:
  if isinstance(source, bytes):
    return False
  return epath.Path(source).suffix.lower() in IMAGE_TYPES


def _file(source: Source):
  """An open binary file."""
  if isinstance(source, bytes):
    return io.BytesIO(source)
  return epath.Path(source).open('rb')


def reason(error: Exception) -> str:
  """What went wrong, in one line and without the name of the file."""
  if isinstance(error, BrokenVideo):
    return error.reason
  text = getattr(error, 'strerror', None) or str(error) or repr(error)
  if isinstance(error, av.error.FFmpegError):
    text = f'it is not a video, or is cut or damaged ({text})'
  return ' '.join(text.split())


@contextlib.contextmanager
def _open(source: Source) -> Iterator[tuple]:
  """A container and its video stream; what FFmpeg raises is `BrokenVideo`."""
  try:
    with _file(source) as file, av.open(file) as container:
      if not container.streams.video:
        raise BrokenVideo(source, 'it holds no video')
      stream = container.streams.video[0]
      if stream.codec_context is None:
        raise BrokenVideo(source, 'there is no decoder for its codec')
      # By default damage is painted over, and the frame looks like any other.
      stream.codec_context.options = {'err_detect': 'explode'}
      yield container, stream
  except BrokenVideo:
    raise
  except (av.error.FFmpegError, OSError, ValueError) as error:
    # PyAV raises plain ValueErrors too, as for names that are not UTF-8.
    raise BrokenVideo(source, reason(error)) from error


def _start(source, container, stream) -> tuple[_Clock, Iterator[av.VideoFrame]]:
  """The clock of a stream just opened, and all its frames."""
  frames = container.decode(stream)
  rate = stream.average_rate or stream.guessed_rate
  if _untimed(container) and rate:
    return _Clock(0, 1 / rate, rate), _count(frames)
  first = next(frames, None)
  if first is None:
    raise BrokenVideo(source, 'it holds 0 frames')
  if first.pts is None or stream.time_base is None or not rate:
    raise BrokenVideo(source, 'its frames have no times')
  clock = _Clock(first.pts, stream.time_base, rate)
  return clock, itertools.chain([first], frames)


def _untimed(container) -> bool:
  """Whether a container keeps its frames in order but not when to show them."""
  return container.format.name == 'avi'


def _count(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
  for i, frame in enumerate(frames):
    frame.pts = i
    yield frame


def _check_complete(source, container, stream, clock, decoded, spanned):
  """Compares the number of pictures with what the duration needs."""
  seconds = fractions.Fraction(container.duration or 0, av.time_base)
  if stream.duration:  # without the sound, which may be longer
    seconds = stream.duration * stream.time_base
  needed = max(spanned, round(seconds * clock.rate))
  if decoded < 0.9 * needed - 1:
    raise BrokenVideo(
      source, f'it holds {decoded} frames, its duration needs {needed}'
    )


def _read_video(source, wanted: range) -> dict[int, UInt8[np.ndarray, 'H W 3']]:
  """The wanted frames that a video has, by index."""
  with _open(source) as (container, stream):
    clock, frames = _start(source, container, stream)
    if wanted[0] and not _untimed(container):
      frames = _seek(container, stream, clock, wanted[0])
    if frames is not None:
      return _pick(frames, clock, wanted)
  with _open(source) as (container, stream):
    return _pick(container.decode(stream), clock, wanted)


def _seek(container, stream, clock, index) -> Iterator[av.VideoFrame] | None:
  """Frames from one at or before `index` on; None where no seek finds one.

  A seek lands on the keyframe before, but in fragmented mp4 it may be the
  one after; then the next attempt starts further back.
  """
  for seconds_before in (0, 1, 4, 16, 64):
    pts = clock.pts(index, seconds_before)
    if pts < clock.first:
      return None
    try:
      container.seek(pts, stream=stream, backward=True)
      frames = container.decode(stream)
      frame = next(frames, None)
    except av.error.FFmpegError:
      continue
    if frame is not None and clock.frame_of(frame) <= index:
      return itertools.chain([frame], frames)
  return None


def _pick(frames, clock, wanted: range) -> dict[int, np.ndarray]:
  """The frame on screen at each wanted index, while there is one."""
  picked, left = {}, list(reversed(wanted))
  for frame, following in itertools.pairwise(itertools.chain(frames, [None])):
    last = clock.frame_of(following) - 1 if following else clock.frame_of(frame)
    while left and left[-1] <= last:
      picked[left.pop()] = _pixels(frame)
    if not left:
      break
  return picked


def _pixels(frame: av.VideoFrame) -> UInt8[np.ndarray, 'H W 3']:
  return np.rot90(frame.to_ndarray(format='rgb24'), frame.rotation // 90)


def _displayed(frame: av.VideoFrame) -> tuple[int, int]:
  """Width and height once rotated."""
  sides = frame.width, frame.height
  return sides[::-1] if frame.rotation % 180 else sides


def _read_images(source) -> tuple[VideoInfo, list[np.ndarray]]:
  """All frames of a still, or of an animated image."""
  try:
    with _file(source) as file, Image.open(file) as image:
      frames, milliseconds = [], 0.0
      for frame in ImageSequence.Iterator(image):
        frames.append(_opaque(ImageOps.exif_transpose(frame)))
        milliseconds += frame.info.get('duration', 0)
  except (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,  # this and the next one of GIFs that are cut
    struct.error,
    Image.DecompressionBombError,
  ) as error:
    raise BrokenVideo(source, reason(error)) from error
  fps = 1000 * len(frames) / milliseconds if milliseconds else IMAGE_FPS
  height, width, _ = frames[0].shape
  return VideoInfo(width, height, len(frames), fps), frames


def _opaque(image: Image.Image) -> UInt8[np.ndarray, 'H W 3']:
  """Pixels on white: what lies under full transparency is often garbage."""
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  return np.asarray(image.convert('RGB'))


def publish(path: epath.Path, data: bytes) -> None:
  """Puts a complete file in place, or leaves everything as it was."""
  temporary = path.parent / f'.{path.name}.{os.getpid()}.tmp'
  try:
    with temporary.open('wb') as file:
      file.write(data)
    temporary.replace(path)
  except OSError as error:
    with contextlib.suppress(OSError):
      temporary.unlink()
    text = f'cannot write: {reason(error)}'
    raise OSError(error.errno, text, str(path)) from error
