"""The denoising loss on clips that training never saw, level by level.

One number over all levels hides where a model is good: at high noise it is
about what a prompt means, at low noise about detail.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from sora_jax import (
  batch,
  config as config_lib,
  corpus,
  flow,
  networks as networks_lib,
  objectives,
  prepare,
  sizing,
)
from sora_jax.data import latents, pipeline, plan, transforms

SEED = 1234  # of prompts and clips that training never sees
LEVELS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
ROWS = 8  # of a batch


def loss_by_level(
  networks: networks_lib.Networks,
  data: pipeline.DataConfig,
  workdir: epath.PathLike,
  levels: Sequence[float] = LEVELS,
) -> dict[str, float]:
  """Mean squared error of the velocity at each noise level.

  A clip has the same noise at each level, and in each model.

  Args:
    networks: all three.
    data: of the clips; each is seen once, whole.
    workdir: where their latents are kept, until they are used.
    levels: between 0 and 1.

  Raises:
    ValueError: the model does not read bytes.
  """
  if not reads_bytes(networks):
    raise ValueError(
      'losses by level are of models that read bytes; this one has a tokenizer '
      'of its own'
    )
  config = networks.config
  place = epath.Path(workdir) / 'heldout'
  if place.exists():
    place.rmtree()
  packs, steps = _packs(networks, data, place)
  experts = networks_lib.painters(networks.params)
  text = networks.params['text']

  @jax.jit
  def sums(trainable, pack, logit):
    law = flow.LevelLaw(std=0.0, shift_base=0)
    law.mean = logit  # not known yet: one program serves all levels
    total, count, _ = objectives.denoising(
      trainable,
      pack,
      jax.random.key(0),
      model=config.model,
      encoder=config.text,
      config=objectives.DenoisingConfig(
        prediction=config.denoising.prediction, level=law
      ),
    )
    return total, count

  totals = np.zeros((len(levels), 2))
  for step in range(steps):
    pack = packs(step)
    for i, level in enumerate(levels):
      below = level < config.sample.boundary
      dit = experts['dit_low' if below else 'dit']
      trainable = {'dit': dit, 'text': text}
      logit = math.log(level / (1 - level))
      totals[i] += np.array(sums(trainable, pack, logit))
  place.rmtree()
  losses = totals[:, 0] / totals[:, 1]
  return {
    f'{level:g}': float(x) for level, x in zip(levels, losses, strict=True)
  }


def reads_bytes(networks: networks_lib.Networks) -> bool:
  """Whether captions are what the pipeline makes of them: their bytes."""
  return networks.tokenizer.encode is transforms.byte_ids


def of_world(
  config: config_lib.Config, cases: int, world: str
) -> pipeline.DataConfig:
  """Clips of a world whose combinations training never sees."""
  size = config.sample.size
  return pipeline.DataConfig(
    world=world, split='test', sizes=(size,), clips=cases
  )


def _packs(
  networks: networks_lib.Networks,
  data: pipeline.DataConfig,
  place: epath.Path,
) -> tuple[pipeline.PackBatches, int]:
  """Batches of one clip a row and no piece known, and how many there are."""
  config = networks.config
  size = batch.parse_size(data.sizes[0])
  limits = plan.Limits(
    rows=ROWS,
    tokens=math.prod(sizing.token_grid(size, config, None)),
    text=config.sample.text_slots,
  )
  data = dataclasses.replace(data, caption_dropout=0.0, limits=limits)
  config = dataclasses.replace(config, data=data)
  frozen = {'autoencoder': networks.params['autoencoder']}
  prepare.prepare(config, frozen, corpus.open_corpus(data, place.parent), place)
  source = latents.LatentSource(place)
  batches = pipeline.PackBatches(
    source,
    data,
    config.model.patch,
    0,
    np.arange(ROWS),
    config.model.condition_channels,
  )
  return batches, -(-len(source) // ROWS)
