"""Prepared corpora: latents, and captions or their features, by index.

A prepared directory is immutable and has

  latents.array_record   one record a clip, in safetensors form
  manifest.jsonl         one line a clip: its id, latent size, captions, the
                         text slots that these take, and how much of it a
                         second stream has
  info.json              what made it, and the features of an empty caption

so that a plan needs the manifest alone, and a record is read when its turn
comes. It is written under another name and renamed when it is whole.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from array_record.python import array_record_module
from etils import epath
from jaxtyping import Float

RECORDS, MANIFEST, INFO = 'latents.array_record', 'manifest.jsonl', 'info.json'


class BrokenRecord(ValueError):
  """A record that cannot be read back, and why, in one line."""


class Row(NamedTuple):
  """One line of the manifest."""

  id: str
  size: tuple[int, int, int]  # latent frames, rows, columns
  captions: list[str]
  slots: int  # text slots that the longest caption takes, with its end token
  # Of its last latent frames, how many a stream that starts anew has again; 0:
  # there is none.
  restarted: int


class Record(NamedTuple):
  """One clip. E is the width of a frozen text encoder's features."""

  latent: Float[np.ndarray, 'F h w C']  # normalised
  # Of each part of each caption, in order; or empty.
  features: tuple[Float[np.ndarray, 'L E'], ...]
  # The image latent of a frame, and the K latents behind it, which are the last
  # ones of the clip again, of a stream that started with that frame.
  restart: Float[np.ndarray, '1+K h w C'] | None = None
  # What a network that has channels for it sees beside the noise.
  condition: Float[np.ndarray, 'F h w Q'] | None = None


class Writer:
  """Writes a prepared directory; a context manager.

  Leaving it by an exception, or without `finish`, leaves nothing.
  """

  def __init__(self, directory: epath.PathLike):
    self._directory = epath.Path(directory)
    self._partial = self._directory.with_name(self._directory.name + '.part')

  def __enter__(self) -> 'Writer':
    if self._partial.exists():
      self._partial.rmtree()
    self._partial.mkdir(parents=True)
    # group_size 1: training reads single records in random order.
    self._records = array_record_module.ArrayRecordWriter(
      str(self._partial / RECORDS), 'group_size:1,uncompressed'
    )
    self._rows: list[Row] = []
    return self

  def write(self, row: Row, record: Record) -> None:
    """Adds one clip. Latents are stored in float16: normalised, they fit."""
    arrays: dict[str, np.ndarray] = {'latent': record.latent.astype(np.float16)}
    if record.restart is not None:
      arrays['restart'] = record.restart.astype(np.float16)
    if record.condition is not None:
      arrays['condition'] = record.condition.astype(np.float16)
    for i, features in enumerate(record.features):
      arrays[f'features_{i}'] = features.astype(np.float32)
    self._records.write(safetensors.numpy.save(arrays))
    self._rows.append(row)

  def finish(self, info: dict[str, Any]) -> None:
    """Completes the directory and gives it its name."""
    self._records.close()
    lines = [json.dumps(row._asdict()) for row in self._rows]
    (self._partial / MANIFEST).write_text('\n'.join(lines) + '\n')
    (self._partial / INFO).write_text(json.dumps(info, indent=1))
    self._partial.rename(self._directory)

  def __exit__(self, kind, value, trace) -> None:
    if self._records.is_open():
      self._records.close()
    if self._partial.exists():  # it was not finished
      self._partial.rmtree()


class LatentSource:
  """Random access to a prepared directory.

  Raises:
    ValueError: the directory is not a prepared one, or a part is damaged.
  """

  def __init__(self, directory: epath.PathLike):
    self.directory = epath.Path(directory)
    if not (self.directory / INFO).exists():
      raise ValueError(f'{directory} is not a directory of prepared latents')
    self.info = _read_info(self.directory / INFO)
    self.rows = list(_read_rows(self.directory / MANIFEST))
    self._reader = None

  def __len__(self) -> int:
    return len(self.rows)

  def __repr__(self) -> str:
    return f'LatentSource({str(self.directory)!r})'

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {'_reader': None}  # a reader cannot be pickled

  def __getitem__(self, index: int) -> Record:
    """Reads one clip.

    Raises:
      BrokenRecord: it is damaged, and others may be good.
      ValueError: the file of records is missing, cut or another's.
    """
    if self._reader is None:
      self._reader = self._open()
    try:
      arrays = safetensors.numpy.load(self._reader.read([index])[0])
    except (RuntimeError, safetensors.SafetensorError) as error:
      raise BrokenRecord(
        f'{self.directory / RECORDS}: record {index} is damaged: {error}'
      ) from error
    latents = {
      name: arrays.pop(name).astype(np.float32)
      for name in ('latent', 'restart', 'condition')
      if name in arrays
    }
    needed = {'latent', *(['condition'] if self.info.get('condition') else ())}
    needed |= {'restart'} if self.rows[index].restarted else set()
    if missing := needed - latents.keys():
      raise BrokenRecord(
        f'{self.directory / RECORDS}: record {index} has no '
        f'{", ".join(sorted(missing))}'
      )
    features = tuple(arrays[f'features_{i}'] for i in range(len(arrays)))
    return Record(features=features, **latents)

  def _open(self) -> array_record_module.ArrayRecordReader:
    path = self.directory / RECORDS
    try:
      reader = array_record_module.ArrayRecordReader(str(path))
      count = reader.num_records()
    except RuntimeError as error:
      raise ValueError(f'{path} cannot be read: {error}') from error
    if count != len(self.rows):
      raise ValueError(
        f'{path} has {count} records, but {MANIFEST} lists {len(self.rows)} '
        'clips; prepare the corpus again'
      )
    return reader


def _read_info(path: epath.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _read_rows(path: epath.Path) -> Iterator[Row]:
  if not path.exists():
    raise ValueError(f'{path} is missing; prepare the corpus again')
  for number, line in enumerate(path.read_text().splitlines(), 1):
    try:
      fields = json.loads(line)
      for name in ('slots', 'restarted'):
        if name not in fields:
          raise ValueError(f'it has no {name}; prepare the corpus again')
      yield Row(
        id=fields['id'],
        size=tuple(fields['size']),
        captions=list(fields['captions']),
        slots=int(fields['slots']),
        restarted=int(fields['restarted']),
      )
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f'{path}, line {number}: {error}') from error
