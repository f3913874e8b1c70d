"""Every way of prompting is shown, and the labels of its clips are true."""

import types

import tiny
from etils import epath
from suite_test import Blank, encode

from sora_jax import (
  batch,
  generate,
  label,
  prompting,
  showcase,
  suite,
  tasks,
  verify,
)
from sora_jax.data import video


def test_every_task_is_shown_and_scored():
  assert set(prompting.TASKS) - {'text'} <= set(showcase.TASKS)
  assert set(prompting.TASKS) <= set(suite.TASKS)


def test_a_clip_of_each_task_says_what_it_is(tmp_path, monkeypatch, capsys):
  make, networks = Blank(), tiny.config()
  networks.sample.size = '64x64x33'
  networks = generate.Networks(networks, {})
  monkeypatch.setattr(generate, 'make_generator', lambda *unused: make)
  monkeypatch.setattr(tasks, 'make_encoder', lambda networks: encode)
  signed = label.of(types.SimpleNamespace())
  showcase.show(networks, epath.Path(tmp_path), signed, 'tiny', seed=3)
  printed = capsys.readouterr().out
  for name in showcase.TASKS:
    (path,) = tmp_path.glob(f'{name}.*')
    assert str(path) in printed
    report, info = verify.verify(epath.Path(path)), video.read_info(path)
    size = batch.Size(info.width, info.height, info.frames)
    assert report.verdict == 'valid'
    assert report.facts['size'] == str(size)
    assert report.facts['micro_batch'] == 1
    files = {'connect': 2, 'keyframes': 2}
    given = name in ('animate', 'edit', 'replace', 'outpaint') or 'ext' in name
    assert len(report.inputs) == files.get(name, int(given))
  assert video.read_info(tmp_path / 'outpaint.mp4')[:2] == (80, 48)
  assert video.read_info(tmp_path / 'long.mp4').frames == showcase.LONG
  assert {request.seed for request in make.asked} == {3}
