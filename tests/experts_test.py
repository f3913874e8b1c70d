"""Two experts, one level a clip, and frames beside the noise, as in A14B."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny
from etils import epath

from experiments import wan
from sora_jax import (
  batch,
  canvas,
  config as config_lib,
  experts,
  flow,
  generate,
  heldout,
  networks,
  objectives,
  published,
  tasks,
  train,
)
from sora_jax.data import latents
from sora_jax.weights import adapters, directory

SIZE = batch.Size(32, 32, 5)
REQUEST = generate.Request('a red ball', 3)


def model_of(experts=1, channels=0):
  """Random networks, of which the experts differ."""
  config = tiny.config()
  config.model.condition_channels = channels
  params = tiny.params(config)
  if experts > 1:
    shrink = lambda x: 0.7 * x
    params['dit_low'] = jax.tree.map(shrink, params['dit'])
  return generate.Networks(config, params)


def make(found, request=REQUEST, **changes):
  settings = generate.settings_of(found.config.sample)
  changes = dict(size=SIZE, steps=2, micro_batch=1) | changes
  (made,) = generate.sample(found, [request], settings._replace(**changes))
  return made.latent


def with_experts(found, high, low):
  return found._replace(params=found.params | {'dit': high, 'dit_low': low})


def test_each_expert_predicts_on_its_side_of_the_boundary():
  """Of two steps, from 1 and from 1/2, each is another expert's."""
  found = model_of(experts=2)
  high, low = found.params['dit'], found.params['dit_low']
  scales = dict(boundary=0.7, guidance=2.0, guidance_below=1.5)
  mixed, all_high, all_low = (
    make(with_experts(found, *pair), **scales)
    for pair in ((high, low), (high, high), (low, low))
  )
  for other in (all_high, all_low):
    assert np.abs(mixed - other).max() > 1e-3
  # The first step is as of a model that has no other expert.
  first = make(found, **scales | dict(boundary=0.9999), steps=1)
  alone = make(model_of(), steps=1, guidance=2.0)
  np.testing.assert_allclose(first, alone, rtol=0, atol=1e-5)


def test_a_boundary_needs_a_second_expert():
  with pytest.raises(ValueError, match='the model has no dit_low'):
    make(model_of(), boundary=0.5)
  with pytest.raises(ValueError, match='boundary=1.5 must be a level between'):
    make(model_of(experts=2), boundary=1.5)


def test_two_experts_are_written_and_read(tmp_path):
  found = model_of(experts=2)
  found.config.sample.boundary = 0.875
  networks.write(tmp_path / 'm', found, 'float32')
  index = json.loads((tmp_path / 'm' / directory.INDEX).read_text())
  assert index['boundary_ratio'] == 0.875
  assert index['transformer_2'] == ['diffusers', 'WanTransformer3DModel']
  again = networks.read(tmp_path / 'm')
  jax.tree.map(np.testing.assert_array_equal, again.params, found.params)
  # As others write it, without a word of ours.
  (tmp_path / 'm' / directory.SAMPLING).unlink()
  sample = networks.read(tmp_path / 'm').config.sample
  assert (sample.boundary, sample.steps) == (0.875, 40)
  assert (sample.guidance, sample.guidance_below) == (4.0, 3.0)


@pytest.mark.parametrize(
  ('index', 'folder', 'words'),
  [
    ({'boundary_ratio': None}, {}, 'a second transformer; the two come'),
    ({'transformer_2': [None, None]}, {}, 'there is one transformer; the two'),
    ({'boundary_ratio': 2.0}, {}, 'boundary_ratio=2.0 must be a number'),
    ({}, {'eps': 1e-5}, 'its two experts must be of one config'),
  ],
)
def test_experts_that_do_not_fit_are_refused(tmp_path, index, folder, words):
  found = model_of(experts=2)
  found.config.sample.boundary = 0.875
  networks.write(tmp_path / 'm', found, 'float32')
  (tmp_path / 'm' / directory.SAMPLING).unlink()
  for file, values in (
    (directory.INDEX, index),
    ('transformer_2/config.json', folder),
  ):
    path = tmp_path / 'm' / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
  with pytest.raises(ValueError, match=words):
    networks.read(tmp_path / 'm')


