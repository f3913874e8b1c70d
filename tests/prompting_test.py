"""Flags of `sample` to scenes: what each task reads, takes and refuses."""

import types

import numpy as np
import pytest
import tiny

from sora_jax import batch, generate, prompting, sample
from sora_jax.data import video

SIZE = batch.Size(32, 32, 9)


@pytest.fixture(scope='module')
def networks():
  return generate.Networks(config := tiny.config(), tiny.params(config))


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """An image, two clips and a mask, each of another size."""
  folder = tmp_path_factory.mktemp('inputs')
  rng = np.random.default_rng(0)
  sizes = {
    'a.png': (1, 32, 48),
    'a.mp4': (12, 32, 32),
    'b.mp4': (9, 64, 64),
    'c.mp4': (9, 32, 32),
    'long.mp4': (17, 32, 32),
  }
  for name, size in sizes.items():
    frames = rng.integers(0, 256, (*size, 3), np.uint8)
    video.write_video(folder / name, frames, 10.0)
  slow = rng.integers(0, 256, (9, 32, 32, 3), np.uint8)
  video.write_video(folder / 'slow.mp4', slow, 5.0)
  mask = np.zeros((1, 32, 32, 3), np.uint8)
  mask[:, :16] = 255
  video.write_video(folder / 'mask.png', mask, 10.0)
  blink = np.zeros((17, 32, 32, 3), np.uint8)
  blink[5:9] = 255
  video.write_video(folder / 'blink17.mp4', blink, 10.0)
  for frames in (2, 9, 11, 12, 13, 17):  # a cell, and what a cut leaves out
    flash = np.zeros((frames, 32, 32, 3), np.uint8)
    flash[1, :8, :8] = flash[-3:] = 255
    video.write_video(folder / f'flash{frames}.mp4', flash, 10.0)
  return folder


def scene(
  networks, files, task, prompts=('a ball',), size=SIZE, window=33, **given
):
  for name in ('image', 'video'):
    if name in given:
      given[name] = [str(files / file) for file in given[name]]
  if given.get('mask', '0,0')[-4:] in ('.png', '.mp4'):
    given['mask'] = str(files / given['mask'])
  settings = generate.settings_of(networks.config.sample)
  settings = settings._replace(size=size, window=window)
  asked = size if size is not SIZE else None
  flags = types.SimpleNamespace(task=task, size=asked, **given)
  return prompting.scene_of(flags, networks, settings, list(prompts))


@pytest.mark.parametrize(
  ('task', 'given', 'size', 'known'),
  [
    ('text', {}, '32x32x9', [0, 0, 0]),
    ('animate', dict(image=['a.png']), '32x32x9', [1, 0, 0]),
    ('keyframes', dict(image=['a.png', 'a.png']), '32x32x9', [1, 0, 1]),
    ('extend', dict(video=['a.mp4'], frames=8), '32x32x20', [1, 1, 0, 0]),
    (
      'extend_backwards',
      dict(video=['a.mp4'], frames=4, keep=1),
      '32x32x16',
      [0, 0, 1, 1],  # the last one is shown behind the clip
    ),
    (
      'connect',
      dict(video=['a.mp4', 'c.mp4'], frames=7, keep=1),
      '32x32x28',
      [1, 0, 0, 1, 1],
    ),
    ('loop', {}, '32x32x8', [0, 0]),
    ('storyboard', dict(prompts=['day\nnight']), '32x32x9', [0, 0, 0]),
  ],
)
def test_each_task_knows_the_pieces_that_it_is_given(
  networks, files, task, given, size, known
):
  made = scene(networks, files, task, **given)
  assert str(made.size) == size
  assert (made.canvas.start[:, 0, 0] == 0).astype(int).tolist() == known


def test_each_of_two_clips_that_are_connected_has_its_prompt(networks, files):
  given = dict(video=['a.mp4', 'c.mp4'], frames=7, keep=1)
  made = scene(networks, files, 'connect', prompts=['one\nother'], **given)
  assert made.canvas.text_of[:, 0, 0].tolist() == [1, 1, 2, 2, 2]


def test_an_edit_takes_as_many_frames_as_fill_latents(networks, files):
  made = scene(networks, files, 'edit', video=['a.mp4'], strength=0.3)
  assert str(made.size) == '32x32x9'  # of 12
  assert (made.canvas.start == np.float32(0.3)).all()


