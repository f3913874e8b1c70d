"""Clips of `balls` that lead from one into another one that shares nothing.

One ball moves by its law, then steers and turns into another one, which has
its own law, place, speed, colour and size from there on. Its way in between is
the cubic that meets both clips in place and velocity, so that joining two clips
can be learned. A caption has two parts, `A | B`; an image has the first ball
alone.

A clip is a pure function of (seed, index, size, split), as those of `balls`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from sora_jax import batch
from sora_jax.data.worlds import balls, captions, seeds, ways

SPLITS = balls.SPLITS
LAWS = ('uniform', 'parabola', 'bounce')  # of one ball
# The way takes this part of a clip, and leaves this on either side of it.
WAY, LEFT = (0.3, 0.75), 0.06
# When the second clip is met, in frames of its own.
MET = (0, 16)


class Truth(NamedTuple):
  """What happens in a clip, exactly: one ball at each frame."""

  position: Float[np.ndarray, 'T 2']  # x and y of the centre, units
  radius: Float[np.ndarray, ' T']  # units
  ink: Float[np.ndarray, 'T 3']  # sRGB, 0 to 255
  leaves: int  # the last frame of the first clip
  meets: int  # the first frame of the second one


def simulate(
  seed: int, index: int, size: batch.Size, split: str = 'train'
) -> tuple[str, Truth]:
  """Returns the caption and the ground truth of a clip, without its pixels.

  Raises:
    ValueError: unknown split, or a negative seed or index.
  """
  rng = seeds.generator(seed, index, split, SPLITS)
  caption, one = _single(rng, seed, size, split)
  if size.frames == 1:
    return caption, Truth(*_seen(one), leaves=0, meets=0)
  length, way = size.frames - 1, rng.uniform(*WAY)
  leaves = round(length * rng.uniform(LEFT, 1 - way - LEFT))
  meets = min(length, leaves + max(1, round(length * way)))
  met = int(rng.integers(*MET))
  longer = size._replace(frames=met + length - meets + 1)
  second, other = _single(rng, seed, longer, split)
  before = balls.span(one, slice(leaves + 1))
  after = balls.span(other, slice(met, None))
  return f'{caption} | {second}', join(before, after, meets - leaves)


def join(before: balls.Truth, after: balls.Truth, steps: int) -> Truth:
  """One ball that leaves a clip and meets another one after so many frames."""
  place, radius, ink = (
    np.concatenate(parts)
    for parts in zip(
      _seen(before), _way(before, after, steps), _seen(after), strict=True
    )
  )
  leaves = len(before.position) - 1
  return Truth(place, radius, ink, leaves, leaves + steps)


def _single(
  rng: np.random.Generator, seed: int, size: batch.Size, split: str
) -> tuple[str, balls.Truth]:
  """The caption and truth of some clip of one ball."""
  while True:
    index = int(rng.integers(2**31))
    caption, truth = balls.simulate(seed, index, size, split)
    if truth.law in LAWS:
      return caption, truth


def _seen(truth: balls.Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Place, radius and ink of the ball at each frame."""
  frames = len(truth.position)
  ink = np.array(captions.COLOURS[truth.colours[0]], np.float32)
  return (
    truth.position[:, 0],
    np.full(frames, truth.radius[0]),
    np.tile(ink, (frames, 1)),
  )


def _way(
  before: balls.Truth, after: balls.Truth, steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Place, radius and ink of the ball at the frames between two clips."""
  part = np.arange(1, steps) / steps
  place = ways.hermite(
    (before.position[-1, 0], after.position[0, 0]),
    (before.velocity[-1, 0], after.velocity[0, 0]),
    steps / balls.FPS,
    part,
  )
  turned = ways.smooth(part)[:, None]  # how much it is the other ball
  radius, ink = (
    (1 - turned) * a[-1] + turned * b[0]
    for a, b in zip(_seen(before)[1:], _seen(after)[1:], strict=True)
  )
  return place, radius[:, 0], ink


def render(truth: Truth, size: batch.Size) -> UInt8[np.ndarray, 'T H W 3']:
  """The pixels of a truth."""
  return balls.draw(
    truth.position[:, None], truth.radius[:, None], truth.ink[:, None], size
  )


def clip(
  seed: int, index: int, size: batch.Size, split: str = 'train'
) -> tuple[batch.Clip, Truth]:
  """Makes clip `index` of a world, at any size, and its ground truth.

  Splits are those of `balls`, for both of the balls.

  Raises:
    ValueError: unknown split, or a negative seed or index.
  """
  caption, truth = simulate(seed, index, size, split)
  video = render(truth, size)
  name = f'joins-{split}-{seed}-{index}-{size}'
  return batch.Clip(video, caption, balls.FPS, name), truth
