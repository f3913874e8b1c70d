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

  A reader that is slow holds up the rows, so no more than two are in memory.
  What goes wrong where they are made is raised in the readers too, and what
  goes wrong in a reader here, once the rows have ended.
  """
  waiting = [queue.Queue(maxsize=1) for _ in readers]

  def read(reader, own):
    items = _items(own)
    try:
      return reader(items)
    finally:
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
