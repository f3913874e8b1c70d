"""Clips come by index, alike from every source, and break one at a time."""

import pathlib
import pickle

import numpy as np
import pytest

from sora_jax import batch
from sora_jax.data import manifest, sources, video
from sora_jax.data.worlds import balls

SIZES = (batch.Size(32, 32, 5), batch.Size(48, 32, 9))


def ramp(frames, width=32, height=16):
  """Frame `i` has the shade 8 i."""
  shade = 8 * np.arange(frames, dtype=np.uint8)
  return np.broadcast_to(
    shade[:, None, None, None], (frames, height, width, 3)
  ).copy()


def shades(frames):
  return np.rint(frames.mean(axis=(1, 2, 3)) / 8).astype(int).tolist()


@pytest.fixture
def folder(tmp_path):
  for name, frames in {'a.mp4': 21, 'b.gif': 5, 'c.png': 1}.items():
    video.write_video(tmp_path / name, ramp(frames), 12.5)
    (tmp_path / name).with_suffix('.txt').write_text(f'{name}\nalso {name}')
  return tmp_path


def folder_source(folder):
  return sources.FolderSource(manifest.build(folder, folder).manifest)


@pytest.fixture(scope='module')
def records(tmp_path_factory):
  """A prepared TFDS directory."""
  clips_dataset = pytest.importorskip('clips_dataset')
  pytest.importorskip('array_record')
  place = tmp_path_factory.mktemp('tfds')
  files = []
  for i in range(clips_dataset.COUNT):
    video.write_video(place / 'x.mp4', ramp(2 * i + 1), 12.5)
    files.append((place / 'x.mp4').read_bytes())
  files[3] = files[3][: len(files[3]) // 2]
  builder = clips_dataset.ClipsDataset(
    files=files, data_dir=place, file_format='array_record'
  )
  builder.download_and_prepare()
  return pathlib.Path(builder.data_dir)


def test_a_world_renders_the_clip_of_each_index():
  source = sources.WorldSource('balls', SIZES, 4, seed=3, split='test')
  assert len(source) == 4
  for i in range(4):
    clip, _ = balls.clip(3, i, SIZES[i % 2], 'test')
    assert source[i].id == clip.id
    np.testing.assert_array_equal(source[i].video, clip.video)
    assert source.info(i) == SIZES[i % 2]
    assert source.captions(i) == [clip.caption]
    np.testing.assert_array_equal(source.window(i, 2, 3), clip.video[2:5])


def test_a_world_that_cannot_be_is_refused():
  with pytest.raises(ValueError, match='balls'):
    sources.WorldSource('cubes', SIZES, 4)
  with pytest.raises(ValueError, match='train, test'):
    sources.WorldSource('balls', SIZES, 4, split='val')
  with pytest.raises(ValueError, match='length=0'):
    sources.WorldSource('balls', SIZES, 0)
  with pytest.raises(ValueError, match='sizes='):
    sources.WorldSource('balls', (), 4)


def test_a_folder_gives_videos_and_stills(folder):
  source = folder_source(folder)
  assert [clip.id for clip in source] == ['a.mp4', 'b.gif', 'c.png']
  assert [shades(clip.video) for clip in source] == [
    list(range(21)),
    list(range(5)),
    [0],
  ]
  assert source[0].fps == 12.5
  assert source[0].caption == 'a.mp4'
  assert source.captions(0) == ['a.mp4', 'also a.mp4']
  assert source.info(0) == (32, 16, 21)
  assert shades(source.window(0, 7, 4)) == [7, 8, 9, 10]


def test_a_clip_that_breaks_later_breaks_alone(folder):
  source = folder_source(folder)
  (folder / 'a.mp4').write_bytes(b'')
  with pytest.raises(sources.BrokenVideo, match='a.mp4'):
    source[0]
  (folder / 'a.mp4').unlink()
  with pytest.raises(sources.BrokenVideo, match='a.mp4'):
    source[0]
  video.write_video(folder / 'a.mp4', ramp(21, width=64), 12.5)
  with pytest.raises(sources.BrokenVideo, match='64x16, not 32x16'):
    source[0]
  assert len(source[1].video) == 5


def test_a_missing_manifest_is_named(tmp_path):
  with pytest.raises(ValueError, match='none.jsonl'):
    sources.FolderSource(tmp_path / 'none.jsonl')


def test_records_hold_files_arrays_or_stills(records):
  source = sources.TFDSSource(records, 'train', caption_key='captions')
  arrays = sources.TFDSSource(records, 'train', 'array', fps=5.0)
  stills = sources.TFDSSource(records, 'train', 'still')
  assert len(source) == 4
  seen = set()
  for i in range(4):
    number = int(arrays[i].caption.split()[1].rstrip('.'))
    seen.add(number)
    assert source.captions(i) == [f'Clip {number}.', f'Also {number}.']
    assert arrays[i].video.shape == (2 * number + 1, 16, 32, 3)
    assert (arrays[i].video == 40 * number).all()
    assert arrays[i].fps == 5.0
    assert arrays.info(i) == (32, 16, 2 * number + 1)
    assert stills[i].video.shape == (1, 16, 32, 3)
    assert (stills[i].video == 40 * number).all()
    if number == 3:  # cut in half
      with pytest.raises(sources.BrokenVideo, match='clips_dataset.*/'):
        source[i]
      continue
    clip = source[i]
    assert shades(clip.video) == list(range(2 * number + 1))
    assert clip.fps == 12.5
    assert shades(source.window(i, 2 * number, 1)) == [2 * number]
  assert seen == {0, 1, 2, 3}
  assert len({clip.id for clip in arrays}) == 4


def test_records_that_cannot_be_are_refused(records, tmp_path):
  with pytest.raises(ValueError, match='it has train'):
    sources.TFDSSource(records, 'test')
  with pytest.raises(ValueError, match='movie'):
    sources.TFDSSource(records, 'train', 'movie')
  with pytest.raises(ValueError, match='not a TFDS'):
    sources.TFDSSource(tmp_path, 'train')
  numbers = sources.TFDSSource(records, 'train', 'number')
  with pytest.raises(sources.BrokenVideo, match='number'):
    numbers[0]


def test_tfrecords_are_refused_with_the_format_that_works(records, tmp_path):
  for path in records.iterdir():
    text = path.read_bytes()
    if path.name == 'dataset_info.json':
      text = text.replace(b'"array_record"', b'"tfrecord"')
    (tmp_path / path.name).write_bytes(text)
  with pytest.raises(ValueError, match='array_record') as caught:
    sources.TFDSSource(tmp_path, 'train')
  assert '\n' not in str(caught.value)


def test_every_source_pickles(folder, records):
  for source in (
    sources.WorldSource('balls', SIZES, 4),
    folder_source(folder),
    sources.TFDSSource(records, 'train', 'array'),
  ):
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == len(source)
    np.testing.assert_array_equal(copy[1].video, source[1].video)


def test_an_index_outside_is_an_index_error(folder):
  for source in (
    sources.WorldSource('balls', SIZES, 3),
    folder_source(folder),
  ):
    for index in (-1, 3):
      with pytest.raises(IndexError):
        source[index]


def test_a_random_window_lies_anywhere_in_its_clip(folder):
  source = folder_source(folder)
  starts = set()
  for seed in range(60):
    rng = np.random.default_rng(seed)
    got = shades(sources.random_window(source, 0, 17, rng))
    assert got == list(range(got[0], got[0] + 17))
    starts.add(got[0])
  assert starts == {0, 1, 2, 3, 4}


def test_a_short_clip_holds_its_last_frame(folder):
  source = folder_source(folder)
  rng = np.random.default_rng(0)
  got = shades(sources.random_window(source, 1, 9, rng))
  assert got == [0, 1, 2, 3, 4, 4, 4, 4, 4]
  assert shades(sources.random_window(source, 2, 3, rng)) == [0, 0, 0]


def test_each_caption_of_a_record_is_one_line():
  texts = [b'A ball rolls.\n\nIt stops.', 'One\u2028and two.']
  assert sources._texts(texts) == ['A ball rolls. It stops.', 'One and two.']
