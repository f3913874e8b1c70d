"""The path between data and noise, and what a network may predict on it.

Conventions of the whole package, stated here once:

  * t is the noise level, a float in [0, 1]: t = 0 is data, t = 1 is noise;
  * the path is straight: x_t = (1 - t) x0 + t noise;
  * its velocity is v = dx_t/dt = noise - x0, so sampling walks t from 1 to 0;
  * every token has its own level: `t` has the shape of `x` without the last
    axis, which holds the values of a token.

A network predicts x0, v or the noise; with x_t and t known, each gives the
others. What converts between them divides by t or by 1 - t, and is kept
finite here, in values and in gradients.

Sources: Lipman et al. 2023 (arXiv:2210.02747), Liu et al. 2023
(arXiv:2209.03003) for the path; Esser et al. 2024 (arXiv:2403.03206) for the
law of the levels.
"""

import dataclasses
import enum

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Divisors t and 1 - t are no smaller than this in a loss, where they would
# weigh a token by up to 1 / MARGIN^2 = 400: Li and He 2025 (arXiv:2511.13720).
MARGIN = 0.05


class Prediction(enum.Enum):
  """What the network is trained to give."""

  X0 = 'x0'  # the clean data, as in the Sora report
  VELOCITY = 'velocity'  # noise - x0, as in Wan
  NOISE = 'noise'


@dataclasses.dataclass(kw_only=True)
class LevelLaw:
  """How noise levels are drawn in training: logit-normal, then shifted."""

  mean: float = 0.0  # of logit(t) before the shift
  std: float = 1.0  # of logit(t)
  # Tokens of a clip up to which there is no shift; 0 for no shift at all. With
  # 1024, a Wan clip of 480p (32,760 tokens) gets alpha = 5.7; Wan itself has 5.
  shift_base: int = 1024
  # The law is cut off below and above these levels, after the shift.
  low: float = 0.0
  high: float = 1.0


def check(law: LevelLaw) -> None:
  """Raises ValueError for a law that cannot be."""
  if law.std < 0:
    raise ValueError(f'level law: {law.std=} must be at least 0')
  if law.shift_base < 0:
    raise ValueError(
      f'level law: {law.shift_base=} must be a number of tokens, or 0 for no '
      'shift'
    )
  if not 0 <= law.low < law.high <= 1:
    raise ValueError(
      f'level law: {law.low=} must be below {law.high=}, and both from 0 to 1'
    )
  if _is_cut(law) and not law.std:
    raise ValueError(
      f'level law: {law.std=} draws one level, of which low and high cut none'
    )


def interpolate(
  x0: Float[Array, '*S P'], noise: Float[Array, '*S P'], t: Float[Array, '*S']
) -> Float[Array, '*S P']:
  """Noises data to level t: x_t = (1 - t) x0 + t noise, exact at t = 0, 1."""
  t = t[..., None]
  return (1 - t) * x0 + t * noise


def to_velocity(
  prediction: Float[Array, '*S P'],
  x_t: Float[Array, '*S P'],
  t: Float[Array, '*S'],
  kind: Prediction,
) -> Float[Array, '*S P']:
  """The velocity that a prediction means: what a sampler steps along.

  From x0, v = (x_t - x0) / t for every t > 0, so a step from t to 0 lands on
  the predicted x0 itself. A clean token (t = 0) has velocity 0: it is known.
  From noise, v = (noise - x_t) / (1 - t), with 1 - t at least `MARGIN`, since
  near t = 1 the noise says nothing about the data.
  """
  if kind is Prediction.VELOCITY:
    return prediction
  t = t[..., None]
  if kind is Prediction.NOISE:
    return (prediction - x_t) / jnp.maximum(1 - t, MARGIN)
  # Chosen before the division: a `where` after it has NaN gradients at t = 0.
  divisor = jnp.where(t > 0, t, 1.0)
  return jnp.where(t > 0, x_t - prediction, 0.0) / divisor


def to_x0(
  prediction: Float[Array, '*S P'],
  x_t: Float[Array, '*S P'],
  t: Float[Array, '*S'],
  kind: Prediction,
) -> Float[Array, '*S P']:
  """The clean data that a prediction means.

  From v, x0 = x_t - t v. From noise, x0 = (x_t - t noise) / (1 - t), with
  1 - t at least `MARGIN` as in `to_velocity`, with which it agrees.
  """
  if kind is Prediction.X0:
    return prediction
  velocity = to_velocity(prediction, x_t, t, kind)
  return x_t - t[..., None] * velocity


