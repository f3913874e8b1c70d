"""Are the bits the same, and how soon are they there? `launch.py bench`.

`--what=determinism` samples the same prompts in many ways and holds each latent
against that of the clip made alone. `--compare=A,B` holds two folders that
`sample` wrote against each other, by hash and by pixels; equal bytes are those
before signing, as no two signatures are equal. `--what=cache` is in
`calibrate`, `--what=speed` in `speed`.
"""

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Float

from sora_jax import (
  calibrate,
  generate,
  metrics,
  networks as networks_lib,
  sharding,
  speed,
)
from sora_jax.data import video

CLIPS = 8
STEPS = 4
REPEATS = 20
# As many as a mesh may have here, where there are none but those of a CPU.
SIMULATED = 8

# What each measure goes by; two folders are compared by nothing but themselves.
TAKES = {
  'determinism': ('model', 'steps', 'repeats'),
  'cache': ('model', 'steps', 'store'),
  'speed': ('model', 'steps'),
  None: (),
}

Latents = list[Float[np.ndarray, 'F h w C']]


class Way(NamedTuple):
  """How the clips were sampled, and what came of those that were asked for."""

  name: str
  asked: list[int]  # which of the CLIPS seeds, in the order asked for
  latents: Latents


def main(config: None, flags: types.SimpleNamespace) -> None:
  """Measures what was asked for, and prints a table of it."""
  del config
  if bool(flags.what) == bool(flags.compare):
    raise ValueError('give either --what=NAME or --compare=A,B')
  _check_takes(flags)
  if flags.compare:
    return compare(*_two(flags.compare))
  measures = {
    'determinism': determinism,
    'cache': calibrate.main,
    'speed': speed.main,
  }
  measures[flags.what](flags)


def _check_takes(flags: types.SimpleNamespace) -> None:
  """Raises ValueError for a flag that would do nothing."""
  asked = f'--what={flags.what}' if flags.what else '--compare'
  takes = TAKES[flags.what]
  for name in ('model', 'steps', 'repeats', 'store'):
    if getattr(flags, name) and name not in takes:
      known = ', '.join(f'--{take}' for take in takes) or 'no other flag'
      raise ValueError(f'{asked} takes no --{name}; it takes {known}')


def determinism(flags: types.SimpleNamespace) -> None:
  """Prints a table, and fails if a promise of equal bits is not kept."""
  if 'JAX_NUM_CPU_DEVICES' not in os.environ:
    jax.config.update('jax_num_cpu_devices', SIMULATED)
  networks = networks_lib.read(flags.model or networks_lib.SHIPPED)
  networks_lib.check_from_text(networks, '--what=determinism')
  settings = generate.settings_of(networks.config.sample)
  settings = settings._replace(steps=flags.steps or STEPS)
  print(
    f'latents of {CLIPS} clips of {settings.size}, {settings.steps} steps of '
    f'{settings.sampler}, micro-batches of {settings.micro_batch}, on '
    f'{len(jax.devices())} devices ({jax.devices()[0].device_kind})'
  )
  alone = sampled(networks, settings, _mesh(1), [[i] for i in range(CLIPS)])
  print(f'{"":34}{"clips":>6}  {"largest difference":>18}')
  wrong = 0
  for way in ways(networks, settings, flags):
    worst = max(
      float(np.abs(z - alone[i]).max())
      for i, z in zip(way.asked, way.latents, strict=True)
    )
    same = all(
      z.tobytes() == alone[i].tobytes()
      for i, z in zip(way.asked, way.latents, strict=True)
    )
    wrong += not same
    told = 'equal bits' if same else f'{worst:.2e}'
    print(f'{way.name:34}{len(way.asked):6}  {told:>18}', flush=True)
  if wrong:
    raise ValueError(f'{wrong} ways of sampling gave other bits')


def ways(
  networks: generate.Networks,
  settings: generate.Settings,
  flags: types.SimpleNamespace,
) -> Iterator[Way]:
  """Every way that must not matter."""
  make = lambda mesh, *requests: sampled(networks, settings, mesh, requests)
  everyone = list(range(CLIPS))
  for count in (1, 3, CLIPS):
    asked = everyone[:count]
    yield Way(f'a request of {count}', asked, make(_mesh(1), asked))
  turned = everyone[3:] + everyone[:3]
  yield Way('in other slots', turned, make(_mesh(1), turned))
  devices = len(jax.devices())
  for count in (n for n in (2, 4, 8) if n <= devices):
    mesh = _mesh(count)
    yield Way(f'data={count}', everyone, make(mesh, everyone))
    mesh = _mesh(count, fsdp=count)
    yield Way(f'fsdp={count}', everyone, make(mesh, everyone))
  if devices > 1:  # along these all devices paint the same
    for axis in ('tensor', 'context'):
      made = make(_mesh(2, **{axis: 2}), everyone)
      yield Way(f'{axis}=2', everyone, made)
  repeats = flags.repeats or REPEATS
  made = make(_mesh(1), *[everyone[:1]] * repeats)
  yield Way(f'{repeats} times', [0] * repeats, made)
  if jax.default_backend() == 'tpu':
    return  # whose chips are of one process
  for devices in (n for n in (1, 2) if n <= len(jax.devices())):
    made = elsewhere(flags, settings, devices)
    yield Way(f'another process, {devices} devices', everyone, made)
  if jax.default_backend() == 'cpu':
    made = elsewhere(flags, settings, 1, processes=2)
    yield Way('two processes of one job', everyone, made)


