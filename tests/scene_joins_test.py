"""Clips that lead from one actor in its place into another one."""

import numpy as np
import pytest

from sora_jax import batch
from sora_jax.data import transforms
from sora_jax.data.worlds import scene_captions, scene_joins, scenes

SIZE = batch.Size(48, 48, 17)
COUNT = 40


@pytest.fixture(scope='module')
def made():
  return [scene_joins.simulate(5, i, SIZE) for i in range(COUNT)]


def test_a_caption_has_a_part_for_either_scene(made):
  for caption, truth in made:
    assert len(caption) <= 2 * scene_captions.SHORT_LIMIT + 3
    parts = transforms.parts(caption)
    for part, scene in zip(parts, (truth.before, truth.after), strict=True):
      said = scene_captions.attributes(part)
      assert (said.object, said.colour) == (scene.names[0], scene.colours[0])
      assert said.place == scene.said.place and said.count == 1


def test_place_heading_and_camera_have_no_jump(made):
  for _, truth in made:
    frames = slice(0, truth.meets), slice(truth.leaves, 17)
    for scene, part in zip((truth.before, truth.after), frames, strict=True):
      for value, most in (
        (scene.position[part, 0], 0.9),
        (scene.camera.position[part], 2.2),
        (scene.camera.axes[part].reshape(-1, 9), 0.4),
      ):
        assert np.abs(np.diff(value, axis=0)).max(initial=0) < most
    np.testing.assert_array_equal(
      truth.before.camera.axes, truth.after.camera.axes
    )
    np.testing.assert_allclose(truth.before.heading, truth.after.heading)


def test_the_way_has_the_paces_of_both_scenes(made):
  """Its first and last step, against half a second difference of a cubic."""
  for _, truth in made:
    span = slice(truth.leaves, truth.meets + 1)
    across = truth.before.position[span, 0, ::2]
    if len(across) < 5:
      continue
    third = np.diff(across, 3, axis=0)[0]
    for knots, sign, pace in (
      (across, 1, truth.before.velocity[truth.leaves, 0, ::2]),
      (across[::-1], -1, truth.after.velocity[truth.meets, 0, ::2]),
    ):
      second = np.diff(knots, 2, axis=0)[0]
      # Newton's forward differences at the first knot.
      slope = knots[1] - knots[0] - second / 2 + sign * third / 3
      np.testing.assert_allclose(sign * slope * scenes.FPS, pace, atol=1e-6)


def test_the_second_actor_comes_up_where_the_first_one_is(made):
  for _, truth in made:
    apart = truth.before.position[:, 0] - truth.after.position[:, 0]
    # Beside or behind each other never; their origins may be at two heights.
    np.testing.assert_allclose(apart[:, ::2], 0, atol=1e-9)
    assert np.abs(apart[:, 1]).max() < 1.7


def test_either_end_is_a_scene_of_its_own():
  for index in range(6):
    clip, truth = scene_joins.clip(5, index, SIZE)
    assert truth.share[truth.leaves] == 0 and truth.share[truth.meets] == 1
    assert (np.diff(truth.share) >= 0).all()
    first, second = truth.before.mask, truth.after.mask
    assert not (first.any((1, 2)) & second.any((1, 2))).any()
    assert first[0].any() and second[-1].any(), clip.caption
    # Pixels change through the whole way, and by a part of it at a time.
    steps = np.abs(np.diff(clip.video.astype(int), axis=0)).mean((1, 2, 3))
    whole = np.abs(clip.video[0].astype(int) - clip.video[-1]).mean()
    assert steps[truth.leaves : truth.meets].min() > 0.2
    assert steps.max() < whole + 5


def test_the_beginning_is_that_of_the_first_scene():
  clip, truth = scene_joins.clip(5, 0, SIZE)
  assert truth.leaves > 0
  image, _ = scene_joins.clip(5, 0, SIZE._replace(frames=1))
  assert np.abs(image.video[0].astype(int) - clip.video[0]).mean() < 0.5
  assert scene_captions.attributes(image.caption).event == ''
  assert truth.before.said.object in image.caption


def test_a_clip_is_the_same_at_every_resolution_and_time_it_is_made():
  (small, truth), (large, same) = (
    scene_joins.clip(3, 4, batch.Size(side, side, 17)) for side in (32, 64)
  )
  assert small.caption == large.caption
  np.testing.assert_array_equal(truth.before.position, same.before.position)
  again = scene_joins.clip(3, 4, batch.Size(64, 64, 17))[0]
  np.testing.assert_array_equal(large.video, again.video)
  assert scene_joins.simulate(3, 5, SIZE)[0] != small.caption


@pytest.mark.parametrize('frames', [5, 9, 33])
def test_short_clips_have_a_way_too(frames):
  for index in range(20):
    _, truth = scene_joins.simulate(0, index, SIZE._replace(frames=frames))
    assert len(truth.share) == len(truth.before.position) == frames
    assert 0 <= truth.leaves < truth.meets < frames


def test_held_out_scenes_stay_apart():
  for index in range(20):
    _, truth = scene_joins.simulate(0, index, SIZE, 'test')
    for scene in (truth.before, truth.after):
      said = scene.said
      kind = said.object, said.event, said.place
      train = scenes.scene_plans.COMBINATIONS['train'][kind]
      assert said.colour not in train


def test_an_unknown_split_is_refused():
  with pytest.raises(ValueError, match='split'):
    scene_joins.simulate(0, 0, SIZE, 'other')
