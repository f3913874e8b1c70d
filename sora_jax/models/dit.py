"""The spacetime DiT: the network that removes noise from latent video.

It is Wan's transformer at any size. Tokens are latent patches with their
positions as data, so size, duration and packing belong to the batch, not to
the model:

  x ── patch ──┬─ [ self-attention ─ text ─ MLP ] x depth ── head ── patches
  level ─ time MLP ─┴─ shift, scale and gate of every block ──┘
  text ── text MLP ────────────────┘

Ours, and absent from Wan, are the noise level of each group of tokens, the
segments that let many clips share a row, and text that speaks to chosen tokens
only; with one group, segment and text a row it is the published network.

Sources: Peebles & Xie 2022 (arXiv:2212.09748); Wan 2025 (arXiv:2503.20314),
section 4.2; the single modulation of Chen et al. 2023 (arXiv:2310.00426).
"""

import dataclasses
import math
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from sora_jax.models import attention, layers, rope

LEVEL_SCALE = 1000.0  # levels in [0, 1] are embedded as times in [0, 1000]


@dataclasses.dataclass(kw_only=True)
class DiTConfig:
  """Size and form of the network; the rest of the defaults is Wan's."""

  width: int = 384
  depth: int = 12  # blocks
  heads: int = 6
  mlp: int = 1536  # hidden width of a block's MLP
  patch: tuple[int, int, int] = (1, 2, 2)  # latent frames, rows, columns
  channels: int = 16  # of the latent, which is also what comes out
  condition_channels: int = 0  # clean channels beside the noisy ones
  text_width: int = 128  # of the text features that come in
  text_length: int = 0  # rows that captions are padded to with zeros; 0: none
  frequencies: int = 256  # features of the noise level's sinusoid
  qk_norm: bool = True  # RMSNorm of queries and keys, over all heads at once
  cross_norm: bool = True  # LayerNorm before the text attention
  eps: float = 1e-6  # of every norm
  scan: bool = True  # blocks as a compiled loop; False: unrolled, same weights
  remat: bool = False  # recompute each block in the backward pass
  dtype: str = 'auto'  # of matrix products and activations


# DiT's sizes (arXiv:2212.09748, table 1) and the published Wan models.
_WAN = dict(text_width=4096, text_length=512)
_WAN_14B = dict(width=5120, depth=40, heads=40, mlp=13824, **_WAN)
SIZES: dict[str, dict[str, Any]] = {
  'S': dict(width=384, depth=12, heads=6, mlp=1536),
  'B': dict(width=768, depth=12, heads=12, mlp=3072),
  'L': dict(width=1024, depth=24, heads=16, mlp=4096),
  'XL': dict(width=1152, depth=28, heads=16, mlp=4608),
  '1.3b': dict(width=1536, depth=30, heads=12, mlp=8960, **_WAN),
  '5b': dict(width=3072, depth=30, heads=24, mlp=14336, channels=48, **_WAN),
  '14b': _WAN_14B,
  'a14b-t2v': _WAN_14B,  # each of two experts
  # Beside the noisy latent, a mask of 4 and the image's latent of 16.
  'a14b-i2v': _WAN_14B | dict(condition_channels=20),
}


class Surroundings(NamedTuple):
  """What every block is told besides its tokens."""

  modulation: Float[Array, 'B G J D']  # shift, scale, gate; twice; by group
  group: Float[Array, 'B N G']  # one-hot membership
  rotation: rope.Rotations
  segment: Int[Array, 'B N']
  text: Float[Array, 'B L D']
  text_segment: Int[Array, 'B L']
  text_of: Int[Array, 'B N']
  # Rows of zeros that follow a token's caption.
  padding: Float[Array, 'B N'] | None = None


