"""What is drawn of a scene before it has a size, and what training never sees.

Tables of what each object can do and where, how fast and how high, and from
how far away it is seen. Lengths are units and speeds units/s.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sora_jax.data.worlds import (
  actors,
  cameras,
  motion,
  places,
  scene_captions,
  seeds,
)

SPLITS = ('train', 'test')

DRY = ('grass', 'sand', 'checker', 'ruins', 'studio')
# Where each object does what.
EVENTS = {
  'ball': {
    'rest': (*DRY, 'underwater'),
    **dict.fromkeys(('roll', 'bounce', 'throw', 'collide'), DRY),
    'float': ('water',),
  },
  'cube': {'rest': (*DRY, 'underwater'), 'bounce': DRY, 'float': ('water',)},
  'cylinder': {'rest': (*DRY, 'underwater'), 'roll': DRY},
  'cone': {'rest': (*DRY, 'underwater'), 'bounce': DRY, 'float': ('water',)},
  'bicycle': dict.fromkeys(('rest', 'start', 'ride'), DRY),
  'car': dict.fromkeys(('rest', 'start', 'ride'), DRY),
  'drone': {'rest': DRY, 'hover': (*DRY, 'water'), 'fly': (*DRY, 'water')},
  'butterfly': {'rest': DRY, 'hover': (*DRY, 'water'), 'fly': (*DRY, 'water')},
  'fish': {
    'swim': ('underwater',),
    'hover': ('underwater',),
    'jump': ('water',),
  },
  'diver': {'swim': ('underwater',), 'hover': ('underwater',)},
  'cat': dict.fromkeys(('rest', 'walk', 'jump'), DRY),
}
KINDS = [
  (name, event, place)
  for name, events in EVENTS.items()
  for event, where in events.items()
  for place in where
]


class Combination(NamedTuple):
  """What train and test split by."""

  object: str
  event: str
  place: str
  colour: str


def held_out(combination: Combination) -> bool:
  """Whether a combination is kept out of training: one of five is.

  Each triple of object, event and place lacks two colours, and colours take
  turns, so every word is trained in nearly equally many combinations.
  """
  rank = KINDS.index(combination[:3])
  colours = list(scene_captions.COLOURS)
  # 3 is coprime with the number of colours, so all of them take a turn.
  lacks = (3 * rank % len(colours), (3 * rank + 5) % len(colours))
  return colours.index(combination.colour) in lacks


COMBINATIONS = {
  split: {
    kind: [
      colour
      for colour in scene_captions.COLOURS
      if held_out(Combination(*kind, colour)) == (split == 'test')
    ]
    for kind in KINDS
  }
  for split in SPLITS
}


class Plan(NamedTuple):
  """One clip before it has a size: words, numbers and where to put them."""

  said: scene_captions.Attributes
  draws: list[motion.Draw]
  camera: cameras.Draw
  setting: places.Setting
  seed: Float[np.ndarray, 'n 4']
  caption: str
  image_caption: str


SPEEDS = {  # units/s
  'roll': (0.8, 1.4),
  'ride': (0.75, 1.15),
  'start': (0.75, 1.1),
  'walk': (0.6, 1.0),
  'throw': (0.8, 1.3),
  'jump': (0.8, 1.2),
  'fly': (0.8, 1.3),
  'swim': (0.7, 1.1),
  'collide': (0.9, 1.5),
}
HEIGHTS = {  # units; of falls, leaps and flights
  'bounce': (1.0, 1.8),
  'throw': (0.8, 1.3),
  'jump': (0.45, 0.8),
  'hover': (0.35, 0.8),
  'fly': (0.35, 0.8),
  'swim': (0.3, 0.7),
}
# Half the height of each object, where the camera looks; and how far a ball's
# origin is from the ground.
MIDDLES = {
  'ball': 0.0,
  'cube': 0.55,
  'cylinder': 0.6,
  'cone': 0.6,
  'bicycle': 0.75,
  'car': 0.6,
  'drone': 0.4,
  'butterfly': 0.6,
  'fish': 0.55,
  'diver': 0.6,
  'cat': 0.7,
}
DISTANCES = {  # units; from which an actor that moves is seen well
  **dict.fromkeys(('ball', 'cube', 'cylinder', 'cone'), 5.3),
  'bicycle': 6.3,
  'car': 6.2,
  'drone': 5.6,
  'butterfly': 5.1,
  'fish': 5.5,
  'diver': 6.2,
  'cat': 5.8,
}
NEARER = 0.8  # for what stays in its place
FLOATS = {'ball': 0.3, 'cube': -0.4, 'cone': -0.3}  # height of the origin
# Where several stand: along their heading and beside it, units.
PLACES_OF = {
  1: ((0.0, 0.0),),
  2: ((1.1, 0.45), (-1.1, -0.45)),
  3: ((0.0, -0.9), (2.0, 0.5), (-2.0, 0.5)),
}
FARTHER = {1: 1.0, 2: 1.3, 3: 1.7}  # so that all of them are seen


def _attributes(
  rng: np.random.Generator, split: str
) -> scene_captions.Attributes:
  """Draws what a scene is of."""
  name = seeds.pick(rng, tuple(EVENTS))
  event = seeds.pick(rng, tuple(EVENTS[name]))
  place = seeds.pick(rng, EVENTS[name][event])
  colour = seeds.pick(rng, COMBINATIONS[split][name, event, place])
  # The second ball is of a combination that is trained, in every split.
  others = [c for c in COMBINATIONS['train'][name, event, place] if c != colour]
  second = seeds.pick(rng, others)
  count = seeds.pick(rng, (1, 1, 1, 1, 1, 2, 2, 3))
  way = seeds.pick(rng, tuple(scene_captions.WAYS))
  hour = seeds.pick(rng, ('day', 'day', 'dusk', 'night'))
  weather = seeds.pick(rng, ('clear', 'clear', 'clear', 'rain', 'fog'))
  alike = place in places.ALIKE
  return scene_captions.Attributes(
    object=name,
    colour=colour,
    count=1 if event == 'collide' else count,
    event=event,
    way=way if event in scene_captions.DIRECTED else '',
    place=place,
    hour='' if alike else hour,
    weather='' if alike else weather,
    camera=seeds.pick(rng, scene_captions.CAMERAS),
    second=second if event == 'collide' else '',
  )


def actors_of(said: scene_captions.Attributes) -> int:
  """How many actors a scene has."""
  return 2 if said.event == 'collide' else said.count


def _low(name: str, event: str) -> float:
  """Height of an actor's origin when it is down, units."""
  if event == 'float':
    return FLOATS[name]
  if name == 'fish' and event == 'jump':
    return -0.9
  return actors.BALL if name == 'ball' else 0.0


