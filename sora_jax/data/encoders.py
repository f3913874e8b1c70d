"""Frames to the bytes of a file, one function for each type.

Equal frames at an equal rate give equal bytes, in any process and on any
number of cores. Frames are of one size and may come as they are made; of an
mp4, none is kept.
"""

import fractions
import io
import itertools
import pathlib
import tempfile
from collections.abc import Iterator
from typing import cast

import av
import numpy as np
from av.video import reformatter
from jaxtyping import UInt8
from PIL import Image

Frames = Iterator[UInt8[np.ndarray, 'H W 3']]


def mp4(frames: Frames, fps: float) -> bytes:
  first = next(frames)
  height, width, _ = first.shape
  if height % 2 or width % 2:
    raise ValueError(
      f'size {width}x{height} has an odd side, which mp4 cannot hold; '
      f'crop to {width - width % 2}x{height - height % 2} or pad to '
      f'{width + width % 2}x{height + height % 2}'
    )
  # Faststart moves the index to the front by reading its own file again, so
  # the muxer needs a real file and cannot write to a remote one.
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'video.mp4')
    options = {'fflags': '+bitexact', 'movflags': '+faststart'}
    with av.open(path, 'w', options=options) as container:
      # With AVX-512, or with several threads, equal frames give other bytes.
      stream = container.add_stream(
        'libx264',
        rate=_rate(fps),
        options={'crf': '18', 'preset': 'medium', 'x264-params': 'asm=AVX2'},
      )
      stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
      codec = stream.codec_context
      codec.thread_count = 1
      # 1 is bt709 for the first three, and limited range; players assume other
      # matrices for other sizes if this is not said.
      codec.colorspace = codec.color_primaries = codec.color_trc = 1
      codec.color_range = 1
      for frame in itertools.chain([first], frames):
        picture = av.VideoFrame.from_ndarray(frame, format='rgb24').reformat(
          format='yuv420p',
          dst_colorspace=reformatter.Colorspace.ITU709,
          dst_color_range=reformatter.ColorRange.MPEG,
        )
        container.mux(stream.encode(picture))
      container.mux(stream.encode())
    return path.read_bytes()


def gif(frames: Frames, fps: float) -> bytes:
  """One palette for the whole video, so that flat areas do not flicker."""
  whole = list(frames)
  height, width, _ = whole[0].shape
  rate = _rate(fps)
  graph = av.filter.Graph()
  source = graph.add_buffer(
    width=width,
    height=height,
    format=av.VideoFormat('rgb24'),
    time_base=1 / rate,
  )
  split, use = graph.add('split'), graph.add('paletteuse', 'dither=sierra2_4a')
  palette, sink = graph.add('palettegen'), graph.add('buffersink')
  source.link_to(split)
  split.link_to(use, 0, 0)
  split.link_to(palette, 1, 0)
  palette.link_to(use, 0, 1)
  use.link_to(sink)
  graph.configure()
  for i, frame in enumerate(whole):
    picture = av.VideoFrame.from_ndarray(frame, format='rgb24')
    picture.pts, picture.time_base = i, 1 / rate
    source.push(picture)
  source.push(None)
  file = io.BytesIO()
  with av.open(file, 'w', format='gif', options={'loop': '0'}) as container:
    stream = container.add_stream('gif', rate=rate)
    stream.width, stream.height, stream.pix_fmt = width, height, 'pal8'
    for _ in whole:
      container.mux(stream.encode(cast(av.VideoFrame, sink.pull())))
    container.mux(stream.encode())
  return file.getvalue()


def webp(frames: Frames, fps: float) -> bytes:
  first, *rest = map(Image.fromarray, frames)
  ends = [round(1000 * i / fps) for i in range(2 + len(rest))]
  file = io.BytesIO()
  first.save(
    file,
    'webp',
    save_all=True,
    append_images=rest,
    loop=0,
    quality=90,
    duration=[max(1, b - a) for a, b in itertools.pairwise(ends)],
  )
  return file.getvalue()


def png(frames: Frames, fps: float) -> bytes:
  del fps
  return _still(frames, 'png')


def jpg(frames: Frames, fps: float) -> bytes:
  del fps
  return _still(frames, 'jpeg', quality=95, subsampling=0)


def _still(frames: Frames, kind: str, **options: int) -> bytes:
  first, *more = frames
  if more:
    raise ValueError(
      f'{kind} holds 1 frame, not {1 + len(more)}; write .mp4, .gif or .webp'
    )
  file = io.BytesIO()
  Image.fromarray(first).save(file, kind, **options)
  return file.getvalue()


ENCODERS = {
  '.mp4': mp4,
  '.gif': gif,
  '.webp': webp,
  '.png': png,
  '.jpg': jpg,
}
STILLS = '.png', '.jpg'


def _rate(fps: float) -> fractions.Fraction:
  """The fraction meant: 29.97003 is 30000/1001."""
  return fractions.Fraction(fps).limit_denominator(1001)
