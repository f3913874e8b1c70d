"""Configs of our networks to and from the `config.json` of published ones.

The keys are those of diffusers 0.42 and of transformers, and so are the values
of keys that a file leaves out. What our networks cannot be is refused.
"""

import dataclasses
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from sora_jax.models import autoencoder, dit, probe, text

Values = dict[str, Any]
VERSION = '0.42.0'  # of diffusers, whose keys these are

WAN_TEXT_LENGTH = 512  # rows that Wan's captions are padded to
_QK_NORM = 'rms_norm_across_heads'


class _Reader:
  """Takes values of their types from a file."""

  def __init__(self, values: Values, where: Any):
    self.values = values
    self.where = where

  def _take(self, key: str, default: Any, fits: Callable, what: str) -> Any:
    value = self.values.get(key, default)
    if value is None and default is not None:
      value = default
    if not fits(value):
      raise ValueError(f'{self.where}: {key}={value!r} must be {what}')
    return value

  def count(self, key: str, default: int | None = None, least: int = 1) -> int:
    fits = lambda x: type(x) is int and x >= least
    return self._take(key, default, fits, f'a whole number, {least} or more')

  def number(self, key: str, default: float | None = None) -> float:
    fits = lambda x: type(x) in (int, float) and 0 < x < 1
    return float(self._take(key, default, fits, 'a number between 0 and 1'))

  def switch(self, key: str, default: bool) -> bool:
    return self._take(key, default, lambda x: type(x) is bool, 'true or false')

  def row(self, key: str, default: list, kinds: tuple[type, ...]) -> tuple:
    """A list of values of some types."""
    fits = lambda x: (
      isinstance(x, list | tuple) and all(type(item) in kinds for item in x)
    )
    words = ' or '.join(kind.__name__ for kind in kinds)
    return tuple(self._take(key, default, fits, f'a list of {words}'))

  def three(self, key: str, default: list[int]) -> tuple[int, int, int]:
    values = self.row(key, default, (int,))
    if len(values) != 3:
      raise ValueError(f'{self.where}: {key}={values} must be three numbers')
    return values

  def must(self, key: str, accepted: tuple, default: Any, why: str) -> Any:
    """Refuses a value of what ours cannot do."""
    value = self.values.get(key, default)
    if value not in accepted:
      words = ' or '.join(repr(x) for x in accepted)
      raise ValueError(f'{self.where}: {key}={value!r}; {why} ({words})')
    return value


def read_dit(values: Values, where: Any) -> dit.DiTConfig:
  """The DiT of a `WanTransformer3DModel`."""
  take = _Reader(values, where)
  take.must('_class_name', ('WanTransformer3DModel',), None, 'another network')
  for key in ('image_dim', 'added_kv_proj_dim', 'pos_embed_seq_len'):
    take.must(
      key, (None,), None, 'networks that see CLIP features are not ours'
    )
  qk_norm = take.must('qk_norm', (_QK_NORM, None), _QK_NORM, 'another norm')
  heads = take.count('num_attention_heads', 40)
  inputs = take.count('in_channels', 16)
  channels = take.count('out_channels', inputs)
  config = dit.DiTConfig(
    width=heads * take.count('attention_head_dim', 128),
    depth=take.count('num_layers', 40),
    heads=heads,
    mlp=take.count('ffn_dim', 13824),
    patch=take.three('patch_size', [1, 2, 2]),
    channels=channels,
    condition_channels=inputs - channels,
    text_width=take.count('text_dim', 4096),
    text_length=take.count('_text_length', WAN_TEXT_LENGTH, 0),
    frequencies=take.count('freq_dim', 256),
    qk_norm=qk_norm is not None,
    cross_norm=take.switch('cross_attn_norm', True),
    eps=take.number('eps', 1e-6),
  )
  return _checked(dit, config, where)


def write_dit(config: dit.DiTConfig) -> Values:
  """Undoes `read_dit`, but for how it is computed."""
  return {
    '_class_name': 'WanTransformer3DModel',
    '_diffusers_version': VERSION,
    '_text_length': config.text_length,  # diffusers passes over this one
    'added_kv_proj_dim': None,
    'attention_head_dim': config.width // config.heads,
    'cross_attn_norm': config.cross_norm,
    'eps': config.eps,
    'ffn_dim': config.mlp,
    'freq_dim': config.frequencies,
    'image_dim': None,
    'in_channels': config.channels + config.condition_channels,
    'num_attention_heads': config.heads,
    'num_layers': config.depth,
    'out_channels': config.channels,
    'patch_size': list(config.patch),
    'pos_embed_seq_len': None,
    'qk_norm': _QK_NORM if config.qk_norm else None,
    'rope_max_seq_len': 1024,
    'text_dim': config.text_width,
  }


