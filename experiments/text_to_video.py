"""Stage 3: the spacetime DiT, text to video on the latents of stage 1.

  python launch.py train --config=experiments/text_to_video.py:balls \
      --config.init_from=runs/text/model \
      --config.data.latents=runs/text/latents --workdir=runs/balls
  python launch.py train --config=experiments/text_to_video.py:balls_cooled \
      --config.init_from=runs/balls/model \
      --config.data.latents=runs/text/latents --workdir=runs/balls_cooled

The two take 4 minutes on one H100, with --config.model.scan=False
--config.model.remat=False, which halve the time of a step there, and 50 on two
CPU cores. The cooled part was run on the first 16,384 of the clips, and both
before the world had its fourth law.

`balls_tasks` goes on from them with known pieces of all kinds, so that videos
can be prompts: 45 minutes of preparation, as pieces start streams anew, and 2
hours 40 of training on two CPU cores. `balls_openings` goes on from that, where
a piece further on is mostly shown with the image latent that opens it, and made
the model that ships: on faster cores 14 minutes of preparation and an hour of
training.

  python launch.py train --config=experiments/text_to_video.py:balls_tasks \
      --config.init_from=runs/balls_cooled/model --workdir=runs/balls_tasks
  python launch.py train --config=experiments/text_to_video.py:balls_openings \
      --config.init_from=runs/balls_tasks/model --workdir=runs/balls_openings

`balls_ends` goes on from what ships, on the same latents, with more pieces at
the end; it was not shipped:

  python launch.py train --config=experiments/text_to_video.py:balls_ends \
      --config.init_from=runs/balls_openings/model \
      --config.data.latents=runs/balls_openings/latents \
      --workdir=runs/balls_ends

`balls_joins`, and on the same latents `balls_more`, go on from `balls_tasks`
with clips that lead from one into another: 12 minutes of preparation and 40 of
training on two CPU cores.

  python launch.py train --config=experiments/text_to_video.py:balls_joins \
      --config.init_from=runs/balls_tasks/model --workdir=runs/balls_joins
  python launch.py train --config=experiments/text_to_video.py:balls_more \
      --config.init_from=runs/balls_joins/model \
      --config.data.latents=runs/balls_joins/latents --workdir=runs/balls_more

`balls_last` goes on once more, likewise. None of the three ships: clips join
better, and prompts are kept a little less.

`release_images`, `release`, `release_tasks` and `release_cooled` go on from one
another, for both worlds and sizes around 128x128; `release.sh` runs them all.
"""

from sora_jax import config as config_lib, networks, objectives
from sora_jax.data import pieces


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
  config.data.clips = 32768
  config.data.limits.rows = 128
  # Where a ball goes is decided at high noise, as most of a clip is white.
  config.denoising.level.mean = 1.2
  config.denoising.level.std = 1.4
  config.denoising.level.shift_base = 0
  config.denoising.weighting = objectives.Weighting.BALANCED
  config.optim.learning_rate = 1e-3
  config.optim.warmup_steps = 100
  config.optim.schedule = 'constant'
  config.optim.ema_decay = 0.999
  config.run.steps = 4000
  config.run.sample_every = 0
  config.run.export_dtype = 'float16'
  # What the prompt says is settled by then; below, guidance bends the motion.
  config.sample.guidance_low = 0.6
  config.sample.prompts = (
    'a small red ball rolls right at speed 2.0',
    'a large blue ball thrown left at speed 3.0 falls',
    'a medium green ball going right at 2.0 hits a small black ball going '
    'left at 3.0',
  )
  return config


def balls_cooled() -> config_lib.Config:
  config = balls()
  config.seed = 1
  config.data.limits.rows = 16
  config.optim.learning_rate = 6e-4
  config.optim.warmup_steps = 50
  config.optim.schedule = 'cosine'
  config.optim.end_fraction = 0.02
  config.run.steps = 6500
  return config


def balls_tasks() -> config_lib.Config:
  config = balls_cooled()
  config.seed = 2
  # All of them fit the same rows; a model of one aspect can fill no other.
  config.data.sizes = ('64x64x33',) * 13 + ('80x48x33', '48x80x33', '64x64x1')
  config.data.limits.groups = 9
  config.data.shares = pieces.Shares(
    frames=0.1,
    start=0.15,
    end=0.1,
    both=0.1,
    middle=0.05,
    region=0.1,
    anchor=0.1,
    midstream=0.2,
  )
  config.optim.learning_rate = 5e-4
  config.optim.schedule = 'wsd'
  config.run.steps = 20000
  return config


def balls_joins(seed: int = 3, both: float = 0.3) -> config_lib.Config:
  config = balls_tasks()
  config.seed = seed
  config.data.world = 'balls+balls+joins'
  config.data.clips = 12288
  config.data.limits.text = 144  # two captions of one ball
  config.data.shares = pieces.Shares(
    frames=0.05,
    start=0.1,
    end=0.1,
    both=both,
    middle=0.05,
    region=0.05,
    anchor=0.05,
    midstream=0.2,
  )
  config.optim.learning_rate = 3e-4
  config.optim.schedule = 'cosine'
  config.run.steps = 2500
  return config


