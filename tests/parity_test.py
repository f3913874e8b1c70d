"""Models that diffusers and transformers wrote run here, and ours there."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
import tiny
from etils import epath

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')
pytest.importorskip('transformers')
peft = pytest.importorskip('peft')
import published  # noqa: E402

from sora_jax import (  # noqa: E402
  batch,
  generate,
  networks,
  paint,
  parity,
  sharding,
  tasks,
  tokens,
)
from sora_jax.models import abstract, autoencoder, dit, lora  # noqa: E402
from sora_jax.weights import adapters, directory  # noqa: E402

pytestmark = pytest.mark.slow
torch.set_num_threads(1)


MODELS = {
  '2.1, T2V, umT5': lambda: (
    published.dit(),
    published.vae(**published.VAE_2_1),
    published.umt5(),
  ),
  '2.2, TI2V, heads of 128': lambda: (
    published.dit(**published.WIDE | dict(in_channels=48, out_channels=48)),
    published.vae(**published.VAE_2_2),
    published.umt5(num_layers=4),
  ),
  '2.2, I2V, T5 v1.1': lambda: (
    published.dit(**published.IMAGE),
    published.vae(**published.VAE_2_1),
    published.t5(),
  ),
}


@pytest.fixture(params=MODELS)
def place(request, tmp_path):
  published.pipeline(tmp_path / 'model', *MODELS[request.param]())
  return epath.Path(tmp_path / 'model')


def test_every_network_gives_the_same_numbers(place):
  rows = list(parity.compare(place))
  for row in rows:
    print(row)
    assert row.difference <= parity.BOUNDS.get(row.network, 0.0), row
    assert row.size > 0.05, row  # numbers near 0 would be equal to anything
  told = {(row.network, row.what.split()[0]) for row in rows}
  assert told == {
    ('transformer', 'one'),
    ('transformer', 'a'),
    ('vae', 'encode'),
    ('vae', 'decode'),
    ('text_encoder', 'captions'),
    ('tokenizer', 'captions'),
  }


def test_what_we_write_is_what_they_read(place, tmp_path):
  """Files -> our tree -> files, bit for bit."""
  model = directory.read(place)
  directory.write(tmp_path / 'ours', model)
  for part in model.params:
    kind = directory.KINDS[part]
    file = f'{kind.folder}/{kind.stem}.safetensors'
    theirs = safetensors.numpy.load_file(place / file)
    ours = safetensors.numpy.load_file(tmp_path / 'ours' / file)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
      np.testing.assert_array_equal(ours[name], value)
    config = f'{kind.folder}/config.json'
    written = json.loads((tmp_path / 'ours' / config).read_text())
    original = json.loads((place / config).read_text())
    for name in set(written) & set(original) - {'dropout_rate'}:
      if name != '_diffusers_version' and original[name] is not None:
        assert written[name] == original[name], name
  pipeline = diffusers.WanPipeline.from_pretrained(str(tmp_path / 'ours'))
  assert pipeline.transformer.config.num_layers == 2


def test_what_we_train_opens_in_diffusers(tmp_path):
  tiny.write_model(tmp_path / 'model')
  for row in parity.compare(epath.Path(tmp_path / 'model')):
    assert row.difference <= parity.BOUNDS.get(row.network, 0.0), row
  pipeline = diffusers.WanPipeline.from_pretrained(str(tmp_path / 'model'))
  assert pipeline.scheduler.config.prediction_type == 'sample'


def test_what_ships_opens_in_diffusers():
  for row in parity.compare(networks.SHIPPED):
    assert row.difference <= parity.BOUNDS.get(row.network, 0.0), row


@pytest.mark.parametrize('shape', [published.DIT, published.WIDE])
def test_gradients_of_the_dit_are_the_same(tmp_path, shape):
  theirs = published.dit(**shape)
  theirs.save_pretrained(tmp_path / 'transformer')
  config = dataclasses.replace(
    directory.read_config(tmp_path, 'dit'), dtype='float32'
  )
  params = directory.read_params(tmp_path, 'dit', config)
  rng = np.random.default_rng(1)
  draw = lambda *size: rng.normal(size=size).astype(np.float32)
  z, target, text = draw(1, 2, 4, 6, 16), draw(1, 2, 4, 6, 16), draw(1, 512, 32)
  run = parity.make_dit(config, (2, 4, 6))

  def loss(params):
    return jnp.mean(
      (run(params, jnp.asarray(z), jnp.array([[0.4]]), text) - target) ** 2
    )

  with jax.default_matmul_precision('highest'):
    ours = jax.jit(jax.grad(loss))(params)
  torch.set_grad_enabled(True)
  first = lambda x: torch.from_numpy(x).permute(0, 4, 1, 2, 3)
  found = theirs(
    first(z), torch.tensor([400.0]), torch.from_numpy(text), return_dict=False
  )[0]
  ((found - first(target)) ** 2).mean().backward()
  places = directory.places('dit', config)
  store = lambda name, value: value
  flat = dict(directory.params_lib.unload(ours, places, store))
  largest = 0.0
  for name, value in theirs.named_parameters():
    difference = np.abs(flat[name] - value.grad.numpy()).max()
    largest = max(largest, difference)
    assert difference <= 2e-5, name
    assert np.abs(flat[name]).max() > 0, name
  print('gradients', largest)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_files_of_short_types_and_of_several_parts_read_alike(tmp_path, dtype):
  theirs = published.dit().to(getattr(torch, dtype))
  theirs.save_pretrained(tmp_path / 'one' / 'transformer')
  theirs.save_pretrained(
    tmp_path / 'many' / 'transformer', max_shard_size='20KB'
  )
  assert len(list((tmp_path / 'many' / 'transformer').iterdir())) > 4
  config = directory.read_config(tmp_path / 'one', 'dit')
  one = directory.read_params(tmp_path / 'one', 'dit', config)
  many = directory.read_params(tmp_path / 'many', 'dit', config)
  jax.tree.map(np.testing.assert_array_equal, one, many)
  places = directory.places('dit', config)
  store = lambda name, value: value
  flat = dict(directory.params_lib.unload(one, places, store))
  for name, value in theirs.named_parameters():
    np.testing.assert_array_equal(flat[name], value.detach().float().numpy())


def noise_of(found, settings, seed):
  """The noise from which we start a clip, as diffusers takes it."""
  plan = generate.schedule(
    found.config, settings, generate.blank(found.config, settings.size)
  ).plan
  values = paint._noise(plan, jnp.array([seed], jnp.uint32), 'noise')
  size = generate.latent_size(found.config.autoencoder, settings.size)
  z = tokens.unpatchify(values, size, found.config.model.patch)
  return torch.from_numpy(np.array(z)).permute(0, 4, 1, 2, 3)


def random_adapters(config, settings):
  boxed = abstract.params(dit.init, config)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32),
    sharding.unbox(lora.init(settings, boxed, jax.random.key(0))),
  )


def test_adapters_go_from_us_to_diffusers_and_back(tmp_path):
  theirs = published.pipeline(tmp_path / 'm', *MODELS['2.1, T2V, umT5']())
  config = dataclasses.replace(
    directory.read_config(tmp_path / 'm', 'dit'), dtype='float32'
  )
  params = directory.read_params(tmp_path / 'm', 'dit', config)
  targets = ('to_q', 'to_out', 'ffn.linear_2')
  ours = random_adapters(config, lora.LoRAConfig(rank=3, targets=targets))
  adapters.write(tmp_path, ours, 'float32')
  theirs.load_lora_weights(str(tmp_path))
  rows = parity._dit(config, lora.merge(params, ours), theirs.transformer)
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    plain = dict(parity._dit(config, params, theirs.transformer))
    for what, pair in rows:
      row = parity._row('transformer', what, *pair)
      assert row.difference <= 2e-5, row
      assert parity._row('transformer', what, *plain[what]).difference > 1e-2
  diffusers.WanPipeline.save_lora_weights(
    tmp_path / 'theirs',
    peft.get_peft_model_state_dict(
      theirs.transformer, adapter_name='default_0'
    ),
  )
  file = f'{adapters.STEM}.safetensors'
  found = adapters.read(tmp_path / 'theirs' / file, config)['dit']
  jax.tree.map(np.testing.assert_array_equal, found, ours)


EXPERTS = 'A14B, T2V'
IMAGE = 'A14B, I2V'
PROMPT, NEGATIVE = 'a red ball & a box', 'grey, blurred'


def pipeline_of(place, kind):
  """A model as diffusers opens it, written to a directory."""
  if kind in MODELS:
    facts = dict(expand_timesteps=True) if 'TI2V' in kind else {}
    return published.pipeline(place, *MODELS[kind](), **facts)
  shape = published.IMAGE if kind == IMAGE else published.DIT
  pipelines = {
    EXPERTS: diffusers.WanPipeline,
    IMAGE: diffusers.WanImageToVideoPipeline,
  }
  second = published.dit(**shape)
  published.randomise(second, 0.4)
  return published.pipeline(
    place,
    published.dit(**shape),
    published.vae(**published.VAE_2_1),
    published.umt5(),
    kind=pipelines[kind],
    transformer_2=second,
    boundary_ratio=0.9 if kind == IMAGE else 0.875,
  )


def test_diffusers_loads_adapters_into_either_expert(tmp_path):
  theirs = pipeline_of(tmp_path / 'm', EXPERTS)
  config = dataclasses.replace(
    directory.read_config(tmp_path / 'm', 'dit'), dtype='float32'
  )
  ours = random_adapters(config, lora.LoRAConfig(rank=2))
  adapters.write(tmp_path, ours, 'float32')
  theirs.load_lora_weights(str(tmp_path), load_into_transformer_2=True)
  found = networks.adapt(
    networks.read(tmp_path / 'm'), f'low:{tmp_path / adapters.STEM}.safetensors'
  )
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    for name, part in (
      ('dit', theirs.transformer),
      ('dit_low', theirs.transformer_2),
    ):
      for what, pair in parity._dit(config, found.params[name], part):
        row = parity._row(name, what, *pair)
        assert row.difference <= 2e-5, row


def compare_videos(theirs, found, made, noise, settings, bound=1e-4, **more):
  """Latents and decoded video to a bound, and bytes to the rounding."""
  asked = dict(
    prompt=PROMPT,
    negative_prompt=NEGATIVE,
    height=settings.size.height,
    width=settings.size.width,
    num_frames=settings.size.frames,
    num_inference_steps=settings.steps,
    guidance_scale=settings.guidance,
    max_sequence_length=512,
    latents=noise,
    return_dict=False,
    **more,
  )
  latent = theirs(output_type='latent', **asked)[0]
  latent = latent.permute(0, 2, 3, 4, 1)[0].numpy()
  difference = np.abs(made.latent - latent).max()
  print('latent', settings.steps, difference, np.abs(latent).max())
  assert difference <= bound
  video = theirs(output_type='np', **asked)[0][0]
  assert video.std() > 0.05
  assert np.abs(made.video / 255 - video).max() <= 0.51 / 255
  net, params = found.config.autoencoder, found.params['autoencoder']
  decode = jax.jit(lambda params, z: autoencoder.decode(net, params, z))
  pixels = lambda z: (np.asarray(decode(params, z[None]))[0] + 1) / 2
  assert np.abs(pixels(0 * made.latent) - video).max() > 0.05
  decoded = pixels(made.latent)
  difference = np.abs(decoded - video).max()
  print('video', difference, video.std())
  assert difference <= bound


def settings_for(found, steps):
  """By the model's own files, but small."""
  side = 2 * found.config.autoencoder.space
  return generate.settings_of(found.config.sample)._replace(
    size=batch.Size(2 * side, side, 9), steps=steps, negative=NEGATIVE
  )


