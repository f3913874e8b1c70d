"""What of a clip is encoded, where it lies on the canvas, and what is kept."""

import numpy as np
import pytest
import tiny

from sora_jax import batch, canvas, generate, tasks


def frames_of(*values, size=16):
  """A clip whose every frame has a value of its own."""
  values = np.array(values, np.uint8)[:, None, None, None]
  return np.tile(values, (1, size, size, 3))


def encode(video):
  """In place of the network: first and last frame of what a latent covers."""
  first = video[[0, *range(1, len(video), 4)], ::8, ::8, :1]
  last = video[::4, ::8, ::8, :1]
  return np.concatenate([first, last], axis=-1).astype(np.float32)


def known(scene):
  """(first, last) frame of each known latent, and None where none is."""
  return [
    tuple(latent[0, 0].tolist()) if start.max() == 0 else None
    for latent, start in zip(
      scene.canvas.known, scene.canvas.start, strict=True
    )
  ]


def finished(scene):
  """Values of the finished frames, of which what is made are 255."""
  made = np.full(scene.pixels.shape, 255, np.uint8)
  cut = len(made) // 3  # where it is cut does not matter
  parts = scene.finish([made[:cut], made[cut:]])
  return np.concatenate(list(parts))[:, 0, 0, 0].tolist()


def test_a_still_is_the_first_frame():
  scene = tasks.animate(encode, frames_of(7)[0], 9)
  assert known(scene) == [(7, 7), None, None]
  assert finished(scene) == [7] + [255] * 8


def test_keyframes_fill_the_latent_that_they_lie_in():
  stills = {0: frames_of(3)[0], 6: frames_of(4)[0]}
  scene = tasks.keyframes(encode, stills, 13)
  assert known(scene) == [(3, 3), None, (4, 4), None]
  assert finished(scene) == [3] + [255] * 4 + [4] * 4 + [255] * 4


def test_going_on_starts_from_the_last_frames_as_a_stream_of_their_own():
  clip = frames_of(*range(10, 20))
  scene = tasks.extend(encode, clip, 8, latents=2)
  assert known(scene) == [(15, 15), (16, 19), None, None]
  assert finished(scene) == [*range(10, 20)] + [255] * 8


def test_going_back_shows_the_image_latent_of_the_clip_by_itself():
  clip = frames_of(*range(10, 20))
  scene = tasks.extend_backwards(encode, clip, 8, latents=2)
  # The clip's first frame, by itself, is shown behind it.
  assert known(scene) == [None, None, None, (11, 14), (15, 18), (10, 10)]
  assert finished(scene) == [255] * 8 + [*range(10, 20)]


def test_clips_are_met_at_both_ends():
  one, other = frames_of(*range(10, 20)), frames_of(*range(30, 40))
  scene = tasks.connect(encode, one, other, 7, latents=1)
  assert known(scene) == [(19, 19), None, None, (31, 34), (30, 30)]
  assert scene.canvas.position.tolist() == [0, 1, 2, 3, 2]
  assert finished(scene) == [*range(10, 20)] + [255] * 7 + [*range(30, 40)]


def test_an_edit_keeps_no_pixel():
  scene = tasks.edit(encode, frames_of(*range(5)), 0.5)
  assert (scene.canvas.start == 0.5).all()
  assert finished(scene) == [255] * 5


def test_what_is_replaced_fades_into_what_is_kept():
  clip = frames_of(*[100] * 5, size=64)
  mask = np.zeros(clip.shape[:3], bool)
  mask[3, 33, 26] = True  # cell 4, 3 of latent 1
  scene = tasks.replace(encode, clip, mask)
  expected = np.zeros((2, 8, 8))
  expected[1, 3:6, 2:5] = 1
  np.testing.assert_array_equal(scene.canvas.start, expected)
  keep = scene.keep
  assert (keep[0] == 1).all()
  np.testing.assert_array_equal(keep[1], keep[4])
  assert (keep[3, 32:40, 24:32] == 0).all()  # the marked cell
  np.testing.assert_allclose(
    keep[3, 36, 14:26], [1, 1, *np.arange(7, -1, -1) / 8, 0, 0], atol=1e-6
  )
  outside = np.ones((64, 64), bool)
  outside[24:48, 16:40] = False
  assert (keep[3][outside] == 1).all()


def test_a_clip_is_painted_on_around_its_own_pixels():
  clip = frames_of(*range(1, 6), size=32)
  scene = tasks.outpaint(encode, clip, batch.Size(64, 32, 5), left=16, top=0)
  start = scene.canvas.start[0, 0]
  # Two cells on each side, and the one within that saw beyond the border.
  assert start.tolist() == [1, 1, 1, 0, 0, 1, 1, 1]
  assert scene.keep[2, 5, 24:40].min() == 1 and scene.keep[2, 5, 15] == 0
  assert scene.pixels[2, 5, 0, 0] == 3


def test_the_networks_see_what_they_encode(one_device):
  networks = generate.Networks(config := tiny.config(), tiny.params(config))
  rng = np.random.default_rng(0)
  clip = rng.integers(0, 256, (9, 32, 32, 3), np.uint8)
  scene = tasks.extend(tasks.make_encoder(networks), clip, 4, latents=2)
  settings = generate.settings_of(config.sample)._replace(
    size=batch.Size(32, 32, 9), steps=2
  )
  request = generate.Request('a ball', 3, scene.canvas)
  (made,) = generate.sample(networks, [request], settings)
  np.testing.assert_array_equal(made.latent[:2], scene.canvas.known[:2])
  whole = np.concatenate(list(scene.finish([made.video])))
  assert whole.shape == (13, 32, 32, 3)
  np.testing.assert_array_equal(whole[:9], clip)


def test_a_loop_has_four_frames_to_every_latent():
  size = batch.Size(32, 16, 9)
  scene = tasks.text_to_video(canvas.loop(3, 2, 4, 2), size)
  made = np.concatenate(
    list(scene.finish([np.ones((12, 16, 32, 3), np.uint8)]))
  )
  assert made.mean() == 1


@pytest.mark.parametrize(
  ('build', 'message'),
  [
    (
      lambda clip: tasks.extend(encode, clip, 4, 3),
      '--keep=3: a clip of 5 frames is shorter than the 9 frames of its end .*'
      '--keep=2 is the most',
    ),
    (
      lambda clip: tasks.extend_backwards(encode, clip, 4, 2),
      '--keep=2: .* shorter than the 9 frames of its beginning .*=1 is the m',
    ),
    (
      lambda clip: tasks.extend_backwards(encode, clip[:4], 4, 1),
      'shorter than the 5 frames of its beginning .* give a longer one',
    ),
    (
      lambda clip: tasks.connect(encode, clip, clip[:, :8], 4, 1),
      'clips of 16x16 and 16x8 pixels; they must have one size',
    ),
    (
      lambda clip: tasks.replace(encode, clip, np.ones((5, 8, 16), bool)),
      r'mask of \(5, 8, 16\) .* clip has \(5, 16, 16\)',
    ),
    (
      lambda clip: tasks.outpaint(encode, clip, batch.Size(24, 16, 5), 16, 0),
      '16x16 at 16,0 is not inside 24x16x5',
    ),
    (
      lambda clip: tasks.outpaint(encode, clip, batch.Size(24, 16, 9), 0, 0),
      'clip of 5 frames, and 24x16x9 asked',
    ),
  ],
)
def test_what_does_not_fit_is_refused_in_one_line(build, message):
  with pytest.raises(ValueError, match=message) as error:
    build(frames_of(*range(5)))
  assert '\n' not in str(error.value)
