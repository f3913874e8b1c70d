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

CAPTIONS = dict.fromkeys(
  ('rolls', 'falls', 'bounces', 'wide', 'recoloured'), 'a small red ball rolls'
)
NAMES = list(showcase.tasks_of(CAPTIONS))


def test_every_task_is_shown_and_scored():
  assert set(prompting.TASKS) - {'text'} <= set(NAMES)
  assert set(prompting.TASKS) <= set(suite.TASKS)


def test_a_clip_of_each_task_says_what_it_is(tmp_path, monkeypatch, capsys):
  make, config = Blank(), tiny.config()
  config.sample.size = '64x64x33'
  monkeypatch.setattr(generate, 'make_generator', lambda *unused: make)
  monkeypatch.setattr(tasks, 'make_encoder', lambda *unused: encode)
  signed = label.of(types.SimpleNamespace())
  model = epath.Path('models/tiny')
  entries = showcase.show(
    generate.Networks(config, {}), epath.Path(tmp_path), signed, model, seed=3
  )
  printed = capsys.readouterr().out
  assert [entry.path.stem for entry in entries] == NAMES
  for entry in entries:
    name, path = entry.path.stem, entry.path
    assert str(path) in printed
    report, info = verify.verify(path), video.read_info(path)
    size = batch.Size(info.width, info.height, info.frames)
    assert report.verdict == 'valid'
    assert report.facts['size'] == str(size)
    assert report.facts['micro_batch'] == 1
    files = {'connect': 2, 'keyframes': 2, 'replace': 2}  # a mask is one
    given = name in ('animate', 'edit', 'replace', 'outpaint') or 'ext' in name
    assert len(report.inputs) == files.get(name, int(given))
  assert video.read_info(tmp_path / 'outpaint.mp4')[:2] == (80, 48)
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
  tasks_of = showcase.tasks_of
  monkeypatch.setattr(
    showcase,
    'tasks_of',
    lambda captions: {name: tasks_of(captions)[name] for name in chosen},
  )
  unlabelled = label.Label(None)
  entries = showcase.show(
    networks.read(model), epath.Path(tmp_path), unlabelled, model, seed=3
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
