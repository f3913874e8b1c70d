"""A model comes back from its directory as it went in, or not at all."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny

from sora_jax import networks
from sora_jax.data import tokenizer
from sora_jax.weights import directory


def model(*names):
  config = tiny.config()
  names = names or ('dit', 'text')
  return directory.Model(
    configs={name: getattr(config, networks.KINDS[name][0]) for name in names},
    params=tiny.params(config, *names),
    sampling={'denoising': {'prediction': 'x0'}},
    tokenizer=tokenizer.BYTES.files,
    scheduler={'_class_name': 'UniPCMultistepScheduler', 'flow_shift': 3.0},
    index={'boundary_ratio': 0.9},
  )


@pytest.fixture
def place(tmp_path):
  directory.write(tmp_path / 'model', model())
  return tmp_path / 'model'


def file_of(place, name='dit'):
  kind = directory.KINDS[name]
  return place / kind.folder / f'{kind.stem}.safetensors'


def rewrite(place, change, name='dit'):
  """Changes the tensors of a network by a function of their dict."""
  stored = safetensors.numpy.load_file(file_of(place, name))
  change(stored)
  safetensors.numpy.save_file(stored, file_of(place, name))


def assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_float32_comes_back_bit_for_bit(tmp_path):
  written = model('dit', 'text', 'autoencoder')
  directory.write(tmp_path / 'm', written)
  read = directory.read(tmp_path / 'm')
  assert read.configs == written.configs
  assert read.sampling == written.sampling
  assert read.scheduler == written.scheduler
  assert read.tokenizer == written.tokenizer
  assert read.index['boundary_ratio'] == 0.9
  assert_equal(read.params, written.params)


@pytest.mark.parametrize(('dtype', 'bits'), [('bfloat16', 7), ('float16', 10)])
def test_short_types_come_back_rounded_to_nearest(tmp_path, dtype, bits):
  step = 2.0**-bits
  written = model('dit')
  bias = written.params['dit']['head']['proj_out']['bias']
  bias[:4] = 1 + step * np.array([0, 1, 0.25, 0.75], np.float32)
  directory.write(tmp_path / 'm', written, dtype)
  found = directory.read(tmp_path / 'm').params['dit']['head']['proj_out']
  assert found['bias'].dtype == np.float32
  rounded = 1 + step * np.array([0, 1, 0, 1], np.float32)
  np.testing.assert_array_equal(found['bias'][:4], rounded)


def any_bfloat16(rng, shape):
  """Of all finite ones: zeros of both signs and subnormal ones, too."""
  bits = rng.integers(0, 2**16, shape).astype(np.uint16)
  bits[(bits & 0x7F80) == 0x7F80] = 0x8000
  return bits.view(jnp.bfloat16)


@pytest.mark.parametrize('name', ['dit', 'text', 'autoencoder'])
def test_files_of_bfloat16_are_written_again_bit_for_bit(tmp_path, name):
  directory.write(tmp_path / 'm', model(name), 'bfloat16')
  rng = np.random.default_rng(0)
  stored = safetensors.numpy.load_file(file_of(tmp_path / 'm', name))
  stored = {n: any_bfloat16(rng, x.shape) for n, x in stored.items()}
  safetensors.numpy.save_file(
    stored, file_of(tmp_path / 'm', name), {'format': 'pt'}
  )
  directory.write(
    tmp_path / 'again', directory.read(tmp_path / 'm'), 'bfloat16'
  )
  again = safetensors.numpy.load_file(file_of(tmp_path / 'again', name))
  assert {n: x.tobytes() for n, x in again.items()} == {
    n: x.tobytes() for n, x in stored.items()
  }
  assert {x.dtype for x in again.values()} == {np.dtype(jnp.bfloat16)}


@pytest.mark.parametrize('short', ['bfloat16', 'float16'])
def test_short_types_take_half_the_bytes(tmp_path, short):
  numbers = sum(x.size for x in jax.tree.leaves(model('dit').params))
  sizes = []
  for dtype in ('float32', short):
    directory.write(tmp_path / dtype, model('dit'), dtype)
    sizes.append(file_of(tmp_path / dtype).stat().st_size)
  # Headers differ by the words for the types, and digits of the offsets.
  assert sizes[0] - sizes[1] == pytest.approx(2 * numbers, abs=500)


def test_weights_that_cannot_be_stored_are_named(tmp_path):
  big = model('text')
  big.params['text']['embedding'][1, 2] = -7e4
  with pytest.raises(ValueError, match='embedding has a value of 7e.04, bey'):
    directory.write(tmp_path / 'm', big, 'float16')
  with pytest.raises(ValueError, match="'half' must be one of float32, flo"):
    directory.write(tmp_path / 'm', big, 'half')


def test_files_tensors_and_configs_have_the_names_of_diffusers(place):
  files = {str(p.relative_to(place)) for p in place.rglob('*') if p.is_file()}
  assert files == {
    'model_index.json',
    'sampling.json',
    'scheduler/scheduler_config.json',
    'tokenizer/tokenizer_config.json',
    'transformer/config.json',
    'transformer/diffusion_pytorch_model.safetensors',
    'text_encoder/config.json',
    'text_encoder/model.safetensors',
  }
  stored = safetensors.numpy.load_file(file_of(place))
  # 27 a block and 15 beside them, as in every published one.
  config = model().configs['dit']
  assert len(stored) == 27 * config.depth + 15
  block = model().params['dit']['blocks']['attn1']['to_out']
  for i in range(config.depth):
    np.testing.assert_array_equal(
      stored[f'blocks.{i}.attn1.to_out.0.weight'], block['kernel'][i].T
    )
  index = json.loads((place / 'model_index.json').read_text())
  assert index['transformer'] == ['diffusers', 'WanTransformer3DModel']
  assert index['text_encoder'] == ['transformers', 'UMT5EncoderModel']
  assert 'vae' not in index


def test_a_patch_kernel_is_a_convolution_with_its_channels_first(place):
  stored = safetensors.numpy.load_file(file_of(place))
  config = model().configs['dit']
  kernel = model().params['dit']['patch_embedding']['kernel']
  t, h, w = config.patch
  wanted = kernel.reshape(t, h, w, config.channels, config.width)
  np.testing.assert_array_equal(
    stored['patch_embedding.weight'], wanted.transpose(4, 3, 0, 1, 2)
  )


def test_a_network_may_lie_in_several_files(tmp_path, place):
  one = directory.read(place)
  (tmp_path / 'many').mkdir()
  for name in ('dit', 'text'):
    directory.write_network(
      tmp_path / 'many', name, one.configs[name], one.params[name],
      'float32', largest=20_000,
    )  # fmt: skip
    folder = tmp_path / 'many' / directory.KINDS[name].folder
    assert len(list(folder.glob('*-of-*.safetensors'))) > 3
    assert len(list(folder.glob('*.index.json'))) == 1
    found = directory.read_params(tmp_path / 'many', name, one.configs[name])
    assert_equal(found, one.params[name])


def test_each_device_is_handed_its_own_part(place, monkeypatch):
  """And no more than that is read."""
  params, config = model().params['dit'], model().configs['dit']
  mesh = jax.make_mesh(
    (2, 4), ('a', 'b'), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )

  def spread(leaf):
    """Splits the last axes that can be."""
    axes = [None] * leaf.ndim
    for axis, name, ways in ((-1, 'a', 2), (-2, 'b', 4)):
      if leaf.ndim >= -axis and leaf.shape[axis] % ways == 0:
        axes[axis] = name
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

  shardings = jax.tree.map(spread, params)
  count, read = [0], directory.params_lib.tensors.read

  def counted(tensor, index=()):
    part = read(tensor, index)
    count[0] += part.size
    return part

  monkeypatch.setattr(directory.params_lib.tensors, 'read', counted)
  stored = directory.find_params(place, 'dit', config)
  found = directory.params_lib.load(stored, shardings)
  jax.tree.map(np.testing.assert_array_equal, found, params)
  placed = jax.tree.map(lambda x, s: x.sharding == s, found, shardings)
  assert all(jax.tree.leaves(placed))
  parts = sum(
    shard.data.size
    for leaf in jax.tree.leaves(found)
    for shard in leaf.addressable_shards
  )
  # Merged axes of the patch kernel are the one thing that is cut after.
  extra = 8 * params['patch_embedding']['kernel'].size
  assert parts <= count[0] <= parts + extra
  assert count[0] < 8 * sum(x.size for x in jax.tree.leaves(params)) / 2


def test_original_names_are_the_same_network(place):
  """Those of the DiT as the Wan team published it; spec: the issue's table."""
  renames = [
    ('condition_embedder.time_embedder.linear_1', 'time_embedding.0'),
    ('condition_embedder.time_embedder.linear_2', 'time_embedding.2'),
    ('condition_embedder.text_embedder.linear_1', 'text_embedding.0'),
    ('condition_embedder.text_embedder.linear_2', 'text_embedding.2'),
    ('condition_embedder.time_proj', 'time_projection.1'),
    ('.attn1.', '.self_attn.'),
    ('.attn2.', '.cross_attn.'),
    ('.to_out.0.', '.o.'),
    ('.to_q.', '.q.'),
    ('.to_k.', '.k.'),
    ('.to_v.', '.v.'),
    ('.norm2.', '.norm3.'),
    ('.ffn.net.0.proj.', '.ffn.0.'),
    ('.ffn.net.2.', '.ffn.2.'),
    ('proj_out.', 'head.head.'),
  ]

  def rename(stored):
    for name in list(stored):
      new = name
      for old_part, new_part in renames:
        new = new.replace(old_part, new_part)
      if name == 'scale_shift_table':
        new = 'head.modulation'
      new = new.replace('scale_shift_table', 'modulation')
      stored[new] = stored.pop(name)

  rewrite(place, rename)
  assert_equal(directory.read(place).params, model().params)


