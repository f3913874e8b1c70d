"""The words of the scenes world: sentences, and what they promise.

One table of phrases both writes the captions and reads them back, so a prompt
can be held against a video. A sentence says who does what and where; the hour,
the weather and the camera are said by some sentences only, and what is not said
is not promised.
"""

import functools
import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sora_jax.data.worlds import seeds

# sRGB, 0 to 255.
COLOURS = {
  'red': (214, 28, 30),
  'orange': (244, 125, 18),
  'yellow': (248, 210, 28),
  'green': (22, 140, 52),
  'cyan': (20, 180, 196),
  'blue': (28, 72, 208),
  'purple': (124, 40, 176),
  'pink': (246, 130, 178),
  'white': (240, 240, 238),
  'black': (38, 38, 42),
}
PLURALS = {
  'ball': 'balls',
  'cube': 'cubes',
  'cylinder': 'cylinders',
  'cone': 'cones',
  'bicycle': 'bicycles',
  'car': 'cars',
  'drone': 'drones',
  'butterfly': 'butterflies',
  'fish': 'fish',
  'diver': 'divers',
  'cat': 'cats',
}
OBJECTS = tuple(PLURALS)
COUNTS = {'a': 1, 'two': 2, 'three': 3}
WAYS = {'left': -1, 'right': 1}

# What one does, and what several do; `*` is for any object.
VERBS = {
  'rest': {
    '*': (('rests', 'rest'), ('stays still', 'stay still')),
    'bicycle': (('stands still', 'stand still'), ('rests', 'rest')),
    'car': (('is parked', 'are parked'), ('stands still', 'stand still')),
    'cat': (('stands still', 'stand still'), ('waits', 'wait')),
    'drone': (('sits still', 'sit still'), ('rests', 'rest')),
    'butterfly': (('sits still', 'sit still'), ('rests', 'rest')),
  },
  'start': {
    'bicycle': (('starts to ride', 'start to ride'), ('sets off', 'set off')),
    'car': (('starts to drive', 'start to drive'), ('sets off', 'set off')),
  },
  'ride': {
    'bicycle': (('rides', 'ride'), ('is riding', 'are riding')),
    'car': (('drives', 'drive'), ('is driving', 'are driving')),
  },
  'roll': {'*': (('rolls', 'roll'), ('is rolling', 'are rolling'))},
  'bounce': {
    '*': (
      ('falls and bounces', 'fall and bounce'),
      ('drops and bounces', 'drop and bounce'),
    ),
  },
  'throw': {
    '*': (('is thrown', 'are thrown'), ('flies in an arc', 'fly in an arc')),
  },
  'collide': {'ball': (('hits', ''), ('rolls into', ''), ('bumps into', ''))},
  'walk': {'cat': (('walks', 'walk'), ('is walking', 'are walking'))},
  'jump': {'*': (('jumps', 'jump'), ('leaps', 'leap'))},
  'hover': {
    '*': (('hovers', 'hover'), ('hovers in place', 'hover in place')),
  },
  'fly': {'*': (('flies', 'fly'), ('is flying', 'are flying'))},
  'swim': {'*': (('swims', 'swim'), ('is swimming', 'are swimming'))},
  'float': {'*': (('floats', 'float'), ('is floating', 'are floating'))},
}
EVENTS = tuple(VERBS)
# Events of which a sentence may say the way.
DIRECTED = (
  'start',
  'ride',
  'roll',
  'throw',
  'collide',
  'walk',
  'jump',
  'fly',
  'swim',
)

