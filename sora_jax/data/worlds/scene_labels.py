"""What is true of a scene, as numbers that a network can be asked for.

Words of its caption, each by its place among all; and how the camera and the
actors move, as the camera sees it.
"""

import itertools

import numpy as np
from jaxtyping import Float, Int

from sora_jax.data.worlds import scene_captions, scenes

# The values that each attribute may have. One of one scene is absent where it
# has none, as the hour under water or the way of what rests.
FIELDS = {
  'object': scene_captions.OBJECTS,
  'colour': tuple(scene_captions.COLOURS),
  'count': tuple(scene_captions.COUNTS.values()),
  'event': scene_captions.EVENTS,
  'way': tuple(scene_captions.WAYS),
  'place': scene_captions.PLACES,
  'hour': scene_captions.HOURS,
  'weather': scene_captions.WEATHERS,
  'camera': scene_captions.CAMERAS,
  'second': tuple(scene_captions.COLOURS),
}
CLASSES = sum(map(len, FIELDS.values()))
# Where scores of all classes, in that order, are cut into those of a field.
CUTS = list(itertools.accumulate(map(len, FIELDS.values())))[:-1]
ABSENT = -1

# A motion is where the camera goes: right, up and ahead, in units/s; how it
# turns: right and up, in radians/s; where actors go: right, up and away. They
# are divided by these, which are about as much as they are where there is any.
MOTION_SCALES = np.array([1, 1, 1, 0.2, 0.2, 1, 1, 1], np.float32)
MIRRORED = np.array([-1, 1, 1, -1, 1, -1, 1, 1], np.float32)  # in a mirror


def encode(said: scene_captions.Attributes) -> Int[np.ndarray, ' A']:
  """The place of each attribute's value in FIELDS, in order, or ABSENT."""
  return np.array(
    [
      values.index(value) if (value := getattr(said, name)) else ABSENT
      for name, values in FIELDS.items()
    ],
    np.int32,
  )


def motions(truth: scenes.Truth) -> Float[np.ndarray, 'T 8']:
  """How the camera and the actors, in the mean, move from each frame on.

  In parts of MOTION_SCALES; the last frame, from which there is no other, has
  those of the one before, and a still has none.
  """
  place, axes = truth.camera.position, truth.camera.axes
  seen = lambda vectors: np.einsum('tij,tj->ti', axes[:-1], vectors)
  goes = seen(np.diff(place, axis=0)) * scenes.FPS
  right, up, ahead = seen(axes[1:, 2]).T
  turns = np.stack([np.arctan2(right, ahead), np.arcsin(up)], 1) * scenes.FPS
  actors = seen(truth.velocity[:-1].mean(1))
  found = (
    np.concatenate([goes, turns, actors], 1).astype(np.float32) / MOTION_SCALES
  )
  rest = np.zeros((1, len(MOTION_SCALES)), np.float32)
  return np.concatenate([found, found[-1:] if len(found) else rest])
