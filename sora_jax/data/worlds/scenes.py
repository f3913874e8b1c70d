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


def shoot(
  plan: scene_plans.Plan, time: Float[np.ndarray, ' T']
) -> tuple[list[motion.Path], cameras.Camera]:
  """Where the actors and the camera of a scene are at each time, in seconds."""
  event = plan.said.event
  if event == 'collide':
    one, two = plan.draws
    paths = list(motion.collide((one, two), time))
  else:
    paths = [motion.EVENTS[event](d, time) for d in plan.draws]
  middle = np.mean([p.position for p in paths], 0)
  return paths, cameras.camera(plan.camera, time, middle)


def truth_of(
  plan: scene_plans.Plan, paths: list[motion.Path], shot: cameras.Camera
) -> Truth:
  """What happens in a scene whose actors and camera are there."""
  said = plan.said
  return Truth(
    said=said,
    names=[said.object] * len(paths),
    colours=[said.colour, said.second or said.colour, said.colour][
      : len(paths)
    ],
    position=np.stack([p.position for p in paths], 1),
    velocity=np.stack([p.velocity for p in paths], 1),
    heading=np.stack([p.heading for p in paths], 1),
    camera=shot,
    mask=None,
  )


def stage(
  plan: scene_plans.Plan,
  paths: list[motion.Path],
  shot: cameras.Camera,
  size: batch.Size,
) -> staging.Stage:
  """A scene whose actors and camera are there, as it is to be drawn."""
  truth, time = truth_of(plan, paths, shot), paths[0].time
  return staging.Stage(
    players=[
      staging.Player(name, colour, path)
      for name, colour, path in zip(
        truth.names, truth.colours, paths, strict=True
      )
    ],
    props=props.props_of(
      plan.said.place, plan.camera.azimuth, plan.seed[::-1], time
    ),
    setting=plan.setting,
    air=places.air_of(plan.setting),
    view=cameras.view(shot, size),
    time=time,
    seed=plan.seed,
  )


def simulate(
  seed: int, index: int, size: batch.Size, split: str = 'train'
) -> tuple[str, Truth]:
  """Returns the caption and the ground truth of a clip, without its pixels.

  Raises:
    ValueError: unknown split, or a negative seed or index.
  """
  plan = scene_plans.plan(seed, index, split)
  paths, shot = shoot(plan, np.arange(size.frames) / FPS)
  caption = plan.image_caption if size.frames == 1 else plan.caption
  return caption, truth_of(plan, paths, shot)


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
  plan = scene_plans.plan(seed, index, split)
  paths, shot = shoot(plan, np.arange(size.frames) / FPS)
  video, mask = staging.render(stage(plan, paths, shot, size))
  caption = plan.image_caption if size.frames == 1 else plan.caption
  name = f'scenes-{split}-{seed}-{index}-{size}'
  truth = truth_of(plan, paths, shot)._replace(mask=mask)
  return batch.Clip(video, caption, FPS, name), truth


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
