"""What a run tells people: a progress line, curves, and what it was run with.

Only process 0 writes; on the others every call here does nothing. A step
always means the number of train steps that are done.
"""

import contextlib
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, NamedTuple

import jax
from etils import epath

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain')
_FLAGS = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')


class Rates(NamedTuple):
  """How fast a run has been between two reports."""

  steps: float  # per second
  clips: float  # per second, over all devices
  tokens: float  # per second, over all devices; padding not counted
  waiting: float  # share of the time that the loop waited for data, 0 to 1


class Throughput:
  """Adds up work and waiting between two reports.

  Report once and drop the result after the first step, so that compilation is
  not taken for slowness.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    """Starts the first interval; `clock` gives seconds."""
    self._clock = clock
    self._start_interval()

  def _start_interval(self) -> None:
    self._start = self._clock()
    self._steps = self._clips = self._tokens = 0
    self._waited = 0.0  # seconds

  def add(self, clips: int, tokens: int) -> None:
    """Counts one step, with the clips and real tokens of the whole batch."""
    self._steps += 1
    self._clips += clips
    self._tokens += tokens

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time of its body as waiting for data."""
    start = self._clock()
    try:
      yield
    finally:
      self._waited += self._clock() - start

  def report(self) -> Rates:
    """Returns the rates since the last report, and starts the next interval."""
    # A clock too coarse for a short interval must not divide by zero.
    seconds = max(self._clock() - self._start, 1e-9)
    rates = Rates(
      steps=self._steps / seconds,
      clips=self._clips / seconds,
      tokens=self._tokens / seconds,
      waiting=self._waited / seconds,
    )
    self._start_interval()
    return rates


class MetricWriter:
  """Writes scalars to standard output, `metrics.jsonl` and TensorBoard."""

  def __init__(
    self,
    workdir: epath.PathLike,
    total_steps: int,
    *,
    every: int = 50,
    start_step: int = 0,
  ):
    """Opens the curves of a run, without what lies beyond its checkpoint.

    Args:
      workdir: of the run; `metrics.jsonl` and `tensorboard/` go there.
      total_steps: of the whole run, for the progress line.
      every: steps between two reports.
      start_step: steps already done by the checkpoint that the run resumes
        from. Later lines, and one cut short by a crash, are dropped, so the
        file reads as that of one run.

    Raises:
      ValueError: `every` under 1.
    """
    if every < 1:
      raise ValueError(f'{every=} must be 1 or more steps between reports')
    self._total_steps = total_steps
    self._every = every
    self._path = epath.Path(workdir) / 'metrics.jsonl'
    self._board = None
    if jax.process_index() == 0:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      _drop_after(self._path, start_step)
      import tensorboardX  # slow to import, and only process 0 needs it

      self._board = tensorboardX.SummaryWriter(
        str(self._path.parent / 'tensorboard'),
        purge_step=start_step + 1,
        flush_secs=10,
      )

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, *unused) -> None:
    self.close()

  def due(self, step: int) -> bool:
    """Whether a step is one to report: every so many, and the last."""
    return step % self._every == 0 or step == self._total_steps

  def write(
    self, step: int, metrics: dict[str, Any], rates: Rates | None = None
  ) -> None:
    """Writes scalars of a step; waits for them if they are still computed.

    Args:
      step: steps done.
      metrics: scalars by name, on device or not. With rates the progress line
        shows only `loss` of them, otherwise all. In the file a number that is
        not finite is null.
      rates: since the last report, for the progress line and the curves.
    """
    if self._board is None:
      return
    scalars = {k: float(v) for k, v in jax.device_get(metrics).items()}
    shown = scalars
    if rates is not None:
      shown = {k: v for k, v in scalars.items() if k == 'loss'}
      scalars |= {
        'clips_per_second': rates.clips,
        'tokens_per_second': rates.tokens,
        'waiting': rates.waiting,
      }
    finite = {k: v if math.isfinite(v) else None for k, v in scalars.items()}
    with self._path.open('a') as file:
      file.write(json.dumps({'step': step} | finite) + '\n')
    for name, value in scalars.items():
      self._board.add_scalar(name, value, step)
    print(progress_line(step, self._total_steps, shown, rates), flush=True)

  def close(self) -> None:
    """Flushes TensorBoard's events."""
    if self._board is not None:
      self._board.close()


