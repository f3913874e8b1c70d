"""Low-rank adapters to and from safetensors files, in the common layouts.

A tensor is called MODULE.lora_A.weight [R, In] or MODULE.lora_B.weight
[Out, R], where MODULE is `transformer.` and the name of a layer in diffusers;
some files say `diffusion_model.` and the name that the Wan team gave, or
`lora_down` and `lora_up`. MODULE.alpha, where it is there, scales a layer's by
alpha / R; or the header of a file says alpha and R of all, as that of diffusers
may. What we write has its scale within B.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util

from sora_jax.models import dit
from sora_jax.weights import names, tensors

Params = Any

STEM = 'pytorch_lora_weights'  # the name by which diffusers finds them
METADATA = 'lora_adapter_metadata'  # of a header, as diffusers writes it
NETWORKS = {
  '': 'dit',
  'transformer': 'dit',
  'diffusion_model': 'dit',
  'transformer_2': 'dit_low',
}
SIDES = {'lora_A': 'a', 'lora_down': 'a', 'lora_B': 'b', 'lora_up': 'b'}
_NAME = re.compile(
  r'(?:(transformer|transformer_2|diffusion_model)\.)?'
  r'(blocks)\.(\d+)\.(.+?)\.'
  r'(?:(lora_A|lora_B|lora_down|lora_up)(?:\.default)?\.weight|alpha)'
)


def write(folder: epath.PathLike, adapters: Params, dtype: str) -> None:
  """Writes the adapters of a DiT, which count as they are (`lora.scaled`).

  Of either of two experts they have the same names: diffusers is told which one
  to load them into, and so are we.
  """
  tensors.write(epath.Path(folder), STEM, _tensors(adapters, dtype))


def _tensors(adapters: Params, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
  for path, value in traverse_util.flatten_dict(adapters).items():
    module = names.DIT['.'.join(path[:-1])][0]
    side = {'a': 'lora_A', 'b': 'lora_B'}[path[-1]]
    for layer, part in enumerate(np.asarray(value).astype(dtype)):
      name = module.replace('*', str(layer))
      yield f'transformer.{name}.{side}.weight', part.T


def read(path: epath.PathLike, config: dit.DiTConfig) -> dict[str, Params]:
  """Adapters by network ('dit', 'dit_low'), float32, which count as they are.

  Layers and modules that a file leaves out are adapted by zero.

  Raises:
    ValueError: the file is damaged, or has a tensor that is no adapter of a DiT
      of this config.
  """
  path = epath.Path(path)
  if not path.exists():
    raise ValueError(f'{path}: there is no such file')
  found: dict[tuple[str, ...], dict[int, np.ndarray]] = {}
  alphas: dict[tuple[str, ...], dict[int, float]] = {}
  for name, tensor in tensors.read_header(path).items():
    network, module, layer, side = _parse(name, path, config)
    value = np.asarray(tensors.read(tensor), np.float32)
    if side == 'alpha':
      alphas.setdefault((network, module), {})[layer] = float(value.reshape(()))
    else:
      found.setdefault((network, module, side), {})[layer] = value.T
  if not found:
    raise ValueError(f'{path} has no adapters (lora_A and lora_B)')
  scales = _scales(path)
  made: dict[str, Params] = {}
  for network, module in dict.fromkeys(key[:2] for key in found):
    a, b = _stack(
      found.get((network, module, 'a'), {}),
      found.get((network, module, 'b'), {}),
      alphas.get((network, module), {}),
      scales.get(network, 1.0),
      config.depth,
      f'{path}: {module}',
    )
    flat = {(*module.split('.'), 'a'): a, (*module.split('.'), 'b'): b}
    made.setdefault(network, {}).update(flat)
  return {n: traverse_util.unflatten_dict(flat) for n, flat in made.items()}


def _scales(path: epath.Path) -> dict[str, float]:
  """Scales of networks, where the header says their alpha and rank."""
  said = tensors.read_metadata(path).get(METADATA)
  if said is None:
    return {}
  try:
    said = json.loads(said)
    scales = {}
    for prefix in ('', 'transformer', 'transformer_2'):
      start = f'{prefix}.' if prefix else ''
      of = lambda name, start=start: said.get(start + name)
      if of('use_rslora') or of('alpha_pattern') or of('rank_pattern'):
        raise ValueError('only one alpha and one r for all layers are read')
      if of('r') is None:
        continue
      scale = float(of('lora_alpha')) / float(of('r'))
      if not math.isfinite(scale):
        raise ValueError(f'a scale of {scale}')
      scales[NETWORKS[prefix]] = scale
  # The last two: numbers and brackets without end.
  except (
    *(ValueError, TypeError, AttributeError, ZeroDivisionError),
    *(OverflowError, RecursionError),
  ) as error:
    raise ValueError(f'{path}: {METADATA} of its header: {error}') from error
  return scales


def _parse(
  name: str, path: epath.Path, config: dit.DiTConfig
) -> tuple[str, str, int, str]:
  """Network, module of ours, layer, and 'a', 'b' or 'alpha'."""
  match = _NAME.fullmatch(name)
  if match is not None:
    network, blocks, layer, rest, side = match.groups()
    module = _MODULES.get(f'{blocks}.*.{rest}')
    if module is not None and int(layer) < config.depth:
      return (
        NETWORKS[network or ''],
        module,
        int(layer),
        SIDES.get(side, 'alpha'),
      )
  raise ValueError(
    f'{path}: {name} is no adapter of a linear layer of the {config.depth} '
    'blocks of this DiT'
  )


# Name of a linear layer in a file -> ours.
_MODULES = {
  theirs: ours
  for ours, both in names.DIT.items()
  for theirs in both
  if '*' in theirs and not re.search(r'norm|table|modulation', ours)
}


def _stack(
  a: dict[int, np.ndarray],
  b: dict[int, np.ndarray],
  alphas: dict[int, float],
  scale: float,
  depth: int,
  where: str,
) -> tuple[np.ndarray, np.ndarray]:
  """A [depth, In, R] and B [depth, R, Out] of layers, filled up with zeros."""
  if set(a) != set(b):
    raise ValueError(f'{where}: lora_A and lora_B must be of the same layers')
  for layer in a:
    if a[layer].ndim != 2 or a[layer].shape[1:] != b[layer].shape[:1]:
      raise ValueError(
        f'{where}: layer {layer} has lora_A {a[layer].T.shape} and lora_B '
        f'{b[layer].T.shape}, whose ranks must be the same'
      )
  rank = max(x.shape[1] for x in a.values())
  inputs = next(iter(a.values())).shape[0]
  outputs = next(iter(b.values())).shape[1]
  stacked = (
    np.zeros((depth, inputs, rank), np.float32),
    np.zeros((depth, rank, outputs), np.float32),
  )
  for layer in a:
    if a[layer].shape[0] != inputs or b[layer].shape[1] != outputs:
      raise ValueError(f'{where}: layer {layer} has another width than others')
    own = a[layer].shape[1]
    own_scale = alphas[layer] / own if layer in alphas else scale
    stacked[0][layer, :, :own] = a[layer]
    stacked[1][layer, :own] = own_scale * b[layer]
  return stacked
