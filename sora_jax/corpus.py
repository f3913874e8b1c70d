"""The corpus of a run: opened as its config says, and listed once.

A folder is measured by process 0 alone and its list lies with the run, so that
all hosts number its clips alike, a run goes on with the clips that it began
with, and the folder itself may be read-only.
"""

import dataclasses
from typing import Any

from absl import logging
from etils import epath

from sora_jax import sharding
from sora_jax.data import manifest, pipeline

LISTS = 'corpus'  # in the directory of a run


def open_corpus(config: pipeline.DataConfig, workdir: epath.PathLike) -> Any:
  """Opens the corpus that the config names; a folder is listed first.

  Raises:
    ValueError: it is missing, empty or unreadable, or the run has the list of
      another folder.
  """
  listed = lambda place: str(_listed(place, epath.Path(workdir) / LISTS))
  if config.corpus is pipeline.Corpus.FOLDER and config.path:
    config = dataclasses.replace(config, path=listed(config.path))
  if config.beside:
    config = dataclasses.replace(config, beside=listed(config.beside))
  return pipeline.make_source(config)


def _listed(place: str, out: epath.Path) -> epath.Path:
  """The manifest of a folder; a manifest is its own."""
  return (
    epath.Path(place) if place.endswith('.jsonl') else list_folder(place, out)
  )


def list_folder(folder: epath.PathLike, out: epath.Path) -> epath.Path:
  """Writes the manifest of a folder into `out`, unless it is there."""
  path = out / manifest.MANIFEST

  def build():
    if not path.exists():
      report = manifest.build(folder, out)
      logging.info('%s: %s', folder, report)
      if report.quarantined:
        logging.info('left out: see %s', out / manifest.QUARANTINE)

  sharding.on_first(build, f'listing {folder}')
  first = manifest.locate(path, manifest.read(path)[0])
  root = epath.Path(folder)
  root = root if root.is_absolute() else root.absolute()
  if not first.is_relative_to(root):
    raise ValueError(
      f'{path} lists another folder than {folder}; take another --workdir, or '
      'remove it'
    )
  return path
