"""Latents to the frames of a file, in memory that does not grow with time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from sora_jax import memory, paint, sharding
from sora_jax.models import autoencoder

Params = Any
Stream = Any  # what the autoencoder remembers; None at first
Frames = UInt8[np.ndarray, 'B T H W 3']

# Latent frames decoded at once: enough to keep a device busy, but of large
# frames no more than are so many pixels, as they are a hundred numbers each.
CHUNK = 8
MOST_PIXELS = 2**22


class Decoder:
  """Decodes the next normalised latents of some clips, or their loop.

  Of a loop, whose latents come all at once, it gives the frames of the second
  of two laps, which had the whole loop before them.
  """

  def __init__(self, config: autoencoder.AutoencoderConfig, mesh: Mesh):
    self._config, self._mesh = config, mesh

    def part(params, z, stream):
      stream, video = autoencoder.decode_chunk(config, params, stream, z)
      return stream, to_uint8(video)

    self._first = paint.on_each_device(lambda p, z: part(p, z, {}), mesh)
    self._later = paint.on_each_device(part, mesh)

  def __call__(
    self,
    params: Params,
    z: Float[Array, 'B F h w C'],
    stream: Stream = None,
    loop: bool = False,
  ) -> tuple[Stream, Frames]:
    """What to remember, and the frames; `stream` is None at first."""
    size = chunk(self._config, *z.shape[2:4])
    if loop:
      laps = jnp.concatenate([z[:, -1:], z, z], axis=1)
      _, frames = self(params, laps)
      # One frame of the first latent, then as many in each of two laps.
      return None, frames[:, (1 + frames.shape[1]) // 2 :]
    parts, at = [], 0
    if stream is None:
      at = 1 + size
      stream, frames = self._first(params, self._placed(z[:, :at]))
      parts.append(np.asarray(frames))
    for i in range(at, z.shape[1], size):
      part = self._placed(z[:, i : i + size])
      stream, frames = self._later(params, part, stream)
      parts.append(np.asarray(frames))
    return stream, np.concatenate(parts, axis=1)

  def _placed(self, z: Float[Array, 'B F h w C']) -> Float[Array, 'B F h w C']:
    return jax.device_put(z, sharding.batch_sharding(self._mesh))

  def needed(
    self, params: Params, clips: int, size: tuple[int, int, int], loop: bool
  ) -> int:
    """Bytes of a device that the first chunk takes beside the weights.

    Args:
      params: Of the autoencoder, where they lie.
      clips: B.
      size: F, h and w of all that is decoded.
      loop: Whether it is one.
    """
    frames, rows, columns = size
    frames = 2 * frames + 1 if loop else frames
    frames = min(frames, 1 + chunk(self._config, rows, columns))
    z = jax.ShapeDtypeStruct(
      (clips, frames, rows, columns, self._config.channels),
      jnp.float32,
      sharding=sharding.batch_sharding(self._mesh),
    )
    return memory.needed(self._first, params, z)


def chunk(
  config: autoencoder.AutoencoderConfig, rows: int, columns: int
) -> int:
  """Latent frames of a size that are decoded at once, after the first one."""
  pixels = rows * columns * config.space**2 * config.time
  return max(1, min(CHUNK, MOST_PIXELS // pixels))


def to_uint8(video: Float[Array, 'B T H W 3']) -> UInt8[Array, 'B T H W 3']:
  """Pixels in [-1, 1] to 0 ... 255."""
  return jnp.round((video + 1.0) * 127.5).astype(jnp.uint8)