def balls_more() -> config_lib.Config:
  config = balls_joins(seed=4, both=0.2)
  config.run.steps = 1800
  return config


def balls_last() -> config_lib.Config:
  config = balls_joins(seed=5, both=0.2)
  config.run.steps = 3000
  return config


def balls_openings() -> config_lib.Config:
  config = balls_tasks()
  config.seed = 6
  config.data.clips = 16384
  config.data.limits.tokens = 160  # nine latents of 16, and an opening
  config.data.shares.frames = 0.05
  config.data.shares.end = 0.15
  config.data.shares.opening = 0.75
  config.sample.openings = True
  config.optim.learning_rate = 4e-4
  config.optim.schedule = 'cosine'
  config.run.steps = 4000
  return config


def balls_ends() -> config_lib.Config:
  config = balls_openings()
  config.seed = 7
  config.data.shares = pieces.Shares(
    opening=0.9,
    frames=0.05,
    start=0.1,
    end=0.3,
    both=0.2,
    middle=0.03,
    region=0.07,
    anchor=0.05,
    midstream=0.12,
  )
  config.run.steps = 4500
  return config


def release() -> config_lib.Config:
  config = balls()
  config.autoencoder_from = ''  # one of 64 channels, by flag
  # 10 MB of float16, with its text encoder.
  config.model.width = 224
  config.model.depth = 6
  config.model.heads = 4
  config.model.mlp = 576
  config.model.channels = 64
  # Each world has the sizes of its places, as 8 divides 16.
  config.data.world = (
    'scenes+balls+scenes+scene_joins+scenes+scenes+scenes+balls'
  )
  config.data.sizes = (
    *('128x128x17', '128x128x33', '128x128x33', '128x128x33'),
    *('160x96x17', '128x128x17', '128x128x33', '128x128x33'),
    *('96x160x17', '128x128x33', '128x128x17', '128x128x33'),
    *('128x128x1', '128x128x17', '128x128x33', '64x64x33'),
  )
  config.data.clips = 20480
  limits = config.data.limits
  limits.rows, limits.tokens, limits.text, limits.clips = 32, 160, 192, 6
  limits.groups = 20
  # What prompts say comes before ways of going on from clips.
  config.data.shares = pieces.Shares(frames=0.05, start=0.1, midstream=0.1)
  config.data.workers = 1
  # A token holds 256 numbers, and a clip 144 tokens: what they have in common
  # is seen through more noise than in `balls`, and of stills through less.
  config.denoising.level.mean = 0.8
  config.denoising.level.shift_base = 16
  config.optim.method = 'muon'
  config.optim.learning_rate = 2e-3
  config.sample.size = '128x128x33'
  config.sample.fps = 8.0
  config.sample.text_slots = 160
  config.sample.prompts = (
    'a green fish swims to the left under water',
    'a yellow butterfly is flying right over sand',
    'a medium green ball going right at 2.0 hits a small black ball going '
    'left at 3.0',
  )
  return config


def release_images() -> config_lib.Config:
  """Stills first: what they show, a video teaches no better, and dearer."""
  config = release()
  config.data.world = 'scenes+balls+scenes+scenes'
  config.data.sizes = (
    *('128x128x1', '128x128x1', '160x96x1', '128x128x1'),
    *('96x160x1', '64x64x1', '128x128x1', '128x128x1'),
  )
  config.data.clips = 40960
  # Three stills of a row, with little else to attend to: half as long again
  # for as many took rows of ten, on two CPU cores.
  limits = config.data.limits
  limits.rows, limits.tokens, limits.text, limits.clips = 112, 48, 136, 3
  limits.groups = 3
  config.data.shares = pieces.Shares()
  return config


def release_tasks() -> config_lib.Config:
  config = release()
  config.seed = 1
  config.data.shares = pieces.Shares(
    frames=0.05,
    start=0.15,
    end=0.1,
    both=0.1,
    middle=0.05,
    region=0.1,
    anchor=0.05,
    midstream=0.15,
    opening=0.75,
  )
  config.sample.openings = True
  return config


def release_cooled() -> config_lib.Config:
  config = release_tasks()
  config.seed = 2
  config.optim.learning_rate = 1.5e-3
  config.optim.warmup_steps = 50
  config.optim.schedule = 'cosine'
  config.optim.end_fraction = 0.01
  return config


VARIANTS = {
  'balls': balls,
  'balls_cooled': balls_cooled,
  'balls_tasks': balls_tasks,
  'balls_joins': balls_joins,
  'balls_more': balls_more,
  'balls_last': balls_last,
  'balls_openings': balls_openings,
  'balls_ends': balls_ends,
  'release_images': release_images,
  'release': release,
  'release_tasks': release_tasks,
  'release_cooled': release_cooled,
}


def get_config(name: str = 'balls') -> config_lib.Config:
  return VARIANTS[name]()
