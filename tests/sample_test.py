"""Prompts to files: names, the manifest, what is made again and what is not."""

import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import tiny
from etils import epath

from sora_jax import (
  batch,
  generate,
  label,
  networks,
  provenance,
  sample,
  sharding,
  tasks,
  verify,
)
from sora_jax.data import video
from sora_jax.models import lora
from sora_jax.weights import adapters

ROOT = pathlib.Path(__file__).parent.parent
PROMPTS = ('a small red ball rolls right', 'a large blue ball!')


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  path = epath.Path(tmp_path_factory.mktemp('models')) / 'model'
  tiny.write_model(path)
  return path


@pytest.fixture
def call(model, tmp_path, one_device):
  """Calls the verb with some flags; returns the rows of its manifest."""

  def call(**given):
    flags = dict(model=str(model), prompt=list(PROMPTS), prompts=None, seed=5)
    flags |= dict(out=str(tmp_path / 'out'), format=None, steps=2, task='text')
    flags['lora'] = None
    sample.main(None, types.SimpleNamespace(**(flags | given)))
    out = pathlib.Path(given.get('out', flags['out']))
    folder = out.parent if out.suffix else out
    lines = (folder / 'manifest.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]

  return call


def before_signing(row):
  return {name: row[name] for name in row if name != 'file_sha256'}


def test_adapters_of_a_file_are_added(call, model, tmp_path):
  config = networks.read(model).config
  boxed = networks.abstract(config, 'dit')
  fresh = lora.init(lora.LoRAConfig(rank=2), boxed, jax.random.key(0))
  added = jax.tree.map(lambda x: 0.3 + x, sharding.unbox(fresh))
  adapters.write(tmp_path, added, 'float32')
  plain = call()
  adapted = call(
    lora=[str(tmp_path / f'{adapters.STEM}.safetensors')],
    out=str(tmp_path / 'adapted'),
  )
  for name in ('latent_sha256', 'weights_sha256'):
    assert plain[0][name] != adapted[0][name]


def test_a_guidance_that_leaves_out_the_only_step_is_refused(call):
  with pytest.raises(ValueError, match='--steps=1 has no other; take 2'):
    call(guidance_rule='zero_star', steps=1)


def test_clips_are_made_beside_a_run_on_many_devices(model, tmp_path):
  """As while training, where the mesh of the run is there."""
  found = networks.read(model)
  found.config.sample.prompts = ('a ball',)
  found.config.sample.steps = 1
  with sharding.use(sharding.make_mesh(sharding.MeshConfig())):
    out = epath.Path(tmp_path / 'made')
    sample.sample_while_training(found.config, found.params, out)
  names = sorted(path.name for path in (tmp_path / 'made').iterdir())
  assert names == ['0000_a_ball_seed0.mp4', 'sheet.png']


def test_a_scale_is_that_of_both_experts_unless_two_are_given(model):
  one = generate.settings_of(networks.read(model).config.sample)
  two = one._replace(boundary=0.875)
  scales = lambda settings, **flags: tuple(
    getattr(sample.override(settings, types.SimpleNamespace(**flags)), name)
    for name in ('guidance', 'guidance_below')
  )
  assert scales(two, guidance=1.5) == (1.5, 1.5)
  assert scales(two, guidance=1.5, guidance_below=2.0) == (1.5, 2.0)
  assert scales(two, guidance_below=2.0) == (two.guidance, 2.0)
  # A model without a second expert has no scale for it, which its card keeps.
  assert scales(one, guidance=1.5) == (1.5, one.guidance_below)


@pytest.fixture
def count_made(monkeypatch):
  """Counts the clips that are asked of the generator."""
  asked = []

  class Counted(generate.Stream):
    def __call__(self, requests):
      asked.append(len(requests))
      return super().__call__(requests)

  monkeypatch.setattr(generate, 'Stream', Counted)
  return asked


def test_each_prompt_becomes_a_file_with_a_line_of_the_manifest(
  call, model, tmp_path, capsys
):
  rows = call()
  names = [
    '0000_a_small_red_ball_rolls_right_seed5.mp4',
    '0001_a_large_blue_ball_seed6.mp4',
  ]
  assert [row['file'] for row in rows] == names
  assert [row['prompt'] for row in rows] == list(PROMPTS)
  assert [row['seed'] for row in rows] == [5, 6]
  printed = capsys.readouterr().out
  for row in rows:
    path = tmp_path / 'out' / row['file']
    info = video.read_info(path)
    assert info == video.VideoInfo(32, 32, 5, 10.0)
    assert f'{path}  latent {row["latent_sha256"][:16]}' in printed
    assert row['steps'] == 2 and row['size'] == '32x32x5'
    assert len(row['weights_sha256']) == 64


@pytest.mark.parametrize(
  ('learned', 'said'),
  [
    ((), ''),
    (('32x32x5', '64x48x5'), ''),  # a clip of other frames is made in windows
    (('64x64x33', '32x32x1', '80x48x33'), 'clips of 64x64, 80x48; at 32x32'),
    (('32x32x1',), 'learned no clips'),
    ([f'{k}x8x5' for k in range(8, 20)], '15x8 and 4 more; at'),
  ],
)
def test_a_size_that_a_model_did_not_learn_is_noted(learned, said):
  note = sample.unlearned(batch.Size(32, 32, 9), learned)
  assert said in note and bool(said) == bool(note)


def test_a_second_call_makes_what_is_missing_or_changed_only(
  call, count_made, tmp_path
):
  rows = call()
  assert call() == rows
  assert count_made == [2]
  first, second = (tmp_path / 'out' / row['file'] for row in rows)
  first.unlink()
  # What is made again has a signature of its own.
  assert [before_signing(row) for row in call()] == [
    before_signing(row) for row in rows
  ]
  assert count_made[-1] == 1 and first.exists()
  data = bytearray(second.read_bytes())
  data[-1] ^= 1
  second.write_bytes(data)
  rows = call()
  assert count_made[-1] == 1
  assert second.read_bytes() != bytes(data)
  known = {row['latent_sha256'] for row in rows}
  for change in (dict(seed=6), dict(seed=6, steps=1)):
    others = call(**change)
    assert count_made[-1] == 2
    # Other seeds have files of their own; another number of steps has not.
    new = [row for row in others if row not in rows]
    assert len(others) == 4 and len(new) == 2
    made = {row['latent_sha256'] for row in new}
    assert len(made) == 2 and not made & known
    known |= made


def test_a_long_clip_is_written_as_it_is_made(call, model, tmp_path):
  """In four windows, behind what is kept of a video and the rest of it."""
  tiny.write_videos(tmp_path / 'given', [(12, 32, 32)])
  given = str(tmp_path / 'given' / '0.mp4')
  asked = dict(prompt=['a ball'], seed=3, window=17)
  (row,) = call(task='extend', video=[given], frames=48, keep=1, **asked)
  path = tmp_path / 'out' / row['file']
  assert video.read_info(path).frames == 12 + 48 == int(row['size'][6:])
  kept = video.read_frames(path, 0, 12).astype(int)
  difference = kept - video.read_frames(given, 0, 12)
  assert np.abs(difference).mean() < 8  # but for being encoded twice
  found = networks.read(model)
  settings = generate.settings_of(found.config.sample)
  settings = settings._replace(window=17, steps=row['steps'])
  scene = tasks.extend(
    tasks.make_encoder(found), video.read_frames(given, 0, 12), 48, latents=1
  )
  request = generate.Request('a ball', 3, scene.canvas)
  (made,) = generate.sample(found, [request], settings)
  assert made.digest == row['latent_sha256']


def test_a_card_has_the_flags_of_xla_on_a_gpu_alone(model, monkeypatch):
  found = networks.read(model)
  settings = generate.settings_of(found.config.sample)
  monkeypatch.setenv('XLA_FLAGS', '--xla_test=1')
  assert 'xla_flags' not in sample.card(found, settings)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert sample.card(found, settings)['xla_flags'] == '--xla_test=1'


def test_a_card_counts_the_curve_of_a_cache_that_a_flag_turns_on(model):
  found = networks.read(model)
  settings = generate.settings_of(found.config.sample)
  on = settings._replace(cache=0.1)
  cards = []
  for curve in ((0.5,), (0.25,)):
    found.config.sample.cache_curve = curve
    cards.append([sample.card(found, one) for one in (settings, on)])
  (off, one), (still_off, other) = cards
  assert off == still_off and one != other


def test_prompts_of_a_file_follow_those_of_flags(call, tmp_path):
  file = tmp_path / 'prompts.txt'
  file.write_text('one\n\n  two  \n')
  rows = call(prompt=['zero'], prompts=str(file))
  assert [(r['prompt'], r['seed']) for r in rows] == [
    ('zero', 5),
    ('one', 6),
    ('two', 7),
  ]


@pytest.mark.parametrize('suffix', ['gif', 'webp'])
def test_a_format_is_chosen_by_flag(call, tmp_path, suffix):
  rows = call(prompt=['one'], format=suffix)
  assert rows[0]['file'] == f'0000_one_seed5.{suffix}'
  assert video.read_info(tmp_path / 'out' / rows[0]['file']).frames == 5


@pytest.mark.parametrize('name', ['still.png', 'still.jpg'])
def test_a_picture_is_one_frame_in_a_file_of_its_own_name(call, tmp_path, name):
  out = tmp_path / name
  size = generate.batch.parse_size('32x16')
  (row,) = call(prompt=['one'], out=str(out), size=size)
  assert row['file'] == name
  assert video.read_frames(out, 0, 1).shape == (1, 16, 32, 3)


def test_files_are_labelled_with_what_made_them(call, tmp_path):
  row, _ = call(visible_label=True, negative='a secret')
  report = verify.verify(tmp_path / 'out' / row['file'])
  assert report.verdict == 'valid'
  said = ('model', 'weights_sha256', 'seed', 'size', 'steps', 'latent_sha256')
  assert {name: report.facts[name] for name in said} == {
    name: row[name] for name in said
  }
  assert 'prompt' not in report.facts
  assert row['negative'] == 'a secret' and 'negative' not in report.facts
  data = (tmp_path / 'out' / row['file']).read_bytes()
  assert PROMPTS[0].encode() not in data and b'secret' not in data
  # Another label makes the file again; none makes no label.
  row, _ = call(label_prompt=True, negative='a secret')
  report = verify.verify(tmp_path / 'out' / row['file'])
  assert report.facts['prompt'] == PROMPTS[0]
  assert report.facts['negative'] == 'a secret'
  row, _ = call(unlabelled=True)
  assert row['signed_by'] == '' and row['file_sha256'] == row['video_sha256']
  report = verify.verify(tmp_path / 'out' / row['file'])
  assert report.verdict == 'unlabelled'


def test_a_video_that_goes_on_names_the_one_before(call, tmp_path):
  before, _ = call()
  path = tmp_path / 'out' / before['file']
  given = dict(task='extend', video=[str(path)], keep=1, frames=4)
  row, *_ = call(out=str(tmp_path / 'more'), prompt=['on'], **given)
  report = verify.verify(tmp_path / 'more' / row['file'])
  assert (
    (row['frames'], row['keep'])
    == (4, 1)
    == (
      report.facts['frames'],
      report.facts['keep'],
    )
  )
  # The file is named after its prompt.
  assert b'ball' not in (tmp_path / 'more' / row['file']).read_bytes()
  assert report.verdict == 'valid'
  assert report.source_type == 'compositeWithTrainedAlgorithmicMedia'
  ((name, role, label, generator),) = report.inputs
  assert (name, role, label) == ('input 1.mp4', 'parentOf', 'valid')
  assert generator.startswith('sora_jax')


def test_an_input_is_read_once_for_all_prompts(call, tmp_path, monkeypatch):
  before, _ = call()
  path = tmp_path / 'out' / before['file']
  data, seen, read = path.read_bytes(), [], provenance.read
  counted = lambda *args: seen.append(args[0]) or read(*args)
  monkeypatch.setattr(provenance, 'read', counted)
  given = dict(task='extend', video=[str(path)], keep=1, frames=4)
  call(out=str(tmp_path / 'more'), **given)
  assert len(seen) == 3 and seen.count(data) == 1  # and each of two results


def test_a_full_disk_is_told_and_leaves_what_was_made(
  call, tmp_path, monkeypatch
):
  publish = video.publish

  def full(path, data):
    if '0001' in path.name:
      raise OSError(28, 'No space left on device', str(path))
    publish(path, data)

  monkeypatch.setattr(video, 'publish', full)
  with pytest.raises(OSError, match='No space left'):
    call()
  monkeypatch.undo()
  out = tmp_path / 'out'
  assert len((out / 'manifest.jsonl').read_text().splitlines()) == 1
  before = (out / '0000_a_small_red_ball_rolls_right_seed5.mp4').read_bytes()
  assert len(call()) == 2
  after = (out / '0000_a_small_red_ball_rolls_right_seed5.mp4').read_bytes()
  assert before == after


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (dict(prompt=[]), 'no prompt: give --prompt=TEXT or --prompts=FILE'),
    (dict(out='one.mp4'), 'one.mp4 is one file, and there are 2 prompts'),
    (dict(prompt=['a'], out='a.mov'), "cannot write type '.mov'; one of .mp4"),
    (dict(format='jpg'), 'jpg holds 1 frame, not 5; .* --size=32x32'),
    (
      dict(unlabelled=True, label_prompt=True, tsa_url='http://a'),
      '--unlabelled leaves nothing for --label_prompt, --tsa_url to do',
    ),
    (dict(certificate='a.pem'), '--certificate is given alone; give both'),
    (dict(tsa_url='a.org'), '--tsa_url=a.org is not http://... or https://...'),
    (dict(format='png'), 'png holds 1 frame, not 5; .* --size=32x32'),
    (dict(model='nowhere'), 'nowhere: no such directory; give a model'),
  ],
)
def test_what_cannot_be_written_is_refused_before_it_is_made(
  call, no_jit, given, message
):
  with pytest.raises(ValueError, match=message) as error:
    call(**given)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (dict(window=7), 'window=7 frames must be 1 . 4 k'),
    (dict(overlap=9), 'overlap=9 latents must be from 1 to 7'),
    (dict(cache=0.1), 'cache=0.1: the model has no cache_curve'),
    (dict(sampler='eular'), "sampler 'eular' is unknown"),
    (
      dict(sampler='unipc', guidance_rule='zero_star'),
      'zero_star stands still at first, and sampler unipc would go on',
    ),
    (dict(seed=2**32), 'seed 4294967296 must be from 0 to 4294967294'),  # two
    (dict(steps=0), 'steps=0 must be 1 or more'),
  ],
)
def test_settings_are_checked_before_an_input_is_encoded(
  call, tmp_path, no_jit, given, message
):
  tiny.write_videos(tmp_path / 'in', [(9, 32, 32)])
  given |= dict(task='extend', video=[str(tmp_path / 'in' / '0.mp4')])
  with pytest.raises(ValueError, match=message):
    call(**given)
  assert not (tmp_path / 'out').exists()


