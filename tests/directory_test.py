"""A model comes back from its directory as it went in, or not at all."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sora_jax.weights import directory


def model():
  generator = np.random.default_rng(0)
  normal = lambda *shape: generator.normal(size=shape).astype(np.float32)
  return directory.Model(
    configs={'dit': {'width': 4, 'patch': [1, 2, 2]}, 'text': {'width': 3}},
    params={
      'dit': {'blocks': {'kernel': normal(2, 4, 3), 'bias': normal(3)}},
      'text': {'embedding': jnp.asarray(normal(5, 3))},
    },
    sampling={'denoising': {'prediction': 'x0'}},
  )


@pytest.fixture
def place(tmp_path):
  directory.write(tmp_path / 'model', model())
  return tmp_path / 'model'


def file_of(place, name='dit'):
  folder, file = directory.PLACES[name]
  return place / folder / file


def assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_float32_comes_back_bit_for_bit(place):
  read = directory.read(place)
  assert read.configs == model().configs
  assert read.sampling == model().sampling
  assert_equal(read.params, model().params)


@pytest.mark.parametrize(('dtype', 'bits'), [('bfloat16', 7), ('float16', 10)])
def test_short_types_come_back_rounded_to_nearest(tmp_path, dtype, bits):
  step = 2.0**-bits
  values = 1 + step * np.array([0, 1, 0.25, 0.75], np.float32)
  rounded = 1 + step * np.array([0, 1, 0, 1], np.float32)
  written = model()._replace(params={'dit': {'a': values}})
  directory.write(tmp_path / 'm', written, dtype)
  found = directory.read(tmp_path / 'm').params['dit']['a']
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, rounded)


@pytest.mark.parametrize('short', ['bfloat16', 'float16'])
def test_short_types_take_half_the_bytes(tmp_path, short):
  big = {'dit': {'a': np.ones((64, 64), np.float32)}}
  sizes = []
  for dtype in ('float32', short):
    directory.write(tmp_path / dtype, model()._replace(params=big), dtype)
    sizes.append(file_of(tmp_path / dtype).stat().st_size)
  assert sizes[0] - sizes[1] == 64 * 64 * 2


def test_weights_that_cannot_be_stored_are_named(tmp_path):
  big = model()._replace(params={'dit': {'a': np.array([1.0, -7e4])}})
  with pytest.raises(ValueError, match='a has a value of 7e.04, beyond'):
    directory.write(tmp_path / 'm', big, 'float16')
  with pytest.raises(ValueError, match="'half' must be one of float32, flo"):
    directory.write(tmp_path / 'm', big, 'half')


def test_files_have_the_names_of_diffusers_and_tensors_ours(place):
  files = {str(p.relative_to(place)) for p in place.rglob('*') if p.is_file()}
  assert files == {
    'model_index.json',
    'transformer/config.json',
    'transformer/diffusion_pytorch_model.safetensors',
    'text_encoder/config.json',
    'text_encoder/model.safetensors',
  }
  tensors = safetensors.numpy.load_file(file_of(place))
  assert set(tensors) == {'blocks.kernel', 'blocks.bias'}


def test_writing_again_replaces_all_of_it(place):
  only_text = model()._replace(params={'text': model().params['text']})
  directory.write(place, only_text)
  assert set(directory.read(place).params) == {'text'}
  assert not (place / 'transformer').exists()
  assert [p.name for p in place.parent.iterdir()] == ['model']


def test_a_failed_write_leaves_the_old_model(place):
  params = {'dit': {'ok': np.ones(1, np.float32), 'not': 'a number'}}
  with pytest.raises((TypeError, ValueError)):
    directory.write(place, model()._replace(params=params))
  assert_equal(directory.read(place).params, model().params)
  directory.write(place, model())  # what the failure left is no obstacle
  assert [p.name for p in place.parent.iterdir()] == ['model']


def test_a_cut_file_is_named(place):
  path = file_of(place)
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match=str(path)):
    directory.read(place)


def test_a_missing_file_is_named(place):
  file_of(place, 'text').unlink()
  with pytest.raises(ValueError, match=str(file_of(place, 'text'))):
    directory.read(place)


def test_a_config_that_is_no_json_is_named(place):
  (place / 'transformer' / 'config.json').write_text('{"width":')
  with pytest.raises(ValueError, match='transformer/config.json'):
    directory.read(place)


def test_a_directory_without_an_index_is_no_model(tmp_path):
  assert not directory.is_model(tmp_path)
  with pytest.raises(ValueError, match='model_index.json'):
    directory.read(tmp_path)


def test_numbers_of_another_type_are_refused_by_name(place):
  ids = {'blocks.ids': np.arange(3)}
  safetensors.numpy.save_file(ids, file_of(place))
  with pytest.raises(ValueError, match='blocks.ids is stored as I64'):
    directory.read(place)


@pytest.mark.parametrize(
  'index',
  [{'_class_name': 'WanPipeline'}, {'networks': ['unet'], 'sampling': {}}],
)
def test_an_index_of_another_kind_is_refused_by_name(place, index):
  (place / directory.INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match='model_index.json'):
    directory.read(place)
