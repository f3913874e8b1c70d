"""The autoencoder is causal, one size fits all, and chunks equal one pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import sharding
from sora_jax.models import autoencoder, causal

TINY = dict(
  channels=3,
  encoder_width=4,
  decoder_width=4,
  multiples=(1, 2, 2),
  halve_time=(True, True),
  blocks=1,
  latent_mean=(0.5, -1.0, 0.0),
  latent_std=(2.0, 0.5, 1.0),
)
CONFIGS = {
  'plain': autoencoder.AutoencoderConfig(**TINY),
  'shortcuts': autoencoder.AutoencoderConfig(**TINY, patch=2, shortcuts=True),
}


def filled(boxed):
  """Parameters none of which is 0 or 1, of a usual size."""
  generator = np.random.default_rng(0)
  fan_in = lambda x: np.prod(x.shape[:-1])  # of a vector: 1
  return jax.tree.map(
    lambda x: jnp.asarray(
      generator.normal(size=x.shape) / fan_in(x) ** 0.5, x.dtype
    ),
    sharding.unbox(boxed),
  )


def abstract(config):
  return jax.eval_shape(
    lambda key: autoencoder.init(config, key), jax.random.key(0)
  )


@pytest.fixture(scope='module', params=CONFIGS)
def net(request):
  config = CONFIGS[request.param]
  return Net(config, filled(abstract(config)))


class Net:
  """The four entry points with their parameters, compiled."""

  def __init__(self, config, params):
    self.config, self.params = config, params

    def bind(f):
      compiled = jax.jit(lambda params, *args: f(config, params, *args))
      return functools.partial(compiled, params)

    self.encode = bind(autoencoder.encode)
    self.decode = bind(autoencoder.decode)
    self.encode_chunk = bind(autoencoder.encode_chunk)
    self.decode_chunk = bind(autoencoder.decode_chunk)

  def video(self, frames):
    side = self.config.space
    shape = (1, frames, side, 2 * side, 3)
    return jax.random.uniform(jax.random.key(2), shape, minval=-1)

  def latent(self, frames):
    shape = (1, frames, 1, 2, self.config.channels)
    return jax.random.normal(jax.random.key(3), shape)


def in_chunks(step, whole, sizes):
  stream, out, start = {}, [], 0
  for size in sizes:
    stream, part = step(stream, whole[:, start : start + size])
    out.append(part)
    start += size
  assert start == whole.shape[1]
  return jnp.concatenate(out, axis=1), stream


def sizes_of(tree):
  return jax.tree.map(jnp.shape, tree)


def test_chunks_encode_as_one_pass_does(net):
  video = net.video(9)
  expected = net.encode(video)
  assert expected.shape == (1, 3, 1, 2, 3)
  for chunks in ([1, 4, 4], [5, 4]):
    found, _ = in_chunks(net.encode_chunk, video, chunks)
    np.testing.assert_allclose(found, expected, atol=2e-5, err_msg=f'{chunks}')


def test_chunks_decode_as_one_pass_does(net):
  z = net.latent(3)
  expected = net.decode(z)
  side = net.config.space
  assert expected.shape == (1, 9, side, 2 * side, 3)
  for chunks in ([1, 1, 1], [2, 1]):
    found, _ = in_chunks(net.decode_chunk, z, chunks)
    np.testing.assert_allclose(found, expected, atol=2e-5, err_msg=f'{chunks}')


def test_the_memory_of_a_stream_does_not_grow(net):
  _, short = in_chunks(net.encode_chunk, net.video(5), [1, 4])
  _, long = in_chunks(net.encode_chunk, net.video(9), [1, 4, 4])
  assert sizes_of(short) == sizes_of(long)
  _, short = in_chunks(net.decode_chunk, net.latent(2), [1, 1])
  _, long = in_chunks(net.decode_chunk, net.latent(3), [1, 1, 1])
  assert sizes_of(short) == sizes_of(long)


def test_later_frames_cannot_change_earlier_latents(net):
  video = net.video(9)
  other = video.at[:, 5:].set(-video[:, 5:])
  a, b = net.encode(video), net.encode(other)
  np.testing.assert_array_equal(a[:, :2], b[:, :2])
  assert jnp.abs(a[:, 2] - b[:, 2]).max() > 1e-3
  # Of the four frames that a latent stands for, each reaches it.
  gradient = jax.grad(lambda v: jnp.sum(net.encode(v)[:, 1] ** 2))(video)
  reach = jnp.abs(gradient).max(axis=(0, 2, 3, 4))
  assert not reach[5:].any() and (reach[1:5] > 0).all()


def test_later_latents_cannot_change_earlier_frames(net):
  z = net.latent(3)
  other = z.at[:, 2].set(-z[:, 2])
  a, b = net.decode(z), net.decode(other)
  np.testing.assert_array_equal(a[:, :5], b[:, :5])
  changed = jnp.abs(a - b).max(axis=(0, 2, 3, 4))
  assert (changed[5:] > 1e-4).all()


def test_the_first_frame_alone_is_an_image(net):
  video = net.video(9)
  image, _ = in_chunks(net.encode_chunk, video[:, :1], [1])
  np.testing.assert_allclose(image, net.encode(video)[:, :1], atol=2e-5)
  frame, _ = in_chunks(net.decode_chunk, net.latent(3)[:, :1], [1])
  np.testing.assert_allclose(frame, net.decode(net.latent(3))[:, :1], atol=2e-5)


def test_bfloat16_stays_close_and_what_comes_out_is_float32(net):
  """To about twice the share of the root mean square that was measured."""
  low = Net(dataclasses.replace(net.config, dtype='bfloat16'), net.params)
  for way, given, bound in (
    ('encode', net.video(9), 0.0075),
    ('decode', net.latent(3), 0.0105),
  ):
    exact, found = getattr(net, way)(given), getattr(low, way)(given)
    assert found.dtype == jnp.float32
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < bound, way


def test_pixels_stay_within_their_range(net):
  video = net.decode(100 * net.latent(3))
  assert video.min() == -1 and video.max() == 1


def test_normalised_latents_have_the_mean_and_spread_divided_out():
  config = CONFIGS['plain']
  mean = jnp.array(config.latent_mean)[None, None, None, None]
  std = jnp.array(config.latent_std)[None, None, None, None]
  np.testing.assert_array_equal(autoencoder.normalise(config, mean), 0)
  np.testing.assert_array_equal(autoencoder.normalise(config, mean + std), 1)
  z = jax.random.normal(jax.random.key(0), (2, 3, 1, 2, 3))
  back = autoencoder.denormalise(config, autoencoder.normalise(config, z))
  np.testing.assert_allclose(back, z, atol=1e-6)


def test_latents_without_statistics_are_refused():
  config = dataclasses.replace(CONFIGS['plain'], latent_mean=(), latent_std=())
  with pytest.raises(ValueError, match='latent_mean'):
    autoencoder.normalise(config, jnp.zeros((1, 1, 1, 1, 3)))
  with pytest.raises(ValueError, match='latent_mean'):
    autoencoder.denormalise(config, jnp.zeros((1, 1, 1, 1, 3)))


@pytest.mark.parametrize(
  'wrong, words',
  [
    (dict(halve_time=(True,)), 'halve_time=.*multiples='),
    (dict(latent_std=(1.0,)), 'latent_std has 1 .*channels=3'),
    (dict(multiples=(1, 7, 7), shortcuts=True), 'level 1 .* 8 .*multiple of 7'),
  ],
)
def test_a_config_that_contradicts_itself_is_refused(wrong, words):
  with pytest.raises(ValueError, match=words):
    autoencoder.check(autoencoder.AutoencoderConfig(**TINY | wrong))


@pytest.mark.parametrize(
  'size, first, words',
  [
    ((4, 8, 8), True, r'4 frames are not 1 \+ 4 k: use 1'),
    ((8, 8, 8), True, r'8 frames are not 1 \+ 4 k: use 5'),
    ((0, 8, 8), True, r'0 frames are not 1 \+ 4 k: use 1'),
    ((5, 8, 8), False, r'5 frames are not 4 k: use 4'),
    ((3, 8, 8), False, r'3 frames are not 4 k: use 4'),
    ((5, 8, 12), True, r'12x8 pixels.* multiples of 8'),
    ((5, 20, 8), True, r'8x20 pixels.* multiples of 8'),
    ((5, 0, 8), True, r'8x0 pixels.* multiples of 8'),
  ],
)
def test_sizes_without_whole_latents_say_what_would_do(size, first, words):
  config = CONFIGS['shortcuts']
  with pytest.raises(ValueError, match=words):
    autoencoder.check_size(config, *size, first)
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(
      lambda key: autoencoder.Autoencoder(config).init(
        key, jnp.zeros((1, *size, 3)), first, method='encode'
      ),
      jax.random.key(0),
    )


@pytest.mark.parametrize(
  'size, first', [((1, 8, 16), True), ((4, 8, 8), False)]
)
def test_sizes_with_whole_latents_are_taken(size, first):
  autoencoder.check_size(CONFIGS['shortcuts'], *size, first)


# ---------------------------------------------------- the published networks


@pytest.mark.parametrize(
  'config, tensors, count',
  [
    # Of the published files, without their latent statistics.
    (autoencoder.WAN_2_1, 194, 126_892_531),
    (autoencoder.WAN_2_2, 196, 704_688_668),
  ],
  ids=['2.1', '2.2'],
)
def test_published_networks_have_as_many_parameters(config, tensors, count):
  leaves = jax.tree.leaves(sharding.unbox(abstract(config)))
  assert len(leaves) == tensors
  assert sum(x.size for x in leaves) == count
  assert {x.dtype for x in leaves} == {jnp.dtype('float32')}


@pytest.mark.parametrize(
  'config, side, channels',
  [(autoencoder.WAN_2_1, 8, 16), (autoencoder.WAN_2_2, 16, 48)],
  ids=['2.1', '2.2'],
)
def test_published_networks_take_four_frames_and_a_square(
  config, side, channels
):
  assert (config.space, config.time) == (side, 4)
  config = dataclasses.replace(config, dtype='bfloat16')
  model = autoencoder.Autoencoder(config)
  video = jnp.zeros((2, 5, 2 * side, side, 3))

  def both(key):
    variables = model.init(key, video)
    mean, _ = model.apply(variables, video, method='encode')
    return mean, model.apply(variables, mean, method='decode')

  mean, decoded = jax.eval_shape(both, jax.random.key(0))
  assert mean.shape == (2, 2, 2, 1, channels)
  assert decoded.shape == video.shape
  assert mean.dtype == decoded.dtype == jnp.float32


# ------------------------------------------------------------------- layers


@pytest.mark.parametrize(
  'window, strides, pad',
  [
    ((3, 3, 3), (1, 1, 1), ((1, 1), (1, 1))),
    ((3, 1, 1), (2, 1, 1), ((0, 0), (0, 0))),
    ((1, 3, 3), (1, 2, 2), ((0, 1), (0, 1))),
    ((2, 3, 1), (3, 2, 1), ((2, 0), (0, 1))),
  ],
)
def test_convolution_agrees_with_three_axes_at_once(window, strides, pad):
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.random.normal(keys[0], (2, 7, 6, 4, 3))
  kernel = jax.random.normal(keys[1], (*window, 3, 5))

  def expected(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      window_strides=strides,
      padding=((0, 0), *pad),
      dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    )

  def found(x, kernel):
    return causal.convolve(x, kernel, strides, pad)

  np.testing.assert_allclose(found(x, kernel), expected(x, kernel), atol=1e-4)
  total = lambda f: lambda *args: jnp.sum(jnp.sin(f(*args)))
  for a, b in zip(
    jax.grad(total(found), (0, 1))(x, kernel),
    jax.grad(total(expected), (0, 1))(x, kernel),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_convolution_of_too_few_frames_gives_none():
  x, kernel = jnp.ones((1, 2, 4, 4, 3)), jnp.ones((3, 1, 1, 3, 5))
  assert causal.convolve(x, kernel).shape == (1, 0, 4, 4, 5)


@pytest.mark.parametrize('first', [True, False])
@pytest.mark.parametrize('t, s', [(1, 1), (1, 2), (2, 2)])
def test_folding_is_a_mean_over_neighbours_in_wans_order(t, s, first):
  frames = 2 * t + (1 if first and t > 1 else 0)
  x = np.random.default_rng(0).normal(size=(2, frames, 4, 2, 6))
  x = x.astype(np.float32)
  features = 3
  found = causal.fold_mean(jnp.asarray(x), features, t, s, first)
  lead = -frames % t
  padded = np.concatenate([np.zeros((2, lead, 4, 2, 6)), x], axis=1)
  T, H, W = (frames + lead) // t, 4 // s, 2 // s
  assert found.shape == (2, T, H, W, features)
  group = 6 * t * s * s // features
  for f, i, j in np.ndindex(T, H, W):
    # Channels slowest, then the frame, row and column within the fold.
    values = np.stack([
      padded[:, f * t + a, i * s + b, j * s + c, channel]
      for channel in range(6)
      for a in range(t)
      for b in range(s)
      for c in range(s)
    ])
    for k in range(features):
      mean = values[k * group : (k + 1) * group].mean(axis=0)
      np.testing.assert_allclose(found[:, f, i, j, k], mean, atol=1e-6)


@pytest.mark.parametrize('first', [True, False])
@pytest.mark.parametrize('t, s', [(1, 2), (2, 2)])
def test_unfolding_repeats_channels_in_wans_order(t, s, first):
  x = np.random.default_rng(0).normal(size=(2, 3, 2, 1, 6)).astype(np.float32)
  features = 3
  found = causal.unfold_repeat(jnp.asarray(x), features, t, s, first)
  dropped = t - 1 if first else 0
  assert found.shape == (2, 3 * t - dropped, 2 * s, s, features)
  repeats = features * t * s * s // 6
  for f, i, j, k in np.ndindex(*found.shape[1:]):
    a, b, c = (f + dropped) % t, i % s, j % s
    channel = (((k * t + a) * s + b) * s + c) // repeats
    expected = x[:, (f + dropped) // t, i // s, j // s, channel]
    np.testing.assert_array_equal(found[:, f, i, j, k], expected)


def test_a_black_video_has_finite_gradients():
  config = CONFIGS['plain']
  model = autoencoder.Autoencoder(config)
  video = jnp.zeros((1, 1, 4, 4, 3))
  params = filled(abstract(config))
  gradient = jax.jit(
    jax.grad(
      lambda params: jnp.sum(model.apply({'params': params}, video) ** 2 + 1)
    )
  )(params)
  assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient))
