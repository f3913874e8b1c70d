"""Pixels that diffusers publishes of its own tests, made here without it.

Its tests of the Wan pipelines (version 0.42, tests/pipelines/wan) build tiny
networks from seed 0, sample 9 frames in 2 steps, and compare the first and the
last 8 of all numbers with those below to 1e-3. `slices/` has those networks and
the noise, as their libraries write them, of float32. The prompts' features are
left out, as zeros: they are small there and change no digit below.
"""

import dataclasses
import pathlib

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sora_jax import flow, parity, samplers, tokens
from sora_jax.models import autoencoder
from sora_jax.weights import directory

ROOT = pathlib.Path(__file__).parent / 'slices'


def numbers(text):
  return np.array([float(word) for word in text.split()])


T2V = numbers(
  '.4525 .452 .4485 .4534 .4524 .4529 .454 .453 '
  '.5127 .5326 .5204 .5253 .5439 .5424 .5133 .5078'
)
I2V = numbers(
  '.4527 .4526 .4498 .4539 .4521 .4524 .4533 .4535 '
  '.5154 .5353 .52 .5174 .5434 .5301 .5199 .5216'
)
TI2V = numbers(
  '.4814 .4298 .5094 .4289 .5061 .4301 .5043 .4284 '
  '.5375 .5965 .5527 .6014 .5228 .6076 .6644 .5651'
)
TI2V_IMAGE = numbers(
  '.4833 .4305 .51 .4299 .5056 .4298 .5052 .4332 '
  '.555 .6092 .5536 .5928 .5199 .5864 .6705 .5493'
)


def read(place, name):
  config = directory.read_config(ROOT / place, name)
  params = directory.read_params(ROOT / place, name, config)
  return dataclasses.replace(config, dtype='float32'), jax.tree.map(
    jnp.asarray, params
  )


def noise_of(place):
  noise = safetensors.numpy.load_file(ROOT / place / 'noise.safetensors')
  return jnp.asarray(einops.rearrange(noise['noise'], 'B C T H W -> B T H W C'))


def make(place, schedule, sampler, z, start, more=None):
  """Walks a latent to its data; `more` are channels beside the noisy ones."""
  config, params = read(place, 'dit')
  size, patch = z.shape[1:4], config.patch
  run = parity.make_dit(config, size)
  features = jnp.zeros((1, 16, config.text_width))
  levels, times = schedule

  def velocity(_, x, level):
    latent = tokens.unpatchify(x, size, patch)
    if more is not None:
      latent = jnp.concatenate([latent, more], axis=-1)
    # A level for each frame, as the network is told of it.
    frame = level.reshape(1, size[0], -1)[..., 0]
    place = jnp.sum(levels[None, None] > frame[..., None], axis=-1)
    seen = jnp.take(levels if times is None else times, place)
    v = run(params, latent, jnp.where(frame > 0, seen, 0.0), features)
    return tokens.patchify(v, patch)

  walk = samplers.integrate(
    lambda x, level: jnp.zeros(()),
    velocity,
    tokens.patchify(z, patch),
    jnp.repeat(start, size[1] * size[2] // 4)[None],
    levels,
    samplers.SAMPLERS[sampler],
    lambda step: jnp.zeros_like(z),  # neither of the two draws noise
  )
  return tokens.unpatchify(walk.x, size, patch)


def slice_of(place, z):
  """The first and the last numbers of the video, channels before pixels."""
  config, params = read(place, 'autoencoder')
  video = autoencoder.decode(config, params, z)
  flat = einops.rearrange(
    np.asarray(video) / 2 + 0.5, 'B T H W C -> (B T C H W)'
  )
  return np.concatenate([flat[:8], flat[-8:]])


def image_latent(place, frames):
  """Of a black image, and grey frames after it."""
  config, params = read(place, 'autoencoder')
  video = jnp.zeros((1, frames, 2 * config.space, 2 * config.space, 3))
  return autoencoder.encode(config, params, video.at[:, 0].set(-1.0))


def test_the_first_release_by_euler_steps():
  least = flow.shift_levels(jnp.float32(1e-3), 7.0)  # shifted again below
  levels = flow.shift_levels(jnp.stack([1.0, least, 0.0]), 7.0)
  z = make(
    't2v', samplers.Schedule(levels), 'euler', noise_of('t2v'), jnp.ones(3)
  )
  np.testing.assert_allclose(slice_of('t2v', z), T2V, rtol=0, atol=2e-4)


def test_two_experts():
  """As A14B has them: there, both are the network of the first release."""
  z = make('t2v', samplers.wan(2, 3.0), 'unipc', noise_of('t2v'), jnp.ones(3))
  np.testing.assert_allclose(slice_of('t2v', z), T2V, rtol=0, atol=2e-4)


def test_an_image_beside_the_noise():
  """As A14B sees it: a mask, which is 1 at the image, and its latent."""
  latent = image_latent('t2v', 9)
  mask = jnp.zeros((1, 3, 2, 2, 4)).at[:, 0].set(1.0)
  more = jnp.concatenate([mask, latent], axis=-1)
  z = make(
    'i2v', samplers.wan(2, 3.0), 'unipc', noise_of('t2v'), jnp.ones(3), more
  )
  np.testing.assert_allclose(slice_of('t2v', z), I2V, rtol=0, atol=2e-4)


def test_the_second_release():
  z = make('ti2v', samplers.wan(2, 3.0), 'unipc', noise_of('ti2v'), jnp.ones(3))
  np.testing.assert_allclose(slice_of('ti2v', z), TI2V, rtol=0, atol=1e-3)


def test_an_image_at_level_zero():
  """As TI2V-5B sees it, and our canvases: latent 0 is known from the start."""
  z = noise_of('ti2v').at[:, :1].set(image_latent('ti2v', 1))
  start = jnp.array([0.0, 1.0, 1.0])
  z = make('ti2v', samplers.wan(2, 3.0), 'unipc', z, start)
  np.testing.assert_allclose(slice_of('ti2v', z), TI2V_IMAGE, rtol=0, atol=1e-3)


@pytest.mark.parametrize('place', ['t2v', 'ti2v'])
def test_the_numbers_depend_on_the_network(place):
  """Noise alone decodes to other pixels, so that the above says something."""
  wanted = {'t2v': T2V, 'ti2v': TI2V}[place]
  found = slice_of(place, noise_of(place))
  assert np.abs(found - wanted).max() > 5e-3