def _motion(
  rng: np.random.Generator, said: scene_captions.Attributes, azimuth: float
) -> list[motion.Draw]:
  """Draws how each actor moves, its way as the camera sees it."""
  heading = azimuth + rng.uniform(-0.45, 0.45)
  way = said.way or seeds.pick(rng, tuple(scene_captions.WAYS))
  heading += 0 if way == 'right' else np.pi
  speed = rng.uniform(*SPEEDS.get(said.event, (0, 0)))
  if said.camera in ('orbit', 'dolly'):
    speed *= 0.8  # or else it leaves the picture
  height = rng.uniform(*HEIGHTS.get(said.event, (0, 0)))
  if said.place == 'water' and said.event == 'jump':
    height += 1.3
  draws = []
  # Balls that collide both start from the place where they meet.
  spots = PLACES_OF[said.count] * (2 if said.event == 'collide' else 1)
  for along, beside in spots:
    ahead, right = motion.forward(np.array([heading, heading - np.pi / 2]))
    draws.append(
      motion.Draw(
        speed=speed * rng.uniform(0.95, 1.05),
        height=height * rng.uniform(0.9, 1.1),
        heading=heading + (0.0 if said.way else rng.uniform(-0.3, 0.3)),
        start=along * ahead + beside * right,
        phase=rng.random(),
        low=_low(said.object, said.event),
      )
    )
  return draws


def _camera(
  rng: np.random.Generator,
  said: scene_captions.Attributes,
  azimuth: float,
  height: float,
) -> cameras.Draw:
  """Draws where the camera is; flyers are seen from higher up."""
  moves = bool(said.way)
  from_above = said.object in ('drone', 'butterfly')
  middle = MIDDLES[said.object] + max(_low(said.object, said.event), -0.3)
  rises = height * (0.5 if said.event in ('bounce', 'throw', 'jump') else 1.0)
  distance = DISTANCES[said.object] * (1 if moves else NEARER) + 0.5 * rises
  return cameras.Draw(
    kind=said.camera,
    azimuth=azimuth,
    elevation=rng.uniform(0.25, 0.45) if from_above else rng.uniform(0.06, 0.3),
    distance=distance * FARTHER[actors_of(said)] * rng.uniform(0.93, 1.07),
    aim=np.array([0.0, max(middle + rises, 0.4), 0.0]),
    rate=rng.uniform(-1, 1),
    follows=moves,
  )


def plan(
  seed: int, index: int, split: str, azimuth: float | None = None
) -> Plan:
  """Draws everything random of a clip, the same for every size.

  Args:
    seed: which world.
    index: which clip of it.
    split: of SPLITS.
    azimuth: turns the whole scene so that the camera is there, in radians.

  Raises:
    ValueError: unknown split, or a negative seed or index.
  """
  rng = seeds.generator(seed, index, split, SPLITS)
  said = _attributes(rng, split)
  drawn = rng.uniform(0, 2 * np.pi)
  azimuth = drawn if azimuth is None else azimuth
  draws = _motion(rng, said, azimuth)
  camera = _camera(rng, said, azimuth, draws[0].height)
  # The sun is behind the camera's shoulder, and at dusk beside the scene.
  beside = rng.uniform(*((1.0, 2.0) if said.hour == 'dusk' else (0.4, 1.2)))
  setting = places.Setting(
    place=said.place,
    hour=said.hour or 'day',
    weather=said.weather or 'clear',
    azimuth=azimuth + beside * (1 if rng.random() < 0.5 else -1),
    shift=rng.uniform(0, 50, 2),
  )
  return Plan(
    said=said,
    draws=draws,
    camera=camera,
    setting=setting,
    seed=rng.random((96, 4)),
    caption=scene_captions.write(said, rng, image=False),
    image_caption=scene_captions.write(said, rng, image=True),
  )
