"""The judge of made scenes: which object, colour, event, place a clip shows.

A small residual network over frames: in each block a convolution within frames,
then one along time, as Tran et al. 2018 (arXiv:1711.11248) take them apart. It
is taught on clips of which everything is known, sees pixels only, and has no
part in making any. On its way it says how much of each place an actor covers,
and reads most where that is much: actors are small, and grounds are not.
"""

import dataclasses
from typing import Any, NamedTuple

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from sora_jax.models import layers

Params = Any
Video = Float[Array, 'B T H W 3']
Features = Float[Array, 'B T H W C']

PATCH = 4  # pixels a side, folded into channels first


@dataclasses.dataclass(kw_only=True)
class ProbeConfig:
  """Sizes of the probe, stage by stage; each halves height and width."""

  widths: tuple[int, ...] = (32, 96, 192)
  blocks: tuple[int, ...] = (1, 3, 3)
  features: int = 256  # of the vector that is read
  classes: int = 0  # values of all attributes together; the world says it


def check(config: ProbeConfig) -> None:
  """Raises ValueError where the fields of `config` contradict each other."""
  if len(config.blocks) != len(config.widths) or len(config.widths) < 2:
    raise ValueError(
      f'{config.blocks=} must have one entry for each of {config.widths=}, '
      'which must be two or more'
    )
  if min(*config.widths, *config.blocks, config.features, config.classes) < 1:
    raise ValueError(f'{config} must be of numbers from 1 on')


def side_of(config: ProbeConfig) -> int:
  """Pixels a side of what is one position at last."""
  return PATCH * 2 ** (len(config.widths) - 1)


def check_size(config: ProbeConfig, height: int, width: int) -> None:
  """Raises ValueError unless frames fold into whole positions."""
  side = side_of(config)
  if height % side or width % side or not height * width:
    raise ValueError(
      f'{width}x{height} pixels: the probe takes multiples of {side}'
    )


class Block(nn.Module):
  """Neighbours in the frame, then those in time, beside the identity."""

  @nn.compact
  def __call__(self, x: Features) -> Features:
    B, width = x.shape[0], x.shape[-1]
    y = layers.LayerNorm(name='norm')(x)
    y = einops.rearrange(y, 'B T H W C -> (B T) H W C')
    y = jax.nn.gelu(nn.Conv(width, (3, 3), name='space')(y))
    y = einops.rearrange(y, '(B T) H W C -> B T H W C', B=B)
    none = jnp.zeros_like(y[:, :1])
    before = jnp.concatenate([none, y[:, :-1]], axis=1)
    after = jnp.concatenate([y[:, 1:], none], axis=1)
    y = jnp.concatenate([before, y, after], axis=-1)
    return x + layers.Linear(width, (None, 'embed'), name='time')(y)


class Seen(NamedTuple):
  """What the probe says of clips."""

  features: Float[Array, 'B E']  # that the scores are read from
  scores: Float[Array, 'B K']  # of all classes
  # Logits of the share of each place that actors cover; see `places`.
  cover: Float[Array, 'B U V X']


class SceneProbe(nn.Module):
  """Video to what it shows."""

  config: ProbeConfig

  @nn.compact
  def __call__(self, video: Video) -> Seen:
    c = self.config
    x = self._stage(self._stage(video, 0), 1)
    y = layers.LayerNorm(name='norm_1')(x)
    cover = layers.Linear(1, (None, None), name='cover')(y)
    weight = jax.nn.sigmoid(cover)
    pooled = [*_pool(y, weight)]
    for i in range(2, len(c.widths)):
      x = self._stage(x, i)
      y = layers.LayerNorm(name=f'norm_{i}')(x)
      weight = _fold(weight, 2, 1).mean(axis=-1, keepdims=True)
      pooled += _pool(y, weight)
    pooled.append(y.max(axis=(1, 2, 3)))
    features = layers.Linear(c.features, (None, 'embed'), name='pool')(
      jnp.concatenate(pooled, axis=-1)
    )
    scores = layers.Linear(c.classes, ('embed', None), name='classes')
    return Seen(features, scores(jax.nn.gelu(features)), cover[..., 0])

  def _stage(self, x: Features, i: int) -> Float[Array, 'B U V X E']:
    """Folds, and looks around; call it from a compact method only."""
    x = _fold(x, 2 if i else PATCH, 2 if i == 1 else 1)
    width = self.config.widths[i]
    x = layers.Linear(width, (None, 'embed'), name=f'fold_{i}')(x)
    for j in range(self.config.blocks[i]):
      x = Block(name=f'block_{i}_{j}')(x)
    return x


def _pool(
  x: Features, weight: Float[Array, 'B T H W 1']
) -> tuple[Float[Array, 'B C'], Float[Array, 'B C']]:
  """The mean of what lies where the weight is, and of all."""
  total = weight.sum(axis=(1, 2, 3)) + 1e-3
  return (weight * x).sum(axis=(1, 2, 3)) / total, x.mean(axis=(1, 2, 3))


def places(
  mask: Bool[Array, 'B T H W'],
) -> Float[Array, 'B U V X']:
  """The share of each place that a mask covers, as `Seen.cover` has them."""
  x = _fold(mask[..., None].astype(jnp.float32), 2 * PATCH, 2)
  return x.mean(axis=-1)


def _fold(x: Features, space: int, time: int) -> Float[Array, 'B U V X E']:
  """Folds neighbours into channels; the last frame is held for a whole fold."""
  held = [x] + [x[:, -1:]] * (-x.shape[1] % time)
  return einops.rearrange(
    jnp.concatenate(held, axis=1),
    'B (T t) (H h) (W w) C -> B T H W (t h w C)',
    t=time,
    h=space,
    w=space,
  )


def init(config: ProbeConfig, key: Key[Array, '']) -> Params:
  """Boxed parameters, which fit clips of every size."""
  side = side_of(config)
  video = jnp.zeros((1, 1, side, side, 3))
  return SceneProbe(config).init(key, video)['params']


def look(config: ProbeConfig, params: Params, video: Video) -> Seen:
  """What the probe says of clips in [-1, 1]."""
  return SceneProbe(config).apply({'params': params}, video)
