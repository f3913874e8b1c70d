"""The main job in miniature: `launch.py demo`.

Loads the model that ships, or another one, or trains it anew, samples prompts
that between them show what it can do, writes the videos and a sheet of all of
them, and scores held-out prompts. In between, `showcase` makes one of every
other task. All of it is on one page, `gallery.html`, with some of the prompts
that failed.
"""

import functools
import itertools
import time
import types
from collections.abc import Sequence
from typing import Any

from etils import epath

from sora_jax import (
  evaluate,
  experiment,
  gallery,
  generate,
  label as label_lib,
  networks as networks_lib,
  rng,
  sample,
  sharding,
  showcase,
  tasks,
  train,
)
from sora_jax.data import video

# Beside the package, in a checkout.
EXPERIMENTS = epath.Path(__file__).parent.parent / 'experiments'

MOST_FAILURES = 4
PAGE_TEXT = (
  'Made from the prompts below the clips, and labelled as made by a network. '
  'Each command makes the same latent again.'
)
TASKS_TEXT = 'One model, one sampler. Small pictures are what it was given.'
FAILURES_TEXT = (
  'The first of the scored prompts that their clips do not keep, as the judge '
  'of that world sees them. Training saw none of these prompts.'
)


def main(config: None, flags: types.SimpleNamespace) -> None:
  """Writes and scores; prints the name of every file."""
  del config
  start = time.monotonic()
  if flags.retrain and (flags.model or flags.world != 'balls'):
    raise ValueError('--retrain trains the model of balls; leave out the rest')
  label = label_lib.of(flags)
  # The smallest of the experiments' batches has 4 rows.
  sharding.use_cores(4 if flags.retrain else 0)
  out = epath.Path(flags.out)
  out.mkdir(parents=True, exist_ok=True)
  model = epath.Path(flags.model or networks_lib.SHIPPED)
  model = _retrain(out) if flags.retrain else model
  networks = networks_lib.read(model)
  settings = generate.settings_of(networks.config.sample)
  prompts = showcase.EXAMPLES[flags.world].PROMPTS
  rng.check_seeds(flags.seed, len(prompts) + flags.cases)
  requests = [
    generate.Request(prompt, flags.seed + i) for i, prompt in enumerate(prompts)
  ]
  print(f'making {len(requests)} videos of {settings.size}')
  mesh = generate.mesh_for(len(requests) + flags.cases, settings)
  make = generate.make_generator(networks, settings, mesh)
  card = sample.card(networks, settings) | {'model': model.name}
  judge = evaluate.judge_of(flags.world)
  write = functools.partial(_write, networks, model, label, card, judge)
  made = list(make(requests))
  first = write(out, made)
  showcase.write_sheets(
    out / 'sheet',
    [clip.video for clip in made],
    [clip.request.prompt for clip in made],
    first,
    networks.config.sample.fps,
    label,
    card,
  )
  print('making one video of every other way of prompting')
  (out / 'tasks').mkdir(exist_ok=True)
  others = showcase.show(
    flags.world, networks, out / 'tasks', label, model, flags.seed
  )
  print(f'scoring {flags.cases} prompts that the training never saw')
  scored: list[generate.Made] = []

  def keeping(requests):
    for clip in make(requests):
      scored.append(clip)
      yield clip

  found = judge.score(
    networks, settings, keeping, flags.cases, flags.seed + len(prompts)
  )
  video.publish(out / 'scores.txt', f'{found.table}\n'.encode())
  print(found.table)
  print(f'{out / "scores.txt"}  the table')
  failures = out / 'failures'
  if failures.exists():  # of an earlier call
    failures.rmtree()
  failures.mkdir()
  broken = lambda clip: judge.broken(clip.video, clip.request.prompt)
  first_of = itertools.islice(filter(broken, scored), MOST_FAILURES)
  failed = write(failures, list(first_of))
  parts = [
    gallery.Part('Prompts', 'A sentence in, a video out.', first),
    gallery.Part('Every other way of prompting', TASKS_TEXT, others),
    gallery.Part('What fails', FAILURES_TEXT, failed),
  ]
  page = gallery.page('sora_jax', PAGE_TEXT, parts, found.table)
  video.publish(out / 'gallery.html', page.encode())
  print(f'{out / "gallery.html"}  all of it on one page')
  print(f'done in {time.monotonic() - start:.0f} s')


def _write(
  networks: networks_lib.Networks,
  model: epath.Path,
  label: label_lib.Label,
  card: dict[str, Any],
  judge: evaluate.Judge,
  out: epath.Path,
  made: Sequence[generate.Made],
) -> list[gallery.Entry]:
  """Writes clips, and returns what the page says of them."""
  settings = generate.settings_of(networks.config.sample)
  blank = generate.blank(networks.config, settings.size)
  scene = tasks.text_to_video(blank, settings.size)
  clip_of = {'task': 'text', 'scene_sha256': scene.digest}
  entries = []
  for i, clip in enumerate(made):
    prompt, seed = clip.request.prompt, clip.request.seed
    path = out / f'{sample.name_of(i, clip.request)}.mp4'
    facts = sample.facts_of(clip.request, label) | card | clip_of
    facts['latent_sha256'] = clip.digest
    fps = networks.config.sample.fps
    label_lib.write(path, [clip.video], fps, label, lambda told=facts: told)
    print(f'{path}  latent {clip.digest[:16]}  {prompt}')
    command = showcase.command_of(prompt, {'seed': seed}, model)
    broken = judge.broken(clip.video, prompt)
    title = f'seed {seed}'
    if broken:
      title += f'; not as told: {", ".join(broken)}'
    entries.append(gallery.Entry(path, title, prompt, clip.digest, command))
  return entries


def _retrain(out: epath.Path) -> epath.Path:
  """Trains all networks by the experiments that made what ships.

  A call that is interrupted and given again goes on.
  """
  short = experiment.load(f'{EXPERIMENTS}/autoencoder.py:balls')
  train.train(short, out / 'autoencoder')
  long = experiment.load(f'{EXPERIMENTS}/autoencoder.py:balls_long')
  long.init_from = str(out / 'autoencoder' / 'model')
  train.train(long, out / 'autoencoder_long')
  text = experiment.load(f'{EXPERIMENTS}/text_encoder.py:balls')
  text.autoencoder_from = str(out / 'autoencoder_long' / 'model')
  train.train(text, out / 'text')
  decoder = experiment.load(f'{EXPERIMENTS}/autoencoder.py:balls_decoder')
  decoder.init_from = text.autoencoder_from
  train.train(decoder, out / 'decoder')
  made = out / 'text' / 'model'
  for variant in ('balls', 'balls_cooled', 'balls_tasks', 'balls_openings'):
    diffusion = experiment.load(f'{EXPERIMENTS}/text_to_video.py:{variant}')
    diffusion.init_from = str(made)
    if variant in ('balls', 'balls_cooled'):
      diffusion.autoencoder_from = text.autoencoder_from
      diffusion.data.latents = str(out / 'text' / 'latents')
    else:  # its pieces need streams of their own
      diffusion.autoencoder_from = str(out / 'decoder' / 'model')
    train.train(diffusion, out / variant)
    made = out / variant / 'model'
  return made
