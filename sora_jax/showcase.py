"""A clip of every way of prompting: the second half of `launch.py demo`.

Starts from clips that a world renders, combinations of which training never
showed (`examples`). They are written first, and each task is asked for as
`sample` takes it, so that a command makes the same bits again.
"""

import shlex
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from sora_jax import (
  batch,
  examples,
  examples_balls,
  gallery,
  generate,
  label as label_lib,
  networks as networks_lib,
  prompting,
  provenance,
  sample,
  tasks,
)
from sora_jax.data import sheets

EXAMPLES: dict[str, Any] = {'balls': examples_balls, 'scenes': examples}
COLUMNS, COLUMN = 4, 160  # of clips that move, and their pixels


def show(
  world: str,
  networks: networks_lib.Networks,
  out: epath.Path,
  label: label_lib.Label,
  model: epath.Path,
  seed: int,
) -> list[gallery.Entry]:
  """Writes what is given, a clip of each task, and a sheet of them all."""
  settings = generate.settings_of(networks.config.sample)
  settings = settings._replace(micro_batch=1)
  mesh = generate.mesh_for(1, settings)
  make = generate.make_generator(networks, settings, mesh)
  card = sample.card(networks, settings) | {'model': model.name}
  fps, whole, entries = networks.config.sample.fps, [], []
  given = EXAMPLES[world]
  captions = given.render(settings.size, out)
  for name, shown in given.tasks_of(captions).items():
    flags = _flags(shown, out)
    asked = sample.override(settings, flags)
    prompt = shown.prompt.replace(prompting.BETWEEN_LINES, '\n')
    scene = prompting.scene_of(flags, networks, asked, [prompt])
    (made,) = make([generate.Request(prompt, seed, scene.canvas)])
    whole.append(np.concatenate(list(scene.finish([made.video]))))
    path = out / f'{name}.{"mp4" if scene.size.frames > 1 else "png"}'
    facts = sample.facts_of(made.request, label) | card
    facts |= {
      'size': str(scene.size),
      'task': flags.task,
      'scene_sha256': scene.digest,
      'latent_sha256': made.digest,
      **prompting.numbers_of(flags),
    }
    flags.label_prompt = label.prompt
    inputs = prompting.inputs_of(flags)
    label_lib.write(
      path, whole[-1:], fps, label, lambda told=facts: told, inputs
    )
    told = {'seed': seed, 'micro_batch': 1} | _placed(shown.flags, out)
    told |= {'format': 'png'} if path.suffix == '.png' else {}
    command = command_of(shown.prompt, told, model)
    files = tuple(out / file for file in _files(shown))
    title = name.replace('_', ' ')
    entries.append(
      gallery.Entry(path, title, shown.prompt, made.digest, command, files)
    )
    print(f'{path}  latent {made.digest[:16]}  {shown.prompt}', flush=True)
  labels = [f'{entry.title}: {entry.prompt}' for entry in entries]
  write_sheets(out / 'tasks', whole, labels, entries, fps, label, card)
  return entries


def write_sheets(
  stem: epath.Path,
  videos: Sequence[tasks.Video],
  labels: Sequence[str],
  entries: Sequence[gallery.Entry],
  fps: float,
  label: label_lib.Label,
  card: dict[str, Any],
) -> None:
  """All clips in one picture, twice: frame beside frame, and moving.

  Their labels have those of the clips, which say how each was made.
  """
  facts = {name: card[name] for name in ('weights_sha256', 'model')}
  parts = tuple(
    provenance.examine(
      entry.path.name if label.prompt else f'clip {i}{entry.path.suffix}',
      entry.path.read_bytes(),
      provenance.COMPONENT,
    )
    for i, entry in enumerate(entries, 1)
  )
  still = sheets.contact_sheet(videos, labels=labels)[None]
  scale = max(1, COLUMN // max(clip.shape[2] for clip in videos))
  moving = sheets.moving_sheet(videos, labels, COLUMNS, scale)
  for suffix, frames in {'.png': still, '.gif': moving}.items():
    path = stem.with_suffix(suffix)
    label_lib.write(path, [frames], fps, label, lambda: facts, parts)
  print(f'{stem.with_suffix(".png")}  eight frames of each')
  print(f'{stem.with_suffix(".gif")}  all of them, moving')


def _files(shown: examples.Shown) -> list[str]:
  """The names of what a task is given."""
  flags = shown.flags
  masks = [flags['mask']] if 'mask' in flags else []
  return [*flags.get('image', ()), *flags.get('video', ()), *masks]


def _placed(flags: dict[str, Any], out: epath.Path) -> dict[str, Any]:
  """Flags whose files are those of a directory."""
  return {
    name: [str(out / file) for file in value]
    if isinstance(value, list)
    else str(out / value)
    if name == 'mask'
    else value
    for name, value in flags.items()
  }


def _flags(shown: examples.Shown, out: epath.Path) -> types.SimpleNamespace:
  """As `sample` would read them from its command line."""
  flags = {'task': 'text'} | _placed(shown.flags, out)
  if 'size' in flags:
    flags['size'] = batch.parse_size(flags['size'])
  return types.SimpleNamespace(**flags)


def command_of(prompt: str, flags: dict[str, Any], model: epath.Path) -> str:
  """The command that makes a clip again."""
  words = [f'--prompt={prompt}']
  if model != networks_lib.SHIPPED:
    words.append(f'--model={model}')
  for name, value in flags.items():
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    words += [f'--{name}={item}' for item in values]
  return shlex.join(['python', 'launch.py', 'sample', *words])
