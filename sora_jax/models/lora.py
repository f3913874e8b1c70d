"""Low-rank adapters: a few trained numbers beside frozen matrices.

A kernel W of the blocks is used as W + (alpha / rank) A B, with A [In, R] and
B [R, Out]. B starts at zero, so that training starts from what is adapted.
`layers.Linear` adds (x A) B where a variable collection `lora` has them, which
needs no gradient of W. Source: Hu et al. 2021 (arXiv:2106.09685), section 4.1.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn, traverse_util
from jaxtyping import Array, Key

Params = Any
COLLECTION = 'lora'


@dataclasses.dataclass(kw_only=True)
class LoRAConfig:
  """Which matrices of the DiT get an adapter, and of which size."""

  rank: int = 0  # 0: none, and all weights are trained
  alpha: float = 0.0  # what is added counts alpha / rank; 0: as much as rank
  # Linear layers of a block, by how their names end; the MLP's are
  # `ffn.linear_1` and `ffn.linear_2`.
  targets: tuple[str, ...] = ('to_q', 'to_k', 'to_v', 'to_out')

  @property
  def scale(self) -> float:
    return (self.alpha or self.rank) / self.rank


def check(config: LoRAConfig) -> None:
  """Raises ValueError for adapters that cannot be."""
  for name in ('rank', 'alpha'):
    if getattr(config, name) < 0:
      raise ValueError(f'lora.{name}={getattr(config, name)} must be 0 or more')


def init(config: LoRAConfig, boxed: Params, key: Key[Array, '']) -> Params:
  """Adapters in boxes, as `{'blocks': {..., 'to_q': {'a': A, 'b': B}}}`.

  Args:
    config: Of the adapters; its rank is above 0.
    boxed: Abstract parameters of the network, in boxes.
    key: Of the draw.

  Raises:
    ValueError: a target that no layer of a block has.
  """
  adapters = {}
  for path, box in traverse_util.flatten_dict(boxed).items():
    if not (_is_kernel(path) and _is_target(path, config.targets)):
      continue
    layers, inputs, outputs = box.value.shape
    of_layers, of_inputs, of_outputs = box.names
    draw = jax.random.normal(
      jax.random.fold_in(key, len(adapters)), (layers, inputs, config.rank)
    )
    adapters[(*path[:-1], 'a')] = nn.LogicallyPartitioned(
      draw * inputs**-0.5, (of_layers, of_inputs, None)
    )
    adapters[(*path[:-1], 'b')] = nn.LogicallyPartitioned(
      jnp.zeros((layers, config.rank, outputs)), (of_layers, None, of_outputs)
    )
  _check_targets(config.targets, boxed)
  return traverse_util.unflatten_dict(adapters)


def _check_targets(targets: tuple[str, ...], boxed: Params) -> None:
  paths = [p for p in traverse_util.flatten_dict(boxed) if _is_kernel(p)]
  unknown = [t for t in targets if not any(_is_target(p, (t,)) for p in paths)]
  if unknown or not targets:
    names = sorted({'.'.join(path[1:-1]) for path in paths})
    raise ValueError(
      f'lora.targets={targets}: each must end the name of a layer, which are '
      f'{", ".join(names)}'
    )


def _is_kernel(path: tuple[str, ...]) -> bool:
  return path[0] == 'blocks' and path[-1] == 'kernel'


def _is_target(path: tuple[str, ...], targets: tuple[str, ...]) -> bool:
  name = '.' + '.'.join(path[:-1])
  return any(name.endswith('.' + target) for target in targets)


def scaled(config: LoRAConfig, adapters: Params) -> Params:
  """Adapters that count as they are, without alpha and rank."""
  flat = traverse_util.flatten_dict(adapters)
  scale = lambda path, x: config.scale * x if path[-1] == 'b' else x
  return traverse_util.unflatten_dict({
    path: scale(path, x) for path, x in flat.items()
  })


def merge(params: Params, adapters: Params) -> Params:
  """A network's parameters with adapters that count as they are, W + A B."""
  flat = traverse_util.flatten_dict(params)
  parts = traverse_util.flatten_dict(adapters)
  for path, a in parts.items():
    if path[-1] == 'a':
      place = (*path[:-1], 'kernel')
      flat[place] = flat[place] + a @ parts[(*path[:-1], 'b')]
  return traverse_util.unflatten_dict(flat)
