"""What scaling keeps, beside which an autoencoder is judged."""

import numpy as np
import pytest

from sora_jax import reconstruct
from sora_jax.models import autoencoder


def test_bicubic_keeps_as_many_numbers_as_a_latent():
  config = autoencoder.AutoencoderConfig(channels=48, patch=2)
  # 16 x 16 pixels and 4 frames of 3 values to 48: a side shrinks by 8.
  assert reconstruct.shrink_of(config) == pytest.approx(8.0)
  video = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
  small = reconstruct.bicubic(video, 8.0)
  assert small.shape == video.shape
  # 4 x 6 numbers a frame and channel remain, so that is the rank of a frame.
  assert np.linalg.matrix_rank(small[0, :, :, 0].astype(float), tol=40) <= 4
  np.testing.assert_array_equal(reconstruct.bicubic(video, 1.0), video)
