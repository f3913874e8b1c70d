"""The probe of scenes, which scores what models make and has no part in it.

  python launch.py train --config=experiments/probe.py --workdir=runs/probe

It is shown clips of every combination and told what is true of them: words,
where actors are, and how they and the camera move. In 50 minutes on two CPU
cores, with --config.run.onednn (75,000 clips, 34 a second but for what ran
beside it), it made `sora_jax/weights/probe`, by which `launch.py evaluate
--world=scenes` scores. Of 256 held-out clips it tells the object of all, the
colour, count and event of all but one each, the way of 98 %, and the weather
and camera of 97 %.
"""

from sora_jax import config as config_lib


def scenes() -> config_lib.Config:
  config = config_lib.Config(stage=config_lib.Stage.PROBE)
  config.data.world = 'scenes'
  config.data.sizes = ('64x64x17', '64x64x17', '80x48x17', '48x80x17')
  config.data.limits.rows = 32
  config.data.workers = 2
  config.optim.method = 'muon'
  config.optim.learning_rate = 2e-3
  config.optim.warmup_steps = 50
  config.optim.end_fraction = 0.01
  config.optim.weight_decay = 0.02
  config.optim.ema_decay = 0.995
  config.run.steps = 2400
  config.run.export_dtype = 'float16'
  return config


VARIANTS = {'scenes': scenes}


def get_config(name: str = 'scenes') -> config_lib.Config:
  return VARIANTS[name]()
