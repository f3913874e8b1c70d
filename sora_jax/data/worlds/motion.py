"""How actors move: events in closed form, at any time.

Lengths are units, about half a metre of a toy; y points up and the ground is
at 0. A heading of 0 goes along x, and turns to -z as it grows. Gravity is less
than the Earth's, so that a fall takes several frames.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

GRAVITY = 6.0  # units/s^2
RESTITUTION = 0.75  # speed that a bounce leaves, of what it had
FRICTION = 0.85  # the same along the ground
BOUNCES = 12  # after these a ball rolls
HAND = 0.4  # units above the ground; where a throw begins
MIDDLE = 1.0  # seconds; when what crosses the picture is in its middle


class Path(NamedTuple):
  """Where an actor is. Travelled is along its heading, for what rolls."""

  position: Float[np.ndarray, 'T 3']  # units
  velocity: Float[np.ndarray, 'T 3']  # units/s
  travelled: Float[np.ndarray, ' T']  # units
  heading: Float[np.ndarray, ' T']  # radians
  pitch: Float[np.ndarray, ' T']  # radians, nose up
  time: Float[np.ndarray, ' T']  # seconds, for what flaps
  vigour: float = 1.0  # how much it moves its limbs; 0 at rest


def span(path: Path, frames: slice) -> Path:
  """Some of the times of a path."""
  return path._replace(
    position=path.position[frames],
    velocity=path.velocity[frames],
    travelled=path.travelled[frames],
    heading=path.heading[frames],
    pitch=path.pitch[frames],
    time=path.time[frames],
  )


class Draw(NamedTuple):
  """What is random of a motion, each the same at any size."""

  speed: float  # units/s
  height: float  # units; of a fall, a flight or a jump
  heading: float  # radians
  start: Float[np.ndarray, '3']  # where it is in the middle of the clip, units
  phase: float  # in [0, 1)
  low: float  # height of its origin when it is on the ground, units


def forward(heading: Float[np.ndarray, '*S']) -> Float[np.ndarray, '*S 3']:
  """The direction of a heading."""
  return np.stack([np.cos(heading), 0 * heading, -np.sin(heading)], -1)


def _path(
  draw: Draw,
  time: Float[np.ndarray, ' T'],
  along: Float[np.ndarray, ' T'],
  speed: Float[np.ndarray, ' T'],
  height: Float[np.ndarray, ' T'],
  rise: Float[np.ndarray, ' T'],
  vigour: float = 1.0,
  pitch: Float[np.ndarray, ' T'] | None = None,
) -> Path:
  """Motion along the heading and up."""
  heading = np.full_like(time, draw.heading)
  ahead = forward(heading)
  up = np.array([0.0, 1.0, 0.0])
  position = draw.start + along[:, None] * ahead + height[:, None] * up
  velocity = speed[:, None] * ahead + rise[:, None] * up
  pitch = np.zeros_like(time) if pitch is None else pitch
  return Path(position, velocity, along, heading, pitch, time, vigour)


def rest(draw: Draw, time: Float[np.ndarray, ' T']) -> Path:
  """Nothing moves."""
  zero = np.zeros_like(time)
  return _path(draw, time, zero, zero, zero + draw.low, zero, vigour=0.0)


def roll(draw: Draw, time: Float[np.ndarray, ' T']) -> Path:
  """Even motion along the ground: rolls, rides and walks."""
  zero = np.zeros_like(time)
  along = draw.speed * (time - MIDDLE)
  return _path(draw, time, along, zero + draw.speed, zero + draw.low, zero)


def start(draw: Draw, time: Float[np.ndarray, ' T']) -> Path:
  """Rests, then gets faster evenly up to twice its speed."""
  begins = MIDDLE * (0.3 + 0.4 * draw.phase)
  push = 1.5 * draw.speed
  gone = np.clip(time - begins, 0, 2 * draw.speed / push)
  speed = push * gone
  late = np.maximum(time - begins - gone, 0) * 2 * draw.speed
  along = push * gone**2 / 2 + late - draw.speed / 2
  zero = np.zeros_like(time)
  return _path(draw, time, along, speed, zero + draw.low, zero)


def landings(height: float, rise: float) -> list[tuple[float, float]]:
  """When a body that falls hits the ground, and how fast it leaves it.

  Args:
    height: at time 0, units.
    rise: its upward speed then.

  Returns:
    A time and an upward speed for each bounce; after the last one it lies.
  """
  hit = math.sqrt(rise**2 + 2 * GRAVITY * height)
  lands = (rise + hit) / GRAVITY
  bounces = []
  for _ in range(BOUNCES):
    hit *= RESTITUTION
    bounces.append((lands, hit))
    lands += 2 * hit / GRAVITY
  return [*bounces, (lands, 0.0)]


def hops(
  height: float, rise: float, time: Float[np.ndarray, ' T']
) -> tuple[np.ndarray, np.ndarray]:
  """Height and upward speed of a body that falls and bounces."""
  up = height + rise * time - GRAVITY * time**2 / 2
  speed = rise - GRAVITY * time
  for lands, hit in landings(height, rise):
    since = np.maximum(time - lands, 0)
    # Once it lies, nothing pulls it down.
    pull = GRAVITY if hit else 0.0
    up = np.where(since > 0, hit * since - pull * since**2 / 2, up)
    speed = np.where(since > 0, hit - pull * since, speed)
  return up, speed


def bounce(draw: Draw, time: Float[np.ndarray, ' T']) -> Path:
  """Falls from a height, and bounces on the spot."""
  up, rise = hops(draw.height, 0.0, time)
  zero = np.zeros_like(time)
  return _path(draw, time, zero, zero, draw.low + up, rise)


def throw(draw: Draw, time: Float[np.ndarray, ' T']) -> Path:
  """Flies up and along, and loses part of its pace whenever it lands."""
  rise = math.sqrt(2 * GRAVITY * draw.height)
  up, up_speed = hops(HAND, rise, time)
  speed = np.full_like(time, draw.speed)
  along = draw.speed * (time - MIDDLE)
  pace = draw.speed
  for lands, hit in landings(HAND, rise):
    if hit:
      lost = (1 - FRICTION) * pace
      pace -= lost
      speed = speed - lost * (time > lands)
      along = along - lost * np.maximum(time - lands, 0)
  return _path(draw, time, along, speed, draw.low + up, up_speed)


def jump(draw: Draw, time: Float[np.ndarray, ' T']) -> Path:
  """Leaps again and again, each leap of one height, with a rest between."""
  rise = math.sqrt(2 * GRAVITY * draw.height)
  airborne, crouch = 2 * rise / GRAVITY, 0.25
  period = airborne + crouch
  turns = (time + draw.phase * period) // period
  since = (time + draw.phase * period) - turns * period - crouch
  flies = since > 0
  since = np.maximum(since, 0)
  up = rise * since - GRAVITY * since**2 / 2
  at_middle = MIDDLE + draw.phase * period
  along = draw.speed * (
    turns * airborne + since - at_middle * airborne / period
  )
  pitch = np.where(flies, 0.5 * (1 - 2 * since / airborne), 0)
  return _path(
    draw,
    time,
    along,
    np.where(flies, draw.speed, 0.0),
    draw.low + up,
    np.where(flies, rise - GRAVITY * since, 0),
    pitch=pitch,
  )


def hover(draw: Draw, time: Float[np.ndarray, ' T']) -> Path:
  """Stays at a height, and sways up and down a little."""
  rate, sway = 2.5, 0.12
  angle = rate * time + 2 * np.pi * draw.phase
  zero = np.zeros_like(time)
  height = draw.low + draw.height + sway * np.sin(angle)
  return _path(draw, time, zero, zero, height, sway * rate * np.cos(angle))


def fly(draw: Draw, time: Float[np.ndarray, ' T']) -> Path:
  """Goes along at a height, up and down in waves."""
  rate, wave = 2.0, 0.25
  angle = rate * time + 2 * np.pi * draw.phase
  along = draw.speed * (time - MIDDLE)
  rise = wave * rate * np.cos(angle)
  speed = np.full_like(time, draw.speed)
  height = draw.low + draw.height + wave * np.sin(angle)
  pitch = np.arctan2(rise, speed) * 0.6
  return _path(draw, time, along, speed, height, rise, pitch=pitch)


def elastic(
  masses: tuple[float, float], speeds: tuple[float, float]
) -> tuple[float, float]:
  """Speeds after two masses meet head-on and lose no energy."""
  centre = np.dot(masses, speeds) / sum(masses)
  return 2 * centre - speeds[0], 2 * centre - speeds[1]


def collide(
  draws: tuple[Draw, Draw], time: Float[np.ndarray, ' T']
) -> tuple[Path, Path]:
  """Two balls roll at each other on one line, meet, and part.

  The origin of each is its centre, so that its `low` is its radius; both meet
  where the first one's draw says, and go along the first one's heading, the
  second one backwards.
  """
  one, two = draws
  speeds = (one.speed, -two.speed)
  after = elastic((one.low**3, two.low**3), speeds)
  contact = MIDDLE * (0.7 + 0.5 * one.phase)
  # Balls that lie on the ground and are not of one size touch at a slant.
  apart = 2 * math.sqrt(one.low * two.low)
  paths = []
  for draw, before, then, side in zip(
    draws, speeds, after, (-apart / 2, apart / 2), strict=True
  ):
    speed = np.where(time < contact, before, then)
    along = side + speed * (time - contact)
    zero = np.zeros_like(time)
    shared = draw._replace(start=one.start, heading=one.heading)
    paths.append(_path(shared, time, along, speed, zero + draw.low, zero))
  return paths[0], paths[1]


EVENTS = {
  'rest': rest,
  'roll': roll,
  'ride': roll,
  'walk': roll,
  'start': start,
  'bounce': bounce,
  'throw': throw,
  'jump': jump,
  'hover': hover,
  'fly': fly,
  'swim': fly,
  'float': hover,
}
