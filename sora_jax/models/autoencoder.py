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
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Video = Float[Array, 'B T H W C']
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
  dtype: str = 'float32'
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
  if len(config.halve_time) != len(config.multiples) - 1:
    raise ValueError(
        f'{config.halve_time=} must have one entry fewer than '
        f'{config.multiples=}: it says what happens between two levels'
    )
  for name in ('latent_mean', 'latent_std'):
    values = getattr(config, name)
    if values and len(values) != config.channels:
      raise ValueError(
          f'autoencoder.{name} has {len(values)} values; it must have one '
          f'for each of {config.channels=}, or none'
      )


def check_size(
    config: AutoencoderConfig, frames: int, height: int, width: int
) -> None:
  """Raises ValueError unless a clip of this size has whole latents."""
  if frames % config.time != 1 % config.time:
    raise ValueError(
        f'{frames} frames are not 1 + {config.time} k: '
        f'use {frames - (frames - 1) % config.time}'
    )
  if height % config.space or width % config.space:
    raise ValueError(
        f'{width}x{height} pixels: both sides must be multiples of '
        f'{config.space}, the pixels that one latent covers'
    )


def normalise(config: AutoencoderConfig, z: Video) -> Video:
  """Scales latents to mean 0 and standard deviation 1 a channel."""
  mean, std = _statistics(config)
  return (z - mean) / std


def denormalise(config: AutoencoderConfig, z: Video) -> Video:
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


# ----------------------------------------------------------------- layers


