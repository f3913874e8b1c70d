"""What a compiled program sends between devices, read from its text.

A collective stands in the text once, whether it runs once or in a loop over
layers; so computations are followed from the entry on, and what a loop calls
counts as often as the compiler says that it goes round.
"""

import math
import re
from typing import NamedTuple

KINDS = (
  'all-gather',
  'reduce-scatter',
  'all-reduce',
  'all-to-all',
  'collective-permute',
)
BITS = {'pred': 8, 's4': 4, 'u4': 4, 'bf16': 16, 'c64': 64, 'c128': 128}

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) .*\{$')
# Name, type and operation; a type may be a tuple, with layouts in braces.
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\(')
_ARRAY = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]')
_CALLED = re.compile(
  r'(calls|to_apply|body|condition|branch_computations)='
  r'(?:\{([^}]*)\}|%?([\w.-]+))'
)
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')


class _Computation(NamedTuple):
  """What one computation sends itself, and how often it calls others."""

  sent: list[tuple[str, int]]  # kind, bytes
  calls: list[tuple[str, int]]  # name, times


def of(text: str) -> dict[str, int]:
  """Bytes by kind that collectives leave on one device in a run of a program.

  Args:
    text: Of the program that the compiler made, `compiled.as_text()`.
  """
  computations, entry = _read(text)
  totals = dict.fromkeys(KINDS, 0)

  def add(name, times):
    for kind, size in computations[name].sent:
      totals[kind] += times * size
    for called, more in computations[name].calls:
      add(called, times * more)

  add(entry, 1)
  return {kind: size for kind, size in totals.items() if size}


def _read(text: str) -> tuple[dict[str, _Computation], str]:
  """All computations of a program by name, and which is its entry."""
  computations, entry, current = {}, '', _Computation([], [])
  for line in text.splitlines():
    if found := _COMPUTATION.match(line):
      current = computations[found[2]] = _Computation([], [])
      entry = found[2] if found[1] else entry
    elif found := _INSTRUCTION.match(line):
      _count(line, found[1], found[2], current)
  return computations, entry


def _count(line: str, made: str, operation: str, into: _Computation) -> None:
  kind = operation.removesuffix('-start')
  if kind in KINDS:
    sizes = [_bytes(*array) for array in _ARRAY.findall(made)]
    # What starts one gives its operands too, and the result after them.
    whole = sizes if operation == kind else sizes[len(sizes) // 2 :]
    into.sent.append((kind, sum(whole)))
    return
  if operation.endswith(('-done', '-update')):
    return  # names again what its start calls
  trips = _TRIPS.search(line) if operation == 'while' else None
  for _, several, one in _CALLED.findall(line):
    for name in (several or one).split(','):
      into.calls.append((name.strip(' %'), int(trips[1]) if trips else 1))


def _bytes(kind: str, shape: str) -> int:
  """Of an array such as bf16[8,128]."""
  digits = re.search(r'\d+', kind)
  bits = BITS.get(kind) or (int(digits[0]) if digits else 0)
  count = math.prod(int(side) for side in shape.split(',') if side)
  return math.ceil(bits * count / 8)
