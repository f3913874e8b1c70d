"""What each stage trains: parameters, a loss, and batches.

`train.py` is the same for all of them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Key

from sora_jax import (
  batch,
  config as config_lib,
  corpus,
  experts,
  networks as networks_lib,
  objectives,
  prepare,
  published,
  sample,
  sizing,
  state as state_lib,
)
from sora_jax.data import labelled, latents, pipeline
from sora_jax.data.worlds import scene_labels
from sora_jax.models import autoencoder, dit, lora, probe, text

State = state_lib.State
Params = Any

Batches = Callable[[int], Any]  # step -> this host's rows of its batch
Loss = Callable[[State, Params, Any], tuple[Array, Array, dict[str, Array]]]


class Problem(NamedTuple):
  """What one of the stages trains."""

  init: Callable[[Key[Array, '']], Params]  # boxed trainable parameters
  # What replaces what `init` draws, by network.
  start: dict[str, networks_lib.Weights]
  # Of the models that it leaves, what is neither trained nor in the loss, whose
  # latents and features are prepared; on the host.
  frozen: Params
  # (state, trainable, batch) -> loss sum, count, sums. It closes over no array:
  # the compiler would fetch it from the device, which the loop forbids.
  loss: Loss
  judge_loss: Loss | None  # the same of the discriminator's parameters
  # The shapes that a batch has, all hosts' rows together, in turn.
  shapes: list[Any]
  # Opens its data, which is prepared first where it must be: this may take
  # hours, so it comes after what a config can be refused for.
  open_data: Callable[[], Batches]
  # What adapters lie beside, which the loss reads: the state's `frozen`.
  adapted: dict[str, networks_lib.Weights] = {}


def autoencoder_problem(
  config: config_lib.Config, workdir: epath.PathLike, rows: np.ndarray
) -> Problem:
  """Stage 1: pixels to latents and back, from crops of the corpus."""
  model, weights = config.autoencoder, config.reconstruction
  autoencoder.check(model)
  source = corpus.open_corpus(config.data, workdir)
  batches = pipeline.FrameBatches(source, config.data, config.seed, rows)
  for crop in batches.crops:
    autoencoder.check_size(model, crop.frames, crop.height, crop.width)
  count = config.data.limits.rows
  shapes = [
    batch.Frames(video=_video(count, crop), draw=_shape(np.int32, count))
    for crop in batches.crops
  ]
  adversarial = weights.adversarial > 0
  if weights.decoder_only:
    _keep_statistics(config)

  def loss(state, trainable, frames):
    return objectives.reconstruction(
      trainable,
      frames,
      jax.random.key(config.seed),
      model=model,
      config=weights,
      judge=state['judge']['params'] if adversarial else None,
      step=state['step'],
    )

  def judge_loss(state, judge, frames):
    return objectives.discrimination(
      judge, state['trainable'], frames, model=model
    )

  # Every host looks at the same rows.
  first = pipeline.FrameBatches(
    source, config.data, config.seed, np.arange(min(8, config.data.limits.rows))
  )
  seen = first(0)
  readable = seen.video[seen.draw >= 0]
  if not len(readable):
    raise ValueError('none of the first clips of the corpus can be read')
  colour = objectives.to_pixels(jnp.asarray(readable)).mean(axis=(0, 1, 2, 3))
  names = ('autoencoder',)
  make = networks_lib.make_init(config, names)

  def init(key):
    made = make(key)
    autoencoder.start_at(model, made['autoencoder'], colour)
    return made

  return Problem(
    init=init,
    start=networks_lib.read_start(config, names),
    frozen={},
    loss=loss,
    judge_loss=judge_loss if adversarial else None,
    shapes=shapes,
    open_data=lambda: batches,
  )


def _keep_statistics(config: config_lib.Config) -> None:
  """Takes the scales of latents from where their encoder comes from."""
  if not config.init_from:
    raise ValueError(
      'reconstruction.decoder_only needs init_from, the autoencoder whose '
      'encoder stays'
    )
  if config.optim.weight_decay:
    raise ValueError(
      f'reconstruction.decoder_only: optim.weight_decay='
      f'{config.optim.weight_decay} would move the encoder; it must be 0'
    )
  found = networks_lib.read(config.init_from).config
  networks_lib.check_statistics(found, config.init_from)
  config.autoencoder.latent_mean = found.autoencoder.latent_mean
  config.autoencoder.latent_std = found.autoencoder.latent_std


def text_problem(
  config: config_lib.Config, workdir: epath.PathLike, rows: np.ndarray
) -> Problem:
  """Stage 2: the text encoder, from captions beside prepared latents."""
  if config.text_from:
    raise ValueError(f'text_from={config.text_from!r} would not be trained')
  if config.run.accumulate > 1:
    raise ValueError(
      f'run.accumulate={config.run.accumulate} must be 1, as captions are told '
      'from all others of their batch'
    )
  if config.data.caption_dropout:
    raise ValueError(
      f'data.caption_dropout={config.data.caption_dropout} must be 0, as empty '
      'captions cannot be told apart'
    )
  frozen = networks_lib.read_frozen(config)
  sizing.fit_tokens(config)
  _check_fit(config)
  start = networks_lib.read_start(config, ('text',))
  open_data = _packs(config, frozen, workdir, rows)
  make_text = networks_lib.make_init(config, ('text',))

  def init(key):
    key_text, key_towers = jax.random.split(key)
    towers = networks_lib.init_towers(config, key_towers)
    return make_text(key_text) | {'contrast': towers}

  def loss(state, trainable, pack):
    del state
    return objectives.contrast(trainable, pack, encoder=config.text)

  return Problem(
    init=init,
    start=start,
    frozen={},
    loss=loss,
    judge_loss=None,
    shapes=[_pack(config, frozen)],
    open_data=open_data,
  )


def diffusion_problem(
  config: config_lib.Config, workdir: epath.PathLike, rows: np.ndarray
) -> Problem:
  """Stage 3: latents of the frozen autoencoder, from their captions."""
  experts.check(config)
  frozen = networks_lib.read_frozen(config)
  sizing.fit_tokens(config)
  _check_fit(config)
  if config.run.sample_every:
    sample.check_config(config)
  start = networks_lib.read_start(config, _learning(frozen))
  open_data = _packs(config, frozen, workdir, rows)
  return _denoising_problem(config, frozen, start, open_data)


def planned(config: config_lib.Config) -> Problem:
  """That of a diffusion run, without weights and data.

  Where an autoencoder and a text encoder come from says of their shapes, which
  enter the config, and no weights are read; of a name of `published.SIZES` the
  config says.

  Raises:
    ValueError: parts of the config do not fit one another.
  """
  experts.check(config)
  frozen = {}
  for name, place in (
    ('autoencoder', config.autoencoder_from),
    ('text', config.text_from),
  ):
    if place and place not in published.SIZES:
      field = networks_lib.field(name)
      setattr(config, field, getattr(networks_lib.describe(place), field))
    if place:
      frozen[name] = networks_lib.abstract(config, name)
  sizing.fit_tokens(config)
  _check_fit(config)
  start = {}
  if config.init_from:
    boxed = networks_lib.abstract(config, 'dit')
    start['dit'] = networks_lib.Weights(boxed, place=lambda where: where)

  def open_data():
    raise ValueError('a plan has no data')

  return _denoising_problem(config, frozen, start, open_data)


def _learning(frozen: Params) -> tuple[str, ...]:
  return ('dit',) if 'text' in frozen else ('dit', 'text')


def _denoising_problem(
  config: config_lib.Config,
  frozen: Params,
  start: dict[str, networks_lib.Weights],
  open_data: Callable[[], Batches],
) -> Problem:
  """The problem of a DiT, and of a text encoder that is not there yet."""
  names, denoising = _learning(frozen), experts.objective(config)
  init, adapted = networks_lib.make_init(config, names), {}
  if config.lora.rank:
    _check_adapters(config, names, start)
    start, adapted = {}, start
    init = networks_lib.make_adapters(config)

  def loss(state, trainable, pack):
    if adapted:
      adapters = lora.scaled(config.lora, trainable['lora'])
      trainable = {'dit': state['frozen']['dit'], 'lora': adapters}
    return objectives.denoising(
      trainable,
      pack,
      jax.random.key(config.seed),
      model=config.model,
      encoder=config.text,
      config=denoising,
    )

  return Problem(
    init=init,
    start=start,
    frozen=frozen,
    loss=loss,
    judge_loss=None,
    shapes=[_pack(config, frozen)],
    open_data=open_data,
    adapted=adapted,
  )


def _check_adapters(
  config: config_lib.Config,
  names: tuple[str, ...],
  start: dict[str, networks_lib.Weights],
) -> None:
  """Raises ValueError unless all that adapters lie beside is given."""
  if names != ('dit',):
    raise ValueError(
      f'lora.rank={config.lora.rank} trains nothing but adapters: text_from '
      'must name a trained text encoder'
    )
  if 'dit' not in start:
    raise ValueError(
      f'lora.rank={config.lora.rank}: init_from must name the model that '
      'adapters are for'
    )


def _packs(
  config: config_lib.Config,
  frozen: Params,
  workdir: epath.PathLike,
  rows: np.ndarray,
) -> Callable[[], pipeline.PackBatches]:
  """What opens prepared latents, and prepares them first if there are none.

  Raises:
    ValueError: they, or the clips that they are to be of, cannot be.
  """
  place = prepare.latents_of(config, workdir)
  unprepared = prepare.unprepared(config, place)

  def read():
    source = latents.LatentSource(place)
    prepare.check_origin(source, frozen, config)
    return pipeline.PackBatches(
      source,
      config.data,
      config.model.patch,
      config.seed,
      rows,
      _condition(config),
    )

  if unprepared is None:
    batches = read()
    return lambda: batches

  def prepare_and_read():
    prepare.prepare_once(config, frozen, unprepared, place)
    return read()

  return prepare_and_read


def _pack(config: config_lib.Config, frozen: Params) -> batch.Pack:
  """Shapes of a batch of packs."""
  limits, patch = config.data.limits, config.model.patch
  values = int(np.prod(patch)) * config.autoencoder.channels
  seen = int(np.prod(patch)) * _condition(config)
  width = config.text.width if 'text' in frozen else 0
  row = pipeline.empty_row(limits, values, width, seen)
  return jax.tree.map(lambda x: _shape(x.dtype, limits.rows, *x.shape), row)


def _condition(config: config_lib.Config) -> int:
  """Channels that a batch has beside the latent's."""
  denoises = config.stage is config_lib.Stage.DIFFUSION
  return config.model.condition_channels if denoises else 0


