"""Stage 2: the text encoder, by contrast of captions with latents.

  python launch.py train --config=experiments/text_encoder.py:balls \
      --workdir=runs/text

Trained with the DiT alone, on a denoising loss, the encoder of `balls` stays a
bag of letters for hours: after 20,000 steps of 16 clips, 36 % of samples had
the colours of their prompts. On two CPU cores these 1,200 steps take 11
minutes, tell 92 % of captions from 127 others, and a DiT that goes on beside
what they made has the right colour for every single ball 1,250 steps later.
"""

from sora_jax import config as config_lib, networks


def balls() -> config_lib.Config:
  config = config_lib.Config(stage=config_lib.Stage.TEXT)
  config.autoencoder_from = str(networks.SHIPPED)
  config.model.channels = 8
  config.data.clips = 16384
  config.data.caption_dropout = 0.0
  config.data.limits.rows = 128
  config.optim.learning_rate = 1e-3
  config.optim.warmup_steps = 100
  config.optim.end_fraction = 0.01
  config.optim.weight_decay = 0.02
  config.optim.ema_decay = 0.99
  config.run.steps = 1200
  config.run.export_dtype = 'float16'
  return config


VARIANTS = {'balls': balls}


def get_config(name: str = 'balls') -> config_lib.Config:
  return VARIANTS[name]()
