"""Published models are sampled as their own files say."""

import json

import numpy as np
import pytest
import tiny
from etils import epath

from sora_jax import (
  config as config_lib,
  flow,
  generate,
  networks,
  published,
  sample,
  samplers,
)
from sora_jax.data import tokenizer
from sora_jax.weights import directory

SCHEDULER = {
  '_class_name': 'UniPCMultistepScheduler',
  'flow_shift': 5.0,
  'num_train_timesteps': 1000,
  'prediction_type': 'flow_prediction',
  'solver_order': 2,
  'use_flow_sigmas': True,
}


@pytest.fixture
def place(tmp_path):
  """A model without a word of ours, as others would write it."""
  config = tiny.config()
  names = ('dit', 'text', 'autoencoder')
  parts = {n: getattr(config, networks.KINDS[n][0]) for n in names}
  model = directory.Model(
    parts,
    tiny.params(config),
    {},
    SCHEDULER,
    tokenizer.BYTES.files,
  )
  directory.write(tmp_path / 'm', model)
  path = tmp_path / 'm' / 'transformer' / 'config.json'
  values = json.loads(path.read_text())
  del values['_text_length']
  path.write_text(json.dumps(values))
  return tmp_path / 'm'


def change(place, file, **values):
  path = place / file
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_files_say_of_the_solver_and_wan_of_the_rest(place):
  found = networks.read(place).config
  assert found.denoising.prediction is flow.Prediction.VELOCITY
  assert found.model.text_length == found.sample.text_slots == 512
  settings = generate.settings_of(found.sample)
  assert (settings.sampler, settings.schedule) == ('unipc', 'wan')
  assert (settings.shift, settings.steps, settings.guidance) == (5.0, 50, 5.0)
  assert str(settings.size) == '832x480x81' and found.sample.fps == 16


@pytest.mark.parametrize(
  ('file', 'values', 'words'),
  [
    (
      directory.SCHEDULER,
      {'_class_name': 'DDIM'},
      "_class_name='DDIM' must be",
    ),
    (directory.SCHEDULER, {'use_flow_sigmas': False}, 'use_flow_sigmas=False'),
    (directory.SCHEDULER, {'prediction_type': 'v'}, "prediction_type='v' must"),
    (directory.SCHEDULER, {'flow_shift': 0}, 'flow_shift=0 must be above 0'),
    (directory.SCHEDULER, {'flow_shift': 'a'}, "flow_shift='a' must be above"),
  ],
)
def test_ways_of_sampling_that_are_not_ours_are_refused(
  place, file, values, words
):
  change(place, file, **values)
  with pytest.raises(ValueError, match=words):
    networks.read(place)


@pytest.mark.parametrize('prediction', flow.Prediction)
def test_what_we_tell_others_is_what_we_read(prediction):
  config = tiny.config()
  config.denoising.prediction, config.sample.shift = prediction, 4.0
  said = published.scheduler(config)
  read = config_lib.Config()
  parts = {'dit': config.model}
  model = directory.Model(parts, {}, {}, scheduler=said)
  published.sampling(read, model, epath.Path('here'))
  assert read.denoising.prediction is prediction
  assert read.sample.shift == 4.0


def test_levels_of_wan_are_shifted_thousandths():
  """Four steps of shift 3, by hand: s = 1, .75025, .5005, .25075 before it.

  The last but one is 0.500999, of which the network is told 0.5.
  """
  levels, times = samplers.wan(4, 3.0)
  s = np.array([0.75025, 0.5005, 0.25075])
  np.testing.assert_allclose(levels[0], 1 - 1e-6, rtol=0, atol=1e-7)
  np.testing.assert_allclose(levels[1:4], 3 * s / (1 + 2 * s), rtol=1e-6)
  assert levels[4] == 0
  np.testing.assert_allclose(times, [0.999, 0.9, 0.75, 0.5, 0], rtol=1e-6)


def test_an_edit_starts_at_its_strength():
  levels, _ = samplers.wan(3, 5.0, start=0.6)
  np.testing.assert_allclose(levels[0], 0.6, rtol=1e-6)
  assert (np.diff(levels) < 0).all() and levels[-1] == 0


def test_a_shift_is_asked_for_or_comes_of_the_tokens():
  config = tiny.config()
  config.denoising.level.shift_base = 1
  layout = generate.blank(config, generate.settings_of(config.sample).size)
  tokens = layout.start.size // 4
  settings = generate.settings_of(config.sample)._replace(steps=2)
  for shift, alpha in ((0.0, tokens**0.5), (3.0, 3.0)):
    shared = generate.schedule(config, settings._replace(shift=shift), layout)
    np.testing.assert_allclose(shared.levels[1], alpha / (1 + alpha), rtol=1e-6)
    assert shared.times is None


def test_a_negative_prompt_changes_what_is_made(place):
  found = networks.read(place)
  settings = generate.settings_of(found.config.sample)._replace(
    size=sample.batch.Size(32, 32, 5), steps=2
  )
  request = [generate.Request('a red ball', 3)]
  made = {
    words: next(
      generate.sample(found, request, settings._replace(negative=words))
    ).digest
    for words in ('', 'grey', 'blue')
  }
  assert len(set(made.values())) == 3


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    (dict(schedule='odd'), "schedule 'odd' is unknown; choose from even, wan"),
    (dict(shift=-1.0), 'shift=-1.0 must be above 0, where 1 is none, or 0'),
  ],
)
def test_settings_that_cannot_be_are_refused(place, changes, words):
  found = networks.read(place).config
  settings = generate.settings_of(found.sample)._replace(**changes)
  with pytest.raises(ValueError, match=words):
    generate.check(found, settings)
