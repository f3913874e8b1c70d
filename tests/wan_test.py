"""A published model is fine-tuned on a folder, and comes out as one."""

import jax
import numpy as np
import pytest
import tiny
from etils import epath

from experiments import wan
from sora_jax import flow, networks, sizing, train
from sora_jax.data import latents, tokenizer
from sora_jax.weights import directory


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Small networks, and nothing that says how to sample in our own words."""
  path = tmp_path_factory.mktemp('models') / 'wan'
  tiny.write_model(path)
  (path / directory.SAMPLING).unlink()
  words = path / directory.TOKENIZER / tokenizer.CONFIG
  words.write_text(words.read_text().replace('{', '{"of": "wan", ', 1))
  return path


def test_its_config_is_that_of_the_files(place):
  config = wan.get_config(str(place))
  assert config.model.width == tiny.config().model.width
  assert config.denoising.prediction is flow.Prediction.X0  # as files say
  assert config.data.sizes == ('832x480x81',)
  # 21 x 30 x 52, and a tenth; for up to 16 devices.
  sizing.fit_tokens(config)
  assert config.data.limits.tokens == 36048
  with pytest.raises(ValueError, match='name a model, as --config='):
    wan.get_config()


def test_a_name_stands_for_the_shapes_of_a_published_model():
  config = wan.get_config('14b')
  assert config.model.width == 5120 and config.text.width == 4096
  assert config.init_from == config.autoencoder_from == '14b'
  with pytest.raises(ValueError, match='L has no model_index.json'):
    wan.get_config('L')


def test_it_is_trained_on_a_folder_and_written_as_it_came(place, tmp_path):
  folder = tiny.write_videos(tmp_path / 'v', [(5, 32, 32)] * 8)
  config = wan.get_config(str(place))
  config.data.path, config.data.sizes = str(folder), ('32x32x5',)
  config.data.limits.tokens, config.data.limits.text = 40, 64
  config.run.steps, config.run.log_every = 2, 1
  config.optim.warmup_steps, config.optim.learning_rate = 0, 1e-3
  train.train(config, epath.Path(tmp_path / 'run'))

  prepared = latents.LatentSource(tmp_path / 'run' / 'latents')
  assert prepared.info['text_width'] == config.text.width
  before = networks.read(place)
  after = networks.read(tmp_path / 'run' / 'model')
  same = lambda name: jax.tree.map(
    lambda a, b: bool(np.allclose(a, b, rtol=2**-8)),
    before.params[name],
    after.params[name],
  )
  assert all(jax.tree.leaves(same('text')))
  assert all(jax.tree.leaves(same('autoencoder')))
  assert not any(jax.tree.leaves(same('dit')['blocks']['attn1']['to_q']))
  assert after.tokenizer.files == before.tokenizer.files
  assert after.tokenizer.files != tokenizer.BYTES.files
  assert after.config.sample.sampler == 'unipc'
