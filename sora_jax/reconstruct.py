"""The autoencoder by itself: clips through it and back, and what bounds it."""

from collections.abc import Sequence

import jax
import numpy as np

from sora_jax import codec, metrics, networks as networks_lib, objectives
from sora_jax.data import transforms
from sora_jax.models import autoencoder

Video = metrics.Video


def through(
  networks: networks_lib.Networks, videos: Sequence[Video]
) -> list[Video]:
  """Videos of one size through the autoencoder and back."""
  config = networks.config.autoencoder

  @jax.jit
  def run(params, video):
    z = autoencoder.encode(config, params, objectives.to_pixels(video))
    return codec.to_uint8(autoencoder.decode(config, params, z))

  params = networks.params['autoencoder']
  return [np.asarray(run(params, video[None])[0]) for video in videos]


def compare(
  networks: networks_lib.Networks, videos: Sequence[Video]
) -> dict[str, float]:
  """The autoencoder beside bicubic scaling to as many numbers as its latent."""
  decoded = through(networks, videos)
  shrink = shrink_of(networks.config.autoencoder)
  scaled = [bicubic(video, shrink) for video in videos]
  beside = {f'bicubic_{k}': v for k, v in scores(scaled, videos).items()}
  return scores(decoded, videos) | beside


def scores(
  videos: Sequence[Video], references: Sequence[Video]
) -> dict[str, float]:
  """Means over clips of the PSNR in dB, the SSIM and the flicker."""
  pairs = list(zip(videos, references, strict=True))
  return {
    metric.__name__: float(np.mean([metric(a, b) for a, b in pairs]))
    for metric in (metrics.psnr, metrics.ssim, metrics.flicker)
  }


def shrink_of(config: autoencoder.AutoencoderConfig) -> float:
  """How much smaller a side must be to keep as many numbers as the latent.

  A latent value stands for 3 t s^2 / C pixel values, so bicubic scaling by
  the root of that in space, and not at all in time, is the same ratio.
  """
  values = 3 * config.time * config.space**2 / config.channels
  return values**0.5


def bicubic(video: Video, shrink: float) -> Video:
  """Scales down by `shrink` a side, and up again."""
  H, W = video.shape[1:3]
  small = transforms.resize(
    video, max(1, round(W / shrink)), max(1, round(H / shrink))
  )
  return transforms.resize(small, W, H)


def table(name: str, row: dict[str, float]) -> str:
  """One line of `compare`."""
  return (
    f'{name}: {row["psnr"]:.2f} dB PSNR, {row["ssim"]:.4f} SSIM, flicker '
    f'{row["flicker"]:.2f}; bicubic of the same ratio '
    f'{row["bicubic_psnr"]:.2f} dB, {row["bicubic_ssim"]:.4f}, '
    f'{row["bicubic_flicker"]:.2f}'
  )
