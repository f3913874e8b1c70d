"""Stage 2: the text encoder, by contrast of captions with latents.

  python launch.py train --config=experiments/text_encoder.py:balls \
      --workdir=runs/text

Trained with the DiT alone, on a denoising loss, the encoder of `balls` stays a
bag of letters for hours: after 20,000 steps of 16 clips, 36 % of samples had
the colours of their prompts. 1,200 steps of contrast among 128 captions, with
heads that start at single letters, brought that to 84 %, but which of two
balls comes from the left stayed a guess. Two changes made it plain: heads that
start at reaches of a word and a phrase (`models/text.py`), and batches of 512,
where there is always a caption that differs by the order of its words alone.
After these 2,000 steps the encoder tells 93 % of captions from 255 others, and
99 % of collisions from themselves with left and right exchanged. One H100
learns from 17,000 clips a second, in batches of 128; a core packs 512 in
130 ms, so give --config.data.workers=8 there.

`release` is for the model of both worlds; see `release.sh`.
"""

from sora_jax import config as config_lib, networks


def balls() -> config_lib.Config:
  config = config_lib.Config(stage=config_lib.Stage.TEXT)
  config.autoencoder_from = str(networks.SHIPPED)
  config.model.channels = 8
  config.data.clips = 32768
  config.data.caption_dropout = 0.0
  config.data.limits.rows = 512
  config.optim.learning_rate = 1e-3
  config.optim.warmup_steps = 100
  config.optim.end_fraction = 0.01
  config.optim.weight_decay = 0.02
  config.optim.ema_decay = 0.99
  config.run.steps = 2000
  config.run.export_dtype = 'float16'
  return config


def release() -> config_lib.Config:
  config = balls()
  config.autoencoder_from = ''  # one of 64 channels, by flag
  config.model.channels = 64
  limits = config.data.limits
  limits.rows, limits.tokens, limits.text, limits.clips = 256, 160, 192, 4
  limits.groups = 4
  config.data.workers = 1
  config.optim.method = 'muon'
  config.optim.ema_decay = 0.98
  return config


VARIANTS = {'balls': balls, 'release': release}


def get_config(name: str = 'balls') -> config_lib.Config:
  return VARIANTS[name]()
