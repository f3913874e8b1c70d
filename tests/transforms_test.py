"""Transforms keep shapes, aspect and text; their draws have names."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from sora_jax.data import transforms

SLOPE = 2  # shades a pixel


def ramp(width, height, frames=2):
  """Red grows to the right and green downwards, by `SLOPE` a pixel."""
  video = np.zeros((frames, height, width, 3), np.uint8)
  video[..., 0] = SLOPE * np.arange(width)
  video[..., 1] = SLOPE * np.arange(height)[:, None]
  return video


def zoom(video):
  """(across, down): how much larger than the ramp a picture of it is."""
  # Edges are left out: a resampling filter flattens them.
  inner = video[0, 2:-2, 2:-2].astype(float)
  across = np.polyfit(np.arange(inner.shape[1]), inner[..., 0].mean(0), 1)[0]
  down = np.polyfit(np.arange(inner.shape[0]), inner[..., 1].mean(1), 1)[0]
  return SLOPE / across, SLOPE / down


def disc(width, height, radius):
  y, x = np.mgrid[:height, :width]
  inside = np.hypot(x + 0.5 - width / 2, y + 0.5 - height / 2) < radius
  return np.where(inside, 0, 255).astype(np.uint8)[None, ..., None].repeat(3, 3)


def draws(*name):
  return transforms.generator(*name).integers(2**32, size=4).tolist()


def test_ids_are_the_bytes_shifted_by_three_and_an_end():
  assert transforms.byte_ids('aé', 4) == [97 + 3, 0xC3 + 3, 0xA9 + 3, 1]
  assert transforms.byte_ids('', 1) == [1]


@pytest.mark.parametrize('caption', ['ab', 'é'])
def test_a_caption_fits_with_its_end_token_or_is_refused(caption):
  assert len(transforms.byte_ids(caption, 3)) == 3
  with pytest.raises(ValueError, match=f"2 bytes .* 2 text slots.*'{caption}'"):
    transforms.byte_ids(caption, 2)


def test_ids_stay_within_the_vocabulary_and_off_the_padding():
  # UTF-8 never uses the byte 255, so the largest id may not occur.
  ids = transforms.byte_ids('\x00\U0010ffff', 9)
  assert transforms.PAD not in ids
  assert max(ids) < transforms.BYTE_VOCABULARY == 259


@pytest.mark.parametrize('size', [(30, 10), (12, 40), (60, 40), (90, 50)])
def test_cover_gives_the_size_at_native_aspect_from_the_middle(size):
  video = ramp(60, 40)
  out = transforms.cover(video, *size)
  assert out.shape == (2, size[1], size[0], 3) and out.dtype == np.uint8
  across, down = zoom(out)
  scale = max(size[0] / 60, size[1] / 40)
  # A side is rounded to whole pixels, and shades to whole numbers.
  assert across == pytest.approx(down, rel=0.04)
  assert across == pytest.approx(scale, rel=0.04)
  middle = out[..., :2].mean(axis=(0, 1, 2))
  np.testing.assert_allclose(middle, [SLOPE * 29.5, SLOPE * 19.5], atol=2.5)


def test_cover_leaves_a_clip_that_fits_alone():
  video = ramp(20, 12)
  np.testing.assert_array_equal(transforms.cover(video, 20, 12), video)


@pytest.mark.parametrize('size', [(24, 24), (40, 20), (20, 44)])
def test_a_circle_stays_a_circle(size):
  picture = transforms.cover(disc(90, 60, 14.0), *size)
  dark = picture[0, ..., 0] < 128
  width, height = dark.any(axis=0).sum(), dark.any(axis=1).sum()
  assert abs(int(width) - int(height)) <= 1
  diameter = 28 * max(size[0] / 90, size[1] / 60)
  assert width == pytest.approx(diameter, abs=1.1)


def test_shrinking_does_not_alias():
  stripes = np.zeros((1, 32, 32, 3), np.uint8)
  stripes[:, :, ::2] = 255
  small = transforms.resize(stripes, 8, 8)[:, :, 1:-1].astype(int)
  np.testing.assert_allclose(small, 127.5, atol=8)


def test_a_random_crop_has_its_size_and_native_aspect_at_every_scale():
  video, zooms = ramp(100, 60), []
  for i in range(60):
    out = transforms.random_crop(
      video, 24, 24, transforms.generator(0, 'crop', i)
    )
    assert out.shape == (2, 24, 24, 3) and out.dtype == np.uint8
    np.testing.assert_array_equal(out[0], out[1])  # one window for all frames
    across, down = zoom(out)
    assert across == pytest.approx(down, rel=0.06)
    zooms.append(across)
  # From the whole height in the window to native resolution.
  assert min(zooms) == pytest.approx(24 / 60, rel=0.1)
  assert max(zooms) == pytest.approx(1, rel=0.1)
  # Log-uniform: half of the crops are below the geometric mean.
  below = np.mean(np.array(zooms) < (24 / 60) ** 0.5)
  assert below == pytest.approx(0.5, abs=0.2)


def test_a_box_is_scaled_as_it_is_within_the_whole():
  video = np.random.default_rng(0).integers(0, 256, (2, 96, 160, 3), np.uint8)
  whole = transforms.resize(video, 111, 67)
  x, y = 160 / 111, 96 / 67
  part = transforms.resize(video, 64, 32, (20 * x, 9 * y, 84 * x, 41 * y))
  difference = part.astype(int) - whole[:, 9:41, 20:84]
  assert np.abs(difference).max() <= 1  # of rounding


def test_random_crops_reach_every_corner():
  video, corners = ramp(30, 20), set()
  for i in range(60):
    out = transforms.random_crop(
      video, 20, 20, transforms.generator(0, 'crop', i)
    )
    corners.add(int(out[0, 0, 0, 0]) // SLOPE)
  assert corners == set(range(11))


def test_a_clip_smaller_than_the_window_is_scaled_up_to_cover_it():
  out = transforms.random_crop(
    ramp(20, 10), 30, 40, transforms.generator(0, 'crop', 0)
  )
  assert out.shape == (2, 40, 30, 3)
  across, down = zoom(out)
  assert across == pytest.approx(4, rel=0.1) == pytest.approx(down, rel=0.1)


def test_a_stream_belongs_to_its_seed_purpose_and_indices_in_order():
  names = [
    (0, 'crop', 1),
    (1, 'crop', 1),
    (0, 'caption', 1),
    (0, 'crop', 2),
    (0, 'crop', 1, 2),
    (0, 'crop', 2, 1),
  ]
  assert len({tuple(draws(*name)) for name in names}) == len(names)
  assert draws(0, 'crop', 1) == draws(0, 'crop', 1)


def test_a_stream_is_the_same_in_another_process():
  # Python's own hash of a string is not.
  code = (
    'from sora_jax.data import transforms;'
    "print(transforms.generator(3, 'crop', 5).integers(2**32, size=4).tolist())"
  )
  root = pathlib.Path(__file__).parent.parent
  out = subprocess.run(
    [sys.executable, '-c', code],
    env=os.environ | {'PYTHONHASHSEED': '1'},
    cwd=root,
    capture_output=True,
    text=True,
    check=True,
  )
  assert out.stdout.strip() == str(draws(3, 'crop', 5))
