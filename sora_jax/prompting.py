"""Flags to scenes: `launch.py sample --task=NAME` with images and videos."""

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, UInt8

from sora_jax import (
  batch,
  canvas as canvas_lib,
  experiment,
  generate,
  provenance,
  tasks,
)
from sora_jax.data import transforms, video

# Of flags that a task may leave out.
DEFAULTS = {'frames': 16, 'keep': 2, 'strength': 0.6, 'place': ''}
INPUTS = ('image', 'video', 'mask', *DEFAULTS)
MOST_LINES = 16
SAME_RATE = 0.01  # of two rates, by how much one may be off
BETWEEN_LINES = ' | '  # as a flag gives a prompt of several parts


class Asked(NamedTuple):
  """What the flags of a call give a task."""

  networks: generate.Networks
  size: batch.Size
  window: int  # frames that are painted at once
  tile: int  # pixels a side that are encoded at once; 0: all
  lines: int  # of the prompts
  image: list[str]
  video: list[str]
  mask: str
  frames: int
  keep: int
  strength: float
  place: str

  def encoder(self) -> tasks.Encode:
    """Compiled at its first clip, before which mistakes are found."""
    made = functools.cache(lambda: tasks.make_encoder(self.networks, self.tile))
    return lambda clip: made()(clip)

  def images(self) -> list[UInt8[np.ndarray, 'H W 3']]:
    return [_still(name, self.size) for name in self.image]

  def clips(self, whole: bool = False) -> list[tasks.Video]:
    """Frames at the size asked for; if `whole`, as many as fill latents."""
    clips = [_frames(name, self.size) for name in self.video]
    return [_whole(clip) for clip in clips] if whole else clips


class Task(NamedTuple):
  """What a task is, and takes: inputs that it needs, and that it may have."""

  summary: str
  build: Callable[[Asked], tasks.Scene]
  images: tuple[int, ...] = (0,)  # how many there may be
  lines: int = 1  # parts that a prompt may have
  videos: int = 0
  may: tuple[str, ...] = ()


def _text(asked: Asked) -> tasks.Scene:
  blank = generate.blank(asked.networks.config, asked.size)
  return tasks.text_to_video(blank, asked.size)


def _animate(asked: Asked) -> tasks.Scene:
  return tasks.animate(asked.encoder(), asked.images()[0], asked.size.frames)


def _keyframes(asked: Asked) -> tasks.Scene:
  """Images spread evenly from the first frame to the last latent."""
  _check_parts(asked, 'keyframes', len(asked.image), 'images', known=True)
  images = asked.images()
  places = np.linspace(0, asked.size.frames - 1, len(images)).round()
  placed = dict(zip(places.astype(int).tolist(), images, strict=True))
  return tasks.keyframes(asked.encoder(), placed, asked.size.frames)


def _extend(asked: Asked) -> tasks.Scene:
  (clip,) = asked.clips()
  return tasks.extend(asked.encoder(), clip, asked.frames, asked.keep)


def _extend_backwards(asked: Asked) -> tasks.Scene:
  (clip,) = asked.clips()
  return tasks.extend_backwards(asked.encoder(), clip, asked.frames, asked.keep)


def _connect(asked: Asked) -> tasks.Scene:
  _check_same_size('video', asked.video[0], asked.video[1])
  _check_same_rate(*asked.video)
  one, other = asked.clips()
  known = one, other, asked.frames, asked.keep
  return tasks.connect(asked.encoder(), *known, asked.lines)


def _loop(asked: Asked) -> tasks.Scene:
  if not 9 <= asked.size.frames <= asked.window:
    raise ValueError(
      '--task=loop is painted at once: its --size must have 9 to '
      f'{asked.window} frames, not {asked.size.frames}'
    )
  blank = generate.blank(asked.networks.config, asked.size)
  painted = canvas_lib.loop(len(blank.start) - 1, *blank.known.shape[1:])
  return tasks.text_to_video(painted, asked.size)


def _edit(asked: Asked) -> tasks.Scene:
  (clip,) = asked.clips(whole=True)
  return tasks.edit(asked.encoder(), clip, asked.strength)


def _replace(asked: Asked) -> tasks.Scene:
  (clip,) = asked.clips()
  if ',' not in asked.mask:
    _check_same_size('mask', asked.video[0], asked.mask)
  mask = _mask(asked.mask, asked.video[0], clip)
  return tasks.replace(asked.encoder(), _whole(clip), _whole(mask))


