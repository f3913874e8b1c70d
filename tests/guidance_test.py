import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import flow, guidance


def draws(count):
  return jax.random.normal(jax.random.key(0), (count, 2, 5, 3))


@pytest.mark.parametrize('rule', guidance.RULES.values())
def test_scale_one_is_the_conditional_prediction_bit_for_bit(rule):
  conditional, unconditional = draws(2)
  guided = rule(conditional, unconditional, 1.0)
  np.testing.assert_array_equal(guided, conditional)


def test_scale_zero_forgets_the_prompt_and_three_overshoots():
  conditional, unconditional = jnp.array([2.0]), jnp.array([1.5])
  at = lambda scale: guidance.classifier_free(conditional, unconditional, scale)
  np.testing.assert_array_equal(at(0.0), [1.5])
  np.testing.assert_array_equal(at(3.0), [3.0])
  np.testing.assert_array_equal(at(jnp.float32(3)), [3.0])


@pytest.mark.parametrize('kind', list(flow.Prediction))
def test_guiding_any_prediction_guides_the_velocity(kind):
  conditional, unconditional, x_t = draws(3)
  t = jnp.full(x_t.shape[:-1], 0.4)
  velocity = lambda prediction: flow.to_velocity(prediction, x_t, t, kind)
  guided = guidance.classifier_free(conditional, unconditional, 5.0)
  np.testing.assert_allclose(
    velocity(guided),
    guidance.classifier_free(
      velocity(conditional), velocity(unconditional), 5.0
    ),
    atol=1e-4,
  )


def test_zero_star_ignores_how_long_the_unconditional_velocity_is():
  conditional, unconditional = draws(2)
  guided = guidance.zero_star(conditional, unconditional, 4.0)
  longer = jnp.array([3.0, 0.2])[:, None, None] * unconditional
  np.testing.assert_allclose(
    guidance.zero_star(conditional, longer, 4.0), guided, atol=1e-5
  )
  # What is added is across the unconditional velocity, clip by clip.
  added = guided - conditional
  across = jnp.sum(added * unconditional, axis=(1, 2))
  np.testing.assert_allclose(across, 0, atol=1e-3)
  assert jnp.abs(added).max() > 0.1


def test_guidance_acts_between_two_levels():
  level = jnp.array([[0.0, 0.2, 0.21, 0.8, 0.81, 1.0]])
  scale = guidance.within(3.0, level, 0.2, 0.8)
  np.testing.assert_array_equal(scale[0, :, 0], [1, 1, 3, 3, 1, 1])
