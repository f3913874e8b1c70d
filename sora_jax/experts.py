"""Training one of two experts, of which models like Wan's A14B are made.

Such a model has two transformers of one config, for the levels from
`sample.boundary` up and for those below. A run trains one of them, at the
levels that it is asked at in sampling, and leaves a model of both, into which
the files of the other one are copied as they are.
"""

import dataclasses
import json
from typing import Any

from etils import epath

from sora_jax import config as config_lib, flow, objectives, published
from sora_jax.weights import directory

Params = Any
WHOLE = config_lib.Expert.WHOLE


def check(config: config_lib.Config) -> None:
  """Raises ValueError unless a run trains a transformer that there is."""
  expert, place, boundary = (
    config.expert,
    config.init_from,
    config.sample.boundary,
  )
  if place in published.SIZES:
    return  # a plan, which reads nothing
  said = f'expert={expert.value}'
  found = {}
  if place and directory.is_model(place):
    found = directory.describe(place).configs
  if expert is WHOLE:
    if boundary or 'dit_low' in found:
      raise ValueError(
        f'{said}: the model has two transformers, of which a run trains one; '
        'give --config.expert=high, or low'
      )
    return
  if not boundary or not {'dit', 'dit_low'} <= found.keys():
    raise ValueError(
      f'{said}: init_from={place} must be the directory of a model of two '
      'transformers; leave expert out for one'
    )
  if config.run.sample_every:
    raise ValueError(
      f'{said}: run.sample_every={config.run.sample_every} must be 0, as a run '
      'has only one of the two that a clip takes'
    )
  objective(config)
  for name in copied(config):  # a file that is damaged is noticed now
    directory.find_params(place, name, found[name])


def check_resumed(config: config_lib.Config, workdir: epath.Path) -> None:
  """Raises ValueError where a run of another expert lies in a directory.

  It has weights of the same shapes, and would be gone on with.
  """
  path = workdir / 'config.json'
  if not path.exists():
    return
  saved = json.loads(path.read_text()).get('config', {})
  theirs = saved.get('expert', WHOLE.value)
  if theirs != config.expert.value:
    raise ValueError(
      f'{workdir} has a run of expert={theirs}, not {config.expert.value}; '
      'take another --workdir'
    )


def objective(config: config_lib.Config) -> objectives.DenoisingConfig:
  """What is trained, at the levels that its expert is asked at in sampling.

  Raises:
    ValueError: the law of the levels has none there.
  """
  law, boundary = config.denoising.level, config.sample.boundary
  if config.expert is config_lib.Expert.HIGH:
    law = dataclasses.replace(law, low=max(law.low, boundary))
  if config.expert is config_lib.Expert.LOW:
    law = dataclasses.replace(law, high=min(law.high, boundary))
  try:
    flow.check(law)
  except ValueError as error:
    raise ValueError(
      f'expert={config.expert.value} and sample.boundary={boundary:g} leave no '
      f'levels of denoising.level: {error}'
    ) from error
  return dataclasses.replace(config.denoising, level=law)


def named(config: config_lib.Config, params: Params) -> Params:
  """Networks of a run, where the trained one has its name in the model."""
  return {
    config.expert.network if name == 'dit' else name: part
    for name, part in params.items()
  }


def copied(config: config_lib.Config) -> dict[str, epath.Path]:
  """The transformer that a run does not train, and the model that has it."""
  if config.expert is WHOLE:
    return {}
  low = config.expert is config_lib.Expert.LOW
  return {'dit' if low else 'dit_low': epath.Path(config.init_from)}
