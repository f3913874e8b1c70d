"""Frechet distance between made clips and true ones, by some extractor.

The distance means nothing without the network whose features it compares, so
that is part of its name: `frechet[latents]` is of the model's own autoencoder,
and needs no download; `frechet[FILE]` is of a TorchScript file, as that of I3D
by which most papers give FVD; `frechet[probe]` of the probe of scenes. Of few
clips it is biased upwards, by more the more features there are, and of fewer
clips than features it is hardly more than that: compare only equal numbers.

Sources: Heusel et al. 2017 (arXiv:1706.08500) for the distance, Unterthiner et
al. 2018 (arXiv:1812.01717) for video.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Float

from sora_jax import metrics, networks as networks_lib, objectives
from sora_jax.models import autoencoder

Videos = Sequence[metrics.Video]
Features = Float[np.ndarray, 'n d']
I3D_SIDE = 224  # pixels that I3D was trained at


class Extractor(NamedTuple):
  """Videos of one size to a vector each."""

  name: str
  features: Callable[[Videos], Features]


# By an extractor: of clips that were made, and of decoded ones, from true ones.
Distances = dict[str, tuple[float, float]]


def distances(
  extractors: Sequence[Extractor], made: Videos, decoded: Videos, true: Videos
) -> Distances:
  """How far clips are from true ones, by the features of each extractor.

  Of a single clip nothing can be said, so that there are none.
  """
  found = {}
  if len(true) < 2:
    return found
  for name, features in extractors:
    truth = features(true)
    found[name] = (
      distance(features(made), truth),
      distance(features(decoded), truth),
    )
  return found


def lines(found: Distances) -> list[str]:
  """Distances as text."""
  return [
    f'{name} from the true clips: made {made:.3f}, through the autoencoder '
    f'{decoded:.3f}'
    for name, (made, decoded) in found.items()
  ]


def distance(
  a: Float[np.ndarray, '_n _d'], b: Float[np.ndarray, '_m _d']
) -> float:
  """Squared Frechet distance of the normal laws that fit two sets best.

  |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), of covariances A, B.

  Raises:
    ValueError: fewer than two vectors, or other lengths of them.
  """
  if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
    raise ValueError(
      f'frechet: features of {a.shape} and {b.shape}; it needs two clips or '
      'more of each, and one length'
    )
  a, b = a.astype(np.float64), b.astype(np.float64)
  A, B = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
  root = _root(A)
  mixed = np.linalg.eigvalsh(root @ B @ root)
  spread = np.trace(A) + np.trace(B) - 2 * np.sqrt(mixed.clip(0)).sum()
  return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + spread)


def _root(matrix: Float[np.ndarray, 'd d']) -> Float[np.ndarray, 'd d']:
  """The root of a symmetric matrix without negative eigenvalues."""
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def of_latents(networks: networks_lib.Networks) -> Extractor:
  """Mean, spread and change in time of each channel of the latent."""
  config = networks.config.autoencoder
  params = networks.params['autoencoder']

  @jax.jit
  def encode(params, video):
    return autoencoder.encode(config, params, objectives.to_pixels(video))

  def features(videos):
    rows = []
    for video in videos:
      z = np.asarray(encode(params, video[None])[0], np.float64)
      step = np.abs(np.diff(z, axis=0)).sum(axis=0) / max(1, len(z) - 1)
      parts = (z.mean(axis=(0, 1, 2)), z.std(axis=(0, 1, 2)), step.mean((0, 1)))
      rows.append(np.concatenate(parts))
    return np.array(rows)

  return Extractor('frechet[latents]', features)


def of_torchscript(path: epath.PathLike) -> Extractor:
  """Of a TorchScript file that takes float32 [1, 3, T, 224, 224] in [-1, 1].

  I3D as it is passed around for FVD has options by which it gives features
  and scales by itself; it is called with them where it takes them.

  Raises:
    ValueError: there is no torch, or the file is none.
  """
  try:
    import torch  # of the extra [parity]; slow to import, and needed only here
  except ImportError as error:
    raise ValueError(
      f'--extractor={path} needs torch: pip install "sora_jax[parity]"'
    ) from error
  try:
    network = torch.jit.load(str(path)).eval()
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise ValueError(
      f'--extractor={path} is no TorchScript: {reason}'
    ) from error
  names = {a.name for a in network.forward.schema.arguments}
  told = {'rescale': False, 'resize': False, 'return_features': True}
  options = {name: told[name] for name in told if name in names}

  def features(videos):
    rows = []
    with torch.no_grad():
      for video in videos:
        frames = torch.from_numpy(video).permute(0, 3, 1, 2).float() / 127.5 - 1
        frames = torch.nn.functional.interpolate(
          frames, (I3D_SIDE, I3D_SIDE), mode='bilinear', align_corners=False
        )
        rows.append(network(frames.permute(1, 0, 2, 3)[None], **options)[0])
    return torch.stack(rows).flatten(1).numpy()

  return Extractor(f'frechet[{epath.Path(path).name}]', features)
