"""The notice that a machine is about to be taken away, heard by a run.

Schedulers send SIGTERM some time before they kill. A run then ends the step
that it is in, saves, and ends; the same command goes on. Several hosts have to
save the same step, which the coordination service of JAX agrees on. It listens
from the time at which hosts join, so what they do before and after the steps,
as preparing latents, is not ended by SIGTERM.
"""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

STATUS = 128 + signal.SIGTERM  # as of what ends by that signal


class Preempted(SystemExit):
  """A run has saved and ends, as its machine is wanted."""

  def __init__(self):
    super().__init__(STATUS)


class Notice:
  """Listens for SIGTERM while it is entered; a context manager.

  A single process has to be in its main thread, or hears of nothing. Of several
  hosts, `jax.distributed` listens.
  """

  def __enter__(self) -> 'Notice':
    self._given = False
    main = threading.current_thread() is threading.main_thread()
    self._listens = main and jax.process_count() == 1
    if self._listens:
      self._before = signal.signal(signal.SIGTERM, self._hear)
    return self

  def __exit__(self, *unused) -> None:
    if self._listens:
      signal.signal(signal.SIGTERM, self._before)

  def _hear(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._given = True

  def reached(self, step: int) -> bool:
    """Whether to save `step` and end; every host calls it after every step."""
    if jax.process_count() == 1:
      return self._given
    return multihost_utils.reached_preemption_sync_point(step)
