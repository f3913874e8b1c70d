"""The judge of made scenes: which object, colour, event, place a clip shows.

A small residual network over frames: in each block a convolution within frames,
then one along time, as Tran et al. 2018 (arXiv:1711.11248) take them apart. It
is taught on clips of which everything is known, sees pixels only, and has no
part in making any. Beside its colours it is told how each place moves and where
it lies, since which way a camera goes is in the pattern of small motions. On
its way it says how much of each place an actor covers, and how camera and
actors move: actors are small, grounds are not, and it follows both from frame
to frame.
"""

import dataclasses
from typing import Any, NamedTuple

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from sora_jax.models import causal, layers

Params = Any
Video = Float[Array, 'B T H W 3']
Features = Float[Array, 'B T H W C']

PATCH = 4  # pixels a side, folded into channels first
SCALES = (1, 2, 4)  # pixels a side, at which motions are looked for
# Keeps the motion of flat places at 0: a squared slope of pixels in [-1, 1].
FLAT = 1e-4


@dataclasses.dataclass(kw_only=True)
class ProbeConfig:
  """Sizes of the probe, stage by stage; each halves height and width."""

  widths: tuple[int, ...] = (32, 96, 192)
  blocks: tuple[int, ...] = (1, 3, 3)
  features: int = 256  # of the vector that is read
  classes: int = 0  # values of all attributes together; the world says it
  motions: int = 0  # numbers that say how camera and actors move; likewise


def check(config: ProbeConfig) -> None:
  """Raises ValueError where the fields of `config` contradict each other."""
  if len(config.blocks) != len(config.widths) or len(config.widths) < 2:
    raise ValueError(
      f'{config.blocks=} must have one entry for each of {config.widths=}, '
      'which must be two or more'
    )
  numbers = (config.features, config.classes, config.motions)
  if min(*config.widths, *config.blocks, *numbers) < 1:
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
    width = x.shape[-1]
    y = layers.LayerNorm(name='norm')(x)
    y = jax.nn.gelu(causal.Conv(width, (1, 3, 3), name='space')(y))
    none = jnp.zeros_like(y[:, :1])
    before = jnp.concatenate([none, y[:, :-1]], axis=1)
    after = jnp.concatenate([y[:, 1:], none], axis=1)
    y = jnp.concatenate([before, y, after], axis=-1)
    return x + layers.Linear(width, (None, 'embed'), name='time')(y)


class Course(nn.Module):
  """What is followed from frame to frame, over up to seven pairs of them."""

  @nn.compact
  def __call__(self, x: Float[Array, 'B U E']) -> Float[Array, 'B U E']:
    for i, step in enumerate((1, 2)):
      y = layers.LayerNorm(name=f'norm_{i}')(x)
      wide = jnp.pad(y, ((0, 0), (step, step), (0, 0)))
      before, after = wide[:, : x.shape[1]], wide[:, 2 * step :]
      y = jnp.concatenate([before, y, after], axis=-1)
      width = x.shape[-1]
      y = jax.nn.gelu(layers.Linear(width, (None, 'mlp'), name=f'in_{i}')(y))
      x += layers.Linear(width, ('mlp', 'embed'), name=f'out_{i}')(y)
    return x


class Seen(NamedTuple):
  """What the probe says of clips."""

  features: Float[Array, 'B E']  # that the scores are read from
  scores: Float[Array, 'B K']  # of all classes
  # Logits of the share of each place that actors cover; see `places`.
  cover: Float[Array, 'B U V X']
  motions: Float[Array, 'B U M']  # of each pair of frames; see `pairs`


