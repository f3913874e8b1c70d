"""What a step cache may use again, and what it saves: `bench --what=cache`.

Measures how far the predictions of a model change from step to step, which is
what `stepcache` goes by, and holds clips that are made with less and less of
the network against those that are made with all of it.
"""

import types

import jax
import numpy as np

from sora_jax import (
  captions,
  generate,
  heldout,
  metrics,
  networks as networks_lib,
  paint,
  samplers,
  sharding,
)
from sora_jax.data.worlds import balls
from sora_jax.weights import directory

CLIPS = 8  # whose changes are averaged
CASES = 16  # held-out prompts
TOLERANCES = (0.01, 0.02, 0.05, 0.1, 0.2)


def main(flags: types.SimpleNamespace) -> None:
  """Measures the curve, and stores it where asked to; prints it and a table."""
  sharding.use_cores()
  path = flags.model or networks_lib.SHIPPED
  if flags.store and not flags.model:
    raise ValueError('--store needs --model=DIR; what ships stays as it is')
  if flags.store and not directory.is_model(path):
    raise ValueError(f'--store: {path} has no {directory.INDEX} to store in')
  networks = networks_lib.read(path)
  networks_lib.check_from_text(networks, '--what=cache')
  sample = networks.config.sample
  settings = generate.settings_of(sample)._replace(cache=0.0)
  settings = settings._replace(steps=flags.steps or settings.steps)
  sample.cache_curve = curve(networks, settings)
  print(f'cache_curve: {", ".join(map(str, sample.cache_curve))}', flush=True)
  if flags.store:
    directory.write_sampling(path, networks_lib.sampling(networks.config))
  print_savings(networks, settings)


def curve(
  networks: generate.Networks, settings: generate.Settings
) -> tuple[float, ...]:
  """Mean change of the predictions from each step to the next, as of `euler`.

  Of the prompts that the model is sampled with while it trains.

  Raises:
    ValueError: there are none, or too few steps for a change.
  """
  # In whose steps, unlike those of others, levels are equal before the shift.
  settings = settings._replace(sampler='euler', cache=0.0)
  prompts = networks.config.sample.prompts
  if not prompts:
    raise ValueError('cache: the model has no sample.prompts to measure with')
  if settings.steps < 2:
    raise ValueError(
      f'cache: steps={settings.steps} must be 2 or more; what is measured is '
      'the change from one to the next'
    )
  requests = [
    generate.Request(prompts[i % len(prompts)], i) for i in range(CLIPS)
  ]
  mesh = generate.mesh_for(CLIPS, settings)
  layout = generate.blank(networks.config, settings.size)
  shared = generate.schedule(networks.config, settings, layout)
  encoder = captions.Encoder(
    networks, captions.device_of(settings.text_on_host, mesh)
  )
  encoder.learn([*prompts, settings.negative])
  rows = generate.to_rows(
    requests, [layout] * CLIPS, encoder, settings.negative
  )
  known = np.broadcast_to(shared.plan.known, (CLIPS, *shared.plan.known.shape))
  rows = rows._replace(known=known)
  with sharding.use(mesh):
    shared = jax.device_put(
      shared._replace(params=networks_lib.painters(networks.params)),
      sharding.replicated(mesh),
    )
  meter = paint.make_meter(networks.config, settings, mesh)
  count = mesh.size * settings.micro_batch
  changes = []
  for i in range(0, CLIPS, count):
    fill = np.arange(i, i + count) % CLIPS
    with sharding.use(mesh):
      part = jax.tree.map(lambda leaf, fill=fill: leaf[fill], rows)
      changes.append(np.asarray(meter(shared, part)))
  # A clip has a row or two; those of clips that only fill are left out.
  every = np.concatenate(changes)
  made = -(-CLIPS // count) * count
  mean = every[: len(every) * CLIPS // made].mean(axis=0)
  return tuple(float(f'{change:.3g}') for change in mean)


def calls(networks: generate.Networks, settings: generate.Settings) -> int:
  """How often the network is called for a clip."""
  layout = generate.blank(networks.config, settings.size)
  shared = generate.schedule(networks.config, settings, layout)
  if shared.calls is not None:
    return int(shared.calls.sum())
  return len(samplers.SAMPLERS[settings.sampler].visits(shared.levels)) - 1


def print_savings(
  networks: generate.Networks, settings: generate.Settings
) -> None:
  """A line for each tolerance, and one for as many steps without a cache."""
  prompts = balls.held_out_prompts(heldout.SEED, CASES)
  requests = [generate.Request(p, i) for i, (p, _) in enumerate(prompts)]
  make = lambda settings: [
    clip.video for clip in generate.sample(networks, requests, settings)
  ]
  whole = make(settings)
  evaluations = calls(networks, settings)
  print(
    f'{CASES} clips of {settings.size}, PSNR in dB against {evaluations} '
    f'evaluations of the network in {settings.steps} steps of '
    f'{settings.sampler}'
  )
  print(f'{"":20}{"evaluations":>12}{"mean":>8}{"worst":>8}')
  for tolerance in TOLERANCES:
    cached = settings._replace(cache=tolerance)
    left = calls(networks, cached)
    fewer = settings._replace(
      steps=max(1, settings.steps * left // evaluations)
    )
    for name, one in (
      (f'cache={tolerance}', cached),
      (f'steps={fewer.steps}', fewer),
    ):
      scores = [metrics.psnr(*p) for p in zip(make(one), whole, strict=True)]
      print(
        f'{name:20}{calls(networks, one):12}'
        f'{np.mean(scores):8.1f}{min(scores):8.1f}',
        flush=True,
      )
