"""Gaussian data have an exact velocity, so a solver must reach its answer."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import flow, samplers

MEAN, STD = 2.0, 0.5  # of the data in every test

DETERMINISTIC = [n for n, s in samplers.SAMPLERS.items() if not s.stochastic]


def gaussian_velocity(x, t):
  """E[noise - x0 | x_t = x] for data N(MEAN, STD^2), per token."""
  t = t[..., None]
  variance = ((1 - t) * STD) ** 2 + t**2
  slope = (t - (1 - t) * STD**2) / variance
  return slope * (x - (1 - t) * MEAN) - MEAN


def exact(x, start, end=0.0):
  """Where the flow brings x from level `start` to `end`: same quantile."""
  start = start[..., None]
  std = lambda t: jnp.sqrt(((1 - t) * STD) ** 2 + t**2)
  quantile = (x - (1 - start) * MEAN) / std(start)
  return (1 - end) * MEAN + std(end) * quantile


def integrate(name, levels, x, start, velocity=gaussian_velocity):
  key = jax.random.key(3)
  draw = lambda step: jax.random.normal(jax.random.fold_in(key, step), x.shape)
  sampler = samplers.SAMPLERS[name]
  walk = samplers.integrate(
    velocity, lambda v, x, level: v, x, start, levels, sampler, draw
  )
  return walk.x


def solve(name, num_steps, x, start, alpha=1.0):
  levels = samplers.levels_schedule(num_steps, alpha)
  return integrate(name, levels, x, start)


@pytest.fixture
def noise():
  return jax.random.normal(jax.random.key(0), (4, 3))


@pytest.mark.parametrize('name', DETERMINISTIC)
@pytest.mark.parametrize('alpha', [1.0, 3.0])
def test_noise_becomes_data(name, alpha, noise):
  start = jnp.ones(4)
  reached = solve(name, 400, noise, start, alpha)
  np.testing.assert_allclose(reached, exact(noise, start), atol=0.01)


@pytest.mark.parametrize(
  ('name', 'order'), [('euler', 1), ('heun', 2), ('unipc', 2)]
)
@pytest.mark.parametrize('level', [1.0, 0.63])
def test_error_falls_with_the_order_of_the_method(name, order, level, noise):
  start = jnp.full(4, level)
  error = lambda n: jnp.abs(
    solve(name, n, noise, start) - exact(noise, start)
  ).max()
  # Coarse enough that rounding to float32 is far below the error.
  measured = jnp.log2(error(30) / error(60))
  assert measured == pytest.approx(order, abs=0.25)


def one_step_of_unipc(h, points):
  """Errors of a corrected point, and of the point predicted from there.

  What lies behind is exact: so many points, h apart in lambda from 2 on.
  """
  levels = jax.nn.sigmoid(-2.0 - h * jnp.arange(4.0))[:, None]
  first = jnp.array([[-1.0, 0.5, 2.0]])
  x = [exact(first, levels[0], level[0]) for level in levels]
  clean = [gaussian_data(x[i], levels[i]) for i in range(2)]
  past = samplers.Past(
    x=x[1],
    clean=clean[1],
    slope=(clean[1] - clean[0]) / h,
    level=levels[1],
    span=jnp.array([h]),
    points=jnp.array([points]),
  )
  velocity = gaussian_velocity(x[2], levels[2])
  step = lambda to: samplers.unipc(
    x[2], velocity, levels[2], to, past, lambda: first
  )[0]
  corrected, ahead = step(levels[2]), step(levels[3])
  right = exact(corrected, levels[2], levels[3, 0])
  return [jnp.abs(corrected - x[2]).max(), jnp.abs(ahead - right).max()]


@pytest.mark.parametrize(('points', 'corrector'), [(1, 3), (2, 4)])
def test_each_half_of_a_unipc_step_has_its_order(points, corrector):
  """The whole converges alike if the predictor is one of first order."""
  with jax.enable_x64(True):  # as the error is below what float32 rounds
    wide, narrow = (
      np.asarray(one_step_of_unipc(h, points)) for h in (0.05, 0.025)
    )
  np.testing.assert_allclose(np.log2(wide / narrow), [corrector, 3], atol=0.2)


@pytest.mark.parametrize('steps', [32, 64])
def test_the_stochastic_sampler_draws_the_data(steps):
  """The variance that one step leaves, followed in closed form."""
  x = jax.random.normal(jax.random.key(1), (200_000, 1))
  made = solve('ancestral', steps, x, jnp.ones(len(x)))
  levels = np.asarray(samplers.levels_schedule(steps), np.float64)
  mean, variance = 0.0, 1.0
  for t, after in itertools.pairwise(levels):
    total = ((1 - t) * STD) ** 2 + t**2
    gain = (1 - t) * STD**2 / total  # of the predicted data, by x_t
    clean = MEAN + gain * (mean - (1 - t) * MEAN)
    kept = after * (1 - t) / (t * (1 - after))
    by_x = (1 - after) * gain + after * kept * (1 - (1 - t) * gain) / t
    variance = by_x**2 * variance + after**2 * (1 - kept**2)
    noise = (mean - (1 - t) * clean) / t
    mean = (1 - after) * clean + after * kept * noise
  assert float(made.mean()) == pytest.approx(mean, abs=0.005)
  assert float(made.std()) == pytest.approx(variance**0.5, abs=0.005)
  # First order in distribution: 0.046 short of STD with 32, 0.025 with 64.
  assert STD - variance**0.5 == pytest.approx(1.5 / steps, rel=0.1)


def test_the_stochastic_sampler_needs_noise():
  sampler, x = samplers.SAMPLERS['ancestral'], jnp.zeros((4, 3))
  with pytest.raises(ValueError, match='noise_fn'):
    samplers.integrate(
      gaussian_velocity, lambda v, *at: v, x, jnp.ones(4), jnp.ones(2), sampler
    )


@pytest.mark.parametrize('name', DETERMINISTIC)
def test_each_token_walks_from_its_own_level(name, noise):
  start = jnp.array([0.0, 0.3, 0.77, 1.0])
  reached = solve(name, 200, noise, start)
  np.testing.assert_array_equal(reached[0], noise[0])
  np.testing.assert_allclose(reached, exact(noise, start), atol=0.02)


@pytest.mark.parametrize('name', samplers.SAMPLERS)
def test_a_token_waits_until_the_schedule_reaches_its_level(name, noise):
  start = jnp.array([0.0, 0.3, 0.77, 1.0])
  visited = []

  def velocity(x, level):
    jax.debug.callback(lambda *seen: visited.append(seen), x, level)
    return gaussian_velocity(x, level)

  levels = samplers.levels_schedule(10)
  jax.block_until_ready(integrate(name, levels, noise, start, velocity))
  jax.effects_barrier()
  assert visited
  for x, level in visited:
    np.testing.assert_array_less(level, start + 1e-7)
    waiting = np.asarray(level == start)
    if level[-1] > 0.77:
      assert waiting[2]
    # The token on the boundary may already be one Euler step ahead.
    moved = np.any(np.asarray(x) != np.asarray(noise), axis=-1)
    assert not np.any(moved & waiting & (np.asarray(start) < level[-1]))


@pytest.mark.parametrize(
  ('name', 'evaluations'),
  [('euler', 10), ('heun', 19), ('unipc', 10), ('ancestral', 10)],
)
def test_evaluations_per_sample_and_none_at_level_zero(name, evaluations):
  levels = []

  def velocity(x, level):
    jax.debug.callback(lambda level: levels.append(float(level[0])), level)
    return gaussian_velocity(x, level)

  x, start = jnp.zeros((1, 3)), jnp.ones(1)
  schedule = samplers.levels_schedule(10)
  integrate(name, schedule, x, start, velocity)
  jax.effects_barrier()
  assert len(levels) == evaluations
  assert min(levels) == pytest.approx(0.1)


@pytest.mark.parametrize('name', samplers.SAMPLERS)
def test_the_program_is_one_scan_with_one_call_of_the_network(name):
  calls = []

  def velocity(x, level):
    calls.append(level)
    return gaussian_velocity(x, level)

  program = jax.make_jaxpr(
    lambda x: integrate(
      name, samplers.levels_schedule(50), x, jnp.ones(4), velocity
    )
  )(jnp.zeros((4, 3)))
  assert str(program).count('scan[') == 1
  assert len(calls) == 1


def gaussian_data(x, t):
  """E[x0 | x_t = x] for the same data."""
  return x - t[..., None] * gaussian_velocity(x, t)


def cached(name, levels, x, start, calls, predict=gaussian_data):
  """The walk of a network that predicts the data, and is called at times."""
  key = jax.random.key(3)
  walk = samplers.integrate(
    predict,
    lambda x0, x, t: flow.to_velocity(x0, x, t, flow.Prediction.X0),
    x,
    start,
    levels,
    samplers.SAMPLERS[name],
    lambda step: jax.random.normal(jax.random.fold_in(key, step), x.shape),
    calls,
  )
  return walk.x


def calls_of(name, levels, pattern):
  """A pattern of calls, again and again over the visits of a sampler."""
  visits = len(samplers.SAMPLERS[name].visits(levels)) - 1
  return jnp.array([pattern[i % len(pattern)] for i in range(visits)])


@pytest.mark.parametrize('name', samplers.SAMPLERS)
def test_calling_at_every_visit_is_no_cache_to_the_bit(name, noise):
  start = jnp.array([0.0, 0.3, 0.77, 1.0])
  levels = samplers.levels_schedule(10, 2.0)
  calls = calls_of(name, levels, [True])
  with jax.disable_jit():  # which may round two programs in two ways
    always = cached(name, levels, noise, start, calls)
    np.testing.assert_array_equal(
      always, cached(name, levels, noise, start, None)
    )


@pytest.mark.parametrize('name', samplers.SAMPLERS)
def test_the_network_is_called_at_the_visits_that_say_so(name, noise):
  seen = []

  def predict(x, level):
    jax.debug.callback(lambda level: seen.append(float(level[0])), level)
    return gaussian_data(x, level)

  levels = samplers.levels_schedule(10)
  calls = calls_of(name, levels, [True, False, False])
  cached(name, levels, noise, jnp.ones(4), calls, predict)
  jax.effects_barrier()
  visits = samplers.SAMPLERS[name].visits(levels)[:-1]
  np.testing.assert_allclose(seen, visits[::3])


@pytest.mark.parametrize('name', DETERMINISTIC)
def test_a_cached_walk_still_becomes_data(name, noise):
  start = jnp.array([0.0, 0.3, 0.77, 1.0])

  def error(num_steps):
    levels = samplers.levels_schedule(num_steps)
    calls = calls_of(name, levels, [True, False])
    made = cached(name, levels, noise, start, calls)
    np.testing.assert_array_equal(made[0], noise[0])
    return jnp.abs(made - exact(noise, start)).max()

  assert error(400) < 0.02
  assert jnp.log2(error(100) / error(200)) > 0.75


def test_reusing_the_data_is_one_long_step_of_euler(noise):
  start = jnp.ones(4)
  levels = jnp.array([1.0, 0.8, 0.7, 0.4, 0.1, 0.0])
  calls = jnp.array([True, False, True, False, False])
  short = cached('euler', levels, noise, start, calls)
  long = cached('euler', levels[jnp.array([0, 2, 5])], noise, start, None)
  np.testing.assert_allclose(short, long, atol=1e-6)


def test_predicting_the_data_exactly_gives_the_data():
  x0 = jax.random.normal(jax.random.key(1), (4, 3))

  def velocity(x, level):
    return flow.to_velocity(x0, x, level, flow.Prediction.X0)

  noise = jax.random.normal(jax.random.key(2), x0.shape)
  for name in samplers.SAMPLERS:
    levels = samplers.levels_schedule(30, 4.0)
    reached = integrate(name, levels, noise, jnp.ones(4), velocity)
    np.testing.assert_allclose(reached, x0, atol=1e-5)


def test_schedule_falls_from_start_to_zero_in_even_steps_before_the_shift():
  np.testing.assert_allclose(
    samplers.levels_schedule(4), [1, 0.75, 0.5, 0.25, 0], atol=1e-7
  )
  # 3 t / (1 + 2 t) at t = 3/4, 1/2, 1/4.
  np.testing.assert_allclose(
    samplers.levels_schedule(4, 3.0), [1, 0.9, 0.75, 0.5, 0], atol=1e-6
  )
  late = samplers.levels_schedule(2, 3.0, start=0.75)
  np.testing.assert_allclose(late, [0.75, 0.5, 0], atol=1e-6)


@pytest.mark.parametrize(
  'wrong', [{'num_steps': 0}, {'alpha': 0.0}, {'start': 0.0}, {'start': 1.5}]
)
def test_schedules_that_cannot_be_name_the_value(wrong):
  ((name, value),) = wrong.items()
  with pytest.raises(ValueError, match=f'{name}={value}'):
    samplers.levels_schedule(**{'num_steps': 10} | wrong)
