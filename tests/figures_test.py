"""What figures say of true clips, and of clips that are wrong in one way."""

import numpy as np
import pytest

from sora_jax import batch, figures, metrics, tasks
from sora_jax.data.worlds import balls, captions, tracker

SIZE = batch.Size(64, 64, 33)


def cases(count=6, laws=balls.LAWS, size=SIZE):
  prompts = balls.held_out_prompts(5, count, laws)
  clips = [balls.clip(5, index, size, 'test') for _, index in prompts]
  videos = [clip.video for clip, _ in clips]
  return figures.Cases(
    [c for c, _ in prompts], videos, [truth for _, truth in clips], videos
  )


def by_name(found):
  return {figure.name: figure for figure in found}


def test_true_clips_are_what_is_promised_and_where_they_are():
  true = cases()
  kept = by_name(figures.promises(true.videos, true))
  assert [kept[f'{n}, share'].made for n in ('colour', 'law', 'size')] == [
    1
  ] * 3
  near = by_name(figures.nearness(true.videos, true, slice(9, None)))
  assert near['velocity, off by units/s'].made < 0.05
  assert near['position, off by units'].made < 0.05


def test_a_clip_that_comes_late_is_off_by_its_speed_and_no_velocity():
  true = cases(4, ('uniform',))
  late = [np.concatenate([v[:1], v[:-1]]) for v in true.videos]
  near = by_name(figures.nearness(late, true, slice(4, 12)))
  speed = np.mean([abs(t.velocity[0, 0, 0]) for t in true.truths])
  assert near['position, off by units'].made == pytest.approx(
    speed / 10, rel=0.05
  )
  assert near['velocity, off by units/s'].made < 0.05


def test_a_ball_that_is_gone_is_off_by_its_distance_from_the_middle():
  true = cases(1, ('uniform',))
  empty = np.full_like(true.videos[0], 255)
  truth = true.truths[0]
  expected = np.linalg.norm(truth.position - 5, axis=-1)[truth.whole].mean()
  error = tracker.position_error(empty, truth)
  assert error == pytest.approx(expected)
  assert np.isnan(
    tracker.position_error(empty, truth._replace(whole=truth.whole & False))
  )


def test_a_span_of_a_truth_is_of_the_same_frames_as_of_its_clip():
  true = cases(1)
  span = balls.span(true.truths[0], slice(7, 20))
  np.testing.assert_array_equal(
    balls.render(span, SIZE._replace(frames=13)), true.videos[0][7:20]
  )


def test_other_colours_are_told_and_found():
  true = cases(8)
  told = figures.recoloured(true, lambda videos: videos)
  for prompt, caption, truth in zip(
    told.captions, true.captions, told.truths, strict=True
  ):
    old, new = (captions.attributes(p) for p in (caption, prompt))
    assert new.law == old.law and new.balls[1:] == old.balls[1:]
    assert new.balls[0].colour == truth.colours[0] != old.balls[0].colour
  done = by_name(figures.repainted(told.videos, told))
  assert done['colours as told, share'].made == 1
  assert done['position, off by units'].made < 0.05
  undone = by_name(figures.repainted(true.videos, told))
  assert undone['colours as told, share'].made == 0
  assert undone['colours as told, share'].bound == 1
  assert undone['law kept, share'].made == 1


def test_what_was_to_be_kept_is_held_to_every_pixel():
  true = cases(2)
  made = [video.copy() for video in true.videos]
  keeps = [np.ones(video.shape[:3], bool) for video in made]
  assert figures.changed(made, true, keeps).made == 0
  made[1][3, 5, 6, 2] -= 9
  assert figures.changed(made, true, keeps).made == 9
  keeps[1][3, 5, 6] = False
  assert figures.changed(made, true, keeps).made == 0
  keeps[0][:] = False
  with pytest.raises(ValueError, match='no pixels that were to be kept'):
    figures.changed(made, true, keeps)


def test_far_is_further_than_what_a_mask_is_grown_by():
  mask = np.zeros((33, 64, 64), bool)
  mask[10, 20:24, 30] = True
  far = figures.far_from(mask, 16)
  assert not far[7:14, 4:40, 14:47].any()
  assert far[:7].all() and far[14:].all() and far[10, :4].all()
  assert far[10, 40:].all() and far[10, :, :14].all() and far[10, :, 47:].all()
  # However it lies on latents, what it is grown to is nearer.
  painted = tasks.replace(
    lambda clip: np.zeros((9, 8, 8, 4), np.float32),
    np.zeros((33, 64, 64, 3), np.uint8),
    mask,
  )
  assert (painted.keep[far] == 1).all() and (painted.keep < 1).any()


def test_a_disc_covers_its_ball_and_a_pixel_more():
  (truth,) = cases(1, ('uniform',)).truths
  mask = figures.disc(truth, SIZE)
  inked = balls.render(truth, SIZE).min(axis=-1) < 255
  assert (mask | ~inked).all() and mask.sum() > inked.sum()
  radius = (mask[0].sum() / np.pi) ** 0.5 / 6.4
  assert truth.radius[0] < radius < truth.radius[0] + 2.5 / 6.4


def test_drift_is_against_the_beginning():
  true = cases(2, ('bounce',), SIZE._replace(frames=121))
  same = by_name(figures.drift(true.videos, true, slice(60, 90)))
  for name in ('sharpness', 'size'):
    assert same[f'6 s: {name}, of that at first'].made == pytest.approx(
      1, abs=0.05
    )
  faded = [video.copy() for video in true.videos]
  for video in faded:
    video[60:] = 255 - (255 - video[60:]) // 4  # paler, and no other colour
  drifted = by_name(figures.drift(faded, true, slice(60, 90)))
  ratio = drifted['6 s: sharpness, of that at first'].made
  assert ratio == pytest.approx(1 / 16, rel=0.1)
  assert drifted['6 s: sharpness, of that at first'].bound > 0.9


def test_motion_seam_and_sharpness_of_simple_videos():
  frames = np.zeros((4, 8, 8, 3), np.uint8)
  for t, value in enumerate((0, 10, 30, 60)):
    frames[t] = value
  assert metrics.motion(frames) == 20
  assert metrics.seam(frames) == 60
  assert metrics.sharpness(frames) == 0
  edge = np.zeros((1, 4, 4, 3), np.uint8)
  edge[:, :, 2:] = 90
  # One of three steps across is 90.
  assert metrics.sharpness(edge) == pytest.approx(90**2 / 3)