def velocity_error(
  prediction: Float[Array, '*S P'],
  x0: Float[Array, '*S P'],
  noise: Float[Array, '*S P'],
  t: Float[Array, '*S'],
  kind: Prediction,
) -> Float[Array, '*S']:
  """Mean squared error of each token, measured in velocity, in float32.

  An error e of the prediction is an error e / s of the velocity, where s is
  t for x0, 1 - t for noise and 1 for velocity. The divisor s is kept at or
  above `MARGIN`, which changes the weight of a token and not its minimum:
  the loss of the true answer is 0 at every t. Clean tokens (t = 0) give a
  finite number without meaning; leave them out of the mean.
  """
  target, divisor = {
    Prediction.X0: (x0, t),
    Prediction.VELOCITY: (noise - x0, jnp.ones_like(t)),
    Prediction.NOISE: (noise, 1 - t),
  }[kind]
  error = prediction.astype(jnp.float32) - target.astype(jnp.float32)
  return jnp.mean(error**2, axis=-1) / jnp.maximum(divisor, MARGIN) ** 2


def shift_levels(
  t: Float[Array, '*S'], alpha: float | Float[Array, '*S']
) -> Float[Array, '*S']:
  """Moves levels toward noise, so that longer videos see enough of it.

  Returns alpha t / (1 + (alpha - 1) t), which fixes 0 and 1; alpha > 1 raises
  the rest, and 1 / alpha undoes it. In logits it adds log(alpha).
  Source: Esser et al. 2024 (arXiv:2403.03206), equation 23.
  """
  return alpha * t / (1 + (alpha - 1) * t)


def shift_alpha(
  tokens: int | Int[Array, '*S'], law: LevelLaw
) -> Float[Array, '*S']:
  """The shift of a clip: sqrt(tokens / base), and 1 for shorter clips.

  Averaging n noisy tokens of one thing leaves noise of level 1 / sqrt(n), so
  the same uncertainty needs a level that is higher by the root of n.
  Source: Esser et al. 2024 (arXiv:2403.03206), section 5.3.2.
  """
  tokens = jnp.asarray(tokens, jnp.float32)
  if not law.shift_base:
    return jnp.ones_like(tokens)
  return jnp.sqrt(jnp.maximum(tokens / law.shift_base, 1.0))


def level_from_normal(
  normal: Float[Array, '*S'], tokens: Int[Array, '*S'], law: LevelLaw
) -> Float[Array, '*S']:
  """Makes standard normal numbers into noise levels of clips of some length.

  Returns shift(sigmoid(mean + std normal)): a logit-normal law, shifted.
  Source: Esser et al. 2024 (arXiv:2403.03206), section 3.1. A law that is cut
  off has the same shape between its ends, by the inverse of its distribution.
  """
  alpha = shift_alpha(tokens, law)
  if _is_cut(law):
    normal = _between(normal, alpha, law)
  level = shift_levels(jax.nn.sigmoid(law.mean + law.std * normal), alpha)
  return jnp.clip(level, law.low, law.high) if _is_cut(law) else level


def _is_cut(law: LevelLaw) -> bool:
  return (law.low, law.high) != (0.0, 1.0)


def _between(
  normal: Float[Array, '*S'], alpha: Float[Array, '*S'], law: LevelLaw
) -> Float[Array, '*S']:
  """Standard normal numbers to those of the law's part between its ends."""
  ends = (
    (jax.scipy.special.logit(level) - jnp.log(alpha) - law.mean) / law.std
    for level in (law.low, law.high)
  )
  low, high = ends
  # Of a part above 0 its mirror image, whose shares are small, so exact.
  mirror = jnp.where(low > 0, -1.0, 1.0)
  low, high = jnp.where(low > 0, -high, low), jnp.where(low > 0, -low, high)
  below, above = jax.scipy.special.ndtr(low), jax.scipy.special.ndtr(high)
  share = below + (above - below) * jax.scipy.special.ndtr(mirror * normal)
  tiny = jnp.finfo(jnp.float32).tiny
  found = jax.scipy.special.ndtri(jnp.clip(share, tiny, 1 - 1e-7))
  return mirror * jnp.clip(found, low, high)