def read_autoencoder(
  values: Values, where: Any
) -> autoencoder.AutoencoderConfig:
  """The autoencoder of an `AutoencoderKLWan`."""
  take = _Reader(values, where)
  take.must('_class_name', ('AutoencoderKLWan',), None, 'another network')
  take.must('attn_scales', ([], None), [], 'no attention but in the middle')
  width = take.count('base_dim', 96)
  patch = take.count('patch_size', 1)
  for key in ('in_channels', 'out_channels'):
    take.must(key, (3 * patch**2,), 3, 'colours times the pixels of a patch')
  numbers = (int, float)
  config = autoencoder.AutoencoderConfig(
    channels=take.count('z_dim', 16),
    encoder_width=width,
    decoder_width=take.count('decoder_base_dim', width),
    multiples=take.row('dim_mult', [1, 2, 4, 4], (int,)),
    halve_time=take.row('temperal_downsample', [False, True, True], (bool,)),
    blocks=take.count('num_res_blocks', 2),
    patch=patch,
    shortcuts=take.switch('is_residual', False),
    latent_mean=take.row('latents_mean', [], numbers),
    latent_std=take.row('latents_std', [], numbers),
  )
  if not all(std > 0 for std in config.latent_std):
    raise ValueError(f'{where}: latents_std must be numbers above 0')
  return _checked(autoencoder, config, where)


def write_autoencoder(config: autoencoder.AutoencoderConfig) -> Values:
  """Undoes `read_autoencoder`, but for how it is computed."""
  values = 3 * config.patch**2
  return {
    '_class_name': 'AutoencoderKLWan',
    '_diffusers_version': VERSION,
    'attn_scales': [],
    'base_dim': config.encoder_width,
    'decoder_base_dim': config.decoder_width,
    'dim_mult': list(config.multiples),
    'dropout': 0.0,
    'in_channels': values,
    'is_residual': config.shortcuts,
    'latents_mean': list(config.latent_mean),
    'latents_std': list(config.latent_std),
    'num_res_blocks': config.blocks,
    'out_channels': values,
    'patch_size': None if config.patch == 1 else config.patch,
    'scale_factor_spatial': config.space,
    'scale_factor_temporal': config.time,
    'temperal_downsample': list(config.halve_time),
    'z_dim': config.channels,
  }


def read_text(values: Values, where: Any) -> text.TextConfig:
  """The encoder of a T5 (version 1.1) or umT5."""
  take = _Reader(values, where)
  kind = take.must('model_type', ('umt5', 't5'), None, 'another network')
  gated = ('gated-gelu',)
  take.must(
    'feed_forward_proj', gated, None, 'T5 as first published is not ours'
  )
  config = text.TextConfig(
    vocab=take.count('vocab_size'),
    width=take.count('d_model'),
    depth=take.count('num_layers'),
    heads=take.count('num_heads'),
    head_dim=take.count('d_kv'),
    mlp=take.count('d_ff'),
    buckets=take.count('relative_attention_num_buckets', 32),
    max_distance=take.count('relative_attention_max_distance', 128),
    shared_bias=kind == 't5',
    eps=take.number('layer_norm_epsilon', 1e-6),
  )
  return _checked(text, config, where)


def write_text(config: text.TextConfig) -> Values:
  """Undoes `read_text`, but for how it is computed."""
  return {
    'architectures': [text_class(config)],
    'd_ff': config.mlp,
    'd_kv': config.head_dim,
    'd_model': config.width,
    'dropout_rate': 0.0,
    'eos_token_id': 1,
    'feed_forward_proj': 'gated-gelu',
    'layer_norm_epsilon': config.eps,
    'model_type': 't5' if config.shared_bias else 'umt5',
    'num_heads': config.heads,
    'num_layers': config.depth,
    'pad_token_id': 0,
    'relative_attention_max_distance': config.max_distance,
    'relative_attention_num_buckets': config.buckets,
    'tie_word_embeddings': True,
    'vocab_size': config.vocab,
  }


def text_class(config: text.TextConfig) -> str:
  """What transformers calls an encoder of this kind."""
  return 'T5EncoderModel' if config.shared_bias else 'UMT5EncoderModel'


def _checked(module: types.ModuleType, config: Any, where: Any) -> Any:
  """A config that its network accepts."""
  try:
    module.check(config)
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from error
  return config


class Form(NamedTuple):
  """How the config of a network is read and written."""

  read: Callable[[Values, Any], Any]
  write: Callable[[Any], Values]


def read_probe(values: Values, where: Any) -> probe.ProbeConfig:
  """The probe, in words of our own."""
  take = _Reader(values, where)
  take.must('_class_name', ('SceneProbe',), None, 'another network')
  config = probe.ProbeConfig(
    widths=take.row('widths', [], (int,)),
    blocks=take.row('blocks', [], (int,)),
    features=take.count('features'),
    classes=take.count('classes'),
    motions=take.count('motions'),
  )
  return _checked(probe, config, where)


def write_probe(config: probe.ProbeConfig) -> Values:
  """Undoes `read_probe`."""
  values = dataclasses.asdict(config)
  return {'_class_name': 'SceneProbe'} | {
    k: list(v) if isinstance(v, tuple) else v for k, v in values.items()
  }


FORMS = {
  'dit': Form(read_dit, write_dit),
  'dit_low': Form(read_dit, write_dit),
  'text': Form(read_text, write_text),
  'autoencoder': Form(read_autoencoder, write_autoencoder),
  'probe': Form(read_probe, write_probe),
}