def _outpaint(asked: Asked) -> tasks.Scene:
  (name,) = asked.video
  clip = _whole(_read(name))
  size = asked.size._replace(frames=len(clip))
  sides = (size.width, clip.shape[2]), (size.height, clip.shape[1])
  if any(a < b for a, b in sides) or all(a == b for a, b in sides):
    raise ValueError(
      f'--task=outpaint needs a --size larger than the {clip.shape[2]}x'
      f'{clip.shape[1]} pixels of the video, not {size.width}x{size.height}'
    )
  spare = size.width - clip.shape[2], size.height - clip.shape[1]
  left, top = spare[0] // 2, spare[1] // 2
  if asked.place:
    left, top = _numbers('place', asked.place, 2)
    if left > spare[0] or top > spare[1]:
      raise ValueError(
        f'--place={asked.place}: the video may lie from 0,0 to '
        f'{spare[0]},{spare[1]}'
      )
  return tasks.outpaint(asked.encoder(), clip, size, left, top)


def _storyboard(asked: Asked) -> tasks.Scene:
  if asked.lines < 2:
    raise ValueError(
      f'--task=storyboard: a prompt has parts, as A{BETWEEN_LINES}B, and this '
      'has one'
    )
  _check_parts(asked, 'storyboard', asked.lines, 'parts')
  return spoken(_text(asked), asked.lines)


def spoken(scene: tasks.Scene, lines: int) -> tasks.Scene:
  """The lines of a prompt speak one after the other, for as long each."""
  starts = canvas_lib.even_starts(scene.canvas.frames, lines)
  canvas = canvas_lib.storyboard(scene.canvas, starts)
  return scene._replace(canvas=canvas)


TASKS = {
  'text': Task('a video from its prompt', _text),
  'animate': Task('an image that starts to move', _animate, images=(1,)),
  'keyframes': Task(
    'images at even distances, and motion between them',
    _keyframes,
    images=tuple(range(1, 17)),
  ),
  'extend': Task(
    'a video that goes on', _extend, videos=1, may=('frames', 'keep')
  ),
  'extend_backwards': Task(
    'a video that begins earlier',
    _extend_backwards,
    videos=1,
    may=('frames', 'keep'),
  ),
  'connect': Task(
    'two videos, and a way from one to the other',
    _connect,
    videos=2,
    lines=2,
    may=('frames', 'keep'),
  ),
  'loop': Task('a video without beginning or end', _loop),
  'edit': Task('a video repainted', _edit, videos=1, may=('strength',)),
  'replace': Task(
    'a video repainted under a mask', _replace, videos=1, may=('mask',)
  ),
  'outpaint': Task(
    'a video inside a larger frame', _outpaint, videos=1, may=('place',)
  ),
  'storyboard': Task(
    'a prompt A | B | C, part after part', _storyboard, lines=MOST_LINES
  ),
}


def scene_of(
  flags: types.SimpleNamespace,
  networks: generate.Networks,
  settings: generate.Settings,
  prompts: list[str],
) -> tasks.Scene:
  """The scene that all prompts of a call share.

  Raises:
    ValueError: a flag that the task does not take, or lacks, or inputs that do
      not fit it.
  """
  given = {name: getattr(flags, name, None) for name in INPUTS}
  given = {name: value for name, value in given.items() if value is not None}
  name = flags.task
  if name not in TASKS:
    hint = experiment.nearest(name, TASKS)
    raise ValueError(f'--task={name} is unknown{hint}')
  task = TASKS[name]
  _check_given(name, task, given)
  _check_files(given)
  _check_frames(name, given)
  lines = {len(prompt.split('\n')) for prompt in prompts}
  if max(lines) > task.lines:
    raise ValueError(
      f'--task={name}: a prompt has {max(lines)} parts between '
      f'{BETWEEN_LINES.strip()!r}; it listens to {task.lines}'
    )
  if any(not part.strip() for x in prompts for part in x.split('\n')):
    raise ValueError(f'--task={name}: a part of a prompt is empty; fill it in')
  if len(lines) > 1:
    raise ValueError(f'prompts have {sorted(lines)} parts; they need as many')
  values: dict[str, Any] = dict(image=[], video=[], mask='')
  values |= DEFAULTS | given
  size, window, tile = settings.size, settings.window, settings.tile
  asked = Asked(networks, size, window, tile, max(lines), **values)
  _tell_rates(asked)
  scene = task.build(asked)
  _tell_frames(name, task, getattr(flags, 'size', None), scene.size)
  _check_seen(name, task, scene, window)
  if networks.config.model.condition_channels:
    if len(scene.keep) > window:
      raise ValueError(
        f'--task={name}: the model sees all that is known at once, so '
        f'{len(scene.keep)} frames must be {window} or fewer'
      )
    scene = tasks.condition(networks, scene, tile)
  return scene


