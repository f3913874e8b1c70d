"""Text encoders: T5 and umT5, and a byte-level one for small models.

Several captions may lie in one row, marked by segments. Attention stays within
a segment and positions enter as distances only, so a caption is encoded the
same wherever it lies.

Sources: Raffel et al. 2020 (arXiv:1910.10683), section 2.1; the gated GELU of
T5 v1.1, Shazeer 2020 (arXiv:2002.05202); umT5, Chung et al. 2023
(arXiv:2304.09151).
"""

import dataclasses
import functools
import math
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from sora_jax.models import attention, layers


@dataclasses.dataclass(kw_only=True)
class TextConfig:
  """Size and form of the encoder; the defaults read bytes, for small models."""

  vocab: int = 259  # 256 bytes after pad, end and unknown
  width: int = 128
  depth: int = 2  # blocks
  heads: int = 8
  head_dim: int = 16
  mlp: int = 256  # hidden width of a block's gated MLP
  buckets: int = 32  # of signed distance between two tokens
  max_distance: int = 128  # from here on all distances share a bucket
  shared_bias: bool = False  # one distance table for all blocks, as in T5
  eps: float = 1e-6  # of every norm
  scan: bool = True  # blocks as a compiled loop; False: unrolled, same weights
  dtype: str = 'auto'  # of matrix products and activations


SIZES = {
  'bytes': dict(),
  't5-v1.1-xxl': dict(
    vocab=32128,
    width=4096,
    depth=24,
    heads=64,
    head_dim=64,
    mlp=10240,
    shared_bias=True,
  ),
  'umt5-xxl': dict(
    vocab=256384, width=4096, depth=24, heads=64, head_dim=64, mlp=10240
  ),
}


class T5Encoder(nn.Module):
  """Token ids to text features."""

  config: TextConfig

  @nn.compact
  def __call__(
    self, ids: Int[Array, 'B L'], segment: Int[Array, 'B L']
  ) -> Float[Array, 'B L E']:
    """Encodes captions; rows of segment 0, the empty slots, are zeros.

    Raises:
      ValueError: the config cannot be.
    """
    check(self.config)
    c = layers.resolve_dtype(self.config)
    embedding = self.param(
      'embedding',
      nn.with_logical_partitioning(
        nn.initializers.normal(1.0), ('vocab', 'embed')
      ),
      (c.vocab, c.width),
    )
    x = jnp.take(embedding, ids, axis=0).astype(c.dtype)
    shared = None
    if c.shared_bias:
      shared = DistanceBias(c, name='relative_attention_bias')(ids.shape[1])
    x, _ = layers.stack(Block, c.depth, scan=c.scan)(c, name='blocks')(
      x, segment, shared
    )
    x = layers.RMSNorm(eps=c.eps, name='final_layer_norm')(x)
    return jnp.where(segment[..., None] > 0, x, 0.0)


class Block(nn.Module):
  """Self-attention and a gated MLP; each a residual after an RMS norm."""

  config: TextConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B L E'],
    segment: Int[Array, 'B L'],
    bias: Float[Array, '1 A L L'] | None,
  ) -> tuple[Float[Array, 'B L E'], None]:
    c = self.config
    if bias is None:
      bias = DistanceBias(c, name='relative_attention_bias')(x.shape[1])
    h = layers.RMSNorm(eps=c.eps, name='attention_norm')(x)
    x = layers.add(x, Attention(c, name='attention')(h, segment, bias))
    h = layers.RMSNorm(eps=c.eps, name='mlp_norm')(x)
    x = layers.add(x, GatedMLP(c, name='mlp')(h))
    return x, None  # the second is what a scan would collect


class Attention(nn.Module):
  """T5's attention: no biases, and scores that are not scaled.

  The scale is in the initializers instead: a query is K^-1/2 as large as usual.
  """

  config: TextConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B L E'],
    segment: Int[Array, 'B L'],
    bias: Float[Array, '1 A L L'],
  ) -> Float[Array, 'B L E']:
    c = self.config

    def project(name: str, std: float) -> Float[Array, 'B L A K']:
      y = linear(c, c.heads * c.head_dim, ('embed', 'heads'), std, name)(x)
      return einops.rearrange(y, 'B L (A K) -> B L A K', A=c.heads)

    q = project('q', (c.width * c.head_dim) ** -0.5)
    k, v = project('k', c.width**-0.5), project('v', c.width**-0.5)
    y = attention.attend(q, k, v, segment, segment, scale=1.0, bias=bias)
    y = einops.rearrange(y, 'B L A K -> B L (A K)')
    std = (c.heads * c.head_dim) ** -0.5
    return linear(c, c.width, ('heads', 'embed'), std, 'o')(y)


