"""Published models have the tensors that our tables say, at full size."""

import math

import jax
import numpy as np
import pytest
from flax import linen as nn, traverse_util

from sora_jax.models import autoencoder, dit, text
from sora_jax.weights import directory, params as params_lib

WAN = {name: dit.DiTConfig(**dit.SIZES[name]) for name in dit.SIZES}
UMT5 = text.TextConfig(**text.SIZES['umt5-xxl'])
T5 = text.TextConfig(**text.SIZES['t5-v1.1-xxl'])
DISTANCES = 'layer.0.SelfAttention.relative_attention_bias.weight'


def tensors_of(name, config, original=False):
  """Names and shapes of all tensors of a network, none of which is made."""
  init = directory.KINDS[name].init
  tree = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
  flat = traverse_util.flatten_dict(nn.meta.unbox(tree), sep='.')
  places = directory.places(name, config, original)
  return {
    tensor: params_lib.stored_shape(place, flat[path].shape)
    for path, place in places.items()
    for tensor in place.names
  }


@pytest.mark.parametrize(
  ('name', 'config', 'tensors', 'numbers'),
  [
    ('dit', WAN['1.3b'], 825, 1_418_996_800),
    ('dit', WAN['5b'], 825, 4_999_787_712),
    ('dit', WAN['14b'], 1095, 14_288_491_584),
    ('dit', WAN['a14b-t2v'], 1095, 14_288_491_584),
    ('dit', WAN['a14b-i2v'], 1095, 14_288_901_184),
    ('autoencoder', autoencoder.WAN_2_1, 194, 126_892_531),
    ('autoencoder', autoencoder.WAN_2_2, 196, 704_688_668),
    ('text', UMT5, 242, 5_680_910_336),
    # One distance table instead of 24, and 32128 words instead of 256384.
    ('text', T5, 242 - 23, 5_680_910_336 - 23 * 32 * 64 - 224_256 * 4096),
  ],
)
def test_tensors_and_numbers_are_as_many_as_published(
  name, config, tensors, numbers
):
  found = tensors_of(name, config)
  assert len(found) == tensors
  assert sum(map(math.prod, found.values())) == numbers


@pytest.mark.parametrize(
  ('name', 'config', 'known'),
  [
    (
      'dit',
      WAN['1.3b'],
      {
        'scale_shift_table': (1, 2, 1536),
        'patch_embedding.weight': (1536, 16, 1, 2, 2),
        'condition_embedder.time_embedder.linear_1.weight': (1536, 256),
        'condition_embedder.time_proj.bias': (9216,),
        'condition_embedder.text_embedder.linear_1.weight': (1536, 4096),
        'blocks.29.scale_shift_table': (1, 6, 1536),
        'blocks.0.attn2.to_out.0.weight': (1536, 1536),
        'blocks.0.attn1.norm_q.weight': (1536,),
        'blocks.0.norm2.bias': (1536,),
        'blocks.0.ffn.net.0.proj.weight': (8960, 1536),
        'blocks.0.ffn.net.2.weight': (1536, 8960),
        'proj_out.weight': (64, 1536),
      },
    ),
    ('dit', WAN['a14b-i2v'], {'patch_embedding.weight': (5120, 36, 1, 2, 2)}),
    (
      'autoencoder',
      autoencoder.WAN_2_1,
      {
        'encoder.down_blocks.2.resample.1.weight': (96, 96, 3, 3),
        'encoder.down_blocks.3.conv_shortcut.weight': (192, 96, 1, 1, 1),
        'encoder.down_blocks.8.time_conv.weight': (384, 384, 3, 1, 1),
        'encoder.down_blocks.10.norm2.gamma': (384, 1, 1, 1),
        'encoder.mid_block.attentions.0.norm.gamma': (384, 1, 1),
        'encoder.mid_block.attentions.0.to_qkv.weight': (1152, 384, 1, 1),
        'quant_conv.weight': (32, 32, 1, 1, 1),
        'decoder.up_blocks.1.resnets.0.conv_shortcut.bias': (384,),
        'decoder.up_blocks.0.upsamplers.0.resample.1.weight': (192, 384, 3, 3),
        'decoder.up_blocks.1.upsamplers.0.time_conv.bias': (768,),
        'decoder.conv_out.weight': (3, 96, 3, 3, 3),
      },
    ),
    (
      'autoencoder',
      autoencoder.WAN_2_2,
      {
        'encoder.conv_in.weight': (160, 12, 3, 3, 3),
        'encoder.down_blocks.2.resnets.0.conv_shortcut.weight': (
          640, 320, 1, 1, 1,
        ),
        'encoder.down_blocks.1.downsampler.time_conv.weight': (
          320, 320, 3, 1, 1,
        ),
        'decoder.up_blocks.2.upsampler.resample.1.weight': (512, 512, 3, 3),
        'decoder.up_blocks.3.resnets.2.norm1.gamma': (256, 1, 1, 1),
      },
    ),
    (
      'text',
      UMT5,
      {
        'shared.weight': (256384, 4096),
        f'encoder.block.23.{DISTANCES}': (32, 64),
        'encoder.block.0.layer.0.SelfAttention.q.weight': (4096, 4096),
        'encoder.block.0.layer.1.DenseReluDense.wi_0.weight': (10240, 4096),
        'encoder.block.0.layer.1.DenseReluDense.wo.weight': (4096, 10240),
        'encoder.block.0.layer.1.layer_norm.weight': (4096,),
        'encoder.final_layer_norm.weight': (4096,),
      },
    ),
  ],
)  # fmt: skip
def test_tensors_have_the_names_and_shapes_that_are_published(
  name, config, known
):
  found = tensors_of(name, config)
  assert {key: found.get(key) for key in known} == known


def test_of_t5_the_first_block_alone_has_distances():
  biases = [name for name in tensors_of('text', T5) if 'bias' in name]
  assert biases == [f'encoder.block.0.{DISTANCES}']


def test_original_names_are_as_many_and_of_the_same_shapes():
  one = tensors_of('dit', WAN['1.3b'])
  other = tensors_of('dit', WAN['1.3b'], original=True)
  assert sorted(one.values()) == sorted(other.values())
  assert len(other) == 825
  # The affine norm is the third there, and the second here.
  assert other['blocks.4.norm3.weight'] == (1536,)
  assert 'blocks.4.norm2.weight' not in other
  assert other['head.modulation'] == (1, 2, 1536)


def test_a_pattern_read_backwards_undoes_it():
  """With a number of its own in every place, nothing can be swapped."""
  config = dit.DiTConfig(
    width=12, depth=2, heads=2, mlp=7, patch=(2, 3, 1), channels=5,
    text_width=4, frequencies=6,
  )  # fmt: skip
  init = lambda key: nn.meta.unbox(dit.init(config, key))
  tree = jax.eval_shape(init, jax.random.key(0))
  params = jax.tree.map(
    lambda x: np.arange(x.size, dtype=np.float32).reshape(x.shape), tree
  )
  places = directory.places('dit', config)
  stored = dict(params_lib.unload(params, places, lambda path, x: x))
  kernel = stored['patch_embedding.weight']
  assert kernel.shape == (12, 5, 2, 3, 1)
  # Ours has columns (t h w C), C fastest: row 2 of the second frame, channel 4.
  row = ((1 * 3 + 2) * 1 + 0) * 5 + 4
  assert kernel[7, 4, 1, 2, 0] == params['patch_embedding']['kernel'][row, 7]