def starting_image(found, settings):
  """One of random pixels, and the canvas of what starts from it."""
  shape = (settings.size.height, settings.size.width, 3)
  image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
  scene = tasks.animate(tasks.make_encoder(found), image, settings.size.frames)
  if found.config.model.condition_channels:
    scene = tasks.condition(found, scene)
  return PIL.Image.fromarray(image), scene.canvas


@pytest.mark.parametrize('steps', [2, 3, 7])
@pytest.mark.parametrize('kind', [*list(MODELS)[:2], EXPERTS])
def test_a_prompt_makes_the_same_video(tmp_path, kind, steps):
  """UniPC with its shift, guidance away from a negative prompt, and all else.

  Of two experts each has steps of its own, and a scale.
  """
  theirs = pipeline_of(tmp_path / 'm', kind)
  found = networks.read(tmp_path / 'm')
  settings = settings_for(found, steps)
  noise = noise_of(found, settings, 5)
  (made,) = generate.sample(found, [generate.Request(PROMPT, 5)], settings)
  more = {}
  if kind == EXPERTS:
    assert (settings.guidance, settings.guidance_below) == (4.0, 3.0)
    more['guidance_scale_2'] = settings.guidance_below
  compare_videos(theirs, found, made, noise, settings, **more)


@pytest.mark.parametrize('kind', ['2.2, TI2V, heads of 128', IMAGE])
def test_an_image_makes_the_same_video(tmp_path, kind):
  """Of one kind it is the first latent, of the other a latent beside it."""
  theirs = pipeline_of(tmp_path / 'm', kind)
  if 'TI2V' in kind:
    theirs = diffusers.WanImageToVideoPipeline(
      **theirs.components, expand_timesteps=True
    )
  theirs.set_progress_bar_config(disable=True)
  found = networks.read(tmp_path / 'm')
  settings = settings_for(found, 3)
  noise = noise_of(found, settings, 5)
  image, canvas = starting_image(found, settings)
  request = generate.Request(PROMPT, 5, canvas)
  (made,) = generate.sample(found, [request], settings)
  more = dict(image=image)
  if kind == IMAGE:
    more['guidance_scale_2'] = settings.guidance_below
  compare_videos(theirs, found, made, noise, settings, **more)


