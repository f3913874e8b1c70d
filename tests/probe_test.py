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
  frames, height, width = size
  seen = probe.look(CONFIG, params, clip(*size))
  assert seen.features.shape == (1, 20) and seen.scores.shape == (1, 7)
  assert seen.cover.shape == (1, -(-frames // 2), height // 8, width // 8)
  assert all(np.isfinite(part).all() for part in seen)


def test_the_order_of_frames_is_seen(params):
  """Frames alone do not say which way a ball rolls."""
  seen = lambda video: probe.look(CONFIG, params, video).scores
  video = clip(5)
  assert np.abs(seen(video) - seen(video[:, ::-1])).max() > 1e-3


def test_motion_is_told_in_pixels_of_both_sizes():
  down, right = np.mgrid[:64, :64]

  def frame(t):  # moves 0.7 pixels to the right and 0.4 up
    x, y = right - 0.7 * t, down + 0.4 * t
    return 0.4 * (np.sin(0.5 * x) + np.cos(0.4 * y + 0.2 * x))

  video = np.stack([frame(t) for t in range(3)])[None, ..., None]
  told = np.asarray(probe.motion(jnp.float32(video.repeat(3, axis=-1))))
  middle = np.median(told[0, 0], axis=(0, 1))
  np.testing.assert_allclose(middle[[0, 1]], [0.7, -0.4], atol=0.05)
  np.testing.assert_allclose(middle[[3, 4]], [0.35, -0.2], atol=0.08)
  assert not told[0, 2][..., [0, 1, 3, 4]].any()  # nothing follows it


def test_motion_of_noise_is_unsure_and_small():
  rng = np.random.default_rng(0)
  video = jnp.float32(0.01 * rng.normal(size=(1, 3, 32, 32, 3)))
  right, down, sure = np.moveaxis(np.asarray(probe.motion(video)), -1, 0)[:3]
  assert max(np.abs(right).max(), np.abs(down).max()) < 0.1
  assert sure.max() < 0  # FLAT is more than its slopes


def test_what_lies_elsewhere_is_told_apart(params):
  """As one that goes left and one that goes right, seen from the middle."""
  video = jnp.zeros((1, 4, 32, 64, 3)).at[:, :, 8:16, 8:16].set(1.0)
  scores = lambda video: probe.look(CONFIG, params, video).scores
  assert np.abs(scores(video) - scores(video[:, :, :, ::-1])).max() > 1e-3


def test_a_frame_is_heard_from_all_over_the_clip(params):
  """From the first frame to the last, by what is pooled of all."""
  video = clip(5)
  scores = lambda video: probe.look(CONFIG, params, video).scores.sum()
  slope = np.abs(jax.grad(scores)(video)).sum(axis=(0, 2, 3, 4))
  assert (slope > 1e-3).all()


def test_a_place_is_covered_by_the_share_of_its_pixels_and_frames():
  mask = np.zeros((1, 3, 16, 32), bool)
  mask[0, 0, :8, 8:16] = True  # one place, in one frame of two
  mask[0, 2, 8:, 28:] = True  # half of one, in a frame that is held
  share = np.zeros((1, 2, 2, 4))
  share[0, 0, 0, 1], share[0, 1, 1, 3] = 0.5, 0.5
  np.testing.assert_allclose(probe.places(jnp.asarray(mask)), share)


def test_what_is_read_is_read_where_actors_are(params):
  """As the scores hang on a place the more, the more it seems covered."""
  video = clip(2)

  def slopes(bias):
    sure = dict(params, cover=dict(params['cover'], bias=jnp.full(1, bias)))
    scores = lambda video: probe.look(CONFIG, sure, video).scores.sum()
    return np.abs(jax.grad(scores)(video)).sum()

  assert slopes(0.0) > 1.05 * slopes(-30.0)


def test_sizes_that_do_not_fold_are_refused():
  with pytest.raises(ValueError, match='24x32 pixels: .* multiples of 16'):
    probe.check_size(CONFIG, 32, 24)
  with pytest.raises(ValueError, match='one entry for each'):
    probe.check(probe.ProbeConfig(widths=(8,), classes=7))
  with pytest.raises(ValueError, match='from 1 on'):
    probe.check(probe.ProbeConfig())
