"""How published models are sampled, to and from the words of diffusers."""

import dataclasses
from typing import Any

from etils import epath

from sora_jax import config as config_lib, flow
from sora_jax.models import autoencoder, dit, text
from sora_jax.weights import configs, directory

# Those of `dit.SIZES` that others trained.
SIZES = ('1.3b', '5b', '14b', 'a14b-t2v', 'a14b-i2v')
# Of two experts, the level from which down the second one predicts.
BOUNDARIES = {'a14b-t2v': 0.875, 'a14b-i2v': 0.9}
CLASS = 'UniPCMultistepScheduler'
# What its networks predict.
PREDICTIONS = {
  'flow_prediction': flow.Prediction.VELOCITY,
  'sample': flow.Prediction.X0,
  'epsilon': flow.Prediction.NOISE,
}


def scheduler(config: config_lib.Config) -> dict[str, Any]:
  """What diffusers is told of how to sample one of our models."""
  words = {prediction: word for word, prediction in PREDICTIONS.items()}
  return {
    '_class_name': CLASS,
    '_diffusers_version': configs.VERSION,
    'flow_shift': config.sample.shift or 1.0,
    'num_train_timesteps': int(dit.LEVEL_SCALE),
    'prediction_type': words[config.denoising.prediction],
    'solver_order': 2,
    'solver_type': 'bh2',
    'use_flow_sigmas': True,
  }


def index(config: config_lib.Config) -> dict[str, Any]:
  """What the index of one of our models tells diffusers, but for its parts."""
  image = config.model.condition_channels
  return {
    '_class_name': 'WanImageToVideoPipeline' if image else 'WanPipeline',
    'boundary_ratio': config.sample.boundary or None,
    'expand_timesteps': not config.sample.one_level,
  }


def sampling(
  config: config_lib.Config, model: directory.Model, path: epath.Path
) -> None:
  """Sets how a published model is sampled, by its files, in a config.

  Files say of the solver, its shift and the prediction. Sizes, frame rates and
  scales are in none: they are those of the code that Wan was published with.

  Raises:
    ValueError: the model is sampled in a way that is not ours.
  """
  where, said = path / directory.SCHEDULER, model.scheduler
  accepted = {
    '_class_name': (CLASS,),
    'prediction_type': tuple(PREDICTIONS),
    'use_flow_sigmas': (True,),
    'solver_order': (2,),
    'num_train_timesteps': (int(dit.LEVEL_SCALE),),
  }
  defaults = {'solver_order': 2, 'num_train_timesteps': 1000}
  for key, values in accepted.items():
    if said.get(key, defaults.get(key)) not in values:
      words = ' or '.join(repr(value) for value in values)
      raise ValueError(f'{where}: {key}={said.get(key)!r} must be {words}')
  shift = said.get('flow_shift', 1.0)
  if type(shift) not in (int, float) or not 0 < shift < 1000:
    raise ValueError(f'{where}: flow_shift={shift!r} must be above 0')
  boundary = model.index.get('boundary_ratio')
  experts = 'a second' if 'dit_low' in model.configs else 'one'
  if (boundary is None) != (experts == 'one'):
    raise ValueError(
      f'{path / directory.INDEX}: boundary_ratio={boundary!r}, and there is '
      f'{experts} transformer; the two come together'
    )
  if boundary is not None and not (
    type(boundary) is float and 0 < boundary < 1
  ):
    raise ValueError(
      f'{path / directory.INDEX}: boundary_ratio={boundary!r} must be a number '
      'between 0 and 1'
    )
  config.denoising.prediction = PREDICTIONS[said['prediction_type']]
  sample = config.sample
  sample.sampler, sample.schedule, sample.shift = 'unipc', 'wan', float(shift)
  sample.steps, sample.guidance = 50, 5.0
  if boundary:  # as in A14B
    sample.boundary, sample.steps = boundary, 40
    image = model.configs['dit'].condition_channels
    sample.guidance = 3.5 if image else 4.0
    sample.guidance_below = 3.5 if image else 3.0
  sample.one_level = not model.index.get('expand_timesteps', False)
  _set_size(config)


def of_size(name: str) -> config_lib.Config:
  """A config with the networks of a published model, one of `SIZES`.

  Of two experts a plan is of either one. They would be read from a model of
  that name.
  """
  config = config_lib.Config()
  config.model = dit.DiTConfig(**dit.SIZES[name])
  newer = config.model.channels == autoencoder.WAN_2_2.channels
  release = autoencoder.WAN_2_2 if newer else autoencoder.WAN_2_1
  config.autoencoder = dataclasses.replace(release)  # flags set its fields
  config.text = text.TextConfig(**text.SIZES['umt5-xxl'])
  config.denoising.prediction = flow.Prediction.VELOCITY
  config.autoencoder_from = config.text_from = name
  config.sample.boundary = BOUNDARIES.get(name, 0.0)
  _set_size(config)
  return config


def _set_size(config: config_lib.Config) -> None:
  sample = config.sample
  sample.size, sample.fps, sample.window = '832x480x81', 16.0, 81
  if config.autoencoder.space == 16:  # as in TI2V-5B
    sample.size, sample.fps, sample.window = '1280x704x121', 24.0, 121
  sample.micro_batch = 1
  sample.text_slots = configs.WAN_TEXT_LENGTH
