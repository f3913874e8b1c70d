"""The trainer: `launch.py train`, for every network.

Stages differ in a `Problem`: how parameters start, what the loss is and which
batches there are. The rest is one jitted step and one loop. A run goes
on by itself from its last good checkpoint, and then repeats bit for bit what
the uninterrupted run would have done: a step is a function of the state, and
a batch of the step's number.
"""

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Array

from sora_jax import (
  checkpoint,
  config as config_lib,
  corpus,
  experts,
  flow,
  networks as networks_lib,
  objectives,
  optimizer,
  preemption,
  prepare,
  problems,
  program as program_lib,
  replay,
  sample,
  sharding,
  state as state_lib,
  writers,
)
from sora_jax.data import pipeline
from sora_jax.models import lora, onednn
from sora_jax.weights import adapters, directory

Problem = problems.Problem
State = state_lib.State
Params = Any

# Batches over which the statistics of latents are measured.
STATISTICS_BATCHES = 64


def main(config: config_lib.Config, flags: types.SimpleNamespace) -> None:
  """Trains to the last step of the config, and exports the model."""
  if flags.multihost:
    sharding.join_hosts()
  sharding.use_cores(config.data.limits.rows)
  train(config, epath.Path(flags.workdir))


def train(config: config_lib.Config, workdir: epath.Path) -> State:
  """Runs, or goes on with, the run in `workdir`.

  Raises:
    ValueError: a config that cannot be, a missing corpus or model, or no good
      checkpoint where there was one.
    FloatingPointError: too many steps in a row were not finite.
    replay.SilentCorruption: a step that was taken twice gave other bits.
    preemption.Preempted: asked to end by SIGTERM, it has saved.
  """
  check(config)
  experts.check_resumed(config, workdir)
  onednn.use(config.run.onednn)
  mesh = sharding.make_mesh(config.mesh)
  with sharding.use(mesh):
    rows = sharding.process_rows(config.data.limits.rows, mesh)
    problem = problems.PROBLEMS[config.stage](config, workdir, rows)
    store = checkpoint.CheckpointStore(
      workdir / 'checkpoints', keep=config.run.keep
    )
    with store:
      make_state, step_fn = _start(config, problem, store, mesh)
      batches = problem.open_data()
      state = make_state()
      step = int(state['step'])
      _tell(f'{workdir}: step {step} of {config.run.steps}, {_size(state)}')
      if step < config.run.steps:
        # Not before, as a config that does not fit must not replace the run's.
        if jax.process_index() == 0:
          digests = {
            k: networks_lib.digest(x) for k, x in problem.frozen.items()
          }
          writers.write_config(workdir, config_lib.to_dict(config), digests)
        state = _loop(
          config, problem, store, mesh, state, step_fn, batches, workdir
        )
    export(config, problem, state, workdir / 'model')
    _tell(f'{workdir / "model"}: the model')
  return state


def _tell(line: str) -> None:
  """Says something once, however many hosts there are."""
  if jax.process_index() == 0:
    print(line, flush=True)


def _size(state: State) -> str:
  count = sum(x.size for x in jax.tree.leaves(state['trainable']))
  device = jax.devices()[0].device_kind
  return f'{count:,} parameters, on {jax.device_count()} devices ({device})'


