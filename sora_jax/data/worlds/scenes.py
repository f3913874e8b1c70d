"""Small ray-traced scenes in three dimensions, with captions and ground truth.

Solids and jointed actors in ten colours rest, roll, bounce, ride, fly or swim
on six grounds, under water and in a studio, by day or night, in rain or fog,
before a camera that stands, pans, orbits or moves closer. Lengths are units, of
which an actor is about two long; a frame is taken every 1/8 s of motion in
closed form (`motion`), and everything is drawn by rays (`tracing`).

A clip is a pure function of (seed, index, size, split). All that is random of
it is drawn before its size is known, so a scene is the same at every
resolution and aspect; what crosses the picture is in its middle after 1 s, and
longer clips carry on.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from sora_jax import batch
from sora_jax.data.worlds import (
  cameras,
  motion,
  places,
  props,
  scene_captions,
  scene_plans,
  staging,
)

SPLITS = scene_plans.SPLITS
FPS = 8.0

# Reads a caption of a clip back to what it promises.
attributes = scene_captions.attributes


class Truth(NamedTuple):
  """What happens in a clip, exactly. K actors, the first-named one first."""

  said: scene_captions.Attributes  # all that is true, more than is said
  names: list[str]  # of objects
  colours: list[str]
  position: Float[np.ndarray, 'T K 3']  # units; y is up, from the ground
  velocity: Float[np.ndarray, 'T K 3']  # units/s
  heading: Float[np.ndarray, 'T K']  # radians; 0 along x, then towards -z
  camera: cameras.Camera
  # 1 + the actor that a pixel shows; 0 is none. None before it is drawn.
  mask: UInt8[np.ndarray, 'T H W'] | None


def _paths(
  plan: scene_plans.Plan, time: Float[np.ndarray, ' T']
) -> list[motion.Path]:
  event = plan.said.event
  if event == 'collide':
    one, two = plan.draws
    return list(motion.collide((one, two), time))
  return [motion.EVENTS[event](d, time) for d in plan.draws]


def _stage(
  seed: int, index: int, size: batch.Size, split: str
) -> tuple[str, Truth, staging.Stage]:
  """Everything about a clip but its pixels."""
  plan = scene_plans.plan(seed, index, split)
  said = plan.said
  time = np.arange(size.frames) / FPS
  paths = _paths(plan, time)
  middle = np.mean([p.position for p in paths], 0)
  shot = cameras.camera(plan.camera, time, middle)
  colours = [said.colour] * len(paths)
  if said.second:
    colours[1] = said.second
  truth = Truth(
    said=said,
    names=[said.object] * len(paths),
    colours=colours,
    position=np.stack([p.position for p in paths], 1),
    velocity=np.stack([p.velocity for p in paths], 1),
    heading=np.stack([p.heading for p in paths], 1),
    camera=shot,
    mask=None,
  )
  stage = staging.Stage(
    players=[
      staging.Player(said.object, colour, path)
      for colour, path in zip(colours, paths, strict=True)
    ],
    props=props.props_of(
      said.place, plan.camera.azimuth, plan.seed[::-1], time
    ),
    setting=plan.setting,
    air=places.air_of(plan.setting),
    view=cameras.view(shot, size),
    time=time,
    seed=plan.seed,
  )
  caption = plan.image_caption if size.frames == 1 else plan.caption
  return caption, truth, stage


def simulate(
  seed: int, index: int, size: batch.Size, split: str = 'train'
) -> tuple[str, Truth]:
  """Returns the caption and the ground truth of a clip, without its pixels.

  Raises:
    ValueError: unknown split, or a negative seed or index.
  """
  caption, truth, _ = _stage(seed, index, size, split)
  return caption, truth


def clip(
  seed: int, index: int, size: batch.Size, split: str = 'train'
) -> tuple[batch.Clip, Truth]:
  """Makes clip `index` of a world, at any size, and its ground truth.

  An image (one frame) has a caption without motion.

  Args:
    seed: which world.
    index: which clip of it.
    size: pixels and frames.
    split: 'train'; or 'test', combinations of object, event, place and colour
      that training never shows.

  Raises:
    ValueError: unknown split, or a negative seed or index.
  """
  caption, truth, stage = _stage(seed, index, size, split)
  video, mask = staging.render(stage)
  name = f'scenes-{split}-{seed}-{index}-{size}'
  return batch.Clip(video, caption, FPS, name), truth._replace(mask=mask)


def held_out_prompts(seed: int, n: int) -> list[tuple[str, int]]:
  """Returns n captions of split 'test' and their indices, objects in turn."""
  size = batch.Size(8, 8, 17)
  waiting = {name: [] for name in scene_captions.OBJECTS}
  indices = itertools.count()
  prompts = []
  for name in itertools.islice(itertools.cycle(scene_captions.OBJECTS), n):
    while not waiting[name]:
      index = next(indices)
      caption, truth = simulate(seed, index, size, 'test')
      waiting[truth.said.object].append((caption, index))
    prompts.append(waiting[name].pop(0))
  return prompts
