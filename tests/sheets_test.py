"""Sheets show every video where it belongs, still or moving."""

import numpy as np
import pytest
from video_test import numbered

from sora_jax.data import sheets


def test_a_sheet_has_a_row_a_video_and_spans_each(tmp_path):
  long, short = numbered(33), numbered(5)[:, :48]
  sheet = sheets.contact_sheet([long, short], columns=3)
  assert sheet.shape == (128, 288, 3)
  cells = sheet.reshape(2, 64, 3, 96, 3).swapaxes(1, 2)
  np.testing.assert_array_equal(cells[0, :, :, :-1], long[[0, 16, 32], :, :-1])
  np.testing.assert_array_equal(cells[1, :, :48, :-1], short[[0, 2, 4], :, :-1])
  assert (cells[0, :, :, -1] == sheets.LINE).all()
  assert (cells[1, :, 48:] == 255).all()


def test_labels_add_a_line_of_text_below_each_row():
  clip = numbered(5)
  bare = sheets.contact_sheet([clip, clip], columns=2)
  sheet = sheets.contact_sheet([clip, clip], columns=2, labels=['one', 'two'])
  line = (len(sheet) - len(bare)) // 2
  np.testing.assert_array_equal(sheet[:64], bare[:64])
  np.testing.assert_array_equal(sheet[64 + line : 128 + line], bare[64:])
  assert sheet[64 : 64 + line].min() < 128
  assert not np.array_equal(sheet[64 : 64 + line], sheet[128 + line :])
  with pytest.raises(ValueError, match='1 labels'):
    sheets.contact_sheet([clip, clip], labels=['one'])


def test_a_moving_sheet_has_all_frames_and_begins_again():
  long, short = numbered(7), numbered(3)[:, :48]
  labels = ['one', 'two words that are more than fit a line of this cell', '']
  sheet = sheets.moving_sheet([long, short, long], labels, columns=2, scale=1)
  frames, height, width, _ = sheet.shape
  assert (frames, width) == (7, 192)
  cell = height // 2
  np.testing.assert_array_equal(sheet[:, :63, :95], long[:, :63, :95])
  again = short[np.arange(7) % 3]
  np.testing.assert_array_equal(sheet[:, :47, 96:191], again[:, :47, :95])
  np.testing.assert_array_equal(
    sheet[:, cell : cell + 63, :95], long[:, :63, :95]
  )
  # The second label takes several lines, none of them beyond its cell.
  ink = (sheet[0, 64:cell, 96:] < 128).any(axis=(1, 2))
  assert np.diff(ink.astype(int)).clip(0).sum() >= 3
  assert (sheet[:, 64:cell] == sheet[:1, 64:cell]).all()
  twice = sheets.moving_sheet([long], ['one'], columns=1)
  np.testing.assert_array_equal(twice[:, :126:2, :190:2], long[:, :63, :95])