def check(config: config_lib.Config) -> None:
  """Refuses a run that cannot be, before anything is read or compiled.

  Raises:
    ValueError: naming the field, its value and what would be accepted.
  """
  run, rows = config.run, config.data.limits.rows
  for name in ('accumulate', 'log_every', 'save_every', 'keep'):
    if getattr(run, name) < 1:
      raise ValueError(f'run.{name}={getattr(run, name)} must be 1 or more')
  if run.replay_every < 0:
    raise ValueError(
      f'run.replay_every={run.replay_every} must be a number of steps, or 0 '
      'for never'
    )
  if config.seed < 0:
    raise ValueError(f'seed={config.seed} must be 0 or more')
  if run.onednn:
    _check_onednn(config)
  if config.mesh.context > 1:
    _check_context(config)
  if config.stage in (config_lib.Stage.TEXT, config_lib.Stage.DIFFUSION):
    prepare.check(config)
  optimizer.check(config.optim)
  lora.check(config.lora)
  if config.lora.rank and config.stage is not config_lib.Stage.DIFFUSION:
    raise ValueError(
      f'lora.rank={config.lora.rank}: adapters are of the DiT, which stage '
      f'{config.stage.value} does not train; it must be 0'
    )
  whole = config.expert is config_lib.Expert.WHOLE
  if not whole and config.stage is not config_lib.Stage.DIFFUSION:
    raise ValueError(
      f'expert={config.expert.value} is a transformer, which stage '
      f'{config.stage.value} does not train; leave it out'
    )
  pipeline.check(config.data)
  if config.data.shares.opening and not config.sample.openings:
    raise ValueError(
      f'data.shares.opening={config.data.shares.opening} teaches what no '
      'prompt would be asked with: sample.openings must be True'
    )
  flow.check(config.denoising.level)
  for name, value in dataclasses.asdict(config.reconstruction).items():
    if not value >= 0:
      raise ValueError(f'reconstruction.{name}={value} must be 0 or more')
  if rows % run.accumulate:
    raise ValueError(
      f'data.limits.rows={rows} must be a multiple of '
      f'run.accumulate={run.accumulate}'
    )
  directory.check_dtype(run.export_dtype)
  optimizer.make_optimizer(config.optim, run.steps)


def _check_onednn(config: config_lib.Config) -> None:
  stages = config_lib.Stage
  if config.stage not in (stages.AUTOENCODER, stages.PROBE):
    raise ValueError(
      'run.onednn=True is for convolutions, and what stage '
      f'{config.stage.value} trains has none; leave it out, or give it to '
      '`prepare`'
    )
  if config.autoencoder.dtype == 'bfloat16':
    raise ValueError(
      'run.onednn=True rounds to bfloat16 by itself, what float32 arrays hold: '
      'autoencoder.dtype must be auto or float32'
    )


def _check_context(config: config_lib.Config) -> None:
  context, tokens = config.mesh.context, config.data.limits.tokens
  if config.stage is not config_lib.Stage.DIFFUSION:
    raise ValueError(
      f'mesh.context={context} shares out the tokens of the DiT, which stage '
      f'{config.stage.value} does not train; take fsdp'
    )
  if tokens % context:
    raise ValueError(
      f'mesh.context={context}: data.limits.tokens={tokens} must be a multiple '
      'of it'
    )


def export(
  config: config_lib.Config,
  problem: Problem,
  state: State,
  path: epath.Path,
) -> None:
  """Writes the averaged weights as a model directory.

  An autoencoder's latent statistics are measured now, on its own batches,
  unless its encoder was not trained.
  """
  params = _networks(config, problem, state)
  added = sharding.to_host(state['ema'].get('lora', {}))
  encodes_anew = not config.reconstruction.decoder_only
  if config.stage is config_lib.Stage.AUTOENCODER and encodes_anew:
    # All rows, so that they are the same on any number of hosts.
    source = corpus.open_corpus(config.data, path.parent)
    rows = np.arange(config.data.limits.rows)
    frames = pipeline.FrameBatches(source, config.data, config.seed, rows)
    batches = pipeline.iterate(frames, 0, config.data, end=STATISTICS_BATCHES)
    mean, std = prepare.latent_statistics(
      config.autoencoder, params['autoencoder'], batches
    )
    config.autoencoder.latent_mean = mean
    config.autoencoder.latent_std = std
  if config.stage is config_lib.Stage.DIFFUSION:
    config.sample.sizes = prepare.learned(config, path.parent)

  def write():
    tokenizer = networks_lib.read_tokenizer(config)
    networks_lib.write(
      path,
      networks_lib.Networks(config, experts.named(config, params), tokenizer),
      config.run.export_dtype,
      experts.copied(config),
    )
    if added:
      adapters.write(
        path,
        lora.scaled(config.lora, added),
        config.run.export_dtype,
      )

  # All wait, as those that end would take the writer with them.
  sharding.on_first(write, 'writing the model')


def _networks(
  config: config_lib.Config, problem: Problem, state: State
) -> Params:
  """All networks of a run as they are now, on the host."""
  trained, adapted = sharding.to_host((state['ema'], state['frozen']))
  return networks_lib.merge(config, trained, problem.frozen | adapted)