def test_what_is_cut_off_an_image_of_another_aspect_is_said(
  networks, files, capsys
):
  scene(networks, files, 'animate', image=['a.png'])
  assert 'a.png: of 48x32 pixels the middle 32x32' in capsys.readouterr().out
  scene(networks, files, 'extend', video=['b.mp4'], frames=4)
  assert not capsys.readouterr().out


@pytest.mark.parametrize('mask', ['mask.png', '0,0,32,16'])
def test_a_mask_is_a_file_or_a_box(networks, files, mask):
  made = scene(networks, files, 'replace', video=['a.mp4'], mask=mask)
  # Two rows of latents, and the one that saw beyond them.
  assert made.canvas.start[0, :, 0].tolist() == [1, 1, 1, 0]


def test_a_box_is_in_pixels_of_the_file(networks, files):
  """Which is scaled to half, and so is the box."""
  given = dict(video=['b.mp4'], mask='0,0,64,32')
  made = scene(networks, files, 'replace', **given)
  assert made.canvas.start[0, :, 0].tolist() == [1, 1, 1, 0]
  corner = dict(video=['b.mp4'], mask='56,56,8,8')
  made = scene(networks, files, 'replace', **corner)
  assert made.canvas.start[0].sum(axis=0).tolist() == [0, 0, 2, 2]


def test_a_duration_that_is_not_taken_is_told(networks, files, capsys):
  given = dict(video=['a.mp4'], size=batch.Size(64, 64, 33))
  scene(networks, files, 'edit', **given)
  told = capsys.readouterr().out
  assert '--size=64x64x33: only the sides are taken; of --task=edit' in told
  assert told.endswith('is said by --video\n')
  scene(networks, files, 'extend', frames=4, keep=1, **given)
  assert 'is said by --video and --frames\n' in capsys.readouterr().out
  for frames in (1, 9):  # as many as the video has
    size = batch.Size(64, 64, frames)
    scene(networks, files, 'edit', video=['a.mp4'], size=size)
    assert 'sides' not in capsys.readouterr().out


def test_videos_of_another_rate_are_told_how_they_are_read(
  networks, files, capsys
):
  scene(networks, files, 'extend', video=['slow.mp4'], frames=4, keep=1)
  told = 'slow.mp4: of 5 frames a second, all frames are taken, and written at '
  assert told in capsys.readouterr().out
  scene(networks, files, 'extend', video=['c.mp4'], frames=4, keep=1)
  assert not capsys.readouterr().out


def test_a_mask_may_have_the_frames_of_its_video_and_is_cut_with_it(
  networks, files
):
  given = dict(video=['a.mp4'], mask='flash12.mp4')
  made = scene(networks, files, 'replace', **given)
  # The cell in the second frame, and its rim; nothing of the last three frames.
  assert made.canvas.start[:, :, 0].tolist() == [
    [0, 0, 0, 0],
    [1, 1, 0, 0],
    [0, 0, 0, 0],
  ]


@pytest.mark.parametrize('frames', [2, 9, 11, 13])
def test_a_mask_of_another_number_of_frames_is_refused(
  networks, files, no_jit, frames
):
  given = dict(video=['a.mp4'], mask=f'flash{frames}.mp4')
  with pytest.raises(
    ValueError, match=f'{frames} frames; it needs 1, or the 12'
  ):
    scene(networks, files, 'replace', **given)


LONG = batch.Size(32, 32, 17)


@pytest.mark.parametrize(
  ('task', 'given', 'told', 'fits'),
  [
    (
      'connect',
      dict(video=['a.mp4', 'c.mp4'], frames=11, keep=1),
      '--frames=7 or fewer',
      dict(frames=7),
    ),
    (
      'extend_backwards',
      dict(video=['a.mp4'], frames=12, keep=1),
      '--frames=8 or fewer',
      dict(frames=8),
    ),
    (
      'keyframes',
      dict(image=['a.png'] * 3, size=LONG),
      'a --size of 13 frames or fewer',
      dict(size=LONG._replace(frames=13)),
    ),
  ],
)
def test_what_leads_to_known_frames_fits_in_a_window(
  networks, files, task, given, told, fits
):
  given['window'] = 13
  with pytest.raises(ValueError, match=f'at once, in a window of 13 .*{told}'):
    scene(networks, files, task, **given)
  made = scene(networks, files, task, **given | fits)
  assert made.canvas.frames == 4  # as many as the window has


