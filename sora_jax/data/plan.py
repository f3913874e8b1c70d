"""Which clip lies in which row of which step, from a seed and what clips take.

Every host can compute the plan of any step without reading a clip. A clip
that later turns out broken leaves a hole in its row, never a shift.
"""

import bisect
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from sora_jax.data import transforms

# Rows that first-fit may still add to; more of them fill rows better and
# make planning slower.
OPEN_ROWS = 64


@dataclasses.dataclass(kw_only=True)
class Limits:
  """What one batch can hold; a pack has exactly this shape."""

  rows: int = 32  # B
  tokens: int = 144  # N, slots a row; 0: a tenth more than data.sizes take
  clips: int = 1  # M, clips a row
  text: int = 96  # L, text slots a row
  groups: int = 1  # G, noise levels a row


def check(limits: Limits) -> None:
  """Raises ValueError for limits that hold nothing."""
  for field in dataclasses.fields(limits):
    least = 0 if field.name == 'tokens' else 1
    if getattr(limits, field.name) < least:
      raise ValueError(
        f'data.limits.{field.name}={getattr(limits, field.name)} must be at '
        f'least {least}'
      )


class Needs(NamedTuple):
  """What each of the `n` clips of a corpus takes of a row at the most."""

  tokens: Int[np.ndarray, ' n']
  text: Int[np.ndarray, ' n']
  groups: Int[np.ndarray, ' n']


class Entry(NamedTuple):
  """One clip in a row: its index in the corpus and its global draw index."""

  clip: int
  draw: int


Row = list[Entry]


# Tokens and groups that one draw of a clip takes, no more than its needs.
Take = Callable[[Entry], tuple[int, int]]


class Plan:
  """The rows of every step, epoch after epoch.

  Args:
    most: What clips need at the most.
    limits: Of a batch.
    seed: Of the run.
    take: What less they take, draw by draw; None: what they need.
  """

  def __init__(
    self, most: Needs, limits: Limits, seed: int, take: Take | None = None
  ):
    _check(most, limits)
    self._most, self._limits, self._seed, self._take = most, limits, seed, take
    self._first_step = [0]  # of each epoch known so far
    self._epoch: tuple[int, list[Row]] = (-1, [])

  def rows(self, step: int) -> list[Row]:
    """The `limits.rows` rows of a step; some are empty at an epoch's end.

    All epochs before it are planned first: 20,000 clips in a second or two.
    """
    while step >= self._first_step[-1]:
      steps = -(
        -len(self._rows_of(len(self._first_step) - 1)) // self._limits.rows
      )
      self._first_step.append(self._first_step[-1] + steps)
    epoch = bisect.bisect_right(self._first_step, step) - 1
    start = (step - self._first_step[epoch]) * self._limits.rows
    rows = self._rows_of(epoch)[start : start + self._limits.rows]
    return rows + [[] for _ in range(self._limits.rows - len(rows))]

  def _rows_of(self, epoch: int) -> list[Row]:
    if self._epoch[0] != epoch:
      self._epoch = (epoch, self._pack(epoch))
    return self._epoch[1]

  def _pack(self, epoch: int) -> list[Row]:
    """First-fit in the epoch's order: full rows close, the rest wait."""
    count = len(self._most.tokens)
    order = transforms.generator(self._seed, 'order', epoch).permutation(count)
    limits = self._limits
    most = np.array([limits.tokens, limits.text, limits.groups, limits.clips])
    needs = np.stack([*self._most, np.ones(count, int)], axis=1)
    rows: list[Row] = []
    left: list[np.ndarray] = []
    first_open = 0
    for rank, clip in enumerate(order):
      entry, need = Entry(int(clip), epoch * count + rank), needs[clip]
      if self._take:
        need = need.copy()
        need[[0, 2]] = self._take(entry)
        assert (need <= needs[clip]).all(), (entry, need, needs[clip])
      for i in range(first_open, len(rows)):
        if (need <= left[i]).all():
          break
      else:
        i = len(rows)
        rows.append([])
        left.append(most.copy())
        first_open = max(first_open, len(rows) - OPEN_ROWS)
      rows[i].append(entry)
      left[i] -= need
      while first_open < len(rows) and not left[first_open].min():
        first_open += 1
    return rows


def _check(needs: Needs, limits: Limits) -> None:
  if not len(needs.tokens):
    raise ValueError('there are no clips to plan: the corpus is empty')
  check(limits)
  for name in ('tokens', 'text', 'groups'):
    most, limit = int(getattr(needs, name).max()), getattr(limits, name)
    if most > limit:
      clip = int(getattr(needs, name).argmax())
      raise ValueError(
        f'clip {clip} needs {most} {name}, but data.limits.{name} is '
        f'{limit}: raise it to {most}, or use smaller clips'
      )
