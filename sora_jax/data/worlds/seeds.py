"""What everything random of a world's clip is drawn from."""

from collections.abc import Sequence

import numpy as np


def generator(
  seed: int, index: int, split: str, splits: Sequence[str]
) -> np.random.Generator:
  """A random stream that belongs to one clip.

  Raises:
    ValueError: a split that is not one of `splits`, or a negative seed or
      index.
  """
  if split not in splits:
    raise ValueError(f'{split=} is not one of {", ".join(splits)}')
  if seed < 0 or index < 0:
    raise ValueError(f'{seed=} and {index=} must be 0 or more')
  key = np.random.SeedSequence([seed, splits.index(split), index])
  return np.random.Generator(np.random.Philox(key))


def pick(rng: np.random.Generator, items):
  """One of some items."""
  return items[int(rng.integers(len(items)))]
