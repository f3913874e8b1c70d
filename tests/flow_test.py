import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import flow

KINDS = list(flow.Prediction)


@pytest.fixture
def path():
  """x0, noise and levels strictly inside the path, for tokens [2, 5, 3]."""
  generator = np.random.default_rng(0)
  x0, noise = generator.normal(size=(2, 2, 5, 3)).astype(np.float32)
  t = generator.uniform(0.06, 0.94, size=(2, 5)).astype(np.float32)
  return jnp.asarray(x0), jnp.asarray(noise), jnp.asarray(t)


def target(kind, x0, noise):
  return {'x0': x0, 'velocity': noise - x0, 'noise': noise}[kind.value]


def test_path_starts_at_the_data_and_ends_at_the_noise(path):
  x0, noise, t = path
  np.testing.assert_array_equal(flow.interpolate(x0, noise, 0 * t), x0)
  np.testing.assert_array_equal(flow.interpolate(x0, noise, 0 * t + 1), noise)


def test_velocity_is_the_derivative_of_the_path(path):
  x0, noise, t = path
  _, dx_dt = jax.jvp(
    lambda t: flow.interpolate(x0, noise, t), (t,), (jnp.ones_like(t),)
  )
  kind = flow.Prediction.VELOCITY
  np.testing.assert_allclose(dx_dt, target(kind, x0, noise), atol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_every_true_prediction_means_the_same_velocity_and_data(kind, path):
  x0, noise, t = path
  x_t = flow.interpolate(x0, noise, t)
  prediction = target(kind, x0, noise)
  velocity = flow.to_velocity(prediction, x_t, t, kind)
  np.testing.assert_allclose(velocity, noise - x0, atol=2e-5)
  np.testing.assert_allclose(
    flow.to_x0(prediction, x_t, t, kind), x0, atol=2e-5
  )


@pytest.mark.parametrize('kind', KINDS)
def test_an_error_counts_as_the_velocity_error_it_causes(kind, path):
  x0, noise, t = path
  x_t = flow.interpolate(x0, noise, t)
  prediction = target(kind, x0, noise) + 0.1 * jnp.sin(7 * x_t)
  velocity = flow.to_velocity(prediction, x_t, t, kind)
  np.testing.assert_allclose(
    flow.velocity_error(prediction, x0, noise, t, kind),
    jnp.mean((velocity - (noise - x0)) ** 2, axis=-1),
    rtol=1e-3,
  )


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('level', [0.0, 0.01, 0.99, 1.0])
def test_the_truth_has_no_loss_even_at_the_ends(kind, level, path):
  x0, noise, t = path
  error = flow.velocity_error(
    target(kind, x0, noise), x0, noise, jnp.full_like(t, level), kind
  )
  np.testing.assert_array_equal(error, 0)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('level', [0.0, 1.0])
def test_gradients_are_finite_at_the_ends(kind, level, path):
  x0, noise, t = path
  t = jnp.full_like(t, level)
  x_t = flow.interpolate(x0, noise, t)

  def total(prediction, x_t, t):
    velocity = flow.to_velocity(prediction, x_t, t, kind)
    data = flow.to_x0(prediction, x_t, t, kind)
    error = flow.velocity_error(prediction, x0, noise, t, kind)
    return velocity.sum() + data.sum() + error.sum()

  gradients = jax.grad(total, argnums=(0, 1, 2))(noise * 0.5, x_t, t)
  assert all(jnp.isfinite(g).all() for g in gradients)


def test_a_clean_token_stands_still_whatever_is_predicted(path):
  x0, noise, t = path
  velocity = flow.to_velocity(noise, x0, 0 * t, flow.Prediction.X0)
  np.testing.assert_array_equal(velocity, 0)


def test_a_last_step_lands_on_the_predicted_data(path):
  x0, noise, t = path
  small = jnp.full_like(t, 0.01)
  x_t = flow.interpolate(x0, noise, small)
  velocity = flow.to_velocity(0.5 * x0, x_t, small, flow.Prediction.X0)
  landed = x_t - small[..., None] * velocity
  np.testing.assert_allclose(landed, 0.5 * x0, atol=1e-6)


def test_shift_adds_to_the_logit_and_fixes_the_ends():
  t = jnp.linspace(0, 1, 11)
  shifted = flow.shift_levels(t, 3.0)
  assert shifted[0] == 0 and shifted[-1] == 1
  logit = lambda t: jnp.log(t / (1 - t))
  np.testing.assert_allclose(
    logit(shifted[1:-1]), logit(t[1:-1]) + np.log(3), atol=1e-5
  )
  np.testing.assert_allclose(flow.shift_levels(shifted, 1 / 3), t, atol=1e-6)


def test_four_times_the_tokens_shift_twice_as_much():
  law = flow.LevelLaw(shift_base=100)
  alpha = flow.shift_alpha(jnp.array([1, 100, 400, 1600]), law)
  np.testing.assert_allclose(alpha, [1, 1, 2, 4], rtol=1e-6)
  off = flow.shift_alpha(jnp.array([1600]), flow.LevelLaw(shift_base=0))
  np.testing.assert_array_equal(off, [1])


def test_levels_are_logit_normal_with_the_shift_in_the_mean():
  law = flow.LevelLaw(mean=-0.5, std=0.7, shift_base=100)
  normal = jax.random.normal(jax.random.key(0), (20_000,))
  level = flow.level_from_normal(normal, jnp.full(normal.shape, 400), law)
  logit = jnp.log(level / (1 - level))
  assert jnp.all((level > 0) & (level < 1))
  assert jnp.mean(logit) == pytest.approx(np.log(2) - 0.5, abs=0.02)
  assert jnp.std(logit) == pytest.approx(0.7, abs=0.02)


def test_a_law_that_is_cut_off_has_the_same_shape_between_its_ends():
  law = flow.LevelLaw(mean=-0.5, std=0.7, shift_base=100)
  normal = jax.random.normal(jax.random.key(0), (40_000,))
  tokens = jnp.where(jnp.arange(len(normal)) % 2, 400, 25)
  whole = np.asarray(flow.level_from_normal(normal, tokens, law))
  for low, high in ((0.6, 1.0), (0.0, 0.6), (0.3, 0.7)):
    part = dataclasses.replace(law, low=low, high=high)
    cut = np.asarray(flow.level_from_normal(normal, tokens, part))
    assert low <= cut.min() < low + 0.05 and high - 0.12 < cut.max() <= high
    for shifted in (0, 1):  # each length has a law of its own
      kept = whole[shifted::2]
      kept = kept[(low <= kept) & (kept <= high)]
      at = np.linspace(0.05, 0.95, 19)
      np.testing.assert_allclose(
        np.quantile(cut[shifted::2], at), np.quantile(kept, at), atol=0.015
      )


@pytest.mark.parametrize('cut', [(0.875, 1.0), (0.0, 0.875), (0.9, 1.0)])
@pytest.mark.parametrize('run', [jax.jit, lambda draw: draw])
def test_a_law_that_is_cut_off_gives_levels_of_any_length(cut, run):
  """Those far out in a tail are not all at its end."""
  low, high = cut
  law = flow.LevelLaw(mean=-2.0, std=0.7, low=low, high=high)
  tokens = jnp.arange(1, 80_000, 7)
  normal = jax.random.normal(jax.random.key(0), tokens.shape)
  level = run(lambda n, t: flow.level_from_normal(n, t, law))(normal, tokens)
  assert bool(jnp.all((low <= level) & (level <= high)))
  assert len(np.unique(level)) > 0.8 * len(tokens)


@pytest.mark.parametrize(
  ('wrong', 'words'),
  [
    (dict(low=0.5, high=0.5), 'law.low=0.5 must be below law.high=0.5'),
    (dict(high=1.5), 'law.high=1.5, and both from 0 to 1'),
    (dict(low=0.1, std=0.0), 'law.std=0.0 draws one level'),
  ],
)
def test_a_law_is_cut_between_0_and_1(wrong, words):
  with pytest.raises(ValueError, match=words):
    flow.check(flow.LevelLaw(**wrong))


@pytest.mark.parametrize('wrong', [{'std': -1.0}, {'shift_base': -3}])
def test_a_law_that_cannot_be_names_its_value(wrong):
  ((name, value),) = wrong.items()
  with pytest.raises(ValueError, match=f'{name}={value}'):
    flow.check(flow.LevelLaw(**wrong))