def test_writing_again_replaces_all_of_it(place):
  directory.write(place, model('text'))
  assert set(directory.read(place).params) == {'text'}
  assert not (place / 'transformer').exists()
  assert [p.name for p in place.parent.iterdir()] == ['model']


def test_a_failed_write_leaves_the_old_model(place):
  broken = model()
  broken.params['dit']['head']['proj_out']['bias'] = 'not a number'
  with pytest.raises((TypeError, ValueError)):
    directory.write(place, broken)
  assert_equal(directory.read(place).params, model().params)
  directory.write(place, model())  # what the failure left is no obstacle
  assert [p.name for p in place.parent.iterdir()] == ['model']


def test_a_tied_embedding_may_be_stored_twice(place):
  def tie(stored):
    stored['encoder.embed_tokens.weight'] = stored['shared.weight'].copy()

  rewrite(place, tie, 'text')
  assert_equal(directory.read(place).params, model().params)


def drop(stored):
  del stored['blocks.1.attn2.norm_k.weight']


def add(stored):
  stored['blocks.2.norm2.bias'] = np.zeros(3, np.float32)


def reshape(stored):
  stored['proj_out.bias'] = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (drop, 'model.safetensors lacks blocks.1.attn2.norm_k.weight of shape'),
    (add, 'model.safetensors has blocks.2.norm2.bias, which'),
    (reshape, r'model.safetensors: proj_out.bias has shape \[2, 3\], and'),
  ],
)
def test_tensors_that_do_not_fit_are_named(place, change, words):
  rewrite(place, change)
  with pytest.raises(ValueError, match=words):
    directory.read(place)


