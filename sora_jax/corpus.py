"""The corpus of a run: opened as its config says, and listed once.

A folder is measured by process 0 alone and its list lies with the run, so that
all hosts number its clips alike, a run goes on with the clips that it began
with, and the folder itself may be read-only.
"""

import dataclasses
from typing import Any

import jax
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from sora_jax.data import manifest, pipeline

LISTS = 'corpus'  # in the directory of a run


def open_corpus(config: pipeline.DataConfig, workdir: epath.PathLike) -> Any:
  """Opens the corpus that the config names; a folder is listed first.

  Raises:
    ValueError: it is missing, empty or unreadable, or the run has the list of
      another folder.
  """
  is_folder = config.corpus is pipeline.Corpus.FOLDER
  field = 'path' if is_folder else 'beside'
  folder = getattr(config, field)
  if folder and not folder.endswith('.jsonl'):
    listed = list_folder(folder, epath.Path(workdir) / LISTS)
    config = dataclasses.replace(config, **{field: str(listed)})
  return pipeline.make_source(config)


def list_folder(folder: epath.PathLike, out: epath.Path) -> epath.Path:
  """Writes the manifest of a folder into `out`, unless it is there."""
  path = out / manifest.MANIFEST
  if jax.process_index() == 0 and not path.exists():
    report = manifest.build(folder, out)
    logging.info('%s: %s', folder, report)
    if report.quarantined:
      logging.info('left out: see %s', out / manifest.QUARANTINE)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('corpus listed')
  first = manifest.locate(path, manifest.read(path)[0])
  root = epath.Path(folder)
  root = root if root.is_absolute() else root.absolute()
  if not first.is_relative_to(root):
    raise ValueError(
      f'{path} lists another folder than {folder}; take another --workdir, or '
      'remove it'
    )
  return path