def convolve(
    x: Float[Array, 'B T H W C'],
    kernel: Float[Array, 't h w C E'],
    strides: tuple[int, int, int] = (1, 1, 1),
    pad: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
) -> Float[Array, 'B U V X E']:
  """Three-axis convolution, valid in time, padded by `pad` in space.

  XLA's CPU backend has a fast two-axis convolution but a slow three-axis one
  (measured: 100 against 35 GFLOP/s on two cores), so there it is taken as a
  sum over the kernel's time taps. The two differ by rounding only.
  """

  def whole(x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        ((0, 0), *pad),
        dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    )

  def by_taps(x, kernel):
    taps, step = kernel.shape[0], strides[0]
    frames = (x.shape[1] - taps) // step + 1
    if not frames:  # an image, or a chunk that only fills the past
      empty = (x.shape[0], 0, *x.shape[2:4], kernel.shape[-1])
      return jnp.zeros(empty, x.dtype)
    total = 0
    for tap in range(taps):
      part = x[:, tap : tap + (frames - 1) * step + 1 : step]
      total += jax.lax.conv_general_dilated(
          einops.rearrange(part, 'B T H W C -> (B T) H W C'),
          kernel[tap],
          strides[1:],
          pad,
          dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
    return einops.rearrange(total, '(B T) H W C -> B T H W C', T=frames)

  return jax.lax.platform_dependent(x, kernel, cpu=by_taps, default=whole)


class Conv(nn.Module):
  """Convolution that is causal in time and keeps the size in space.

  It looks at `kernel[0] - 1` earlier frames: zeros before the clip begins,
  and while streaming the last ones of the chunk before.
  """

  features: int
  kernel: tuple[int, int, int] = (3, 3, 3)
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Video) -> Video:
    t, h, w = self.kernel
    if t > 1:
      x = _with_past(self, x, t - 1)
    kernel, bias = _kernel_and_bias(self, (t, h, w), x.shape[-1])
    space = ((h // 2, h // 2), (w // 2, w // 2))
    return convolve(x, kernel, pad=space) + bias


def _with_past(module: nn.Module, x: Video, frames: int) -> Video:
  """Puts the `frames` frames before `x` in front of it."""
  shape = (x.shape[0], frames, *x.shape[2:])
  if not module.is_mutable_collection('stream'):
    return jnp.concatenate([jnp.zeros(shape, x.dtype), x], axis=1)
  past = module.variable('stream', 'past', jnp.zeros, shape, x.dtype)
  x = jnp.concatenate([past.value, x], axis=1)
  past.value = x[:, -frames:]
  return x


def _kernel_and_bias(module, window: tuple[int, int, int], width: int):
  """Parameters of a convolution; call it from a compact method only."""
  init = nn.initializers.variance_scaling(
      1.0, 'fan_in', 'truncated_normal', in_axis=(0, 1, 2, 3), out_axis=4
  )
  axes = (None, None, None, None, 'embed')
  kernel = module.param(
      'kernel',
      nn.with_logical_partitioning(init, axes),
      (*window, width, module.features),
  )
  bias = module.param(
      'bias',
      nn.with_logical_partitioning(nn.initializers.zeros, ('embed',)),
      (module.features,),
  )
  return kernel.astype(module.dtype), bias.astype(module.dtype)[(None,) * 4]


class RMSNorm(nn.Module):
  """Scales each position's channels to root mean square `gamma`."""

  @nn.compact
  def __call__(self, x: Video) -> Video:
    gamma = self.param('gamma', nn.initializers.ones, (x.shape[-1],))
    x32 = x.astype(jnp.float32)
    # max() in Wan's form; the square inside keeps the gradient finite at 0.
    norm = jnp.sqrt(
        jnp.maximum(jnp.sum(x32**2, axis=-1, keepdims=True), 1e-24)
    )
    scale = gamma[(None,) * 4] * x.shape[-1] ** 0.5
    return (x32 / norm * scale).astype(x.dtype)


class ResidualBlock(nn.Module):
  features: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Video) -> Video:
    y = nn.silu(RMSNorm(name='norm1')(x))
    y = Conv(self.features, dtype=self.dtype, name='conv1')(y)
    y = nn.silu(RMSNorm(name='norm2')(y))
    y = Conv(self.features, dtype=self.dtype, name='conv2')(y)
    if x.shape[-1] != self.features:
      point = (1, 1, 1)
      x = Conv(self.features, point, self.dtype, name='conv_shortcut')(x)
    return x + y


class FrameAttention(nn.Module):
  """Self-attention with one head over the positions of each frame."""

  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Video) -> Video:
    B, T, H, W, C = x.shape
    point = (1, 1, 1)
    qkv = Conv(3 * C, point, self.dtype, name='to_qkv')(
        RMSNorm(name='norm')(x)
    )
    q, k, v = jnp.split(
        einops.rearrange(qkv, 'B T H W C -> (B T) (H W) C'), 3, axis=-1
    )
    logits = jnp.einsum('fnc,fmc->fnm', q, k, preferred_element_type='float32')
    weights = jax.nn.softmax(logits * C**-0.5).astype(v.dtype)
    y = jnp.einsum('fnm,fmc->fnc', weights, v)
    y = y.reshape(B, T, H, W, C)
    return x + Conv(C, point, self.dtype, name='proj')(y)


class MiddleBlock(nn.Module):
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Video) -> Video:
    features = x.shape[-1]
    x = ResidualBlock(features, self.dtype, name='resnets_0')(x)
    x = FrameAttention(self.dtype, name='attentions_0')(x)
    return ResidualBlock(features, self.dtype, name='resnets_1')(x)


class HalveTime(nn.Module):
  """Stride-2 convolution over time that leaves the clip's frame 0 alone.

  1 + 2m frames become 1 + m: frame 0, then one for each window (0, 1, 2),
  (2, 3, 4), ... Later chunks have 2m frames and give m.
  """

  features: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Video, first: bool) -> Video:
    kernel, bias = _kernel_and_bias(self, (3, 1, 1), x.shape[-1])
    start = x[:, :1]
    if self.is_mutable_collection('stream'):
      past = self.variable('stream', 'past', jnp.zeros_like, start)
      x = x if first else jnp.concatenate([past.value, x], axis=1)
      past.value = x[:, -1:]
    if x.shape[1] == 1:
      return start
    y = convolve(x, kernel, (2, 1, 1)) + bias
    return jnp.concatenate([start, y], axis=1) if first else y