def test_of_several_files_the_first_is_named_with_their_number(tmp_path):
  config, params = model().configs['dit'], model().params['dit']
  directory.write_network(
    tmp_path, 'dit', config, params, 'float32', largest=20_000
  )
  count = len(list((tmp_path / 'transformer').glob('*.safetensors')))
  deeper = dataclasses.replace(config, depth=config.depth + 1)
  words = (
    rf'model-00001-of-{count:05d}.safetensors and {count - 1} more beside it '
    rf'lack blocks.{config.depth}.\S+ of shape'
  )
  with pytest.raises(ValueError, match=words):
    directory.read_params(tmp_path, 'dit', deeper)


def test_a_file_without_tensors_lacks_the_first(place):
  rewrite(place, dict.clear)
  with pytest.raises(ValueError, match=r'transformer lacks \S+ of shape'):
    directory.read(place)


def test_a_cut_file_is_named(place):
  path = file_of(place)
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match=f'{path}: .* cut short'):
    directory.read(place)


def test_a_missing_file_is_named(place):
  file_of(place, 'text').unlink()
  with pytest.raises(ValueError, match='text_encoder has neither model.safet'):
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
  [{'_class_name': 'UNetPipeline'}, {'unet': ['diffusers', 'UNet'], 'vae': []}],
)
def test_an_index_of_another_kind_is_refused_by_name(place, index):
  (place / directory.INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match='model_index.json is of another kind'):
    directory.read(place)


def test_weights_of_jax_are_written_like_those_of_numpy(place, tmp_path):
  arrays = jax.tree.map(jnp.asarray, model().params)
  directory.write(tmp_path / 'jax', model()._replace(params=arrays))
  assert file_of(tmp_path / 'jax').read_bytes() == file_of(place).read_bytes()
