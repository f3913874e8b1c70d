"""Latents to the frames of a file, in memory that does not grow with time."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from sora_jax import paint
from sora_jax.models import autoencoder

Params = Any
Stream = Any  # what the autoencoder remembers; None at first
Frames = UInt8[np.ndarray, 'B T H W 3']
Decode = Callable[
  [Params, Float[Array, 'B F h w C'], Stream, bool], tuple[Stream, Frames]
]

# Latent frames decoded at once: enough to keep a device busy.
CHUNK = 8


def make_decoder(config: autoencoder.AutoencoderConfig, mesh: Mesh) -> Decode:
  """What decodes the next normalised latents of some clips, or their loop.

  Of a loop, whose latents come all at once, it gives the frames of the second
  of two laps, which had the whole loop before them.
  """

  def finish(stream, video):
    return stream, to_uint8(video)

  def first(params, z):
    return finish(*autoencoder.decode_chunk(config, params, {}, z))

  def later(params, z, stream):
    return finish(*autoencoder.decode_chunk(config, params, stream, z))

  first, later = (
    paint.on_each_device(first, mesh),
    paint.on_each_device(later, mesh),
  )

  def decode(params, z, stream=None, loop=False):
    if loop:
      laps = jnp.concatenate([z[:, -1:], z, z], axis=1)
      _, frames = decode(params, laps)
      # One frame of the first latent, then as many in each of two laps.
      return None, frames[:, (1 + frames.shape[1]) // 2 :]
    parts, at = [], 0
    if stream is None:
      at = 1 + CHUNK
      stream, frames = first(params, z[:, :at])
      parts.append(np.asarray(frames))
    for i in range(at, z.shape[1], CHUNK):
      stream, frames = later(params, z[:, i : i + CHUNK], stream)
      parts.append(np.asarray(frames))
    return stream, np.concatenate(parts, axis=1)

  return decode


def to_uint8(video: Float[Array, 'B T H W 3']) -> UInt8[Array, 'B T H W 3']:
  """Pixels in [-1, 1] to 0 ... 255."""
  return jnp.round((video + 1.0) * 127.5).astype(jnp.uint8)
