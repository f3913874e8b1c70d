"""What the parameters of our networks are called in published files.

A `Place` says of one parameter in which tensors it lies and how: an einops
pattern takes a tensor to ours, and read backwards ours to the tensor. The
parameters of a stack of blocks have a first axis more, and a tensor a block.

Tables name modules; the last part of a name follows from ours. The names are
those of diffusers (`WanTransformer3DModel`, `AutoencoderKLWan`) and of
transformers (`T5EncoderModel`, `UMT5EncoderModel`); beside those of the DiT are
the ones under which the Wan team published it.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from sora_jax.models import autoencoder, dit, text


class Place(NamedTuple):
  """Where a parameter of ours lies in files."""

  names: tuple[str, ...]  # of its tensor, or of those of the blocks in order
  pattern: str  # a tensor -> ours
  sizes: dict[str, int]  # of axes that the pattern splits on the way back
  stacked: bool = False


# Ours -> diffusers, and the original; `*` is the number of a block.
DIT = {
  'patch_embedding': ('patch_embedding', 'patch_embedding'),
  'time.embedder.linear_1': (
    'condition_embedder.time_embedder.linear_1',
    'time_embedding.0',
  ),
  'time.embedder.linear_2': (
    'condition_embedder.time_embedder.linear_2',
    'time_embedding.2',
  ),
  'time.proj': ('condition_embedder.time_proj', 'time_projection.1'),
  'text_embedder.linear_1': (
    'condition_embedder.text_embedder.linear_1',
    'text_embedding.0',
  ),
  'text_embedder.linear_2': (
    'condition_embedder.text_embedder.linear_2',
    'text_embedding.2',
  ),
  'blocks.scale_shift_table': (
    'blocks.*.scale_shift_table',
    'blocks.*.modulation',
  ),
  'blocks.attn1.to_q': ('blocks.*.attn1.to_q', 'blocks.*.self_attn.q'),
  'blocks.attn1.to_k': ('blocks.*.attn1.to_k', 'blocks.*.self_attn.k'),
  'blocks.attn1.to_v': ('blocks.*.attn1.to_v', 'blocks.*.self_attn.v'),
  'blocks.attn1.to_out': ('blocks.*.attn1.to_out.0', 'blocks.*.self_attn.o'),
  'blocks.attn1.norm_q': (
    'blocks.*.attn1.norm_q',
    'blocks.*.self_attn.norm_q',
  ),
  'blocks.attn1.norm_k': (
    'blocks.*.attn1.norm_k',
    'blocks.*.self_attn.norm_k',
  ),
  'blocks.norm2': ('blocks.*.norm2', 'blocks.*.norm3'),
  'blocks.attn2.to_q': ('blocks.*.attn2.to_q', 'blocks.*.cross_attn.q'),
  'blocks.attn2.to_k': ('blocks.*.attn2.to_k', 'blocks.*.cross_attn.k'),
  'blocks.attn2.to_v': ('blocks.*.attn2.to_v', 'blocks.*.cross_attn.v'),
  'blocks.attn2.to_out': ('blocks.*.attn2.to_out.0', 'blocks.*.cross_attn.o'),
  'blocks.attn2.norm_q': (
    'blocks.*.attn2.norm_q',
    'blocks.*.cross_attn.norm_q',
  ),
  'blocks.attn2.norm_k': (
    'blocks.*.attn2.norm_k',
    'blocks.*.cross_attn.norm_k',
  ),
  'blocks.ffn.linear_1': ('blocks.*.ffn.net.0.proj', 'blocks.*.ffn.0'),
  'blocks.ffn.linear_2': ('blocks.*.ffn.net.2', 'blocks.*.ffn.2'),
  'head.scale_shift_table': ('scale_shift_table', 'head.modulation'),
  'head.proj_out': ('proj_out', 'head.head'),
}
# A tensor that only files with the original names have.
ORIGINAL_SIGN = 'head.modulation'

_SELF, _MLP = 'encoder.block.*.layer.0', 'encoder.block.*.layer.1'
TEXT = {
  'embedding': 'shared',
  'relative_attention_bias.embedding': (
    'encoder.block.0.layer.0.SelfAttention.relative_attention_bias'
  ),
  'blocks.relative_attention_bias.embedding': (
    f'{_SELF}.SelfAttention.relative_attention_bias'
  ),
  'blocks.attention_norm': f'{_SELF}.layer_norm',
  'blocks.attention.q': f'{_SELF}.SelfAttention.q',
  'blocks.attention.k': f'{_SELF}.SelfAttention.k',
  'blocks.attention.v': f'{_SELF}.SelfAttention.v',
  'blocks.attention.o': f'{_SELF}.SelfAttention.o',
  'blocks.mlp_norm': f'{_MLP}.layer_norm',
  'blocks.mlp.wi_0': f'{_MLP}.DenseReluDense.wi_0',
  'blocks.mlp.wi_1': f'{_MLP}.DenseReluDense.wi_1',
  'blocks.mlp.wo': f'{_MLP}.DenseReluDense.wo',
  'final_layer_norm': 'encoder.final_layer_norm',
}
# Another name of `shared.weight`, which some files hold as well.
TIED = 'encoder.embed_tokens.weight'

# How a tensor lies, by the last part of our name.
PATTERNS = {
  'kernel': ('.weight', 'O I -> I O'),
  'bias': ('.bias', 'O -> O'),
  'scale': ('.weight', 'D -> D'),
  'embedding': ('.weight', 'V D -> V D'),
  'scale_shift_table': ('', '1 J D -> J D'),
}


def dit_place(
  path: str, config: dit.DiTConfig, original: bool = False
) -> Place:
  """The place of a parameter of the DiT, whose parts `path` joins by dots."""
  module, _, leaf = path.rpartition('.')
  table = leaf == 'scale_shift_table'
  name = DIT[path if table else module][original]
  ending, pattern = PATTERNS[leaf]
  sizes: dict[str, int] = {}
  if path == 'patch_embedding.kernel':
    # Beside its bias, a convolution with the steps of its window.
    pattern = 'D C t h w -> (t h w C) D'
    t, h, w = config.patch
    sizes = {'t': t, 'h': h, 'w': w}
  return _place(name + ending, pattern, sizes, config.depth)


def text_place(path: str, config: text.TextConfig) -> Place:
  """The place of a parameter of the text encoder."""
  module, _, leaf = path.rpartition('.')
  name = TEXT[path if leaf == 'embedding' else module]
  ending, pattern = PATTERNS[leaf]
  return _place(name + ending, pattern, {}, config.depth)


def _place(name: str, pattern: str, sizes: dict[str, int], depth: int) -> Place:
  if '*' not in name:
    return Place((name,), pattern, sizes)
  names = tuple(name.replace('*', str(i)) for i in range(depth))
  return Place(names, pattern, sizes, stacked=True)


def autoencoder_place(
  path: str, config: autoencoder.AutoencoderConfig
) -> Place:
  """The place of a parameter of the autoencoder."""
  module, _, leaf = path.rpartition('.')
  module = module.removesuffix('.conv') if 'time_conv' in module else module
  module = re.sub(r'_blocks_(\d+)_', r'_blocks.\1.', module)
  module = re.sub(r'(resnets|attentions)_(\d+)', r'\1.\2', module)
  module = re.sub('resample$', 'resample.1', module)
  if not config.shortcuts:
    module = _release_2_1(module, config)
  flat = '.attentions.' in module or module.endswith('resample.1')
  if leaf == 'gamma':
    ending, pattern = '.gamma', 'C 1 1 -> C' if flat else 'C 1 1 1 -> C'
  elif leaf == 'bias':
    ending, pattern = PATTERNS['bias']
  else:
    ending = '.weight'
    pattern = 'O I h w -> 1 h w I O' if flat else 'O I t h w -> t h w I O'
  return Place((module + ending,), pattern, {})


def _release_2_1(module: str, config: autoencoder.AutoencoderConfig) -> str:
  """A module under its name in release 2.1, which numbers parts otherwise.

  Its encoder counts blocks and downsamplers of all levels in one row, and a
  level of its decoder has a list of one upsampler.
  """
  module = module.replace('.upsampler.', '.upsamplers.0.')
  part = re.fullmatch(
    r'encoder\.down_blocks\.(\d+)\.(?:resnets\.(\d+)|downsampler)\.(.*)', module
  )
  if part is None:
    return module
  level, block, rest = part.groups()
  before = int(level) * (config.blocks + 1)
  number = before + (config.blocks if block is None else int(block))
  return f'encoder.down_blocks.{number}.{rest}'


def probe_place(path: str, config: Any) -> Place:
  """The place of a parameter of the probe, under its own name."""
  del config
  module, _, leaf = path.rpartition('.')
  ending, pattern = PATTERNS[leaf]
  if path.endswith('space.kernel'):
    pattern = 'O I t h w -> t h w I O'
  return Place((module + ending,), pattern, {})


PLACE: dict[str, Callable[..., Any]] = {
  'dit': dit_place,
  'dit_low': dit_place,
  'text': text_place,
  'autoencoder': autoencoder_place,
  'probe': probe_place,
}
