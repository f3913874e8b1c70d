"""Several clips made together, each of which is written as it comes."""

import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, TypeVar

Result = TypeVar('Result')


def spread(
  rows: Iterable[Sequence[Any]],
  readers: Sequence[Callable[[Iterator[Any]], Result]],
) -> list[Result]:
  """Gives the k-th reader, in a thread of its own, the k-th item of each row.

  A reader that is slow holds up the rows: of each there is one item with it,
  one that waits for it, and one that waits to wait. What goes wrong where rows
  are made is raised in the readers too. What goes wrong in a reader is raised
  here when the rows have ended, or no reader is left.
  """
  waiting = [queue.Queue(maxsize=1) for _ in readers]
  done = []

  def read(reader, own):
    items = _items(own)
    try:
      return reader(items)
    finally:
      done.append(reader)
      for _ in items:  # so that what comes for it does not wait for ever
        pass

  with futures.ThreadPoolExecutor(len(readers)) as pool:
    jobs = [
      pool.submit(read, *pair) for pair in zip(readers, waiting, strict=True)
    ]
    end = None
    try:
      for row in rows:
        for own, item in zip(waiting, row, strict=True):
          own.put((item, None))
        if len(done) == len(readers):
          break
    except BaseException as error:
      end = error
      raise
    finally:
      for own in waiting:
        own.put((None, end or StopIteration()))
  return [job.result() for job in jobs]


def _items(own: queue.Queue) -> Iterator[Any]:
  while True:
    item, end = own.get()
    if isinstance(end, StopIteration):
      return
    if end is not None:
      raise end
    yield item