class DoubleTime(nn.Module):
  """Causal convolution to twice the frames; the clip's frame 0 stays one.

  1 + m frames become 1 + 2m, and the convolution does not see frame 0. Later
  chunks have m frames and give 2m.
  """

  features: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Video, first: bool) -> Video:
    start, rest = (x[:, :1], x[:, 1:]) if first else (None, x)
    conv = Conv(2 * self.features, (3, 1, 1), self.dtype, name='conv')
    # Run on an empty chunk too: it makes the parameters and the past.
    y = conv(rest)
    y = einops.rearrange(y, 'B T H W (two C) -> B (T two) H W C', two=2)
    return jnp.concatenate([start, y], axis=1) if first else y


class Downsample(nn.Module):
  """Halves height and width, and then time where asked."""

  features: int
  halve_time: bool
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Video, first: bool) -> Video:
    x = StridedConv(self.features, self.dtype, name='resample')(x)
    if self.halve_time:
      x = HalveTime(self.features, self.dtype, name='time_conv')(x, first)
    return x


class StridedConv(nn.Module):
  """3 x 3 convolution of stride 2, padded by one row below and right."""

  features: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Video) -> Video:
    kernel, bias = _kernel_and_bias(self, (1, 3, 3), x.shape[-1])
    return convolve(x, kernel, (1, 2, 2), ((0, 1), (0, 1))) + bias


class Upsample(nn.Module):
  """Doubles time where asked, and then height and width."""

  features: int
  double_time: bool
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Video, first: bool) -> Video:
    if self.double_time:
      x = DoubleTime(x.shape[-1], self.dtype, name='time_conv')(x, first)
    x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
    return Conv(self.features, (1, 3, 3), self.dtype, name='resample')(x)


def fold_mean(x: Video, features: int, t: int, s: int, first: bool) -> Video:
  """Folds t x s x s positions into channels and averages down to `features`.

  The clip's start is padded in front with zeros to a whole fold.
  """
  if first and t > 1:
    x = jnp.pad(x, ((0, 0), (-x.shape[1] % t, 0), (0, 0), (0, 0), (0, 0)))
  x = einops.rearrange(
      x, 'B (T t) (H h) (W w) C -> B T H W (C t h w)', t=t, h=s, w=s
  )
  groups = x.shape[-1] // features
  return einops.reduce(x, 'B T H W (C g) -> B T H W C', 'mean', g=groups)


