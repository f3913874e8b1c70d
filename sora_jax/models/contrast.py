"""Two towers that bring a caption and its clip to one place, and no others.

They teach the text encoder before the DiT hears it, and are thrown away then.
What a caption says of colour is worth little in a denoising loss, and hidden
there under errors that no caption can foretell; told apart from other
captions, it is most of what there is.

Source: Radford et al. 2021 (CLIP, arXiv:2103.00020), section 2.3 and figure 3.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sora_jax import batch
from sora_jax.models import layers, rope

Params = Any

WIDTH = 256
FEATURES = 128  # of an embedding
TEMPERATURE = 0.07  # at the start; learned, and kept above 0.01
POSITION_FEATURES = 48


class Tower(nn.Module):
  """Vectors of a set to one embedding of length 1 for each clip of a row.

  The set's members are seen one by one, then their mean, as in Deep Sets
  (Zaheer et al. 2017, arXiv:1703.06114), so sets may have any size.
  """

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B N P'], member: Float[Array, 'B N M']
  ) -> Float[Array, 'B M S']:
    x = jax.nn.gelu(layers.MLP(WIDTH, WIDTH, axis=None, name='each')(x))
    total = jnp.einsum('BNM,BNW->BMW', member, x)
    count = jnp.maximum(member.sum(axis=1)[..., None], 1.0)
    y = layers.MLP(WIDTH, FEATURES, axis=None, name='all')(total / count)
    return y * jax.lax.rsqrt(jnp.sum(y**2, axis=-1, keepdims=True) + 1e-12)


class Towers(nn.Module):
  """Scores of every caption of a batch against every clip of it."""

  @nn.compact
  def __call__(
    self, pack: batch.Pack, text: Float[Array, 'B L E']
  ) -> Float[Array, 'X X']:
    """Row i: how well caption i fits each of the X = B M clips."""
    clips = pack.draw.shape[1]
    member = lambda segment: layers.one_hot(segment - 1, clips)
    # As to the DiT, rotations say where a token lies.
    turn = rope.rotations(pack.position, POSITION_FEATURES)
    seen = jnp.concatenate([pack.tokens, turn.cos, turn.sin], axis=-1)
    video = Tower(name='video')(seen, member(pack.segment))
    # All parts of a caption speak of its clip.
    clip = jnp.where(pack.text_segment, (pack.text_segment - 1) % clips + 1, 0)
    words = Tower(name='text')(text, member(clip))
    scale = self.param(
      'scale', nn.initializers.constant(-jnp.log(TEMPERATURE)), ()
    )
    flat = lambda y: y.reshape(-1, FEATURES)
    return jnp.exp(jnp.minimum(scale, jnp.log(100.0))) * jnp.einsum(
      'XS,YS->XY', flat(words), flat(video)
    )


def init(key: Key[Array, ''], values: int, features: int) -> Params:
  """Boxed parameters for tokens of `values` numbers and text of `features`."""
  zeros = lambda *shape: jnp.zeros(shape, jnp.int32)
  pack = batch.Pack(
    tokens=jnp.zeros((1, 1, values)),
    position=zeros(1, 1, 3),
    index=None,
    segment=zeros(1, 1),
    group=None,
    group_clip=None,
    group_index=None,
    group_clean=None,
    text_of=None,
    text_segment=zeros(1, 1),
    draw=zeros(1, 1),
    tokens_in_clip=None,
  )
  text = jnp.zeros((1, 1, features))
  return Towers().init(key, pack, text)['params']


def scores(
  params: Params, pack: batch.Pack, text: Float[Array, 'B L E']
) -> Float[Array, 'X X']:
  """Scores of every caption against every clip of a pack."""
  return Towers().apply({'params': params}, pack, text)
