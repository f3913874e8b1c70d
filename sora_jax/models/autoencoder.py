"""The video autoencoder: pixels to latents and back, causal in time.

The topology is that of the Wan autoencoders (releases 2.1 and 2.2; Wan team
2025, arXiv:2503.20314, section 4.1), at any size. Frame 0 becomes latent 0 by
itself, and every four frames after it one latent more, so an image is a clip
of one frame and 1 + 4k frames make 1 + k latents. Nothing looks ahead in
time. A clip can therefore be coded in one pass or in chunks, with the few
frames that a convolution still needs kept in the collection `stream`; both
give the same numbers to rounding.
"""

import dataclasses
from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sora_jax.models import causal, layers

Video = Float[Array, 'B T H W C']
Latent = Float[Array, 'B F h w Z']
Features = Float[Array, 'B U V X E']
Params = Any
Stream = Any


@dataclasses.dataclass(kw_only=True)
class AutoencoderConfig:
  """Sizes of one autoencoder; the defaults are those of Wan 2.1."""

  channels: int = 16  # of a latent
  encoder_width: int = 96
  decoder_width: int = 96
  multiples: tuple[int, ...] = (1, 2, 4, 4)  # of the width, level by level
  halve_time: tuple[bool, ...] = (False, True, True)  # between the levels
  blocks: int = 2  # residual blocks a level; the decoder has one more
  patch: int = 1  # pixels a side folded into channels first
  shortcuts: bool = False  # parameter-free ones past each level (release 2.2)
  dtype: str = 'auto'  # of convolutions and activations
  # Of each latent channel over the training set; empty until measured.
  latent_mean: tuple[float, ...] = ()
  latent_std: tuple[float, ...] = ()

  @property
  def space(self) -> int:
    """Pixels a side that one latent covers."""
    return self.patch * 2 ** (len(self.multiples) - 1)

  @property
  def time(self) -> int:
    """Frames that one latent after the first covers."""
    return 2 ** sum(self.halve_time)


WAN_2_1 = AutoencoderConfig()
WAN_2_2 = AutoencoderConfig(
  channels=48,
  encoder_width=160,
  decoder_width=256,
  patch=2,
  shortcuts=True,
)


def check(config: AutoencoderConfig) -> None:
  """Raises ValueError where the fields of `config` contradict each other."""
  for name in ('channels', 'encoder_width', 'decoder_width', 'blocks', 'patch'):
    if getattr(config, name) < 1:
      raise ValueError(f'{name}={getattr(config, name)} must be at least 1')
  if not config.multiples or min(config.multiples) < 1:
    raise ValueError(f'{config.multiples=} must be whole numbers from 1 on')
  if len(config.halve_time) != len(config.multiples) - 1:
    raise ValueError(
      f'{config.halve_time=} must have one entry fewer than '
      f'{config.multiples=}: it says what happens between two levels'
    )
  if config.shortcuts:
    _check_shortcuts(config)
  layers.check_dtype(config.dtype)
  for name in ('latent_mean', 'latent_std'):
    values = getattr(config, name)
    if values and len(values) != config.channels:
      raise ValueError(
        f'autoencoder.{name} has {len(values)} values; it must have one '
        f'for each of {config.channels=}, or none'
      )


def _check_shortcuts(config: AutoencoderConfig) -> None:
  """Averages and repeats need whole groups of channels."""
  before = config.multiples[:1] + config.multiples[:-1]
  halve_time = (*config.halve_time, False)
  for i, (old, new) in enumerate(zip(before, config.multiples, strict=True)):
    last = i + 1 == len(config.multiples)
    folded = old * (1 + halve_time[i]) * (1 if last else 4)
    if folded % new:
      raise ValueError(
        f'{config.multiples=}: the shortcut past level {i} folds {old} to '
        f'{folded} widths, which must be a multiple of {new}'
      )


def check_size(
  config: AutoencoderConfig,
  frames: int,
  height: int,
  width: int,
  first: bool = True,
) -> None:
  """Raises ValueError unless a clip, or a later chunk, has whole latents."""
  start = int(first)  # frame 0 of a clip is a latent by itself
  over = (frames - start) % config.time
  if over or frames < 1:
    wanted = f'1 + {config.time} k' if first else f'{config.time} k'
    fits = max(frames - over, start) or config.time
    raise ValueError(f'{frames} frames are not {wanted}: use {fits}')
  if height % config.space or width % config.space or not height * width:
    raise ValueError(
      f'{width}x{height} pixels: both sides must be multiples of '
      f'{config.space}, the pixels that one latent covers'
    )