def test_samples_of_a_training_run_have_a_sheet(one_device, tmp_path):
  config = tiny.config()
  config.sample.prompts = PROMPTS
  config.sample.steps = 1
  folder = epath.Path(tmp_path) / 'samples' / '4'
  sample.sample_while_training(config, tiny.params(config), folder)
  assert len(list(folder.glob('*.mp4'))) == 2
  sheet = video.read_frames(folder / 'sheet.png', 0, 1)[0]
  assert sheet.shape == (2 * (32 + 14), 8 * 32, 3)
  assert np.std(sheet[:32]) > 1


def test_two_processes_on_other_numbers_of_cores_give_the_same_bytes(
  model, tmp_path
):
  hashes = []
  for devices in (1, 2):
    out = tmp_path / f'{devices}'
    environment = os.environ | {
      'JAX_PLATFORMS': 'cpu',
      'JAX_NUM_CPU_DEVICES': str(devices),
    }
    subprocess.run(
      [
        *(sys.executable, 'launch.py', 'sample', f'--model={model}'),
        *(f'--prompt={prompt}' for prompt in (*PROMPTS, 'three')),
        *('--seed=9', '--steps=2', '--micro_batch=2', f'--out={out}'),
      ],
      cwd=ROOT,
      env=environment,
      check=True,
    )
    rows = map(json.loads, (out / 'manifest.jsonl').read_text().splitlines())
    hashes.append([(r['latent_sha256'], r['video_sha256']) for r in rows])
  assert hashes[0] == hashes[1]
  assert len(set(hashes[0])) == 3


def test_an_input_whose_label_changed_is_an_input_that_changed(
  call, tmp_path, capsys
):
  pixels = np.full((1, 32, 32, 3), 90, np.uint8)
  image = epath.Path(tmp_path) / 'image.png'
  asked = dict(task='animate', image=[str(image)], prompt=['a red ball'])
  for made, label_of in (
    (label.Label(None), 'unlabelled'),
    (label.of(types.SimpleNamespace()), 'valid'),
  ):
    label.write(image, [pixels], 1.0, made, lambda: {'seed': 1})
    (row,) = call(**asked)
    (given,) = verify.verify(tmp_path / 'out' / row['file']).inputs
    assert given.label == label_of
  assert '1 were made otherwise' in capsys.readouterr().out
  call(**asked)
  assert '1 of 1 are there already' in capsys.readouterr().out
