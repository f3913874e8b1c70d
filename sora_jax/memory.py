"""Memory of a device, counted before work starts.

What is kept is known from shapes and shardings, and what a program needs
beside it from its compiler. JAX keeps what it has compiled, so that a program
that is compiled to be counted is not compiled again to be run.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

GB = 1e9
LESS = 'take more devices, or less at a time'
# Of chips that programs are compiled for, and that are not here to be asked.
# Source: cloud.google.com/tpu/docs, system architecture of each version.
TPU_MEMORY = {
  'TPU v4': 16 * GB,
  'TPU v5 lite': 16 * GB,
  'TPU v5': 95 * GB,
  'TPU v6 lite': 32 * GB,
  'TPU7x': 96 * GB,
}


def kept(tree: Any) -> int:
  """Bytes of a device that arrays take; abstract ones, with shardings, too."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def needed(jitted: Any, *args: Any, advice: str = LESS) -> int:
  """Bytes of a device that a program takes beside its arguments.

  Args:
    jitted: What `jax.jit` gave.
    *args: Arrays, or abstract ones with the shardings of those to come.
    advice: What takes less.

  Raises:
    ValueError: a compiler that knows what the device has finds no way.
  """
  try:
    analysis = jitted.lower(*args).compile().memory_analysis()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in (said := str(error).splitlines()[0]):
      raise
    raise ValueError(f'memory: {said}: {advice}') from error
  written_over = analysis.alias_size_in_bytes
  outputs = max(analysis.output_size_in_bytes - written_over, 0)
  return analysis.temp_size_in_bytes + outputs


def capacity(devices: Sequence[jax.Device]) -> int | None:
  """Bytes that each of a host's devices has for us; None: they do not say.

  Those of a CPU that are used share what the machine has.
  """
  device = devices[0]
  if device.platform == 'tpu' and device.local_hardware_id is None:
    return int(TPU_MEMORY[device.device_kind])
  stats = device.memory_stats()
  if stats and 'bytes_limit' in stats:
    return stats['bytes_limit']
  if device.platform == 'cpu' and 'SC_PHYS_PAGES' in os.sysconf_names:
    total = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return total // len(devices)
  return None


def check(
  parts: Mapping[str, int],
  turns: Mapping[str, int],
  advice: str,
  devices: Sequence[jax.Device] | None = None,
) -> str:
  """A line that says what a device holds.

  Args:
    parts: Bytes by what they are for.
    turns: The same, of which a device holds one at a time.
    advice: What takes less.
    devices: Those of this host that hold as much each; by default all.

  Raises:
    ValueError: it is more than the device has.
  """
  total = sum(parts.values()) + max(turns.values(), default=0)
  most = capacity(devices or jax.local_devices())
  told = lambda sizes: [f'{name} {_gb(size)}' for name, size in sizes.items()]
  taken = [' or '.join(told(turns))] if turns else []
  words = ', '.join([*told(parts), *taken])
  line = f'memory: {_gb(total)} GB of a device ({words})'
  if most is None:
    return line
  if total > most:
    raise ValueError(f'{line}, which has {_gb(most)} GB: {advice}')
  return f'{line}, which has {_gb(most)} GB'


def _gb(size: int) -> str:
  return f'{size / GB:.3g}'
