"""Prepared latents come back as they were written, or say what is wrong."""

import json
import pickle

import numpy as np
import pytest

from sora_jax.data import latents

SIZES = [(1, 2, 2), (3, 2, 4), (2, 4, 2), (1, 4, 4)]
INFO = {'channels': 3, 'autoencoder': 'abc', 'empty_features': [[0.5, 1.5]]}


def row(i):
  captions = [f'caption {i}', 'nöch \u2028 eine']
  return latents.Row(f'clip {i}', SIZES[i], captions, 20 + i, 0)


def record(i):
  generator = np.random.default_rng(i)
  latent = generator.normal(size=(*SIZES[i], 3)).astype(np.float16)
  lengths = (i + 1, 2)
  return latents.Record(
    latent.astype(np.float32),
    tuple(generator.normal(size=(n, 2)).astype(np.float32) for n in lengths),
  )


def write(place, features=True):
  with latents.Writer(place) as writer:
    for i in range(len(SIZES)):
      one = record(i)
      writer.write(row(i), one if features else one._replace(features=()))
    writer.finish(INFO)
  return place


@pytest.fixture
def place(tmp_path):
  return write(tmp_path / 'latents')


def assert_equal(found, expected):
  assert found.latent.dtype == np.float32
  np.testing.assert_array_equal(found.latent, expected.latent)
  assert len(found.features) == len(expected.features)
  for a, b in zip(found.features, expected.features, strict=True):
    np.testing.assert_array_equal(a, b)


def test_what_was_written_comes_back_in_any_order(place):
  source = latents.LatentSource(place)
  assert len(source) == len(SIZES)
  assert source.info == INFO
  assert source.rows == [row(i) for i in range(len(SIZES))]
  for i in (3, 0, 2, 2, 1):
    assert_equal(source[i], record(i))


def test_latents_are_kept_to_float16(tmp_path):
  fine = np.full((1, 1, 1, 1), 1 + 2**-12, np.float32)
  with latents.Writer(tmp_path / 'l') as writer:
    writer.write(
      latents.Row('a', (1, 1, 1), [''], 1, 0), latents.Record(fine, ())
    )
    writer.finish(INFO)
  assert latents.LatentSource(tmp_path / 'l')[0].latent.item() == 1.0


def test_captions_without_features_have_none(tmp_path):
  source = latents.LatentSource(write(tmp_path / 'l', features=False))
  assert_equal(source[1], record(1)._replace(features=()))


def test_a_source_goes_to_another_process_even_when_it_was_read(place):
  source = latents.LatentSource(place)
  source[0]
  assert_equal(pickle.loads(pickle.dumps(source))[2], record(2))


def test_one_flipped_byte_is_found_in_its_record(place):
  path = place / latents.RECORDS
  data = bytearray(path.read_bytes())
  middle = data.index(record(2).latent.astype(np.float16).tobytes())
  data[middle] ^= 1
  path.write_bytes(data)
  source = latents.LatentSource(place)
  with pytest.raises(latents.BrokenRecord, match='record 2 is damaged'):
    source[2]
  assert_equal(source[1], record(1))  # the others are still good


def test_a_cut_file_of_records_is_named(place):
  path = place / latents.RECORDS
  path.write_bytes(path.read_bytes()[:-1000])
  with pytest.raises(ValueError, match=latents.RECORDS):
    latents.LatentSource(place)[3]


def test_missing_records_are_named(place):
  (place / latents.RECORDS).unlink()
  with pytest.raises(ValueError, match=latents.RECORDS):
    latents.LatentSource(place)[0]


def test_a_manifest_that_lost_a_line_does_not_fit_its_records(place):
  path = place / latents.MANIFEST
  path.write_text('\n'.join(path.read_text().split('\n')[:2]) + '\n')
  with pytest.raises(ValueError, match='4 records.* 2 '):
    latents.LatentSource(place)[0]


@pytest.mark.parametrize(
  'line', ['{"id": "x"', '{"id": "x", "size": [1, 2, 2]}', '[]', '']
)
def test_a_bad_line_of_the_manifest_is_named(place, line):
  path = place / latents.MANIFEST
  lines = path.read_text().split('\n')
  lines[2] = line
  path.write_text('\n'.join(lines))
  with pytest.raises(ValueError, match=rf'{latents.MANIFEST}, line 3\b'):
    latents.LatentSource(place)


@pytest.mark.parametrize('name', [latents.MANIFEST, latents.INFO])
def test_a_missing_or_broken_file_is_named(place, name):
  (place / name).write_text('{')
  with pytest.raises(ValueError, match=name):
    latents.LatentSource(place)
  (place / name).unlink()
  with pytest.raises(ValueError, match=str(place)):
    latents.LatentSource(place)


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_writer_leaves_nothing(tmp_path, error):
  with pytest.raises(error):
    with latents.Writer(tmp_path / 'latents') as writer:
      writer.write(row(0), record(0))
      raise error
  assert not list(tmp_path.iterdir())


def test_a_writer_that_never_finishes_leaves_nothing(tmp_path):
  with latents.Writer(tmp_path / 'latents') as writer:
    writer.write(row(0), record(0))
  assert not list(tmp_path.iterdir())


def test_nothing_has_the_final_name_before_all_is_written(tmp_path):
  with latents.Writer(tmp_path / 'latents') as writer:
    writer.write(row(0), record(0))
    assert not (tmp_path / 'latents').exists()
    with pytest.raises(ValueError, match='not a directory of prepared'):
      latents.LatentSource(tmp_path / 'latents')
    writer.finish(INFO)
  assert [p.name for p in tmp_path.iterdir()] == ['latents']


def test_what_a_killed_writer_left_is_no_obstacle(tmp_path):
  writer = latents.Writer(tmp_path / 'latents')
  writer.__enter__()  # and then the process is gone
  writer.write(row(3), record(3))
  source = latents.LatentSource(write(tmp_path / 'latents'))
  assert_equal(source[0], record(0))
  assert [p.name for p in tmp_path.iterdir()] == ['latents']


def test_a_manifest_is_lines_of_json(place):
  lines = (place / latents.MANIFEST).read_text().splitlines()
  assert [json.loads(line)['id'] for line in lines] == [
    f'clip {i}' for i in range(len(SIZES))
  ]
