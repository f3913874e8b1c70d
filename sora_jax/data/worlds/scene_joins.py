"""Clips of `scenes` that lead from one actor and place into another one.

One actor does what its scene says, then turns into another one, which does what
its own scene says from there on. In between, the actor goes on a cubic that
meets both ways in place and velocity, the camera goes over from one to the
other, and the picture dissolves, so that what is left of the first one lies
where the second one comes up. A caption has two parts, `A | B`; an image has
the first scene alone.

A clip is a pure function of (seed, index, size, split), as those of `scenes`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sora_jax import batch
from sora_jax.data.worlds import (
  cameras,
  motion,
  scene_captions,
  scene_plans,
  scenes,
  seeds,
  staging,
  ways,
)

SPLITS = scenes.SPLITS
FPS = scenes.FPS
# The way takes this part of a clip, and leaves this on either side of it.
WAY, LEFT = (0.3, 0.6), 0.1
MET = (0.3, 0.9)  # seconds of the second scene when it is met


class Truth(NamedTuple):
  """What happens in a clip: two scenes, each given at all of its frames."""

  before: scenes.Truth
  after: scenes.Truth
  share: Float[np.ndarray, ' T']  # how much of a frame the second one is
  leaves: int  # the last frame of the first scene alone
  meets: int  # the first frame of the second one alone


class _Part(NamedTuple):
  """A scene of one actor, with its way at all frames of the clip."""

  plan: scene_plans.Plan
  path: motion.Path
  shot: cameras.Camera


def _single(
  rng: np.random.Generator, seed: int, split: str, azimuth: float | None
) -> scene_plans.Plan:
  """Some scene of one actor that is said in few words."""
  while True:
    index = int(rng.integers(2**31))
    plan = scene_plans.plan(seed, index, split, azimuth)
    brief = len(plan.caption) <= scene_captions.SHORT_LIMIT
    if brief and len(plan.draws) == 1:
      return plan


def _middle(part: _Part) -> Float[np.ndarray, '3']:
  """From an actor's origin to its middle, where the other one comes up."""
  return np.array([0.0, scene_plans.MIDDLES[part.plan.said.object], 0.0])


def _way(
  one: _Part, two: _Part, leaves: int, meets: int
) -> Float[np.ndarray, 'T 3']:
  """The middle of the actor, on a cubic between two frames."""
  frames = np.arange(len(one.path.time))
  start = one.path.position + _middle(one)
  end = two.path.position + _middle(two)
  place = ways.hermite(
    (start[leaves], end[meets]),
    (one.path.velocity[leaves], two.path.velocity[meets]),
    (meets - leaves) / FPS,
    np.clip((frames - leaves) / (meets - leaves), 0, 1),
  )
  place = np.where((frames <= leaves)[:, None], start, place)
  return np.where((frames >= meets)[:, None], end, place)


def _turned(
  first: np.ndarray, last: np.ndarray, share: np.ndarray, way: float
) -> np.ndarray:
  """From the values of one path to those of another, by way of a change."""
  middle = first[share == 0][-1] + share * way
  return np.where(share == 0, first, np.where(share == 1, last, middle))


def _joined(
  one: _Part, two: _Part, leaves: int, meets: int
) -> tuple[_Part, _Part, Float[np.ndarray, ' T']]:
  """Two scenes with a common way and camera, and how much each frame is two."""
  frames = np.arange(len(one.path.time))
  share = ways.smooth(np.clip((frames - leaves) / (meets - leaves), 0, 1))
  place = _way(one, two, leaves, meets)
  start, end = one.path, two.path
  # The shorter way round.
  turn = (end.heading[meets] - start.heading[leaves] + np.pi) % (2 * np.pi)
  heading = _turned(start.heading, end.heading, share, float(turn - np.pi))
  climb = float(end.pitch[meets] - start.pitch[leaves])
  pitch = _turned(start.pitch, end.pitch, share, climb)
  between = (share > 0) & (share < 1)
  speed = np.gradient(place, 1 / FPS, axis=0)
  b = share[:, None]
  eye = (1 - b) * one.shot.position + b * two.shot.position
  ahead = (1 - b) * one.shot.axes[:, 2] + b * two.shot.axes[:, 2]
  shot = cameras.look(eye, eye + ahead)
  parts = []
  for part in (one, two):
    position = place - _middle(part)
    # It does not go through the ground that it stands on.
    low = part.plan.draws[0].low
    position[:, 1] = np.where(
      between, np.maximum(position[:, 1], low), position[:, 1]
    )
    velocity = np.where(frames[:, None] < meets, start.velocity, end.velocity)
    velocity = np.where(between[:, None], speed, velocity)
    path = part.path._replace(
      position=position, velocity=velocity, heading=heading, pitch=pitch
    )
    parts.append(_Part(part.plan, path, shot))
  return parts[0], parts[1], share


