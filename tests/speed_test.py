"""What a clip takes is told of one clip, made twice."""

import importlib.util
import types

import pytest
import tiny
from etils import epath

from sora_jax import bench, networks, speed


def flags(model):
  fields = dict(what='speed', model=str(model), compare=None, steps=2)
  return types.SimpleNamespace(**fields, repeats=None, store=False)


@pytest.fixture
def alone(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)


@pytest.fixture
def clock(monkeypatch):
  """A clip takes as many seconds as the clock was asked for."""
  now = iter(range(1000))
  monkeypatch.setattr(speed.time, 'perf_counter', lambda: float(next(now)))


def test_the_second_clip_is_timed(tmp_path, alone, clock, capsys):
  tiny.write_model(tmp_path / 'model')
  bench.main(None, flags(tmp_path / 'model'))
  size, heads, row = capsys.readouterr().out.splitlines()[-3:]
  assert size.startswith('32x32x5, 2 steps, guidance 3.0 (cpu)')
  assert heads.split() == (
    'first s s a step decoding s whole s peak GB'.split()
  )
  # Beginning, painting and decoding, which ask twice each, and the end.
  assert row.split() == ['sora_jax', '5', '0.5', '1', '5', '0']


def test_one_clip_is_made_whatever_the_model_makes_together(
  tmp_path, alone, monkeypatch
):
  model = tiny.write_model(tmp_path / 'model')
  assert model.config.sample.micro_batch > 1
  seen = []

  def ours(networks, settings):
    seen.append(settings.micro_batch)
    return speed.Times(*[0.0] * 5)

  monkeypatch.setattr(speed, 'ours', ours)
  bench.main(None, flags(tmp_path / 'model'))
  assert seen == [1]


def test_models_that_need_more_than_a_prompt_are_refused(
  tmp_path, no_jit, monkeypatch
):
  model = networks.Networks(config := tiny.config(), {})
  monkeypatch.setattr(networks, 'read', lambda path: model)
  config.model.condition_channels = 20
  with pytest.raises(ValueError, match='makes clips from prompts alone'):
    bench.main(None, flags(epath.Path(tmp_path)))
  config.model.condition_channels = 0
  config.sample.size, config.sample.window = '32x32x33', 17
  with pytest.raises(ValueError, match='32x32x33 is longer than a window'):
    bench.main(None, flags(epath.Path(tmp_path)))
