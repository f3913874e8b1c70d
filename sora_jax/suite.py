"""Every task against ground truth: `launch.py evaluate --suite=tasks`.

Each task is set on clips that training never sees, of which the simulator
knows what is to come; see `figures` for what is read off them. What is made
can be looked at on a sheet for each task.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from sora_jax import (
  batch,
  canvas as canvas_lib,
  experiment,
  figures,
  generate,
  metrics,
  networks as networks_lib,
  prompting,
  reconstruct,
  tasks,
)
from sora_jax.data import sheets, video
from sora_jax.data.worlds import balls, joins

Videos = figures.Videos
Result = tuple[list[figures.Figure], Videos]

SEED = 4321  # of the clips
KNOWN = 3  # latents that a clip goes on from
MINUTE = 601  # frames, at 10 a second
SPANS = 6  # of a minute, at which drift is told
LEAST_FRAMES = 29  # of `fill_in`; the others need fewer
LOOP = 6  # latents: 2.4 s are one bounce of middling height
SHOWN = 8  # clips on a sheet
ENDLESS = ('bounce',)  # laws that fit a loop or a minute
# Laws that a still and a caption settle: not where a bouncing ball is heading.
SETTLED = ('uniform', 'parabola', 'collision')
SINGLE = ('uniform', 'parabola', 'bounce')


class Studio(NamedTuple):
  """What makes clips, and how many of a task."""

  networks: networks_lib.Networks
  settings: generate.Settings
  make: Callable[[list[generate.Request]], Any]  # of generate.make_generator
  make_one: Callable[[list[generate.Request]], Any]  # with a micro-batch of 1
  encode: tasks.Encode
  count: int
  seed: int  # of the first clip that is made

  def cases(
    self, laws: Sequence[str] = balls.LAWS, size: batch.Size | None = None
  ) -> figures.Cases:
    """True clips, the laws in turn."""
    prompts = balls.held_out_prompts(SEED, self.count, laws)
    size = size or self.settings.size
    clips = [balls.clip(SEED, i, size, 'test') for _, i in prompts]
    videos = [clip.video for clip, _ in clips]
    return figures.Cases(
      captions=[clip.caption for clip, _ in clips],
      videos=videos,
      truths=[truth for _, truth in clips],
      decoded=self.decode(videos),
    )

  def decode(self, videos: Videos) -> Videos:
    """Through the autoencoder and back."""
    return reconstruct.through(self.networks, videos)

  def paint(
    self, scenes: Sequence[tasks.Scene], prompts: Sequence[str]
  ) -> Videos:
    """Whole clips; one by one where scenes differ in what is known."""
    requests = [
      generate.Request(prompt, self.seed + i, scene.canvas)
      for i, (scene, prompt) in enumerate(zip(scenes, prompts, strict=True))
    ]
    starts = {scene.canvas.start.tobytes() for scene in scenes}
    made = self.make(requests) if len(starts) == 1 else self._apart(requests)
    return [
      np.concatenate(list(scene.finish([clip.video])))
      for scene, clip in zip(scenes, made, strict=True)
    ]

  def _apart(self, requests: list[generate.Request]):
    for request in requests:
      yield from self.make_one([request])

  def blank(self, size: batch.Size | None = None) -> tasks.Scene:
    size = size or self.settings.size
    canvas = generate.blank(self.networks.config, size)
    return tasks.text_to_video(canvas, size)


def text(studio: Studio) -> Result:
  """A clip from its prompt."""
  cases = studio.cases()
  made = studio.paint([studio.blank()] * studio.count, cases.captions)
  return figures.promises(made, cases), made


def image(studio: Studio) -> Result:
  """A picture from its prompt."""
  size = studio.settings.size._replace(frames=1)
  cases = studio.cases(size=size)
  made = studio.paint([studio.blank(size)] * studio.count, cases.captions)
  colour, _, _, ball, _ = figures.promises(made, cases)
  return [colour, ball], made


def animate(studio: Studio) -> Result:
  """A true first frame that starts to move."""
  cases = studio.cases(SETTLED)
  scenes = [
    tasks.animate(studio.encode, true[0], len(true)) for true in cases.videos
  ]
  made = studio.paint(scenes, cases.captions)
  near = figures.nearness(made, cases, slice(None))
  return figures.promises(made, cases) + near, made


def keyframes(studio: Studio) -> Result:
  """A true first and last frame, and motion between them."""
  cases = studio.cases(SETTLED)
  scenes = [
    tasks.keyframes(
      studio.encode, {0: true[0], len(true) - 1: true[-1]}, len(true)
    )
    for true in cases.videos
  ]
  made = studio.paint(scenes, cases.captions)
  between = slice(0, -4)  # the last four are the still
  return figures.nearness(made, cases, between), made


def extend(studio: Studio) -> Result:
  """What comes after the first frames."""
  known, cases = 1 + 4 * (KNOWN - 1), studio.cases()
  scenes = [
    tasks.extend(studio.encode, true[:known], len(true) - known, KNOWN)
    for true in cases.videos
  ]
  made = studio.paint(scenes, cases.captions)
  near = figures.nearness(made, cases, slice(known - 1, None))
  return [*near, figures.across(made, cases, known - 1)], made


def extend_backwards(studio: Studio) -> Result:
  """What came before the last frames."""
  known, cases = 1 + 4 * KNOWN, studio.cases()
  scenes = [
    tasks.extend_backwards(
      studio.encode, true[-known:], len(true) - known, KNOWN
    )
    for true in cases.videos
  ]
  made = studio.paint(scenes, cases.captions)
  near = figures.nearness(made, cases, slice(0, 1 - known))
  last = len(made[0]) - known - 1
  return [*near, figures.across(made, cases, last)], made


def fill_in(studio: Studio) -> Result:
  """What came between the first frames and the last ones."""
  cases, head, between, tail = studio.cases(), 5, 15, 9
  scenes = [
    tasks.connect(
      studio.encode,
      true[:head],
      true[head + between :][:tail],
      between,
      latents=2,
    )
    for true in cases.videos
  ]
  made = studio.paint(scenes, cases.captions)
  frames = slice(head - 1, head + between + 1)
  return figures.nearness(made, cases, frames), made


def connect(studio: Studio) -> Result:
  """A way from a clip to another one, each with its prompt."""
  cases, head, between = studio.cases(SINGLE), 9, 19
  cut = 16  # of the other clip, so that the truth of just before is known
  after = [*range(1, studio.count), 0]
  scenes, prompts, cubics = [], [], []
  for i, k in enumerate(after):
    before = balls.span(cases.truths[i], slice(head))
    met = balls.span(cases.truths[k], slice(cut, None))
    # Any way bends, and so is off a little: the bound is that of a cubic.
    smooth = joins.join(before, met, between + 1)
    size = studio.settings.size._replace(frames=len(smooth.position))
    cubics.append(joins.render(smooth, size))
    one, other = cases.videos[i][:head], cases.videos[k][cut:]
    scenes.append(
      tasks.connect(studio.encode, one, other, between, latents=2, lines=2)
    )
    prompts.append(f'{cases.captions[i]}\n{cases.captions[k]}')
  made = studio.paint(scenes, prompts)
  cubics = studio.decode(cubics)

  def ends(videos):
    """As if each began where the true clip of its end does."""
    order = [after.index(k) for k in range(studio.count)]
    return [videos[i][head + between - cut :] for i in order]

  return [
    figures.step(name, of(made), of(cubics), cases.truths, at)
    for name, of, at in (
      ('across the first join', list, head - 1),
      ('after the first join', list, head),
      ('before the second join', ends, cut - 2),
      ('across the second join', ends, cut - 1),
    )
  ], made


def loop(studio: Studio) -> Result:
  """A clip whose end is its beginning."""
  cases, size = studio.cases(ENDLESS), studio.settings.size
  canvas = canvas_lib.loop(LOOP, *studio.blank().canvas.known.shape[1:])
  scene = tasks.text_to_video(canvas, size)
  made = studio.paint([scene] * studio.count, cases.captions)
  open_ended = studio.paint([studio.blank()] * studio.count, cases.captions)
  tally, bound = (
    metrics.tally(videos, cases.captions) for videos in (made, cases.decoded)
  )
  within = [
    figures.mean(metrics.motion, videos)
    for videos in (made, open_ended, cases.decoded)
  ]
  return [
    figures.Figure(
      'step across the seam, of 255', figures.mean(metrics.seam, made)
    ),
    figures.Figure('step within, of 255', within[0], within[2]),
    figures.Figure('step of clips from the same prompts', within[1], within[2]),
    figures.Figure('law, share', tally.law, bound.law),
    figures.Figure('colour, share', tally.colour, bound.colour),
  ], made


def edit(studio: Studio) -> Result:
  """A clip whose first ball is told to be of another colour."""
  cases, strength = studio.cases(), prompting.DEFAULTS['strength']
  told = figures.recoloured(cases, studio.decode)
  scenes = [tasks.edit(studio.encode, true, strength) for true in cases.videos]
  made = studio.paint(scenes, told.captions)
  return figures.repainted(made, told), made


def replace(studio: Studio) -> Result:
  """A clip whose first ball is replaced, under a mask that goes with it."""
  cases = studio.cases()
  told = figures.recoloured(cases, studio.decode)
  masks = [figures.disc(truth, studio.settings.size) for truth in cases.truths]
  scenes = [
    tasks.replace(studio.encode, true, mask)
    for true, mask in zip(cases.videos, masks, strict=True)
  ]
  made = studio.paint(scenes, told.captions)
  # A mask is grown to whole latents, and by one more.
  grown = 2 * studio.networks.config.autoencoder.space
  keeps = [figures.far_from(mask, grown) for mask in masks]
  change = figures.changed(made, cases, keeps)
  return [change, *figures.repainted(made, told)], made


def outpaint(studio: Studio) -> Result:
  """A square out of the middle of a wide clip, made wide again."""
  size = _wide(studio.settings.size)
  left = (size.width - size.height) // 2
  middle = slice(left, left + size.height)
  cases = studio.cases(size=size)
  scenes = [
    tasks.outpaint(studio.encode, true[:, :, middle], size, left, 0)
    for true in cases.videos
  ]
  made = studio.paint(scenes, cases.captions)
  around = np.ones(cases.videos[0].shape[:3], bool)
  around[:, :, middle] = False
  grown = 2 * studio.networks.config.autoencoder.space
  keeps = [figures.far_from(around, grown)] * studio.count
  change = figures.changed(made, cases, keeps)
  return [change, *figures.promises(made, cases)], made


def storyboard(studio: Studio) -> Result:
  """Two prompts, of which the second speaks to the second half."""
  cases, scene = studio.cases(SINGLE), prompting.spoken(studio.blank(), 2)
  first, second = cases.captions, cases.captions[1:] + cases.captions[:1]
  prompts = [f'{a}\n{b}' for a, b in zip(first, second, strict=True)]
  made = studio.paint([scene] * studio.count, prompts)
  return [
    figures.Figure(
      f'colour in the {name} 9 frames, share',
      figures.mean(figures.has_colour, [v[frames] for v in made], told),
      figures.mean(figures.has_colour, [v[:9] for v in cases.decoded], first),
    )
    for name, frames, told in (
      ('first', slice(0, 9), first),
      ('last', slice(-9, None), second),
    )
  ], made


def minute(studio: Studio) -> Result:
  """A minute, window by window."""
  size = studio.settings.size._replace(frames=MINUTE)
  cases = studio.cases(ENDLESS, size)
  made = studio.paint([studio.blank(size)] * studio.count, cases.captions)
  span = (MINUTE - 1) // SPANS
  drift = [
    figures.drift(made, cases, slice(at, at + span))
    for at in range(0, MINUTE - span, span)
  ]
  return sum(drift, []), made


TASKS = {
  task.__name__: task
  for task in (
    text,
    image,
    animate,
    keyframes,
    extend,
    extend_backwards,
    fill_in,
    connect,
    loop,
    edit,
    replace,
    outpaint,
    storyboard,
    minute,
  )
}


def names_of(asked: str) -> list[str]:
  """The tasks that `--suite` names: all of them, or some between commas.

  Raises:
    ValueError: there is no such task.
  """
  names = list(TASKS) if asked == 'tasks' else asked.split(',')
  for name in names:
    if name not in TASKS:
      hint = experiment.nearest(name, TASKS)
      raise ValueError(f'--suite={asked}: no task {name!r}{hint}')
  return names


def check(studio: Studio, names: Sequence[str]) -> None:
  """Raises ValueError where a model's own clips do not fit the tasks."""
  config, size = studio.networks.config, studio.settings.size
  if size.frames < LEAST_FRAMES:
    raise ValueError(
      f'--suite: what is known and what is asked for take {LEAST_FRAMES} '
      f'frames, and the model makes {size}'
    )
  side, wide = config.autoencoder.space * config.model.patch[1], _wide(size)
  if 'outpaint' in names and (wide.width % side or wide.height % side):
    raise ValueError(
      f'--suite: outpaint asks for {wide} of a model of {size}, whose sides '
      f'must be multiples of {side}; name the other tasks'
    )


