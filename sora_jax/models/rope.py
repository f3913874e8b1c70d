"""Rotary position embedding over three axes: latent frame, row and column.

Each pair of neighbouring features (2i, 2i + 1) of a query or key is a complex
number, turned by an angle proportional to its token's position on one axis.
Scores then depend on differences of positions only.

Source: Su et al. 2021 (arXiv:2104.09864), equation 34; the division of the
features among the axes is Wan's.
"""

from typing import NamedTuple

import einops
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

MAX_POSITION = 1024  # positions lie in [0, MAX_POSITION)
BASE = 1e4  # the slowest pair of an axis turns by almost 1 / BASE a position


class Rotations(NamedTuple):
  """Cosines and sines of the angles of R = K / 2 pairs of features."""

  cos: Float[Array, 'B N R']
  sin: Float[Array, 'B N R']


def axis_features(head_dim: int) -> tuple[int, int, int]:
  """Features of a head that encode frame, row and column, all even."""
  side = 2 * (head_dim // 6)
  return head_dim - 2 * side, side, side


def angles(features: int) -> np.ndarray:
  """Angles in radians, float64 [MAX_POSITION, features / 2], for one axis."""
  frequency = BASE ** (-np.arange(0, features, 2) / features)
  return np.outer(np.arange(MAX_POSITION), frequency)


def rotations(position: Int[Array, 'B N 3'], head_dim: int) -> Rotations:
  """How far each pair of a head's features turns at each token.

  Values are read from tables computed in float64, so they are right to float32
  rounding at every position; the float32 product of position and frequency
  would be off by 1e-4 radians at position 1000. A position beyond the tables
  gives NaN, rather than a wrong place.
  """
  tables = [angles(features) for features in axis_features(head_dim)]

  def look_up(function) -> Float[Array, 'B N R']:
    parts = [
      jnp.take(
        jnp.float32(function(table)), position[..., i], axis=0, mode='fill'
      )
      for i, table in enumerate(tables)
    ]
    return jnp.concatenate(parts, axis=-1)

  return Rotations(look_up(np.cos), look_up(np.sin))


def rotate(
  x: Float[Array, 'B N A K'], rotations: Rotations
) -> Float[Array, 'B N A K']:
  """Turns each pair of features, (a + ib) e^(i angle); float32 inside."""
  a, b = jnp.moveaxis(
    einops.rearrange(
      x.astype(jnp.float32), 'B N A (R pair) -> B N A R pair', pair=2
    ),
    -1,
    0,
  )
  cos, sin = rotations.cos[:, :, None], rotations.sin[:, :, None]
  turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
  return einops.rearrange(turned, 'B N A R pair -> B N A (R pair)').astype(
    x.dtype
  )
