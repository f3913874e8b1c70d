"""A manifest lists every usable clip once, and every other file with why."""

import json
import os

import numpy as np
import pytest
from etils import epath
from PIL import Image

from sora_jax.data import manifest, video


def add_clip(folder, name, caption='A red ball.', frames=5, fps=12.5):
  folder.mkdir(parents=True, exist_ok=True)
  shade = np.linspace(0, 255, frames).astype(np.uint8)
  pixels = np.broadcast_to(shade[:, None, None, None], (frames, 16, 32, 3))
  video.write_video(folder / name, pixels, fps)
  if caption is not None:
    (folder / name).with_suffix('.txt').write_text(caption)


def test_rows_say_what_each_clip_is_in_the_order_of_names(tmp_path):
  add_clip(tmp_path / 'b', '2.mp4', 'A red ball.\n\n  Rolling,  left. \n')
  add_clip(tmp_path, 'c.png', 'A still.', frames=1)
  add_clip(tmp_path / 'b', '1.mp4', frames=9, fps=24.0)
  report = manifest.build(tmp_path, tmp_path)
  assert [r.id for r in report.rows] == ['b/1.mp4', 'b/2.mp4', 'c.png']
  assert [r.frames for r in report.rows] == [9, 5, 1]
  assert [r.fps for r in report.rows] == [24.0, 12.5, video.IMAGE_FPS]
  assert [r.kind for r in report.rows] == ['video', 'video', 'image']
  assert {(r.width, r.height) for r in report.rows} == {(32, 16)}
  assert report.rows[1].captions == ['A red ball.', 'Rolling, left.']
  assert manifest.read(report.manifest) == report.rows
  assert not report.quarantined


def test_captions_may_stand_in_one_file(tmp_path):
  for name in ('a.mp4', 'b.mp4'):
    add_clip(tmp_path, name, caption=None)
  lines = [
    {'file': 'a.mp4', 'caption': 'One.'},
    {'file': 'b.mp4', 'caption': ['Two.', 'Or three.']},
    {'file': 'gone.mp4', 'caption': 'Four.'},
  ]
  text = '\n'.join(map(json.dumps, lines))
  (tmp_path / 'captions.jsonl').write_text(text)
  report = manifest.build(tmp_path, tmp_path)
  assert [r.captions for r in report.rows] == [['One.'], ['Two.', 'Or three.']]
  assert [q.id for q in report.quarantined] == ['gone.mp4']


def test_names_and_captions_may_have_any_characters(tmp_path):
  odd = os.fsdecode(b'caf\xe9.mp4')  # not UTF-8
  for name in (odd, 'b\u2028.mp4'):
    add_clip(tmp_path, name, caption=None)
  line = {'file': 'b\u2028.mp4', 'caption': 'One.\u2028And more.\x85'}
  text = json.dumps(line, ensure_ascii=False)
  (tmp_path / 'captions.jsonl').write_text(text)
  report = manifest.build(tmp_path, tmp_path)
  assert [row.path for row in report.rows] == ['b\u2028.mp4']
  assert [q.id for q in report.quarantined] == [odd]  # without a caption
  assert report.rows[0].captions == ['One. And more.']
  assert manifest.read(tmp_path / manifest.MANIFEST) == report.rows


def test_a_malformed_line_of_captions_is_named(tmp_path):
  add_clip(tmp_path, 'a.mp4')
  for line in ('{"file": "a.mp4"}', 'a.mp4: One.', '[]', '{"caption": 1}'):
    good = '{"file": "a.mp4", "caption": "One."}'
    (tmp_path / 'captions.jsonl').write_text(f'{good}\n{line}\n')
    with pytest.raises(ValueError, match='line 2'):
      manifest.build(tmp_path, tmp_path)


def test_what_cannot_be_used_is_listed_and_counted(tmp_path):
  add_clip(tmp_path, 'good.mp4')
  add_clip(tmp_path, 'mute.mp4', caption=None)
  add_clip(tmp_path, 'blank.mp4', caption=' \n')
  add_clip(tmp_path, 'latin.mp4')
  (tmp_path / 'latin.txt').write_bytes('Café'.encode('latin-1'))
  for name, data in {
    'empty.mp4': b'',
    'page.mp4': b'<html>404</html>' * 50,
    'cut.mp4': (tmp_path / 'good.mp4').read_bytes()[:-400],
  }.items():
    (tmp_path / name).write_bytes(data)
    (tmp_path / name).with_suffix('.txt').write_text('A caption.')
  (tmp_path / 'README.md').write_text('About.')
  (tmp_path / '.hidden.mp4').write_bytes(b'')
  (tmp_path / '.cache').mkdir()
  (tmp_path / '.cache' / 'x.mp4').write_bytes(b'')

  report = manifest.build(tmp_path, tmp_path)
  assert [r.id for r in report.rows] == ['good.mp4']
  reasons = {q.id: q.reason for q in report.quarantined}
  assert sorted(reasons) == [
    'blank.mp4',
    'cut.mp4',
    'empty.mp4',
    'latin.mp4',
    'mute.mp4',
    'page.mp4',
  ]
  assert reasons['mute.mp4'] == reasons['blank.mp4'] == 'it has no caption'
  assert report.reasons['it has no caption'] == 2
  assert report.reasons.total() == 6
  assert report.ignored == {'.md': 1}
  assert '\n' not in str(report)
  listed = (tmp_path / 'quarantine.jsonl').read_text().splitlines()
  assert {json.loads(line)['id'] for line in listed} == set(reasons)


