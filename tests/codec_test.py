"""Frames of latents and back: in parts as at once, in time and in space."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from sora_jax import (
  batch,
  codec,
  generate,
  memory,
  metrics,
  networks as networks_lib,
  objectives,
  sharding,
)
from sora_jax.data.worlds import balls
from sora_jax.models import abstract, autoencoder


@pytest.fixture(scope='module')
def networks():
  return generate.Networks(config := tiny.config(), tiny.params(config))


def mesh_of(devices):
  return sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:devices])


def test_decoding_in_chunks_is_decoding_at_once(networks):
  """Longer than a chunk, so that a stream is carried from one to the next."""
  frames = 2 * codec.CHUNK + 2
  z = jax.random.normal(jax.random.key(0), (1, frames, 2, 2, 4))
  config = networks.config.autoencoder
  params = networks.params['autoencoder']
  decode = codec.Decoder(config, mesh_of(1))
  stream, begun = decode(params, z[:, :3])
  _, rest = decode(params, z[:, 3:], stream)
  assert (begun.shape[1], rest.shape[1]) == (9, 4 * (frames - 3))
  whole = jax.jit(lambda p, z: autoencoder.decode(config, p, z))(params, z)
  whole = codec.to_uint8(whole)
  streamed = np.concatenate([begun, rest], axis=1)
  assert streamed.shape == (1, 1 + 4 * (frames - 1), 16, 16, 3)
  difference = streamed.astype(int) - np.asarray(whole).astype(int)
  assert np.abs(difference).max() <= 1
  assert np.asarray(whole).std() > 5


@pytest.fixture(scope='module')
def shipped():
  return networks_lib.read(networks_lib.SHIPPED)


@pytest.fixture(scope='module')
def clip():
  """Of the world that the shipped autoencoder knows, in four times its size."""
  size = batch.parse_size('128x128x17')
  made, _ = balls.clip(3, 0, size, 'test')
  return made.video[None]


def latents_of(shipped, clip, **how):
  net, params = shipped.config.autoencoder, shipped.params['autoencoder']
  return codec.make_encoder(net, params, mesh_of(1), **how)(clip)


@pytest.mark.parametrize('most_pixels', [1, 8 * 128 * 128, codec.MOST_PIXELS])
def test_encoding_in_chunks_is_encoding_at_once(shipped, clip, most_pixels):
  made = latents_of(shipped, clip, most_pixels=most_pixels)
  net, params = shipped.config.autoencoder, shipped.params['autoencoder']
  whole = jax.jit(lambda p, x: autoencoder.encode(net, p, x))(
    params, objectives.to_pixels(jnp.asarray(clip))
  )
  assert made.shape == (1, 5, 16, 16, net.channels)
  np.testing.assert_allclose(made, whole, atol=1e-4)


def test_tiles_are_near_what_whole_frames_are(shipped, clip):
  """In what the network sees beyond a tile alone, and with no seam."""
  whole, tiled = latents_of(shipped, clip), latents_of(shipped, clip, tile=64)
  error = np.sqrt(np.mean((tiled - whole) ** 2))
  assert 0 < error < 0.1  # of latents of unit variance
  net, params = shipped.config.autoencoder, shipped.params['autoencoder']
  whole = jnp.asarray(whole)
  _, frames = codec.Decoder(net, mesh_of(1))(params, whole)
  decode = codec.Decoder(net, mesh_of(1), tile=64)
  stream, begun = decode(params, whole[:, :2])
  assert all(type(x) is np.ndarray for x in jax.tree.leaves(stream))
  _, rest = decode(params, whole[:, 2:], stream)
  made = np.concatenate([begun, rest], axis=1)
  assert metrics.psnr(made[0], frames[0]) > 40
  _, at_once = decode(params, whole)
  assert np.abs(at_once.astype(int) - made.astype(int)).max() <= 1


def test_a_tile_that_holds_the_frame_changes_no_bit(shipped, clip):
  one, other = (latents_of(shipped, clip, tile=tile) for tile in (0, 128))
  assert one.tobytes() == other.tobytes()


def test_a_tile_needs_the_memory_of_a_tile(shipped):
  net, params = shipped.config.autoencoder, shipped.params['autoencoder']
  params = jax.device_put(params, jax.devices()[0])
  needed = lambda tile: codec.Decoder(net, mesh_of(1), tile).needed(
    params, 1, (2, 16, 16), False
  )
  assert needed(64) < 0.3 * needed(0)


def test_a_later_chunk_needs_what_is_remembered_too(shipped, monkeypatch):
  monkeypatch.setattr(codec, 'CHUNK', 1)
  net, params = shipped.config.autoencoder, shipped.params['autoencoder']
  params = jax.device_put(params, jax.devices()[0])
  decode = codec.Decoder(net, mesh_of(1))
  needed = lambda frames: decode.needed(params, 1, (frames, 4, 4), False)
  stream, _ = decode(params, jnp.zeros((1, 2, 4, 4, net.channels)))
  remembered = sum(x.nbytes for x in jax.tree.leaves(stream))
  assert remembered > 100_000
  z = jax.ShapeDtypeStruct((1, 1, 4, 4, net.channels), jnp.float32)
  alone = memory.needed(decode._later, params, z, stream)
  assert needed(3) == max(needed(2), alone + remembered) > alone


def test_a_long_video_needs_the_memory_of_a_short_one(monkeypatch):
  """Of 21 and of 241 frames of 480x832, by Wan's levels with few channels."""
  config = dataclasses.replace(
    autoencoder.WAN_2_1,
    decoder_width=4,
    latent_mean=(0.0,) * 16,
    latent_std=(1.0,) * 16,
  )
  mesh = mesh_of(1)
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.replicated(mesh)
    ),
    sharding.unbox(abstract.params(autoencoder.init, config)),
  )
  decode = codec.Decoder(config, mesh)
  needed = lambda frames: decode.needed(params, 1, (frames, 60, 104), False)
  short = needed(6)
  assert short > 480 * 832 * 4 * 4 * 4  # float32 features of one latent
  assert needed(61) <= 1.1 * short
  assert decode.remembered(params, 1, (61, 60, 104)) <= 1.1 * decode.remembered(
    params, 1, (6, 60, 104)
  )
  # What keeps it so: of all latents at once, each would add its own.
  monkeypatch.setattr(codec, 'CHUNK', 60)
  monkeypatch.setattr(codec, 'MOST_PIXELS', 61 * 4 * 480 * 832)
  assert needed(61) > 5 * short


def test_pixels_are_rounded_to_the_nearest():
  video = jnp.array([-1.0, -1.1 / 255, 1.1 / 255, 0.999, 1.0])
  out = codec.to_uint8(jnp.tile(video[None, None, None, :, None], 3))
  assert out.dtype == np.uint8
  assert out[0, 0, 0, :, 0].tolist() == [0, 127, 128, 255, 255]