@pytest.mark.parametrize(
  ('task', 'frames', 'fits'),
  [
    ('extend', 15, '4 k; take 12 or 16'),
    ('connect', 8, '4 k - 1; take 7 or 11'),
  ],
)
def test_frames_that_fill_no_latents_are_refused(
  networks, files, no_jit, task, frames, fits
):
  given = dict(video=['a.mp4', 'c.mp4'][: 1 + (task == 'connect')])
  with pytest.raises(ValueError, match=f'--task={task} makes {fits}'):
    scene(networks, files, task, frames=frames, **given)


def test_two_pieces_that_fill_a_window_can_only_be_smaller(networks, files):
  given = dict(video=['a.mp4', 'c.mp4'], frames=3, keep=2)
  with pytest.raises(ValueError, match='13 frames: give a smaller --keep'):
    scene(networks, files, 'connect', window=13, **given)


def test_whole_frames_that_a_mask_leaves_are_seen_at_once(networks, files):
  given = dict(video=['long.mp4'], mask='blink17.mp4')
  with pytest.raises(ValueError, match='a --video of 13 frames or fewer'):
    scene(networks, files, 'replace', window=13, **given)
  scene(networks, files, 'replace', window=17, **given)


@pytest.mark.parametrize(
  ('task', 'given'),
  [
    ('text', dict(size=LONG)),
    ('storyboard', dict(size=LONG, prompts=['a\nb'])),
    ('animate', dict(size=LONG, image=['a.png'])),
    ('extend', dict(video=['a.mp4'], frames=16)),
    ('edit', dict(video=['long.mp4'])),
    ('replace', dict(video=['long.mp4'], mask='0,0,8,8')),
    ('replace', dict(video=['long.mp4'], mask='flash17.mp4')),
    (
      'outpaint',
      dict(video=['long.mp4'], size=batch.Size(64, 32, 9), place='0,0'),
    ),
  ],
)
def test_what_windows_can_go_on_with_may_be_longer(
  networks, files, task, given
):
  made = scene(networks, files, task, window=9, **given)
  assert made.canvas.frames >= 5


def test_a_video_lies_in_the_middle_of_a_larger_frame(networks, files):
  size = batch.Size(64, 32, 9)
  made = scene(networks, files, 'outpaint', video=['a.mp4'], size=size)
  assert made.keep[0, 0].nonzero()[0][[0, -1]].tolist() == [17, 46]
  placed = scene(
    networks, files, 'outpaint', video=['a.mp4'], size=size, place='0,0'
  )
  assert placed.keep[0, 0, 0] == 1 and placed.keep[0, 0, 40] == 0


