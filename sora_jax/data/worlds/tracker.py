"""Reads the balls of a video back from its pixels, and scores a prompt.

Pixels are told apart by ink, 255 - RGB: a pixel of a ball's soft edge has less
ink in the same proportions, so its direction names the colour and its length
says how much of the pixel the ball covers. Centre and area of a ball are sums
of that cover, good to a few hundredths of a pixel. Nothing but pixels and the
palette goes in, so generated clips are judged by the same rule as true ones.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from sora_jax.data.worlds import balls, captions

NAMES = list(captions.COLOURS)
INKS = 255 - np.array(list(captions.COLOURS.values()), np.float32)

# Less cover than this is noise: a pale ghost, compression, rounding.
FAINT = 0.1
# A pixel covered less than this does not vote on which colours there are.
SURE = 0.3
# Half the area of the smallest ball, in square units; less is no ball.
LEAST_AREA = 0.5 * np.pi * 0.3**2
# Two colours that are two balls keep apart by about the sum of their radii; a
# second colour in the edge of the first ball shares its centre.
APART = 0.7
# Sideways: what moves is faster than the first, what bounces in place slower
# than the second, in units/s.
MOVES, RESTS = 0.05, 0.2
# A ball that rises by so many units bounces; no other law lets a ball rise.
RISE = 0.5


class TrackedBall(NamedTuple):
  """What the pixels say of one ball."""

  colour: str
  radius: float  # units, from the area
  position: Float[np.ndarray, 'T 2']  # units, y up; NaN where there is none
  whole: Bool[np.ndarray, ' T']  # all of the disc is within the picture
  velocity: Float[np.ndarray, 'T-1 2']  # units/s; NaN but between whole frames
  initial: float  # horizontal velocity before any contact, units/s


class Track(NamedTuple):
  """What the pixels say of a clip, the ball with more pixels first."""

  law: str  # of captions.SENTENCES, or 'none' where none is kept
  balls: tuple[TrackedBall, ...]


class Score(NamedTuple):
  """Which promises of a caption a clip keeps."""

  colour: bool
  direction: bool
  law: bool
  size: bool
  velocity_error: float  # from the promised interval, units/s


class _Sums(NamedTuple):
  """Area and centre of a colour in each frame, in pixels, y down."""

  area: Float[np.ndarray, ' T']
  centre: Float[np.ndarray, 'T 2']  # NaN where there is no area


def _cover(
  ink: Float32[np.ndarray, 'T H W 3'], colours: list[int]
) -> tuple[Int[np.ndarray, 'T H W'], Float32[np.ndarray, 'T H W']]:
  """Says which of some colours each pixel is of, and what part of it is."""
  palette = INKS[colours]
  length = np.linalg.norm(palette, axis=-1)
  # The length of a pixel's ink does not change which colour is nearest.
  along = ink @ (palette / length[:, None]).T
  label = along.argmax(axis=-1)
  cover = np.take_along_axis(along, label[..., None], axis=-1)[..., 0]
  return label, np.clip(cover / length[label], 0, 1)


def _sums(cover: Float32[np.ndarray, 'T H W']) -> _Sums:
  _, height, width = cover.shape
  rows, columns = cover.sum(axis=2), cover.sum(axis=1)
  area = columns.sum(axis=1, dtype=np.float64)
  with np.errstate(invalid='ignore'):
    x = columns @ (np.arange(width) + 0.5) / area
    y = rows @ (np.arange(height) + 0.5) / area
  return _Sums(area, np.stack([x, y], axis=-1))


def _middle(weight: Float32[np.ndarray, 'T S']) -> Float[np.ndarray, ' T']:
  """Returns the weighted median along an axis, which stray ink cannot pull."""
  running = np.cumsum(weight, axis=1)
  return (running < running[:, -1:] / 2).sum(axis=1) + 0.5


def _gather(cover: Float32[np.ndarray, 'T H W']) -> _Sums:
  """Measures the main mass of a colour, without what lies far from it."""
  _, height, width = cover.shape
  centre = np.stack(
    [_middle(cover.sum(axis=1)), _middle(cover.sum(axis=2))], axis=-1
  )
  area = cover.sum(axis=(1, 2))
  found = _Sums(area, centre)
  for _ in range(2):
    # Two pixels beyond the radius leave room for a blurred edge.
    reach = 1.2 * np.sqrt(found.area / np.pi) + 2
    centre = np.nan_to_num(found.centre)
    dx = np.arange(width) + 0.5 - centre[:, :1]
    dy = np.arange(height) + 0.5 - centre[:, 1:]
    near = dx[:, None] ** 2 + dy[..., None] ** 2 < reach[:, None, None] ** 2
    found = _sums(cover * near)
  return found


def _colours(ink: Float32[np.ndarray, 'T H W 3'], scale: float) -> list[int]:
  """Finds the one or two colours that are balls, the one with more first."""
  label, cover = _cover(ink, list(range(len(NAMES))))
  cover = np.where(cover < SURE, 0, cover)
  found = [_sums(cover * (label == k)) for k in range(len(NAMES))]
  seen = np.stack([s.area for s in found]) >= LEAST_AREA * scale**2
  weight = np.stack([s.area for s in found]).sum(axis=1)
  first, *others = np.argsort(-weight)
  if not seen[first].any():
    return []
  for k in others:
    gap = np.linalg.norm(found[k].centre - found[first].centre, axis=-1)
    radii = np.sqrt(found[k].area / np.pi) + np.sqrt(found[first].area / np.pi)
    both = seen[k] & seen[first]
    apart = both & (gap > APART * radii)
    # One frame of a clip may have a flash of colour; two balls last.
    if apart.sum() > both.sum() / 2 and apart.sum() > len(ink) // 8:
      return [int(first), int(k)]
  return [int(first)]


def _slope(
  time: Float[np.ndarray, ' S'], value: Float[np.ndarray, ' S']
) -> float:
  """Returns the median slope over all pairs (Theil 1950, Sen 1968)."""
  i, j = np.triu_indices(len(time), k=1)
  if not len(i):
    return 0.0
  return float(np.median((value[j] - value[i]) / (time[j] - time[i])))


def _ball(
  colour: int, cover: Float32[np.ndarray, 'T H W'], scale: float
) -> TrackedBall:
  """Measures one ball from the cover of its colour; `initial` comes later."""
  _, height, width = cover.shape
  # A ball drawn too pale has less cover throughout, but is no smaller.
  peak = cover.max(axis=(1, 2))
  if (peak > SURE).any():
    cover = np.minimum(cover / np.median(peak[peak > SURE]), 1)
  area, centre = _gather(cover)
  seen = area >= LEAST_AREA * scale**2
  # Upper quartile: the disc is cut in the frames where it enters or leaves.
  radius = np.sqrt(np.percentile(area[seen], 75) / np.pi) if seen.any() else 0.0
  centre = np.where(seen[:, None], centre, np.nan)
  # A tenth of a pixel allows for error at the moment of touching the edge.
  room = np.minimum(centre, np.array([width, height]) - centre)
  whole = np.all(room >= radius - 0.1, axis=-1)
  position = np.stack([centre[:, 0], height - centre[:, 1]], axis=-1) / scale
  velocity = np.diff(position, axis=0) * balls.FPS
  velocity[~(whole[1:] & whole[:-1])] = np.nan
  return TrackedBall(
    NAMES[colour], float(radius / scale), position, whole, velocity, 0.0
  )


def _follow(
  ink: Float32[np.ndarray, 'T H W 3'], colours: list[int]
) -> list[TrackedBall]:
  """Measures the balls of given colours; every pixel goes to one of them."""
  scale = min(ink.shape[1:3]) / balls.UNITS
  label, cover = _cover(ink, colours)
  cover = np.where(cover < FAINT, 0, cover)
  return [_ball(k, cover * (label == i), scale) for i, k in enumerate(colours)]


def _contact(found: list[TrackedBall]) -> int | None:
  """Returns the frame in which two balls are nearest; None for one ball.

  The contact lies within a frame of it, on either side.
  """
  if len(found) < 2:
    return None
  gap = np.linalg.norm(found[0].position - found[1].position, axis=-1)
  return None if np.isnan(gap).all() else int(np.nanargmin(gap))


def _speed(ball: TrackedBall, frames: slice) -> float | None:
  """Measures horizontal velocity in units/s, from whole frames if it can."""
  seen = ~np.isnan(ball.position[:, 0])
  for usable in (ball.whole, seen):
    which = np.arange(len(usable))[frames][usable[frames]]
    if len(which) >= 2:
      return _slope(which / balls.FPS, ball.position[which, 0])
  return None


def _collide(found: tuple[TrackedBall, ...], contact: int | None) -> bool:
  """Whether two balls meet, and part as elastic discs of their areas do.

  Balls that stop dead, or rebound twice as fast, are off by half of the speed
  at which they closed in, and balls that pass through each other by all of it;
  half of the lesser is allowed. A ball that is out of sight afterwards is not
  held against the law.
  """
  if contact is None:
    return False
  one, two = found
  closing = abs(one.initial - two.initial)
  gap = np.linalg.norm(one.position[contact] - two.position[contact])
  # Between two frames they may have come nearer by what they travel in one.
  if gap > one.radius + two.radius + closing / balls.FPS:
    return False
  mass = np.array([one.radius, two.radius]) ** 2
  lawful = balls.elastic(mass, np.array([one.initial, two.initial]))
  after = [_speed(ball, slice(contact + 1, None)) for ball in found]
  return all(
    speed is None or abs(speed - law) <= closing / 4
    for speed, law in zip(after, lawful, strict=True)
  )


def _falls(ball: TrackedBall) -> bool:
  """Whether a ball's height bends down by more than half of gravity."""
  which = np.flatnonzero(ball.whole)
  if len(which) < 4:
    return False
  bend, _, _ = np.polyfit(which / balls.FPS, ball.position[which, 1], 2)
  return bool(2 * bend < -balls.GRAVITY / 2)


