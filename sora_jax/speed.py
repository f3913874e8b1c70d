"""How long a clip takes, beside diffusers on the same files.

`launch.py bench --what=speed --model=DIR` makes a clip from a prompt twice, and
times the second time, when programs are compiled and weights in place. If
diffusers is there, it does the same in a process of its own: the transformer in
bfloat16 and the autoencoder in float32, as its documentation has it.
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
  """What the second clip takes on one device; the first takes longer."""

  first: float  # seconds, of the first clip
  step: float  # seconds, of the network in both ways that guidance needs
  decoding: float  # seconds
  whole: float  # seconds; of diffusers with the text encoder, which we ask once
  peak: float  # gigabytes; 0 where a device does not say


def main(flags: types.SimpleNamespace) -> None:
  """Prints a table, a line for each who made the clip.

  Raises:
    ValueError: a model that needs an image, or whose clips have windows.
  """
  path = epath.Path(flags.model or networks_lib.SHIPPED)
  networks = networks_lib.read(path)
  settings = generate.settings_of(networks.config.sample)._replace(
    micro_batch=1
  )
  settings = settings._replace(steps=flags.steps or settings.steps)
  networks_lib.check_from_text(networks, '--what=speed')
  if settings.size.frames > settings.window:
    raise ValueError(f'{path}: {settings.size} is longer than a window')
  rows = {}
  if directory.is_model(path) and importlib.util.find_spec('diffusers'):
    # First, as JAX takes most of a GPU once it is used.
    rows['diffusers'] = elsewhere(path, settings)
  rows['sora_jax'] = ours(networks, settings)
  print(
    f'{settings.size}, {settings.steps} steps, guidance {settings.guidance} '
    f'({jax.devices()[0].device_kind})'
  )
  heads = ('first s', 's a step', 'decoding s', 'whole s', 'peak GB')
  print(' ' * 10 + ''.join(f'{head:>12}' for head in heads))
  for name, times in rows.items():
    print(f'{name:10}' + ''.join(f'{value:12.3g}' for value in times))


def ours(networks: networks_lib.Networks, settings: generate.Settings) -> Times:
  """Of one clip on one device, by `generate.Stream`."""
  device = jax.local_devices()[0]
  mesh = sharding.make_mesh(sharding.MeshConfig(), [device])
  stream = generate.Stream(networks, settings, mesh, tell=print)

  def make() -> float:
    begun = time.perf_counter()
    for _ in stream([generate.Request(PROMPT, 0)]):
      pass
    return time.perf_counter() - begun

  first, before = make(), dict(stream.seconds)
  whole = make()
  took = {name: stream.seconds[name] - before[name] for name in before}
  step = took['painting'] / settings.steps
  stats = device.memory_stats() or {}
  peak = stats.get('peak_bytes_in_use', 0) / 1e9
  return Times(first, step, took['decoding'], whole, peak)


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

  first = make(2)  # steps, after which its kernels are chosen
  marks.clear()
  whole = make(int(steps))
  decoding = time.perf_counter() - marks[-1]
  step = (marks[-1] - marks[0]) / max(1, len(marks) - 1)
  on_gpu = device == 'cuda'
  peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
  print(json.dumps(Times(first, step, decoding, whole, peak)))
