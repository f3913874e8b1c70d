"""The scenes world: one scene at any size, true captions, masks and splits."""

import collections
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from sora_jax import batch
from sora_jax.data import sources
from sora_jax.data.worlds import scene_captions, scene_plans, scenes, weather

SIZE = batch.Size(64, 64, 17)
SMALL = batch.Size(48, 48, 5)


@pytest.fixture(scope='module')
def made():
  return [scenes.clip(0, i, SMALL) for i in range(24)]


def find(n=1, split='train', start=0, **wanted):
  """Indices of scenes of which some attributes are given."""
  found, index = [], start
  while len(found) < n:
    said = scene_plans.plan(0, index, split).said
    if all(getattr(said, k) == v for k, v in wanted.items()):
      found.append(index)
    index += 1
    assert index < start + 20000, wanted
  return found


def test_a_clip_has_its_size_and_enough_contrast(made):
  for clip, truth in made:
    assert clip.video.shape == (5, 48, 48, 3) and clip.video.dtype == np.uint8
    assert truth.mask.shape == (5, 48, 48)
    assert clip.video.std() > 8, clip.caption
  assert len({clip.id for clip, _ in made}) == len(made)


@pytest.mark.parametrize('text', ['96x48x5', '40x72x5', '33x33x1', '16x16x5'])
def test_any_size_and_aspect_shows_the_same_scene(text):
  size = batch.parse_size(text)
  for index in range(8):
    clip, truth = scenes.clip(0, index, size)
    assert clip.video.shape == (size.frames, size.height, size.width, 3)
    _, square = scenes.simulate(0, index, SMALL)
    np.testing.assert_array_equal(
      truth.position, square.position[: size.frames]
    )
    # The subject is somewhere in the picture.
    assert (truth.mask > 0).any(), clip.caption


def test_resolution_changes_the_pixels_and_not_the_scene():
  errors = []
  for index in range(10):
    small, truth = scenes.clip(0, index, batch.Size(48, 48, 5))
    large, same = scenes.clip(0, index, batch.Size(96, 96, 5))
    assert small.caption == large.caption
    np.testing.assert_array_equal(truth.position, same.position)
    np.testing.assert_array_equal(truth.camera.axes, same.camera.axes)
    pooled = large.video.reshape(5, 48, 2, 48, 2, 3).mean(axis=(2, 4))
    errors.append(np.abs(pooled - small.video).mean())
    area = [(t.mask > 0).mean() for t in (truth, same)]
    assert area[0] == pytest.approx(area[1], rel=0.25, abs=0.002)
  # Grains of the ground that a small picture cannot show, and drops of rain.
  assert np.median(errors) < 3.5 and np.max(errors) < 12


def test_longer_clips_begin_as_shorter_ones():
  for index in range(40):
    _, truth = scenes.simulate(0, index, SIZE)
    _, longer = scenes.simulate(0, index, SIZE._replace(frames=65))
    _, image = scenes.simulate(0, index, SIZE._replace(frames=1))
    for one, other in ((truth, longer), (image, truth)):
      n = len(one.position)
      np.testing.assert_allclose(one.position, other.position[:n], atol=1e-12)
      for a, b in zip(one.camera, other.camera, strict=True):
        np.testing.assert_allclose(a, b[:n], atol=1e-12)


def test_an_image_is_the_first_frame_of_its_clip():
  for index in range(12):
    image, _ = scenes.clip(0, index, SMALL._replace(frames=1))
    clip, _ = scenes.clip(0, index, SMALL)
    difference = np.abs(image.video[0].astype(int) - clip.video[0])
    # A window that is cut out elsewhere rounds otherwise.
    assert np.mean(difference > 2) < 2e-3
    assert scene_captions.attributes(image.caption).event == ''


def test_a_clip_depends_on_seed_index_and_split_alone():
  first, _ = scenes.clip(3, 7, SMALL)
  scenes.clip(3, 8, SMALL)
  again, _ = scenes.clip(3, 7, SMALL)
  np.testing.assert_array_equal(first.video, again.video)
  for seed, index, split in [(4, 7, 'train'), (3, 8, 'train'), (3, 7, 'test')]:
    other, _ = scenes.clip(seed, index, SMALL, split)
    assert other.id != first.id
    assert (other.video != first.video).any()


