"""What the demo asks of a model of `scenes`: prompts, and a clip of each task.

Tasks start from held-out clips, combinations of object, event, place and colour
that training never shows. Three of them are after scenes that the report and
others showed of Sora: a product photo of a bicycle that starts to ride, a fish
replaced by a diver, and a drone that becomes a butterfly.
"""

from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, UInt8

from sora_jax import batch
from sora_jax.data import video
from sora_jax.data.worlds import scenes

PROMPTS = (
  'a red car drives right on a checkered floor',
  'a yellow butterfly is flying left on grass',
  'a blue fish swims to the left under water',
  'a white cat walks right on sand at dusk',
  'a purple drone hovers among ruins in fog',
  'two orange cubes fall and bounce on grass',
  'a cyan bicycle rides left on grass in the rain',
  'a pink ball rolls right on a white background',
)

SEED = 20  # of the clips that are given
CLIPS = {  # by the index of each
  'bicycle': 2074,
  'car': 785,
  'fish': 888,
  'drone': 678,
  'butterfly': 1135,
  'hovering': 944,
  'cat': 51,
  'ball': 415,
  'cube': 355,
}
WIDE = '160x96x17'
INNER = slice(32, 128)  # columns that are given of a wide clip
LONG = '128x128x121'  # of several windows
MARGIN = 8  # pixels around what is replaced


class Shown(NamedTuple):
  """A task as `sample` is asked for it."""

  prompt: str  # 'A | B' of two parts
  flags: dict[str, Any]  # beside it; files by their names


def render(size: batch.Size, out: epath.Path) -> dict[str, str]:
  """Writes what is given; returns the captions of the clips it is cut from."""
  captions, videos, masks = {}, {}, {}
  for name, index in CLIPS.items():
    shape = batch.parse_size(WIDE) if name == 'cube' else size
    clip, truth = scenes.clip(SEED, index, shape, 'test')
    captions[name], videos[name] = clip.caption, clip.video
    masks[name] = truth.mask == 1
  for file, frames in {
    'bicycle.png': videos['bicycle'][:1],
    'first.png': videos['hovering'][:1],
    'last.png': videos['hovering'][-1:],
    'start.mp4': videos['car'][:13],
    'end.mp4': videos['ball'][-13:],
    'drone.mp4': videos['drone'][:13],
    'butterfly.mp4': videos['butterfly'][8:21],
    'cat.mp4': videos['cat'],
    'fish.mp4': videos['fish'],
    'mask.mp4': boxes(masks['fish']),
    'inner.mp4': videos['cube'][:, :, INNER],
  }.items():
    video.write_video(out / file, frames, scenes.FPS)
  return captions


def tasks_of(captions: dict[str, str]) -> dict[str, Shown]:
  """What is asked of the files that `render` writes, by name."""
  told = captions

  def shown(prompt: str, task: str, **flags: Any) -> Shown:
    return Shown(prompt, {'task': task, **flags})

  return {
    'bicycle': shown(told['bicycle'], 'animate', image=['bicycle.png']),
    'diver': shown(
      told['fish'].replace('green fish', 'yellow diver'),
      'replace',
      video=['fish.mp4'],
      mask='mask.mp4',
    ),
    'drone_to_butterfly': shown(
      f'{told["drone"]} | {told["butterfly"]}',
      'connect',
      video=['drone.mp4', 'butterfly.mp4'],
      frames=19,
    ),
    'image': Shown('an orange cat on a checkered floor', {'size': '128x128x1'}),
    'keyframes': shown(
      told['hovering'], 'keyframes', image=['first.png', 'last.png']
    ),
    'extend': shown(
      told['car'], 'extend', video=['start.mp4'], frames=20, keep=3
    ),
    'extend_backwards': shown(
      told['ball'], 'extend_backwards', video=['end.mp4'], frames=20, keep=3
    ),
    'loop': shown(told['hovering'], 'loop'),
    'edit': shown(
      told['cat'].replace('a purple', 'an orange'), 'edit', video=['cat.mp4']
    ),
    'outpaint': shown(told['cube'], 'outpaint', video=['inner.mp4'], size=WIDE),
    'storyboard': shown(f'{told["hovering"]} | {told["drone"]}', 'storyboard'),
    'long': Shown(told['hovering'], {'size': LONG}),
  }


def boxes(mask: Bool[np.ndarray, 'T H W']) -> UInt8[np.ndarray, 'T H W 3']:
  """Around what a mask shows of each frame, white: room for what comes there.

  A frame that shows nothing has no box.
  """
  frames = np.zeros((*mask.shape, 3), np.uint8)
  for frame, seen in zip(frames, mask, strict=True):
    if seen.any():
      rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
      top, left = (max(0, places[0] - MARGIN) for places in (rows, columns))
      bottom, right = rows[-1] + 1 + MARGIN, columns[-1] + 1 + MARGIN
      frame[top:bottom, left:right] = 255
  return frames