def _video(count: int, size: batch.Size) -> jax.ShapeDtypeStruct:
  return _shape(np.uint8, count, size.frames, size.height, size.width, 3)


def _shape(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype)


def _check_fit(config: config_lib.Config) -> None:
  """Raises ValueError where the networks do not fit one another."""
  dit.check(config.model)
  text.check(config.text)
  latent, features = config.autoencoder.channels, config.text.width
  condition = config.model.condition_channels
  if condition and condition != (wanted := config.autoencoder.time + latent):
    raise ValueError(
      f'{config.model.condition_channels=} must be 0, or {wanted} for whether '
      'frames are known, and their latent'
    )
  shares = dataclasses.asdict(config.data.shares)
  if condition and any(shares.values()):
    raise ValueError(
      f'data.shares={shares}: the network sees what is known beside the noise; '
      'all must be 0'
    )
  if config.model.channels != latent:
    raise ValueError(
      f'{config.model.channels=} must be the {latent} channels of the '
      'autoencoder'
    )
  if config.model.text_width != features:
    raise ValueError(
      f'{config.model.text_width=} must be the {features} features of the '
      'text encoder'
    )


def _labelled(count: int, size: batch.Size) -> batch.Labelled:
  """Shapes of a batch for the probe."""
  video = _video(count, size)
  labels = _shape(np.int32, count, len(scene_labels.FIELDS))
  mask = _shape(np.bool_, *video.shape[:-1])
  motions = len(scene_labels.MOTION_SCALES)
  motion = _shape(np.float32, count, size.frames, motions)
  return batch.Labelled(video, labels, mask, motion)


