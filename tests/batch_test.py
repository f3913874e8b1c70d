"""Sizes are read as they are written, and impossible ones say what would do."""

import pytest

from sora_jax import batch


@pytest.mark.parametrize('text', ['64x64x33', '48x96x1', '1280x720x81'])
def test_a_size_is_read_as_it_is_written(text):
  assert str(batch.parse_size(text)) == text


def test_width_comes_first_and_an_image_needs_no_duration():
  size = batch.parse_size('640x480')
  assert (size.width, size.height, size.frames) == (640, 480, 1)


@pytest.mark.parametrize(
  'text',
  ['', '64', '64x', '64x64x', '64x64x33x1', '-8x8', '8.x8', ' 8x8'],
)
def test_what_is_no_size_is_quoted_with_the_right_form(text):
  with pytest.raises(ValueError, match=f"'{text}' is not WIDTHxHEIGHTxFRAMES"):
    batch.parse_size(text)


@pytest.mark.parametrize('text', ['0x8x1', '8x0x1', '8x8x0'])
def test_nothing_is_no_side_and_no_duration(text):
  with pytest.raises(ValueError, match=f"'{text}'.* 0"):
    batch.parse_size(text)


@pytest.mark.parametrize(
  'frames, low, high', [(2, 1, 5), (4, 1, 5), (6, 5, 9), (32, 29, 33)]
)
def test_frames_beside_one_and_four_k_name_the_nearest(frames, low, high):
  with pytest.raises(ValueError, match=f' {frames} frames.*: {low} and {high}'):
    batch.parse_size(f'8x8x{frames}')
