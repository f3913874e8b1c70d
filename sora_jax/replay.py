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


def twice(
  step_fn: Callable[[Tree, Tree], Tree], state: Tree, batch: Tree
) -> tuple[Tree, Tree]:
  """Takes a step twice from the same inputs, and waits for neither.

  Needs memory for one more state, as `step_fn` may write over the one it gets.

  Returns:
    What the first gave, and of each of its leaves whether both gave its bits,
    for `check`.
  """
  kept = _copy(state)
  first = step_fn(state, batch)
  return first, _equal(first, step_fn(kept, batch))


def check(equal: Tree, step: int) -> None:
  """Raises SilentCorruption with the step and every tensor that differs."""
  if wrong := _differing(equal):
    raise SilentCorruption(
      f'step {step}: taken twice, it gave other bits in {len(wrong)} tensors: '
      f'{", ".join(wrong)}; a device computes wrong. Take it out, and go on '
      'from the last checkpoint'
    )


def _differing(equal: Tree) -> list[str]:
  """Paths of the leaves that are false."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(equal))
  return [jax.tree_util.keystr(path) for path, same in leaves if not same]


@jax.jit
def _copy(tree: Tree) -> Tree:
  return jax.tree.map(jnp.copy, tree)


@jax.jit
def _equal(tree: Tree, other: Tree) -> Tree:
  """Of each leaf, whether its bits are the same in both trees."""
  return jax.tree.map(_same_bits, tree, other)


def _same_bits(x: Array, y: Array) -> Bool[Array, '']:
  # As integers: a NaN differs from itself, and -0 does not differ from 0.
  if jnp.issubdtype(x.dtype, jnp.floating):
    bits = jnp.dtype(f'uint{8 * x.dtype.itemsize}')
    x, y = (jax.lax.bitcast_convert_type(z, bits) for z in (x, y))
  return jnp.all(x == y)
