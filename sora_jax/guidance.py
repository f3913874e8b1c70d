"""Two predictions, with and without the prompt, into one.

A rule is `(conditional, unconditional, scale) -> guided`, of one clip; scale
1 is the conditional prediction, bit for bit. x0, v and the noise are linear
in each other at a given x_t and t, so guiding any of them guides all.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def classifier_free(
  conditional: Float[Array, '*S'],
  unconditional: Float[Array, '*S'],
  scale: float | Float[Array, '*#S'],
) -> Float[Array, '*S']:
  """Moves a prediction away from what would be predicted without the prompt.

  Returns unconditional + scale (conditional - unconditional).
  Source: Ho and Salimans 2022 (arXiv:2207.12598), equation 6, where scale - 1
  is w.
  """
  return conditional + (scale - 1) * (conditional - unconditional)


def zero_star(
  conditional: Float[Array, '*S N P'],
  unconditional: Float[Array, '*S N P'],
  scale: float | Float[Array, '*#S #N #P'],
) -> Float[Array, '*S N P']:
  """Moves away from the part of that which the prompt does not explain.

  The unconditional velocity is first scaled to fit the conditional one best,
  by <conditional, unconditional> / <unconditional, unconditional> over the N
  tokens of a clip. It is for velocities, as the fit is not linear.
  Source: Fan et al. 2025 (CFG-Zero*, arXiv:2503.18886), equation 8. The other
  half of it, a first step that stands still, is in `paint`.
  """
  dot = lambda a, b: jnp.sum(a * b, axis=(-2, -1), keepdims=True)
  fit = dot(conditional, unconditional)
  fit /= jnp.maximum(dot(unconditional, unconditional), 1e-8)
  return classifier_free(conditional, fit * unconditional, scale)


RULES = {'cfg': classifier_free, 'zero_star': zero_star}


def within(
  scale: float | Float[Array, ''],
  level: Float[Array, '*S'],
  low: float | Float[Array, ''],
  high: float | Float[Array, ''],
) -> Float[Array, '*S 1']:
  """The scale between two levels, and 1 outside: low < t <= high.

  At high noise guidance loses variety, and at low noise it changes nothing
  but saturation. Source: Kynkaanniemi et al. 2024 (arXiv:2404.07724),
  equation 6.
  """
  inside = (level > low) & (level <= high)
  return jnp.where(inside, scale, 1.0)[..., None]