def progress_line(
  step: int,
  total_steps: int,
  metrics: dict[str, float],
  rates: Rates | None = None,
) -> str:
  """One line for a person, such as

  `step 1200/20000  loss 0.1234  12.3 clips/s  4.5k tokens/s  waiting 2 %
  eta 1h03m`, without the line break.
  """
  parts = [f'step {step}/{total_steps}']
  parts += [f'{name} {value:.4g}' for name, value in metrics.items()]
  if rates is not None:
    parts += [
      f'{_short(rates.clips)} clips/s',
      f'{_short(rates.tokens)} tokens/s',
      f'waiting {100 * rates.waiting:.0f} %',
    ]
    if rates.steps:
      parts.append(f'eta {_duration((total_steps - step) / rates.steps)}')
  return '  '.join(parts)


def _short(value: float) -> str:
  for unit in ('', 'k', 'M'):
    if value < 999.5:
      return f'{value:.3g}{unit}'
    value /= 1000
  return f'{value:.3g}G'


def _duration(seconds: float) -> str:
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  days, h = divmod(hours, 24)
  if days:
    return f'{days}d{h:02}h'
  if hours:
    return f'{h}h{m:02}m'
  return f'{m}m{s:02}s' if minutes else f'{s}s'


def _drop_after(path: epath.Path, step: int) -> None:
  """Keeps the lines of a JSONL file up to and with `step`."""
  if not path.exists():
    return
  kept = []
  for line in path.read_text().splitlines():
    with contextlib.suppress(ValueError, LookupError, TypeError):
      if json.loads(line)['step'] <= step:
        kept.append(line + '\n')
  _replace(path, ''.join(kept))


def _replace(path: epath.Path, text: str) -> None:
  partial = path.with_name(path.name + '.tmp')
  partial.write_text(text)
  partial.replace(path)


def write_config(
  workdir: epath.PathLike, config: dict[str, Any], frozen: dict[str, str]
) -> None:
  """Writes `config.json`: the whole config, and all it takes to run it again.

  Args:
    workdir: of the run.
    config: the resolved config as JSON values.
    frozen: SHA-256 of the networks that the run takes as they are.
  """
  if jax.process_index():
    return
  path = epath.Path(workdir) / 'config.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  whole = {'config': config, 'frozen': frozen, 'run': surroundings()}
  _replace(path, json.dumps(whole, indent=2) + '\n')


def surroundings() -> dict[str, Any]:
  """What numbers may depend on beside config and weights."""
  versions = {name: metadata.version(name) for name in _PACKAGES}
  return {
    'git': _revision(),
    'versions': versions | {'python': platform.python_version()},
    'flags': {name: os.environ.get(name, '') for name in _FLAGS},
    'device': jax.devices()[0].device_kind,
    'devices': jax.device_count(),
    'processes': jax.process_count(),
  }


def _revision() -> str:
  """The commit of this checkout, with `-dirty` where it is changed, or ''."""
  root = epath.Path(__file__).resolve().parent.parent
  # An installed package may lie inside some other repository: look no higher.
  env = os.environ | {'GIT_CEILING_DIRECTORIES': str(root.parent)}
  command = ['git', 'describe', '--always', '--dirty', '--abbrev=40']
  try:
    found = subprocess.run(
      [*command, '--exclude=*'], cwd=root, env=env, capture_output=True
    )
  except OSError:  # no git here
    return ''
  return found.stdout.decode().strip() if found.returncode == 0 else ''