def _start(
  config: config_lib.Config,
  problem: Problem,
  store: checkpoint.CheckpointStore,
  mesh: jax.sharding.Mesh,
) -> tuple[Callable[[], State], Callable]:
  """What makes or restores the state, where it shall lie, and the step.

  Raises:
    ValueError: a device cannot hold it.
  """
  program = program_lib.make(config, problem, mesh)
  if config.run.steps not in store.steps():
    _tell(program_lib.memory_of(config, program))

  def make_state():
    restored = store.restore(program.state)
    if restored is None:
      given = _given(problem, program.where)
      # Donated, so that the weights are not there twice.
      make = jax.jit(
        program.create, out_shardings=program.where, donate_argnums=(1, 2)
      )
      return make(jax.random.key(config.seed), *given)
    logging.info('going on from step %d', restored.step)
    return restored.state

  return make_state, program.step


def _given(problem: Problem, where: State) -> tuple[Params, Params]:
  """What a run starts from and what it only reads, where these shall lie."""
  start = {k: w.place(where['trainable'][k]) for k, w in problem.start.items()}
  frozen = {k: w.place(where['frozen'][k]) for k, w in problem.adapted.items()}
  return start, frozen


def _loop(
  config: config_lib.Config,
  problem: Problem,
  store: checkpoint.CheckpointStore,
  mesh: jax.sharding.Mesh,
  state: State,
  step_fn: Callable,
  make_batch: problems.Batches,
  workdir: epath.Path,
) -> State:
  """Steps to the end. Metrics are read one step late, so nothing waits.

  Raises:
    preemption.Preempted: asked to end by SIGTERM, it has saved.
  """
  first = int(state['step'])
  run = config.run
  batches = pipeline.iterate(make_batch, first, config.data)
  writer = writers.MetricWriter(
    workdir, run.steps, every=run.log_every, start_step=first
  )
  throughput = writers.Throughput()
  # The other stages have nothing to sample.
  samples = run.sample_every and config.stage is config_lib.Stage.DIFFUSION
  pending = None
  notice = preemption.Notice()
  with writer, notice, jax.transfer_guard('disallow'):
    for step in range(first + 1, run.steps + 1):
      with throughput.waiting():
        batch = next(batches)
      batch = sharding.shard_batch(batch, mesh)
      equal = None
      if run.replay_every and step % run.replay_every == 0:
        (state, sums), equal = replay.twice(step_fn, state, batch)
      else:
        state, sums = step_fn(state, batch)
      if pending is not None:
        _report(config, writer, throughput, *pending)
      if step == first + 2:
        throughput.report()  # without the compilation
      pending = step, sums, equal
      ends = notice.reached(step)
      if step % run.save_every == 0 or step == run.steps or ends:
        _report(config, writer, throughput, *pending)
        pending = None
        with jax.transfer_guard('allow'):  # hosts agree on what is there
          store.save(step, state, {'step': step})
      if ends:
        store.wait()
        _tell(
          f'{workdir}: SIGTERM: step {step} is saved; the same command goes on'
        )
        raise preemption.Preempted
      if samples and step % run.sample_every == 0:
        with jax.transfer_guard('allow'):
          params = _networks(config, problem, state)
          if jax.process_index() == 0:
            sample.sample_while_training(
              config, params, workdir / 'samples' / str(step)
            )
  store.wait()
  return state


def _report(
  config: config_lib.Config,
  writer: writers.MetricWriter,
  throughput: writers.Throughput,
  step: int,
  sums: dict[str, Array],
  equal: Any | None,
) -> None:
  """Means of a step's sums, and the end of a run that cannot go on.

  Of a step that was taken twice, `equal` is what `replay.twice` gave.
  """
  if equal is not None:
    replay.check(equal, step)
  totals = {k: float(v) for k, v in jax.device_get(sums).items()}
  in_row = int(totals['skipped_in_row'])
  if in_row >= config.optim.max_bad_steps:
    raise FloatingPointError(
      f'step {step}: {in_row} steps in a row had a loss or a gradient that '
      'is not finite, or no clip that could be read '
      f'(optim.max_bad_steps={config.optim.max_bad_steps}); lower '
      'optim.learning_rate, or look at the data of these steps'
    )
  throughput.add(int(totals['clips']), int(totals['tokens']))
  if writer.due(step):
    writer.write(step, objectives.means(totals), throughput.report())