class SceneProbe(nn.Module):
  """Video to what it shows."""

  config: ProbeConfig

  @nn.compact
  def __call__(self, video: Video) -> Seen:
    c = self.config
    x = _fold(video, PATCH, 1)
    x = jnp.concatenate([x, motion(video), _where(video, PATCH)], axis=-1)
    x = self._stage(self._stage(x, 0), 1)
    y = layers.LayerNorm(name='norm_1')(x)
    cover = layers.Linear(1, (None, None), name='cover')(y)
    weight = jax.nn.sigmoid(cover)
    followed, pooled = self._follow(y, weight, 1), [*_pool(y, weight)]
    for i in range(2, len(c.widths)):
      x = self._stage(x, i)
      y = layers.LayerNorm(name=f'norm_{i}')(x)
      weight = _fold(weight, 2, 1).mean(axis=-1, keepdims=True)
      followed += self._follow(y, weight, i)
      pooled += _pool(y, weight)
    followed = Course(name='course')(followed)
    seen = layers.LayerNorm(name='norm_course')(followed)
    motions = layers.Linear(c.motions, ('embed', None), name='motions')(seen)
    pooled += [y.max(axis=(1, 2, 3)), seen.mean(axis=1), seen.max(axis=1)]
    features = layers.Linear(c.features, (None, 'embed'), name='pool')(
      jnp.concatenate(pooled, axis=-1)
    )
    scores = layers.Linear(c.classes, ('embed', None), name='classes')
    seen_as = scores(jax.nn.gelu(features))
    return Seen(features, seen_as, cover[..., 0], motions)

  def _stage(self, x: Features, i: int) -> Float[Array, 'B U V X E']:
    """Folds what is not yet, and looks around; from a compact method only."""
    if i:
      x = _fold(x, 2, 2 if i == 1 else 1)
    width = self.config.widths[i]
    x = layers.Linear(width, (None, 'embed'), name=f'fold_{i}')(x)
    for j in range(self.config.blocks[i]):
      x = Block(name=f'block_{i}_{j}')(x)
    return x

  def _follow(
    self,
    x: Float[Array, 'B U V X C'],
    weight: Float[Array, 'B U V X 1'],
    i: int,
  ) -> Float[Array, 'B U E']:
    """Of each pair of frames, what lies where the weight is, and what does not.

    Call it from a compact method only.
    """
    total = weight.sum(axis=(2, 3)) + 1e-3
    there = (weight * x).sum(axis=(2, 3)) / total
    elsewhere = ((1 - weight) * x).mean(axis=(2, 3))
    middle = (weight * _where(x, 1)).sum(axis=(2, 3)) / total
    parts = [there, elsewhere, x.max(axis=(2, 3)), middle, jnp.log(total)]
    linear = layers.Linear(
      self.config.features, (None, 'embed'), name=f'follow_{i}'
    )
    return linear(jnp.concatenate(parts, axis=-1))


def motion(video: Video) -> Float[Array, 'B T h w 9']:
  """How far each place moves until the next frame, by slopes in space and time.

  Of frames at each of SCALES, as coarser ones see larger motions: steps to the
  right and down, and how sure that is. The last frame has none. Source: Lucas
  and Kanade 1981, An Iterative Image Registration Technique.
  """
  grey = video.mean(axis=-1, keepdims=True)
  parts = []
  for scale in SCALES:
    frames = _mean(grey, scale)[..., 0]
    later = jnp.concatenate([frames[:, 1:], frames[:, -1:]], axis=1)
    down, right = jnp.gradient((frames + later) / 2, axis=(2, 3))
    change = later - frames
    products = (right * right, right * down, down * down)
    products += (right * change, down * change)
    folded = _mean(jnp.stack(products, axis=-1), PATCH // scale)
    # Over the neighbours too, as a place of one edge does not tell its motion.
    near = jax.lax.reduce_window(
      folded, 0.0, jax.lax.add, (1, 1, 3, 3, 1), (1, 1, 1, 1, 1), 'SAME'
    )
    xx, xy, yy, xt, yt = jnp.moveaxis(near / 9, -1, 0)
    xx, yy = xx + FLAT, yy + FLAT
    sure = xx * yy - xy * xy
    parts += [(xy * yt - yy * xt) / sure, (xy * xt - xx * yt) / sure]
    parts += [0.5 * jnp.log(sure / (xx + yy) / FLAT)]
  return jnp.stack(parts, axis=-1).clip(-PATCH, PATCH)


def _mean(x: Features, side: int) -> Float[Array, 'B T h w C']:
  """Means over squares of a side."""
  return einops.reduce(
    x, 'B T (H h) (W w) C -> B T H W C', 'mean', h=side, w=side
  )


def _where(x: Features, fold: int) -> Float[Array, 'B T h w 2']:
  """Where each place lies: from the middle, in halves of the shorter side."""
  B, T, H, W = x.shape[0], x.shape[1], x.shape[2] // fold, x.shape[3] // fold
  along = lambda n: (2 * jnp.arange(n) + 1 - n) / min(H, W)
  grid = jnp.stack(jnp.meshgrid(along(H), along(W), indexing='ij'), axis=-1)
  return jnp.broadcast_to(grid, (B, T, H, W, 2))


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


def pairs(motions: Float[Array, 'B T M']) -> Float[Array, 'B U M']:
  """Means over pairs of frames, as `Seen.motions` has them."""
  x = _fold(motions[:, :, None, None], 1, 2)[:, :, 0, 0]
  return einops.reduce(x, 'B U (t M) -> B U M', 'mean', t=2)


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
