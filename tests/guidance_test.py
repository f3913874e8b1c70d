import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import flow, guidance


def draws(count):
  return jax.random.normal(jax.random.key(0), (count, 2, 5, 3))


def test_scale_one_is_the_conditional_prediction_bit_for_bit():
  conditional, unconditional = draws(2)
  guided = guidance.classifier_free(conditional, unconditional, 1.0)
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
