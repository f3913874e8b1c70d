"""Ways from one motion into another one, without a jump in place or pace."""

import numpy as np
from jaxtyping import Float


def smooth(part: np.ndarray) -> np.ndarray:
  """From 0 to 1 without a jump in pace at either end."""
  return part * part * (3 - 2 * part)


def hermite(
  ends: tuple[Float[np.ndarray, ' D'], Float[np.ndarray, ' D']],
  velocities: tuple[Float[np.ndarray, ' D'], Float[np.ndarray, ' D']],
  duration: float,
  part: Float[np.ndarray, ' T'],
) -> Float[np.ndarray, 'T D']:
  """The cubic of Hermite, which has given places and velocities at its ends.

  Args:
    ends: Places at its start and its end.
    velocities: There, per second.
    duration: Seconds between them.
    part: Of the way, 0 to 1.
  """
  s = part[:, None]
  bend = s * (1 - s) ** 2 * velocities[0] - s**2 * (1 - s) * velocities[1]
  return ends[0] + smooth(s) * (ends[1] - ends[0]) + duration * bend