class GatedMLP(nn.Module):
  """One linear layer's GELU times another, then a third."""

  config: TextConfig

  @nn.compact
  def __call__(self, x: Float[Array, 'B L E']) -> Float[Array, 'B L E']:
    c = self.config
    std = c.width**-0.5
    gate = linear(c, c.mlp, ('embed', 'mlp'), std, 'wi_0')(x)
    value = linear(c, c.mlp, ('embed', 'mlp'), std, 'wi_1')(x)
    h = jax.nn.gelu(gate) * value
    return linear(c, c.width, ('mlp', 'embed'), c.mlp**-0.5, 'wo')(h)


class DistanceBias(nn.Module):
  """A learned number for each head and bucket of distance."""

  config: TextConfig

  @nn.compact
  def __call__(self, length: int) -> Float[Array, '1 A L L']:
    c = self.config
    table = self.param(
      'embedding',
      nn.with_logical_partitioning(
        functools.partial(places_first, c), (None, 'heads')
      ),
      (c.buckets, c.heads),
    )
    index = np.arange(length)
    bucket = distance_bucket(
      index[None, :] - index[:, None], c.buckets, c.max_distance
    )
    # A product, not a gather, whose gradient would add L * L terms into a row.
    return jnp.einsum(
      'NLI,IA->ANL',
      layers.one_hot(jnp.asarray(bucket), c.buckets),
      table,
      precision='highest',
    )[None]


# Tokens away that heads start by looking at, two heads each: letters beside
# each other, a word, a phrase, the sentence.
REACHES = (1, 8, 24, None)
# Weighs each of them as much as e^5 = 148 other tokens.
START_BIAS = 5.0


def places_first(
  config: TextConfig,
  key: Key[Array, ''],
  shape: tuple[int, int],
  dtype: Any = jnp.float32,
) -> Float[Array, 'I A']:
  """Distance table that starts each head at places of its own.

  Even heads look at tokens before their own and odd ones at those after it, as
  far as REACHES, in turn. From T5's start, normal numbers of width^-1/2, all
  heads see a caption as a bag of letters, and those of bytes stay there for
  long: `black` is told by its k, but `red` and `green` are not told apart, nor
  which of two balls goes left.
  """
  table = nn.initializers.normal(config.width**-0.5)(key, shape, dtype)
  for head in range(config.heads):
    side = 1 if head % 2 else -1
    reach = REACHES[head // 2 % len(REACHES)] or config.max_distance
    places = distance_bucket(
      side * np.arange(1, reach + 1), config.buckets, config.max_distance
    )
    table = table.at[np.unique(places), head].add(START_BIAS)
  return table


def linear(
  config: TextConfig, features: int, axes: layers.Axes, std: float, name: str
) -> layers.Linear:
  """A bias-free linear layer of normal weights, as all of T5's are."""
  return layers.Linear(
    features,
    axes,
    use_bias=False,
    kernel_init=nn.initializers.normal(std),
    dtype=config.dtype,
    name=name,
  )


def distance_bucket(
  distance: Int[np.ndarray, '*S'], buckets: int, max_distance: int
) -> Int[np.ndarray, '*S']:
  """Buckets the signed distance, key minus query, between two tokens.

  Half of the buckets are for keys after the query. Of each half, the first
  half are exact distances and the rest widen logarithmically to max_distance.
  """
  half = buckets // 2
  exact = half // 2
  size = np.abs(distance)
  # In float32, as T5 does, so that the buckets' edges are where its are.
  ratio = np.log(np.maximum(size, 1).astype(np.float32) / exact)
  ratio *= (half - exact) / math.log(max_distance / exact)
  wide = np.minimum(exact + ratio.astype(np.int32), half - 1)
  bucket = np.where(size < exact, size, wide)
  return bucket + half * (distance > 0)


def check(config: TextConfig) -> None:
  """Refuses sizes that cannot be.

  Raises:
    ValueError: naming the field, its value and what would be accepted.
  """
  for name in ('vocab', 'width', 'depth', 'heads', 'head_dim', 'mlp'):
    if getattr(config, name) < 1:
      raise ValueError(f'{name}={getattr(config, name)} must be at least 1')
  if config.buckets < 4 or config.buckets % 4:
    raise ValueError(f'{config.buckets=} must be a positive multiple of 4')
  if config.max_distance <= config.buckets // 4:
    raise ValueError(
      f'{config.max_distance=} must be more than {config.buckets // 4}, the '
      f'exact distances of {config.buckets=}'
    )
  layers.check_dtype(config.dtype)


def init(config: TextConfig, key: Key[Array, '']) -> Any:
  """Parameters in boxes that name their logical axes."""
  ids = jnp.ones((1, 1), jnp.int32)
  return T5Encoder(config).init(key, ids, ids)['params']


def lean(config: TextConfig, params: Any) -> Any:
  """Parameters as they are computed with; see `layers.lean`."""
  dtype = layers.resolve_dtype(config).dtype
  words = params['embedding'].astype(dtype)
  return layers.lean(params, dtype) | {'embedding': words}