def _wide(size: batch.Size) -> batch.Size:
  """A wide clip whose middle is given to `outpaint`."""
  return batch.Size(5 * size.width // 4, 3 * size.height // 4, size.frames)


def make_studio(
  networks: networks_lib.Networks, count: int, seed: int
) -> Studio:
  """As the model's own settings say."""
  settings = generate.settings_of(networks.config.sample)
  mesh = generate.mesh_for(count, settings)
  alone = settings._replace(micro_batch=1)
  return Studio(
    networks,
    settings,
    generate.make_generator(networks, settings, mesh),
    generate.make_generator(networks, alone, generate.mesh_for(1, alone)),
    tasks.make_encoder(networks),
    count,
    seed,
  )


def run(
  studio: Studio, names: Sequence[str], out: epath.Path
) -> dict[str, dict[str, Any]]:
  """Scores tasks, prints each as it is done, and leaves a sheet of each.

  The bound is what true clips have that went through the autoencoder.
  """
  results = {}
  print(f'{"":56}{"made":>9}{"bound":>10}')
  for name in names:
    scored, made = TASKS[name](studio)
    print(f'{name}: {TASKS[name].__doc__}')
    print('\n'.join(map(str, scored)), flush=True)
    sheet = sheets.contact_sheet(made[:SHOWN])
    video.write_video(out / f'{name}.png', sheet[None], 1.0)
    results[name] = {
      figure.name: [None if np.isnan(x) else x for x in figure[1:]]
      for figure in scored
    }
  return results
