"""Silent corruption: a step that is taken twice must give the same bits.

A chip that computes wrong now and then raises no error, and one wrong bit in
a weight stays and spreads. A step of ours is a function of the state and the
batch, so whatever differs between two runs of it is the hardware's doing. A
chip that is wrong in the same way each time differs from those that have the
same part of an array, where a mesh has such; alone it is not noticed.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P
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
    and on every device that has a copy of it, for `check`.
  """
  kept = _copy(state)
  first = step_fn(state, batch)
  return first, _equal(first, step_fn(kept, batch))


def check(equal: Tree, step: int) -> None:
  """Raises SilentCorruption with the step and every tensor that differs."""
  if wrong := _differing(equal):
    raise SilentCorruption(
      f'step {step}: taken twice, or on several devices, it gave other bits in '
      f'{len(wrong)} tensors: {", ".join(wrong)}; a device computes wrong. '
      'Take it out, and go on from the last checkpoint'
    )


def _differing(equal: Tree) -> list[str]:
  """Paths of the leaves that are false."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(equal))
  return [jax.tree_util.keystr(path) for path, same in leaves if not same]


@jax.jit
def _copy(tree: Tree) -> Tree:
  return jax.tree.map(jnp.copy, tree)


def _equal(tree: Tree, other: Tree) -> Tree:
  """Of each leaf, whether all devices have its bits, of both trees."""
  leaves, structure = jax.tree.flatten(tree)
  placed = leaves[0].sharding
  if len(placed.device_set) == 1:
    return _equal_here(tree, other)
  specs = tuple(leaf.sharding.spec for leaf in leaves)
  equal = _equal_on(placed.mesh, specs)(leaves, jax.tree.leaves(other))
  return jax.tree.unflatten(structure, equal)


@jax.jit
def _equal_here(tree: Tree, other: Tree) -> Tree:
  return jax.tree.map(lambda x, y: jnp.all(_bits(x) == _bits(y)), tree, other)


@functools.lru_cache
def _equal_on(
  mesh: Mesh, specs: tuple[P, ...]
) -> Callable[[list[Array], list[Array]], list[Array]]:
  """What compares leaves that lie on a mesh, each device its own part.

  XLA takes copies on several devices for equal, and would look at one.
  """

  def on_device(leaves, others):
    return [
      _agree(x, y, _copies(mesh, spec)).reshape(1)
      for x, y, spec in zip(leaves, others, specs, strict=True)
    ]

  compare = jax.shard_map(
    on_device,
    mesh=mesh,
    in_specs=(list(specs), list(specs)),
    out_specs=P(mesh.axis_names),
    check_vma=False,
  )
  return jax.jit(lambda *both: [jnp.all(x) for x in compare(*both)])


def _copies(mesh: Mesh, spec: P) -> tuple[str, ...]:
  """Axes of a mesh along which devices have the same part of an array."""
  used = set()
  for axes in spec:
    used |= {axes} if isinstance(axes, str) else set(axes or ())
  return tuple(x for x in mesh.axis_names if x not in used)


def _agree(x: Array, y: Array, copies: tuple[str, ...]) -> Bool[Array, '']:
  """Whether two runs have a device's part alike, and so have its copies."""
  bits = _bits(x)
  total = jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)
  same = jax.lax.pmin(total, copies) == jax.lax.pmax(total, copies)
  return jnp.all(bits == _bits(y)) & same


def _bits(x: Array) -> Array:
  """Numbers as integers: a NaN differs from itself, and -0 is 0."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x
  return jax.lax.bitcast_convert_type(
    x, jnp.dtype(f'uint{8 * x.dtype.itemsize}')
  )