def numbers_of(flags: types.SimpleNamespace) -> dict[str, Any]:
  """Flags of a task that are no names of files, as they were given or are."""
  values: dict[str, Any] = {}
  for name in TASKS[flags.task].may:
    value = getattr(flags, name, None)
    values[name] = DEFAULTS.get(name) if value is None else value
  if ',' not in str(values.get('mask', ',')):  # a file
    del values['mask']
  return values


def inputs_of(flags: types.SimpleNamespace) -> tuple[provenance.Input, ...]:
  """The files that a scene is made of, as their labels go into its own.

  A single video is what the clip was before; several, and images, are parts
  of it; a mask only steers. Names of files may hold a prompt, so they stay out
  where it does.
  """
  videos = list(getattr(flags, 'video', None) or ())
  images = list(getattr(flags, 'image', None) or ())
  mask = getattr(flags, 'mask', None) or ''
  role = provenance.PARENT if len(videos) == 1 else provenance.COMPONENT
  roles = [(name, role) for name in videos]
  roles += [(name, provenance.COMPONENT) for name in images]
  if mask and ',' not in mask:
    roles.append((mask, provenance.INPUT))
  told = getattr(flags, 'label_prompt', False)
  inputs = []
  for i, (name, role) in enumerate(roles, 1):
    path = epath.Path(name)
    title = path.name if told else f'input {i}{path.suffix}'
    inputs.append(provenance.examine(title, path.read_bytes(), role))
  return tuple(inputs)


def _check_given(name: str, task: Task, given: dict[str, Any]) -> None:
  counts = {
    'image': (len(given.get('image', ())), task.images),
    'video': (len(given.get('video', ())), (task.videos,)),
  }
  for flag, (count, wanted) in counts.items():
    if count not in wanted:
      accepted = f'{wanted[0]}' if len(wanted) == 1 else f'up to {wanted[-1]}'
      raise ValueError(
        f'--task={name} takes {accepted} --{flag}, not {count}: it makes '
        f'{task.summary}'
      )
  for flag in given.keys() - counts.keys() - set(task.may):
    takes = ', '.join(f'--{f}' for f in task.may) or 'none of that kind'
    raise ValueError(f'--task={name} takes no --{flag}; it takes {takes}')
  if 'mask' in task.may and 'mask' not in given:
    raise ValueError(
      f'--task={name} needs --mask=FILE, or LEFT,TOP,WIDTH,HEIGHT in pixels'
    )


def _check_files(given: dict[str, Any]) -> None:
  mask = given.get('mask', ',')
  names = {'image': given.get('image', ()), 'video': given.get('video', ())}
  names['mask'] = () if ',' in mask else (mask,)
  for flag, files in names.items():
    for file in files:
      if not epath.Path(file).exists():
        raise ValueError(f'--{flag}={file}: there is no such file')


def _check_parts(
  asked: Asked, task: str, count: int, of: str, known: bool = False
) -> None:
  """Raises ValueError unless each has a latent, and known ones leave one."""
  most = 1 + (asked.size.frames - 1) // 4 - known
  if count > most:
    raise ValueError(
      f'--task={task}: {count} {of}; {asked.size.frames} frames hold at most '
      f'{most}'
    )


