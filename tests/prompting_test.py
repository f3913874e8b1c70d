"""Flags of `sample` to scenes: what each task reads, takes and refuses."""

import types

import numpy as np
import pytest
import tiny

from sora_jax import batch, generate, prompting, sample
from sora_jax.data import video

pytestmark = pytest.mark.usefixtures('cached_compilation')

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
  }
  for name, size in sizes.items():
    frames = rng.integers(0, 256, (*size, 3), np.uint8)
    video.write_video(folder / name, frames, 10.0)
  mask = np.zeros((1, 32, 32, 3), np.uint8)
  mask[:, :16] = 255
  video.write_video(folder / 'mask.png', mask, 10.0)
  return folder


def scene(networks, files, task, prompts=('a ball',), size=SIZE, **given):
  for name in ('image', 'video'):
    if name in given:
      given[name] = [str(files / file) for file in given[name]]
  if given.get('mask', '').endswith('.png'):
    given['mask'] = str(files / given['mask'])
  flags = types.SimpleNamespace(task=task, **given)
  return prompting.scene_of(flags, networks, size, list(prompts))


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
      [0, 0, 1],
    ),
    (
      'connect',
      dict(video=['a.mp4', 'c.mp4'], frames=7, keep=1),
      '32x32x28',
      [1, 0, 0, 1],
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
  assert made.canvas.text_of[:, 0, 0].tolist() == [1, 1, 2, 2]


def test_an_edit_takes_as_many_frames_as_fill_latents(networks, files):
  made = scene(networks, files, 'edit', video=['a.mp4'], strength=0.3)
  assert str(made.size) == '32x32x9'  # of 12
  assert (made.canvas.start == np.float32(0.3)).all()


@pytest.mark.parametrize('mask', ['mask.png', '0,0,32,16'])
def test_a_mask_is_a_file_or_a_box(networks, files, mask):
  made = scene(networks, files, 'replace', video=['a.mp4'], mask=mask)
  # Two rows of latents, and the one that saw beyond them.
  assert made.canvas.start[0, :, 0].tolist() == [1, 1, 1, 0]


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
    ('anmate', {}, '--task=anmate is unknown; choose from text, animate'),
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
    ('extend', dict(video=['a.mp4'], keep=9), 'shorter than the 33 frames'),
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
  ],
)
def test_wrong_combinations_are_refused_in_one_line(
  networks, files, task, given, message
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
