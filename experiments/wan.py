"""Fine-tuning of a published model of the Wan family on your own clips.

  python launch.py train --config=experiments/wan.py:DIR \
      --config.data.path=FOLDER --workdir=runs/mine

DIR is the model in the layout of diffusers, as Wan2.1-T2V-1.3B-Diffusers;
FOLDER has videos and images with captions beside them, as NAME.txt. What comes
out, runs/mine/model, is in the same layout. Clips are encoded and captions read
once, into runs/mine/latents; --config.data.sizes='("832x480x49",)' takes less
memory than the size of the model's own samples, and --config.mesh.fsdp=8 shares
weights and optimizer out over eight devices.

In the place of DIR may stand a name of `published.SIZES`, for `plan` alone,
which says without any weights what that would take of a pod:

  python launch.py plan --config=experiments/wan.py:14b --topology=v5p:4x4x8 \
      --config.mesh.fsdp=32 --config.mesh.context=4 \
      --config.data.limits.rows=32

--config.lora.rank=16 trains adapters alone, beside weights that stay. What
comes out is the merged model and, in its directory, the adapters by themselves,
pytorch_lora_weights.safetensors, which diffusers and `sample --lora` read.

Of a model of two experts, as A14B, a run trains one, at the levels that it is
asked at: --config.expert=high, or low. What comes out has both, the other one
as it was, so that it can be trained from there. Adapters of either have the
same names in files: `sample --lora=low:FILE` says which they are of, as
diffusers is told by `load_into_transformer_2`. A network that sees an image
beside the noise, as A14B-I2V, learns to go on from the first frame of each
clip; stills are left out.
"""

from sora_jax import config as config_lib, networks, published
from sora_jax.data import pipeline


def get_config(place: str = '') -> config_lib.Config:
  if not place:
    raise ValueError('name a model, as --config=experiments/wan.py:DIR')
  named = place in published.SIZES
  config = published.of_size(place) if named else networks.describe(place)
  config.init_from = config.autoencoder_from = config.text_from = place
  config.model.remat = True
  config.data.corpus = pipeline.Corpus.FOLDER
  config.data.sizes = (config.sample.size,)
  limits = config.data.limits
  limits.rows, limits.tokens = 8, 0  # as a clip of data.sizes takes
  limits.text = config.sample.text_slots
  config.optim.learning_rate = 1e-5
  config.optim.warmup_steps = 100
  config.optim.schedule = 'constant'
  config.optim.ema_decay = 0.99
  config.run.steps = 2000
  config.run.sample_every = 0
  config.run.export_dtype = 'bfloat16'
  return config
