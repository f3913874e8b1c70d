"""A clip of every way of prompting: the second half of `launch.py demo`.

Starts from clips that the world `balls` renders, combinations of which training
never showed. They are written beside what is made of them, so that a person
can ask for the same.
"""

import types
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from sora_jax import (
  batch,
  canvas as canvas_lib,
  figures,
  generate,
  label as label_lib,
  networks as networks_lib,
  prompting,
  sample,
  tasks,
)
from sora_jax.data import video
from sora_jax.data.worlds import balls

SEED = 20  # of the clips that are given
LONG = 121  # frames, of several windows
NARROW = slice(16, 64)  # columns that are given of a wide clip


class Given(NamedTuple):
  """A true clip to start from."""

  video: tasks.Video
  caption: str
  truth: balls.Truth


class Stage(NamedTuple):
  """What the tasks are shown with."""

  networks: networks_lib.Networks
  size: batch.Size
  encode: tasks.Encode
  rolls: Given
  falls: Given
  bounces: Given
  wide: Given  # 80x48

  def blank(self, **other: int) -> tasks.Scene:
    size = self.size._replace(**other)
    canvas = generate.blank(self.networks.config, size)
    return tasks.text_to_video(canvas, size)


class Shown(NamedTuple):
  """A task as it is asked for."""

  scene: tasks.Scene
  prompt: str
  videos: Sequence[str] = ()  # files that it starts from
  images: Sequence[str] = ()


def show(
  networks: networks_lib.Networks,
  out: epath.Path,
  label: label_lib.Label,
  model: str,
  seed: int,
) -> None:
  """Writes what is given, a clip of each task, and a sheet of them all."""
  settings = generate.settings_of(networks.config.sample)
  settings = settings._replace(micro_batch=1)
  mesh = generate.mesh_for(1, settings)
  make = generate.make_generator(networks, settings, mesh)
  stage = set_stage(networks, settings.size, out)
  card = sample.card(networks, settings) | {'model': model}
  fps, whole, labels = networks.config.sample.fps, [], []
  for name, task in TASKS.items():
    scene, prompt, videos, images = task(stage)
    request = generate.Request(prompt, seed, scene.canvas)
    (made,) = make([request])
    whole.append(np.concatenate(list(scene.finish([made.video]))))
    path = out / f'{name}.{"mp4" if scene.size.frames > 1 else "png"}'
    facts = sample.facts_of(request, label) | card
    facts |= {'size': str(scene.size), 'latent_sha256': made.digest}
    flags = types.SimpleNamespace(
      video=[str(out / file) for file in videos],
      image=[str(out / file) for file in images],
      label_prompt=label.prompt,
    )
    inputs = prompting.inputs_of(flags)
    label_lib.write(
      path, whole[-1:], fps, label, lambda told=facts: told, inputs
    )
    labels.append(f'{name}: {sample.one_line(prompt)}')
    print(f'{path}  {sample.one_line(prompt)}', flush=True)
  sheet = video.contact_sheet(whole, labels=labels)
  facts = {'weights_sha256': card['weights_sha256'], 'model': model}
  label_lib.write(out / 'tasks.png', [sheet[None]], 1.0, label, lambda: facts)
  print(f'{out / "tasks.png"}  eight frames of each')


def set_stage(
  networks: networks_lib.Networks, size: batch.Size, out: epath.Path
) -> Stage:
  """Renders what is given, and writes it too."""
  wide = size._replace(width=80, height=48)
  clips = {}
  for name, law, shape in (
    ('rolls', 'uniform', size),
    ('falls', 'parabola', size),
    ('bounces', 'bounce', size),
    ('wide', 'parabola', wide),
  ):
    ((_, index),) = balls.held_out_prompts(SEED, 1, (law,))
    clip, truth = balls.clip(SEED, index, shape, 'test')
    clips[name] = Given(clip.video, clip.caption, truth)
  for name in ('rolls', 'falls', 'bounces'):
    video.write_video(out / f'{name}.mp4', clips[name].video, balls.FPS)
  rolls, narrow = clips['rolls'].video, clips['wide'].video[:, :, NARROW]
  video.write_video(out / 'narrow.mp4', narrow, balls.FPS)
  video.write_video(out / 'first.png', rolls[:1], balls.FPS)
  video.write_video(out / 'last.png', rolls[-1:], balls.FPS)
  return Stage(networks, size, tasks.make_encoder(networks), **clips)


