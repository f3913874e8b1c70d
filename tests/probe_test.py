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
  widths=(8, 12, 16), blocks=(1, 1, 1), features=20, classes=7, motions=3
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
  assert seen.motions.shape == (1, -(-frames // 2), 3)
  assert all(np.isfinite(part).all() for part in seen)


def test_the_order_of_frames_is_seen(params):
  """Frames alone do not say which way a ball rolls."""
  seen = lambda video: probe.look(CONFIG, params, video).scores
  video = clip(5)
  assert np.abs(seen(video) - seen(video[:, ::-1])).max() > 1e-3


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


@pytest.mark.parametrize(('down', 'right'), [(0, 1), (1, 0), (-1, 2), (2, -3)])
def test_motions_are_found_from_slopes(down, right):
  """Of a picture of smooth waves that moves by whole pixels, at some scale."""
  y, x = np.mgrid[:64, :64] * 2 * np.pi / 64
  wave = np.sin(2 * x + 0.5) + np.cos(2 * y) + np.sin(x - y)
  moved = np.roll(wave, (down, right), axis=(0, 1))
  video = np.stack([wave, moved], 0)[None, ..., None].repeat(3, -1) / 3
  found = probe.motion(jnp.float32(video))[0, 0, 2:-2, 2:-2].reshape(-1, 3, 3)
  found = np.median(found, axis=0)
  for scale, (along, downwards, sure) in zip(probe.SCALES, found, strict=True):
    error = np.hypot(along * scale - right, downwards * scale - down)
    assert error < 0.15 * np.hypot(right, down) and sure > 0, (scale, error)


def test_a_place_without_slopes_does_not_move():
  flat = np.full((1, 3, 16, 16, 3), 0.3, np.float32)
  flat[:, 1:] += 0.1  # it only grows lighter
  found = probe.motion(jnp.asarray(flat)).reshape(-1, 3, 3)
  np.testing.assert_allclose(found[:, :, :2], 0, atol=1e-6)


def test_pairs_are_means_and_the_last_frame_is_held():
  motions = jnp.float32([[[1, 2], [3, 4], [5, 9]]])
  np.testing.assert_allclose(probe.pairs(motions), [[[2, 3], [5, 9]]])


def test_sizes_that_do_not_fold_are_refused():
  with pytest.raises(ValueError, match='24x32 pixels: .* multiples of 16'):
    probe.check_size(CONFIG, 32, 24)
  with pytest.raises(ValueError, match='one entry for each'):
    probe.check(probe.ProbeConfig(widths=(8,), classes=7, motions=3))
  with pytest.raises(ValueError, match='from 1 on'):
    probe.check(probe.ProbeConfig())