@pytest.mark.parametrize(
  ('task', 'given', 'message'),
  [
    ('anmate', {}, '--task=anmate is unknown; nearest: animate'),
    ('animate', {}, '--task=animate takes 1 --image, not 0: it makes an image'),
    ('text', dict(image=['a.png']), 'takes 0 --image, not 1'),
    ('connect', dict(video=['a.mp4']), 'takes 2 --video, not 1'),
    (
      'animate',
      dict(image=['a.png'], strength=0.5),
      'takes no --strength; it takes none of that kind',
    ),
    (
      'extend',
      dict(video=['a.mp4'], mask='0,0,1,1'),
      'takes no --mask; it takes --frames, --keep',
    ),
    ('replace', dict(video=['a.mp4']), 'needs --mask=FILE, or LEFT,TOP,WIDTH'),
    (
      'replace',
      dict(video=['a.mp4'], mask='1,2,3'),
      '--mask=1,2,3 is not 4 numbers',
    ),
    (
      'replace',
      dict(video=['a.mp4'], mask='90,0,3,3'),
      'is not inside the 32x32 pixels',
    ),
    (
      'outpaint',
      dict(video=['a.mp4']),
      'needs a --size larger than the 32x32 pixels',
    ),
    (
      'extend',
      dict(video=['a.mp4'], keep=9),
      '--keep=9: a clip of 12 frames is shorter than the 33 frames .*=3 is the',
    ),
    (
      'storyboard',
      dict(prompts=['a\nb\nc'], size=batch.Size(32, 32, 5)),
      '--task=storyboard: 3 parts; 5 frames hold at most 2',
    ),
    (
      'keyframes',
      dict(image=['a.png'] * 3),
      '--task=keyframes: 3 images; 9 frames hold at most 2',
    ),
    (
      'loop',
      dict(size=batch.Size(32, 32, 5)),
      '--task=loop is painted at once: its --size must have 9 to 33 .* not 5',
    ),
    (
      'loop',
      dict(size=batch.Size(32, 32, 37)),
      '--size must have 9 to 33 frames, not 37',
    ),
    (
      'connect',
      dict(video=['a.mp4', 'b.mp4']),
      r'b\.mp4 has 64x64 pixels, and .*a\.mp4 32x32; they must be of one size',
    ),
    (
      'replace',
      dict(video=['b.mp4'], mask='mask.png'),
      r'--mask=.*mask\.png has 32x32 pixels, and .*b\.mp4 64x64; they must',
    ),
    ('loop', dict(prompts=['a\nb']), r"2 parts between '\|'; it listens to 1"),
    (
      'connect',
      dict(video=['a.mp4', 'c.mp4'], prompts=['a\nb\nc']),
      '3 parts .* listens to 2',
    ),
    ('storyboard', dict(prompts=['a\nb', 'a']), r'have \[1, 2\] parts'),
    (
      'replace',
      dict(video=['b.mp4'], mask='60,0,8,8'),
      '--mask=60,0,8,8 is not inside the 64x64 pixels of .*b.mp4',
    ),
    (
      'connect',
      dict(video=['c.mp4', 'slow.mp4']),
      'slow.mp4 has 5 frames a second, and .*c.mp4 10; they must be of',
    ),
    (
      'edit',
      dict(video=['a.mp4'], strength=1.5),
      'strength=1.5 must be from 0',
    ),
    (
      'animate',
      dict(image=['a.png'], size=batch.Size(32, 32, 1)),
      'there is no other; ask for more, as --size=32x32x33',
    ),
    ('animate', dict(image=['a.mp4']), 'a.mp4 has 12 frames; give a still, or'),
    (
      'extend',
      dict(video=['no.mp4']),
      '--video=.*no.mp4: there is no such',
    ),
    ('storyboard', {}, r'a prompt has parts, as A \| B, and this has'),
    ('storyboard', dict(prompts=['a\n\nb']), 'a part of a prompt is empty'),
    (
      'outpaint',
      dict(video=['a.mp4'], size=batch.Size(64, 16, 9)),
      'needs a --size larger than the 32x32 pixels of the video, not 64x16',
    ),
    (
      'outpaint',
      dict(video=['a.mp4'], size=batch.Size(64, 48, 9), place='0,24'),
      '--place=0,24: the video may lie from 0,0 to 32,16',
    ),
  ],
)
def test_wrong_combinations_are_refused_in_one_line(
  networks, files, no_jit, task, given, message
):
  with pytest.raises(ValueError, match=message) as error:
    scene(networks, files, task, **given)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('told', [False, True])
def test_inputs_are_named_where_the_prompt_is_told(files, told):
  flags = types.SimpleNamespace(
    video=[str(files / 'a.mp4')], mask=str(files / 'mask.png')
  )
  flags.label_prompt = told
  names = [each.name for each in prompting.inputs_of(flags)]
  own = ['a.mp4', 'mask.png']
  assert names == (own if told else ['input 1.mp4', 'input 2.png'])


def test_the_manifest_says_what_a_clip_was_made_from(
  networks, files, tmp_path, one_device
):
  tiny.write_model(tmp_path / 'model')
  flags = dict(model=str(tmp_path / 'model'), prompt=['a ball'], prompts=None)
  flags |= dict(seed=5, out=str(tmp_path / 'out.mp4'), format=None, steps=2)
  flags |= dict(task='extend', video=[str(files / 'a.mp4')], keep=1, frames=4)
  flags['lora'] = None
  call = lambda **given: sample.main(None, types.SimpleNamespace(**given))
  call(**flags)
  first = (tmp_path / 'manifest.jsonl').read_text()
  assert '"task": "extend"' in first and '"size": "32x32x16"' in first
  info = video.read_info(tmp_path / 'out.mp4')
  assert info == video.VideoInfo(32, 32, 16, 10.0)
  call(**flags | {'keep': 2})
  second = (tmp_path / 'manifest.jsonl').read_text()
  digest = lambda line: line.split('"scene_sha256": "')[1][:64]
  assert digest(first) != digest(second)