def _bounces(ball: TrackedBall) -> bool:
  """Whether a ball stays in its place, and rises there, or just moves."""
  height = ball.position[ball.whole, 1]
  if not len(height):
    return False
  rises = np.max(height - np.minimum.accumulate(height)) > RISE
  moves = np.ptp(height) > RISE / 2 or _falls(ball)
  sideways = abs(ball.initial)
  return bool((rises and sideways < RESTS) or (moves and sideways < MOVES))


def track(video: UInt8[np.ndarray, 'T H W 3']) -> Track:
  """Finds the balls of a clip: colour, radius, path, and the law they follow.

  Two balls that last and bounce off each other are a collision; one that goes
  up or down in its place is a bounce, and one whose height bends down is a
  parabola; one frame alone is still; anything else of one ball is uniform, and
  of two no law.
  """
  ink = 255 - video.astype(np.float32)
  colours = _colours(ink, min(video.shape[1:3]) / balls.UNITS)
  found = _follow(ink, colours) if colours else []
  contact = _contact(found)
  before = slice(0, None if contact is None else max(contact, 2))
  tracked = tuple(b._replace(initial=_speed(b, before) or 0.0) for b in found)
  return Track(_law(tracked, contact, len(video)), tracked)


def _law(
  found: tuple[TrackedBall, ...], contact: int | None, frames: int
) -> str:
  if not found:
    return 'none'
  if frames == 1:
    return 'still'
  if len(found) == 2:
    return 'collision' if _collide(found, contact) else 'none'
  if _bounces(found[0]):
    return 'bounce'
  return 'parabola' if _falls(found[0]) else 'uniform'