def probe_problem(
  config: config_lib.Config, workdir: epath.PathLike, rows: np.ndarray
) -> Problem:
  """What scores scenes, from some of which everything is known."""
  del workdir
  data = config.data
  for name, value, wanted in (
    ('corpus', data.corpus.value, pipeline.Corpus.WORLD.value),
    ('world', data.world, 'scenes'),
    ('beside', data.beside, ''),
    ('rendered', data.rendered, ''),
  ):
    if value != wanted:
      raise ValueError(
        f'data.{name}={value}: the probe learns what is true of scenes, which '
        f'is known of no other clips; it must be {wanted or "empty"}'
      )
  config.probe.classes = scene_labels.CLASSES
  config.probe.motions = len(scene_labels.MOTION_SCALES)
  probe.check(config.probe)
  sizes = tuple(batch.parse_size(size) for size in config.data.sizes)
  for size in sizes:
    probe.check_size(config.probe, size.height, size.width)
  count = config.data.limits.rows

  def loss(state, trainable, clips):
    del state
    return objectives.recognition(trainable, clips, model=config.probe)

  return Problem(
    init=networks_lib.make_init(config, ('probe',)),
    start=networks_lib.read_start(config, ('probe',)),
    frozen={},
    loss=loss,
    judge_loss=None,
    shapes=[_labelled(count, size) for size in sizes],
    open_data=lambda: labelled.LabelledBatches(sizes, count, config.seed, rows),
  )


PROBLEMS = {
  config_lib.Stage.AUTOENCODER: autoencoder_problem,
  config_lib.Stage.TEXT: text_problem,
  config_lib.Stage.DIFFUSION: diffusion_problem,
  config_lib.Stage.PROBE: probe_problem,
}
