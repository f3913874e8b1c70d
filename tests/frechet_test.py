"""Distances of normal laws, against their closed form."""

import numpy as np
import pytest
import tiny

from sora_jax import frechet, networks


def drawn(seed, count, mean, factor):
  normal = np.random.default_rng(seed).normal(size=(count, len(mean)))
  # Exactly of mean 0 and covariance 1, so that the law is exactly the one told.
  normal -= normal.mean(axis=0)
  normal = normal @ np.linalg.inv(np.linalg.cholesky(np.cov(normal.T))).T
  return normal @ np.array(factor).T + mean


def test_the_distance_has_its_closed_form():
  a = drawn(0, 50, [0.0, 1.0, 2.0], np.diag([1.0, 2.0, 3.0]))
  b = drawn(1, 80, [1.0, 1.0, 0.0], np.diag([2.0, 2.0, 0.5]))
  # Of laws whose axes agree: squares of differences of means and deviations.
  expected = 1 + 4 + 1 + 0 + 2.5**2
  assert frechet.distance(a, b) == pytest.approx(expected, rel=1e-9)
  assert frechet.distance(b, a) == pytest.approx(expected, rel=1e-9)
  assert frechet.distance(a, a) == pytest.approx(0, abs=1e-9)


def test_laws_whose_axes_differ():
  turn = np.array([[0.8, -0.6], [0.6, 0.8]])
  a = drawn(0, 40, [0.0, 0.0], np.diag([3.0, 1.0]))
  b = drawn(1, 40, [0.0, 0.0], turn @ np.diag([3.0, 1.0]))
  # tr (A^1/2 B A^1/2)^1/2 of 2 x 2 matrices, by trace and determinant.
  A = np.diag([9.0, 1.0])
  B = turn @ A @ turn.T
  product = A @ B
  trace = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
  expected = 20 - 2 * trace
  assert frechet.distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_too_few_clips_or_other_features_are_refused():
  with pytest.raises(ValueError, match='two clips'):
    frechet.distance(np.zeros((1, 3)), np.zeros((5, 3)))
  with pytest.raises(ValueError, match='one length'):
    frechet.distance(np.zeros((5, 2)), np.zeros((5, 3)))


def test_features_of_latents_tell_clips_apart(tmp_path, one_device):
  tiny.write_model(tmp_path / 'model')
  extractor = frechet.of_latents(networks.read(tmp_path / 'model'))
  assert extractor.name == 'frechet[latents]'
  shades = np.linspace(0, 255, 6).astype(np.uint8)
  still = [np.full((5, 32, 32, 3), shade, np.uint8) for shade in shades]
  moving = [video.copy() for video in still]
  for video in moving:
    video[1:] = 255 - video[1:]
  a, b = extractor.features(still), extractor.features(moving)
  assert a.shape == b.shape and a.shape[1] % 3 == 0
  third = a.shape[1] // 3
  # The last third is of change in time, from the image latent to the next.
  assert (a[:, 2 * third :] > 0).all() and (b != a).any(axis=1).all()
  assert frechet.distance(a, b) > 10 * frechet.distance(a, a[::-1])
  alone = extractor.features([video[:1] for video in still])
  assert not alone[:, 2 * third :].any()


def test_a_file_that_is_no_torchscript_is_refused(tmp_path):
  (tmp_path / 'i3d.pt').write_bytes(b'nothing')
  with pytest.raises(ValueError, match='needs torch|is no TorchScript'):
    frechet.of_torchscript(tmp_path / 'i3d.pt')


@pytest.mark.slow
def test_a_torchscript_gives_the_features(tmp_path):
  torch = pytest.importorskip('torch')

  class Mean(torch.nn.Module):
    def forward(self, x, return_features: bool = False):
      assert return_features
      return x.mean(dim=[2, 3, 4])

  path = tmp_path / 'mean.pt'
  torch.jit.script(Mean()).save(path)
  extractor = frechet.of_torchscript(path)
  assert extractor.name == 'frechet[mean.pt]'
  video = np.zeros((5, 32, 48, 3), np.uint8)
  video[..., 1] = 255
  found = extractor.features([video, video])
  np.testing.assert_allclose(found, [[-1, 1, -1]] * 2, atol=1e-6)


def test_of_a_single_clip_no_distance_is_told():
  clips = [np.zeros((5, 8, 8, 3), np.uint8)]
  looked = frechet.Extractor('x', lambda videos: np.ones((len(videos), 2)))
  assert frechet.distances([looked], clips, clips, clips) == {}
  assert set(frechet.distances([looked], 2 * clips, 2 * clips, 2 * clips)) == {
    'x'
  }
