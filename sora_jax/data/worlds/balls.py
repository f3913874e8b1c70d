"""Discs that move by four laws of mechanics, with captions and ground truth.

The shorter side of the picture is 10 units, y points up and the background is
white. A frame is taken every 0.1 s from motion in closed form:

  uniform    one ball, horizontally at constant velocity
  parabola   one ball thrown horizontally, gravity 2.5 units/s^2 downwards
  collision  two balls head-on on one horizontal line, elastic, mass ~ r^2
  bounce     one ball up and down in place under that gravity, on the lower
             edge, which takes no energy from it: the one that never ends

A clip is a pure function of (seed, index, size, split). Its world depends on
the aspect of the size but not on its resolution; its frames are the first ones
of the clip of REFERENCE frames, but that a collision comes earlier in a
shorter clip. Longer clips carry on, and the balls leave the picture.

Source: Kang et al. 2024 (arXiv:2411.02385), with eight colours, both
directions, captions and the last law added.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from sora_jax import batch
from sora_jax.data.worlds import captions, seeds

LAWS = ('uniform', 'parabola', 'collision', 'bounce')
SPLITS = ('train', 'test', 'outside')
UNITS = 10.0  # along the shorter side
FPS = 10.0
GRAVITY = 2.5  # units/s^2
REFERENCE = 33  # frames over which the rules of view hold
MARGIN = 0.05 * UNITS  # between a ball and the upper and lower edge
BOUNCE_HEIGHT = (0.8, 3.6)  # units; a bounce takes 1.6 to 3.4 s
# A collision leaves this part of the clip, 8 of 32 frames, on either side.
CONTACT_CLEAR = 0.25
# Frames for which the centre must stay in view: 3/4 of them, and one for the
# frame that REFERENCE has more than the 32 of the source.
IN_VIEW = 25

SPEED_RANGES = {'inside': ((1.0, 4.0),), 'outside': ((0.1, 0.8), (4.5, 6.0))}
# Radius by law and split: what of the range of a word is used.
RADII = {
  ('single', 'inside'): {
    'small': (0.7, 0.88),
    'medium': (0.96, 1.14),
    'large': (1.22, 1.4),
  },
  ('pair', 'inside'): {
    'small': (0.5, 0.88),
    'medium': (0.96, 1.14),
    'large': (1.22, 1.5),
  },
  ('single', 'outside'): {'small': (0.3, 0.6), 'large': (1.5, 2.0)},
  ('pair', 'outside'): {'small': (0.3, 0.4), 'large': (1.7, 2.0)},
}

# Reads a caption of a clip back to what it promises.
attributes = captions.attributes


class Truth(NamedTuple):
  """What happens in a clip, exactly. K balls, the first-named one first."""

  law: str
  colours: list[str]
  radius: Float[np.ndarray, ' K']  # units
  position: Float[np.ndarray, 'T K 2']  # x and y of the centre, units
  velocity: Float[np.ndarray, 'T K 2']  # units/s
  in_view: Bool[np.ndarray, 'T K']  # the centre lies within the picture
  whole: Bool[np.ndarray, 'T K']  # all of the disc does


# All that there is of law, size and direction.
KINDS = [
  (law, size, direction)
  for law in LAWS
  for size in captions.SIZES
  for direction in ([''] if law == 'bounce' else captions.DIRECTIONS)
]


def span(truth: Truth, frames: slice) -> Truth:
  """Some of the frames of a clip."""
  return truth._replace(
    position=truth.position[frames],
    velocity=truth.velocity[frames],
    in_view=truth.in_view[frames],
    whole=truth.whole[frames],
  )


class Combination(NamedTuple):
  """What train and test split by: all that is discrete of a ball."""

  law: str
  colour: str
  size: str
  direction: str


def held_out(combination: Combination) -> bool:
  """Whether a combination is kept out of training: one of eight is.

  Each triple of law, size and direction lacks one colour, and the colours take
  turns, so every word is trained in nearly equally many combinations.
  """
  rank = KINDS.index((combination.law, combination.size, combination.direction))
  colours = list(captions.COLOURS)
  # 3 is coprime with the number of colours, so all of them take a turn.
  return colours[3 * rank % len(colours)] == combination.colour


COMBINATIONS = {
  split: [
    c
    for c in (
      Combination(law, colour, size, direction)
      for (law, size, direction), colour in itertools.product(
        KINDS, captions.COLOURS
      )
    )
    if held_out(c) == (split == 'test')
    and (split != 'outside' or c.size != 'medium')
  ]
  for split in SPLITS
}


class _Plan(NamedTuple):
  """One clip before it has a size: words, numbers and where to put it."""

  balls: list[Combination]
  radius: Float[np.ndarray, ' K']
  speed: Float[np.ndarray, ' K']
  worded: list[bool]  # whether a speed is said by a word where there is one
  sentence: float
  place: Float[np.ndarray, ' 3']  # in [0, 1): across, up, time within it


def _plan(seed: int, index: int, split: str) -> _Plan:
  """Draws everything random of a clip, the same for every size."""
  rng = seeds.generator(seed, index, split, SPLITS)
  law = seeds.pick(rng, LAWS)
  balls = [seeds.pick(rng, [c for c in COMBINATIONS[split] if c.law == law])]
  if law == 'collision':
    # The second ball too is one of its split, or else a combination held out
    # of training would be seen there as the second-named ball.
    partners = COMBINATIONS['train' if split == 'test' else split]
    balls.append(
      seeds.pick(
        rng,
        [
          c
          for c in partners
          if c.law == law
          and c.direction != balls[0].direction
          and c.colour != balls[0].colour
        ],
      )
    )
  domain = 'outside' if split == 'outside' else 'inside'
  radii = RADII['pair' if law == 'collision' else 'single', domain]
  return _Plan(
    balls=balls,
    radius=np.array([rng.uniform(*radii[c.size]) for c in balls]),
    speed=np.array([
      rng.uniform(*seeds.pick(rng, SPEED_RANGES[domain])) for _ in balls
    ]),
    worded=[bool(rng.random() < 0.5) for _ in balls],
    sentence=rng.random(),
    place=rng.random(3),
  )


def _between(low: float, high: float, part: float) -> float:
  """Picks from a range, or its middle where the range is empty."""
  return low + part * (high - low) if low < high else (low + high) / 2


def _single(
  plan: _Plan, extent: tuple[float, float], time: Float[np.ndarray, ' T']
) -> tuple[Float[np.ndarray, 'T 1 2'], Float[np.ndarray, 'T 1 2']]:
  """Uniform motion, or a throw: position and velocity at each time."""
  width, height = extent
  radius, speed = plan.radius[0], plan.speed[0]
  across, up, _ = plan.place
  gravity = GRAVITY if plan.balls[0].law == 'parabola' else 0.0
  sign = captions.DIRECTIONS[plan.balls[0].direction]
  end = (IN_VIEW - 1) / FPS
  # The whole ball is in the first frame where its speed leaves room for that.
  furthest = width - speed * end
  start = _between(min(radius, max(furthest, 0.0)), furthest, across)
  start = max(start, 0.0)
  lowest = max(MARGIN + radius, gravity * end**2 / 2)
  y = _between(lowest, height - MARGIN - radius, up)
  x = start + speed * time
  x = x if sign > 0 else width - x
  still = np.zeros_like(time)
  position = np.stack([x, y - gravity * time**2 / 2], axis=-1)
  velocity = np.stack([still + sign * speed, -gravity * time], axis=-1)
  return position[:, None], velocity[:, None]


def elastic(
  mass: Float[np.ndarray, '2'], velocity: Float[np.ndarray, '2']
) -> Float[np.ndarray, '2']:
  """Velocities after two masses collide head-on and lose no energy.

  Seen from their centre of mass, both turn round.
  """
  centre = (mass @ velocity) / mass.sum()
  return 2 * centre - velocity


def _collision(
  plan: _Plan, extent: tuple[float, float], time: Float[np.ndarray, ' T']
) -> tuple[Float[np.ndarray, 'T 2 2'], Float[np.ndarray, 'T 2 2']]:
  """Two balls that meet head-on: position and velocity at each time."""
  width, height = extent
  across, up, when = plan.place
  frames = len(time) if 1 < len(time) < REFERENCE else REFERENCE
  duration = (frames - 1) / FPS
  sign = np.array([captions.DIRECTIONS[c.direction] for c in plan.balls])
  # Both start whole within the picture where the earliest contact allows it.
  room = width - 2 * plan.radius.sum()
  first = CONTACT_CLEAR * duration
  last = min((1 - CONTACT_CLEAR) * duration, room / plan.speed.sum())
  contact = first + when * max(last - first, 0.0)
  reach = 2 * plan.radius + plan.speed * contact
  from_left, from_right = reach[np.argsort(-sign)]
  touch = _between(from_left, width - from_right, across)
  y_low = MARGIN + plan.radius.max()
  y = _between(y_low, height - y_low, up)
  before = sign * plan.speed
  after = elastic(plan.radius**2, before)
  since = (time - contact)[:, None]
  vx = np.where(since < 0, before, after)
  x = touch - sign * plan.radius + vx * since
  position = np.stack([x, np.full_like(x, y)], axis=-1)
  return position, np.stack([vx, np.zeros_like(vx)], axis=-1)


def _bounce(
  plan: _Plan, extent: tuple[float, float], time: Float[np.ndarray, ' T']
) -> tuple[Float[np.ndarray, 'T 1 2'], Float[np.ndarray, 'T 1 2']]:
  """A ball that bounces in place: position and velocity at each time."""
  radius = plan.radius[0]
  across, up, when = plan.place
  x = _between(MARGIN + radius, extent[0] - MARGIN - radius, across)
  period = 2 * math.sqrt(2 * _between(*BOUNCE_HEIGHT, up) / GRAVITY)
  since = (time + when * period) % period  # it was last on the ground
  upwards = GRAVITY * (period / 2 - since)
  y = radius + GRAVITY * since * (period - since) / 2
  position = np.stack([np.full_like(y, x), y], axis=-1)
  velocity = np.stack([np.zeros_like(y), upwards], axis=-1)
  return position[:, None], velocity[:, None]


def extent_of(width: int, height: int) -> tuple[float, float]:
  """Width and height in units of a picture of so many pixels."""
  return UNITS * max(1.0, width / height), UNITS * max(1.0, height / width)


def simulate(
  seed: int, index: int, size: batch.Size, split: str = 'train'
) -> tuple[str, Truth]:
  """Returns the caption and the ground truth of a clip, without its pixels."""
  plan = _plan(seed, index, split)
  law = plan.balls[0].law
  extent = np.array(extent_of(size.width, size.height))
  time = np.arange(size.frames) / FPS
  motion = {'collision': _collision, 'bounce': _bounce}.get(law, _single)
  position, velocity = motion(plan, tuple(extent), time)
  radius = plan.radius[:, None]
  truth = Truth(
    law=law,
    colours=[c.colour for c in plan.balls],
    radius=plan.radius,
    position=position,
    velocity=velocity,
    in_view=np.all((position >= 0) & (position <= extent), axis=-1),
    whole=np.all((position >= radius) & (position <= extent - radius), axis=-1),
  )
  brief = law == 'collision'
  words = [
    (c.colour, c.size, c.direction, captions.speed_phrase(v, worded, brief))
    for c, v, worded in zip(plan.balls, plan.speed, plan.worded, strict=True)
  ]
  said = 'still' if size.frames == 1 else law
  return captions.write(said, words, plan.sentence), truth


def render(truth: Truth, size: batch.Size) -> UInt8[np.ndarray, 'T H W 3']:
  """Draws the balls of a clip, later ones over earlier."""
  inks = np.array([captions.COLOURS[c] for c in truth.colours], np.float32)
  shape = truth.position.shape[:2]
  return draw(
    truth.position,
    np.broadcast_to(truth.radius, shape),
    np.broadcast_to(inks, (*shape, 3)),
    size,
  )


def draw(
  position: Float[np.ndarray, 'T K 2'],
  radius: Float[np.ndarray, 'T K'],
  ink: Float[np.ndarray, 'T K 3'],
  size: batch.Size,
) -> UInt8[np.ndarray, 'T H W 3']:
  """Draws discs on white, edges one pixel soft; places and radii in units."""
  width, height, frames = size
  scale = min(width, height) / UNITS
  # Channels first while drawing: whole planes are added at once.
  canvas = np.full((frames, 3, height, width), 255, np.float32)
  centre, reach = position * scale, radius * scale
  for k in range(centre.shape[1]):
    x, y = centre[:, k, 0], height - centre[:, k, 1]
    for t in range(frames):
      # Only the box about the disc changes.
      left, right = _box(x[t], reach[t, k], width)
      top, bottom = _box(y[t], reach[t, k], height)
      if left >= right or top >= bottom:
        continue
      dx = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - x[t])
      dy = np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - y[t])
      distance = np.sqrt(dx**2 + dy[:, None] ** 2)
      cover = np.clip(np.float32(reach[t, k] + 0.5) - distance, 0, 1)
      region = canvas[t, :, top:bottom, left:right]
      region += cover * (ink[t, k, :, None, None] - region)
  return np.ascontiguousarray(
    np.rint(canvas).astype(np.uint8).transpose(0, 2, 3, 1)
  )


def _box(centre: float, radius: float, side: int) -> tuple[int, int]:
  """First and last (exclusive) pixel that a disc with its edge can touch."""
  return (
    max(0, math.floor(centre - radius - 1)),
    min(side, math.ceil(centre + radius + 1)),
  )


def clip(
  seed: int, index: int, size: batch.Size, split: str = 'train'
) -> tuple[batch.Clip, Truth]:
  """Makes clip `index` of a world, at any size, and its ground truth.

  An image (one frame) has a caption without motion.

  Args:
    seed: which world.
    index: which clip of it.
    size: pixels and frames.
    split: 'train'; 'test', combinations of law, colour, size and direction
      that training never shows; 'outside', speeds and radii beyond training.

  Raises:
    ValueError: unknown split, or a negative seed or index.
  """
  caption, truth = simulate(seed, index, size, split)
  name = f'balls-{split}-{seed}-{index}-{size}'
  return batch.Clip(render(truth, size), caption, FPS, name), truth


def held_out_prompts(
  seed: int, n: int, laws: Sequence[str] = LAWS
) -> list[tuple[str, int]]:
  """Returns n captions of split 'test', the laws in turn, and their indices."""
  size = batch.Size(10, 10, REFERENCE)
  wanted = itertools.cycle(laws)
  waiting = {law: [] for law in LAWS}
  indices = itertools.count()
  prompts = []
  for law in itertools.islice(wanted, n):
    while not waiting[law]:
      index = next(indices)
      caption, truth = simulate(seed, index, size, 'test')
      waiting[truth.law].append((caption, index))
    prompts.append(waiting[law].pop(0))
  return prompts