PHRASES = {
  'place': {
    'grass': ('on grass', 'on a lawn', 'in a meadow'),
    'sand': ('on sand', 'on a sandy beach', 'in the desert'),
    'checker': ('on a checkered floor', 'on shiny tiles'),
    'ruins': ('among ruins', 'between old columns'),
    'water': ('at sea', 'out on a lake'),
    'underwater': ('under water', 'in the deep sea', 'over the sea floor'),
    'studio': (
      'in a studio',
      'on a plain backdrop',
      'on a white background',
    ),
  },
  'hour': {
    'day': ('by day', 'in daylight', 'at noon'),
    'dusk': ('at dusk', 'at sunset', 'in the evening'),
    'night': ('at night', 'by moonlight'),
  },
  'weather': {
    'clear': ('under a clear sky', 'in fine weather'),
    'rain': ('in the rain', 'in a shower'),
    'fog': ('in fog', 'in thick mist'),
  },
  'camera': {
    'still': ('the camera is still', 'the camera stays put'),
    'pan': ('the camera pans', 'the camera turns'),
    'orbit': ('the camera orbits', 'the camera circles'),
    'dolly': ('the camera moves closer', 'the camera dollies in'),
  },
}
PLACES, HOURS, WEATHERS, CAMERAS = (tuple(v) for v in PHRASES.values())

SHORT = (
  '{who} {does} {place}',
  '{who} {does} {place} {hour}',
  '{who} {does} {place} {weather}',
  '{place} {who} {does}',
  '{who} {does} {place}, {camera}',
)
LONG = (
  '{hour} and {weather}, {who} {does} {place} while {camera}',
  'a video of {who} {place}, {hour}: it shows how {who} {does}, and {camera}',
  'the scene is {place}, {hour} and {weather}; {who} {does}, {camera}',
  '{place} {who} {does} {hour} {weather}, {camera}',
  '{camera} as {who} {does} {place}',
)
PRODUCT = (
  'a product photo of {who} that {does}',
  'a product photo of {who} that {does}, {camera}',
)
IMAGES = (
  '{who} {place}',
  'a picture of {who} {place} {hour}',
  '{who} {place} {hour} {weather}',
)
SHORT_LIMIT, LONG_LIMIT = 96, 190  # bytes


class Attributes(NamedTuple):
  """What a caption promises; '' of what it leaves open."""

  object: str  # of OBJECTS
  colour: str  # of COLOURS
  count: int
  event: str  # of EVENTS; '' in an image
  way: str  # of WAYS, as one sees it
  place: str  # of PLACES
  hour: str
  weather: str
  camera: str
  second: str = ''  # the colour of the ball that is hit


def _fields(sentence: str) -> set[str]:
  return set(re.findall(r'{(\w+)}', sentence))


def verbs(event: str, name: str) -> tuple[tuple[str, str], ...]:
  """What an object does at an event, of one and of several."""
  table = VERBS[event]
  return table.get(name) or table['*']


def _who(said: Attributes) -> str:
  number = next(w for w, n in COUNTS.items() if n == said.count)
  number = 'an' if number == 'a' and said.colour[0] in 'aeiou' else number
  noun = said.object if said.count == 1 else PLURALS[said.object]
  return f'{number} {said.colour} {noun}'


def _does(said: Attributes, rng: np.random.Generator) -> str:
  verb = seeds.pick(rng, verbs(said.event, said.object))[said.count > 1]
  ways = (f' {said.way}', f' to the {said.way}')
  if said.event == 'collide':
    verb += ' ' + _who(said._replace(colour=said.second))
    ways = ways[:1]  # two balls take room enough
  return verb + seeds.pick(rng, ways) if said.way else verb


def write(said: Attributes, rng: np.random.Generator, image: bool) -> str:
  """Writes one sentence about a scene, short or long.

  Args:
    said: what is true of it; the hour and the weather are '' where there are
      none, and the way where a sentence does not say it.
    rng: chooses the sentence and its phrases.
    image: whether it is about one frame, in which nothing moves.
  """
  if image:
    kinds = IMAGES
  elif said.place == 'studio' and rng.random() < 0.5:
    kinds = PRODUCT
  else:
    kinds = SHORT if rng.random() < 0.55 else LONG
  known = {'who', 'does', 'place', 'camera'} | {
    field for field in ('hour', 'weather') if getattr(said, field)
  }
  if said.count > 1:  # 'that' and 'it' are of one
    kinds = [
      s for s in kinds if 'it shows' not in s and s not in PRODUCT
    ] or SHORT
  sentence = seeds.pick(rng, [s for s in kinds if _fields(s) <= known])
  words = {'who': _who(said)}
  if not image:
    words['does'] = _does(said, rng)
  for field, table in PHRASES.items():
    if value := getattr(said, field):
      words[field] = seeds.pick(rng, table[value])
  return sentence.format(**words)


