"""Two predictions, with and without the prompt, into one."""

from jaxtyping import Array, Float


def classifier_free(
  conditional: Float[Array, '*S'],
  unconditional: Float[Array, '*S'],
  scale: float | Float[Array, ''],
) -> Float[Array, '*S']:
  """Moves a prediction away from what would be predicted without the prompt.

  Returns unconditional + scale (conditional - unconditional), written so that
  scale 1 is the conditional prediction, bit for bit. x0, v and the noise are
  linear in each other at a given x_t and t, so guiding any of them guides all.
  Source: Ho and Salimans 2022 (arXiv:2207.12598), equation 6, where scale - 1
  is w.
  """
  return conditional + (scale - 1) * (conditional - unconditional)
