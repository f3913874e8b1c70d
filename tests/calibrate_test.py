"""The curve of a cache, and what a cache saves on the model that ships."""

import types

import jax
import numpy as np
import pytest
import tiny
from etils import epath

from sora_jax import calibrate, generate, heldout, metrics, networks, paint
from sora_jax.data.worlds import balls


@pytest.fixture
def model(tmp_path):
  config = tiny.config()
  config.sample.text_slots, config.sample.cache = 128, 0.5
  path = epath.Path(tmp_path) / 'model'
  networks.write(
    path, networks.Networks(config, tiny.params(config)), 'float32'
  )
  return path


def test_the_curve_is_stored_and_no_weight_is_touched(
  model, one_device, monkeypatch, capsys
):
  monkeypatch.setattr(calibrate, 'CASES', 2)
  monkeypatch.setattr(calibrate, 'TOLERANCES', (1e-9, 9.0))
  before = networks.read(model)
  flags = types.SimpleNamespace(model=str(model), steps=3, store=True)
  calibrate.main(flags)
  after = networks.read(model)
  curve = after.config.sample.cache_curve
  assert len(curve) == 2 and min(curve) > 0
  assert networks.digest(after.params) == networks.digest(before.params)
  before.config.sample.cache_curve = curve
  assert after.config == before.config
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == f'cache_curve: {curve[0]}, {curve[1]}'
  rows = [line.split() for line in lines[3:]]
  assert [row[:2] for row in rows] == [
    *(['cache=1e-09', '3'], ['steps=3', '3']),
    *(['cache=9.0', '1'], ['steps=1', '1']),
  ]
  assert float(rows[0][2]) > 50 and rows[1][2] == 'inf'


def test_the_curve_is_the_change_of_what_euler_steps_to(model):
  """One step from a level to 0 lands on what is predicted there."""
  tiny_model = networks.read(model)
  tiny_model.config.sample.cache_curve = (1.0,)
  settings = generate.settings_of(tiny_model.config.sample)
  settings = settings._replace(steps=2, guidance=1.0, sampler='heun')
  (change,) = calibrate.curve(tiny_model, settings)
  prompt = tiny_model.config.sample.prompts[0]
  requests = [generate.Request(prompt, i) for i in range(calibrate.CLIPS)]
  shares = []
  settings = settings._replace(sampler='euler')
  for cache in (9.0, 0.0):  # one call, and two
    made = generate.sample(tiny_model, requests, settings._replace(cache=cache))
    shares.append(np.stack([clip.latent for clip in made]))
  norm = lambda x: np.sqrt(np.sum(x**2, axis=(1, 2, 3, 4)))
  first, second = shares
  expected = np.mean(norm(second - first) / norm(second))
  assert change == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize('rows', [1, 2])
@pytest.mark.parametrize('micro_batch', [1, 3, 5, 8, 16])
def test_each_clip_counts_once_in_micro_batches_of_any_size(
  model, monkeypatch, rows, micro_batch
):
  """The seeds 0 ... 7 as changes; others only fill the last micro-batch."""
  meter = lambda shared, part: np.repeat(part.seed, rows)[:, None] * 1.0
  monkeypatch.setattr(paint, 'make_meter', lambda *unused: meter)
  tiny_model = networks.read(model)
  settings = generate.settings_of(tiny_model.config.sample)
  settings = settings._replace(steps=2, micro_batch=micro_batch)
  assert calibrate.curve(tiny_model, settings) == (3.5,)


def test_a_model_without_prompts_has_no_curve(model, no_jit):
  tiny_model = networks.read(model)
  tiny_model.config.sample.prompts = ()
  settings = generate.settings_of(tiny_model.config.sample)
  with pytest.raises(ValueError, match='no sample.prompts to measure with'):
    calibrate.curve(tiny_model, settings)


def test_prompts_are_encoded_where_the_settings_say(model, monkeypatch):
  tiny_model, seen = networks.read(model), []

  def place(on_host, mesh):
    seen.append((on_host, mesh.local_devices[0]))
    raise InterruptedError  # the rest is that of the other tests

  monkeypatch.setattr(calibrate.captions, 'device_of', place)
  settings = generate.settings_of(tiny_model.config.sample)
  with pytest.raises(InterruptedError):
    calibrate.curve(tiny_model, settings._replace(text_on_host=True))
  assert seen == [(True, jax.devices()[0])]


def test_only_a_model_can_be_told_how_to_sample(tmp_path, no_jit):
  flags = types.SimpleNamespace(model=str(tmp_path), steps=None, store=True)
  with pytest.raises(ValueError, match='has no model_index.json to store in'):
    calibrate.main(flags)


@pytest.mark.slow
def test_what_ships_needs_half_the_network_for_nearly_the_same_clips():
  shipped = networks.read(networks.SHIPPED)
  settings = generate.settings_of(shipped.config.sample)
  cached = settings._replace(cache=0.05)
  calls = [calibrate.calls(shipped, one) for one in (settings, cached)]
  assert calls[0] == settings.steps >= 2 * calls[1]
  prompts = balls.held_out_prompts(heldout.SEED, 4)
  requests = [generate.Request(p, i) for i, (p, _) in enumerate(prompts)]
  made, whole = (
    [clip.video for clip in generate.sample(shipped, requests, one)]
    for one in (cached, settings)
  )
  assert min(metrics.psnr(*p) for p in zip(made, whole, strict=True)) > 30
