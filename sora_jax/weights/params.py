"""Parameters of our networks from tensors in files, and back.

Every parameter must be there in its shape, and nothing beside them. Given where
a parameter shall lie, each device is handed its own part, which is all that is
read for it.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import einops
import jax
import numpy as np
from flax import traverse_util

from sora_jax.weights import names, tensors

Params = Any
Places = dict[str, names.Place]  # by path of a parameter, joined by dots


class Stored(NamedTuple):
  """A parameter that lies in files, and its shape in our tree."""

  place: names.Place
  tensors: tuple[tensors.Tensor, ...]
  shape: tuple[int, ...]


def match(
  found: dict[str, tensors.Tensor],
  places: Places,
  shapes: dict[str, tuple[int, ...]],
  where: Any,
  ignored: tuple[str, ...] = (),
) -> dict[str, Stored]:
  """Pairs the parameters of a network with tensors.

  Args:
    found: All tensors of the files.
    places: Of all parameters.
    shapes: The same, of our tree.
    where: What errors call files that hold nothing.
    ignored: Names that may be there beside them.

  Raises:
    ValueError: a tensor is missing, is one too many or has another shape.
  """
  matched = {}
  for path, place in places.items():
    wanted = stored_shape(place, shapes[path])
    for name in place.names:
      if name not in found:
        files = _lacking(found, where)
        raise ValueError(f'{files} {name} of shape {list(wanted)}')
      tensor = found[name]
      if tensor.shape != wanted:
        raise ValueError(
          f'{tensor.path}: {name} has shape {list(tensor.shape)}, and its '
          f'config.json makes it {list(wanted)}'
        )
    parts = tuple(found[name] for name in place.names)
    matched[path] = Stored(place, parts, shapes[path])
  known = {name for place in places.values() for name in place.names}
  if more := sorted(set(found) - known - set(ignored)):
    raise ValueError(
      f'{found[more[0]].path} has {more[0]}, which a network of its '
      'config.json does not have'
    )
  return matched


def _lacking(found: dict[str, tensors.Tensor], where: Any) -> str:
  """The files that were looked in, as the start of what they lack."""
  files = sorted({str(tensor.path) for tensor in found.values()})
  if len(files) < 2:
    return f'{files[0] if files else where} lacks'
  return f'{files[0]} and {len(files) - 1} more beside it lack'


def stored_shape(place: names.Place, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of each of a parameter's tensors."""
  one = np.broadcast_to(np.float32(0), shape[place.stacked :])
  return einops.rearrange(one, backwards(place.pattern), **place.sizes).shape


def backwards(pattern: str) -> str:
  """The pattern that undoes one."""
  left, right = pattern.split(' -> ')
  return f'{right} -> {left}'


def read(stored: Stored, index: tuple[slice, ...] | None = None) -> np.ndarray:
  """A parameter, or a part of it, as float32."""
  if index is None:
    index = (slice(None),) * len(stored.shape)
  if not stored.place.stacked:
    return _read_one(stored.place, stored.tensors[0], index)
  layers = stored.tensors[index[0]]
  return np.stack([_read_one(stored.place, x, index[1:]) for x in layers])


def _read_one(
  place: names.Place, tensor: tensors.Tensor, index: tuple[slice, ...]
) -> np.ndarray:
  """A part of one tensor, in our layout.

  Axes that the pattern only moves are cut before the numbers are read, and
  those that it merges after.
  """
  theirs, ours = (side.split() for side in place.pattern.split(' -> '))
  if '(' in place.pattern:
    merged = place.pattern.split('(')[1].split(')')[0].split()
    ours = ['merged', *place.pattern.split(')')[1].split()]
    theirs = [axis if axis not in merged else '' for axis in theirs]
  cut = dict(zip(ours, index, strict=True))
  cut.pop('1', None)
  whole = slice(None)
  part = tensors.read(tensor, tuple(cut.get(axis, whole) for axis in theirs))
  part = einops.rearrange(part, place.pattern)
  left = tuple(
    whole if axis in theirs else i for axis, i in zip(ours, index, strict=True)
  )
  return part[left].astype(np.float32)


def load(stored: dict[str, Stored], shardings: Params | None = None) -> Params:
  """Reads a network as float32.

  Args:
    stored: From `match`.
    shardings: Where each parameter shall lie, a tree of ours; by default all
      of it becomes numpy arrays of this host.
  """
  if shardings is None:
    flat = {path: read(x) for path, x in stored.items()}
    return traverse_util.unflatten_dict(flat, sep='.')
  where = traverse_util.flatten_dict(shardings, sep='.')
  flat = {
    path: jax.make_array_from_callback(x.shape, where[path], _reader(x))
    for path, x in stored.items()
  }
  return traverse_util.unflatten_dict(flat, sep='.')


def _reader(stored: Stored) -> Callable[..., np.ndarray]:
  return lambda index: read(stored, index)


def unload(
  params: Params,
  places: Places,
  store: Callable[[str, np.ndarray], np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
  """The tensors of a network by their names, one after the other.

  Args:
    params: Our tree.
    places: Of its parameters.
    store: Rounds a parameter, given its path, to the type to be written.
  """
  flat = traverse_util.flatten_dict(params, sep='.')
  for path, place in places.items():
    value = store(path, np.asarray(flat[path]))
    pattern = backwards(place.pattern)
    parts = value if place.stacked else [value]
    for name, part in zip(place.names, parts, strict=True):
      yield name, einops.rearrange(part, pattern, **place.sizes)
