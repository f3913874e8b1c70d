"""How long a clip takes, beside diffusers on the same files.

`launch.py bench --what=speed --model=DIR` makes a clip, and if diffusers is
there it makes one in a process of its own: the transformer in bfloat16 and the
autoencoder in float32, as its documentation has it.
"""

import importlib.util
import json
import subprocess
import sys
import time
import types
from typing import Any, NamedTuple

import jax
from etils import epath

from sora_jax import batch, generate, networks as networks_lib, sharding
from sora_jax.weights import directory

PROMPT = 'a small red ball rolls right'


class Times(NamedTuple):
  """What one clip takes on one device."""

  compiling: float  # seconds, before the first clip alone
  step: float  # seconds
  decoding: float  # seconds
  whole: float  # seconds, from noise to frames, without compiling
  peak: float  # gigabytes; 0 where a device does not say


def main(flags: types.SimpleNamespace) -> None:
  """Prints a table, a line for each who made the clip."""
  path = epath.Path(flags.model or networks_lib.SHIPPED)
  rows = {}
  networks = networks_lib.read(path)
  settings = generate.settings_of(networks.config.sample)
  settings = settings._replace(steps=flags.steps or settings.steps)
  if directory.is_model(path) and importlib.util.find_spec('diffusers'):
    # First, as JAX takes most of a GPU once it is used.
    rows['diffusers'] = elsewhere(path, settings)
  rows['sora_jax'] = ours(networks, settings)
  print(
    f'{settings.size}, {settings.steps} steps, guidance {settings.guidance} '
    f'({jax.devices()[0].device_kind})'
  )
  heads = ('compiling s', 's a step', 'decoding s', 'whole s', 'peak GB')
  print(' ' * 10 + ''.join(f'{head:>12}' for head in heads))
  for name, times in rows.items():
    print(f'{name:10}' + ''.join(f'{value:12.3g}' for value in times))


def ours(networks: networks_lib.Networks, settings: generate.Settings) -> Times:
  """Of one clip on one device, by `generate.Stream`."""
  device = jax.local_devices()[0]
  mesh = sharding.make_mesh(sharding.MeshConfig(), [device])
  stream = generate.Stream(networks, settings, mesh, tell=print)

  requests = [generate.Request(PROMPT, 0)]
  stream.listen(requests)
  begun = time.perf_counter()
  for _ in stream(requests):
    pass
  whole = time.perf_counter() - begun
  took = stream.seconds
  stats = device.memory_stats() or {}
  return Times(
    took['compiling'],
    took['painting'] / settings.steps,
    took['decoding'],
    whole - took['compiling'],
    stats.get('peak_bytes_in_use', 0) / 1e9,
  )


def elsewhere(path: epath.Path, settings: generate.Settings) -> Times:
  """Of one clip on one device, by diffusers, in a process that then ends.

  Raises:
    ValueError: it fails.
  """
  code = 'import sys; from sora_jax import speed; speed.write(*sys.argv[1:])'
  asked = (settings.size, settings.steps, settings.guidance)
  done = subprocess.run(
    [sys.executable, '-c', code, str(path), *map(str, asked)],
    capture_output=True,
    text=True,
  )
  if done.returncode:
    raise ValueError(f'diffusers failed: {done.stderr[-400:]}')
  return Times(*json.loads(done.stdout.splitlines()[-1]))


def write(path: str, size: str, steps: str, guidance: str) -> None:
  """What the other process does: prints its times as a line of JSON."""
  import diffusers
  import torch

  half, single = torch.bfloat16, torch.float32
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  vae = diffusers.AutoencoderKLWan.from_pretrained(
    path, subfolder='vae', torch_dtype=single
  )
  pipe: Any = diffusers.WanPipeline.from_pretrained(
    path, vae=vae, torch_dtype=half
  ).to(device)
  shape, marks = batch.parse_size(size), []

  def mark(pipe, step, time_, values):
    if device == 'cuda':
      torch.cuda.synchronize()
    marks.append(time.perf_counter())
    return values

  def make(steps: int) -> float:
    begun = time.perf_counter()
    pipe(
      PROMPT,
      height=shape.height,
      width=shape.width,
      num_frames=shape.frames,
      num_inference_steps=steps,
      guidance_scale=float(guidance),
      generator=torch.Generator().manual_seed(0),
      callback_on_step_end=mark,
      output_type='np',
    )
    return time.perf_counter() - begun

  make(2)  # after which its kernels are chosen
  marks.clear()
  whole = make(int(steps))
  decoding = time.perf_counter() - marks[-1]
  step = (marks[-1] - marks[0]) / max(1, len(marks) - 1)
  on_gpu = device == 'cuda'
  peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
  print(json.dumps(Times(0.0, step, decoding, whole, peak)))
