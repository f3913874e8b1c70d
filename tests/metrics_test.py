"""Scores have the values that their definitions give by hand."""

import math

import numpy as np
import pytest

from sora_jax import batch, metrics
from sora_jax.data.worlds import balls, captions

SIZE = batch.Size(64, 64, 33)


def grey(shade, frames=2, height=9, width=8):
  return np.full((frames, height, width, 3), shade, np.uint8)


def noise(seed, frames=2, height=9, width=11):
  generator = np.random.default_rng(seed)
  shape = (frames, height, width, 3)
  return generator.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
  'difference, expected',
  [(255, 0.0), (1, 20 * math.log10(255)), (51, 20 * math.log10(5))],
)
def test_psnr_of_an_even_difference_is_known(difference, expected):
  found = metrics.psnr(grey(0), grey(difference))
  assert found == pytest.approx(expected, abs=1e-9)
  assert metrics.psnr(grey(difference), grey(0)) == found


def test_psnr_pools_the_error_of_all_frames():
  # Half of the frames are off by 255, so the mean square is half its peak.
  video = np.concatenate([grey(0, 1), grey(255, 1)])
  expected = 10 * math.log10(2)
  assert metrics.psnr(video, grey(0)) == pytest.approx(expected)


def test_psnr_of_equal_videos_is_infinite():
  assert metrics.psnr(noise(0), noise(0)) == math.inf


def test_ssim_of_equal_videos_is_one():
  assert metrics.ssim(noise(0), noise(0)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize('a, b', [(0, 255), (100, 110), (20, 200)])
def test_ssim_of_flat_pictures_compares_their_brightness(a, b):
  c1 = (0.01 * 255) ** 2
  expected = (2 * a * b + c1) / (a * a + b * b + c1)
  assert metrics.ssim(grey(a), grey(b)) == pytest.approx(expected, rel=1e-6)


def test_ssim_of_a_negative_is_negative():
  video = noise(0)
  assert metrics.ssim(255 - video, video) < -0.5


def test_ssim_falls_as_noise_grows():
  generator = np.random.default_rng(1)
  video = noise(0, height=16, width=16) // 2 + 64
  scores = []
  for strength in (0, 5, 20, 60):
    noisy = video + strength * generator.normal(size=video.shape)
    noisy = np.clip(noisy, 0, 255).astype(np.uint8)
    scores.append(metrics.ssim(noisy, video))
  assert scores == sorted(scores, reverse=True) and scores[-1] < 0.7


def test_ssim_is_its_formula_window_by_window():
  x, y = noise(0), (0.6 * noise(0) + 0.4 * noise(1)).astype(np.uint8)
  luma = lambda v: 0.299 * v[..., 0] + 0.587 * v[..., 1] + 0.114 * v[..., 2]
  X, Y = luma(x.astype(float)), luma(y.astype(float))
  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  scores = []
  for t in range(2):
    for i in range(9 - 6):
      for j in range(11 - 6):
        a = X[t, i : i + 7, j : j + 7].ravel()
        b = Y[t, i : i + 7, j : j + 7].ravel()
        (aa, ab), (_, bb) = np.cov(a, b)
        scores.append(
          (2 * a.mean() * b.mean() + c1)
          * (2 * ab + c2)
          / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (aa + bb + c2))
        )
  assert metrics.ssim(x, y) == pytest.approx(np.mean(scores), rel=1e-9)


@pytest.fixture(scope='module')
def clips():
  return [balls.clip(0, i, SIZE)[0] for i in range(6)]


def test_true_clips_keep_what_their_captions_promise(clips):
  found = metrics.tally([c.video for c in clips], [c.caption for c in clips])
  assert found.cases == 6
  shares = (found.colour, found.direction, found.law, found.size)
  assert min(shares) >= 5 / 6
  assert found.velocity_error < 0.05


def test_an_empty_picture_misses_by_all_the_speed_it_owes():
  prompts = [
    'a small red ball rolls right at speed 2.0',
    'a large blue ball thrown left at speed 3.0 falls',
  ]
  white = np.full((9, 64, 64, 3), 255, np.uint8)
  found = metrics.tally([white, white], prompts)
  assert found[:5] == (2, 0, 0, 0, 0)
  owed = 2.5 - captions.SPEED_ROUNDING
  assert found.velocity_error == pytest.approx(owed)


def test_shares_are_over_all_cases(clips):
  white = np.full_like(clips[0].video, 255)
  videos = [clips[0].video, white, white, white]
  found = metrics.tally(videos, [clips[0].caption] * 4)
  assert found[:5] == (4, 0.25, 0.25, 0.25, 0.25)


def test_every_video_needs_its_prompt(clips):
  with pytest.raises(ValueError):
    metrics.tally([clips[0].video], [])


def test_flicker_is_of_errors_that_change():
  video = noise(0, frames=6)
  assert metrics.flicker(video, video) == 0
  # An error that stays is none, one that comes and goes is twice its size.
  assert metrics.flicker(grey(9, 6), grey(4, 6)) == 0
  blinking = grey(100, 6)
  blinking[::2] += 5
  assert metrics.flicker(blinking, grey(100, 6)) == pytest.approx(5)
  assert metrics.flicker(grey(1, 1), grey(2, 1)) == 0


def test_an_interval_holds_the_true_share_as_often_as_it_says():
  # By hand, of 10 out of 20.
  low, high = metrics.interval(0.5, 20)
  assert (low, high) == pytest.approx((0.2993, 0.7007), abs=1e-4)
  assert metrics.interval(1.0, 64) == pytest.approx((0.9434, 1.0), abs=1e-4)
  shares = np.random.default_rng(0).binomial(64, 0.9, 20000) / 64
  ends = [metrics.interval(share, 64) for share in np.unique(shares)]
  inside = [low <= 0.9 <= high for low, high in ends]
  held = np.array(inside)[np.searchsorted(np.unique(shares), shares)].mean()
  assert held == pytest.approx(0.95, abs=0.02)


def test_the_table_lines_up_under_its_header():
  tally = metrics.Tally(3, 1.0, 0.5, 0.25, 0.0, 1.23456)
  row = str(tally)
  assert len(row) == len(metrics.TALLY_HEADER)
  assert tally.intervals().startswith('44-100 %  13-87 %')
  values = row.replace('%', '').split()
  assert values == ['100.0', '50.0', '25.0', '0.0', '1.235']


def test_an_interval_holds_its_share():
  for cases in range(1, 300):
    for share in (0.0, 1 / cases, 1.0):
      low, high = metrics.interval(share, cases)
      assert 0 <= low <= share <= high <= 1
