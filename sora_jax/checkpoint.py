"""Checkpoints that are known to be whole before they are trusted.

A directory of checkpoints holds, for each step,

  <step>/             what orbax wrote: `state` (arrays) and `data` (JSON)
  <step>.sha256.json  size and SHA-256 of every file in it

Orbax commits a step by one rename but keeps no checksum of its arrays: a
flipped bit restores as a wrong number without a word. So each process hashes
the files that it wrote once they are committed, and only a step whose manifest
is there and agrees with every byte is restored. A crash at any instant costs
at most the step that was being written.

Processes share the directory, as orbax asks.
"""

import contextlib
import errno
import logging as std_logging
import os
import re
import threading
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from sora_jax import checksums

_UNFINISHED = '.orbax-checkpoint-tmp'  # follows the step, until it is committed


class Restored(NamedTuple):
  """What `CheckpointStore.restore` found."""

  state: Any  # arrays, placed as asked
  data: dict[str, Any]  # what was saved beside them, such as the data position
  step: int


class CheckpointStore:
  """Saves the state of a run and restores the newest step that is whole."""

  def __init__(self, directory: epath.PathLike, *, keep: int = 3):
    """Opens a directory, which is created by the first save.

    Args:
      directory: local or remote, shared by all processes.
      keep: how many of the newest complete steps stay.

    Raises:
      ValueError: `keep` under 1.
    """
    if keep < 1:
      raise ValueError(f'{keep=} must be 1 or more checkpoints')
    path = epath.Path(directory)
    self._directory = path if path.is_absolute() else path.resolve()
    self._keep = keep
    logging.get_absl_logger().addFilter(_is_not_raised)
    self._checkpointer = ocp.AsyncCheckpointer(
      ocp.CompositeCheckpointHandler(
        state=ocp.PyTreeCheckpointHandler(),
        data=ocp.JsonCheckpointHandler(),
      )
    )
    self._finisher: threading.Thread | None = None
    self._error: OSError | None = None
    self._last: int | None = None  # the step that this run has just reached

  def __enter__(self) -> 'CheckpointStore':
    return self

  def __exit__(self, *unused) -> None:
    self.close()

  def save(
    self,
    step: int,
    state: PyTree,
    data: dict[str, Any],
    *,
    block: bool = False,
  ) -> None:
    """Starts to save, and returns once the arrays have left their buffers.

    The caller may donate `state` at once. What lies at `step` from another
    attempt is set aside; the step that was just saved or restored is left.

    Raises:
      OSError: the previous save failed or this one did, such as by a full
        disk. Earlier checkpoints are as they were.
    """
    self.wait()
    if step == self._last:
      return
    args = ocp.args.Composite(
      state=ocp.args.PyTreeSave(state), data=ocp.args.JsonSave(data)
    )
    try:
      self._directory.mkdir(parents=True, exist_ok=True)
      self._set_aside([s for s in _agree_on(self._on_disk()) if s == step])
      self._checkpointer.save(self._directory / str(step), args=args)
    except Exception as error:
      raise self._failed(step, error) from error
    self._finisher = threading.Thread(target=self._finish, args=(step,))
    self._finisher.start()
    if block:
      self.wait()

  def wait(self) -> None:
    """Returns once the save in progress is complete, manifest included.

    Raises:
      OSError: that save failed.
    """
    if self._finisher is not None:
      self._finisher.join()
      self._finisher = None
    if self._error is not None:
      error, self._error = self._error, None
      raise error

  def close(self) -> None:
    """Waits for the save in progress and lets go of the threads."""
    try:
      self.wait()
    finally:
      self._checkpointer.close()

  def _finish(self, step: int) -> None:
    try:
      self._checkpointer.wait_until_finished()
      checksums.write(self._directory, step)
    except Exception as error:  # raised by the next call of `wait`
      self._error = self._failed(step, error)
      return
    self._last = step
    if jax.process_index() == 0:
      try:
        self._prune()
      except OSError as error:  # no reason to stop: the new step is good
        logging.warning('old checkpoints were not removed: %s', error)

  def _failed(self, step: int, error: Exception) -> OSError:
    """The one-line error for a failed save, after freeing what it took."""
    with contextlib.suppress(Exception):  # threads may still be at it
      self._checkpointer.wait_until_finished()
    with contextlib.suppress(OSError):
      if jax.process_index() == 0:
        for path in self._directory.glob(f'{step}{_UNFINISHED}*'):
          path.rmtree()
    reason = ' '.join(str(error).split()) or type(error).__name__
    if os.strerror(errno.ENOSPC) in reason:
      reason = 'no space is left there'
    return OSError(
      f'checkpoint {step} was not written to {self._directory}: '
      f'{reason[:300]}; earlier checkpoints are as they were'
    )

  def _prune(self) -> None:
    """Removes old steps, and what earlier crashes left of half-written ones.

    Only complete steps count as kept, so a crash never leaves fewer of them.
    """
    oldest = min(self.steps()[-self._keep :], default=0)
    # Manifests go before directories: a step half removed is not complete.
    for path in sorted(self._directory.iterdir(), key=lambda p: p.is_dir()):
      match = re.fullmatch(r'(\d+)(\..*)?', path.name)
      if not match:
        continue
      step, suffix = int(match[1]), match[2] or ''
      if suffix.startswith(_UNFINISHED) or step < oldest:
        _remove(path)

  def steps(self) -> list[int]:
    """Steps with all their manifests, oldest first; no file is hashed."""
    complete = []
    for step in self._on_disk():
      with contextlib.suppress(ValueError):
        checksums.read(self._directory, step)
        complete.append(step)
    return complete

  def good_steps(self) -> list[int]:
    """Steps of which every byte is as it was written, oldest first."""
    return [s for s in _agree_on(self._on_disk()) if not self.why_bad(s)]

  def why_bad(self, step: int) -> str:
    """Names the first file of a step that is not as it was written, or ''.

    All processes call this together; each hashes a share of the files and
    all of them hear whether any has found a fault.
    """
    reason = checksums.first_fault(self._directory, step)
    if jax.process_count() > 1:
      bad = multihost_utils.process_allgather(np.array(bool(reason)))
      if bad.any() and not reason:
        reason = f'process {int(bad.argmax())} found a bad file'
    return reason

  def _on_disk(self) -> list[int]:
    """Committed steps, oldest first, complete or not."""
    if not self._directory.exists():
      return []
    names = [p.name for p in self._directory.iterdir() if p.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())

  def _choose(self, step: int | None) -> int | None:
    """The step to restore: the one asked for, or the newest good one.

    Returns None where no save has ever been completed.
    """
    on_disk = _agree_on(self._on_disk())
    if step is not None and step not in on_disk:
      raise ValueError(
        f'checkpoint {step} is not in {self._directory}, which has {on_disk}'
      )
    reasons = {}
    for candidate in [step] if step is not None else reversed(on_disk):
      reasons[candidate] = self.why_bad(candidate)
      if not reasons[candidate]:
        return candidate
      if step is None:
        logging.warning(
          'checkpoint %d in %s is bad, trying the one before: %s',
          candidate,
          self._directory,
          reasons[candidate],
        )
    if step is None and not any(
      checksums.path_of(self._directory, s, 0).exists() for s in on_disk
    ):
      return None
    listed = '; '.join(f'{s}: {reason}' for s, reason in reasons.items())
    raise ValueError(f'no good checkpoint in {self._directory}: {listed}')

  def _set_aside(self, steps: list[int]) -> None:
    """Renames steps to `<step>.aside`, where neither restore nor save looks."""
    if jax.process_index() == 0:
      for step in steps:
        aside = self._directory / f'{step}.aside'
        aside.rmtree(missing_ok=True)
        for path in self._directory.glob(f'{step}.sha256*.json'):
          path.unlink()
        (self._directory / str(step)).rename(aside)
    if steps and jax.process_count() > 1:
      multihost_utils.sync_global_devices('checkpoints set aside')

  def restore(
    self, abstract_state: PyTree, step: int | None = None
  ) -> Restored | None:
    """Restores a run so that it can go on from here.

    Takes the newest good step, with a warning for each newer one that is not,
    or exactly the `step` asked for. Newer steps are set aside, so the run can
    save there again. Only for the run that writes to this directory: anything
    else reads by `restore_part`, which changes no file.

    Args:
      abstract_state: `jax.ShapeDtypeStruct` leaves with their shardings, which
        need not be those of the run that saved.
      step: None for the newest good one.

    Returns:
      The state, or None where no save has ever been completed.

    Raises:
      ValueError: the step asked for, or every one, is corrupt; or a tensor is
        missing, unexpected or of another shape.
    """
    self.wait()
    chosen = self._choose(step)
    restored = None
    if chosen is not None:
      _check_shapes(self._stored_shapes(chosen), abstract_state, chosen)
      restored = self._read(chosen, abstract_state)
    newest = -1 if chosen is None else chosen
    self._set_aside([s for s in _agree_on(self._on_disk()) if s > newest])
    self._last = chosen
    return restored

  def restore_part(
    self, abstract_part: dict[str, PyTree], step: int | None = None
  ) -> Restored:
    """Reads some of the trees of a state, such as `{'ema': ...}` to sample.

    Changes no file, so it may read from a run that is still training.

    Args:
      abstract_part: as for `restore`, with only the top names wanted.
      step: None for the newest good one.

    Raises:
      FileNotFoundError: no save has ever been completed here.
      ValueError: as for `restore`.
    """
    chosen = self._choose(step)
    if chosen is None:
      raise FileNotFoundError(f'no checkpoint in {self._directory}')
    stored = {
      name: shape
      for name, shape in self._stored_shapes(chosen).items()
      if name.split('.')[0] in abstract_part
    }
    _check_shapes(stored, abstract_part, chosen)
    return self._read(chosen, abstract_part)

  def _stored_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
    directory = self._directory / str(step)
    items = self._checkpointer.metadata(directory).item_metadata
    assert items is not None  # every step is saved with its items
    leaves = jax.tree.leaves(items['state'].tree)
    return {leaf.name: tuple(leaf.shape) for leaf in leaves}

  def _read(self, step: int, abstract: PyTree) -> Restored:
    args = ocp.args.Composite(
      state=ocp.args.PyTreeRestore(
        abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=True,
      ),
      data=ocp.args.JsonRestore(),
    )
    read = self._checkpointer.restore(self._directory / str(step), args=args)
    return Restored(read['state'], read['data'], step)