def sampled(
  networks: generate.Networks,
  settings: generate.Settings,
  mesh: jax.sharding.Mesh,
  requests: list[list[int]] | tuple[list[int], ...],
) -> Latents:
  """Latents of some requests, each of clips by their seeds."""
  make = generate.make_generator(networks, settings, mesh)
  return [
    clip.latent
    for seeds in requests
    for clip in make([generate.Request(speed.PROMPT, seed) for seed in seeds])
  ]


def elsewhere(
  flags: types.SimpleNamespace,
  settings: generate.Settings,
  devices: int,
  processes: int = 1,
) -> Latents:
  """Latents that other processes have made, each on so many devices."""
  code = 'import sys; from sora_jax import bench; bench.write(*sys.argv[1:])'
  model = str(flags.model or networks_lib.SHIPPED)
  command = [sys.executable, '-c', code, model]
  command += [str(settings.steps), str(devices)]
  environment = os.environ | {
    'JAX_NUM_CPU_DEVICES': str(devices),
    # A GPU is shared with this process.
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
  }
  if processes > 1:
    with socket.socket() as free:
      free.bind(('localhost', 0))
      address = f'localhost:{free.getsockname()[1]}'
    environment |= {
      'JAX_COORDINATOR_ADDRESS': address,
      'JAX_NUM_PROCESSES': str(processes),
    }
  with tempfile.TemporaryDirectory() as folder:
    running = [
      subprocess.Popen(
        [*command, f'{folder}/{i}.npy'],
        env=environment | ({'JAX_PROCESS_ID': str(i)} if processes > 1 else {}),
        stderr=subprocess.PIPE,
        text=True,
      )
      for i in range(processes)
    ]
    for process in running:
      said = process.communicate()[1]
      if process.returncode:
        raise ValueError(f'another process failed: {said[-400:]}')
    made = [np.load(f'{folder}/{i}.npy') for i in range(processes)]
  return [made[i % processes][i // processes] for i in range(CLIPS)]


def write(model: str, steps: str, devices: str, out: str) -> None:
  """What another process does: samples its share on so many devices."""
  if 'JAX_PROCESS_ID' in os.environ:
    sharding.join_hosts()
  networks = networks_lib.read(model)
  settings = generate.settings_of(networks.config.sample)
  settings = settings._replace(steps=int(steps))
  own = list(range(CLIPS))[jax.process_index() :: jax.process_count()]
  latents = sampled(networks, settings, _mesh(int(devices)), [own])
  np.save(out, np.stack(latents))


def _mesh(devices: int, **axes: int) -> jax.sharding.Mesh:
  data = devices // math.prod(axes.values())
  shape = sharding.MeshConfig(data=data, **axes)
  return sharding.make_mesh(shape, jax.local_devices()[:devices])


def compare(one: epath.Path, other: epath.Path) -> None:
  """Prints a line for each file that either folder has.

  Raises:
    ValueError: a folder has no manifest, or a file is not the same in both.
  """
  rows, others = _manifest(one), _manifest(other)
  different = 0
  for name in sorted(rows.keys() | others.keys()):
    if name not in rows or name not in others:
      told = f'only in {one if name in rows else other}'
    elif rows[name]['latent_sha256'] == others[name]['latent_sha256']:
      told = 'equal latents'
      if rows[name]['video_sha256'] == others[name]['video_sha256']:
        told += ', equal bytes'
    else:
      told = _by_pixels(one / name, other / name)
    different += not told.startswith('equal')
    print(f'{name}  {told}')
  if different:
    raise ValueError(f'{different} files differ between {one} and {other}')


def _by_pixels(one: epath.Path, other: epath.Path) -> str:
  a, b = (
    video.read_frames(path, 0, video.read_info(path).frames)
    for path in (one, other)
  )
  if a.shape != b.shape:
    return f'{a.shape} and {b.shape} frames, rows, columns and colours'
  largest = int(np.abs(a.astype(int) - b).max())
  return f'pixels differ by {largest} at most, PSNR {metrics.psnr(a, b):.1f} dB'


def _manifest(folder: epath.Path) -> dict[str, dict]:
  path = folder / 'manifest.jsonl'
  if not path.exists():
    raise ValueError(f'{folder} has no manifest.jsonl; `sample` writes one')
  rows = map(json.loads, path.read_text().splitlines())
  return {row['file']: row for row in rows}


def _two(folders: str) -> tuple[epath.Path, epath.Path]:
  parts = folders.split(',')
  if len(parts) != 2:
    raise ValueError(f'--compare={folders} is not two folders, A,B')
  return epath.Path(parts[0]), epath.Path(parts[1])
