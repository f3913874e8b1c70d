"""Frames of latents: in parts as at once, and rounded to the nearest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from sora_jax import decoder, generate, sharding
from sora_jax.models import autoencoder

pytestmark = pytest.mark.usefixtures('cached_compilation')


@pytest.fixture(scope='module')
def networks():
  return generate.Networks(config := tiny.config(), tiny.params(config))


def mesh_of(devices):
  return sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:devices])


def test_decoding_in_chunks_is_decoding_at_once(networks):
  """Longer than a chunk, so that a stream is carried from one to the next."""
  frames = 2 * decoder.CHUNK + 2
  z = jax.random.normal(jax.random.key(0), (1, frames, 2, 2, 4))
  config = networks.config.autoencoder
  params = networks.params['autoencoder']
  decode = decoder.Decoder(config, mesh_of(1))
  stream, begun = decode(params, z[:, :3])
  _, rest = decode(params, z[:, 3:], stream)
  assert (begun.shape[1], rest.shape[1]) == (9, 4 * (frames - 3))
  whole = jax.jit(lambda p, z: autoencoder.decode(config, p, z))(params, z)
  whole = decoder.to_uint8(whole)
  streamed = np.concatenate([begun, rest], axis=1)
  assert streamed.shape == (1, 1 + 4 * (frames - 1), 16, 16, 3)
  difference = streamed.astype(int) - np.asarray(whole).astype(int)
  assert np.abs(difference).max() <= 1
  assert np.asarray(whole).std() > 5


def test_pixels_are_rounded_to_the_nearest():
  video = jnp.array([-1.0, -1.1 / 255, 1.1 / 255, 0.999, 1.0])
  out = decoder.to_uint8(jnp.tile(video[None, None, None, :, None], 3))
  assert out.dtype == np.uint8
  assert out[0, 0, 0, :, 0].tolist() == [0, 127, 128, 255, 255]
