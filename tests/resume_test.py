"""An interrupted run equals an uninterrupted one, bit for bit."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
from etils import epath

from experiments import smoke
from sora_jax import checkpoint, train
from sora_jax.data import pipeline

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 5


class Interrupted(Exception):
  """Stands for whatever ends a run."""


@pytest.fixture(scope='module')
def places(tmp_path_factory):
  """A folder of real videos, a model, and latents that it could have made."""
  folder = epath.Path(tmp_path_factory.mktemp('places'))
  sizes = [(9, 32, 16), (13, 16, 16), (5, 24, 32), (3, 16, 24), (21, 32, 32)]
  tiny.write_videos(folder / 'videos', sizes)
  model = tiny.write_model(folder / 'model')
  tiny.write_latents(folder / 'latents', model.params)
  return folder


def autoencoder_config(places):
  """Trains by Muon against a judge on crops of the videos."""
  config = smoke.autoencoder()
  config.autoencoder.multiples, config.autoencoder.halve_time = (1, 1), (True,)
  config.data.corpus = pipeline.Corpus.FOLDER
  config.data.path = str(places / 'videos')
  config.data.crops = ('8x8x5',)
  config.data.limits.rows = 4
  config.reconstruction.adversarial = 0.1
  config.optim.method = 'muon'
  return config


def diffusion_config(places):
  """Accumulates over two micro-batches."""
  config = tiny.config(latents=str(places / 'latents'))
  config.autoencoder_from = str(places / 'model')
  config.run.accumulate = 2
  return config


CONFIGS = {'autoencoder': autoencoder_config, 'diffusion': diffusion_config}


# Stages share the loop that is stopped here; the longer one waits for `slow`.
@pytest.fixture(
  params=[
    pytest.param(c, marks=pytest.mark.slow) if c == 'autoencoder' else c
    for c in CONFIGS
  ]
)
def run(request, places, monkeypatch, one_device):
  """Goes on with the run in a directory, and fails after `stop` steps of it.

  After `told` steps of it the process is told to end, and takes another one.
  """
  monkeypatch.setattr(train, 'STATISTICS_BATCHES', 2)
  batches_from = pipeline.iterate

  def run(workdir, stop=None, told=None):
    def iterate(make_batch, start, *args, **kwargs):
      batches = batches_from(make_batch, start, *args, **kwargs)
      for step, batch in zip(itertools.count(start), batches, strict=False):
        if step == stop:
          raise Interrupted
        if step == told:
          signal.raise_signal(signal.SIGTERM)
        yield batch

    monkeypatch.setattr(pipeline, 'iterate', iterate)
    config = CONFIGS[request.param](places)
    config.optim.warmup_steps, config.run.steps = 2, STEPS
    config.run.log_every, config.run.save_every = 1, 2
    return train.train(config, epath.Path(workdir))

  return run


def assert_same(tree, other):
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  for (path, x), y in zip(leaves, jax.tree.leaves(other), strict=True):
    same = np.asarray(x).tobytes() == np.asarray(y).tobytes()
    assert same, jax.tree_util.keystr(path)


def losses(workdir):
  lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  rows = map(json.loads, lines)
  return [(row['step'], row['loss'], row['grad_norm']) for row in rows]


def test_a_run_stopped_at_any_step_equals_one_that_was_not(run, tmp_path):
  whole = run(tmp_path / 'whole')
  assert [step for step, *_ in losses(tmp_path / 'whole')] == [1, 2, 3, 4, 5]
  # Before anything is saved, between two saves, just after one.
  for stop in (1, 3):
    with pytest.raises(Interrupted):
      run(tmp_path / 'parts', stop)
  # A step that was not to be saved, as its machine is taken away.
  assert not (tmp_path / 'parts' / 'checkpoints' / '3').exists()
  with pytest.raises(SystemExit) as ended:
    run(tmp_path / 'parts', told=2)
  assert ended.value.code == 128 + signal.SIGTERM
  assert (tmp_path / 'parts' / 'checkpoints' / '3').exists()
  with pytest.raises(Interrupted):
    run(tmp_path / 'parts', 4)
  assert_same(run(tmp_path / 'parts'), whole)
  assert losses(tmp_path / 'parts') == losses(tmp_path / 'whole')
  files = sorted((tmp_path / 'whole' / 'model').rglob('*.safetensors'))
  assert files
  for file in files:
    other = tmp_path / 'parts' / file.relative_to(tmp_path / 'whole')
    assert file.read_bytes() == other.read_bytes()
  _check_that_all_has_moved(tmp_path / 'whole', whole)


def _check_that_all_has_moved(workdir, state):
  """Two steps from step 2 on, as a state that stands still is easily equal."""
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  names = {'trainable', 'ema', 'judge'} & set(state)
  part = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
    {name: state[name] for name in names},
  )
  with checkpoint.CheckpointStore(workdir / 'checkpoints') as store:
    before = store.restore_part(part, step=2).state
  after = jax.tree.leaves({name: state[name] for name in names})
  pairs = jax.tree_util.tree_leaves_with_path(before)
  for (path, x), y in zip(pairs, after, strict=True):
    if getattr(path[-1], 'key', '') == 'kernel':
      assert (np.asarray(x) != np.asarray(y)).any(), jax.tree_util.keystr(path)


# --------------------------------------------------------------- the SIGKILL


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  """Of processes that compile once between them."""
  return os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '',  # as XLA is for users, not for tests
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path_factory.mktemp('compiled')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }


def start(command, environment):
  return subprocess.Popen(
    command,
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def kill_at_random(command, environment, rng):
  """Starts a run and kills it: at its start, or some time after some step.

  At that moment the next step is computed, its data read or the last saved.
  """
  with start(command, environment) as process:
    told, wanted = 0, int(rng.integers(8))
    while told < wanted:
      line = process.stdout.readline()
      assert line, 'the run ended by itself'
      told += line.startswith('step ')
    time.sleep(rng.uniform(0, 0.2 if wanted else 3))
    process.send_signal(signal.SIGKILL)
  assert process.returncode == -signal.SIGKILL


def finish(command, environment):
  with start(command, environment) as process:
    output = process.communicate()[0]
  assert process.returncode == 0, output


def read_state(workdir):
  """The whole of the last checkpoint, as numpy arrays."""
  steps = [p for p in (workdir / 'checkpoints').iterdir() if p.name.isdecimal()]
  path = max(steps, key=lambda p: int(p.name)) / 'state'
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    tree = checkpointer.metadata(path).item_metadata.tree
    numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    args = ocp.args.PyTreeRestore(
      restore_args=jax.tree.map(lambda _: numpy, tree)
    )
    return checkpointer.restore(path, args=args)


def commands(places, stage, steps):
  """The same command for two working directories."""
  flags = {
    'autoencoder': [
      '--config.data.corpus=FOLDER',
      f'--config.data.path={places / "videos"}',
      '--config.data.limits.rows=4',
      '--config.reconstruction.adversarial=0.1',
    ],
    'diffusion': [
      f'--config.autoencoder_from={places / "model"}',
      f'--config.data.latents={places / "latents"}',
    ],
  }[stage]
  return [
    *(sys.executable, 'launch.py', 'train'),
    f'--config=experiments/smoke.py:{stage}',
    *flags,
    f'--config.run.steps={steps}',
    '--config.run.log_every=1',
    '--config.run.save_every=2',
    '--config.run.keep=2',
    '--config.run.sample_every=0',
    '--workdir',
  ]


@pytest.mark.slow
@pytest.mark.parametrize(
  'stage, kills', [('autoencoder', 20), ('diffusion', 5)]
)
def test_a_run_killed_at_random_equals_one_that_was_not(
  places, environment, tmp_path, stage, kills
):
  steps = 8 * kills  # which no start but the last can reach
  command = commands(places, stage, steps)
  finish([*command, str(tmp_path / 'whole')], environment)
  rng = np.random.default_rng(0)
  for _ in range(kills):
    kill_at_random([*command, str(tmp_path / 'killed')], environment, rng)
  finish([*command, str(tmp_path / 'killed')], environment)
  state = read_state(tmp_path / 'killed')
  assert {'step', 'trainable', 'ema', 'opt', 'counters'} <= set(state)
  assert int(state['step']) == steps
  assert_same(state, read_state(tmp_path / 'whole'))
  assert losses(tmp_path / 'killed') == losses(tmp_path / 'whole')
  assert len(losses(tmp_path / 'whole')) == steps
