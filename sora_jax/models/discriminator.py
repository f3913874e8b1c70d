"""The judge of the autoencoder's adversarial term: real crop or decoded one?

A patch discriminator (Isola et al. 2017, arXiv:1611.07004, section 3.2.2) in
three axes: small strided convolutions whose every output judges one patch of
spacetime. It is thrown away after training.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

WIDTHS = (32, 64, 128)
Params = Any
Video = Float[Array, 'B T H W 3']


class PatchDiscriminator(nn.Module):
  """Video to one number a patch; positive means real."""

  @nn.compact
  def __call__(self, video: Video) -> Float[Array, 'B U V X 1']:
    x = video
    for width in WIDTHS:
      # Time is not strided at first: short crops have few frames.
      strides = (1, 2, 2) if width == WIDTHS[0] else (2, 2, 2)
      x = nn.Conv(width, (3, 4, 4), strides)(x)
      x = nn.leaky_relu(x, 0.2)
    return nn.Conv(1, (1, 1, 1))(x)


def init(key: Key[Array, '']) -> Params:
  """Parameters, which fit crops of every size."""
  return PatchDiscriminator().init(key, jnp.zeros((1, 5, 16, 16, 3)))['params']


def patches(params: Params, video: Video) -> Float[Array, 'B U V X 1']:
  """The judge's number for every patch."""
  return PatchDiscriminator().apply({'params': params}, video)


def judge(params: Params, video: Video) -> Float[Array, ' B']:
  """The mean over a clip's patches, without gradients for the judge."""
  params = jax.lax.stop_gradient(params)
  return jnp.mean(patches(params, video), axis=(1, 2, 3, 4))
