"""A clip of every way of prompting: the second half of `launch.py demo`.

Starts from clips that the world `balls` renders, combinations of which training
never showed. They are written beside what is made of them, so that a person
can ask for the same.
"""

import types
from collections.abc import Sequence
from typing import Any, NamedTuple

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
WIDE = batch.Size(80, 48, 33)
LONG = 121  # frames, of several windows


class Shown(NamedTuple):
  """A task as it is asked for."""

  scene: tasks.Scene
  prompt: str
  files: Sequence[str] = ()  # that it starts from


def show(
  networks: networks_lib.Networks,
  out: epath.Path,
  label: label_lib.Label,
  card: dict[str, Any],
  seed: int,
) -> None:
  """Writes what is given, a clip of each task, and a sheet of them all."""
  settings = generate.settings_of(networks.config.sample)
  settings = settings._replace(micro_batch=1)
  mesh = generate.mesh_for(1, settings)
  make = generate.make_generator(networks, settings, mesh)
  shown = asked(networks, settings.size, given(settings.size, out))
  whole, fps = [], networks.config.sample.fps
  for name, (scene, prompt, files) in shown.items():
    request = generate.Request(prompt, seed, scene.canvas)
    (made,) = make([request])
    whole.append(np.concatenate(list(scene.finish([made.video]))))
    path = out / f'{name}.{"mp4" if len(whole[-1]) > 1 else "png"}'
    facts = sample.facts_of(request, label) | card | {'task': name}
    flags = types.SimpleNamespace(video=[str(out / file) for file in files])
    inputs = prompting.inputs_of(flags)
    label_lib.write(
      path, whole[-1:], fps, label, lambda told=facts: told, inputs
    )
    print(f'{path}  {_line(prompt)}', flush=True)
  labels = [f'{name}: {_line(s.prompt)}' for name, s in shown.items()]
  sheet = video.contact_sheet(whole, labels=labels)
  label_lib.write(out / 'tasks.png', [sheet[None]], 1.0, label, lambda: card)
  print(f'{out / "tasks.png"}  eight frames of each')


class Given(NamedTuple):
  """A true clip to start from."""

  video: tasks.Video
  caption: str
  truth: balls.Truth


def given(size: batch.Size, out: epath.Path) -> dict[str, Given]:
  """True clips by the names of their files, which are written."""
  wide = size._replace(width=80, height=48)
  clips = {}
  for name, law, shape in (
    ('rolls.mp4', 'uniform', size),
    ('falls.mp4', 'parabola', size),
    ('bounces.mp4', 'bounce', size),
    ('narrow.mp4', 'parabola', wide),
  ):
    ((_, index),) = balls.held_out_prompts(SEED, 1, (law,))
    clip, truth = balls.clip(SEED, index, shape, 'test')
    left = (shape.width - shape.height) // 2
    frames = clip.video[:, :, left : shape.width - left]
    clips[name] = Given(frames, clip.caption, truth)
    video.write_video(out / name, frames, balls.FPS)
  return clips


def asked(
  networks: networks_lib.Networks, size: batch.Size, clips: dict[str, Given]
) -> dict[str, Shown]:
  """Every task once, by name."""
  encode = tasks.make_encoder(networks)
  names, (rolls, falls, bounces, narrow) = list(clips), clips.values()
  blank = lambda size: tasks.text_to_video(
    generate.blank(networks.config, size), size
  )
  empty, frames = blank(size), size.frames
  loop = canvas_lib.loop(frames // 4, *empty.canvas.known.shape[1:])
  two = lambda scene, one, other: Shown(
    prompting.spoken(scene, 2), f'{one.caption}\n{other.caption}'
  )
  edited = rolls.caption.replace(f'{rolls.truth.colours[0]} ball', 'blue ball')
  disc = figures.disc(rolls.truth, size)
  wide = size._replace(width=80, height=48)
  more = frames - 9  # beside three latents at the start
  shown = {
    'image': Shown(blank(size._replace(frames=1)), 'a large orange ball'),
    'animate': Shown(
      tasks.animate(encode, rolls.video[0], frames), rolls.caption, names[:1]
    ),
    'extend': Shown(
      tasks.extend(encode, falls.video[:9], more, latents=3),
      falls.caption,
      names[1:2],
    ),
    'extend_backwards': Shown(
      tasks.extend_backwards(encode, falls.video[-13:], more - 4, latents=3),
      falls.caption,
      names[1:2],
    ),
    'connect': two(
      tasks.connect(encode, rolls.video[:13], bounces.video, 19, latents=2),
      rolls,
      bounces,
    )._replace(files=(names[0], names[2])),
    'loop': Shown(tasks.text_to_video(loop, size), bounces.caption),
    'edit': Shown(
      tasks.edit(encode, rolls.video, prompting.DEFAULTS['strength']),
      edited,
      names[:1],
    ),
    'replace': Shown(
      tasks.replace(encode, rolls.video, disc), edited, names[:1]
    ),
    'outpaint': Shown(
      tasks.outpaint(encode, narrow.video, wide, left=16, top=0),
      narrow.caption,
      names[3:],
    ),
    'storyboard': two(empty, bounces, falls),
    'long': Shown(blank(size._replace(frames=LONG)), bounces.caption),
  }
  return shown


def _line(prompt: str) -> str:
  """A prompt as a flag gives it."""
  return prompt.replace('\n', prompting.BETWEEN_LINES)