def test_what_is_known_is_noised_along_and_put_back():
  found = model_of()
  first = np.random.default_rng(0).normal(size=(1, 4, 4, 4)).astype(np.float32)
  painted = REQUEST._replace(canvas=canvas.keyframes({0: first}, 2))
  one, groups = (make(found, painted, one_level=x) for x in (True, False))
  for latent in (one, groups):
    np.testing.assert_array_equal(latent[:1], first)
  assert np.abs(one - groups).max() > 1e-3
  # What is known has an influence in either way.
  other = REQUEST._replace(canvas=canvas.keyframes({0: -first}, 2))
  assert np.abs(make(found, other, one_level=True)[1] - one[1]).max() > 1e-3
  # A fraction of noise from which all of it starts is left as it is.
  repainted = REQUEST._replace(
    canvas=canvas.edit(np.tile(first, (2, 1, 1, 1)), 0.5)
  )
  edits = [make(found, repainted, one_level=x) for x in (True, False)]
  np.testing.assert_allclose(*edits, atol=2e-5)  # two programs


def image_of(seed):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)


def test_frames_beside_the_noise_are_a_mask_and_a_latent():
  found = model_of(channels=8)  # four of a mask, and the latent's four
  encode = tasks.make_encoder(found)
  still = image_of(0)
  scene = tasks.condition(found, tasks.animate(encode, still, 9))
  assert (scene.canvas.start == 1).all() and not scene.canvas.known.any()
  mask, latent = np.split(scene.canvas.condition, 2, axis=-1)
  np.testing.assert_array_equal(mask[:, 0, 0], [[1] * 4, [0] * 4, [0] * 4])
  np.testing.assert_allclose(latent[:1], encode(still[None]), atol=1e-5)
  # Of the last frames, three are known of the second latent.
  clip = np.stack([image_of(i) for i in range(9)])
  ends = tasks.extend_backwards(encode, clip, 4, 1)
  painted = canvas.validate(tasks.condition(found, ends).canvas)
  mask = painted.condition[..., 0, 0, :4]
  np.testing.assert_array_equal(mask, [[0] * 4, [0, 0, 0, 1], [1] * 4])
  # All known: the latent is that of the clip.
  whole = scene._replace(pixels=clip, keep=np.ones((9, 32, 32), np.float32))
  latent = tasks.condition(found, whole).canvas.condition[..., 4:]
  np.testing.assert_allclose(latent, encode(clip), atol=1e-5)


def test_what_is_made_follows_the_frames_beside_the_noise():
  found = model_of(channels=8)
  encode = tasks.make_encoder(found)
  made = []
  for seed in (0, 1):
    scene = tasks.condition(found, tasks.animate(encode, image_of(seed), 5))
    made.append(make(found, REQUEST._replace(canvas=scene.canvas)))
  assert np.abs(made[0] - made[1]).max() > 1e-2
  with pytest.raises(ValueError, match='0. channels beside the noise; the net'):
    make(found)


