"""Published configs become ours, and what ours cannot be is refused."""

import pytest

from sora_jax.models import autoencoder, dit, text
from sora_jax.weights import configs

PUBLISHED_1_3B = {
  '_class_name': 'WanTransformer3DModel',
  '_diffusers_version': '0.33.0.dev0',
  'added_kv_proj_dim': None,
  'attention_head_dim': 128,
  'cross_attn_norm': True,
  'eps': 1e-06,
  'ffn_dim': 8960,
  'freq_dim': 256,
  'image_dim': None,
  'in_channels': 16,
  'num_attention_heads': 12,
  'num_layers': 30,
  'out_channels': 16,
  'patch_size': [1, 2, 2],
  'qk_norm': 'rms_norm_across_heads',
  'rope_max_seq_len': 1024,
  'text_dim': 4096,
}
RELEASE_2_1 = {
  '_class_name': 'AutoencoderKLWan',
  'attn_scales': [],
  'base_dim': 96,
  'dim_mult': [1, 2, 4, 4],
  'dropout': 0.0,
  'latents_mean': [0.5] * 16,
  'latents_std': [2.0] * 16,
  'num_res_blocks': 2,
  'temperal_downsample': [False, True, True],
  'z_dim': 16,
}
RELEASE_2_2 = RELEASE_2_1 | {
  'base_dim': 160,
  'decoder_base_dim': 256,
  'in_channels': 12,
  'is_residual': True,
  'latents_mean': [0.5] * 48,
  'latents_std': [2.0] * 48,
  'out_channels': 12,
  'patch_size': 2,
  'scale_factor_spatial': 16,
  'z_dim': 48,
}
UMT5 = {
  'architectures': ['UMT5EncoderModel'],
  'd_ff': 10240,
  'd_kv': 64,
  'd_model': 4096,
  'feed_forward_proj': 'gated-gelu',
  'layer_norm_epsilon': 1e-06,
  'model_type': 'umt5',
  'num_heads': 64,
  'num_layers': 24,
  'relative_attention_max_distance': 128,
  'relative_attention_num_buckets': 32,
  'vocab_size': 256384,
}


def statistics(config):
  config.latent_mean = (0.5,) * config.channels
  config.latent_std = (2.0,) * config.channels
  return config


@pytest.mark.parametrize(
  ('size', 'changes'),
  [
    ('1.3b', {}),
    (
      '5b',
      dict(
        num_attention_heads=24, ffn_dim=14336, in_channels=48, out_channels=48
      ),
    ),
    ('14b', dict(num_attention_heads=40, ffn_dim=13824, num_layers=40)),
    (
      'a14b-i2v',
      dict(
        num_attention_heads=40, ffn_dim=13824, num_layers=40, in_channels=36
      ),
    ),
  ],
)
def test_published_dits_are_our_presets(size, changes):
  found = configs.read_dit(PUBLISHED_1_3B | changes, 'here')
  assert found == dit.DiTConfig(**dit.SIZES[size])


def test_published_autoencoders_and_encoders_are_our_presets():
  sizes = (
    (RELEASE_2_1, {}),
    (
      RELEASE_2_2,
      dict(channels=48, encoder_width=160, decoder_width=256, patch=2,
           shortcuts=True),
    ),
  )  # fmt: skip
  for values, changes in sizes:
    wanted = statistics(autoencoder.AutoencoderConfig(**changes))
    assert configs.read_autoencoder(values, 'here') == wanted
  wanted = text.TextConfig(**text.SIZES['umt5-xxl'])
  assert configs.read_text(UMT5, 'here') == wanted
  t5 = UMT5 | {'model_type': 't5', 'vocab_size': 32128}
  wanted = text.TextConfig(**text.SIZES['t5-v1.1-xxl'])
  assert configs.read_text(t5, 'here') == wanted


@pytest.mark.parametrize(
  ('name', 'config'),
  [
    ('dit', dit.DiTConfig(width=36, heads=3, text_length=7, eps=1e-5)),
    ('dit', dit.DiTConfig(cross_norm=False, qk_norm=False, patch=(2, 1, 3))),
    ('dit', dit.DiTConfig(condition_channels=20, frequencies=8, depth=3)),
    ('text', text.TextConfig(shared_bias=True, buckets=16, max_distance=64)),
    ('text', text.TextConfig(vocab=9, head_dim=3, heads=5, mlp=7, eps=1e-5)),
    (
      'autoencoder',
      autoencoder.AutoencoderConfig(
        multiples=(2, 2), halve_time=(True,), blocks=1, patch=4,
        decoder_width=8, shortcuts=True, channels=2,
        latent_mean=(0.1, 1 / 3), latent_std=(0.2, 2 / 3),
      ),
    ),
    ('autoencoder', autoencoder.AutoencoderConfig(latent_mean=())),
  ],
)  # fmt: skip
def test_every_config_comes_back(name, config):
  form = configs.FORMS[name]
  assert form.read(form.write(config), 'here') == config


@pytest.mark.parametrize(
  ('name', 'values', 'words'),
  [
    ('dit', {'_class_name': 'FluxTransformer'}, "_class_name='FluxTransf"),
    ('dit', {'image_dim': 1280}, 'image_dim=1280; networks that see CLIP'),
    ('dit', {'qk_norm': 'rms_norm'}, "qk_norm='rms_norm'"),
    ('dit', {'num_layers': '30'}, "num_layers='30' must be a whole number"),
    ('dit', {'num_layers': True}, 'num_layers=True must be a whole number'),
    ('dit', {'ffn_dim': 0}, 'ffn_dim=0 must be a whole number, 1 or more'),
    ('dit', {'eps': -1.0}, 'eps=-1.0 must be a number between 0 and 1'),
    ('dit', {'patch_size': 2}, 'patch_size=2 must be a list of int'),
    ('dit', {'patch_size': [2, 2]}, r'patch_size=\(2, 2\) must be three'),
    ('dit', {'in_channels': 8}, 'condition_channels=-8 must be 0 or more'),
    ('dit', {'cross_attn_norm': 1}, 'cross_attn_norm=1 must be true or false'),
    ('autoencoder', {'attn_scales': [1.0]}, r'attn_scales=\[1.0\]'),
    ('autoencoder', {'in_channels': 4}, 'in_channels=4'),
    ('autoencoder', {'z_dim': 8}, 'latent_mean has 16 values'),
    ('autoencoder', {'latents_std': [0.0] * 16}, 'must be numbers above 0'),
    ('autoencoder', {'dim_mult': [1, 2]}, 'config.halve_time'),
    ('text', {'model_type': 'bert'}, "model_type='bert'"),
    ('text', {'feed_forward_proj': 'relu'}, "feed_forward_proj='relu'"),
    ('text', {'d_model': None}, 'd_model=None must be a whole number'),
  ],
)
def test_what_our_networks_cannot_be_is_refused(name, values, words):
  good = {'dit': PUBLISHED_1_3B, 'autoencoder': RELEASE_2_1, 'text': UMT5}
  with pytest.raises(ValueError, match=f'^here: .*{words}'):
    configs.FORMS[name].read(good[name] | values, 'here')
