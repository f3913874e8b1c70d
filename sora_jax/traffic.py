"""What a compiled program sends between devices, read from its text.

A collective stands in the text once, whether it runs once or in a loop over
layers; so computations are followed from the entry on, and what a loop calls
counts as often as it goes round. That is where its counter ends, which is the
number in its condition, as loops of JAX count up from 0.
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
_CONSTANT = re.compile(r' = [su]\d+\[\]\S* constant\((\d+)\)')


class _Computation(NamedTuple):
  """What one computation sends itself, what it calls, and its whole numbers."""

  sent: list[tuple[str, int]]  # kind, bytes
  calls: list[tuple[str, str]]  # name, and of a loop its condition
  numbers: list[int]


def of(text: str) -> dict[str, int]:
  """Bytes by kind that collectives leave on one device in a run of a program.

  Args:
    text: Of the program that the compiler made, `compiled.as_text()`.
  """
  computations, entry = _read(text)
  totals = dict.fromkeys(KINDS, 0)

  def numbers(name):
    found = list(computations[name].numbers)
    for called, _ in computations[name].calls:
      found += numbers(called)
    return found

  def add(name, times):
    for kind, size in computations[name].sent:
      totals[kind] += times * size
    for called, condition in computations[name].calls:
      rounds = max(numbers(condition), default=1) if condition else 1
      add(called, times * rounds)

  add(entry, 1)
  return {kind: size for kind, size in totals.items() if size}


def _read(text: str) -> tuple[dict[str, _Computation], str]:
  """All computations of a program by name, and which is its entry."""
  computations, entry, current = {}, '', _Computation([], [], [])
  for line in text.splitlines():
    if found := _COMPUTATION.match(line):
      current = computations[found[2]] = _Computation([], [], [])
      entry = found[2] if found[1] else entry
    elif found := _INSTRUCTION.match(line):
      _count(line, found[1], found[2], current)
  return computations, entry


def _count(line: str, made: str, operation: str, into: _Computation) -> None:
  """Notes what one instruction sends, calls or is."""
  kind = operation.removesuffix('-start')
  if kind in KINDS:
    sizes = [_bytes(*array) for array in _ARRAY.findall(made)]
    # What starts one gives its operands too, and the result after them.
    whole = sizes if operation == kind else sizes[len(sizes) // 2 :]
    into.sent.append((kind, sum(whole)))
    return
  if found := _CONSTANT.search(line):
    into.numbers.append(int(found[1]))
  if operation.endswith(('-done', '-update')):
    return  # names again what its start calls
  called = {
    how: [name.strip(' %') for name in (several or one).split(',')]
    for how, several, one in _CALLED.findall(line)
  }
  condition = called.pop('condition', [''])[0]
  into.calls.extend(
    (name, condition) for names in called.values() for name in names
  )


def _bytes(kind: str, shape: str) -> int:
  """Of an array such as bf16[8,128]."""
  digits = re.search(r'\d+', kind)
  bits = BITS.get(kind) or (int(digits[0]) if digits else 0)
  count = math.prod(int(side) for side in shape.split(',') if side)
  return math.ceil(bits * count / 8)