class _Joint(NamedTuple):
  """A clip before it is drawn."""

  caption: str
  one: _Part
  two: _Part
  share: Float[np.ndarray, ' T']
  leaves: int
  meets: int


def _joint(seed: int, index: int, size: batch.Size, split: str) -> _Joint:
  """Both scenes on their common way."""
  rng = seeds.generator(seed, index, split, SPLITS)
  plan = _single(rng, seed, split, None)
  length, way = size.frames - 1, rng.uniform(*WAY)
  leaves = round(length * rng.uniform(LEFT, 1 - way - LEFT))
  meets = leaves + max(1, round(length * way))
  # An image has a neighbour, which is not drawn.
  frames = np.arange(max(size.frames, meets + 1))
  second = _single(rng, seed, split, plan.camera.azimuth)
  met = rng.uniform(*MET)
  parts = []
  for scene, time in (
    (plan, frames / FPS),
    (second, (frames - meets) / FPS + met),
  ):
    (path,), shot = scenes.shoot(scene, time)
    parts.append(_Part(scene, path, shot))
  one, two, share = _joined(parts[0], parts[1], leaves, meets)
  caption = f'{plan.caption} | {second.caption}'
  if size.frames == 1:
    caption = plan.image_caption
  return _Joint(caption, one, two, share[: size.frames], leaves, meets)


def _cut(part: _Part, frames: slice) -> _Part:
  """Some frames of a scene."""
  shot = cameras.Camera(part.shot.position[frames], part.shot.axes[frames])
  return _Part(part.plan, motion.span(part.path, frames), shot)


def _truth(joint: _Joint) -> Truth:
  before, after = (
    scenes.truth_of(p.plan, [p.path], p.shot)
    for p in (_cut(p, slice(len(joint.share))) for p in (joint.one, joint.two))
  )
  return Truth(before, after, joint.share, joint.leaves, joint.meets)


def simulate(
  seed: int, index: int, size: batch.Size, split: str = 'train'
) -> tuple[str, Truth]:
  """Returns the caption and the ground truth of a clip, without its pixels.

  Raises:
    ValueError: unknown split, or a negative seed or index.
  """
  joint = _joint(seed, index, size, split)
  return joint.caption, _truth(joint)


def clip(
  seed: int, index: int, size: batch.Size, split: str = 'train'
) -> tuple[batch.Clip, Truth]:
  """Makes clip `index` of a world, at any size, and its ground truth.

  Splits are those of `scenes`, for both of the scenes. The mask of either
  truth is where its own actor is, in the frames in which it is the stronger.

  Raises:
    ValueError: unknown split, or a negative seed or index.
  """
  joint = _joint(seed, index, size, split)
  shape = (size.frames, size.height, size.width)
  video = np.zeros((*shape, 3), np.float32)
  masks = []
  share = joint.share
  for part, weight, stronger in (
    (joint.one, 1 - share, share < 0.5),
    (joint.two, share, share >= 0.5),
  ):
    mask = np.zeros(shape, np.uint8)
    (frames,) = np.nonzero(weight)
    if len(frames):
      seen = slice(frames[0], frames[-1] + 1)
      own = _cut(part, seen)
      drawn = size._replace(frames=len(frames))
      stage = scenes.stage(own.plan, [own.path], own.shot, drawn)
      picture, found = staging.render(stage)
      video[seen] += picture * weight[seen, None, None, None].astype(np.float32)
      mask[seen] = found * stronger[seen, None, None]
    masks.append(mask)
  truth = _truth(joint)
  truth = truth._replace(
    before=truth.before._replace(mask=masks[0]),
    after=truth.after._replace(mask=masks[1]),
  )
  name = f'scene_joins-{split}-{seed}-{index}-{size}'
  pixels = np.rint(video).astype(np.uint8)
  return batch.Clip(pixels, joint.caption, FPS, name), truth
