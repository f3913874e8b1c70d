"""Readers get their own items, in order, and nothing is lost or waits."""

import threading
import time

import pytest

from sora_jax import spool


def test_each_reader_gets_its_own_items_in_order():
  rows = ([i, 10 * i] for i in range(5))
  assert spool.spread(rows, [list, sum]) == [[0, 1, 2, 3, 4], 100]


def test_a_slow_reader_holds_up_the_rows():
  made, full, ahead = [], threading.Event(), []

  def rows():
    for i in range(9):
      made.append(i)
      if i == 2:
        full.set()
      yield [i]

  def slow(items):
    first = next(items)
    full.wait()
    time.sleep(0.2)  # for rows that should not be made
    ahead.append(len(made))
    return [first, *items]

  assert spool.spread(rows(), [slow]) == [list(range(9))]
  # One is with the reader, one waits for it, and one waits to wait.
  assert ahead == [3]


def test_what_fails_where_rows_are_made_is_raised_and_ends_the_readers():
  seen = []

  def reader(items):
    with pytest.raises(OSError, match='out of rows'):
      seen.extend(items)
    raise KeyError('no file was written')

  def rows():
    yield [1]
    raise OSError('out of rows')

  with pytest.raises(OSError, match='out of rows'):
    spool.spread(rows(), [reader])
  assert seen == [1]


def test_a_reader_that_fails_holds_nobody_up():
  def broken(items):
    raise ValueError(f'cannot take {next(items)}')

  with pytest.raises(ValueError, match='cannot take 0'):
    spool.spread(([i, i] for i in range(50)), [broken, list])


def test_rows_end_when_no_reader_is_left():
  made = []

  def rows():
    for i in range(10**5):
      made.append(i)
      yield [i, i]

  def broken(items):
    raise ValueError('the disk is full')

  with pytest.raises(ValueError, match='disk is full'):
    spool.spread(rows(), [broken, broken])
  assert len(made) < 10**5
