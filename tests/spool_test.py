"""Readers get their own items, in order, and nothing is lost or waits."""

import threading

import pytest

from sora_jax import spool


def test_each_reader_gets_its_own_items_in_order():
  rows = ([i, 10 * i] for i in range(5))
  assert spool.spread(rows, [list, sum]) == [[0, 1, 2, 3, 4], 100]


def test_no_more_rows_are_made_than_readers_have_taken():
  made, taken = [], []
  go = threading.Semaphore(0)

  def rows():
    for i in range(9):
      made.append(i)
      if i == 5:
        # One is with the reader, one waits for it, and one waits to wait.
        assert len(taken) >= 3
      yield [i]

  def slow(items):
    for item in items:
      assert len(made) - len(taken) <= 3
      taken.append(item)
      go.release()
    return len(taken)

  assert spool.spread(rows(), [slow]) == [9]


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
