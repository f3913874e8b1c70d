"""The words of the balls world: what each means, and sentences made of them.

A caption promises everything that the law of its clip leaves open: colour,
size, direction and speed of each ball. One table of sentences both writes the
captions and reads them back, so a prompt can be held against a video.
"""

import itertools
import re
from typing import NamedTuple

# Eight colours whose inks (255 - RGB) point in directions at least 18 degrees
# apart, so that a pale or blurred edge still tells its ball. Red and blue are
# those of the physics testbed (arXiv:2411.02385).
COLOURS = {
  'red': (255, 0, 0),
  'green': (0, 180, 0),
  'blue': (0, 0, 255),
  'yellow': (255, 230, 0),
  'orange': (255, 135, 0),
  'purple': (160, 0, 200),
  'black': (0, 0, 0),
  'cyan': (0, 200, 255),
}
# Radius in units. The gaps between the words keep each of them true of a
# ball that is drawn or measured a little off.
SIZES = {'small': (0.3, 0.88), 'medium': (0.96, 1.14), 'large': (1.22, 2.0)}
DIRECTIONS = {'left': -1, 'right': 1}
# Speed in units per second; between the words only a number will do.
SPEEDS = {'slowly': (1.0, 1.8), 'fast': (3.2, 4.0)}
# A number is rounded to 0.1 units per second.
SPEED_ROUNDING = 0.05

# {a} and {b} are balls, {a_way} and {a_speed} how the first one moves.
SENTENCES = {
  'still': ('{a}', '{a} and {b}'),
  'uniform': (
    '{a} rolls {a_way} {a_speed}',
    '{a} moves to the {a_way} {a_speed}',
    '{a} glides {a_way} {a_speed}',
    'to the {a_way} rolls {a} {a_speed}',
  ),
  'parabola': (
    '{a} thrown {a_way} {a_speed} falls',
    '{a} is thrown to the {a_way} {a_speed} and falls',
    '{a} falls in an arc to the {a_way} {a_speed}',
    '{a} flies {a_way} {a_speed} and drops',
  ),
  'bounce': (
    '{a} bounces',
    '{a} bounces up and down',
    '{a} hops in place',
  ),
  'collision': (
    '{a} going {a_way} {a_speed} hits {b} going {b_way} {b_speed}',
    '{a} moves {a_way} {a_speed} and hits {b} going {b_way} {b_speed}',
    '{a} rolls {a_way} {a_speed} into {b} rolling {b_way} {b_speed}',
  ),
}


class Ball(NamedTuple):
  """What a caption promises of one ball."""

  colour: str  # of COLOURS
  size: str  # of SIZES
  direction: str  # of DIRECTIONS; '' in an image and in place
  speed: tuple[float, float]  # sideways, units per second, from and to


class Attributes(NamedTuple):
  """What a caption promises; the first ball is the one it names first."""

  law: str  # of SENTENCES
  balls: tuple[Ball, ...]


def size_word(radius: float) -> str:
  """Returns the word for a radius in units, the nearest within a gap."""
  words, bounds = list(SIZES), list(SIZES.values())
  middles = [(a[1] + b[0]) / 2 for a, b in itertools.pairwise(bounds)]
  return words[sum(radius > middle for middle in middles)]


def speed_phrase(speed: float, worded: bool, brief: bool) -> str:
  """Says a speed in units per second, by a word if wished and there is one."""
  for word, (low, high) in SPEEDS.items():
    if worded and low <= speed <= high:
      return word
  # Two speeds in one sentence go without the noun, to keep captions short.
  return f'at {speed:.1f}' if brief else f'at speed {speed:.1f}'


def write(
  law: str, balls: list[tuple[str, str, str, str]], choice: float
) -> str:
  """Writes one sentence of a law.

  Args:
    law: a key of SENTENCES.
    balls: colour, size word, direction and speed phrase of each.
    choice: in [0, 1), which of the sentences.
  """
  words = {}
  for name, (colour, size, way, speed) in zip('ab', balls, strict=False):
    words |= {name: f'a {size} {colour} ball', f'{name}_way': way}
    words[f'{name}_speed'] = speed
  fitting = [s for s in SENTENCES[law] if ('{b}' in s) == (len(balls) == 2)]
  return fitting[int(choice * len(fitting))].format(**words)


def _pattern(sentence: str) -> re.Pattern:
  """Turns a sentence of the table into the expression that reads it."""
  words = {}
  for name in 'ab':
    words[name] = (
      f'an? (?P<{name}_size>{"|".join(SIZES)}) '
      f'(?P<{name}_colour>{"|".join(COLOURS)}) ball'
    )
    words[f'{name}_way'] = f'(?P<{name}_way>{"|".join(DIRECTIONS)})'
    words[f'{name}_speed'] = (
      rf'(?:at (?:speed )?(?P<{name}_number>\d+(?:\.\d)?)'
      f'|(?P<{name}_word>{"|".join(SPEEDS)}))'
    )
  return re.compile(sentence.format(**words))


_PATTERNS = [(law, _pattern(s)) for law in SENTENCES for s in SENTENCES[law]]


def _ball(found: dict[str, str], name: str) -> Ball:
  word, number = found.get(f'{name}_word'), found.get(f'{name}_number')
  speed = (0.0, 0.0)
  if word:
    speed = SPEEDS[word]
  elif number:
    speed = (float(number) - SPEED_ROUNDING, float(number) + SPEED_ROUNDING)
  return Ball(
    found[f'{name}_colour'],
    found[f'{name}_size'],
    found.get(f'{name}_way', ''),
    speed,
  )


def attributes(caption: str) -> Attributes:
  """Reads a caption back to what it promises.

  Raises:
    ValueError: it is none of the sentences, or its two balls do not move
      towards each other in two colours.
  """
  matches = ((law, p.fullmatch(caption)) for law, p in _PATTERNS)
  law, match = next((m for m in matches if m[1]), ('', None))
  if match is None:
    raise ValueError(f'caption {caption!r} is not of the grammar:\n{grammar()}')
  found = match.groupdict(default='')
  balls = tuple(_ball(found, n) for n in 'ab' if f'{n}_colour' in found)
  if len(balls) == 2 and balls[0].colour == balls[1].colour:
    raise ValueError(f'caption {caption!r} has two balls of one colour')
  if law == 'collision' and balls[0].direction == balls[1].direction:
    raise ValueError(
      f'caption {caption!r} has both balls moving {balls[0].direction}; '
      'they meet head-on, so one goes left and one goes right'
    )
  return Attributes(law, balls)


def grammar() -> str:
  """Returns the sentences and words that `attributes` reads, as text."""
  sentences = [s for law in SENTENCES.values() for s in law]
  return '\n'.join([
    *(f'  {s}' for s in sentences),
    f'  {{a}}, {{b}}: a {"|".join(SIZES)} {"|".join(COLOURS)} ball',
    f'  {{.._way}}: {"|".join(DIRECTIONS)}',
    f'  {{.._speed}}: {"|".join(SPEEDS)}|at speed 2.4|at 2.4',
  ])
