import numpy as np
import pytest

from sora_jax import canvas, tokens

PATCH = (1, 2, 2)


def latent(frames):
  size = (frames, 4, 6, 3)
  return np.random.default_rng(0).normal(size=size).astype(np.float32)


def test_text_to_video_knows_nothing():
  blank = canvas.validate(canvas.text_to_video(5, 4, 6, 3))
  assert blank.known.shape == (5, 4, 6, 3)
  assert (blank.start == 1).all() and (blank.text_of == 1).all()
  assert blank.lines == 1 and not blank.loop


def test_a_known_beginning_is_kept_and_nothing_else():
  first = latent(2)
  painted = canvas.keyframes({0: first}, 5)
  np.testing.assert_array_equal(painted.known[:2], first)
  assert (painted.start[:2] == 0).all() and (painted.start[2:] == 1).all()


def test_two_clips_are_met_where_they_are_put():
  head, tail = latent(2), latent(3)[1:] + 1
  painted = canvas.keyframes({0: head, 5: tail}, 7)
  np.testing.assert_array_equal(painted.known[:2], head)
  np.testing.assert_array_equal(painted.known[5:], tail)
  assert painted.start[:, 0, 0].tolist() == [0, 0, 1, 1, 1, 0, 0]
  assert (painted.known[2:5] == 0).all()


def test_what_opens_a_piece_is_shown_behind_the_clip():
  pieces, opening = {0: latent(2), 5: latent(3)[1:]}, latent(1) + 1
  painted = canvas.keyframes(pieces, 7, {5: opening})
  plain = canvas.keyframes(pieces, 7)
  assert (painted.shown, painted.frames, plain.shown) == (1, 7, 0)
  np.testing.assert_array_equal(painted.known[7:], opening)
  assert (painted.start[7:] == 0).all()
  # In time it is where the last latent before the piece is.
  assert painted.position.tolist() == [0, 1, 2, 3, 4, 5, 6, 4]
  cut = canvas.to_tokens(painted, PATCH)
  assert len(set(cut.index.tolist())) == len(cut.index) == 8 * 6
  assert cut.shown.tolist() == [False] * 42 + [True] * 6
  hidden = canvas.hide(canvas.two_stories(painted))
  for one, other in zip(hidden, canvas.two_stories(plain), strict=True):
    np.testing.assert_array_equal(one, other)


def test_what_is_shown_listens_to_the_line_of_its_place():
  painted = canvas.keyframes({5: latent(3)[1:]}, 7, {5: latent(1)})
  spoken = canvas.storyboard(painted, [0, 3, 5]).text_of[:, 0, 0]
  assert spoken.tolist() == [1, 1, 1, 2, 2, 3, 3, 2]
  both = canvas.keyframes({0: latent(1), 5: latent(3)[1:]}, 7, {5: latent(1)})
  told = canvas.two_stories(both)
  assert told.second[7] == 1 and told.text_of[7, 0, 0] == 2


def test_replace_repaints_what_the_mask_marks():
  clip, mask = latent(2), np.zeros((2, 4, 6), bool)
  mask[1, 2:, 1:3] = True
  painted = canvas.replace(clip, mask)
  np.testing.assert_array_equal(painted.start, mask)
  np.testing.assert_array_equal(painted.known, clip)


def test_a_loop_has_no_image_latent():
  painted = canvas.validate(canvas.loop(3, 4, 6, 3))
  assert painted.loop and painted.position[0] == 1
  cut = canvas.to_tokens(painted, PATCH)
  np.testing.assert_array_equal(np.unique(cut.position[:, 0]), [1, 2, 3])
  np.testing.assert_array_equal(cut.index, np.arange(18))


def test_edit_starts_all_of_the_clip_at_the_strength():
  clip = latent(3)
  painted = canvas.edit(clip, 0.6)
  np.testing.assert_array_equal(painted.known, clip)
  assert (painted.start == np.float32(0.6)).all()


def test_tokens_are_in_raster_order_with_a_group_for_each_level():
  painted = canvas.keyframes({0: latent(1)}, 3)
  cut = canvas.to_tokens(painted, PATCH)
  np.testing.assert_array_equal(cut.start, np.repeat([0, 1, 1], 6))
  np.testing.assert_array_equal(cut.group, np.repeat([0, 1, 1], 6))
  np.testing.assert_array_equal(cut.first, [0, 6])
  np.testing.assert_array_equal(cut.start[cut.first][cut.group], cut.start)
  np.testing.assert_array_equal(cut.index, np.arange(18))
  np.testing.assert_array_equal(cut.position[7], [1, 0, 1])
  np.testing.assert_array_equal(
    tokens.unpatchify(cut.known[None], (3, 4, 6), PATCH)[0], painted.known
  )


def test_a_token_is_known_only_if_all_of_its_patch_is():
  painted = canvas.edit(latent(1), 0.0)
  painted.start[0, 0, 1] = 1.0
  cut = canvas.to_tokens(painted, PATCH)
  np.testing.assert_array_equal(cut.start, [1, 0, 0, 0, 0, 0])


