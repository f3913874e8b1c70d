"""Models of random numbers, written by those who published the architectures.

Needs the extra `parity`; import it in a test after asking for that.
"""

import pathlib

import diffusers
import torch
import transformers

DIT = dict(
  patch_size=(1, 2, 2),
  num_attention_heads=2,
  attention_head_dim=12,
  in_channels=16,
  out_channels=16,
  text_dim=32,
  freq_dim=256,
  ffn_dim=40,
  num_layers=2,
)
# The head size of all that is published, and rotary parts of unequal size.
WIDE = DIT | dict(num_attention_heads=4, attention_head_dim=128)
IMAGE = DIT | dict(in_channels=36)  # as A14B-I2V, whose inputs say an image
VAE_2_1 = dict(
  base_dim=6,
  z_dim=16,
  dim_mult=[1, 2, 2, 2],
  num_res_blocks=2,
  temperal_downsample=[False, True, True],
)
VAE_2_2 = VAE_2_1 | dict(
  base_dim=6,
  decoder_base_dim=10,
  is_residual=True,
  in_channels=12,
  out_channels=12,
  patch_size=2,
  scale_factor_spatial=16,
  z_dim=48,
  latents_mean=[0.01 * i for i in range(48)],
  latents_std=[1.0 + 0.02 * i for i in range(48)],
)
WORDS = dict(
  vocab_size=259,
  d_model=32,
  d_kv=8,
  d_ff=40,
  num_layers=3,
  num_heads=4,
  feed_forward_proj='gated-gelu',
)


def randomise(model: torch.nn.Module, std: float = 1.0) -> torch.nn.Module:
  """Draws every parameter, so that none can hide behind a zero or a one."""
  generator = torch.Generator().manual_seed(0)
  for name, value in model.named_parameters():
    noise = torch.randn(value.shape, generator=generator)
    if 'norm' in name and not name.endswith('bias'):
      value.data = 1 + 0.3 * noise
    elif value.ndim > 1 and 'table' not in name:
      inputs = value[0].numel()
      value.data = std * noise * inputs**-0.5
    else:
      value.data = 0.2 * noise
  return model.eval()


def dit(**changes) -> torch.nn.Module:
  """With numbers around 1 coming out.

  Larger weights show more of what diffusers loses on times up to 1000 by its
  float32 frequencies, 4e-5 of an angle.
  """
  return randomise(diffusers.WanTransformer3DModel(**DIT | changes), 0.5)


def vae(**config) -> torch.nn.Module:
  """Of weights so large that what goes in is seen beside the biases."""
  return randomise(diffusers.AutoencoderKLWan(**config))


def umt5(**changes) -> torch.nn.Module:
  config = transformers.UMT5Config(**WORDS | changes)
  return randomise(transformers.UMT5EncoderModel(config))


def t5(**changes) -> torch.nn.Module:
  config = transformers.T5Config(**WORDS | changes)
  return randomise(transformers.T5EncoderModel(config))


def pipeline(
  path: pathlib.Path,
  transformer: torch.nn.Module,
  vae: torch.nn.Module,
  words: torch.nn.Module,
  kind: type = diffusers.WanPipeline,
  **facts,
) -> diffusers.DiffusionPipeline:
  """Writes a whole model, as it would be published, and returns it."""
  made = kind(
    tokenizer=transformers.ByT5Tokenizer(extra_ids=0),
    text_encoder=words,
    vae=vae,
    scheduler=diffusers.UniPCMultistepScheduler(
      prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=3.0
    ),
    transformer=transformer,
    **facts,
  )
  made.save_pretrained(path)
  made.set_progress_bar_config(disable=True)
  return made
