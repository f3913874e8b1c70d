"""Convolutions by oneDNN are those of XLA, but for operands in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import sharding
from sora_jax.models import causal

pytest.importorskip('torch')

from experiments import onednn

PAD = ((1, 1), (1, 1))


@pytest.mark.parametrize(
  'window, strides, pad',
  [
    ((3, 3, 3), (1, 1, 1), PAD),
    ((3, 1, 1), (2, 1, 1), ((0, 0), (0, 0))),
    ((1, 3, 3), (1, 2, 2), ((0, 1), (0, 1))),
    ((1, 1, 1), (1, 1, 1), ((0, 0), (0, 0))),
  ],
)
def test_values_and_gradients_are_off_by_what_is_rounded(window, strides, pad):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (8, 5, 6, 8, 4))
  kernel = jax.random.normal(keys[1], (*window, 4, 6))
  expected = causal.convolve(x, kernel, strides, pad)
  weights = jax.random.normal(keys[2], expected.shape)

  def both(convolve):
    def total(x, kernel):
      y = convolve(x, kernel, strides, pad)
      return jnp.sum(weights * y), y

    run = jax.value_and_grad(total, (0, 1), has_aux=True)
    (_, y), grads = jax.jit(run)(x, kernel)
    return (y, *grads)

  plain = both(causal.convolve)
  with sharding.use(sharding.make_mesh(sharding.MeshConfig())):
    found = both(onednn.convolve)
  for a, b in zip(found, plain, strict=True):
    error = np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2))
    assert 1e-4 < error < 4e-3  # bfloat16 rounds by 2e-3 of a number


def test_rows_that_a_mesh_cannot_share_out_are_convolved_by_xla():
  x, kernel = jnp.ones((1, 3, 4, 4, 2)), jnp.ones((3, 3, 3, 2, 2))
  with sharding.use(sharding.make_mesh(sharding.MeshConfig())):
    found = onednn.convolve(x, kernel, pad=PAD)
  np.testing.assert_array_equal(found, causal.convolve(x, kernel, pad=PAD))
