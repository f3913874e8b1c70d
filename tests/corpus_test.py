"""A folder is listed once, with the run; the folder stays as it is."""

import dataclasses

import pytest
import tiny

from sora_jax import corpus
from sora_jax.data import manifest, pipeline

CLIPS = [(5, 32, 16), (9, 32, 16)]


@pytest.fixture
def folder(tmp_path):
  return tiny.write_videos(tmp_path / 'videos', CLIPS)


def config(path):
  return pipeline.DataConfig(corpus=pipeline.Corpus.FOLDER, path=str(path))


def test_a_run_goes_on_with_the_clips_it_began_with(folder, tmp_path):
  before = sorted(folder.iterdir())
  source = corpus.open_corpus(config(folder), tmp_path / 'run')
  assert [source.info(i).frames for i in range(len(source))] == [5, 9]
  assert sorted(folder.iterdir()) == before  # nothing is written there
  tiny.write_videos(folder, [*CLIPS, (1, 32, 16)])
  assert len(corpus.open_corpus(config(folder), tmp_path / 'run')) == 2
  assert len(corpus.open_corpus(config(folder), tmp_path / 'new')) == 3
  # What one run listed, another may be given.
  listed = tmp_path / 'run' / corpus.LISTS / manifest.MANIFEST
  assert len(corpus.open_corpus(config(listed), tmp_path / 'other')) == 2


def test_a_list_of_another_folder_is_refused(folder, tmp_path):
  corpus.open_corpus(config(folder), tmp_path / 'run')
  other = tiny.write_videos(tmp_path / 'others', CLIPS)
  with pytest.raises(ValueError, match=f'another folder than {other}'):
    corpus.open_corpus(config(other), tmp_path / 'run')


def test_what_is_left_out_is_told(folder, tmp_path, caplog):
  (folder / '0.mp4').write_bytes(b'no video')
  with caplog.at_level('INFO'):
    corpus.open_corpus(config(folder), tmp_path / 'run')
  assert '1 clips accepted; 1 quarantined' in caplog.text
  quarantine = tmp_path / 'run' / corpus.LISTS / manifest.QUARANTINE
  assert '0.mp4' in quarantine.read_text()


def test_a_world_needs_no_list(tmp_path):
  source = corpus.open_corpus(pipeline.DataConfig(clips=3), tmp_path / 'run')
  assert len(source) == 3
  assert not (tmp_path / 'run').exists()


def test_every_fourth_clip_of_a_world_may_be_real(folder, tmp_path):
  world = pipeline.DataConfig(clips=9, beside=str(folder))
  source = corpus.open_corpus(world, tmp_path / 'run')
  alone = corpus.open_corpus(pipeline.DataConfig(clips=9), tmp_path / 'run')
  assert [source.info(i).width for i in range(9)] == [64] * 3 + [32] + (
    [64] * 3 + [32, 64]
  )
  # Both clips of the folder come, in turn; none of the world's is left out.
  assert [source.info(i).frames for i in (3, 7)] == [5, 9]
  assert source[7].video.shape == (9, 16, 32, 3)
  ids = [source[i].id for i in range(9) if i not in (3, 7)]
  assert ids == [alone[i].id for i in range(7)]
  assert source.captions(4) == alone.captions(3)
  assert source.window(3, 1, 2).shape == (2, 16, 32, 3)


def test_files_stand_alone(folder):
  both = dataclasses.replace(config(folder), beside=str(folder))
  with pytest.raises(ValueError, match='stands alone'):
    pipeline.check(both)
