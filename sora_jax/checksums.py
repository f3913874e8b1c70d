"""The SHA-256 manifest beside a checkpoint step, to know its bytes again.

Each process hashes the files that it wrote: process 0 into
`<step>.sha256.json`, process p into `<step>.sha256.<p>.json`, so that none
waits for another. A step is complete when all of these are there. When it is
checked, the files are shared out anew, over however many processes there are.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import jax
from etils import epath

_THREADS = 8  # hashing releases the interpreter; storage likes several readers
_CHUNK = 1 << 20  # bytes read at a time


def path_of(root: epath.Path, step: int, process: int = 0) -> epath.Path:
  """Where a process's manifest of a step lies."""
  suffix = f'.{process}' if process else ''
  return root / f'{step}.sha256{suffix}.json'


def write(root: epath.Path, step: int) -> None:
  """Records the files of `<root>/<step>` that this process wrote."""
  process = jax.process_index()
  directory = root / str(step)
  names = [n for n in _names(directory) if _writer(n) == process]
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    measured = pool.map(lambda name: _measure(directory / name), names)
    files = dict(zip(names, measured, strict=True))
  manifest = {'processes': jax.process_count(), 'files': files}
  path = path_of(root, step, process)
  partial = path.with_name(path.name + '.tmp')
  partial.write_text(json.dumps(manifest, indent=1))
  partial.replace(path)


def read(root: epath.Path, step: int) -> dict[str, dict[str, Any]]:
  """Every file that a step had when it was written, with size and hash.

  Raises:
    ValueError: says which manifest is missing or broken.
  """
  files = {}
  process, count = 0, 1
  while process < count:
    path = path_of(root, step, process)
    try:
      manifest = json.loads(path.read_text())
      count = int(manifest['processes'])
      for name, entry in manifest['files'].items():
        files[name] = {'bytes': entry['bytes'], 'sha256': entry['sha256']}
    except FileNotFoundError:
      raise ValueError(f'{path.name} is missing: it was not finished') from None
    except (OSError, ValueError, LookupError, TypeError) as error:
      raise ValueError(f'{path.name} cannot be read: {error!r}') from None
    process += 1
  return files


def first_fault(root: epath.Path, step: int) -> str:
  """Says how this process's share of a step differs from its manifest, or ''.

  Together the processes look at every file; each sees only its own share.
  """
  try:
    files = read(root, step)
  except ValueError as error:
    return str(error)
  share = sorted(files)[jax.process_index() :: jax.process_count()]

  def fault(name: str) -> str:
    try:
      found = _measure(root / str(step) / name)
    except OSError as error:
      return f'{name} cannot be read: {error.strerror or error}'
    if found['bytes'] != files[name]['bytes']:
      return f'{name} has {found["bytes"]} bytes of {files[name]["bytes"]}'
    if found['sha256'] != files[name]['sha256']:
      return f'{name} is not what was written, by its SHA-256'
    return ''

  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return next(filter(None, pool.map(fault, share)), '')


def _measure(path: epath.Path) -> dict[str, Any]:
  digest, size = hashlib.sha256(), 0
  with path.open('rb') as file:
    while chunk := file.read(_CHUNK):
      digest.update(chunk)
      size += len(chunk)
  return {'bytes': size, 'sha256': digest.hexdigest()}


def _names(root: epath.Path, prefix: str = '') -> Iterator[str]:
  """Every file under a directory, by its path below it."""
  for path in sorted(root.iterdir()):
    if path.is_dir():
      yield from _names(path, f'{prefix}{path.name}/')
    else:
      yield prefix + path.name


def _writer(name: str) -> int:
  """The process that wrote a file: orbax names it where it is not process 0."""
  match = re.search(r'process_(\d+)', name)
  return int(match[1]) if match else 0
