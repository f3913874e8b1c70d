"""What clips are cut and scaled to, and the tokens that they then take."""

import math

from sora_jax import batch, config as config_lib, tokens
from sora_jax.data import pipeline

# Rows are of so many tokens, or a multiple, so that as many devices share them.
SHARED = 16


def fit_tokens(config: config_lib.Config) -> None:
  """Makes rows, where limits.tokens is 0, as long as the largest clip needs.

  A clip of another aspect may take a few more than one of `data.sizes`, so a
  tenth is added.
  """
  if config.data.limits.tokens:
    return
  most = max(
    math.prod(token_grid(batch.parse_size(size), config, None))
    for size in config.data.sizes
  )
  shared = math.lcm(SHARED, config.mesh.context)
  config.data.limits.tokens = shared * math.ceil(1.1 * most / shared)


def longest(config: config_lib.Config) -> batch.Size | None:
  """What clips are cut and scaled to; None for a world, which makes sizes."""
  if config.data.corpus is pipeline.Corpus.WORLD:
    return None
  return batch.parse_size(config.data.sizes[0])


def token_grid(
  info: batch.Size, config: config_lib.Config, most: batch.Size | None
) -> tuple[int, int, int]:
  """Tokens along time, height and width of the longest window of a clip."""
  target = most or info
  _, frames = windows(info.frames, target.frames)[0]
  width, height = native_size(info, target, side(config))
  net = config.autoencoder
  latent = (
    1 + (frames - 1) // net.time,
    height // net.space,
    width // net.space,
  )
  return tokens.token_grid(latent, config.model.patch)


def side(config: config_lib.Config) -> int:
  """Pixels that a token covers."""
  return config.autoencoder.space * config.model.patch[1]


def windows(frames: int, most: int) -> list[tuple[int, int]]:
  """(start, count) of neighbouring windows of 1 + 4k frames, `most` at most."""
  count = min(frames, most)
  count -= (count - 1) % 4
  return [(i, count) for i in range(0, frames - count + 1, count)]


def native_size(
  clip: batch.Size, target: batch.Size, side: int
) -> tuple[int, int]:
  """Width and height at a clip's own aspect with about the target's pixels."""
  scale = (target.width * target.height / (clip.width * clip.height)) ** 0.5
  fit = lambda pixels: max(side, round(pixels * scale / side) * side)
  return fit(clip.width), fit(clip.height)