def _is_not_raised(record: std_logging.LogRecord) -> bool:
  """False for what orbax both logs, with its traceback, and raises."""
  return not (record.exc_info and '/orbax/' in record.pathname)


def _check_shapes(
  stored: dict[str, tuple[int, ...]], abstract: PyTree, step: int
) -> None:
  flat = ocp.tree.to_flat_dict(abstract, sep='.')
  wanted = {name: tuple(leaf.shape) for name, leaf in flat.items()}
  for name in sorted(stored.keys() | wanted.keys()):
    here, there = wanted.get(name, 'absent'), stored.get(name, 'absent')
    if here != there:
      raise ValueError(
        f'{name} is {there} in checkpoint {step} but {here} in this model; '
        'use the config that the checkpoint was made with'
      )


def _agree_on(steps: list[int]) -> list[int]:
  """Process 0's list, on every process: listings of shared storage may lag."""
  if jax.process_count() == 1:
    return steps
  count = int(multihost_utils.broadcast_one_to_all(np.int32(len(steps))))
  padded = np.zeros(count + 1, np.int32)  # an empty array cannot be sent
  padded[: min(count, len(steps))] = steps[:count]
  return multihost_utils.broadcast_one_to_all(padded)[:count].tolist()


def _remove(path: epath.Path) -> None:
  if path.is_dir():
    path.rmtree()
  else:
    path.unlink()
