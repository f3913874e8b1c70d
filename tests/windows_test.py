"""What each window of a long canvas knows, and that together they paint it."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from sora_jax import batch, canvas, generate, sharding, windows


def test_windows_cover_a_canvas_and_go_on_from_what_is_finished():
  assert windows.split(9, 9, 2) == [windows.Window(0, 0, 9)]
  assert windows.split(5, 9, 2) == [windows.Window(0, 0, 5)]
  for frames in range(10, 60):
    for overlap in (1, 2, 5):
      first, *later = windows.split(frames, 9, overlap)
      done = 9
      for window in later:
        assert window.done == done and window.frames == 9
        assert window.at <= done - overlap  # more in the last one
        assert window.known == 1 + done - window.at < 9
        done = window.at + 8
      assert done == frames
      assert [w.at for w in later[:-1]] == [
        9 - overlap + i * (8 - overlap) for i in range(len(later) - 1)
      ]


def test_a_window_is_led_by_the_first_latent_and_told_so_by_its_position():
  rng = np.random.default_rng(0)
  known = rng.normal(size=(20, 2, 2, 3)).astype(np.float32)
  whole = canvas.storyboard(canvas.edit(known, 0.5), [0, 12])
  first = windows.cut(whole, windows.Window(0, 0, 9))
  for name in ('known', 'start', 'text_of', 'position', 'index'):
    np.testing.assert_array_equal(
      getattr(first, name), getattr(whole, name)[:9]
    )
  part = windows.cut(whole, windows.Window(10, 12, 6))
  which = [0, 10, 11, 12, 13, 14]
  np.testing.assert_array_equal(part.known, known[which])
  assert part.index.tolist() == which
  assert part.position.tolist() == [0, 16, 17, 18, 19, 20]
  assert part.start[:, 0, 0].tolist() == [0, 0, 0, 0.5, 0.5, 0.5]
  assert part.text_of[:, 0, 0].tolist() == [1, 1, 1, 2, 2, 2]
  assert (whole.start == 0.5).all()


def test_what_is_shown_goes_with_a_window_that_is_the_whole_clip():
  pieces = {7: np.ones((2, 2, 2, 3), np.float32)}
  painted = canvas.keyframes(pieces, 9, {7: pieces[7][:1] + 1})
  (window,) = windows.split(painted.frames, 9, 2)
  whole = windows.cut(painted, window)
  assert (whole.shown, whole.frames) == (1, 9)
  np.testing.assert_array_equal(whole.known, painted.known)
  part = windows.cut(painted, windows.Window(0, 0, 5))
  assert (part.shown, part.frames) == (0, 5)


@pytest.fixture(scope='module')
def networks():
  return generate.Networks(config := tiny.config(), tiny.params(config))


def settings(networks, frames, **changes):
  base = generate.settings_of(networks.config.sample)
  size = batch.Size(32, 32, frames)
  changes = dict(size=size, steps=2, micro_batch=2) | changes
  return base._replace(**changes)


def mesh_of(devices):
  return sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:devices])


def test_a_long_clip_is_the_same_alone_or_beside_others(networks):
  wanted = settings(networks, 61, window=17)
  requests = [generate.Request(f'a ball {i}', i) for i in range(3)]
  alone = next(generate.make_generator(networks, wanted, mesh_of(1))(requests))
  beside = list(generate.make_generator(networks, wanted, mesh_of(2))(requests))
  assert alone.video.shape == (61, 32, 32, 3)
  assert alone.digest == beside[0].digest != beside[1].digest
  assert alone.video.tobytes() == beside[0].video.tobytes()


def test_the_first_window_of_a_long_clip_is_a_short_clip(networks, one_device):
  request = generate.Request('a ball', 3)
  short, long = (
    next(generate.sample(networks, [request], settings(networks, n, window=17)))
    for n in (17, 37)
  )
  np.testing.assert_array_equal(long.latent[:5], short.latent)
  np.testing.assert_array_equal(long.video[:17], short.video)
  # No part is another one again: each has noise of its own.
  flat = long.latent.reshape(10, -1)
  distance = np.abs(flat[:, None] - flat).mean(axis=-1)
  assert distance[~np.eye(10, dtype=bool)].min() > 0.1


@pytest.mark.parametrize(('overlap', 'frames'), [(1, 13), (2, 12), (2, 10)])
def test_a_window_knows_what_is_finished_and_its_own_pieces(
  networks, monkeypatch, overlap, frames
):
  """Of latents that are told apart by their place, and by who painted them."""
  seen = []

  def paint_window(stream, parts, rows, goes_on):
    assert goes_on  # the clip is longer than a window
    seen.append(parts[0])
    place = parts[0].index[:, None, None, None] + 100.0 * len(seen)
    known = parts[0].start[..., None] == 0
    z = np.where(known, parts[0].known, place).astype(np.float32)
    return jnp.stack([z] * len(parts))

  monkeypatch.setattr(generate.Stream, '_paint', paint_window)
  asked = settings(networks, 4 * frames - 3, window=17, overlap=overlap)
  piece = np.full((1, 4, 4, 4), 7.0, np.float32)
  painted = canvas.keyframes({7: piece}, frames)
  stream = generate.Stream(networks, asked, mesh_of(1))
  parts = list(stream([generate.Request('a ball', 3, painted)]))
  made = np.concatenate([part.latent[0] for part in parts])[:, 0, 0, 0]
  assert made[:5].tolist() == [100, 101, 102, 103, 104]
  assert made[7] == 7 and len(made) == frames
  assert (made % 100)[np.arange(frames) != 7].tolist() == [
    i for i in range(frames) if i != 7
  ]
  for window, part in zip(
    windows.split(frames, 5, overlap)[1:], seen[1:], strict=True
  ):
    past = [made[0], *made[window.at : window.done]]
    known = part.known[: window.known, 0, 0, 0].tolist()
    assert known == past
    assert (part.start[: window.known] == 0).all()


def test_parts_come_as_they_are_made_and_are_no_longer_than_a_window(
  networks, one_device
):
  wanted = settings(networks, 205, window=17)
  stream = generate.Stream(networks, wanted, mesh_of(1))
  parts = [p.video.shape[1] for p in stream([generate.Request('a ball', 3)])]
  assert sum(parts) == 205 and parts[0] == 17
  assert max(parts[1:]) == 8  # of five latents, an anchor and two known


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path):
  """480 frames more, which are 94 MB as bytes and far more as pixels."""
  tiny.write_model(tmp_path / 'model')
  command = [sys.executable, 'launch.py', 'sample', '--prompt=a ball']
  command += [f'--model={tmp_path}/model', '--steps=1', '--micro_batch=1']
  command += [f'--out={tmp_path}/a.mp4', '--window=17']
  peaks = []
  for frames in (121, 601):
    run = subprocess.Popen([*command, f'--size=256x256x{frames}'])
    _, status, usage = os.wait4(run.pid, 0)
    assert status == 0
    peaks.append(usage.ru_maxrss / 1024)
  assert peaks[1] - peaks[0] < 40, peaks