@pytest.mark.parametrize('image', [False, True])
def test_two_experts_that_we_write_make_our_video(tmp_path, image):
  """As A14B, with an image beside the noise or without one."""
  config = tiny.config()
  # Captions as diffusers pads them, and its solver.
  config.model.text_length = 512
  config.model.condition_channels = 8 * image
  config.sample.sampler, config.sample.schedule = 'unipc', 'wan'
  config.sample.shift, config.sample.boundary = 3.0, 0.875
  config.sample.one_level = True
  params = tiny.params(config)
  params['dit_low'] = jax.tree.map(lambda x: 0.7 * x, params['dit'])
  networks.write(tmp_path / 'm', networks.Networks(config, params), 'float32')
  for row in parity.compare(epath.Path(tmp_path / 'm')):
    print(row)
    assert row.difference <= 2e-5, row
  theirs = diffusers.DiffusionPipeline.from_pretrained(str(tmp_path / 'm'))
  theirs.set_progress_bar_config(disable=True)
  kinds = diffusers.WanPipeline, diffusers.WanImageToVideoPipeline
  assert type(theirs) is kinds[image]
  assert theirs.config.boundary_ratio == 0.875
  found = networks.read(tmp_path / 'm')
  settings = settings_for(found, 3)
  settings = settings._replace(guidance=3.0, guidance_below=2.0)
  noise = noise_of(found, settings, 5)
  more, canvas = dict(guidance_scale_2=2.0), None
  if image:
    still, canvas = starting_image(found, settings)
    more['image'] = still
  request = generate.Request(PROMPT, 5, canvas)
  (made,) = generate.sample(found, [request], settings)
  compare_videos(theirs, found, made, noise, settings, bound=2e-5, **more)
