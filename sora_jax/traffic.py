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
# Name, type, operation and operands; a type may be a tuple, with layouts.
_INSTRUCTION = re.compile(
  r'^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\(([^)]*)'
)
_ARRAY = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]')
_CALLED = re.compile(
  r'(calls|to_apply|body|condition|branch_computations)='
  r'(?:\{([^}]*)\}|%?([\w.-]+))'
)
_CONSTANT = re.compile(r' = [su]\d+\[\]\S* constant\((\d+)\)')


class _Computation(NamedTuple):
  """What one computation sends itself, what it calls, and its whole numbers."""

  scatters: bool  # one whose sum is cut at once, which TPUs have no name for
  sent: list[tuple[str, int]]  # kind, bytes
  calls: list[tuple[str, str]]  # name, and of a loop its condition
  numbers: list[int]
  sizes: dict[str, int]  # bytes by name


def of(text: str) -> dict[str, int]:
  """Bytes of a device's arrays that collectives gather, reduce or exchange.

  That is what comes out of a gather, and what goes into all else, by kind and
  over one run of a program.

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
  computations, entry, current = {}, '', _empty('')
  for line in text.splitlines():
    if found := _COMPUTATION.match(line):
      current = computations[found[2]] = _empty(found[2])
      entry = found[2] if found[1] else entry
    elif found := _INSTRUCTION.match(line):
      _count(line, found, current)
  return computations, entry


def _empty(name: str) -> _Computation:
  scatters = name.startswith('all-reduce-scatter')
  return _Computation(scatters, sent=[], calls=[], numbers=[], sizes={})


def _count(line: str, found: re.Match[str], into: _Computation) -> None:
  """Notes what one instruction makes, sends, calls or is."""
  name, made, operation, operands = found.groups()
  sizes = [_bytes(*array) for array in _ARRAY.findall(made)]
  into.sizes[name] = sum(sizes)
  kind = operation.removesuffix('-start')
  if kind in KINDS:
    size = sum(sizes)
    if operation == 'all-gather-start':  # gives its operands, and the results
      size = sum(sizes[len(sizes) // 2 :])
    elif kind in ('reduce-scatter', 'collective-permute'):
      names = (part.split()[-1].strip('%') for part in operands.split(','))
      size = sum(into.sizes[operand] for operand in names)
    elif kind == 'all-reduce' and into.scatters:
      kind = 'reduce-scatter'
    into.sent.append((kind, size))
    return
  if number := _CONSTANT.search(line):
    into.numbers.append(int(number[1]))
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
