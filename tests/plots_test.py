"""Plots show what they are given."""

import numpy as np
import pytest
from etils import epath

from sora_jax import plots
from sora_jax.data import video


def ink(path):
  """Where the bars' colour is."""
  (frame,) = video.read_frames(path, 0, 1)
  return np.abs(frame.astype(int) - [31, 95, 168]).sum(axis=-1) < 30


def test_a_bar_is_as_high_as_its_share(tmp_path):
  path = epath.Path(tmp_path) / 'shares.png'
  rows = {'a': (0.8, (0.8, 0.8), 1.0), 'b': (0.4, (0.4, 0.4), 1.0)}
  plots.shares(path, rows)
  heights = ink(path).sum(axis=0)
  heights = heights[heights > 20]
  assert heights.max() / heights.min() == pytest.approx(2, rel=0.05)


def test_equal_plots_are_equal_files(tmp_path):
  paths = [epath.Path(tmp_path) / name for name in 'ab']
  for path in paths:
    plots.curve(path, {'0.1': 1.0, '0.9': 0.01}, 'x', 'y')
  assert paths[0].read_bytes() == paths[1].read_bytes()
  plots.curve(paths[1], {'0.1': 1.0, '0.9': 0.1}, 'x', 'y')
  assert paths[0].read_bytes() != paths[1].read_bytes()