def _any(words: Iterable[str]) -> str:
  # The longest first, or else a word that begins another one is read for it.
  return '|'.join(sorted(map(re.escape, words), key=len, reverse=True))


@functools.cache
def _patterns() -> list[tuple[str, re.Pattern]]:
  """The expression that reads each sentence."""
  colours, nouns = _any(COLOURS), _any([*PLURALS, *PLURALS.values()])
  number = _any(['an', *COUNTS])
  done = {
    v
    for t in VERBS.values()
    for vs in t.values()
    for pair in vs
    for v in pair
    if v
  }
  words = {
    'does': f'(?P<verb>{_any(done)})'
    f'(?: an? (?P<second>{colours}) ball)?'
    f'(?: (?:to the )?(?P<way>{_any(WAYS)}))?',
  }
  for field, table in PHRASES.items():
    words[field] = f'(?P<{field}>{_any(itertools.chain(*table.values()))})'
  first = f'(?P<number>{number}) (?P<colour>{colours}) (?P<noun>{nouns})'
  again = '(?P=number) (?P=colour) (?P=noun)'
  patterns = []
  for sentence in (*SHORT, *LONG, *PRODUCT, *IMAGES):
    # A sentence that names its actor twice has to name the same one.
    text = sentence.replace('{who}', first, 1).replace('{who}', again)
    for field, pattern in words.items():
      text = text.replace('{' + field + '}', pattern)
    patterns.append((sentence, re.compile(text)))
  return patterns


def _event(verb: str, name: str) -> str:
  """The event at which an object does this, or ''."""
  for event, table in VERBS.items():
    phrases = table.get(name) or table.get('*', ())
    if any(verb in pair for pair in phrases):
      return event
  return ''


def attributes(caption: str) -> Attributes:
  """Reads a caption back to what it promises.

  Raises:
    ValueError: it is none of the sentences, or its actor does not do that.
  """
  matches = ((s, p.fullmatch(caption)) for s, p in _patterns())
  sentence, match = next((m for m in matches if m[1]), ('', None))
  if match is None:
    raise ValueError(f'caption {caption!r} is not of the grammar:\n{grammar()}')
  found = match.groupdict(default='')
  noun = found['noun']
  name = next(o for o in OBJECTS if noun in (o, PLURALS[o]))
  event = _event(found['verb'], name) if 'verb' in found else ''
  if 'verb' in found and not event:
    raise ValueError(f'caption {caption!r}: no {name} {found["verb"]} here')
  if (event == 'collide') != bool(found.get('second')):
    raise ValueError(f'caption {caption!r}: a ball hits a ball')
  read = {
    field: next((k for k, v in table.items() if found.get(field) in v), '')
    for field, table in PHRASES.items()
  }
  if sentence in PRODUCT:
    read['place'] = 'studio'
  return Attributes(
    object=name,
    colour=found['colour'],
    count=COUNTS.get(found['number'], 1),
    event=event,
    way=found.get('way', ''),
    second=found.get('second', ''),
    **read,
  )


def grammar() -> str:
  """Returns the sentences and words that `attributes` reads, as text."""
  lines = [f'  {s}' for s in (*SHORT, *LONG, *PRODUCT, *IMAGES)]
  lines.append(
    f'  {{who}}: a|two|three {"|".join(COLOURS)} {"|".join(OBJECTS)}'
  )
  for event, table in VERBS.items():
    said = [pair[0] for pairs in table.values() for pair in pairs]
    lines.append(f'  {{does}}, {event}: {"|".join(dict.fromkeys(said))}')
  lines.append(f'  and {"|".join(WAYS)}')
  for field, table in PHRASES.items():
    lines.append(f'  {{{field}}}: {"|".join(itertools.chain(*table.values()))}')
  return '\n'.join(lines)
