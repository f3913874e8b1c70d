"""The whole configuration of a run: the parts' dataclasses, composed.

An experiment file returns one `Config`; flags override any field of it by its
path. Every part always exists, so that its fields can be set by flag.
"""

import dataclasses
import enum
from typing import Any

from sora_jax import objectives, optimizer, sharding
from sora_jax.data import pipeline
from sora_jax.models import (
  autoencoder as autoencoder_lib,
  dit,
  lora as lora_lib,
  probe as probe_lib,
  text as text_lib,
)


class Stage(enum.Enum):
  """What a run trains."""

  AUTOENCODER = 'autoencoder'
  TEXT = 'text'
  DIFFUSION = 'diffusion'
  PROBE = 'probe'  # no part of a system: it scores what one makes


class Expert(enum.Enum):
  """Which transformer of a model a run trains, and so at which levels."""

  WHOLE = 'whole'  # the only one
  HIGH = 'high'  # of two, the one above sample.boundary
  LOW = 'low'  # the one below

  @property
  def network(self) -> str:
    """Its name in a model."""
    return 'dit_low' if self is Expert.LOW else 'dit'


@dataclasses.dataclass(kw_only=True)
class RunConfig:
  """How long a run goes, and what it leaves behind."""

  steps: int = 10_000
  accumulate: int = 1  # micro-batches that a batch is cut into
  log_every: int = 50  # steps
  save_every: int = 500  # steps
  keep: int = 3  # checkpoints
  sample_every: int = 2_000  # steps; 0 is off
  # Steps between two that are taken twice, to notice a chip that computes
  # wrong; 0 is off. Reading clips and numbers goes on meanwhile, so that at 100
  # it costs 0.9 % of the time on two cores.
  replay_every: int = 0
  onednn: bool = False  # on a CPU, convolve by it in bfloat16; needs torch
  export_dtype: str = 'float32'  # of the weights in the exported model


@dataclasses.dataclass(kw_only=True)
class SampleConfig:
  """How a clip is made; the flags of `sample` come before these."""

  size: str = '64x64x33'
  fps: float = 10.0  # frames per second of a written video
  window: int = 33  # frames painted at once; a longer clip is made in windows
  overlap: int = 2  # latents that a window goes on from
  sampler: str = 'euler'
  steps: int = 32
  schedule: str = 'even'  # of samplers.SCHEDULES
  shift: float = 0.0  # of its levels toward noise; 0: denoising.level says
  guidance: float = 3.0  # scale; 1 is off
  guidance_rule: str = 'cfg'  # of guidance.RULES
  # Of a model of two experts: the level from which down the second one
  # predicts, with a scale of its own; 0: there is one.
  boundary: float = 0.0
  guidance_below: float = 3.0
  guidance_low: float = 0.0  # levels above this are guided
  guidance_high: float = 1.0  # up to this one
  # The network was taught one level a clip: what is known is noised along with
  # the rest, and put back at the end.
  one_level: bool = False
  # The network knows the image latent that opens a known piece further on, by
  # data.shares.opening.
  openings: bool = False
  # Of clips that it was trained on, which a run adds at its end; empty where
  # they are not known.
  sizes: tuple[str, ...] = ()
  text_on_host: bool = False  # the text encoder runs on the CPU
  tile: int = 0  # pixels a side that are encoded and decoded at once; 0: all
  micro_batch: int = 4  # clips that run together; bits depend on it
  # By how much a prediction may change, as a share of it, before the network
  # is called again; 0 calls it always. And by how much it does from step to
  # step, as `bench --what=cache` measures. See `stepcache`.
  cache: float = 0.0
  cache_curve: tuple[float, ...] = ()
  negative: str = ''  # prompt to move away from
  text_slots: int = 96  # token ids that a prompt is padded to
  prompts: tuple[str, ...] = ()  # sampled while training


@dataclasses.dataclass(kw_only=True)
class Config:
  """Everything that a run depends on, but for the corpus itself."""

  seed: int = 0
  stage: Stage = Stage.DIFFUSION
  expert: Expert = Expert.WHOLE
  # Where other weights come from, each a model directory or empty:
  autoencoder_from: str = ''  # the frozen autoencoder of the later stages
  text_from: str = ''  # a frozen text encoder; empty trains it with the DiT
  init_from: str = ''  # weights to start from
  model: dit.DiTConfig = dataclasses.field(default_factory=dit.DiTConfig)
  text: text_lib.TextConfig = dataclasses.field(
    default_factory=text_lib.TextConfig
  )
  autoencoder: autoencoder_lib.AutoencoderConfig = dataclasses.field(
    default_factory=autoencoder_lib.AutoencoderConfig
  )
  probe: probe_lib.ProbeConfig = dataclasses.field(
    default_factory=probe_lib.ProbeConfig
  )
  denoising: objectives.DenoisingConfig = dataclasses.field(
    default_factory=objectives.DenoisingConfig
  )
  reconstruction: objectives.ReconstructionConfig = dataclasses.field(
    default_factory=objectives.ReconstructionConfig
  )
  data: pipeline.DataConfig = dataclasses.field(
    default_factory=pipeline.DataConfig
  )
  lora: lora_lib.LoRAConfig = dataclasses.field(
    default_factory=lora_lib.LoRAConfig
  )
  optim: optimizer.OptimConfig = dataclasses.field(
    default_factory=optimizer.OptimConfig
  )
  mesh: sharding.MeshConfig = dataclasses.field(
    default_factory=sharding.MeshConfig
  )
  run: RunConfig = dataclasses.field(default_factory=RunConfig)
  sample: SampleConfig = dataclasses.field(default_factory=SampleConfig)


def to_dict(config: Any) -> Any:
  """A tree of dataclasses as plain values that JSON can hold."""
  if dataclasses.is_dataclass(config):
    fields = dataclasses.fields(config)
    return {f.name: to_dict(getattr(config, f.name)) for f in fields}
  if isinstance(config, enum.Enum):
    return config.value
  if isinstance(config, tuple):
    return [to_dict(item) for item in config]
  return config


def from_dict(kind: type, values: dict[str, Any]) -> Any:
  """Undoes `to_dict`; fields that `values` lacks keep their defaults.

  Raises:
    ValueError: a field that `kind` does not have.
  """
  config = kind()
  fields = {field.name for field in dataclasses.fields(kind)}
  for name, value in values.items():
    if name not in fields:
      raise ValueError(f'{kind.__name__} has no field {name!r}')
    default = getattr(config, name)
    if dataclasses.is_dataclass(default):
      value = from_dict(type(default), value)
    elif isinstance(default, enum.Enum):
      value = type(default)(value)
    elif isinstance(default, tuple):
      value = tuple(value)
    setattr(config, name, value)
  return config
