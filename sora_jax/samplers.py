"""Solvers of dx/dt = v: from noise to data by any velocity.

A sampler is a step rule, told the velocity at the point where it stands, and
the list of levels at which it stands still to ask for one. The loop is one
scan that calls the network in one place, whatever the rule, and may be told
to use its last answer again instead. Rules know of no network, no prediction
kind and no guidance; see `flow` for the conventions.
A rule is also given a function that draws noise for this step, which only
those that are stochastic call.

Levels are per token: `x` is [*S, P] and a level [*S]. A token starts at its
own level s and does not move until the schedule has come down to it, so
tokens with s = 0 are known and never move.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sora_jax import flow

# The network, at tokens and the level of each; and what its answer means there.
PredictFn = Callable[[Float[Array, '*S P'], Float[Array, '*S']], Any]
VelocityFn = Callable[
  [Any, Float[Array, '*S P'], Float[Array, '*S']], Float[Array, '*S P']
]

DrawFn = Callable[[], Float[Array, '*S P']]

# Of what is 0 or infinite at t = 0 and t = 1.
TINY = 1e-7


def euler(
  x: Float[Array, '*S P'],
  velocity: Float[Array, '*S P'],
  level: Float[Array, '*S'],
  next_level: Float[Array, '*S'],
  state: tuple[()],
  draw: DrawFn,
) -> tuple[Float[Array, '*S P'], tuple[()]]:
  """Goes straight on: x + h v with h = next_level - level. First order."""
  return x + (next_level - level)[..., None] * velocity, state


class Last(NamedTuple):
  """What `heun` remembers of its last step; zeros at first."""

  velocity: Float[Array, '*S P']
  step: Float[Array, '*S']  # by how much the level changed, at most 0


def heun(
  x: Float[Array, '*S P'],
  velocity: Float[Array, '*S P'],
  level: Float[Array, '*S'],
  next_level: Float[Array, '*S'],
  state: Last,
  draw: DrawFn,
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


class Past(NamedTuple):
  """What `unipc` remembers of the last point where a token stood."""

  x: Float[Array, '*S P']  # corrected
  clean: Float[Array, '*S P']  # the data predicted there
  slope: Float[Array, '*S P']  # change of that per unit of lambda before it
  level: Float[Array, '*S']
  span: Float[Array, '*S']  # in lambda, from the point before it
  points: Int[Array, '*S']  # behind the token: 0, 1, or 2 for more


def unipc(
  x: Float[Array, '*S P'],
  velocity: Float[Array, '*S P'],
  level: Float[Array, '*S'],
  next_level: Float[Array, '*S'],
  past: Past,
  draw: DrawFn,
) -> tuple[Float[Array, '*S P'], Past]:
  """Corrects the last step by the prediction here, then takes the next.

  Integrates exactly over lambda = log((1 - t) / t), with the predicted data a
  line through the last two predictions: second order for one call of the
  network a step. The first step of a token has no past, and the step to 0, of
  infinite length in lambda, lands on the predicted data; both are first order.
  Source: Zhao et al. 2023 (arXiv:2302.04867), UniPC-2 for networks that predict
  the data, with B2(h): algorithms 1 and 2, and appendix E.4.
  """
  column = lambda factor: factor[..., None]
  clean = x - column(level) * velocity
  behind = past.points > 0
  x = jnp.where(column(behind), _correct(past, clean, level), x)
  span = _lambda_span(past.level, level)
  slope = (clean - past.clean) / column(jnp.where(behind, span, 1.0))
  slope = jnp.where(column(behind), slope, 0.0)
  ahead, reach = _exponential_euler(x, clean, level, next_level)
  onward = jnp.where(next_level > 0, _lambda_span(level, next_level), 0.0)
  ahead += column(0.5 * reach * onward) * slope
  here = Past(x, clean, slope, level, span, jnp.minimum(past.points + 1, 2))
  moves = next_level < level
  keep = lambda new, old: jnp.where(
    column(moves) if new.ndim > moves.ndim else moves, new, old
  )
  return keep(ahead, x), jax.tree.map(keep, here, past)


def _correct(
  past: Past, clean: Float[Array, '*S P'], level: Float[Array, '*S']
) -> Float[Array, '*S P']:
  """The last step again, now that the prediction at its end is known."""
  column = lambda factor: factor[..., None]
  base, reach = _exponential_euler(past.x, past.clean, past.level, level)
  h = _lambda_span(past.level, level)
  shrink = _shrink(past.level, level) - 1.0  # exp(-h) - 1
  # Conditions of order 1 and 2 on the weights of both differences.
  first = -1.0 / h - 1.0 / shrink
  second = 2.0 * ((shrink / h + 1.0) / h - 0.5) / shrink
  older = (first - second) / (1.0 + past.span / h)
  newer = first - older
  lone = past.points < 2
  older, newer = jnp.where(lone, 0.0, older), jnp.where(lone, 0.5, newer)
  change = column(older * h) * past.slope
  change += column(newer) * (clean - past.clean)
  return base + column(reach) * change


def _exponential_euler(
  x: Float[Array, '*S P'],
  clean: Float[Array, '*S P'],
  level: Float[Array, '*S'],
  next_level: Float[Array, '*S'],
) -> tuple[Float[Array, '*S P'], Float[Array, '*S']]:
  """A step with the predicted data fixed, and how far a change would move it.

  The first is x' = (t' / t) x + a clean, where a = (1 - t') (1 - exp(-h)) is
  the second.
  """
  reach = (1.0 - next_level) * (1.0 - _shrink(level, next_level))
  scale = next_level / jnp.maximum(level, TINY)
  return scale[..., None] * x + reach[..., None] * clean, reach


def _shrink(
  level: Float[Array, '*S'], next_level: Float[Array, '*S']
) -> Float[Array, '*S']:
  """exp(-h), h the step in lambda: by how much noise / data falls."""
  falls = next_level * (1.0 - level)
  return falls / jnp.maximum(level * (1.0 - next_level), TINY)


def _lambda_span(
  level: Float[Array, '*S'], next_level: Float[Array, '*S']
) -> Float[Array, '*S']:
  """The step h in lambda = log((1 - t) / t); no more than log(1 / TINY)."""
  return -jnp.log(jnp.maximum(_shrink(level, next_level), TINY))


def ancestral(
  x: Float[Array, '*S P'],
  velocity: Float[Array, '*S P'],
  level: Float[Array, '*S'],
  next_level: Float[Array, '*S'],
  state: tuple[()],
  draw: DrawFn,
) -> tuple[Float[Array, '*S P'], tuple[()]]:
  """Goes to the predicted data and comes back with part of the noise new.

  With r = exp(-h), the step that noise / data falls by, the noise at the next
  level is r old + sqrt(1 - r^2) new: a draw from the posterior of the forward
  process given the predicted data. First order, in distribution.
  Source: Song et al. 2021 (DDIM, arXiv:2010.02502), equation 16 with eta = 1,
  of the path of `flow`.
  """
  clean = x - level[..., None] * velocity
  noise = x + (1.0 - level)[..., None] * velocity
  kept = _shrink(level, next_level)[..., None]
  noise = kept * noise + jnp.sqrt(jnp.maximum(1.0 - kept**2, 0.0)) * draw()
  ahead = flow.interpolate(clean, noise, next_level)
  return jnp.where((next_level < level)[..., None], ahead, x), state


def _once(levels: Float[Array, ' E']) -> Float[Array, ' V']:
  return levels


def _twice(levels: Float[Array, ' E']) -> Float[Array, ' V']:
  """Every level twice, but for the first and the last.

  The step to 0 remains an Euler step: at level 0 there is no velocity to ask.
  """
  return jnp.concatenate([levels[:1], jnp.repeat(levels[1:-1], 2), levels[-1:]])


def _nothing(x: Float[Array, '*S P']) -> tuple[()]:
  return ()


def _no_step(x: Float[Array, '*S P']) -> Last:
  return Last(jnp.zeros_like(x), jnp.zeros_like(x[..., 0]))


def _no_past(x: Float[Array, '*S P']) -> Past:
  zeros = jnp.zeros_like(x)
  none = zeros[..., 0]
  return Past(zeros, zeros, zeros, none, none, none.astype(jnp.int32))


class Sampler(NamedTuple):
  """A step rule, where it stands, and what it remembers.

  The rule is `(x, velocity, level, next_level, state, draw) -> (x, state)`.
  """

  step: Callable[..., tuple[Float[Array, '*S P'], Any]]
  # Levels of the schedule -> levels to evaluate the velocity at, and the last.
  visits: Callable[[Float[Array, ' E']], Float[Array, ' V']] = _once
  start: Callable[[Float[Array, '*S P']], Any] = _nothing
  stochastic: bool = False  # calls `draw`


SAMPLERS = {
  'euler': Sampler(euler),
  'heun': Sampler(heun, visits=_twice, start=_no_step),
  'unipc': Sampler(unipc, start=_no_past),
  'ancestral': Sampler(ancestral, stochastic=True),
}


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


class Schedule(NamedTuple):
  """The levels of a solver, and the times of which the network is told."""

  levels: Float[Array, ' E']
  times: Float[Array, ' E'] | None = None  # None: the levels themselves


def even(num_steps: int, alpha: float = 1.0, start: float = 1.0) -> Schedule:
  """As `levels_schedule`."""
  return Schedule(levels_schedule(num_steps, alpha, start))


def wan(num_steps: int, alpha: float = 1.0, start: float = 1.0) -> Schedule:
  """The levels on which the published Wan models are sampled.

  Even steps to 0.001, before the shift, of which the last is replaced by one to
  0. No level is 1, whose logit is infinite, and the network is told of whole
  thousandths, rounded down. In float64, as their borders are close.
  Source: `UniPCMultistepScheduler` of diffusers 0.42 with flow sigmas.
  """
  levels_schedule(num_steps, alpha, start)  # refuses what cannot be
  first = start / (alpha + (1 - alpha) * start)
  grid = np.linspace(first, 1e-3, num_steps + 1)[:-1]
  levels = alpha * grid / (1 + (alpha - 1) * grid)
  levels[0] = min(levels[0], 1 - 1e-6)
  levels = np.append(levels, 0.0)
  times = np.floor(1e3 * levels) / 1e3
  return Schedule(jnp.float32(levels), jnp.float32(times))


SCHEDULES = {'even': even, 'wan': wan}


class Walk(NamedTuple):
  """Where tokens came, and what the network said on the way."""

  x: Float[Array, '*S P']
  predictions: Any  # at every visit, along a new first axis


def integrate(
  predict_fn: PredictFn,
  velocity_fn: VelocityFn,
  x: Float[Array, '*S P'],
  start: Float[Array, '*S'],
  levels: Float[Array, ' E'],
  sampler: Sampler,
  noise_fn: Callable[[Int[Array, '']], Float[Array, '*S P']] | None = None,
  calls: Bool[Array, ' V'] | None = None,
) -> Walk:
  """Walks tokens down to level 0, in one scan with one call of the network.

  Args:
    predict_fn: (x, level of each token) -> prediction; the network.
    velocity_fn: (prediction, x, level of each token) -> velocity.
    x: Tokens noised to their starting levels.
    start: Starting level of each token; the level at any moment is the smaller
      of this and the schedule's.
    levels: The schedule, falling to 0, as from `levels_schedule`.
    sampler: An entry of `SAMPLERS`.
    noise_fn: Number of a step -> its noise, for samplers that are stochastic.
    calls: Whether each visit calls the network, the first of all, or takes the
      last prediction for its own. By default every one calls it.
  """

  def visit(carry, this):
    x, state, last = carry
    index, call, *pair = this
    level, next_level = (jnp.minimum(start, scheduled) for scheduled in pair)
    if calls is None:
      prediction, last = predict_fn(x, level), None
    else:
      again = lambda *unused: last
      prediction = last = jax.lax.cond(call, predict_fn, again, x, level)
    velocity = velocity_fn(prediction, x, level)
    draw = functools.partial(noise_fn, index) if noise_fn else None
    x, state = sampler.step(x, velocity, level, next_level, state, draw)
    return (x, state, last), prediction

  if sampler.stochastic and noise_fn is None:
    raise ValueError('sampling: a stochastic sampler needs a noise_fn')
  visits = sampler.visits(levels)
  last = None if calls is None else _nothing_yet(predict_fn, x, start)
  steps = (jnp.arange(len(visits) - 1), calls, visits[:-1], visits[1:])
  (x, *_), seen = jax.lax.scan(visit, (x, sampler.start(x), last), steps)
  return Walk(x, seen)


def _nothing_yet(predict_fn: PredictFn, *where: Float[Array, '...']) -> Any:
  """Zeros of the shape of a prediction."""
  shape = jax.eval_shape(predict_fn, *where)
  return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