def normalise(config: AutoencoderConfig, z: Latent) -> Latent:
  """Scales latents to mean 0 and standard deviation 1 a channel."""
  mean, std = _statistics(config)
  return (z - mean) / std


def denormalise(config: AutoencoderConfig, z: Latent) -> Latent:
  """Undoes `normalise`."""
  mean, std = _statistics(config)
  return z * std + mean


def _statistics(config: AutoencoderConfig) -> tuple[Array, Array]:
  if not config.latent_std:
    raise ValueError(
      'this autoencoder has no latent statistics: autoencoder.latent_mean '
      'and latent_std are empty; training measures and stores them'
    )
  shape = (1, 1, 1, 1, config.channels)
  mean = jnp.asarray(config.latent_mean, jnp.float32).reshape(shape)
  std = jnp.asarray(config.latent_std, jnp.float32).reshape(shape)
  return mean, std


class Encoder(nn.Module):
  config: AutoencoderConfig

  @nn.compact
  def __call__(self, x: Video, first: bool) -> Features:
    config, dtype = self.config, self.config.dtype
    x = causal.Conv(config.encoder_width, dtype=dtype, name='conv_in')(x)
    for level, multiple in enumerate(config.multiples):
      last = level + 1 == len(config.multiples)
      features, before = config.encoder_width * multiple, x
      for i in range(config.blocks):
        name = f'down_blocks_{level}_resnets_{i}'
        x = causal.ResidualBlock(features, dtype, name=name)(x)
      halve_time = not last and config.halve_time[level]
      if not last:
        name = f'down_blocks_{level}_downsampler'
        x = causal.Downsample(features, halve_time, dtype, name=name)(x, first)
      if config.shortcuts:
        t, s = 1 + halve_time, 2 - last
        x += causal.fold_mean(before, features, t, s, first)
    x = causal.MiddleBlock(dtype, name='mid_block')(x)
    x = nn.silu(causal.RMSNorm(name='norm_out')(x))
    return causal.Conv(2 * config.channels, dtype=dtype, name='conv_out')(x)


class Decoder(nn.Module):
  config: AutoencoderConfig

  @nn.compact
  def __call__(self, x: Latent, first: bool) -> Features:
    config, dtype = self.config, self.config.dtype
    multiples = config.multiples[::-1]
    width = config.decoder_width * multiples[0]
    x = causal.Conv(width, dtype=dtype, name='conv_in')(x)
    x = causal.MiddleBlock(dtype, name='mid_block')(x)
    for level, multiple in enumerate(multiples):
      last = level + 1 == len(multiples)
      features, before = config.decoder_width * multiple, x
      for i in range(config.blocks + 1):
        name = f'up_blocks_{level}_resnets_{i}'
        x = causal.ResidualBlock(features, dtype, name=name)(x)
      if last:
        break
      double_time = config.halve_time[::-1][level]
      out = features if config.shortcuts else features // 2
      name = f'up_blocks_{level}_upsampler'
      x = causal.Upsample(out, double_time, dtype, name=name)(x, first)
      if config.shortcuts:
        x += causal.unfold_repeat(before, features, 1 + double_time, 2, first)
    x = nn.silu(causal.RMSNorm(name='norm_out')(x))
    return causal.Conv(3 * config.patch**2, dtype=dtype, name='conv_out')(x)


def _mean_and_log_variance(key, shape, dtype=jnp.float32) -> Array:
  """Bias that starts latents with little noise.

  At variance 1 the first latents drown in it: the decoder learns to do
  without them, and a clip of small balls stays plain white for long.
  """
  del key
  means = shape[0] // 2
  return jnp.where(jnp.arange(shape[0]) < means, 0.0, -6.0).astype(dtype)