def _goes(velocity: float, direction: str) -> bool:
  """Whether a horizontal velocity is of a direction, or of none."""
  if not direction:
    return abs(velocity) < RESTS
  return velocity * captions.DIRECTIONS[direction] > MOVES


def score(
  clip: Track | UInt8[np.ndarray, 'T H W 3'], promised: captions.Attributes
) -> Score:
  """Holds a clip, tracked or as pixels, against what its caption promises.

  Balls are matched by colour, or else in order. A promised ball that is not
  there has the wrong direction and size, and a speed of 0.
  """
  tracked = clip if isinstance(clip, Track) else track(clip)
  spare = {b.colour: b for b in tracked.balls}
  wanted = {b.colour for b in promised.balls}
  strangers = [b for b in tracked.balls if b.colour not in wanted]
  pairs = []
  for ball in promised.balls:
    found = spare.get(ball.colour) or (strangers.pop(0) if strangers else None)
    pairs.append((ball, found))
  errors = []
  for ball, found in pairs:
    speed = abs(found.initial) if found else 0.0
    errors.append(max(ball.speed[0] - speed, speed - ball.speed[1], 0.0))
  return Score(
    colour=set(spare) == wanted,
    direction=all(
      f is not None and _goes(f.initial, b.direction) for b, f in pairs
    ),
    law=tracked.law == promised.law,
    size=all(
      f is not None and captions.size_word(f.radius) == b.size for b, f in pairs
    ),
    velocity_error=float(np.mean(errors)),
  )


def position_error(
  video: UInt8[np.ndarray, 'T H W 3'], truth: balls.Truth
) -> float:
  """Mean distance of the balls from the simulator's, in units.

  Over balls and frames in which the true ball is whole. A ball that is not
  found counts as in the middle of the picture. NaN where no ball is whole.
  """
  middle = np.array(video.shape[2:0:-1]) / min(video.shape[1:3]) * balls.UNITS
  measured = _positions(video, truth)
  measured = np.where(np.isnan(measured), middle / 2, measured)
  if not truth.whole.any():
    return float('nan')
  error = np.linalg.norm(measured - truth.position, axis=-1)
  return float(error[truth.whole].mean())


def velocity_error(
  video: UInt8[np.ndarray, 'T H W 3'], truth: balls.Truth
) -> float:
  """Mean distance of the balls' velocities from the simulator's, in units/s.

  Over balls and pairs of successive frames in both of which the true ball is
  whole; the simulator's velocity is its mean between the two frames, so that
  acceleration is no error. A ball that is not found counts as at rest. NaN
  where no ball is whole in two successive frames.
  Source: Kang et al. 2024 (arXiv:2411.02385), who average over frames too.
  """
  measured = np.diff(_positions(video, truth), axis=0) * balls.FPS
  measured = np.nan_to_num(measured)
  exact = np.diff(truth.position, axis=0) * balls.FPS
  counted = truth.whole[1:] & truth.whole[:-1]
  if not counted.any():
    return float('nan')
  return float(np.linalg.norm(measured - exact, axis=-1)[counted].mean())


def _positions(
  video: UInt8[np.ndarray, 'T H W 3'], truth: balls.Truth
) -> Float[np.ndarray, 'T K 2']:
  """Where the balls of a truth's colours are; NaN where there is none."""
  ink = 255 - video.astype(np.float32)
  found = _follow(ink, [NAMES.index(c) for c in truth.colours])
  return np.stack([b.position for b in found], axis=1)
