"""The probe of scenes, which scores what models make and has no part in it.

  python launch.py train --config=experiments/probe.py:scenes \
      --workdir=runs/probe
  python launch.py train --config=experiments/probe.py:scenes_more \
      --config.init_from=runs/probe/model --workdir=runs/probe_more

It is shown clips of every combination and told what is true of them and where
actors are. `scenes` made `sora_jax/weights/probe`, by which `launch.py evaluate
--world=scenes` scores: 35,000 clips in an hour on two CPU cores, of which half
go to rendering. It was begun with 3,000 steps in sight, and was ended after
2,200 by --config.run.steps. `scenes_more` goes on, and has not been run.
"""

from sora_jax import config as config_lib


def scenes() -> config_lib.Config:
  config = config_lib.Config(stage=config_lib.Stage.PROBE)
  config.data.world = 'scenes'
  config.data.sizes = ('64x64x17', '64x64x17', '80x48x17', '48x80x17')
  config.data.limits.rows = 16
  config.data.workers = 2
  config.optim.learning_rate = 1e-3
  config.optim.warmup_steps = 100
  config.optim.end_fraction = 0.01
  config.optim.weight_decay = 0.02
  config.optim.ema_decay = 0.998
  config.run.steps = 2200
  config.run.export_dtype = 'float16'
  return config


def scenes_more() -> config_lib.Config:
  config = scenes()
  config.seed = 1
  config.optim.learning_rate = 7e-4
  config.run.steps = 1300
  return config


VARIANTS = {'scenes': scenes, 'scenes_more': scenes_more}


def get_config(name: str = 'scenes') -> config_lib.Config:
  return VARIANTS[name]()
