"""Clips that are kept are the clips, and are rendered once."""

import numpy as np
import pytest

from sora_jax import batch
from sora_jax.data import pipeline, rendered, sources

SIZES = ('32x32x9', '48x32x5')


def kept(path, world='balls+joins'):
  config = pipeline.DataConfig(
    world=world, sizes=SIZES, clips=6, rendered=str(path)
  )
  return pipeline.make_source(config)


def test_frames_are_those_of_the_world_and_are_rendered_once(
  tmp_path, monkeypatch
):
  sizes = tuple(batch.parse_size(size) for size in SIZES)
  world = sources.WorldSource('balls+joins', sizes, 6)
  source = kept(tmp_path)
  assert len(source) == 6 and source.captions(3) == world.captions(3)
  for index in range(6):
    wanted = world.window(index, 1, 3)
    np.testing.assert_array_equal(source.window(index, 1, 3), wanted)
  files = sorted(path.name for path in tmp_path.glob('*/*'))
  assert len(files) == 6 and files[0] == 'balls-train-0-0-32x32x9.npy'
  monkeypatch.setattr(sources.WorldSource, '__getitem__', None)  # no more
  again = kept(tmp_path)
  for index in range(6):
    wanted = world.info(index)
    frames = again.window(index, 0, 9)
    assert frames.shape == (wanted.frames, wanted.height, wanted.width, 3)
    assert frames.flags.writeable and frames.flags.owndata
  with pytest.raises(TypeError):
    kept(tmp_path, 'joins+balls').window(0, 0, 1)


def test_a_clip_that_cannot_be_kept_is_not_lost(tmp_path):
  (tmp_path / 'file').touch()  # in which no directory can be
  world = sources.WorldSource(
    'balls+joins', tuple(batch.parse_size(size) for size in SIZES), 6
  )
  frames = kept(tmp_path / 'file').window(2, 0, 9)
  np.testing.assert_array_equal(frames, world.window(2, 0, 9))


def test_files_are_not_rendered(tmp_path):
  config = pipeline.DataConfig(
    corpus=pipeline.Corpus.FOLDER, rendered=str(tmp_path)
  )
  with pytest.raises(ValueError, match='a corpus of folder is not rendered'):
    pipeline.check(config)


def test_other_code_renders_anew(tmp_path, monkeypatch):
  kept(tmp_path).window(0, 0, 1)
  worlds = tmp_path / 'worlds'
  worlds.mkdir()
  (worlds / 'balls.py').write_text('changed')
  monkeypatch.setattr(rendered, 'WORLDS', worlds)
  other = kept(tmp_path / 'frames')
  other.window(0, 0, 1)
  (place,) = (tmp_path / 'frames').iterdir()
  assert not (tmp_path / place.name).exists()