class Autoencoder(nn.Module):
  """Encoder and decoder; `first` says that a chunk begins the clip."""

  config: AutoencoderConfig

  def setup(self):
    check(self.config)
    config = layers.resolve_dtype(self.config)
    self.dtype = config.dtype
    point = (1, 1, 1)
    self.encoder = Encoder(config)
    self.decoder = Decoder(config)
    self.quant_conv = causal.Conv(
      2 * config.channels,
      point,
      config.dtype,
      bias_init=_mean_and_log_variance,
    )
    self.post_quant_conv = causal.Conv(config.channels, point, config.dtype)

  def encode(self, video: Video, first: bool = True) -> tuple[Latent, Latent]:
    """Pixels in [-1, 1] to mean and log variance of the latents.

    Args:
      video: float [B, T, H, W, 3]; T = 1 + 4k, or 4k in a later chunk.
      first: whether frame 0 of `video` is frame 0 of the clip.

    Returns:
      Two float32 [B, F, h, w, C], not normalised.

    Raises:
      ValueError: the frames or sides do not make whole latents.
    """
    _, frames, height, width, _ = video.shape
    check_size(self.config, frames, height, width, first)
    p = self.config.patch
    x = einops.rearrange(
      video.astype(self.dtype),
      'B T (H h) (W w) C -> B T H W (C w h)',
      h=p,
      w=p,
    )
    x = self.quant_conv(self.encoder(x, first)).astype(jnp.float32)
    mean, log_variance = jnp.split(x, 2, axis=-1)
    return mean, jnp.clip(log_variance, -30.0, 20.0)

  def decode(self, z: Latent, first: bool = True) -> Video:
    """Latents, not normalised, to pixels around [-1, 1]; float32."""
    p = self.config.patch
    x = self.decoder(self.post_quant_conv(z.astype(self.dtype)), first)
    return einops.rearrange(
      x.astype(jnp.float32),
      'B T H W (C w h) -> B T (H h) (W w) C',
      h=p,
      w=p,
    )

  def __call__(self, video: Video) -> Video:
    """Reconstruction from the mean latents; initialises every parameter."""
    return self.decode(self.encode(video)[0])


def init(config: AutoencoderConfig, key: Array) -> Params:
  """Boxed parameters, with their logical axes."""
  side = config.space
  video = jnp.zeros((1, 1 + config.time, side, side, 3))
  return Autoencoder(config).init(key, video)['params']


def start_at(
  config: AutoencoderConfig, boxed: Params, colour: Float[Array, '3']
) -> None:
  """Makes fresh parameters decode to one colour, in place.

  Balls on white are far from the grey of 0: until the mean is right, all
  weights push the same way and latents are not listened to.
  """
  conv_out = boxed['decoder']['conv_out']
  bias = jnp.repeat(colour, config.patch**2)
  conv_out['bias'] = conv_out['bias'].replace(value=bias)


def encode(config: AutoencoderConfig, params: Params, video: Video) -> Latent:
  """Pixels in [-1, 1] to normalised latents, in one pass."""
  mean, _ = Autoencoder(config).apply(
    {'params': params}, video, method='encode'
  )
  return normalise(config, mean)


def decode(config: AutoencoderConfig, params: Params, z: Latent) -> Video:
  """Normalised latents to pixels in [-1, 1], in one pass."""
  video = Autoencoder(config).apply(
    {'params': params}, denormalise(config, z), method='decode'
  )
  return jnp.clip(video, -1.0, 1.0)


def encode_chunk(
  config: AutoencoderConfig, params: Params, stream: Stream, video: Video
) -> tuple[Stream, Latent]:
  """One chunk of a clip to normalised latents; memory does not grow with T.

  Args:
    stream: what the chunk before returned; {} for the first one.
    video: float [B, T, H, W, 3]: 1 + 4k frames at first, then 4k.
  """
  first = not stream
  (mean, _), state = Autoencoder(config).apply(
    {'params': params, **stream},
    video,
    first,
    method='encode',
    mutable=['stream'],
  )
  return state, normalise(config, mean)


def decode_chunk(
  config: AutoencoderConfig, params: Params, stream: Stream, z: Latent
) -> tuple[Stream, Video]:
  """One chunk of normalised latents to pixels; `stream` as in encoding."""
  first = not stream
  video, state = Autoencoder(config).apply(
    {'params': params, **stream},
    denormalise(config, z),
    first,
    method='decode',
    mutable=['stream'],
  )
  return state, jnp.clip(video, -1.0, 1.0)
