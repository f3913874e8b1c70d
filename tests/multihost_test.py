"""Two processes on loopback train as one does, and go on for one another."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from etils import epath

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 6


@pytest.fixture(scope='module')
def places(tmp_path_factory):
  folder = epath.Path(tmp_path_factory.mktemp('places'))
  model = tiny.write_model(folder / 'model')
  tiny.write_latents(folder / 'latents', model.params)
  return folder


def train(places, workdir, processes, *more):
  """Runs the smoke experiment on two devices, of one process or of two.

  Without latents to go on from, which `more` may name, it prepares its own.
  """
  command = training(places, workdir, *more)
  run(command, processes, devices=2 // processes)


def training(places, workdir, *more):
  return [
    *(sys.executable, 'launch.py', 'train'),
    '--config=experiments/smoke.py:diffusion',
    f'--config.autoencoder_from={places / "model"}',
    f'--config.run.steps={STEPS}',
    '--config.optim.warmup_steps=2',
    *('--config.run.log_every=1', '--config.run.save_every=3'),
    '--config.run.replay_every=2',
    *('--config.run.sample_every=3', f'--workdir={workdir}', *more),
  ]


def run(command, processes, devices, status=0, meanwhile=lambda running: None):
  """A command in one process, or in several that find each other.

  Returns what each of them says.
  """
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  running = []
  for index in range(processes):
    environment = os.environ | {
      'JAX_PLATFORMS': 'cpu',
      'JAX_NUM_CPU_DEVICES': str(devices),
    }
    if processes > 1:
      environment |= {
        'JAX_COORDINATOR_ADDRESS': address,
        'JAX_NUM_PROCESSES': str(processes),
        'JAX_PROCESS_ID': str(index),
      }
    flags = ['--multihost'] if processes > 1 else []
    running.append(
      subprocess.Popen(
        [*command, *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
    )
  meanwhile(running)
  outputs = [process.communicate()[0] for process in running]
  for process, output in zip(running, outputs, strict=True):
    assert process.returncode == status, output
  return outputs


def lines_of(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def assert_near(lines, others):
  """The same clips; numbers may differ by the order of a sum."""
  assert [line['step'] for line in lines] == [*range(1, STEPS + 1)]
  for line, other in zip(lines, others, strict=True):
    for name in ('step', 'clips', 'count'):
      assert line[name] == other[name]
    for name in ('loss', 'grad_norm'):
      np.testing.assert_allclose(line[name], other[name], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('fsdp', [1, 2])
def test_two_processes_train_as_one_does_and_one_goes_on_for_them(
  places, tmp_path, fsdp
):
  mesh = f'--config.mesh.fsdp={fsdp}'
  latents = f'--config.data.latents={places / "latents"}'
  one, two = epath.Path(tmp_path / 'one'), epath.Path(tmp_path / 'two')
  train(places, one, 1, mesh, latents)
  train(places, two, 2, mesh, latents)
  assert_near(lines_of(one), lines_of(two))
  assert (two / 'samples' / '3' / 'sheet.png').exists()
  # As if both had been killed after step 3.
  for path in (two / 'checkpoints').glob(f'{STEPS}*'):
    path.rmtree() if path.is_dir() else path.unlink()
  train(places, two, 1, mesh, latents)
  assert_near(lines_of(one), lines_of(two))


@pytest.mark.slow
def test_two_processes_prepare_once_what_one_would(places, tmp_path):
  one, two = epath.Path(tmp_path / 'one'), epath.Path(tmp_path / 'two')
  few = '--config.data.clips=12'
  train(places, one, 1, few)
  train(places, two, 2, few)
  assert_near(lines_of(one), lines_of(two))


@pytest.mark.slow
def test_all_processes_save_one_step_where_one_is_told_to_end(places, tmp_path):
  """The scheduler tells one host only; the others hear of it from JAX."""
  command = training(
    places,
    epath.Path(tmp_path),
    f'--config.data.latents={places / "latents"}',
    *('--config.run.steps=100000', '--config.run.sample_every=0'),
    *('--config.run.save_every=100000', '--config.run.log_every=10'),
  )
  metrics = tmp_path / 'metrics.jsonl'

  def tell(running):
    while not (metrics.exists() and metrics.read_text()):
      assert running[0].poll() is None, running[0].communicate()
      time.sleep(0.1)
    running[1].send_signal(signal.SIGTERM)

  status = 128 + signal.SIGTERM
  first, _ = run(command, 2, devices=1, status=status, meanwhile=tell)
  saved = [int(p.name) for p in (tmp_path / 'checkpoints').glob('*[0-9]')]
  assert len(saved) == 1 and saved[0] >= 10
  assert f'SIGTERM: step {saved[0]} is saved' in first


@pytest.mark.slow
def test_what_one_process_refuses_ends_both(places, tmp_path):
  """As process 0 alone looks through a corpus; the other one does not wait."""
  command = training(places, tmp_path, '--config.data.limits.text=8')
  first, second = run(command, 2, devices=1, status=2)
  assert 'does not fit 8 text slots' in first
  assert 'looking through the corpus failed on process 0' in second


@pytest.mark.slow
def test_a_process_without_others_is_told_how_they_are_found(tmp_path):
  command = [
    *(sys.executable, 'launch.py', 'train', '--multihost'),
    *('--config=experiments/smoke.py:autoencoder', f'--workdir={tmp_path}'),
  ]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith('launch.py train: --multihost: ')
  assert 'JAX_COORDINATOR_ADDRESS' in line


@pytest.mark.slow
def test_two_processes_share_out_prompts_and_one_manifest(places, tmp_path):
  prompts = tmp_path / 'prompts.txt'
  prompts.write_text('a red ball\na blue ball\ntwo balls\n')

  def sample(out, processes):
    run(
      [
        *(sys.executable, 'launch.py', 'sample', '--steps=2'),
        *(f'--model={places / "model"}', f'--prompts={prompts}'),
        *('--size=32x32x5', '--micro_batch=2', f'--out={out}'),
      ],
      processes,
      devices=1,
    )
    lines = (out / 'manifest.jsonl').read_text().splitlines()
    assert not list(out.glob('manifest.*.jsonl'))
    return {row['file']: row for row in map(json.loads, lines)}

  one, two = sample(tmp_path / 'one', 1), sample(tmp_path / 'two', 2)
  assert len(one) == 3 and one.keys() == two.keys()
  for name, row in one.items():
    assert row['latent_sha256'] == two[name]['latent_sha256']
    assert (tmp_path / 'two' / name).exists()
  # What is there already is left, by however many.
  made = (tmp_path / 'two').glob('*.mp4')
  times = {path.name: path.stat().st_mtime_ns for path in made}
  assert sample(tmp_path / 'two', 2) == two
  for name, changed in times.items():
    assert (tmp_path / 'two' / name).stat().st_mtime_ns == changed
