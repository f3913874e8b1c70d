"""The judge of made scenes: which object, colour, event, place a clip shows.

A small residual network over frames: in each block a convolution within frames,
then one along time, as Tran et al. 2018 (arXiv:1711.11248) take them apart. It
is taught on clips of which everything is known, sees pixels only, and has no
part in making any.
"""

import dataclasses
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

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
  if len(config.blocks) != len(config.widths) or not config.widths:
    raise ValueError(
      f'{config.blocks=} must have one entry for each of {config.widths=}'
    )
  if min(*config.widths, *config.blocks, config.features, config.classes) < 1:
    raise ValueError(f'{config} must be of numbers from 1 on')


def check_size(config: ProbeConfig, height: int, width: int) -> None:
  """Raises ValueError unless frames fold into whole positions."""
  side = PATCH * 2 ** (len(config.widths) - 1)
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


class Probe(nn.Module):
  """Video to a vector of features and the scores of all classes."""

  config: ProbeConfig

  @nn.compact
  def __call__(
    self, video: Video
  ) -> tuple[Float[Array, 'B E'], Float[Array, 'B K']]:
    c = self.config
    x = video
    for i, (width, blocks) in enumerate(zip(c.widths, c.blocks, strict=True)):
      x = _fold(x, 2 if i else PATCH, 2 if i == 1 else 1)
      x = layers.Linear(width, (None, 'embed'), name=f'fold_{i}')(x)
      for j in range(blocks):
        x = Block(name=f'block_{i}_{j}')(x)
    x = layers.LayerNorm(name='norm')(x)
    pooled = [x.mean(axis=(1, 2, 3)), x.max(axis=(1, 2, 3))]
    features = layers.Linear(c.features, (None, 'embed'), name='pool')(
      jnp.concatenate(pooled, axis=-1)
    )
    scores = layers.Linear(c.classes, ('embed', None), name='classes')
    return features, scores(jax.nn.gelu(features))


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
  side = PATCH * 2 ** (len(config.widths) - 1)
  video = jnp.zeros((1, 1, side, side, 3))
  return Probe(config).init(key, video)['params']


def judge(
  config: ProbeConfig, params: Params, video: Video
) -> tuple[Float[Array, 'B E'], Float[Array, 'B K']]:
  """The features of clips in [-1, 1], and the scores of all classes."""
  return Probe(config).apply({'params': params}, video)
