"""Clips of the world `scenes` beside what is true of them.

They teach the probe (`models/probe.py`) that judges made clips. One of five is
of a combination that generative models are never shown, as many as there are: a
judge must not hold what is new to a model to be unlikely. Each scene is seen
from its mirror's side as well, where left is right.
"""

import functools

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from sora_jax import batch
from sora_jax.data import transforms
from sora_jax.data.worlds import scene_captions, scene_labels, scenes

Video = UInt8[np.ndarray, 'T H W 3']

TEST_EVERY = 5  # scenes, of which one is of the split 'test'
WORN = 0.5  # share of clips that look as if a network had made them
SOFTEST = 2.2  # times smaller that they were
NOISIEST = 6.0  # standard deviation of their noise, of 255


class LabelledBatches:
  """Step -> `batch.Labelled`; a scene comes twice, once mirrored.

  Args:
    sizes: of the clips, step by step in turn.
    total: clips of a batch.
    seed: of the run; also which world.
    rows: which rows of each batch to make; the others belong to other hosts.
  """

  def __init__(
    self,
    sizes: tuple[batch.Size, ...],
    total: int,
    seed: int,
    rows: Int[np.ndarray, ' R'],
  ):
    self._sizes, self._total = sizes, total
    self._seed, self._rows = seed, rows

  def __call__(self, step: int) -> batch.Labelled:
    size = self._sizes[step % len(self._sizes)]
    draws = step * self._total + self._rows
    clips = [self._one(int(draw), size) for draw in draws]
    return batch.Labelled(*map(np.stack, zip(*clips, strict=True)))

  def _one(self, draw: int, size: batch.Size) -> batch.Labelled:
    """One clip, without the batch axis."""
    scene, mirrored = divmod(draw, 2)
    video, said, mask, motions = _scene(self._seed, scene, size)
    if mirrored:
      way = {'left': 'right', 'right': 'left'}.get(said.way, '')
      said = said._replace(way=way)
      video, mask = video[:, :, ::-1], mask[:, :, ::-1]
      motions = motions * scene_labels.MIRRORED
    rng = transforms.generator(self._seed, 'wear', draw)
    video = worn(video, rng) if rng.random() < WORN else video
    return batch.Labelled(video, scene_labels.encode(said), mask, motions)


@functools.lru_cache(maxsize=1)  # the mirrored one comes next
def _scene(
  seed: int, scene: int, size: batch.Size
) -> tuple[
  Video,
  scene_captions.Attributes,
  Bool[np.ndarray, 'T H W'],
  Float[np.ndarray, 'T 8'],
]:
  split = 'test' if scene % TEST_EVERY == 0 else 'train'
  clip, truth = scenes.clip(seed, scene, size, split)
  assert truth.mask is not None  # as it was drawn
  motions = scene_labels.motions(truth)
  return clip.video, truth.said, truth.mask > 0, motions


def worn(video: Video, rng: np.random.Generator) -> Video:
  """A clip as a network may leave it: softer, and with some noise."""
  H, W = video.shape[1:3]
  shrink = rng.uniform(1.0, SOFTEST)
  small = transforms.resize(video, round(W / shrink), round(H / shrink))
  soft = transforms.resize(small, W, H).astype(np.float32)
  noise = rng.standard_normal(soft.shape, np.float32)
  soft += rng.uniform(0.0, NOISIEST) * noise
  return soft.round().clip(0, 255).astype(np.uint8)
