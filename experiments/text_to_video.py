"""Stage 3: the spacetime DiT, text to video on the latents of stage 1.

  python launch.py train --config=experiments/text_to_video.py:balls \
      --config.init_from=runs/text/model \
      --config.data.latents=runs/text/latents --workdir=runs/balls

`balls` is for the model that ships, which was not trained in one go: 13,500
steps beside a text encoder that read letters, 6,500 beside one that read words
in no order, and 750 and 3,400 beside encoders taught by contrast, the last 700
of them at a falling rate. On two CPU cores 20,000 steps take two hours and a
half. Of 64 prompts never seen 84 % have the right colours, 70 % the right
directions and 77 % obey the law; of single balls, all of 43.
"""

from sora_jax import config as config_lib, networks, objectives


def balls() -> config_lib.Config:
  config = config_lib.Config()
  config.autoencoder_from = str(networks.SHIPPED)
  config.model.width = 192
  config.model.depth = 8
  config.model.heads = 6
  config.model.mlp = 512
  config.model.channels = 8
  # A CPU recomputes a block sooner than it fetches it: 1.5 times the speed.
  config.model.remat = True
  config.data.clips = 16384
  config.data.limits.rows = 16
  # Where a ball goes is decided at high noise, as most of a clip is white.
  config.denoising.level.mean = 1.2
  config.denoising.level.std = 1.4
  config.denoising.level.shift_base = 0
  config.denoising.weighting = objectives.Weighting.BALANCED
  config.optim.learning_rate = 1e-3
  config.optim.warmup_steps = 100
  config.optim.schedule = 'wsd'
  config.optim.end_fraction = 0.02
  config.optim.ema_decay = 0.999
  config.run.steps = 20000
  config.run.sample_every = 0
  config.run.export_dtype = 'float16'
  config.sample.prompts = (
    'a small red ball rolls right at speed 2.0',
    'a large blue ball thrown left at speed 3.0 falls',
    'a medium green ball going right at 2.0 hits a small black ball going '
    'left at 3.0',
  )
  return config


VARIANTS = {'balls': balls}


def get_config(name: str = 'balls') -> config_lib.Config:
  return VARIANTS[name]()