def test_another_process_makes_the_same_bytes():
  program = (
    'import hashlib; from sora_jax import batch\n'
    'from sora_jax.data.worlds import scenes\n'
    'size = batch.Size(48, 48, 5)\n'
    'clips = [scenes.clip(0, i, size)[0].video.tobytes() for i in range(12)]\n'
    'print(hashlib.sha256(b"".join(clips)).hexdigest())'
  )
  made = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  clips = [scenes.clip(0, i, SMALL)[0].video.tobytes() for i in range(12)]
  assert made.stdout.strip() == hashlib.sha256(b''.join(clips)).hexdigest()


def test_velocity_is_the_change_of_place():
  fine = 0
  for index in range(150):
    _, truth = scenes.simulate(0, index, SIZE)
    change = np.diff(truth.position, axis=0) * scenes.FPS
    mean = (truth.velocity[1:] + truth.velocity[:-1]) / 2
    # But for frames between which something hits something, or starts.
    fine += np.mean(np.abs(change - mean).max((1, 2)) < 0.08)
  assert fine / 150 > 0.93


def test_masks_are_where_actors_are_and_of_their_colour():
  """Seen from the truth alone: places projected, colours by their hue."""
  for name in scene_captions.OBJECTS:
    hits = []
    for index in (
      find(3, object=name, hour='day', weather='clear')
      if (name not in ('diver', 'fish'))
      else find(3, object=name)
    ):
      clip, truth = scenes.clip(0, index, SMALL)
      plan = scene_plans.plan(0, index, 'train')
      view = scenes.cameras.view(truth.camera, SMALL)
      middle = np.array([0, scene_plans.MIDDLES[name], 0])
      at, ahead = weather.project(truth.position + middle, view)
      for k in range(truth.position.shape[1]):
        rows, columns = np.nonzero(truth.mask[2] == k + 1)
        x, y = at[2, k]
        if not (6 < x < 42 and 6 < y < 42) or plan.said.place == 'water':
          continue
        size = view.focal * 1.3 / ahead[2, k]
        assert len(rows), clip.caption
        assert abs(columns.mean() - x) < size / 2, clip.caption
        assert abs(rows.mean() - y) < size / 2, clip.caption
        hits.append(len(rows))
    assert hits, name


def test_a_red_actor_is_redder_than_a_blue_one_where_its_mask_is():
  shown = {}
  for colour in ('red', 'blue'):
    values = []
    for index in find(2, colour=colour, object='car', hour='day', count=1):
      clip, truth = scenes.clip(0, index, SMALL)
      values.append(clip.video[truth.mask == 1].mean(0))
    shown[colour] = np.mean(values, 0)
  assert shown['red'][0] > shown['red'][2] + 40
  assert shown['blue'][2] > shown['blue'][0] + 40


def test_pixels_under_a_mask_change_when_the_actor_does():
  """The mask is the region in which another colour is another picture."""
  index = find(1, object='ball', event='rest', place='grass', weather='clear')[
    0
  ]
  clip, truth = scenes.clip(0, index, SMALL)
  plan = scene_plans.plan(0, index, 'train')
  stage = scenes.stage(plan, *scenes.shoot(plan, np.arange(5) / 8), SMALL)
  painted = [p._replace(colour='cyan') for p in stage.players]
  if stage.players[0].colour == 'cyan':
    painted = [p._replace(colour='red') for p in stage.players]
  other, _ = scenes.staging.render(stage._replace(players=painted))
  change = np.abs(clip.video.astype(int) - other).sum(-1)
  inside = truth.mask > 0
  # A band about the ball stays as it is; edges are seen by half at most.
  assert (change[inside] > 25).mean() > 0.6
  assert (change[~inside] > change.max() / 2).sum() < 0.02 * inside.sum()


