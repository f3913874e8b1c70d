"""The loss of each level, against what the definition gives."""

import numpy as np
import pytest
import tiny

from sora_jax import flow, heldout, networks
from sora_jax.data import pipeline


@pytest.fixture(scope='module')
def found(tmp_path_factory):
  path = tmp_path_factory.mktemp('models') / 'model'
  tiny.write_model(path)
  return networks.read(path)


def data(clips=10):
  return pipeline.DataConfig(split='test', sizes=('32x32x5',), clips=clips)


def losses(found, tmp_path, monkeypatch, prediction, guess, **fields):
  """Of a network that says what `guess` does of (x_t, t)."""
  found.config.sample.text_slots = 96
  found.config.denoising.prediction = prediction
  monkeypatch.setattr(
    heldout.objectives,
    'denoise',
    lambda config, params, x, level, *unused: guess(x, level),
  )
  return heldout.loss_by_level(found, data(), tmp_path, **fields)


def test_noise_that_is_guessed_as_nothing_costs_its_variance(
  found, tmp_path, monkeypatch, one_device
):
  result = losses(
    found,
    tmp_path,
    monkeypatch,
    flow.Prediction.NOISE,
    lambda x, level: 0 * x,
    levels=(0.2, 0.5),
  )
  # In velocity 1 / (1 - t)^2 of the mean square of the same noise.
  square = result['0.2'] * 0.8**2
  assert result['0.5'] * 0.5**2 == pytest.approx(square, rel=1e-5)
  assert square == pytest.approx(1, abs=0.15)
  assert not list(tmp_path.iterdir())


def test_a_guess_of_noise_alone_errs_by_the_data(
  found, tmp_path, monkeypatch, one_device
):
  # x_t / t is the noise, but for (1 - t) / t of the data, in both of them.
  result = losses(
    found,
    tmp_path,
    monkeypatch,
    flow.Prediction.NOISE,
    lambda x, level: x / level[:, :1, None],
    levels=(0.2, 0.5, 0.8),
  )
  # ((1 - t) / t)^2 / (1 - t)^2 = 1 / t^2 of one mean square of the data.
  squares = [result[f'{t:g}'] * t**2 for t in (0.2, 0.5, 0.8)]
  np.testing.assert_allclose(squares, squares[0], rtol=1e-3)


def test_the_same_clips_give_the_same_loss(found, tmp_path, one_device):
  found.config.denoising.prediction = flow.Prediction.X0
  first, again = (
    heldout.loss_by_level(found, data(3), tmp_path, levels=(0.5,))
    for _ in range(2)
  )
  assert first == again and first['0.5'] > 0