def test_a_storyboard_speaks_to_its_own_frames():
  painted = canvas.storyboard(canvas.text_to_video(5, 4, 6, 3), [0, 1, 4])
  assert painted.lines == 3
  cut = canvas.to_tokens(painted, PATCH)
  np.testing.assert_array_equal(cut.text_of, np.repeat([1, 2, 2, 2, 3], 6))


def test_two_stories_are_told_from_either_end():
  pieces = {0: latent(2), 5: latent(2)[1:]}
  painted = canvas.two_stories(canvas.keyframes(pieces, 6))
  np.testing.assert_allclose(painted.second, [0, 0, 0, 0.5, 1, 1])
  np.testing.assert_array_equal(painted.text_of[:, 0, 0], [1, 1, 1, 2, 2, 2])
  cut = canvas.to_tokens(painted, PATCH)
  np.testing.assert_array_equal(cut.second, np.repeat(painted.second, 6))
  # Each end is known to one story alone, so they are no group.
  assert len(cut.first) == 3
  ends = cut.group[0], cut.group[-1], cut.group[2 * 6]
  assert len(set(map(int, ends))) == 3


@pytest.mark.parametrize(
  ('made', 'second'),
  [
    (1, [0.5]),
    (2, [0, 1]),
    (3, [0, 0.5, 1]),
    (4, [0, 0.5, 1, 1]),
    (6, [0, 0.25, 0.5, 0.75, 1, 1]),
  ],
)
def test_the_second_story_has_the_last_latents_for_itself(made, second):
  pieces = {0: latent(2), 2 + made: latent(1)}
  painted = canvas.two_stories(canvas.keyframes(pieces, 3 + made))
  np.testing.assert_allclose(painted.second, [0, 0, *second, 1])


def spoiled(name):
  painted = canvas.text_to_video(2, 4, 6, 3)
  if name == 'level':
    painted.start[0] = 1.5
  elif name == 'level is nan':
    painted.start[0] = np.nan
  elif name == 'known':
    painted.known[1, 2] = np.inf
  elif name == 'text':
    painted.text_of[0] = 0
  elif name == 'shape':
    painted = painted._replace(start=painted.start[:1])
  elif name == 'border':
    painted.text_of[:, :1] = 2
  elif name == 'position':
    painted = painted._replace(position=np.arange(3, dtype=np.int32))
  return painted


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('level', r'to 1\.5'),
    ('level is nan', 'nan'),
    ('known', 'finite'),
    ('text', 'text_of is from 0'),
    ('position', r'position is \(3,\); it must be .* \(2,\)'),
    ('shape', r'start is \(1, 4, 6\).*\(2, 4, 6\)'),
    ('border', r'patch \(1, 2, 2\)'),
  ],
)
def test_what_cannot_be_sampled_is_refused_by_name(name, message):
  with pytest.raises(ValueError, match=message):
    canvas.to_tokens(spoiled(name), PATCH)


@pytest.mark.parametrize(
  ('build', 'message'),
  [
    (
      lambda: canvas.keyframes({0: latent(2)}, 2),
      'all of the 2 latent frames are known',
    ),
    (lambda: canvas.keyframes({}, 2), 'no piece is known'),
    (lambda: canvas.keyframes({3: latent(2)}, 4), 'at 3 ends at 5, outside'),
    (lambda: canvas.keyframes({0: latent(2), 1: latent(1)}, 4), 'at 1 overlap'),
    (
      lambda: canvas.keyframes({0: latent(1), 2: latent(1)[:, :2]}, 4),
      r'at 2 is \(2, 6, 3\), another one is \(4, 6, 3\)',
    ),
    (
      lambda: canvas.keyframes({0: latent(2)}, 4, {0: latent(1)}),
      'an opening at 0 belongs to no piece further on',
    ),
    (lambda: canvas.edit(latent(2), 1.2), r'strength=1\.2'),
    (
      lambda: canvas.replace(latent(2), np.ones((1, 4, 6), bool)),
      r'mask is \(1, 4, 6\); it must be the latent.s \(2, 4, 6\)',
    ),
    (
      lambda: canvas.replace(latent(2), np.zeros((2, 4, 6), bool)),
      'marks nothing',
    ),
    (lambda: canvas.loop(1, 4, 6, 3), 'frames=1 must have 2'),
    (
      lambda: canvas.storyboard(canvas.text_to_video(3, 4, 6, 3), [0, 3]),
      r'start at \[0, 3\]; they must rise from 0 within 3',
    ),
    (
      lambda: canvas.two_stories(canvas.keyframes({0: latent(2)}, 4)),
      'two stories need a known beginning, a known end',
    ),
    (
      lambda: canvas.two_stories(
        canvas.keyframes({i: latent(1) for i in (0, 2, 4)}, 5)
      ),
      'and nothing known between them',
    ),
    (lambda: canvas.text_to_video(0, 4, 6, 3), r'\(0, 4, 6\)'),
  ],
)
def test_builders_refuse_what_cannot_be(build, message):
  with pytest.raises(ValueError, match=message):
    build()
