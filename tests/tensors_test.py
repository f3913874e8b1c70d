"""Files of tensors are read as they are, in any part, or refused by name."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from sora_jax.weights import names, params, tensors

STEM = 'net'


def arrays():
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {
    'a.weight': normal(4, 6),
    'b': normal(3).astype(np.float16),
    'c': normal(2, 3, 4).astype(jnp.bfloat16),
    'empty': normal(0, 5),
    'one': normal(),
  }


@pytest.fixture
def folder(tmp_path):
  tensors.write(tmp_path, STEM, arrays().items())
  return tmp_path


@pytest.fixture
def sharded(tmp_path):
  (tmp_path / 'many').mkdir()
  tensors.write(tmp_path / 'many', STEM, arrays().items(), largest=100)
  return tmp_path / 'many'


def file(folder):
  return folder / f'{STEM}.safetensors'


def index(folder):
  return folder / f'{STEM}.safetensors.index.json'


def assert_read(folder):
  found = tensors.find(folder, STEM)
  assert set(found) == set(arrays())
  for name, wanted in arrays().items():
    value = tensors.read(found[name])
    assert value.dtype == wanted.dtype
    np.testing.assert_array_equal(value, wanted)


def test_tensors_come_back_in_their_types(folder):
  assert_read(folder)


def test_several_files_and_their_index_are_as_one(sharded):
  assert len(list(sharded.glob('net-0000*-of-0000*.safetensors'))) == 2
  assert_read(sharded)
  sizes = json.loads(index(sharded).read_text())['metadata']
  assert sizes == {'total_size': sum(x.nbytes for x in arrays().values())}


def test_another_library_wrote_it(tmp_path):
  safetensors.numpy.save_file(arrays(), file(tmp_path), {'format': 'pt'})
  assert_read(tmp_path)


@pytest.mark.parametrize(
  'part',
  [(slice(1, 3),), (slice(None), slice(2, 5)), (slice(3, 4), slice(0, 1))],
)
@pytest.mark.parametrize('name', ['a.weight', 'c'])
def test_a_part_is_what_it_would_be_of_the_whole(folder, name, part):
  tensor = tensors.find(folder, STEM)[name]
  np.testing.assert_array_equal(
    tensors.read(tensor, part), arrays()[name][part]
  )


def test_of_rows_only_their_bytes_are_read(folder, monkeypatch):
  asked, read = [], tensors._read_bytes
  monkeypatch.setattr(
    tensors, '_read_bytes', lambda *args: asked.append(args) or read(*args)
  )
  tensor = tensors.find(folder, STEM)['a.weight']
  tensors.read(tensor, (slice(1, 3),))
  assert asked == [(tensor.path, tensor.start + 24, 48)]


def test_a_place_that_is_no_disk_is_read_as_well(folder, monkeypatch):
  tensor = tensors.find(folder, STEM)['c']
  monkeypatch.setattr(tensors.os.path, 'exists', lambda path: False)
  np.testing.assert_array_equal(
    tensors.read(tensor, (slice(1, 2),)), arrays()['c'][1:2]
  )


def forget_a_file(folder):
  (folder / 'net-00002-of-00002.safetensors').unlink()


def mix_versions(folder):
  path = folder / 'net-00001-of-00002.safetensors'
  stored = safetensors.numpy.load_file(path)
  safetensors.numpy.save_file(stored | {'a2': np.zeros(3, np.float32)}, path)


def lose_a_tensor(folder):
  path = folder / 'net-00001-of-00002.safetensors'
  stored = safetensors.numpy.load_file(path)
  del stored['a.weight']
  safetensors.numpy.save_file(stored, path)


def add_the_single_file(folder):
  tensors.write(folder, STEM, arrays().items())


def point_elsewhere(folder):
  index(folder).write_text('{"weight_map": {"b": "../x.safetensors"}}')


def map_nothing(folder):
  index(folder).write_text('{"weight_map": {}}')


def twice(folder):
  index(folder).write_text('{"weight_map": {}, "weight_map": {}}')


@pytest.mark.parametrize(
  ('damage', 'words'),
  [
    (forget_a_file, 'net-00002-of-00002.safetensors is missing; net.safeten'),
    (mix_versions, "net-00001.* has 'a2', which .* two versions"),
    (lose_a_tensor, "net-00001.* lacks 'a.weight', which .* two versions"),
    (add_the_single_file, 'many has both net.safetensors and net.safetens'),
    (point_elsewhere, "'b' is said to lie in '../x.safetensors', which is no"),
    (map_nothing, '"weight_map" must say which file has a tensor'),
    (twice, "'weight_map' occurs twice"),
  ],
)
def test_files_that_are_not_those_of_their_index_are_refused(
  sharded, damage, words
):
  damage(sharded)
  with pytest.raises(ValueError, match=words):
    tensors.find(sharded, STEM)


@pytest.mark.parametrize('cut', [0, 5, 8, 20, 300, -1])
def test_a_file_cut_anywhere_is_refused(folder, cut):
  data = file(folder).read_bytes()
  file(folder).write_bytes(data[:cut])
  with pytest.raises(ValueError, match='net.safetensors: .* cut short'):
    tensors.find(folder, STEM)


def test_bytes_that_follow_are_refused(folder):
  file(folder).write_bytes(file(folder).read_bytes() + b'!')
  with pytest.raises(ValueError, match='cut short or something follows'):
    tensors.find(folder, STEM)


@pytest.mark.parametrize(
  ('name', 'entry', 'words'),
  [
    ('b', dict(dtype='I64'), 'b is stored as I64; what can be read is F32'),
    ('b', dict(dtype=3), 'b is stored as 3'),
    ('b', dict(shape=[4]), r"'b' has 6 bytes, and shape=\[4\] of F16 takes 8"),
    ('b', dict(shape=[3.0]), 'must be whole numbers'),
    ('b', dict(shape=[True]), 'must be whole numbers'),
    ('b', dict(shape=[-3]), 'must be whole numbers'),
    ('b', dict(shape=[2**62, 0]), 'must be whole numbers'),
    ('b', dict(data_offsets=[0, 6]), "'a.weight' starts at|'b' starts at"),
    ('b', dict(data_offsets=[96]), 'two of the latter'),
    ('b', dict(more=1), "'b' must have data_offsets, dtype, shape"),
  ],
)
def test_entries_that_cannot_be_are_refused(folder, name, entry, words):
  header, numbers = parts(file(folder))
  header[name] |= entry
  write(file(folder), json.dumps(header).encode(), numbers)
  with pytest.raises(ValueError, match=words):
    tensors.find(folder, STEM)


def parts(path):
  data = path.read_bytes()
  length = int.from_bytes(data[:8], 'little')
  return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path, header, numbers):
  path.write_bytes(len(header).to_bytes(8, 'little') + header + numbers)


def test_a_tensor_larger_than_a_file_has_one_for_itself(tmp_path):
  big = {'x': np.zeros(100, np.float32), 'y': np.zeros(1, np.float32)}
  tensors.write(tmp_path, STEM, big.items(), largest=8)
  found = tensors.find(tmp_path, STEM)
  assert {t.path.name for t in found.values()} == {
    'net-00001-of-00002.safetensors',
    'net-00002-of-00002.safetensors',
  }


# Bytes that mean something in JSON, and some that do not.
WORDS = [
  b'{',
  b'}',
  b'[',
  b']',
  b'"',
  b',',
  b':',
  b'-',
  b'1e9',
  b'null',
  b'\xff',
]
WORDS += [
  b'\\u0000',
  b'[[[[[[',
  b'9' * 30,
  b'true',
  b'F32',
  b'0',
  b'\n',
  b'NaN',
]


def mutate(data, rng):
  """Flips bits, cuts, repeats and puts in, up to three times."""
  data = bytearray(data)
  for _ in range(rng.integers(1, 4)):
    at = int(rng.integers(len(data) + 1))
    kind = rng.integers(5)
    if kind == 0 and at < len(data):
      data[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
      del data[at : at + int(rng.integers(1, 9))]
    elif kind == 2:
      data[at:at] = WORDS[rng.integers(len(WORDS))]
    elif kind == 3 and at < len(data):
      data[at] = int(rng.integers(256))
    else:
      data[at:at] = data[: int(rng.integers(1, 40))]
  return bytes(data)


# A network of these tensors, each as it is stored.
PLACES = {
  name: names.Place((name,), f'{axes} -> {axes}', {})
  for name, axes in zip(arrays(), ('a b', 'a', 'a b c', 'a b', ''), strict=True)
}


def check_mutations(folder, sharded, count):
  """Reads mutated files: each is refused, or has the bits that it had.

  Some are still files of tensors, but not of this network's. A type may become
  another one, as BF16 less its B, which no reader can tell.
  """
  shapes = {name: x.shape for name, x in tensors.find(folder, STEM).items()}
  wanted = {name: x.tobytes() for name, x in arrays().items()}
  rng = np.random.default_rng(0)
  whole, text = file(folder).read_bytes(), index(sharded).read_bytes()
  header = whole[: 8 + int.from_bytes(whole[:8], 'little')]
  numbers = whole[len(header) :]
  refused = same = 0
  for i in range(count):
    if i % 2:
      place, path, data = sharded, index(sharded), mutate(text, rng)
    else:
      place, path = folder, file(folder)
      data = mutate(header, rng) + numbers
    path.write_bytes(data)
    try:
      found = params.match(tensors.find(place, STEM), PLACES, shapes, place)
    except ValueError as error:
      assert str(place) in str(error)
      refused += 1
      continue
    same += 1
    for name, stored in found.items():
      value = tensors.read(stored.tensors[0])
      assert value.tobytes() == wanted[name], data
  assert refused > 0.6 * count and same > 0.003 * count


def test_mutated_headers_and_indices_are_refused_or_read(folder, sharded):
  check_mutations(folder, sharded, 2_000)


@pytest.mark.slow
def test_many_mutated_headers_and_indices(folder, sharded):
  check_mutations(folder, sharded, 100_000)


def test_a_folder_without_either_file_says_what_it_looked_for(tmp_path):
  with pytest.raises(ValueError, match='has neither net.safetensors nor net'):
    tensors.find(epath.Path(tmp_path), STEM)
