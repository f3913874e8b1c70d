"""Stage 1: the video autoencoder, pixels to latents and back.

  python launch.py train --config=experiments/autoencoder.py:balls \
      --workdir=runs/autoencoder

`balls` and then `balls_long`, which goes on from it, made the autoencoder that
ships: 8 x 8 pixels and 4 frames to one latent of 8 channels. Short crops are
cheap, but what is trained on 9 frames drifts in colour after them (24 dB PSNR
over 33 frames, 31 over the first 9), since the network looks back further than
that; so the last part sees whole durations.

On two CPU cores the two take 20 minutes and 75, and reach 35.5 dB on 64 clips
of 64x64x33 that they have not seen. `balls_long` was run in three parts, of
1,200, 2,700 and, at a learning rate of 3e-4, 500 steps.

  python launch.py train --config=experiments/autoencoder.py:balls_long \
      --config.init_from=runs/autoencoder/model --workdir=runs/autoencoder_long

`balls_decoder` came when the world had got its fourth law and a DiT had learned
from these latents. It trains the decoder alone, so that they stay as they are:
1,600 steps, 20 minutes, and 34.0 dB become 36.6 over all four laws.

  python launch.py train --config=experiments/autoencoder.py:balls_decoder \
      --config.init_from=runs/autoencoder_long/model --workdir=runs/decoder

`clips` trains the same network on a folder of videos, which
--config.data.path names, in crops of 9 frames; `clips_long` goes on from it in
crops of 33, without which it drifts after the ninth.

`release`, and `release_cooled` which goes on from it, are for the model of both
worlds; see `release.sh`.
"""

from sora_jax import config as config_lib
from sora_jax.data import pipeline
from sora_jax.models import autoencoder


def small() -> autoencoder.AutoencoderConfig:
  """Wan 2.2's topology with two halvings; 0.8 M parameters."""
  return autoencoder.AutoencoderConfig(
    channels=8,
    encoder_width=16,
    decoder_width=24,
    multiples=(1, 2, 2),
    halve_time=(True, True),
    blocks=1,
    patch=2,
    shortcuts=True,
  )


def balls() -> config_lib.Config:
  config = config_lib.Config(stage=config_lib.Stage.AUTOENCODER)
  config.autoencoder = small()
  config.data.clips = 65536
  config.data.crops = ('48x48x9',)
  config.data.limits.rows = 8
  config.reconstruction.squared = 4.0
  config.optim.learning_rate = 1e-3
  config.optim.warmup_steps = 50
  config.optim.end_fraction = 0.01
  config.optim.weight_decay = 0.0
  config.optim.ema_decay = 0.995
  config.run.steps = 2000
  config.run.export_dtype = 'float16'
  return config


def balls_long() -> config_lib.Config:
  config = balls()
  config.data.crops = ('48x48x33', '64x64x33')
  config.data.limits.rows = 4
  config.reconstruction.squared = 10.0
  config.seed = 1
  config.optim.learning_rate = 8e-4
  config.run.steps = 4400
  return config


def balls_decoder() -> config_lib.Config:
  config = balls_long()
  config.data.crops = ('64x64x33',)
  config.reconstruction.decoder_only = True
  config.seed = 2
  config.optim.learning_rate = 6e-4
  config.run.steps = 1600
  return config


def clips() -> config_lib.Config:
  config = balls()
  config.autoencoder.channels = 16
  config.data.corpus = pipeline.Corpus.FOLDER
  config.data.crops = ('64x64x9',)
  config.data.limits.rows = 4
  config.data.workers = 1
  config.run.steps = 2000
  return config


def clips_long() -> config_lib.Config:
  config = clips()
  config.seed = 1
  config.data.crops = ('64x64x33',)
  config.data.limits.rows = 2
  config.optim.learning_rate = 8e-4
  config.run.steps = 1000
  return config


def release() -> config_lib.Config:
  config = balls()
  config.autoencoder.channels = 64
  config.autoencoder.encoder_width = 32
  config.autoencoder.decoder_width = 48
  config.autoencoder.patch = 4
  # Each world has the sizes of its places, as 3 divides 6.
  config.data.world = 'scenes+balls+scenes'
  config.data.sizes = (
    *('128x128x33', '64x64x33', '192x112x33'),
    *('128x128x33', '128x128x33', '112x192x33'),
  )
  config.data.crops = ('64x64x17', '64x64x33')
  config.data.clips = 2304  # 4 GB where data.rendered keeps them
  config.data.workers = 1
  config.data.limits.rows = 16
  config.reconstruction.squared = 10.0
  config.optim.method = 'muon'
  config.optim.learning_rate = 2e-3
  config.optim.schedule = 'constant'
  config.optim.ema_decay = 0.998
  return config


def release_cooled() -> config_lib.Config:
  config = release()
  config.seed = 1
  config.optim.schedule = 'cosine'
  return config


VARIANTS = {
  'balls': balls,
  'balls_long': balls_long,
  'balls_decoder': balls_decoder,
  'clips': clips,
  'clips_long': clips_long,
  'release': release,
  'release_cooled': release_cooled,
}


def get_config(name: str = 'balls') -> config_lib.Config:
  return VARIANTS[name]()
