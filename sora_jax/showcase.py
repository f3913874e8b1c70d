"""A clip of every way of prompting: the second half of `launch.py demo`.

Starts from clips that the world `balls` renders, combinations of which training
never showed. They are written first, and each task is asked for as `sample`
takes it, so that a command makes the same bits again.
"""

import shlex
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from sora_jax import (
  batch,
  figures,
  gallery,
  generate,
  label as label_lib,
  networks as networks_lib,
  prompting,
  sample,
  tasks,
)
from sora_jax.data import sheets, video
from sora_jax.data.worlds import balls

SEED = 20  # of the clips that are given
NARROW = slice(16, 64)  # columns that are given of a wide clip
COLUMNS = 4  # of clips that move
# What ships makes 64x64x33.
WIDE = '80x48x33'
LONG = '64x64x121'  # of several windows


class Shown(NamedTuple):
  """A task as `sample` is asked for it."""

  prompt: str  # 'A | B' of two parts
  flags: dict[str, Any]  # beside it; files by their names


def show(
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
  for name, shown in tasks_of(render(settings.size, out)).items():
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
  facts = {'weights_sha256': card['weights_sha256'], 'model': model.name}
  write_sheets(out / 'tasks', whole, labels, fps, label, facts)
  return entries


def write_sheets(
  stem: epath.Path,
  videos: Sequence[tasks.Video],
  labels: Sequence[str],
  fps: float,
  label: label_lib.Label,
  facts: dict[str, Any],
) -> None:
  """All clips in one picture, twice: frame beside frame, and moving."""
  still = sheets.contact_sheet(videos, labels=labels)[None]
  moving = sheets.moving_sheet(videos, labels, COLUMNS)
  for suffix, frames in {'.png': still, '.gif': moving}.items():
    path = stem.with_suffix(suffix)
    label_lib.write(path, [frames], fps, label, lambda: facts)
  print(f'{stem.with_suffix(".png")}  eight frames of each')
  print(f'{stem.with_suffix(".gif")}  all of them, moving')


def render(size: batch.Size, out: epath.Path) -> dict[str, str]:
  """Writes what is given; returns the captions of the clips it is cut from."""
  captions, truths, videos = {}, {}, {}
  for name, law, shape in (
    ('rolls', 'uniform', size),
    ('falls', 'parabola', size),
    ('bounces', 'bounce', size),
    ('wide', 'parabola', batch.parse_size(WIDE)),
  ):
    ((_, index),) = balls.held_out_prompts(SEED, 1, (law,))
    clip, truths[name] = balls.clip(SEED, index, shape, 'test')
    captions[name], videos[name] = clip.caption, clip.video
  rolls, falls, bounces, wide = videos.values()
  disc = figures.disc(truths['rolls'], size)
  captions['recoloured'] = _recoloured(captions['rolls'], truths['rolls'])
  for file, frames in {
    'rolls.mp4': rolls,
    'before.mp4': rolls[:13],
    'bounces.mp4': bounces,
    'narrow.mp4': wide[:, :, NARROW],
    'start.mp4': falls[:9],
    'end.mp4': falls[-13:],
    'mask.mp4': np.repeat(255 * disc[..., None].astype(np.uint8), 3, axis=-1),
    'first.png': rolls[:1],
    'last.png': rolls[-1:],
  }.items():
    video.write_video(out / file, frames, balls.FPS)
  return captions


def tasks_of(captions: dict[str, str]) -> dict[str, Shown]:
  """What is asked of the files that `render` writes, by name."""
  rolls, falls, bounces, wide, other = captions.values()

  def shown(prompt: str, task: str, **flags: Any) -> Shown:
    return Shown(prompt, {'task': task, **flags})

  video_of = lambda *names: {'video': [f'{name}.mp4' for name in names]}
  return {
    'image': Shown('a large orange ball', {'size': '64x64x1'}),
    'animate': shown(rolls, 'animate', image=['first.png']),
    'keyframes': shown(rolls, 'keyframes', image=['first.png', 'last.png']),
    'extend': shown(falls, 'extend', **video_of('start'), frames=24, keep=3),
    'extend_backwards': shown(
      falls, 'extend_backwards', **video_of('end'), frames=20, keep=3
    ),
    'connect': shown(
      f'{rolls} | {bounces}',
      'connect',
      **video_of('before', 'bounces'),
      frames=19,
    ),
    'loop': shown(bounces, 'loop'),
    'edit': shown(other, 'edit', **video_of('rolls')),
    'replace': shown(other, 'replace', **video_of('rolls'), mask='mask.mp4'),
    'outpaint': shown(wide, 'outpaint', **video_of('narrow'), size=WIDE),
    'storyboard': shown(f'{bounces} | {falls}', 'storyboard'),
    'long': Shown(bounces, {'size': LONG}),
  }


def _recoloured(caption: str, truth: balls.Truth) -> str:
  old = truth.colours[0]
  new = 'blue' if old != 'blue' else 'red'
  return caption.replace(f'{old} ball', f'{new} ball')


def _files(shown: Shown) -> list[str]:
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


def _flags(shown: Shown, out: epath.Path) -> types.SimpleNamespace:
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
