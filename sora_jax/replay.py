"""Silent corruption: a step that is taken twice must give the same bits.

A chip that computes wrong now and then raises no error, and one wrong bit in
a weight stays and spreads. A step of ours is a function of the state and the
batch, so whatever differs between two runs of it is the hardware's doing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

Tree = Any


class SilentCorruption(OSError):
  """Two runs of one step gave different bits."""


def checked(
  step_fn: Callable[[Tree, Tree], Tree], state: Tree, batch: Tree, step: int
) -> Tree:
  """Takes a step twice from the same inputs; returns what the first gave.

  Needs memory for one more state, as `step_fn` may write over the one it gets.

  Raises:
    SilentCorruption: naming the step and every tensor that differs.
  """
  kept = _copy(state)
  first = step_fn(state, batch)
  wrong = differing(first, step_fn(kept, batch))
  if wrong:
    raise SilentCorruption(
      f'step {step}: taken twice, it gave other bits in {len(wrong)} tensors: '
      f'{", ".join(wrong)}; a device computes wrong. Take it out, and go on '
      'from the last checkpoint'
    )
  return first


def differing(tree: Tree, other: Tree) -> list[str]:
  """Paths of the leaves whose bits are not the same in both trees."""
  equal = jax.device_get(_equal(tree, other))
  leaves, _ = jax.tree_util.tree_flatten_with_path(equal)
  return [jax.tree_util.keystr(path) for path, same in leaves if not same]


@jax.jit
def _copy(tree: Tree) -> Tree:
  return jax.tree.map(jnp.copy, tree)


@jax.jit
def _equal(tree: Tree, other: Tree) -> Tree:
  return jax.tree.map(_same_bits, tree, other)


def _same_bits(x: Array, y: Array) -> Bool[Array, '']:
  # As integers: a NaN differs from itself, and -0 does not differ from 0.
  if jnp.issubdtype(x.dtype, jnp.floating):
    bits = jnp.dtype(f'uint{8 * x.dtype.itemsize}')
    x, y = (jax.lax.bitcast_convert_type(z, bits) for z in (x, y))
  return jnp.all(x == y)
