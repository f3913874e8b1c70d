"""Labelled clips are what the world made, and their labels what is true."""

import numpy as np

from sora_jax import batch, metrics
from sora_jax.data import labelled
from sora_jax.data.worlds import scene_captions, scene_labels, scenes

SIZES = (batch.Size(16, 16, 5), batch.Size(32, 16, 5))
ROWS = np.arange(10)
BATCHES = labelled.LabelledBatches(SIZES, 10, 3, ROWS)


def test_a_batch_is_of_its_step_alone_and_rows_are_of_the_batch():
  first, second = BATCHES(0), BATCHES(1)
  assert first.video.shape == (10, 5, 16, 16, 3)
  assert second.video.shape == (10, 5, 16, 32, 3)
  part = labelled.LabelledBatches(SIZES, 10, 3, ROWS[4:7])(1)
  for mine, whole in zip(part, second, strict=True):
    np.testing.assert_array_equal(mine, whole[4:7])


def test_labels_say_what_is_true():
  made = BATCHES(0)
  for draw, labels in enumerate(made.labels):
    split = 'test' if draw // 2 % 5 == 0 else 'train'
    _, truth = scenes.simulate(3, draw // 2, SIZES[0], split)
    mirror = {'left': 'right', 'right': 'left', '': ''}
    for i, (name, values) in enumerate(scene_labels.FIELDS.items()):
      told = getattr(truth.said, name)
      told = mirror[told] if name == 'way' and draw % 2 else told
      assert (values[labels[i]] if labels[i] >= 0 else '') == told, name


def test_every_second_clip_is_the_one_before_in_a_mirror(monkeypatch):
  monkeypatch.setattr(labelled, 'WORN', 0.0)
  made = BATCHES(0)
  for seen in (made.video, made.mask):
    np.testing.assert_array_equal(seen[1::2], seen[::2, :, :, ::-1])
  assert (made.video[1::2] != made.video[::2]).any(axis=(1, 2, 3, 4)).all()
  assert made.mask.any(axis=(1, 2, 3)).all() and made.mask.mean() < 0.5


def test_motions_are_those_of_the_world(monkeypatch):
  monkeypatch.setattr(labelled, 'WORN', 0.0)
  made = BATCHES(0)
  assert made.motions.shape == (10, 5, 8) and made.motions.dtype == np.float32
  mirrored = made.motions[::2] * [-1, 1, 1, -1, 1, -1, 1, 1]
  np.testing.assert_allclose(made.motions[1::2], mirrored)
  for draw in range(0, 10, 2):
    split = 'test' if draw // 2 % 5 == 0 else 'train'
    _, truth = scenes.simulate(3, draw // 2, SIZES[0], split)
    np.testing.assert_array_equal(
      made.motions[draw], scene_labels.motions(truth)
    )


def test_cameras_are_told_by_their_motions():
  """What stands still has none; what moves closer goes ahead, and so on."""
  seen, pairs = {}, []
  for index in range(400):
    _, truth = scenes.simulate(3, index, batch.Size(8, 8, 17))
    told = scene_labels.motions(truth) * scene_labels.MOTION_SCALES
    seen.setdefault(truth.said.camera, []).append(np.abs(told[:-1, :5]).max(0))
    # Put together again, they lead from each frame to the next one.
    axes, place = truth.camera.axes, truth.camera.position
    world = lambda seen, axes=axes: np.einsum('tji,tj->ti', axes[:-1], seen)
    steps = world(told[:-1, :3]) / scenes.FPS
    np.testing.assert_allclose(place[0] + steps.sum(0), place[-1], atol=1e-5)
    right, up = told[:-1, 3:5].T / scenes.FPS
    flat = np.cos(up)
    ahead = np.stack([flat * np.sin(right), np.sin(up), flat * np.cos(right)])
    np.testing.assert_allclose(world(ahead.T), axes[1:, 2], atol=1e-5)
    gone = np.diff(truth.position.mean(1), axis=0) * scenes.FPS
    pairs.append(np.stack([world(told[:-1, 5:]), gone]))
  # But for what changes within a frame: falls, bounces, collisions.
  told, gone = np.concatenate(pairs, axis=1)
  for axis in range(3):
    assert np.corrcoef(told[:, axis], gone[:, axis])[0, 1] > 0.8, axis
  assert np.abs(told - gone).mean() < 0.1
  still, pan, orbit, dolly = (
    np.array(seen[kind]) for kind in scene_captions.CAMERAS
  )
  assert still.max() < 1e-5
  assert pan[:, :3].max() < 1e-5 and np.median(pan[:, 3]) > 0.05
  assert orbit[:, 0].min() > 1 and orbit[:, 3].min() > 0.2
  assert dolly[:, 2].min() > 0.7 and dolly[:, 0].max() < 1e-5


def test_every_value_has_a_place_of_its_own():
  said = scene_captions.attributes('two red cats walk left on grass at dusk')
  labels = scene_labels.encode(said)
  assert labels.tolist() == [10, 0, 1, 7, 0, 0, 1, -1, -1, -1]
  parts = np.split(np.arange(scene_labels.CLASSES), scene_labels.CUTS)
  assert [len(p) for p in parts] == [
    len(values) for values in scene_labels.FIELDS.values()
  ]


def test_wear_softens_and_keeps_colours(monkeypatch):
  clip, _ = scenes.clip(3, 1, batch.Size(64, 64, 5))
  video = clip.video
  worn = lambda seed: labelled.worn(video, np.random.default_rng(seed))
  for seed in range(3):
    change = worn(seed).astype(float) - video
    assert 1 < np.abs(change).mean() < 16
    assert np.abs(change.mean(axis=(0, 1, 2))).max() < 1
  monkeypatch.setattr(labelled, 'NOISIEST', 0.0)
  for seed in range(3):
    assert metrics.sharpness(worn(seed)) < 0.9 * metrics.sharpness(video)
