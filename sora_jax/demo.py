"""The main job in miniature: `launch.py demo`.

Loads the model that ships, or trains it anew, samples prompts that between
them show what it can do, writes the videos and a sheet of all of them, and
scores held-out prompts. In between, `showcase` makes one of every other task.
All of it is on one page, `gallery.html`, with some of the prompts that failed.
"""

import functools
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
  metrics,
  networks as networks_lib,
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
  'Made by the model in the package, from the prompts below the clips, and '
  'labelled as made by a network. Each command makes the same latent again.'
)
TASKS_TEXT = 'One model, one sampler. Small pictures are what it was given.'
FAILURES_TEXT = (
  'The first of the scored prompts that their clips do not keep, as a tracker '
  'sees them. Training saw none of these prompts.'
)

PROMPTS = (
  'a small red ball rolls right at speed 2.0',
  'a large blue ball moves to the left at speed 1.2',
  'a medium green ball bounces up and down',
  'a large orange ball thrown left at speed 2.5 falls',
  'a small purple ball flies right at speed 3.0 and drops',
  'a medium black ball falls in an arc to the right at speed 1.5',
  'a large red ball going right at 2.0 hits a small blue ball going left at '
  '3.0',
  'a small cyan ball rolls left at 2.5 into a large yellow ball rolling right '
  'at 1.5',
)


def main(config: None, flags: types.SimpleNamespace) -> None:
  """Writes and scores; prints the name of every file."""
  del config
  start = time.monotonic()
  label = label_lib.of(flags)
  # The smallest of the experiments' batches has 4 rows.
  sharding.use_cores(4 if flags.retrain else 0)
  out = epath.Path(flags.out)
  out.mkdir(parents=True, exist_ok=True)
  model = _retrain(out) if flags.retrain else networks_lib.SHIPPED
  networks = networks_lib.read(model)
  settings = generate.settings_of(networks.config.sample)
  requests = [
    generate.Request(prompt, flags.seed + i) for i, prompt in enumerate(PROMPTS)
  ]
  print(f'making {len(requests)} videos of {settings.size}')
  mesh = generate.mesh_for(len(requests) + flags.cases, settings)
  make = generate.make_generator(networks, settings, mesh)
  card = sample.card(networks, settings) | {'model': model.name}
  write = functools.partial(_write, networks, model, label, card)
  made = list(make(requests))
  first = write(out, made)
  showcase.write_sheets(
    out / 'sheet',
    [clip.video for clip in made],
    [clip.request.prompt for clip in made],
    networks.config.sample.fps,
    label,
    card,
  )
  print('making one video of every other way of prompting')
  (out / 'tasks').mkdir(exist_ok=True)
  others = showcase.show(networks, out / 'tasks', label, model, flags.seed)
  print(f'scoring {flags.cases} prompts that the training never saw')
  scored: list[generate.Made] = []

  def keeping(requests):
    for clip in make(requests):
      scored.append(clip)
      yield clip

  scores = evaluate.on_world(
    networks, settings, keeping, flags.cases, flags.seed + len(PROMPTS)
  )
  table = evaluate.world_table(scores)
  video.publish(out / 'scores.txt', f'{table}\n'.encode())
  print(table)
  print(f'{out / "scores.txt"}  the table')
  failures = out / 'failures'
  if failures.exists():  # of an earlier call
    failures.rmtree()
  failures.mkdir()
  failed = write(failures, _failed(scored)[:MOST_FAILURES])
  parts = [
    gallery.Part('Prompts', 'A sentence in, a video out.', first),
    gallery.Part('Every other way of prompting', TASKS_TEXT, others),
    gallery.Part('What fails', FAILURES_TEXT, failed),
  ]
  page = gallery.page('sora_jax', PAGE_TEXT, parts, table)
  video.publish(out / 'gallery.html', page.encode())
  print(f'{out / "gallery.html"}  all of it on one page')
  print(f'done in {time.monotonic() - start:.0f} s')


def _write(
  networks: networks_lib.Networks,
  model: epath.Path,
  label: label_lib.Label,
  card: dict[str, Any],
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
    broken = metrics.broken_promises(clip.video, prompt)
    title = f'seed {seed}'
    if broken:
      title += f'; not as told: {", ".join(broken)}'
    entries.append(gallery.Entry(path, title, prompt, clip.digest, command))
  return entries


def _failed(made: Sequence[generate.Made]) -> list[generate.Made]:
  """Clips that do not keep all that their prompts promise."""
  return [
    clip
    for clip in made
    if metrics.broken_promises(clip.video, clip.request.prompt)
  ]


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
