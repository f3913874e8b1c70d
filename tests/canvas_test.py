import numpy as np
import pytest

from sora_jax import canvas, tokens

PATCH = (1, 2, 2)


def latent(frames):
  size = (frames, 4, 6, 3)
  return np.random.default_rng(0).normal(size=size).astype(np.float32)


def test_text_to_video_knows_nothing():
  blank = canvas.validate(canvas.text_to_video(5, 4, 6, 3, 'a red ball'))
  assert blank.known.shape == (5, 4, 6, 3)
  assert (blank.start == 1).all() and (blank.text_of == 1).all()
  assert blank.prompts == ('a red ball',) and not blank.loop


def test_animate_keeps_the_first_latents_only():
  first = latent(2)
  painted = canvas.animate(first, 5, 'it moves')
  np.testing.assert_array_equal(painted.known[:2], first)
  assert (painted.start[:2] == 0).all() and (painted.start[2:] == 1).all()


def test_edit_starts_all_of_the_clip_at_the_strength():
  clip = latent(3)
  painted = canvas.edit(clip, 0.6, 'in snow')
  np.testing.assert_array_equal(painted.known, clip)
  assert (painted.start == np.float32(0.6)).all()


def test_tokens_are_in_raster_order_with_a_group_for_each_level():
  painted = canvas.animate(latent(1), 3, 'it moves')
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
  painted = canvas.edit(latent(1), 0.0, 'same')
  painted.start[0, 0, 1] = 1.0
  cut = canvas.to_tokens(painted, PATCH)
  np.testing.assert_array_equal(cut.start, [1, 0, 0, 0, 0, 0])


def test_a_storyboard_speaks_to_its_own_frames():
  painted = canvas.text_to_video(2, 4, 6, 3, 'day')
  painted.text_of[1] = 2
  painted = painted._replace(prompts=('day', 'night'))
  cut = canvas.to_tokens(painted, PATCH)
  np.testing.assert_array_equal(cut.text_of, np.repeat([1, 2], 6))


def spoiled(name):
  painted = canvas.text_to_video(2, 4, 6, 3, 'a ball')
  if name == 'level':
    painted.start[0] = 1.5
  elif name == 'level is nan':
    painted.start[0] = np.nan
  elif name == 'known':
    painted.known[1, 2] = np.inf
  elif name == 'text':
    painted.text_of[0] = 2
  elif name == 'shape':
    painted = painted._replace(start=painted.start[:1])
  elif name == 'border':
    painted.text_of[:, :1] = 2
    painted = painted._replace(prompts=('a', 'b'))
  return painted


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('level', r'to 1\.5'),
    ('level is nan', 'nan'),
    ('known', 'finite'),
    ('text', 'to 2; there are 1'),
    ('shape', r'start is \(1, 4, 6\).*\(2, 4, 6\)'),
    ('border', r'patch \(1, 2, 2\)'),
  ],
)
def test_what_cannot_be_sampled_is_refused_by_name(name, message):
  with pytest.raises(ValueError, match=message):
    canvas.to_tokens(spoiled(name), PATCH)


def test_builders_refuse_what_cannot_be():
  with pytest.raises(ValueError, match='frames=2 must exceed the 2'):
    canvas.animate(latent(2), 2, '')
  with pytest.raises(ValueError, match=r'strength=1\.2'):
    canvas.edit(latent(2), 1.2, '')
  with pytest.raises(ValueError, match=r'\(0, 4, 6\)'):
    canvas.text_to_video(0, 4, 6, 3, '')
