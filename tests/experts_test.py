"""Two experts, one level a clip, and frames beside the noise, as in A14B."""

import json

import jax
import numpy as np
import pytest
import tiny

from sora_jax import batch, canvas, generate, networks, published, tasks
from sora_jax.weights import directory

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
  scene = tasks.beside(found, tasks.animate(encode, still, 9))
  assert (scene.canvas.start == 1).all() and not scene.canvas.known.any()
  mask, latent = np.split(scene.canvas.beside, 2, axis=-1)
  np.testing.assert_array_equal(mask[:, 0, 0], [[1] * 4, [0] * 4, [0] * 4])
  np.testing.assert_allclose(latent[:1], encode(still[None]), atol=1e-5)
  # Of the last frames, three are known of the second latent.
  clip = np.stack([image_of(i) for i in range(9)])
  ends = tasks.extend_backwards(encode, clip, 4, 1)
  painted = canvas.validate(tasks.beside(found, ends).canvas)
  mask = painted.beside[..., 0, 0, :4]
  np.testing.assert_array_equal(mask, [[0] * 4, [0, 0, 0, 1], [1] * 4])
  # All known: the latent is that of the clip.
  whole = scene._replace(pixels=clip, keep=np.ones((9, 32, 32), np.float32))
  latent = tasks.beside(found, whole).canvas.beside[..., 4:]
  np.testing.assert_allclose(latent, encode(clip), atol=1e-5)


def test_what_is_made_follows_the_frames_beside_the_noise():
  found = model_of(channels=8)
  encode = tasks.make_encoder(found)
  made = []
  for seed in (0, 1):
    scene = tasks.beside(found, tasks.animate(encode, image_of(seed), 5))
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
    tasks.beside(found, tasks.replace(encode, clip, mask))
  blank = tasks.text_to_video(generate.blank(found.config, SIZE), SIZE)
  with pytest.raises(ValueError, match='starts from frames: give some'):
    tasks.beside(found, blank)
  found.config.model.condition_channels = 3
  with pytest.raises(ValueError, match='3 channels beside the noise; 8 would'):
    tasks.beside(found, tasks.animate(encode, clip[0], 5))


def test_others_are_told_of_the_experts_and_of_the_image():
  config = tiny.config()
  said = published.index(config)
  assert said['_class_name'] == 'WanPipeline' and said['expand_timesteps']
  config.model.condition_channels, config.sample.one_level = 8, True
  config.sample.boundary = 0.9
  said = published.index(config)
  assert said['_class_name'] == 'WanImageToVideoPipeline'
  assert said['boundary_ratio'] == 0.9 and not said['expand_timesteps']