def unfold_repeat(
    x: Video, features: int, t: int, s: int, first: bool
) -> Video:
  """Repeats channels and unfolds them to t x s x s positions.

  At the clip's start the first t - 1 frames are dropped, since latent 0
  stands for one frame.
  """
  x = jnp.repeat(x, features * t * s * s // x.shape[-1], axis=-1)
  x = einops.rearrange(
      x, 'B T H W (C t h w) -> B (T t) (H h) (W w) C', t=t, h=s, w=s
  )
  return x[:, t - 1 :] if first else x


# ----------------------------------------------------- encoder and decoder


class Encoder(nn.Module):
  config: AutoencoderConfig

  @nn.compact
  def __call__(self, x: Video, first: bool) -> Video:
    config, dtype = self.config, self.config.dtype
    x = Conv(config.encoder_width, dtype=dtype, name='conv_in')(x)
    for level, multiple in enumerate(config.multiples):
      last = level + 1 == len(config.multiples)
      features, before = config.encoder_width * multiple, x
      for i in range(config.blocks):
        name = f'down_blocks_{level}_resnets_{i}'
        x = ResidualBlock(features, dtype, name=name)(x)
      halve_time = not last and config.halve_time[level]
      if not last:
        name = f'down_blocks_{level}_downsampler'
        x = Downsample(features, halve_time, dtype, name=name)(x, first)
      if config.shortcuts:
        t, s = 1 + halve_time, 2 - last
        x += fold_mean(before, features, t, s, first)
    x = MiddleBlock(dtype, name='mid_block')(x)
    x = nn.silu(RMSNorm(name='norm_out')(x))
    return Conv(2 * config.channels, dtype=dtype, name='conv_out')(x)


class Decoder(nn.Module):
  config: AutoencoderConfig

  @nn.compact
  def __call__(self, x: Video, first: bool) -> Video:
    config, dtype = self.config, self.config.dtype
    multiples = config.multiples[::-1]
    width = config.decoder_width * multiples[0]
    x = Conv(width, dtype=dtype, name='conv_in')(x)
    x = MiddleBlock(dtype, name='mid_block')(x)
    for level, multiple in enumerate(multiples):
      last = level + 1 == len(multiples)
      features, before = config.decoder_width * multiple, x
      for i in range(config.blocks + 1):
        name = f'up_blocks_{level}_resnets_{i}'
        x = ResidualBlock(features, dtype, name=name)(x)
      if last:
        break
      double_time = config.halve_time[::-1][level]
      out = features if config.shortcuts else features // 2
      name = f'up_blocks_{level}_upsampler'
      x = Upsample(out, double_time, dtype, name=name)(x, first)
      if config.shortcuts:
        x += unfold_repeat(before, features, 1 + double_time, 2, first)
    x = nn.silu(RMSNorm(name='norm_out')(x))
    return Conv(3 * config.patch**2, dtype=dtype, name='conv_out')(x)


class Autoencoder(nn.Module):
  """Encoder and decoder; `first` says that a chunk begins the clip."""

  config: AutoencoderConfig

  def setup(self):
    config = self.config
    check(config)
    point = (1, 1, 1)
    self.encoder = Encoder(config)
    self.decoder = Decoder(config)
    self.quant_conv = Conv(2 * config.channels, point, config.dtype)
    self.post_quant_conv = Conv(config.channels, point, config.dtype)

  def encode(self, video: Video, first: bool = True) -> tuple[Video, Video]:
    """Pixels in [-1, 1] to mean and log variance of the latents.

    Args:
      video: float [B, T, H, W, 3]; T = 1 + 4k, or 4k in a later chunk.
      first: whether frame 0 of `video` is frame 0 of the clip.

    Returns:
      Two float32 [B, F, h, w, C], not normalised.
    """
    p = self.config.patch
    x = einops.rearrange(
        video.astype(self.config.dtype),
        'B T (H h) (W w) C -> B T H W (C w h)',
        h=p,
        w=p,
    )
    x = self.quant_conv(self.encoder(x, first)).astype(jnp.float32)
    mean, log_variance = jnp.split(x, 2, axis=-1)
    return mean, jnp.clip(log_variance, -30.0, 20.0)

  def decode(self, z: Video, first: bool = True) -> Video:
    """Latents, not normalised, to pixels around [-1, 1]; float32."""
    p = self.config.patch
    x = self.decoder(self.post_quant_conv(z.astype(self.config.dtype)), first)
    return einops.rearrange(
        x.astype(jnp.float32),
        'B T H W (C w h) -> B T (H h) (W w) C',
        h=p,
        w=p,
    )

  def __call__(self, video: Video) -> Video:
    """Reconstruction from the mean latents; initialises every parameter."""
    return self.decode(self.encode(video)[0])


# ------------------------------------------------------------ entry points


def init(config: AutoencoderConfig, key: Array) -> Params:
  """Boxed parameters, with their logical axes."""
  side = config.space
  video = jnp.zeros((1, 1 + config.time, side, side, 3))
  return Autoencoder(config).init(key, video)['params']


def encode(config: AutoencoderConfig, params: Params, video: Video) -> Video:
  """Pixels in [-1, 1] to normalised latents, in one pass."""
  mean, _ = Autoencoder(config).apply(
      {'params': params}, video, method='encode'
  )
  return normalise(config, mean)


def decode(config: AutoencoderConfig, params: Params, z: Video) -> Video:
  """Normalised latents to pixels in [-1, 1], in one pass."""
  video = Autoencoder(config).apply(
      {'params': params}, denormalise(config, z), method='decode'
  )
  return jnp.clip(video, -1.0, 1.0)


def encode_chunk(
    config: AutoencoderConfig, params: Params, stream: Stream, video: Video
) -> tuple[Stream, Video]:
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
    config: AutoencoderConfig, params: Params, stream: Stream, z: Video
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
