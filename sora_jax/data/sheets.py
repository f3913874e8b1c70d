"""Many videos in one picture: frame beside frame, or all moving at once."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

LINE = 208  # grey
TEXT_HEIGHT = 14  # pixels of a line of Pillow's own font at size 11
TEXT_SIZE = 11

Videos = Sequence[UInt8[np.ndarray, '_ _ _ 3']]


def contact_sheet(
  videos: Videos, columns: int = 8, labels: Sequence[str] = ()
) -> UInt8[np.ndarray, 'H W 3']:
  """Lays videos out as rows of `columns` evenly spaced frames on one image.

  The first and the last frame are always among them. `labels`, if given, are
  one line of text below each row.
  """
  if not videos or columns < 1 or len(labels) not in (0, len(videos)):
    raise ValueError(
      f'{len(videos)} videos, {columns=} and {len(labels)} labels do not '
      'make a sheet: at least 1, at least 1, and none or one a video'
    )
  height = max(v.shape[1] for v in videos)
  width = max(v.shape[2] for v in videos)
  text = TEXT_HEIGHT if labels else 0
  sheet = np.full(
    (len(videos) * (height + text), columns * width, 3), 255, np.uint8
  )
  for row, video in enumerate(videos):
    top = row * (height + text)
    picks = np.linspace(0, len(video) - 1, columns).round().astype(int)
    for column, frame in enumerate(video[picks]):
      left = column * width
      sheet[top : top + len(frame), left : left + frame.shape[1]] = frame
      # A line between frames, or what leaves one looks cut.
      sheet[top : top + len(frame), left + frame.shape[1] - 1] = LINE
  if not labels:
    return sheet
  image = Image.fromarray(sheet)
  for row, label in enumerate(labels):
    _write(image, 2, (row + 1) * (height + text) - text, label)
  return np.asarray(image)


def moving_sheet(
  videos: Videos, labels: Sequence[str], columns: int, scale: int = 2
) -> UInt8[np.ndarray, 'T H W 3']:
  """Lays videos out in `columns`, each moving, with its label below it.

  A shorter video begins again until the longest has ended; a label takes as
  many lines as it needs. Pixels are `scale` times as large.
  """
  large = [np.kron(v, np.ones((1, scale, scale, 1), np.uint8)) for v in videos]
  frames = max(map(len, large))
  height = max(v.shape[1] for v in large)
  width = max(v.shape[2] for v in large)
  lines = [_wrapped(label, width - 4) for label in labels]
  cell = height + TEXT_HEIGHT * max(map(len, lines)) + 4
  rows = -(-len(large) // columns)
  blank = Image.new('RGB', (columns * width, rows * cell), 'white')
  places = [
    (i % columns * width, i // columns * cell) for i in range(len(large))
  ]
  for (left, top), words in zip(places, lines, strict=True):
    for k, line in enumerate(words):
      _write(blank, left + 2, top + height + k * TEXT_HEIGHT, line)
  sheet = np.repeat(np.asarray(blank)[None], frames, axis=0)
  for (left, top), video in zip(places, large, strict=True):
    h, w = video.shape[1:3]
    again = video[np.arange(frames) % len(video)]
    sheet[:, top : top + h, left : left + w] = again
    sheet[:, top : top + h, left + w - 1] = LINE
    sheet[:, top + h - 1, left : left + w] = LINE
  return sheet


def _wrapped(text: str, width: int) -> list[str]:
  """A text in lines of at most so many pixels, cut between words."""
  font, lines = ImageFont.load_default(TEXT_SIZE), ['']
  for word in text.split():
    longer = f'{lines[-1]} {word}'.strip()
    if lines[-1] and font.getlength(longer) > width:
      lines.append(word)
    else:
      lines[-1] = longer
  return lines


def _write(image: Image.Image, left: int, top: int, text: str) -> None:
  font = ImageFont.load_default(TEXT_SIZE)
  ImageDraw.Draw(image).text((left, top), text, fill='black', font=font)
