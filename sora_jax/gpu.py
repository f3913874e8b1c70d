"""The same bits on a GPU each time, which XLA gives if it is told to.

Left alone, it may add numbers up in the order in which threads come, and picks
kernels by how fast they were a moment ago. Other platforms need no telling.
"""

import os
from collections.abc import Iterable, Mapping
from importlib import metadata

# Excludes what is not deterministic, and picking by speed.
FLAG = '--xla_gpu_deterministic_ops'
PLATFORMS = ('cuda', 'rocm', 'gpu')


def make_deterministic() -> None:
  """Tells XLA, where JAX will run on a GPU; call it before JAX is imported."""
  plugins = [found.name for found in metadata.entry_points(group='jax_plugins')]
  flags = xla_flags(os.environ, plugins)
  if flags:
    os.environ['XLA_FLAGS'] = flags


def xla_flags(environment: Mapping[str, str], plugins: Iterable[str]) -> str:
  """What XLA_FLAGS should be: as given, and deterministic on a GPU.

  Args:
    environment: Where JAX_PLATFORMS may name platforms. Otherwise JAX takes a
      GPU if it has a plugin for one. Our flag stays as it is if it is given.
    plugins: Names of those installed, as `xla_cuda13`.
  """
  given = environment.get('XLA_FLAGS', '')
  names = environment.get('JAX_PLATFORMS', '').split(',')
  names = names if any(names) else plugins
  on_gpu = any(gpu in name for name in names for gpu in PLATFORMS)
  if FLAG in given or not on_gpu:
    return given
  return f'{given} {FLAG}=true'.strip()
