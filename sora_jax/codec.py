"""Frames to latents and back, in memory that grows with neither time nor size.

Clips go through the autoencoder chunk by chunk, and it remembers what was
before; frames that are too large go tile by tile as well, each of which is a
clip of its own to it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from sora_jax import memory, objectives, paint, sharding, tiling
from sora_jax.models import autoencoder

Params = Any
Stream = Any  # what the autoencoder remembers; None at first
Frames = UInt8[np.ndarray, 'B T H W 3']
Pixels = Float[np.ndarray, 'B T H W 3']  # in [-1, 1]
Latents = Float[np.ndarray, 'B F h w C']
Encode = Callable[[Frames | Pixels], Latents]

# Latent frames that are decoded at once: enough to keep a device busy, but of
# large frames no more than are so many pixels, as they are a hundred numbers
# each.
CHUNK = 8
MOST_PIXELS = 2**22


def check_tile(config: autoencoder.AutoencoderConfig, tile: int) -> None:
  """Raises ValueError for tiles that cannot be; 0: none."""
  least = config.space * tiling.SHARE
  if tile and (tile < least or tile % config.space):
    raise ValueError(
      f'tile={tile} must be a multiple of {config.space} pixels, {least} or '
      'more; or 0, for whole frames'
    )


class Decoder:
  """Decodes the next normalised latents of some clips, or their loop.

  Of a loop, whose latents come all at once, it gives the frames of the second
  of two laps, which had the whole loop before them.
  """

  def __init__(
    self, config: autoencoder.AutoencoderConfig, mesh: Mesh, tile: int = 0
  ):
    """Compiles nothing yet.

    Args:
      config: Of the autoencoder.
      mesh: Where clips are shared out.
      tile: Side, in pixels, of the parts that frames are decoded in; 0: whole.
    """
    self._config, self._mesh = config, mesh
    self._side = tile // config.space

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
    if loop:
      laps = jnp.concatenate([z[:, -1:], z, z], axis=1)
      _, frames = self(params, laps)
      # One frame of the first latent, then as many in each of two laps.
      return None, frames[:, (1 + frames.shape[1]) // 2 :]
    _, _, rows, columns, _ = z.shape
    tiles = tiling.split(rows, columns, self._side)
    if len(tiles) == 1:
      return self._decode(params, z, stream)
    latents = np.asarray(z)
    streams = stream or [None] * len(tiles)
    parts, kept = [], []
    for tile, own in zip(tiles, streams, strict=True):
      own, frames = self._decode(params, tile.cut(latents), own)
      # What is remembered of other tiles would fill the device.
      kept.append(jax.tree.map(np.asarray, own))
      parts.append((tile.scaled(self._config.space), frames))
    return kept, np.rint(tiling.blend(parts)).astype(np.uint8)

  def _decode(
    self, params: Params, z: Latents | Array, stream: Stream
  ) -> tuple[Stream, Frames]:
    """One tile, or whole frames."""
    size = chunk(self._config, *z.shape[2:4])
    parts, at = [], 0
    if stream is None:
      at = 1 + size
      stream, frames = self._first(params, self._placed(z[:, :at]))
      parts.append(np.asarray(frames))
    for i in range(at, z.shape[1], size):
      part = self._placed(z[:, i : i + size])
      stream, frames = self._later(params, part, self._placed(stream))
      parts.append(np.asarray(frames))
    return stream, np.concatenate(parts, axis=1)

  def _placed(self, tree: Any) -> Any:
    return jax.device_put(tree, sharding.batch_sharding(self._mesh))

  def needed(
    self,
    params: Params,
    clips: int,
    size: tuple[int, int, int],
    loop: bool,
    goes_on: bool = False,
  ) -> int:
    """Bytes of a device that a chunk takes beside the weights.

    The later ones have what is remembered of those before them too.

    Args:
      params: Of the autoencoder, where they lie.
      clips: B.
      size: F, h and w of all that is decoded.
      loop: Whether it is one.
      goes_on: Whether more comes after it.
    """
    frames, rows, columns = size
    tile = tiling.split(rows, columns, self._side)[0]
    frames = 2 * frames + 1 if loop else frames
    most = chunk(self._config, tile.height, tile.width)
    z = lambda frames: self._latents(clips, frames, tile)
    needed = memory.needed(self._first, params, z(min(frames, 1 + most)))
    left = frames if goes_on else frames - 1 - most
    if left <= 0:
      return needed
    stream = self._stream(params, z(min(frames, 1 + most)))
    later = memory.needed(self._later, params, z(min(left, most)), stream)
    return max(needed, memory.kept(stream) + later)

  def remembered(
    self, params: Params, clips: int, size: tuple[int, int, int]
  ) -> int:
    """Bytes of a device that it holds between its calls, of clips that go on.

    Args:
      params: Of the autoencoder, where they lie.
      clips: B.
      size: F, h and w of what is decoded in a call.
    """
    frames, rows, columns = size
    tiles = tiling.split(rows, columns, self._side)
    if len(tiles) > 1:
      return 0  # the host's
    return memory.kept(
      self._stream(params, self._latents(clips, frames, tiles[0]))
    )

  def _latents(
    self, clips: int, frames: int, tile: tiling.Tile
  ) -> jax.ShapeDtypeStruct:
    shape = (clips, frames, tile.height, tile.width, self._config.channels)
    here = sharding.batch_sharding(self._mesh)
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=here)

  def _stream(self, params: Params, z: jax.ShapeDtypeStruct) -> Stream:
    """Shapes of what is remembered of latents."""
    stream, _ = jax.eval_shape(self._first, params, z)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=z.sharding),
      stream,
    )


def chunk(
  config: autoencoder.AutoencoderConfig, rows: int, columns: int
) -> int:
  """Latent frames of a size that are decoded at once, after the first one."""
  pixels = rows * columns * config.space**2 * config.time
  return max(1, min(CHUNK, MOST_PIXELS // pixels))


def make_encoder(
  config: autoencoder.AutoencoderConfig,
  params: Params,
  mesh: Mesh,
  tile: int = 0,
  most_pixels: int = MOST_PIXELS,
) -> Encode:
  """What takes clips of one size to their normalised latents.

  It compiles once for every size of a chunk.

  Args:
    config: Of the autoencoder.
    params: Its own.
    mesh: Where clips are shared out.
    tile: Side, in pixels, of the parts that frames are encoded in; 0: whole.
    most_pixels: Of a chunk, if it is more than a latent.
  """
  # From the host: with several processes, an array of one device is not moved
  # to others, those of its own process included.
  params = jax.tree.map(np.asarray, params)
  params = jax.device_put(params, sharding.replicated(mesh))

  @jax.jit
  def step(params, stream, video):
    is_bytes = video.dtype == jnp.uint8
    pixels = objectives.to_pixels(video) if is_bytes else video
    return autoencoder.encode_chunk(config, params, stream, pixels)

  def encode_tile(video: Frames | Pixels) -> Latents:
    clips, frames, height, width, _ = video.shape
    most = most_pixels // (clips * height * width)
    chunk = max(config.time, most // config.time * config.time)
    stream, parts, start = {}, [], 0
    for stop in (*range(1 + chunk, frames, chunk), frames):
      part = jax.device_put(video[:, start:stop], sharding.batch_sharding(mesh))
      stream, z = step(params, stream, part)
      parts.append(np.asarray(z))
      start = stop
    return np.concatenate(parts, axis=1)

  def encode(video: Frames | Pixels) -> Latents:
    _, frames, height, width, _ = video.shape
    autoencoder.check_size(config, frames, height, width)
    size = (height // config.space, width // config.space)
    tiles = tiling.split(*size, tile // config.space)
    if len(tiles) == 1:
      return encode_tile(video)
    return tiling.blend(
      (part, encode_tile(part.scaled(config.space).cut(video)))
      for part in tiles
    )

  return encode


def to_uint8(video: Float[Array, 'B T H W 3']) -> UInt8[Array, 'B T H W 3']:
  """Pixels in [-1, 1] to 0 ... 255."""
  return jnp.round((video + 1.0) * 127.5).astype(jnp.uint8)