class SpacetimeDiT(nn.Module):
  """Predicts clean patches, velocity or noise, from noisy patches.

  The fresh network returns zeros: the last kernel is zero, and every block is
  the identity (see `Block`).
  """

  config: DiTConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B N P'],
    level: Float[Array, 'B G'],
    position: Int[Array, 'B N 3'],
    segment: Int[Array, 'B N'],
    group: Int[Array, 'B N'],
    text: Float[Array, 'B L E'],
    text_segment: Int[Array, 'B L'],
    text_of: Int[Array, 'B N'],
  ) -> Float[Array, 'B N P_out']:
    """Runs the network on packed clips.

    Args:
      x: noisy patches, values ordered (t, h, w, C) with C fastest; noisy
        channels come first, condition channels after them.
      level: noise level of each group, 0 = data, 1 = noise.
      position: frame, row and column of a token in the grid of its clip.
      segment: clip of a token, 1, 2, ...; 0 is an empty slot.
      group: which column of `level` a token follows.
      text: text features.
      text_segment: caption of a text row, 1, 2, ...; 0 is an empty slot.
      text_of: the caption that a token listens to; 0 for none.

    Returns:
      float32 patches of the latent's channels; meaningless in empty slots.

    Raises:
      ValueError: the config cannot be, or `x` has another patch size.
    """
    check(self.config)
    c = layers.resolve_dtype(self.config)
    expected = math.prod(c.patch) * (c.channels + c.condition_channels)
    if x.shape[-1] != expected:
      raise ValueError(
        f'a patch has {x.shape[-1]} values, but {c.patch=} of {c.channels=} '
        f'+ {c.condition_channels=} makes {expected}'
      )
    embedding, modulation = TimeEmbedding(c, name='time')(level)
    membership = layers.one_hot(group, level.shape[1])
    padding = None
    if c.text_length:
      padding = _padding(c.text_length, text_of, text_segment)
      # Rows of zeros are all alike, so that one stands for them.
      text = jnp.pad(text, ((0, 0), (0, 1), (0, 0)))
      text_segment = jnp.pad(text_segment, ((0, 0), (0, 1)))
    surroundings = Surroundings(
      modulation=modulation,
      group=membership,
      rotation=rope.rotations(position, c.width // c.heads),
      segment=segment,
      text=layers.MLP(
        c.width, c.width, axis='text', dtype=c.dtype, name='text_embedder'
      )(text),
      text_segment=text_segment,
      text_of=text_of,
      padding=padding,
    )
    x = layers.Linear(
      c.width, (None, 'embed'), dtype=c.dtype, name='patch_embedding'
    )(x)
    x = attention.by_tokens(x)
    x, _ = layers.stack(Block, c.depth, scan=c.scan, remat=c.remat)(
      c, name='blocks'
    )(x, surroundings)
    return Head(c, name='head')(x, embedding, membership)


def _padding(
  length: int, text_of: Int[Array, 'B N'], text_segment: Int[Array, 'B L']
) -> Float[Array, 'B N']:
  """Rows of zeros that fill each token's caption up to `length`."""
  rows = attention.visibility(text_of, text_segment).sum(axis=-1)
  missing = jnp.maximum(length - rows, 0).astype(jnp.float32)
  return jnp.where(text_of > 0, missing, 0.0)


class TimeEmbedding(nn.Module):
  """Noise levels as a vector, and as the modulation that all blocks share."""

  config: DiTConfig

  @nn.compact
  def __call__(
    self, level: Float[Array, 'B G']
  ) -> tuple[Float[Array, 'B G D'], Float[Array, 'B G 6 D']]:
    c = self.config
    wave = layers.sinusoid(LEVEL_SCALE * level, c.frequencies)
    embedding = layers.MLP(
      c.width, c.width, axis=None, activation=jax.nn.silu, name='embedder'
    )(wave)
    modulation = layers.Linear(
      6 * c.width,
      ('embed', None),
      kernel_init=nn.initializers.zeros,
      name='proj',
    )(jax.nn.silu(embedding))
    return embedding, einops.rearrange(modulation, 'B G (J D) -> B G J D', J=6)


class Block(nn.Module):
  """One layer: self-attention, attention to text, MLP; each a residual.

  Modulation is a learned table plus what the noise level says, in the order
  shift, scale, gate of the self-attention, then of the MLP. Wan draws its
  tables at random; here tables and the time projection start at zero, so both
  gates are closed. The text attention has no gate, so its last kernel starts
  at zero instead. A fresh block is therefore the identity, and depth does not
  disturb the start of training (DiT, section 3.2, adaLN-Zero).

  Parts have the names that diffusers gives those of Wan: `attn1` and `attn2`
  attend to tokens and to text, `norm2` comes before the latter, and the norms
  before `attn1` and `ffn` have no parameters, and so no name.
  """

  config: DiTConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B N D'], around: Surroundings
  ) -> tuple[Float[Array, 'B N D'], None]:
    c = self.config
    table = layers.modulation_table(self, 6, c.width)
    shift1, scale1, gate1, shift2, scale2, gate2 = layers.spread(
      table + around.modulation, around.group
    )

    h = layers.modulate(x, shift1, scale1, c.eps)
    h = Attention(c, name='attn1')(
      h, h, around.segment, around.segment, around.rotation
    )
    x = layers.add(x, gate1 * h)

    h = layers.LayerNorm(c.eps, name='norm2')(x) if c.cross_norm else x
    h = Attention(c, out_init=nn.initializers.zeros, name='attn2')(
      h,
      around.text,
      around.text_of,
      around.text_segment,
      padding=around.padding,
    )
    x = layers.add(x, h)

    h = layers.modulate(x, shift2, scale2, c.eps)
    h = layers.MLP(c.mlp, c.width, dtype=c.dtype, name='ffn')(h)
    x = attention.by_tokens(layers.add(x, gate2 * h))
    return x, None  # the second is what a scan would collect


