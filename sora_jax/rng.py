"""Randomness by derivation: every number is a function of what it belongs to.

A run has one root key. A random number is named by the root, a purpose and
the indices it belongs to (the draw of a clip, a token in that clip, a group
of levels), never by a row, a slot or a device, so it does not change with
the batch, the packing, the mesh or a restart.
"""

import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sora_jax import flow

# The same numbers whatever the sharding, and made where they lie.
jax.config.update('jax_threefry_partitionable', True)

Index = int | Int[Array, '']


def key(root: Key[Array, ''], purpose: str, *indices: Index) -> Key[Array, '']:
  """Derives the key of one purpose and one thing from the root key.

  Args:
    root: The root key of the run, or the seed of a sampled video.
    purpose: What the numbers are for, as 'noise' or 'level'.
    *indices: What they belong to; the order matters.
  """
  # crc32, because Python's own hash of a string differs between processes.
  derived = jax.random.fold_in(root, zlib.crc32(purpose.encode()))
  for index in indices:
    derived = jax.random.fold_in(derived, index)
  return derived


def token_noise(
  clip_key: Key[Array, ''], index: Int[Array, ' N'], values: int
) -> Float[Array, 'N P']:
  """Draws the noise of a clip's tokens, each by its index in the clip.

  Args:
    clip_key: `key(root, 'noise', draw)` in training, `key(seed, 'noise')` when
      sampling.
    index: Raster index of each token in its clip, in any order.
    values: P, the number of values in a token.
  """
  draw = lambda i: jax.random.normal(jax.random.fold_in(clip_key, i), (values,))
  return jax.vmap(draw)(index)


def pack_noise(
  root: Key[Array, ''],
  draw: Int[Array, 'B M'],
  segment: Int[Array, 'B N'],
  index: Int[Array, 'B N'],
  values: int,
) -> Float[Array, 'B N P']:
  """Draws a pack's noise: for each clip, what `token_noise` gives it alone.

  Empty slots get noise too, of no clip in particular. The arguments are the
  fields of `batch.Pack`.
  """

  def row_noise(draw, segment, index):
    clip_keys = jax.vmap(lambda d: key(root, 'noise', d))(draw)
    token_keys = clip_keys[jnp.maximum(segment - 1, 0)]
    token_keys = jax.vmap(jax.random.fold_in)(token_keys, index)
    return jax.vmap(lambda k: jax.random.normal(k, (values,)))(token_keys)

  return jax.vmap(row_noise)(draw, segment, index)


def pack_levels(
  root: Key[Array, ''],
  draw: Int[Array, 'B M'],
  group_clip: Int[Array, 'B G'],
  group_index: Int[Array, 'B G'],
  tokens_in_clip: Int[Array, 'B M'],
  law: flow.LevelLaw,
) -> Float[Array, 'B G']:
  """Draws a noise level for every group of a pack, by clip draw and group.

  The law's shift follows the number of tokens in the group's clip. Unused
  groups get a level too, of no clip in particular.
  """

  def row_levels(draw, group_clip, group_index, tokens_in_clip):
    clip = jnp.maximum(group_clip - 1, 0)
    keys = jax.vmap(lambda d, g: key(root, 'level', d, g))(
      draw[clip], group_index
    )
    normal = jax.vmap(jax.random.normal)(keys)
    return flow.level_from_normal(normal, tokens_in_clip[clip], law)

  return jax.vmap(row_levels)(draw, group_clip, group_index, tokens_in_clip)


def check_seeds(first: int, count: int = 1) -> int:
  """Returns the first of some seeds that follow one another.

  Raises:
    ValueError: one of them cannot be.
  """
  if not 0 <= first <= 2**32 - count:
    raise ValueError(f'seed {first} must be from 0 to {2**32 - count}')
  return first
