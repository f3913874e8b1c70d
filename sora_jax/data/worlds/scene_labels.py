"""What is true of a scene, as numbers that a network can be asked for."""

import itertools

import numpy as np
from jaxtyping import Int

from sora_jax.data.worlds import scene_captions

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


def encode(said: scene_captions.Attributes) -> Int[np.ndarray, ' A']:
  """The place of each attribute's value in FIELDS, in order, or ABSENT."""
  return np.array(
    [
      values.index(value) if (value := getattr(said, name)) else ABSENT
      for name, values in FIELDS.items()
    ],
    np.int32,
  )