def test_parts_of_frames_are_not_seen_beside_the_noise():
  found = model_of(channels=8)
  encode = tasks.make_encoder(found)
  clip = np.stack([image_of(i) for i in range(5)])
  mask = np.zeros((5, 32, 32), bool)
  mask[:, :8, :8] = True
  with pytest.raises(ValueError, match='whole frames beside the noise, and no'):
    tasks.condition(found, tasks.replace(encode, clip, mask))
  blank = tasks.text_to_video(generate.blank(found.config, SIZE), SIZE)
  with pytest.raises(ValueError, match='starts from frames: give some'):
    tasks.condition(found, blank)
  found.config.model.condition_channels = 3
  with pytest.raises(ValueError, match='3 channels beside the noise; 8 would'):
    tasks.condition(found, tasks.animate(encode, clip[0], 5))


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A model of two experts that see an image beside the noise, as A14B-I2V."""
  found = model_of(experts=2, channels=8)
  sample = found.config.sample
  sample.boundary, sample.one_level = 0.7, True
  path = epath.Path(tmp_path_factory.mktemp('experts') / 'model')
  networks.write(path, found, 'float32')
  return path


def run_config(place, expert=config_lib.Expert.WHOLE, **changes):
  config = networks.describe(place)
  run = tiny.config(clips=8)
  config.data, config.optim, config.run = run.data, run.optim, run.run
  config.data.limits.text = 128
  config.init_from = config.autoencoder_from = config.text_from = str(place)
  config.expert = expert
  for name, value in changes.items():
    setattr(config, name, value)
  return config


def moved(before, after):
  """Networks of which a parameter is another one."""
  same = lambda a, b: bool(np.array_equal(a, b))
  return {
    name
    for name in before
    if not all(jax.tree.leaves(jax.tree.map(same, before[name], after[name])))
  }


@pytest.mark.parametrize(
  ('expert', 'name'), [('high', 'dit'), ('low', 'dit_low')]
)
def test_one_of_two_experts_is_trained_and_both_come_out(
  place, tmp_path, expert, name
):
  config = run_config(place, config_lib.Expert(expert))
  train.train(config, epath.Path(tmp_path / 'run'))
  before = networks.read(place).params
  after = networks.read(tmp_path / 'run' / 'model')
  assert moved(before, after.params) == {name}
  assert after.config.sample.boundary == 0.7
  with pytest.raises(ValueError, match='one of two experts; take .*run/model'):
    networks.read(tmp_path / 'run')
  # The other one is copied, and not stored anew.
  other = 'transformer' if name == 'dit_low' else 'transformer_2'
  file = f'{other}/diffusion_pytorch_model.safetensors'
  copy = tmp_path / 'run' / 'model' / file
  assert copy.read_bytes() == (place / file).read_bytes()
  # A run of the other one would have weights of the same shapes.
  config.expert = {'high': config_lib.Expert.LOW}.get(expert, 'high')
  config.expert = config_lib.Expert(config.expert)
  with pytest.raises(
    ValueError, match=f'run of expert={expert}, not .*take an'
  ):
    train.train(config, epath.Path(tmp_path / 'run'))


def test_an_expert_learns_at_the_levels_that_it_is_asked_at(place, tmp_path):
  for expert, low, high in (('high', 0.7, 1.0), ('low', 0.0, 0.7)):
    config = run_config(place, config_lib.Expert(expert))
    law = experts.objective(config).level
    assert (law.low, law.high) == (low, high)
    config.denoising.level = flow.LevelLaw(low=0.1, high=0.9)
    law = experts.objective(config).level
    assert (law.low, law.high) == (max(low, 0.1), min(high, 0.9))
  # What it is trained at is told with the loss, in quarters of the levels.
  config = run_config(place, config_lib.Expert.HIGH)
  config.run.log_every = 1
  train.train(config, epath.Path(tmp_path / 'run'))
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  told = {key for line in lines for key in json.loads(line)}
  levels = {key for key in told if key.startswith('loss_level')}
  assert levels == {'loss_level_0.50', 'loss_level_0.75'}


def test_adapters_are_of_the_expert_that_is_said(place, tmp_path):
  found = networks.read(place)
  files = {}
  for expert, name in (('high', 'dit'), ('low', 'dit_low')):
    config = run_config(place, config_lib.Expert(expert))
    config.lora.rank, config.optim.learning_rate = 2, 1e-2
    run = epath.Path(tmp_path / expert)
    train.train(config, run)
    files[name] = file = run / 'model' / f'{adapters.STEM}.safetensors'
    adapted = networks.adapt(found, f'{expert}:{file}')
    assert moved(found.params, adapted.params) == {name}
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    jax.tree.map(close, adapted.params, networks.read(run / 'model').params)
  with pytest.raises(ValueError, match='which of two experts .* as high'):
    networks.adapt(found, files['dit'])
  whole = found._replace(params={'dit': found.params['dit']})
  with pytest.raises(ValueError, match='has one transformer; give /'):
    networks.adapt(whole, f'low:{files["dit"]}')


def test_adapters_of_a_file_that_says_its_expert_are_not_of_another(
  place, tmp_path
):
  found = networks.read(place)
  key = 'transformer_2.blocks.0.attn1.to_q'
  width = found.config.model.width
  file = tmp_path / 'low.safetensors'
  pair = {'A': np.ones((1, width)), 'B': np.ones((width, 1))}
  safetensors.numpy.save_file(
    {f'{key}.lora_{x}.weight': v.astype(np.float32) for x, v in pair.items()},
    file,
  )
  for way in (f'{file}', f'low:{file}'):
    adapted = networks.adapt(found, way)
    assert moved(found.params, adapted.params) == {'dit_low'}
  with pytest.raises(ValueError, match='says itself which it adapts; give'):
    networks.adapt(found, f'high:{file}')


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({}, 'expert=whole: the model has two transformers, of which a run trains'),
    (
      dict(sample=config_lib.SampleConfig()),  # whatever it says of a boundary
      'expert=whole: the model has two transformers, of which a run trains one',
    ),
    (
      dict(expert=config_lib.Expert.LOW, init_from=''),
      'expert=low: init_from= must be the directory of a model of two transf',
    ),
    (
      dict(expert=config_lib.Expert.LOW, sample=config_lib.SampleConfig()),
      'model of two transformers; leave expert out for one',
    ),
    (
      dict(
        expert=config_lib.Expert.HIGH,
        run=config_lib.RunConfig(sample_every=5),
      ),
      'expert=high: run.sample_every=5 must be 0, as a run has only one',
    ),
    (
      dict(
        expert=config_lib.Expert.HIGH,
        denoising=objectives.DenoisingConfig(level=flow.LevelLaw(high=0.5)),
      ),
      'expert=high and sample.boundary=0.7 leave no levels of denoising.level:',
    ),
    (
      dict(expert=config_lib.Expert.LOW, stage=config_lib.Stage.TEXT),
      'expert=low is a transformer, which stage text does not train',
    ),
  ],
)
def test_an_expert_that_there_is_not_is_not_trained(
  place, tmp_path, changes, words
):
  config = run_config(place, **changes)
  with pytest.raises(ValueError, match=words) as error:
    train.train(config, epath.Path(tmp_path / 'run'))
  assert '\n' not in str(error.value)


def test_a_model_of_one_transformer_has_no_expert_to_train(place, tmp_path):
  networks.write(tmp_path / 'one', model_of(channels=8), 'float32')
  config = run_config(place, config_lib.Expert.HIGH)
  config.init_from = str(tmp_path / 'one')
  with pytest.raises(ValueError, match='one must be the directory of a mo'):
    train.train(config, epath.Path(tmp_path / 'run'))
  # And one that lacks a file of the other expert is noticed at the start.
  shutil.copytree(place, tmp_path / 'two')
  (tmp_path / 'two/transformer_2/diffusion_pytorch_model.safetensors').unlink()
  config.init_from = str(tmp_path / 'two')
  with pytest.raises(ValueError, match='transformer_2'):
    train.train(config, epath.Path(tmp_path / 'run'))


def test_a_published_model_of_two_experts_is_trained_on_a_folder(
  place, tmp_path
):
  shutil.copytree(place, tmp_path / 'a14b')
  (tmp_path / 'a14b' / directory.SAMPLING).unlink()
  folder = tiny.write_videos(tmp_path / 'v', [(5, 32, 32)] * 8 + [(1, 32, 32)])
  config = wan.get_config(str(tmp_path / 'a14b'))
  config.data.path, config.data.sizes = str(folder), ('32x32x5',)
  config.data.limits.tokens, config.data.limits.text = 40, 64
  config.run.steps, config.optim.warmup_steps = 2, 0
  config.expert = config_lib.Expert.LOW
  train.train(config, epath.Path(tmp_path / 'run'))
  # A still would be shown as a whole.
  assert len(latents.LatentSource(tmp_path / 'run' / 'latents')) == 8
  after = networks.read(tmp_path / 'run' / 'model')
  assert after.config.sample.boundary == 0.7
  assert moved(networks.read(place).params, after.params) >= {'dit_low'}


def test_losses_by_level_are_those_of_its_expert(place, tmp_path):
  found = networks.read(place)
  found.config.sample.text_slots = 96
  data = heldout.of_world(found.config, 8, 'balls')
  data.sizes = ('32x32x5',)
  zero = jax.tree.map(np.zeros_like, found.params['dit_low'])
  lacks = found._replace(params=found.params | {'dit_low': zero})
  low, high = (
    heldout.loss_by_level(x, data, tmp_path, (0.5, 0.8)) for x in (found, lacks)
  )
  assert low['0.8'] == high['0.8'] and low['0.5'] != high['0.5']


def test_a_prompt_alone_is_not_enough_for_it(place):
  with pytest.raises(ValueError, match='--what=cache makes clips from prom'):
    networks.check_from_text(networks.read(place), '--what=cache')


def test_pieces_are_not_shown_twice(place, tmp_path):
  config = run_config(place, config_lib.Expert.LOW)
  config.data.shares.start = 0.5
  with pytest.raises(ValueError, match='sees what is known beside the noise; '):
    train.train(config, epath.Path(tmp_path / 'run'))


def test_others_are_told_of_the_experts_and_of_the_image():
  config = tiny.config()
  said = published.index(config)
  assert said['_class_name'] == 'WanPipeline' and said['expand_timesteps']
  config.model.condition_channels, config.sample.one_level = 8, True
  config.sample.boundary = 0.9
  said = published.index(config)
  assert said['_class_name'] == 'WanImageToVideoPipeline'
  assert said['boundary_ratio'] == 0.9 and not said['expand_timesteps']
