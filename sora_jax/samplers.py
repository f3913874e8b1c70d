"""Solvers of dx/dt = v: from noise to data by any velocity.

A sampler is a step rule, told the velocity at the point where it stands, and
the list of levels at which it stands still to ask for one. The loop is one
scan that calls the network in one place, whatever the rule. Rules know of no
network, no prediction kind and no guidance; see `flow` for the conventions.

Levels are per token: `x` is [*S, P] and a level [*S]. A token starts at its
own level s and does not move until the schedule has come down to it, so
tokens with s = 0 are known and never move.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sora_jax import flow

VelocityFn = Callable[
  [Float[Array, '*S P'], Float[Array, '*S']], Float[Array, '*S P']
]


class Last(NamedTuple):
  """What a rule remembers of its last step; zeros at first."""

  velocity: Float[Array, '*S P']
  step: Float[Array, '*S']  # by how much the level changed, at most 0


def euler(
  x: Float[Array, '*S P'],
  velocity: Float[Array, '*S P'],
  level: Float[Array, '*S'],
  next_level: Float[Array, '*S'],
  state: Last,
) -> tuple[Float[Array, '*S P'], Last]:
  """Goes straight on: x + h v with h = next_level - level. First order."""
  step = next_level - level
  return x + step[..., None] * velocity, Last(velocity, step)


def heun(
  x: Float[Array, '*S P'],
  velocity: Float[Array, '*S P'],
  level: Float[Array, '*S'],
  next_level: Float[Array, '*S'],
  state: Last,
) -> tuple[Float[Array, '*S P'], Last]:
  """Goes straight on, then corrects by the velocity found there.

  Stands twice at each level. The first time it arrived there by an Euler step
  h v, and now replaces v by the mean of v and the velocity here: it adds
  h (v' - v) / 2 and stays. The second time it has no step to correct, and takes
  the next Euler step. So one of the two terms below is always 0. Second order.
  Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 1.
  """
  correction = 0.5 * state.step[..., None] * (velocity - state.velocity)
  step = next_level - level
  return x + correction + step[..., None] * velocity, Last(velocity, step)


def _once(levels: Float[Array, ' E']) -> Float[Array, ' V']:
  return levels


def _twice(levels: Float[Array, ' E']) -> Float[Array, ' V']:
  """Every level twice, but for the first and the last.

  The step to 0 remains an Euler step: at level 0 there is no velocity to ask.
  """
  return jnp.concatenate([levels[:1], jnp.repeat(levels[1:-1], 2), levels[-1:]])


class Sampler(NamedTuple):
  """A step rule `(x, velocity, level, next_level, state) -> (x, state)`."""

  step: Callable[..., tuple[Float[Array, '*S P'], Last]]
  # Levels of the schedule -> levels to evaluate the velocity at, and the last.
  visits: Callable[[Float[Array, ' E']], Float[Array, ' V']]


SAMPLERS = {'euler': Sampler(euler, _once), 'heun': Sampler(heun, _twice)}


def levels_schedule(
  num_steps: int, alpha: float = 1.0, start: float = 1.0
) -> Float[Array, ' E']:
  """Levels from `start` down to 0 in `num_steps` steps, shifted by alpha.

  Steps are equal before the shift, `flow.shift_levels`, which spends more of
  them near noise for alpha > 1. With `start` below 1, for an edit, the steps
  go over the part of the path that is left.

  Returns:
    num_steps + 1 levels, the first exactly `start` and the last exactly 0.
  """
  if num_steps < 1:
    raise ValueError(f'sampling: {num_steps=} must be at least 1')
  if alpha <= 0:
    raise ValueError(f'sampling: {alpha=} must be above 0; 1 is no shift')
  if not 0 < start <= 1:
    raise ValueError(f'sampling: {start=} must be above 0 and at most 1')
  first = flow.shift_levels(jnp.float32(start), 1 / alpha)
  levels = flow.shift_levels(first * jnp.linspace(1, 0, num_steps + 1), alpha)
  return levels.at[0].set(start)


def integrate(
  velocity_fn: VelocityFn,
  x: Float[Array, '*S P'],
  start: Float[Array, '*S'],
  levels: Float[Array, ' E'],
  sampler: Sampler,
) -> Float[Array, '*S P']:
  """Walks tokens down to level 0, in one scan with one call of the network.

  Args:
    velocity_fn: (x, level of each token) -> velocity.
    x: Tokens noised to their starting levels.
    start: Starting level of each token; the level at any moment is the smaller
      of this and the schedule's.
    levels: The schedule, falling to 0, as from `levels_schedule`.
    sampler: An entry of `SAMPLERS`.
  """

  def visit(carry, pair):
    x, state = carry
    level, next_level = (jnp.minimum(start, scheduled) for scheduled in pair)
    velocity = velocity_fn(x, level)
    return sampler.step(x, velocity, level, next_level, state), None

  visits = sampler.visits(levels)
  state = Last(jnp.zeros_like(x), jnp.zeros_like(start))
  (x, _), _ = jax.lax.scan(visit, (x, state), (visits[:-1], visits[1:]))
  return x
