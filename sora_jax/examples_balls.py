"""What the demo asks of a model of `balls`: prompts, and a clip of each task.

Tasks start from clips of combinations that training never showed.
"""

from typing import Any

import numpy as np
from etils import epath

from sora_jax import batch, examples, figures
from sora_jax.data import video
from sora_jax.data.worlds import balls

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

SEED = 20  # of the clips that are given
NARROW = slice(16, 64)  # columns that are given of a wide clip
# What ships makes 64x64x33.
WIDE = '80x48x33'
LONG = '64x64x121'  # of several windows

Shown = examples.Shown


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