def _check_seen(name: str, task: Task, scene: tasks.Scene, window: int) -> None:
  """Raises ValueError where something made runs into a piece that is known.

  Windows are painted one after the other, and see of the canvas no more than
  they paint. So a piece that the first one does not see would come as a cut.
  What a mask leaves of a frame tells of it, so frames with some are no cut.
  """
  start = scene.canvas.start[: scene.canvas.frames]
  start = start.reshape(len(start), -1)
  over = len(start) - (1 + (window - 1) // 4)
  after_made = np.maximum.accumulate(start.min(axis=1) == 1)
  if over <= 0 or not (after_made & (start.max(axis=1) == 0)).any():
    return
  most = int(np.sum(scene.keep.max(axis=(1, 2)) == 0)) - 4 * over
  if 'frames' not in task.may:
    given = 'video' if task.videos else 'size'
    fits = f'a --{given} of {window} frames or fewer'
  elif most > 0:
    fits = f'--frames={most} or fewer'
  else:
    fits = 'a smaller --keep'
  raise ValueError(
    f'--task={name} leads to frames that are known, so all of it is painted at '
    f'once, in a window of {window} frames: give {fits}'
  )


def _check_frames(name: str, given: dict[str, Any]) -> None:
  # Between two clips the last latent ends with a frame of the second.
  frames, form, known = given.get('frames', 0), '4 k', 0
  if name == 'connect':
    form, known = '4 k - 1', 1
  if frames and (over := (frames + known) % 4):
    fits = [n for n in (frames - over, frames - over + 4) if n > 0]
    raise ValueError(
      f'--frames={frames}: --task={name} makes {form}; take '
      f'{" or ".join(map(str, fits))}'
    )


def _read(name: str) -> tasks.Video:
  """All frames of a video or an image, at its own size."""
  path = epath.Path(name)
  return video.read_frames(path, 0, video.read_info(path).frames)


def _still(name: str, size: batch.Size) -> UInt8[np.ndarray, 'H W 3']:
  """An image, as `_frames`; ValueError: it is a video."""
  frames = _frames(name, size)
  if len(frames) > 1:
    raise ValueError(
      f'--image={name} has {len(frames)} frames; give a still, or the video to '
      'another task'
    )
  return frames[0]


def _frames(name: str, size: batch.Size) -> tasks.Video:
  """All frames, scaled to cover a size and cut to it, which is said."""
  frames = _read(name)
  height, width = frames.shape[1:3]
  scale = max(size.width / width, size.height / height)
  over = max(width - size.width / scale, height - size.height / scale)
  if over >= 1:
    print(
      f'{name}: of {width}x{height} pixels the middle '
      f'{round(size.width / scale)}x{round(size.height / scale)} are taken, as '
      f'--size={size.width}x{size.height} has another aspect'
    )
  return transforms.cover(frames, size.width, size.height)


def _whole(frames: np.ndarray) -> np.ndarray:
  """As many of a clip's or a mask's first frames as fill latents."""
  return frames[: len(frames) - (len(frames) - 1) % 4]


def _check_same_size(flag: str, first: str, second: str) -> None:
  one, other = (video.read_info(epath.Path(name)) for name in (first, second))
  if one[:2] != other[:2]:
    raise ValueError(
      f'--{flag}={second} has {other.width}x{other.height} pixels, and {first} '
      f'{one.width}x{one.height}; they must be of one size'
    )


def _check_same_rate(first: str, second: str) -> None:
  one, other = (video.read_info(epath.Path(x)).fps for x in (first, second))
  if abs(one - other) > SAME_RATE * one:
    raise ValueError(
      f'{second} has {other:.3g} frames a second, and {first} {one:.3g}; they '
      'must be of one rate'
    )


def _tell_rates(asked: Asked) -> None:
  """Says of videos of another rate how fast they will move."""
  written = asked.networks.config.sample.fps
  for name in asked.video:
    rate = video.read_info(epath.Path(name)).fps
    if abs(rate - written) > SAME_RATE * written:
      print(
        f'{name}: of {rate:.3g} frames a second, all frames are taken, and '
        f'written at {written:.3g}'
      )


def _tell_frames(
  name: str, task: Task, size: batch.Size | None, made: batch.Size
) -> None:
  """Says of a duration that was asked for where the task has another one."""
  if task.videos and size and size.frames not in (1, made.frames):
    more = ' and --frames' if 'frames' in task.may else ''
    print(
      f'--size={size}: only the sides are taken; of --task={name}, how many '
      f'frames there are is said by --video{more}'
    )


def _mask(text: str, name: str, clip: tasks.Video) -> Bool[np.ndarray, 'T H W']:
  """A box, or a file whose bright pixels are marked: a video, or one image.

  Both are of the video as it lies in its file, and scaled and cut as it is.
  """
  frames, height, width, _ = clip.shape
  if ',' in text:
    marked = transforms.cover(_box(text, name), width, height)
  else:
    marked = _frames(text, batch.Size(width, height, frames))
  bright = marked.mean(axis=-1) > 127
  if len(bright) not in (1, frames):
    raise ValueError(
      f'--mask={text} has {len(bright)} frames; it needs 1, or the {frames} of '
      'the video'
    )
  if not bright.any():
    raise ValueError(
      f'--mask={text} marks nothing of what is taken of {name}; mark more'
    )
  return np.broadcast_to(bright, clip.shape[:3])


def _box(text: str, name: str) -> UInt8[np.ndarray, '1 H W 3']:
  """LEFT,TOP,WIDTH,HEIGHT in pixels of a file, as a picture of its size."""
  left, top, wide, high = _numbers('mask', text, 4)
  info = video.read_info(epath.Path(name))
  inside = left + wide <= info.width and top + high <= info.height
  if not inside or not wide or not high:
    raise ValueError(
      f'--mask={text} is not inside the {info.width}x{info.height} pixels of '
      f'{name}'
    )
  box = np.zeros((1, info.height, info.width, 3), np.uint8)
  box[:, top : top + high, left : left + wide] = 255
  return box


def _numbers(flag: str, text: str, count: int) -> list[int]:
  try:
    numbers = [int(part) for part in text.split(',')]
  except ValueError:
    numbers = []
  if len(numbers) != count or min(numbers) < 0:
    raise ValueError(f'--{flag}={text} is not {count} numbers between commas')
  return numbers
