"""Networks, configs and corpora as small as they come, for several tests."""

import jax
import numpy as np
from etils import epath

from experiments import smoke
from sora_jax import config as config_lib, networks, sharding
from sora_jax.data import latents, video
from sora_jax.models import autoencoder

CAPTIONS = ('a red ball rolls', 'a blue ball falls', 'two balls', 'grey')


def autoencoder_config() -> autoencoder.AutoencoderConfig:
  """Of the smoke experiment, with latent statistics."""
  config = smoke.autoencoder().autoencoder
  config.latent_mean = (0.0, 0.1, -0.1, 0.0)
  config.latent_std = (0.2, 0.3, 0.2, 0.3)
  return config


def config(**data) -> config_lib.Config:
  """A diffusion run of a few steps that neither samples nor logs much."""
  tiny = smoke.diffusion()
  tiny.autoencoder = autoencoder_config()
  tiny.model.frequencies = 16
  tiny.data.sizes = ('32x32x5',)
  tiny.data.limits.tokens, tiny.data.limits.clips = 16, 2
  tiny.data.limits.groups, tiny.data.limits.text = 2, 64
  tiny.sample.text_slots = 32
  tiny.optim.warmup_steps = 0
  tiny.run.steps, tiny.run.sample_every = 4, 0
  for name, value in data.items():
    setattr(tiny.data, name, value)
  return tiny


def params(tiny: config_lib.Config, *names: str) -> dict:
  """Random parameters; a fresh DiT, whose head is 0, would say nothing."""
  rng = np.random.default_rng(7)

  def draw(leaf):
    inputs = int(np.prod(leaf.shape[:-1]))
    return rng.normal(0, max(inputs, 1) ** -0.5, leaf.shape).astype(np.float32)

  return {
    name: jax.tree.map(draw, sharding.unbox(networks.abstract(tiny, name)))
    for name in names or networks.SYSTEM
  }


def write_model(path: epath.PathLike, *names: str) -> networks.Networks:
  """A model directory of random networks."""
  model = networks.Networks(tiny := config(), params(tiny, *names))
  networks.write(path, model, 'float32')
  return model


def write_latents(
  path: epath.PathLike, frozen: dict, count: int = 12
) -> latents.LatentSource:
  """Prepared latents of a kind that is easily learnt: a colour a caption."""
  rng = np.random.default_rng(0)
  colours = rng.normal(size=(len(CAPTIONS), 4))
  with latents.Writer(path) as writer:
    for i in range(count):
      caption = i % len(CAPTIONS)
      size = ((2, 4, 4), (1, 4, 4), (2, 4, 2))[i % 3]
      latent = np.broadcast_to(colours[caption], (*size, 4))
      latent = latent.astype(np.float32)
      text = CAPTIONS[caption]
      row = latents.Row(f'{i}', size, [text], 1 + len(text), 0)
      writer.write(row, latents.Record(latent, ()))
    writer.finish({
      'channels': 4,
      'autoencoder': networks.digest(frozen['autoencoder']),
      'text': '',
    })
  return latents.LatentSource(path)


def gradient(frames: int, width: int, height: int, seed: int = 0) -> np.ndarray:
  """A gradient of colours of its own that moves to the right."""
  rng = np.random.default_rng(seed)
  t, y, x = np.meshgrid(*map(np.arange, (frames, height, width)), indexing='ij')
  phase = (x - 2 * t)[..., None] * rng.uniform(0.1, 0.3, 3) + 0.1 * y[..., None]
  return (127.5 + 127.5 * np.sin(phase)).astype(np.uint8)


def write_videos(folder: epath.PathLike, sizes: list[tuple]) -> epath.Path:
  """mp4 files `0.mp4`, `1.mp4` ... of moving gradients, captions beside."""
  folder = epath.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for i, (frames, width, height) in enumerate(sizes):
    clip = gradient(frames, width, height, seed=i)
    video.write_video(folder / f'{i}.mp4', clip, 10.0)
    (folder / f'{i}.txt').write_text(CAPTIONS[i % len(CAPTIONS)] + '\n')
  return folder