class Attention(nn.Module):
  """Multi-head attention; queries and keys are normalised over all heads.

  With a `rotation`, the cosines and sines of `rope.rotations`, queries and
  keys are turned by their positions. With `padding`, the last row of the
  context is seen that many times.
  """

  config: DiTConfig
  out_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B N D'],
    context: Float[Array, 'B L D'],
    segment_q: Int[Array, 'B N'],
    segment_k: Int[Array, 'B L'],
    rotation: rope.Rotations | None = None,
    padding: Float[Array, 'B N'] | None = None,
  ) -> Float[Array, 'B N D']:
    c = self.config

    def project(name, source):
      return layers.Linear(
        c.width, ('embed', 'heads'), dtype=c.dtype, name=f'to_{name}'
      )(source)

    def norm(name, y):
      if not c.qk_norm:
        return y
      return layers.RMSNorm('heads', c.eps, name=f'norm_{name}')(y)

    def split(y):
      return einops.rearrange(y, 'B N (A K) -> B N A K', A=c.heads)

    q = split(norm('q', project('q', x)))
    k = split(norm('k', project('k', context)))
    v = split(project('v', context))
    if rotation is not None:
      q, k = rope.rotate(q, rotation), rope.rotate(k, rotation)
    y = attention.attend(
      q.astype(c.dtype),
      k.astype(c.dtype),
      v,
      segment_q,
      segment_k,
      copies=padding,
    )
    return layers.Linear(
      c.width,
      ('heads', 'embed'),
      kernel_init=self.out_init,
      dtype=c.dtype,
      name='to_out',
    )(einops.rearrange(y, 'B N A K -> B N (A K)'))


class Head(nn.Module):
  """Tokens to patches, modulated by a table of its own; float32."""

  config: DiTConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B N D'],
    embedding: Float[Array, 'B G D'],
    membership: Float[Array, 'B N G'],
  ) -> Float[Array, 'B N P_out']:
    c = self.config
    table = layers.modulation_table(self, 2, c.width)
    shift, scale = layers.spread(table + embedding[:, :, None], membership)
    return layers.Linear(
      math.prod(c.patch) * c.channels,
      ('embed', None),
      kernel_init=nn.initializers.zeros,
      name='proj_out',
    )(layers.modulate(x, shift, scale, c.eps))


def check(config: DiTConfig) -> None:
  """Refuses sizes that cannot be.

  Flags may change a field after construction, so this runs when the network is
  built and not when the config is.

  Raises:
    ValueError: naming the fields, their values and what would be accepted.
  """
  for name in ('width', 'depth', 'heads', 'mlp', 'channels', 'text_width'):
    if getattr(config, name) < 1:
      raise ValueError(f'{name}={getattr(config, name)} must be at least 1')
  if config.width % config.heads:
    raise ValueError(f'{config.width=} must be a multiple of {config.heads=}')
  head_dim = config.width // config.heads
  if head_dim % 2 or head_dim < 6:
    raise ValueError(
      f'{config.width=} / {config.heads=} gives heads of {head_dim}; rotary '
      'positions on three axes need an even number, 6 or more'
    )
  if len(config.patch) != 3 or min(config.patch) < 1:
    raise ValueError(f'{config.patch=} must be three positive numbers')
  for name in ('condition_channels', 'text_length'):
    if getattr(config, name) < 0:
      raise ValueError(f'{name}={getattr(config, name)} must be 0 or more')
  if config.frequencies < 2 or config.frequencies % 2:
    raise ValueError(f'{config.frequencies=} must be even and positive')
  layers.check_dtype(config.dtype)


def init(config: DiTConfig, key: Key[Array, '']) -> Any:
  """Parameters in boxes that name their logical axes."""
  values = math.prod(config.patch) * (
    config.channels + config.condition_channels
  )
  ints = lambda *shape: jnp.ones(shape, jnp.int32)
  return SpacetimeDiT(config).init(
    key,
    jnp.zeros((1, 1, values)),
    jnp.zeros((1, 1)),
    ints(1, 1, 3),
    ints(1, 1),
    ints(1, 1) * 0,
    jnp.zeros((1, 1, config.text_width)),
    ints(1, 1),
    ints(1, 1),
  )['params']


def lean(config: DiTConfig, params: Any) -> Any:
  """Parameters as they are computed with; see `layers.lean`."""
  dtype = layers.resolve_dtype(config).dtype
  return layers.lean(params, dtype, exact=('time', 'head'))
