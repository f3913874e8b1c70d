"""A world whose clips are kept once they are rendered.

An autoencoder takes crops faster than a few cores render clips of 128x128x33,
and learns as much from another crop of one that it has seen.
"""

import hashlib
import io
import pathlib
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import UInt8

from sora_jax import batch
from sora_jax.data import video

WORLDS = pathlib.Path(__file__).parent / 'worlds'


class Rendered:
  """A world's clips, and a directory of their frames.

  The directory may be shared by runs, processes and worlds: a file's name says
  all that its frames depend on, with a digest of the code that rendered them.

  Args:
    world: a `sources.WorldSource`.
    directory: on a disk of this machine, or in its memory.
  """

  def __init__(self, world: Any, directory: epath.PathLike):
    self._world = world
    self._directory = pathlib.Path(directory) / _code_digest()

  def __len__(self) -> int:
    return len(self._world)

  def __getitem__(self, index: int) -> batch.Clip:
    return self._world[index]

  def info(self, index: int) -> batch.Size:
    return self._world.info(index)

  def captions(self, index: int) -> list[str]:
    return self._world.captions(index)

  def window(
    self, index: int, start: int, count: int
  ) -> UInt8[np.ndarray, 'T H W 3']:
    path = self._directory / f'{self._world.name(index)}.npy'
    if not path.exists():
      clip = self._world[index].video
      file = io.BytesIO()
      np.save(file, clip)
      try:
        self._directory.mkdir(parents=True, exist_ok=True)
        video.publish(epath.Path(path), file.getvalue())
      except OSError as error:  # as of a full disk: the clip itself is there
        logging.log_first_n(
          logging.WARNING, 'clips cannot be kept in %s: %s', 1, path, error
        )
      return clip[start : start + count]
    # Mapped: no more is read than is asked for.
    return np.array(np.load(path, mmap_mode='r')[start : start + count])


def _code_digest() -> str:
  """Of all that draws: frames of other code are other frames."""
  total = hashlib.sha256()
  for path in sorted(WORLDS.glob('*.py')):
    total.update(path.read_bytes())
  return total.hexdigest()[:16]