def _image(stage: Stage) -> Shown:
  return Shown(stage.blank(frames=1), 'a large orange ball')


def _animate(stage: Stage) -> Shown:
  clip = stage.rolls
  scene = tasks.animate(stage.encode, clip.video[0], stage.size.frames)
  return Shown(scene, clip.caption, images=['first.png'])


def _keyframes(stage: Stage) -> Shown:
  clip, last = stage.rolls, stage.size.frames - 1
  stills = {0: clip.video[0], last: clip.video[last]}
  scene = tasks.keyframes(stage.encode, stills, last + 1)
  return Shown(scene, clip.caption, images=['first.png', 'last.png'])


def _extend(stage: Stage) -> Shown:
  clip = stage.falls
  scene = tasks.extend(stage.encode, clip.video[:9], 24, latents=3)
  return Shown(scene, clip.caption, ['falls.mp4'])


def _extend_backwards(stage: Stage) -> Shown:
  clip = stage.falls
  scene = tasks.extend_backwards(stage.encode, clip.video[-13:], 20, latents=3)
  return Shown(scene, clip.caption, ['falls.mp4'])


def _connect(stage: Stage) -> Shown:
  one, other = stage.rolls, stage.bounces
  scene = tasks.connect(stage.encode, one.video[:13], other.video, 19, 2)
  return _of_two(scene, one, other)._replace(
    videos=['rolls.mp4', 'bounces.mp4']
  )


def _loop(stage: Stage) -> Shown:
  blank = stage.blank().canvas
  loop = canvas_lib.loop(len(blank.start) - 1, *blank.known.shape[1:])
  return Shown(tasks.text_to_video(loop, stage.size), stage.bounces.caption)


def _edit(stage: Stage) -> Shown:
  strength = prompting.DEFAULTS['strength']
  scene = tasks.edit(stage.encode, stage.rolls.video, strength)
  return Shown(scene, _recoloured(stage.rolls), ['rolls.mp4'])


def _replace(stage: Stage) -> Shown:
  clip = stage.rolls
  disc = figures.disc(clip.truth, stage.size)
  scene = tasks.replace(stage.encode, clip.video, disc)
  return Shown(scene, _recoloured(clip), ['rolls.mp4'])


def _outpaint(stage: Stage) -> Shown:
  clip = stage.wide
  frames, height, width, _ = clip.video.shape
  narrow, size = clip.video[:, :, NARROW], batch.Size(width, height, frames)
  scene = tasks.outpaint(stage.encode, narrow, size, NARROW.start, 0)
  return Shown(scene, clip.caption, ['narrow.mp4'])


def _storyboard(stage: Stage) -> Shown:
  return _of_two(stage.blank(), stage.bounces, stage.falls)


def _long(stage: Stage) -> Shown:
  return Shown(stage.blank(frames=LONG), stage.bounces.caption)


def _of_two(scene: tasks.Scene, one: Given, other: Given) -> Shown:
  """A scene whose halves listen to a caption each."""
  prompt = f'{one.caption}\n{other.caption}'
  return Shown(prompting.spoken(scene, 2), prompt)


def _recoloured(clip: Given) -> str:
  old = clip.truth.colours[0]
  new = 'blue' if old != 'blue' else 'red'
  return clip.caption.replace(f'{old} ball', f'{new} ball')


TASKS: dict[str, Callable[[Stage], Shown]] = {
  'image': _image,
  'animate': _animate,
  'keyframes': _keyframes,
  'extend': _extend,
  'extend_backwards': _extend_backwards,
  'connect': _connect,
  'loop': _loop,
  'edit': _edit,
  'replace': _replace,
  'outpaint': _outpaint,
  'storyboard': _storyboard,
  'long': _long,
}
