"""The probe sees frames, their order and their size, and refuses what it must.

What it has learned is in `probing_test`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import sharding
from sora_jax.models import probe

CONFIG = probe.ProbeConfig(
  widths=(8, 12, 16), blocks=(1, 1, 1), features=20, classes=7
)


@pytest.fixture(scope='module')
def params():
  return sharding.unbox(probe.init(CONFIG, jax.random.key(0)))


def clip(frames, height=32, width=32):
  rng = np.random.default_rng(frames)
  return jnp.float32(rng.normal(size=(1, frames, height, width, 3)))


@pytest.mark.parametrize('size', [(1, 32, 32), (5, 16, 48), (6, 48, 16)])
def test_clips_of_every_size_are_judged(params, size):
  features, scores = probe.look(CONFIG, params, clip(*size))
  assert features.shape == (1, 20) and scores.shape == (1, 7)
  assert np.isfinite(features).all() and np.isfinite(scores).all()


def test_the_order_of_frames_is_seen(params):
  """Frames alone do not say which way a ball rolls."""
  seen = lambda video: probe.look(CONFIG, params, video)[1]
  video = clip(5)
  assert np.abs(seen(video) - seen(video[:, ::-1])).max() > 1e-3


def test_a_frame_is_heard_from_all_over_the_clip(params):
  """From the first frame to the last, by what is pooled of all."""
  video = clip(5)
  scores = lambda video: probe.look(CONFIG, params, video)[1].sum()
  slope = np.abs(jax.grad(scores)(video)).sum(axis=(0, 2, 3, 4))
  assert (slope > 1e-3).all()


def test_sizes_that_do_not_fold_are_refused():
  with pytest.raises(ValueError, match='24x32 pixels: .* multiples of 16'):
    probe.check_size(CONFIG, 32, 24)
  with pytest.raises(ValueError, match='one entry for each'):
    probe.check(probe.ProbeConfig(widths=(8,), classes=7))
  with pytest.raises(ValueError, match='from 1 on'):
    probe.check(probe.ProbeConfig())