def test_reasons_that_differ_in_numbers_are_counted_together(tmp_path):
  quarantined = [
    manifest.Quarantined('a', 'it holds 3 frames, its duration needs 9'),
    manifest.Quarantined('b', 'it holds 41 frames, its duration needs 80'),
  ]
  report = manifest.Report(epath.Path(tmp_path), [], quarantined, None)
  assert list(report.reasons.values()) == [2]


def test_an_unusable_folder_is_one_line(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('text')
  (tmp_path / 'none').mkdir()
  (tmp_path / 'mute').mkdir()
  add_clip(tmp_path / 'mute', 'a.mp4', caption=None)
  for name in ('missing', 'file', 'none', 'mute'):
    with pytest.raises(ValueError, match=str(tmp_path / name)) as caught:
      manifest.build(tmp_path / name, tmp_path / 'lists')
    assert '\n' not in str(caught.value)
  assert 'it has no caption: 1' in str(caught.value)

  def refuse(self):
    raise PermissionError(13, 'Permission denied', str(self))

  monkeypatch.setattr(type(epath.Path(tmp_path)), 'iterdir', refuse)
  with pytest.raises(ValueError, match='Permission denied'):
    manifest.build(tmp_path / 'mute', tmp_path / 'lists')


def test_an_unreadable_subfolder_or_file_is_quarantined(tmp_path, monkeypatch):
  add_clip(tmp_path, 'a.mp4')
  add_clip(tmp_path, 'shut.mp4')
  add_clip(tmp_path / 'sub', 'b.mp4')
  kind = type(epath.Path(tmp_path))
  iterdir, open_file = kind.iterdir, kind.open

  def refuse_sub(self):
    if self.name == 'sub':
      raise PermissionError(13, 'Permission denied', str(self))
    return iterdir(self)

  def refuse_shut(self, *args, **kwargs):
    if self.name == 'shut.mp4':
      raise PermissionError(13, 'Permission denied', str(self))
    return open_file(self, *args, **kwargs)

  monkeypatch.setattr(kind, 'iterdir', refuse_sub)
  monkeypatch.setattr(kind, 'open', refuse_shut)
  report = manifest.build(tmp_path, tmp_path)
  assert [r.id for r in report.rows] == ['a.mp4']
  assert [q.id for q in report.quarantined] == ['shut.mp4', 'sub/']
  assert all('Permission denied' in q.reason for q in report.quarantined)


def test_only_changed_files_are_decoded_again(tmp_path, monkeypatch):
  for name in ('a.mp4', 'b.mp4', 'c.mp4'):
    add_clip(tmp_path, name)
  before = manifest.build(tmp_path, tmp_path)
  add_clip(tmp_path, 'b.mp4', frames=13)
  (tmp_path / 'c.txt').write_text('Another caption.')
  decoded, read_info = [], video.read_info

  def watched(path):
    decoded.append(path.name)
    return read_info(path)

  monkeypatch.setattr(video, 'read_info', watched)
  after = manifest.build(tmp_path, tmp_path)
  assert decoded == ['b.mp4']
  assert after.rows[0] == before.rows[0]
  assert after.rows[1].frames == 13
  assert after.rows[1].sha256 != before.rows[1].sha256
  assert after.rows[2].captions == ['Another caption.']


def test_a_manifest_may_lie_elsewhere(tmp_path, monkeypatch):
  add_clip(tmp_path / 'clips' / 'sub', 'a.mp4')
  monkeypatch.chdir(tmp_path)
  report = manifest.build('clips', out='lists')
  assert sorted(os.listdir('clips')) == ['sub']
  (row,) = manifest.read('lists/manifest.jsonl')
  assert row.id == 'sub/a.mp4'
  monkeypatch.chdir('/')
  place = manifest.locate(report.manifest, row)
  assert place.exists()
  moved = manifest.locate('gs://bucket/x.jsonl', row._replace(path='s/a.mp4'))
  assert str(moved) == 'gs://bucket/s/a.mp4'


@pytest.mark.parametrize(
  'spoil',
  [
    lambda fields: 'not json',
    lambda fields: '[1, 2]',
    lambda fields: json.dumps(fields | {'frames': '5'}),
    lambda fields: json.dumps(fields | {'frames': 0}),
    lambda fields: json.dumps(fields | {'captions': []}),
    lambda fields: json.dumps(fields | {'captions': [3]}),
    lambda fields: json.dumps({k: v for k, v in fields.items() if k != 'id'}),
  ],
)
def test_a_spoilt_line_is_named(tmp_path, spoil):
  for name in ('a.mp4', 'b.mp4'):
    add_clip(tmp_path, name)
  path = manifest.build(tmp_path, tmp_path).manifest
  lines = path.read_text().splitlines()
  path.write_text(f'{lines[0]}\n{spoil(json.loads(lines[1]))}\n')
  with pytest.raises(ValueError, match=f'{path}, line 2: ') as caught:
    manifest.read(path)
  assert '\n' not in str(caught.value)


def test_a_missing_or_empty_manifest_is_told(tmp_path):
  (tmp_path / 'empty.jsonl').write_text('')
  for name in ('none.jsonl', 'empty.jsonl'):
    with pytest.raises(ValueError, match=name):
      manifest.read(tmp_path / name)


def test_images_of_every_type_are_found(tmp_path):
  for suffix in video.IMAGE_TYPES:
    folder = tmp_path / suffix[1:]
    folder.mkdir()
    Image.new('RGB', (9, 7)).save(folder / f'x{suffix.upper()}')
    (folder / 'x.txt').write_text('Black.')
  rows = manifest.build(tmp_path, tmp_path).rows
  assert len(rows) == len(video.IMAGE_TYPES)
  assert {(r.width, r.height, r.frames) for r in rows} == {(9, 7, 1)}
