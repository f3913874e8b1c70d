"""Layers of the video autoencoder: convolutions that never look ahead.

Each one works on a whole clip or on one chunk of it. While streaming, what a
layer still needs of the frames before its chunk is kept in its variable of
the collection `stream`; a chunk that begins the clip is called `first`.

Source: Wan team 2025 (arXiv:2503.20314), section 4.1; DC-AE for the
parameter-free shortcuts (Chen et al. 2024, arXiv:2410.10733).
"""

import functools

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sora_jax.models import onednn

Video = Float[Array, 'B T H W C']

FAN_IN = nn.initializers.variance_scaling(
  1.0, 'fan_in', 'truncated_normal', in_axis=(0, 1, 2, 3), out_axis=4
)
Wider = Float[Array, 'B T H W E']  # as many positions, other channels
Other = Float[Array, 'B U V X E']  # of another size


def convolve(
  x: Video,
  kernel: Float[Array, 't h w C E'],
  strides: tuple[int, int, int] = (1, 1, 1),
  pad: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
) -> Other:
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
    parts = []
    for tap in range(taps):
      part = x[:, tap : tap + (frames - 1) * step + 1 : step]
      part = jax.lax.conv_general_dilated(
        einops.rearrange(part, 'B T H W C -> (B T) H W C'),
        kernel[tap],
        strides[1:],
        pad,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
      parts.append(part)
    total = functools.reduce(jnp.add, parts)
    return einops.rearrange(total, '(B T) H W C -> B T H W C', T=frames)

  if x.shape[1] >= kernel.shape[0] and onednn.takes(x):
    return onednn.convolve(x, kernel, strides, pad)
  return jax.lax.platform_dependent(x, kernel, cpu=by_taps, default=whole)


class Conv(nn.Module):
  """Convolution that is causal in time and keeps the size in space.

  It looks at `kernel[0] - 1` earlier frames: zeros before the clip begins,
  and while streaming the last ones of the chunk before.
  """

  features: int
  kernel: tuple[int, int, int] = (3, 3, 3)
  dtype: str = 'float32'
  kernel_init: nn.initializers.Initializer = FAN_IN
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: Video) -> Wider:
    t, h, w = self.kernel
    if t > 1:
      x = _with_past(self, x, t - 1)
    kernel, bias = _kernel_and_bias(
      self, (t, h, w), x.shape[-1], self.kernel_init, self.bias_init
    )
    space = ((h // 2, h // 2), (w // 2, w // 2))
    return convolve(x, kernel, pad=space) + bias


def _with_past(module: nn.Module, x: Video, frames: int) -> Other:
  """Puts the `frames` frames before `x` in front of it."""
  shape = (x.shape[0], frames, *x.shape[2:])
  if not module.is_mutable_collection('stream'):
    return jnp.concatenate([jnp.zeros(shape, x.dtype), x], axis=1)
  past = module.variable('stream', 'past', jnp.zeros, shape, x.dtype)
  x = jnp.concatenate([past.value, x], axis=1)
  past.value = x[:, -frames:]
  return x


def _kernel_and_bias(
  module: nn.Module,
  window: tuple[int, int, int],
  width: int,
  kernel_init: nn.initializers.Initializer = FAN_IN,
  bias_init: nn.initializers.Initializer = nn.initializers.zeros,
) -> tuple[Array, Array]:
  """Parameters of a convolution; call it from a compact method only."""
  kernel = module.param(
    'kernel',
    nn.with_logical_partitioning(
      kernel_init, (None, None, None, None, 'embed')
    ),
    (*window, width, module.features),
  )
  bias = module.param(
    'bias',
    nn.with_logical_partitioning(bias_init, ('embed',)),
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
    norm = jnp.sqrt(jnp.maximum(jnp.sum(x32**2, axis=-1, keepdims=True), 1e-24))
    scale = gamma[(None,) * 4] * x.shape[-1] ** 0.5
    return (x32 / norm * scale).astype(x.dtype)


class ResidualBlock(nn.Module):
  """Two convolutions beside the identity, which is all there is at first.

  The last kernel starts at zero: a fresh autoencoder is then close to linear
  from pixels to latents and back, and its encoder learns from the first step.
  """

  features: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Video) -> Wider:
    y = nn.silu(RMSNorm(name='norm1')(x))
    y = Conv(self.features, dtype=self.dtype, name='conv1')(y)
    y = nn.silu(RMSNorm(name='norm2')(y))
    y = Conv(
      self.features,
      dtype=self.dtype,
      kernel_init=nn.initializers.zeros,
      name='conv2',
    )(y)
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
    qkv = Conv(3 * C, point, self.dtype, name='to_qkv')(RMSNorm(name='norm')(x))
    q, k, v = jnp.split(
      einops.rearrange(qkv, 'B T H W C -> (B T) (H W) C'), 3, axis=-1
    )
    logits = jnp.einsum('fnc,fmc->fnm', q, k, preferred_element_type='float32')
    weights = jax.nn.softmax(logits * C**-0.5).astype(v.dtype)
    y = jnp.einsum('fnm,fmc->fnc', weights, v)
    y = y.reshape(B, T, H, W, C)
    return x + Conv(C, point, self.dtype, nn.initializers.zeros, name='proj')(y)


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
  def __call__(self, x: Video, first: bool) -> Other:
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
  def __call__(self, x: Video, first: bool) -> Other:
    start, rest = x[:, :1], x[:, 1:] if first else x
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
  def __call__(self, x: Video, first: bool) -> Other:
    x = StridedConv(self.features, self.dtype, name='resample')(x)
    if self.halve_time:
      x = HalveTime(self.features, self.dtype, name='time_conv')(x, first)
    return x


class StridedConv(nn.Module):
  """3 x 3 convolution of stride 2, padded by one row below and right."""

  features: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Video) -> Other:
    kernel, bias = _kernel_and_bias(self, (1, 3, 3), x.shape[-1])
    return convolve(x, kernel, (1, 2, 2), ((0, 1), (0, 1))) + bias


class Upsample(nn.Module):
  """Doubles time where asked, and then height and width."""

  features: int
  double_time: bool
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Video, first: bool) -> Other:
    if self.double_time:
      x = DoubleTime(x.shape[-1], self.dtype, name='time_conv')(x, first)
    x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
    return Conv(self.features, (1, 3, 3), self.dtype, name='resample')(x)


def fold_mean(x: Video, features: int, t: int, s: int, first: bool) -> Other:
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
) -> Other:
  """Repeats channels and unfolds them to t x s x s positions.

  At the clip's start the first t - 1 frames are dropped, since latent 0
  stands for one frame.
  """
  x = jnp.repeat(x, features * t * s * s // x.shape[-1], axis=-1)
  x = einops.rearrange(
    x, 'B T H W (C t h w) -> B (T t) (H h) (W w) C', t=t, h=s, w=s
  )
  return x[:, t - 1 :] if first else x
