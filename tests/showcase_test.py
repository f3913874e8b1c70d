"""Every way of prompting is shown, and the labels of its clips are true."""

import shlex
import subprocess
import sys
import types

import numpy as np
import pytest
import tiny
from absl import flags as absl_flags
from etils import epath
from suite_test import Blank, encode

import launch
from sora_jax import (
  batch,
  cli,
  examples,
  examples_balls,
  generate,
  label,
  networks,
  prompting,
  sample,
  showcase,
  suite,
  tasks,
  verify,
)
from sora_jax.data import video
from sora_jax.data.worlds import captions, scenes

WORLDS = list(showcase.EXAMPLES)
CAPTIONS = {
  'balls': dict.fromkeys(
    ('rolls', 'falls', 'bounces', 'wide', 'recoloured'),
    'a small red ball rolls',
  ),
  'scenes': dict.fromkeys(examples.CLIPS, 'a green fish swims'),
}
WIDE = {'balls': (80, 48), 'scenes': (160, 96)}


@pytest.mark.parametrize('world', WORLDS)
def test_every_task_is_shown_and_scored(world):
  shown = showcase.EXAMPLES[world].tasks_of(CAPTIONS[world]).values()
  of_task = {one.flags.get('task', 'text') for one in shown}
  assert set(prompting.TASKS) == of_task
  assert set(prompting.TASKS) <= set(suite.TASKS)


@pytest.mark.parametrize('world', WORLDS)
def test_prompts_promise_what_can_be_told(world):
  read = {'balls': captions.attributes, 'scenes': scenes.attributes}[world]
  told = [read(prompt) for prompt in showcase.EXAMPLES[world].PROMPTS]
  assert len(told) == 8
  if world == 'scenes':
    for said in told:
      for name in ('object', 'colour', 'event', 'place', 'count'):
        assert getattr(said, name), said


@pytest.mark.parametrize('world', WORLDS)
def test_a_clip_of_each_task_says_what_it_is(
  tmp_path, monkeypatch, capsys, world
):
  make, config = Blank(), tiny.config()
  config.sample.size = '64x64x33'
  monkeypatch.setattr(generate, 'make_generator', lambda *unused: make)
  monkeypatch.setattr(tasks, 'make_encoder', lambda *unused: encode)
  signed = label.of(types.SimpleNamespace())
  model = epath.Path('models/tiny')
  entries = showcase.show(
    world,
    generate.Networks(config, {}),
    epath.Path(tmp_path),
    signed,
    model,
    seed=3,
  )
  printed = capsys.readouterr().out
  shown = showcase.EXAMPLES[world].tasks_of(CAPTIONS[world])
  assert [entry.path.stem for entry in entries] == list(shown)
  for entry in entries:
    name, path = entry.path.stem, entry.path
    assert str(path) in printed
    report, info = verify.verify(path), video.read_info(path)
    size = batch.Size(info.width, info.height, info.frames)
    assert report.verdict == 'valid'
    assert report.facts['size'] == str(size)
    assert report.facts['micro_batch'] == 1
    flags = shown[name].flags
    files = {'connect': 2, 'keyframes': 2, 'replace': 2}  # a mask is one
    single = 'image' in flags or 'video' in flags
    assert len(report.inputs) == files.get(flags.get('task'), int(single))
  assert video.read_info(tmp_path / 'outpaint.mp4')[:2] == WIDE[world]
  assert video.read_info(tmp_path / 'long.mp4').frames == 121
  assert {request.seed for request in make.asked} == {3}
  networks_ = generate.Networks(config, {})
  settings = generate.settings_of(config.sample)
  for entry, request in zip(entries, make.asked, strict=True):
    words = shlex.split(entry.command)[1:]
    flags = cli.parse(launch.VERBS, words, absl_flags.FlagValues()).flags
    assert (flags.model, flags.micro_batch) == ('models/tiny', 1)
    (again,) = sample.read_requests(flags)
    assert again[:2] == request[:2]
    asked = sample.override(settings, flags)
    scene = prompting.scene_of(flags, networks_, asked, [again.prompt])
    for one, other in zip(scene.canvas, request.canvas, strict=True):
      np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_command_of_a_task_makes_the_same_latent(tmp_path, monkeypatch):
  """As the page of the demo promises, in another process."""
  shipped = networks.read(networks.SHIPPED)
  model = epath.Path(tmp_path) / 'model'
  shipped.config.sample.steps = 2
  networks.write(model, shipped, 'float32')
  chosen = ('connect', 'replace', 'long')
  tasks_of = examples_balls.tasks_of
  monkeypatch.setattr(
    examples_balls,
    'tasks_of',
    lambda captions: {name: tasks_of(captions)[name] for name in chosen},
  )
  unlabelled = label.Label(None)
  entries = showcase.show(
    'balls',
    networks.read(model),
    epath.Path(tmp_path),
    unlabelled,
    model,
    seed=3,
  )
  for entry in entries:
    command = shlex.split(entry.command)[1:]
    out = f'--out={tmp_path}/again/{entry.path.name}'
    run = subprocess.run(
      [sys.executable, *command, out, '--unlabelled'],
      capture_output=True,
      text=True,
      check=True,
    )
    assert f'latent {entry.latent[:16]}' in run.stdout, entry.command


def test_a_box_leaves_room_around_what_is_replaced():
  mask = np.zeros((2, 32, 32), bool)
  mask[0, 3:6, 12:20] = True
  boxes = examples.boxes(mask)
  assert boxes.shape == (2, 32, 32, 3)
  inside = boxes[0, :, :, 0] == 255
  margin = examples.MARGIN
  assert inside[: 6 + margin, 12 - margin : 20 + margin].all()
  assert inside.sum() == (6 + margin) * (8 + 2 * margin)
  assert not boxes[1].any()