def test_the_subject_is_large_and_in_view_for_most_of_two_seconds():
  shares, seen = [], []
  for index in range(30):
    _, truth = scenes.clip(0, index, batch.Size(32, 32, 17))
    first = (truth.mask == 1).mean((1, 2))
    shares.append(np.median(first))
    seen.append(np.mean(first > 0.004))
  assert np.median(shares) > 0.05
  assert np.mean(np.array(seen) > 0.8) > 0.9


def test_what_moves_to_the_left_does_so_in_the_picture():
  checked = 0
  for index in range(200):
    _, truth = scenes.simulate(0, index, SIZE)
    if truth.said.way:
      right = truth.camera.axes[8, 0]
      moved = truth.position[-1, 0] - truth.position[0, 0]
      sign = scene_captions.WAYS[truth.said.way]
      if truth.said.event == 'collide':
        moved = truth.velocity[0, 0]
      assert sign * (moved @ right) > 0.2, truth.said
      checked += 1
  assert checked > 50


def test_cameras_do_what_they_say():
  for index in range(120):
    _, truth = scenes.simulate(0, index, SIZE)
    position, axes = truth.camera
    moves = np.ptp(position, axis=0).max() > 1e-6
    turns = np.ptp(axes, axis=0).max() > 1e-6
    assert (moves, turns) == {
      'still': (False, False),
      'pan': (False, True),
      'orbit': (True, True),
      'dolly': (True, False),
    }[truth.said.camera], truth.said
    assert (position[:, 1] > 0.3).all()
    if truth.said.camera == 'dolly':
      centre = truth.position.mean(1)
      gap = np.linalg.norm((position - centre)[[0, -1]], axis=-1)
      assert truth.said.way or gap[1] < 0.8 * gap[0]
    # Right-handed, but for the forward axis; never rolled.
    np.testing.assert_allclose(axes[:, 0, 1], 0, atol=1e-12)
    np.testing.assert_allclose(
      np.cross(axes[:, 1], axes[:, 0]), axes[:, 2], atol=1e-9
    )


def test_held_out_combinations_never_occur_in_training():
  seen = collections.defaultdict(set)
  for split in scenes.SPLITS:
    for index in range(1500):
      said = scene_plans.plan(0, index, split).said
      for colour in filter(None, (said.colour, said.second)):
        if colour == said.second and split == 'test':
          continue
        seen[split].add((said.object, said.event, said.place, colour))
  assert not seen['train'] & seen['test']
  assert all(
    scene_plans.held_out(scene_plans.Combination(*c)) for c in seen['test']
  )
  kinds = {kind for kind in scene_plans.KINDS}
  assert len(kinds) == len(scene_plans.KINDS) > 100
  for split in seen:
    # Every word is in both splits: only their combination is new.
    words = {word for combination in seen[split] for word in combination}
    assert words == (
      set(scene_captions.OBJECTS)
      | set(scene_captions.EVENTS)
      | set(scene_captions.PLACES)
      | set(scene_captions.COLOURS)
    )


def test_prompts_are_held_out_and_balanced_over_objects():
  prompts = scenes.held_out_prompts(0, 66)
  assert len({index for _, index in prompts}) == 66
  count = collections.Counter()
  for caption, index in prompts:
    said = scenes.attributes(caption)
    count[said.object] += 1
    assert scene_plans.held_out(
      scene_plans.Combination(said.object, said.event, said.place, said.colour)
    )
    assert scenes.simulate(0, index, SIZE, 'test')[0] == caption
  assert count == dict.fromkeys(scene_captions.OBJECTS, 6)


def test_the_world_is_a_source_of_clips():
  source = sources.WorldSource('balls+scenes', (SMALL,), 4, seed=1)
  clip = source[1]
  np.testing.assert_array_equal(clip.video, scenes.clip(1, 1, SMALL)[0].video)
  assert source.captions(1) == [clip.caption]


def test_an_unknown_split_names_the_choices():
  with pytest.raises(ValueError, match=r"'dev'.*train, test"):
    scenes.clip(0, 0, SIZE, 'dev')
  with pytest.raises(ValueError, match='index=-1'):
    scenes.clip(0, -1, SIZE)
