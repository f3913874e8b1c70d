"""What a clip shows, as the probe that ships sees it, and the prompts it keeps.

The probe (`experiments/probe.py`) is taught on scenes of which everything is
known. It sees 17 frames of about 64 x 64 pixels, whatever a clip's own size, so
that models of all sizes are judged alike.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Int, UInt8

from sora_jax import frechet, metrics, networks as networks_lib, objectives
from sora_jax.data import transforms
from sora_jax.data.worlds import scene_captions, scene_labels
from sora_jax.models import probe as probe_lib

Video = metrics.Video

SHIPPED = epath.Path(__file__).parent / 'weights' / 'probe'
FRAMES = 17
PIXELS = 64**2  # of a frame
BATCH = 16  # clips that are looked at together


class Kept(NamedTuple):
  """How many of the clips whose prompts promise something keep it."""

  share: float
  cases: int


class Probe:
  """Clips to features and attributes.

  Args:
    path: of a model directory with a probe.

  Raises:
    ValueError: there is none, or it was taught other labels.
  """

  def __init__(self, path: epath.PathLike = SHIPPED):
    networks = networks_lib.read(path)
    if 'probe' not in networks.params:
      raise ValueError(f'{path} has no probe; experiments/probe.py trains one')
    self._config, self._params = networks.config.probe, networks.params['probe']
    if self._config.classes != scene_labels.CLASSES:
      raise ValueError(
        f'{path}: its probe tells {self._config.classes} classes, and scenes '
        f'have {scene_labels.CLASSES}; train it again (experiments/probe.py)'
      )

  def attributes(self, videos: Sequence[Video]) -> Int[np.ndarray, 'n A']:
    """The likeliest value of each attribute, by its place in FIELDS."""
    scores = self._look(videos)[1]
    parts = np.split(scores, scene_labels.CUTS, axis=1)
    return np.stack([np.argmax(part, axis=1) for part in parts], axis=1)

  def broken_promises(self, video: Video, prompt: str) -> list[str]:
    """Which of what a prompt promises of `scenes` a clip does not keep."""
    promised = scene_captions.attributes(prompt)
    found = kept(self.attributes([video]), [promised])
    return [name for name, (share, _) in found.items() if not share]

  def features(self, videos: Sequence[Video]) -> Float[np.ndarray, 'n d']:
    """What it reads the attributes from."""
    return self._look(videos)[0]

  @property
  def digest(self) -> str:
    """SHA-256 of its weights."""
    return networks_lib.digest(self._params)

  @property
  def extractor(self) -> frechet.Extractor:
    """By which distances are those of what clips show."""
    return frechet.Extractor('frechet[probe]', self.features)

  @functools.cached_property
  def _run(self):
    return jax.jit(
      lambda params, video: probe_lib.look(
        self._config, params, objectives.to_pixels(video)
      )
    )

  def _look(self, videos: Sequence[Video]) -> list[np.ndarray]:
    """Features and scores of videos of one size."""
    side = probe_lib.side_of(self._config)
    seen = np.stack([view(video, side) for video in videos])
    parts = []
    for start in range(0, len(seen), BATCH):
      part = seen[start : start + BATCH]
      # Filled up, so that there is one program.
      full = np.resize(part, (BATCH, *part.shape[1:]))
      made = jax.device_get(self._run(self._params, full))
      parts.append([x[: len(part)] for x in made])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def view(video: Video, multiple: int) -> UInt8[np.ndarray, '_ h w 3']:
  """A clip as the probe is shown it: at its aspect, and held to 17 frames.

  Args:
    video: Of any size.
    multiple: Of what the sides must be, in pixels.
  """
  H, W = video.shape[1:3]
  scale = math.sqrt(PIXELS / (H * W))
  side = lambda n: multiple * max(1, round(n * scale / multiple))
  frames = video[:FRAMES]
  held = np.repeat(frames[-1:], FRAMES - len(frames), axis=0)
  frames = np.concatenate([frames, held])
  return transforms.resize(frames, side(W), side(H))


def kept(
  attributes: Int[np.ndarray, 'n A'],
  promised: Sequence[scene_captions.Attributes],
) -> dict[str, Kept]:
  """By attribute, the share of the clips that keep it, of those that shall.

  Args:
    attributes: from `Probe.attributes`.
    promised: what the prompts say, from `scenes.attributes`.
  """
  wanted = np.stack([scene_labels.encode(said) for said in promised])
  found = {}
  for i, name in enumerate(scene_labels.FIELDS):
    said = wanted[:, i] != scene_labels.ABSENT
    if said.any():
      right = attributes[said, i] == wanted[said, i]
      found[name] = Kept(float(right.mean()), int(said.sum()))
  return found
