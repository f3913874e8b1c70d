"""A config is plain values and back; what it does not know is refused."""

import dataclasses
import json

import pytest

from sora_jax import config, flow
from sora_jax.data import pipeline
from sora_jax.models import autoencoder


def through_json(value):
  plain = json.loads(json.dumps(config.to_dict(value)))
  return config.from_dict(type(value), plain)


def test_a_changed_config_survives_json():
  changed = config.Config(seed=7, stage=config.Stage.AUTOENCODER)
  changed.model.patch = (2, 4, 4)
  changed.denoising.prediction = flow.Prediction.NOISE
  changed.denoising.level.shift_base = 0
  changed.data.corpus = pipeline.Corpus.TFDS
  changed.data.shares.frames = 0.25
  changed.data.sizes = ('64x64x33', '32x96x1')
  changed.data.limits.tokens = 999
  changed.autoencoder.latent_mean = (0.1, 1 / 3)
  changed.sample.prompts = ('a ball', 'nö')
  copy = through_json(changed)
  assert copy == changed != config.Config()
  assert copy.data.limits is not changed.data.limits


def test_the_default_survives_json():
  assert through_json(config.Config()) == config.Config()


def test_every_field_lies_under_its_path():
  plain = config.to_dict(config.Config())
  assert set(plain) == {f.name for f in dataclasses.fields(config.Config)}
  assert plain['stage'] == 'diffusion'
  assert plain['denoising']['level']['std'] == flow.LevelLaw().std
  assert plain['model']['patch'] == [1, 2, 2]


def test_what_is_not_said_keeps_its_default():
  read = config.from_dict(config.Config, {'data': {'limits': {'rows': 3}}})
  expected = config.Config()
  expected.data.limits.rows = 3
  assert read == expected


def test_what_is_read_does_not_reach_other_configs():
  config.from_dict(config.Config, {'model': {'width': 1}})
  assert config.Config().model.width != 1


@pytest.mark.parametrize(
  'values, words',
  [
    ({'sead': 1}, "Config has no field 'sead'"),
    ({'model': {'widht': 1}}, "DiTConfig has no field 'widht'"),
    # A property and a method are not fields either.
    ({'autoencoder': {'space': 8}}, "AutoencoderConfig has no field 'space'"),
    ({'seed': 0, '__eq__': 1}, "Config has no field '__eq__'"),
    ({'stage': 'upscaler'}, 'upscaler'),
  ],
)
def test_what_a_config_does_not_have_is_named(values, words):
  with pytest.raises(ValueError, match=words):
    config.from_dict(config.Config, values)


def test_a_part_survives_alone():
  part = autoencoder.AutoencoderConfig(multiples=(1, 2), halve_time=(True,))
  assert through_json(part) == part
