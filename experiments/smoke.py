"""The tiniest networks on the embedded world: minutes on two CPU cores.

  python launch.py train --config=experiments/smoke.py:autoencoder \
      --workdir=runs/smoke_autoencoder
  python launch.py train --config=experiments/smoke.py:text \
      --config.autoencoder_from=runs/smoke_autoencoder/model \
      --workdir=runs/smoke_text
  python launch.py train --config=experiments/smoke.py:diffusion \
      --config.autoencoder_from=runs/smoke_autoencoder/model \
      --config.init_from=runs/smoke_text/model --workdir=runs/smoke

Nothing that it makes is worth a look; it shows that everything runs.
"""

from sora_jax import config as config_lib


def autoencoder() -> config_lib.Config:
  config = config_lib.Config(stage=config_lib.Stage.AUTOENCODER)
  config.autoencoder.channels = 4
  config.autoencoder.encoder_width = 8
  config.autoencoder.decoder_width = 8
  config.autoencoder.multiples = (1, 2, 2)
  config.autoencoder.halve_time = (True, True)
  config.autoencoder.blocks = 1
  config.autoencoder.patch = 2
  config.autoencoder.shortcuts = True
  config.data.clips = 64
  config.data.crops = ('16x16x5',)
  config.data.limits.rows = 8
  _short(config)
  return config


def diffusion() -> config_lib.Config:
  config = config_lib.Config()
  config.model.width = 32
  config.model.depth = 2
  config.model.heads = 2
  config.model.mlp = 64
  config.model.channels = 4
  config.model.text_width = config.text.width = 32
  config.text.heads, config.text.head_dim, config.text.mlp = 2, 16, 64
  config.data.clips = 64
  config.data.sizes = ('32x32x5', '48x32x9', '32x48x1')
  config.data.limits.rows = 8
  config.data.limits.tokens = 48
  config.data.limits.clips = 4
  config.data.limits.text = 320
  config.data.limits.groups = 4
  config.sample.size = '32x32x5'
  config.sample.steps = 4
  config.sample.prompts = ('a small red ball rolls right at speed 2.0',)
  _short(config)
  return config


def text() -> config_lib.Config:
  config = diffusion()
  config.stage = config_lib.Stage.TEXT
  config.data.caption_dropout = 0.0
  return config


def _short(config: config_lib.Config) -> None:
  config.optim.warmup_steps = 10
  config.run.steps = 100
  config.run.log_every = 10
  config.run.save_every = 50
  config.run.sample_every = 100


VARIANTS = {'autoencoder': autoencoder, 'text': text, 'diffusion': diffusion}


def get_config(name: str) -> config_lib.Config:
  return VARIANTS[name]()
