"""Sampling: equal bits whatever is asked beside, and what is refused."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from sora_jax import (
  batch,
  canvas,
  flow,
  generate,
  paint,
  rng,
  samplers,
  sharding,
  tokens,
)

SETTINGS = generate.Settings(
  size=batch.Size(32, 32, 5),
  sampler='euler',
  steps=2,
  schedule='even',
  shift=0.0,
  guidance=2.0,
  guidance_rule='cfg',
  guidance_low=0.0,
  guidance_high=1.0,
  boundary=0.0,
  guidance_below=1.0,
  one_level=False,
  text_on_host=False,
  tile=0,
  micro_batch=2,
  window=33,
  overlap=2,
  cache=0.0,
  negative='',
)
REQUESTS = [
  generate.Request(f'a ball of kind {i}', 100 + i % 5) for i in range(8)
]


@pytest.fixture(scope='module')
def networks():
  return generate.Networks(config := tiny.config(), tiny.params(config))


def mesh_of(devices, **sizes):
  config = sharding.MeshConfig(**sizes)
  return sharding.make_mesh(config, jax.devices()[:devices])


@pytest.fixture(scope='module')
def alone(networks):
  """Every request by itself, on one device."""
  make = generate.make_generator(networks, SETTINGS, mesh_of(1))
  return [next(make([request])) for request in REQUESTS]


def assert_same(made, expected):
  for one, other in zip(made, expected, strict=True):
    assert one.request == other.request
    assert one.digest == other.digest
    assert one.video.tobytes() == other.video.tobytes()


def test_every_prompt_and_seed_gives_a_clip_of_its_own(alone):
  assert len({clip.digest for clip in alone}) == len(alone)
  for clip in alone:
    assert clip.video.shape == (5, 32, 32, 3)
    assert clip.latent.shape == (2, 4, 4, 4)
    assert clip.latent.std() > 0.1


@pytest.mark.parametrize('count', [3, 8])
def test_a_clip_has_the_same_bits_in_a_request_of_any_size(
  networks, alone, count
):
  make = generate.make_generator(networks, SETTINGS, mesh_of(1))
  assert_same(make(REQUESTS[:count]), alone[:count])


def test_a_clip_has_the_same_bits_in_any_slot(networks, alone):
  make = generate.make_generator(networks, SETTINGS, mesh_of(1))
  order = [5, 0, 3, 3, 7]
  made = list(make([REQUESTS[i] for i in order]))
  assert_same(made, [alone[i] for i in order])


def known_latent(seed):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(1, 4, 4, 4)).astype(np.float32)


def painted(task, seed):
  """Canvases of one layout, and of other known pieces."""
  ends = {0: known_latent(seed), 4: known_latent(seed + 1)}
  between = canvas.keyframes(ends, 5)
  whole = np.concatenate([known_latent(seed)] * 3)
  mask = np.zeros((3, 4, 4), bool)
  mask[:, :2, :2] = True
  return {
    'keyframes': lambda: between,
    'openings': lambda: canvas.keyframes(ends, 5, {4: known_latent(seed + 2)}),
    'connect': lambda: canvas.two_stories(between),
    'loop': lambda: canvas.loop(3, 4, 4, 4),
    'edit': lambda: canvas.edit(whole, 0.6),
    'replace': lambda: canvas.replace(whole, mask),
  }[task]()


@pytest.mark.parametrize(
  'task', ['keyframes', 'openings', 'connect', 'loop', 'edit', 'replace']
)
def test_what_is_known_changes_nothing_of_the_clips_beside(networks, task):
  prompts = 'a ball\na cube' if task == 'connect' else 'a ball'
  requests = [
    generate.Request(prompts, 100 + i, painted(task, 10 * i)) for i in range(5)
  ]
  make = generate.make_generator(networks, SETTINGS, mesh_of(1))
  alone = [next(make([request])) for request in requests]
  assert len({clip.digest for clip in alone}) == len(alone)
  assert_same(make(requests), alone)
  for devices, sizes in ((2, {'data': 2}), (2, {'data': 1, 'fsdp': 2})):
    make = generate.make_generator(
      networks, SETTINGS, mesh_of(devices, **sizes)
    )
    assert_same(make(requests[::-1]), alone[::-1])


def test_a_stochastic_sampler_has_noise_of_the_clip_alone(networks, alone):
  settings = SETTINGS._replace(sampler='ancestral')
  make = generate.make_generator(networks, settings, mesh_of(1))
  together = list(make(REQUESTS[:3]))
  assert_same(make([REQUESTS[2]]), together[2:])
  assert together[0].digest != alone[0].digest


@pytest.fixture
def curved(networks):
  """The same networks with a curve: at four steps, two calls at 0.2."""
  networks = networks._replace(config=copy.deepcopy(networks.config))
  networks.config.sample.cache_curve = (0.1, 0.15, 0.1)
  return networks


def test_a_cache_does_not_look_at_the_clips_beside(curved):
  settings = SETTINGS._replace(steps=4, cache=0.2)
  make = generate.make_generator(curved, settings, mesh_of(1))
  alone = [next(make([request])) for request in REQUESTS]
  assert_same(make(REQUESTS[:3]), alone[:3])
  assert_same(make(REQUESTS), alone)
  make = generate.make_generator(curved, settings, mesh_of(2, data=2))
  assert_same(make(REQUESTS), alone)


def test_a_cache_that_lets_nothing_pass_changes_nothing(curved):
  latents = []
  for tolerance in (0.0, 1e-6, 0.2):
    settings = SETTINGS._replace(steps=4, cache=tolerance)
    make = generate.make_generator(curved, settings, mesh_of(1))
    latents.append(next(make(REQUESTS[:1])).latent)
  none, tiny, some = latents
  np.testing.assert_allclose(tiny, none, atol=1e-5)
  assert np.abs(some - none).max() > 1e-3


def test_a_cache_leaves_what_is_known_and_guides_what_it_keeps(curved):
  """With one call for two steps, the second is guided in its own way."""
  first = np.full((1, 4, 4, 4), 0.5, np.float32)
  painted = canvas.keyframes({0: first}, 2)
  made = {}
  for low in (0.0, 0.6):
    settings = SETTINGS._replace(cache=9.0, guidance_low=low)
    make = generate.make_generator(curved, settings, mesh_of(1))
    (clip,) = make([generate.Request('a', 7, painted)])
    made[low] = clip.latent
    np.testing.assert_array_equal(clip.latent[:1], first)
  assert np.abs(made[0.0] - made[0.6]).max() > 1e-3


def test_guidance_outside_its_levels_is_none(networks):
  """Two steps, at levels 1 and 1/2: the interval takes either or none."""
  made = {}
  for low, high in ((0.0, 1.0), (0.6, 1.0), (0.0, 0.4)):
    settings = SETTINGS._replace(guidance_low=low, guidance_high=high)
    make = generate.make_generator(networks, settings, mesh_of(1))
    made[low, high] = next(make(REQUESTS[:1])).latent
  make = generate.make_generator(
    networks, SETTINGS._replace(guidance=1.0), mesh_of(1)
  )
  unguided = next(make(REQUESTS[:1])).latent
  np.testing.assert_allclose(made[0.0, 0.4], unguided, atol=1e-5)
  assert np.abs(made[0.6, 1.0] - unguided).max() > 1e-3
  assert np.abs(made[0.6, 1.0] - made[0.0, 1.0]).max() > 1e-4


def test_zero_star_stands_still_at_first(networks):
  settings = SETTINGS._replace(steps=1, guidance_rule='zero_star')
  make = generate.make_generator(networks, settings, mesh_of(1))
  made = next(make(REQUESTS[:1])).latent
  np.testing.assert_array_equal(made, noise_of(REQUESTS[0].seed))


@pytest.mark.parametrize(
  ('devices', 'sizes'),
  [
    (2, {'data': 2}),
    (4, {'data': 4}),
    (8, {'data': 8}),
    (8, {'data': 1, 'fsdp': 8}),
    (8, {'data': 2, 'fsdp': 4}),
    (4, {'data': 2, 'tensor': 2}),
    (4, {'data': 2, 'context': 2}),
  ],
)
def test_a_clip_has_the_same_bits_on_any_mesh(networks, alone, devices, sizes):
  mesh = mesh_of(devices, **sizes)
  make = generate.make_generator(networks, SETTINGS, mesh)
  assert_same(make(REQUESTS), alone)


def test_each_prompt_has_an_influence_that_guidance_scales(networks):
  """One Euler step from noise: v = v_0 + g (v_1 - v_0), linear in g."""
  one_step = SETTINGS._replace(steps=1, micro_batch=1)
  first = {}
  for scale in (0.0, 1.0, 3.0):
    settings = one_step._replace(guidance=scale)
    make = generate.make_generator(networks, settings, mesh_of(1))
    first[scale] = next(make(REQUESTS[:1])).latent
  difference = first[1.0] - first[0.0]
  assert np.abs(difference).max() > 1e-3
  np.testing.assert_allclose(first[3.0], first[0.0] + 3 * difference, atol=2e-5)


def noise_of(seed):
  """The noise that `rng` names, as the latent of a clip."""
  key = rng.key(jax.random.key(seed), 'noise')
  noise = rng.token_noise(key, jnp.arange(8), 16)[None]
  return tokens.unpatchify(noise, (2, 4, 4), (1, 2, 2))[0]


def test_what_is_known_stays_and_the_rest_starts_from_the_noise_of_the_seed(
  networks,
):
  """The first step of CFG-Zero* is no step, so what is left is the start."""
  settings = SETTINGS._replace(steps=1, guidance_rule='zero_star')
  first = np.full((1, 4, 4, 4), 0.5, np.float32)
  painted = [canvas.keyframes({0: first * i}, 2) for i in range(3)]
  requests = [generate.Request('a', 7, c) for c in painted]
  make = generate.make_generator(networks, settings, mesh_of(1))
  for i, made in enumerate(make(requests)):
    np.testing.assert_array_equal(made.latent[:1], first * i)
    np.testing.assert_array_equal(made.latent[1:], noise_of(7)[1:])
  repainted = canvas.edit(np.full((2, 4, 4, 4), 2.0, np.float32), 0.25)
  (made,) = generate.sample(
    networks, [generate.Request('a', 7, repainted)], settings
  )
  expected = 0.75 * 2.0 + 0.25 * noise_of(7)
  np.testing.assert_allclose(made.latent, expected, atol=1e-6)


def test_what_is_known_changes_what_is_made_around_it(networks):
  pieces = [np.full((1, 4, 4, 4), x, np.float32) for x in (0.0, 1.0)]
  requests = [
    generate.Request('a', 7, canvas.keyframes({0: piece}, 2))
    for piece in pieces
  ]
  one, other = generate.sample(networks, requests, SETTINGS)
  assert np.abs(one.latent[1] - other.latent[1]).max() > 1e-3
  np.testing.assert_array_equal(other.latent[0], 1.0)


def test_what_opens_a_piece_is_seen_by_a_network_that_knows_it(networks):
  piece, config = np.zeros((1, 4, 4, 4), np.float32), networks.config
  openings = {}, {2: piece}, {2: piece + 1.0}
  requests = [
    generate.Request('a', 7, canvas.keyframes({2: piece}, 3, opening))
    for opening in openings
  ]
  make = lambda networks: [
    next(generate.sample(networks, [request], SETTINGS)).latent
    for request in requests
  ]
  ignored = make(networks)
  for latent in ignored:
    assert latent.shape == (3, 4, 4, 4)
    np.testing.assert_array_equal(latent, ignored[0])
  told = copy.deepcopy(config)
  told.sample.openings = True
  without, zero, one = make(networks._replace(config=told))
  np.testing.assert_array_equal(without, ignored[0])
  for latent in (zero, one):
    assert latent.shape == (3, 4, 4, 4)
    np.testing.assert_array_equal(latent[2:], piece)
  assert np.abs(zero[:2] - without[:2]).max() > 1e-3
  assert np.abs(one[:2] - zero[:2]).max() > 1e-3


def test_canvases_of_one_batch_have_one_layout(networks):
  piece = np.zeros((1, 4, 4, 4), np.float32)
  requests = [
    generate.Request('a', 0, canvas.keyframes({at: piece}, 2)) for at in (0, 1)
  ]
  with pytest.raises(ValueError, match='another start than the first'):
    list(generate.sample(networks, requests, SETTINGS))


def test_each_part_of_a_storyboard_listens_to_its_own_line(networks):
  """One step from noise: a token hears of the other line by nothing."""
  painted = canvas.storyboard(canvas.text_to_video(2, 4, 4, 4), [0, 1])
  settings = SETTINGS._replace(steps=1)
  texts = ('one\ntwo', 'one\nsix', 'two\ntwo')
  requests = [generate.Request(text, 7, painted) for text in texts]
  first, second, third = (
    made.latent for made in generate.sample(networks, requests, settings)
  )
  far = lambda a, b: np.abs(a - b).max()
  assert far(first[1], second[1]) > 2 * far(first[0], second[0])
  assert far(first[0], third[0]) > 2 * far(first[1], third[1])
  plain = generate.Request('two', 7)
  (alone,) = generate.sample(networks, [plain], settings)
  np.testing.assert_allclose(third, alone.latent, atol=1e-5)
  with pytest.raises(ValueError, match='has 1 lines; its canvas has 2 parts'):
    list(generate.sample(networks, [plain._replace(canvas=painted)], settings))


def test_two_stories_are_each_their_own_and_blended_between(networks):
  settings = SETTINGS._replace(size=batch.Size(32, 32, 17), steps=1)
  make = lambda *request: (
    next(
      generate.sample(networks, [generate.Request(*request)], settings)
    ).latent
  )
  size = generate.blank(networks.config, settings.size).known.shape
  draw = np.random.default_rng(0).normal(size=(2, 1, *size[1:]))
  head, tail = draw.astype(np.float32)
  both = canvas.two_stories(canvas.keyframes({0: head, 4: tail}, 5))
  made = make('a red ball\na blue cube', 7, both)
  # In a single step neither can have heard of the other.
  one = make('a red ball', 7, canvas.keyframes({0: head}, 5))
  other = make('a blue cube', 7, canvas.keyframes({4: tail}, 5))
  share = np.array([0, 0.5, 1])[:, None, None, None]
  between = (1 - share) * one[1:4] + share * other[1:4]
  np.testing.assert_allclose(made[1:4], between, rtol=0, atol=2e-5)
  np.testing.assert_array_equal(made[[0, 4]], np.concatenate([head, tail]))
  assert np.abs(one[2] - other[2]).max() > 0.1


def test_what_opens_a_piece_is_of_the_second_story_alone(networks):
  told = copy.deepcopy(networks.config)
  told.sample.openings = True
  settings = SETTINGS._replace(size=batch.Size(32, 32, 17), steps=1)
  make = lambda prompt, painted: (
    next(
      generate.sample(
        networks._replace(config=told),
        [generate.Request(prompt, 7, painted)],
        settings,
      )
    ).latent
  )
  rng = np.random.default_rng(0)
  head, tail, opening = rng.normal(size=(3, 1, 4, 4, 4)).astype(np.float32)
  painted = canvas.keyframes({0: head, 4: tail}, 5, {4: opening})
  made = make('a red ball\na blue cube', canvas.two_stories(painted))
  one = make('a red ball', canvas.keyframes({0: head}, 5))
  other = make('a blue cube', canvas.keyframes({4: tail}, 5, {4: opening}))
  np.testing.assert_allclose(made[1], one[1], rtol=0, atol=2e-5)
  np.testing.assert_allclose(made[3], other[3], rtol=0, atol=2e-5)
  unopened = make('a blue cube', canvas.keyframes({4: tail}, 5))
  assert np.abs(unopened[3] - other[3]).max() > 1e-3


def test_a_loop_has_no_image_latent_and_is_turned(networks, monkeypatch):
  request = generate.Request('a ball', 7, canvas.loop(3, 4, 4, 4))
  (made,) = generate.sample(networks, [request], SETTINGS)
  assert made.latent.shape == (3, 4, 4, 4)
  assert made.video.shape == (12, 32, 32, 3)
  monkeypatch.setattr(paint, '_turned', lambda position, *unused: position)
  (straight,) = generate.sample(networks, [request], SETTINGS)
  assert made.digest != straight.digest


def test_a_loop_is_seen_turned_at_every_level():
  position = jnp.stack([jnp.arange(1, 6)] * 3, axis=-1)[None]
  levels = jnp.array([1.0, 0.6, 0.3, 0.0])
  frames = [
    paint._turned(position, jnp.full((1, 5), level), levels, 5)[0, :, 0]
    for level in (1.0, 0.6, 0.3)
  ]
  assert [f.tolist() for f in frames] == [
    [1, 2, 3, 4, 5],
    [3, 4, 5, 1, 2],
    [5, 1, 2, 3, 4],
  ]


def test_the_sampler_walks_the_levels_that_the_config_shifts(
  networks, monkeypatch
):
  """A clip of n tokens is shifted by sqrt(n / base), as in training."""
  seen = []
  schedule = samplers.levels_schedule
  monkeypatch.setattr(
    samplers,
    'levels_schedule',
    lambda steps, alpha, start: (
      seen.append(alpha) or schedule(steps, alpha, start)
    ),
  )
  law = networks.config.denoising.level
  monkeypatch.setattr(law, 'shift_base', 2)
  next(generate.make_generator(networks, SETTINGS, mesh_of(1))(REQUESTS))
  assert seen == [pytest.approx((8 / 2) ** 0.5)]
  assert float(flow.shift_alpha(8, law)) == pytest.approx(2.0)


def test_a_latent_has_the_size_that_its_tokens_fill(networks):
  config = networks.config
  size = generate.latent_size(config.autoencoder, SETTINGS.size)
  assert size == (2, 4, 4)
  assert tokens.token_grid(size, config.model.patch) == (2, 2, 2)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'size': batch.Size(40, 32, 5)}, '40x32 pixels: .* multiples of 16'),
    ({'window': 7}, r'window=7 frames must be 1 \+ 4 k, and 9 or more'),
    ({'window': 5}, 'window=5 .* 9 or more'),
    ({'overlap': 8}, 'overlap=8 .* from 1 to 7, .* or window must be 37 or'),
    (
      {'size': batch.Size(32, 32, 101), 'window': 65},
      'window=65 frames must be 61 or fewer',
    ),
    ({'size': batch.Size(33, 32, 5)}, '33x32 pixels: .* multiples of 16'),
    ({'size': batch.Size(32, 32, 6)}, r'6 frames are not 1 \+ 4 k: use 5'),
    ({'sampler': 'huen'}, "'huen' is unknown; choose from euler, heun"),
    ({'steps': 0}, 'steps=0 must be 1 or more'),
    ({'tile': 24}, 'tile=24 must be a multiple of 8 pixels, 32 or more; or'),
    ({'tile': 44}, 'tile=44 must be a multiple of 8'),
    ({'micro_batch': 0}, 'micro_batch=0 must be 1'),
    ({'cache': 0.1}, 'cache=0.1: the model has no cache_curve'),
  ],
)
def test_what_cannot_be_sampled_is_refused_before_it_compiles(
  networks, no_jit, change, message
):
  settings = SETTINGS._replace(**change)
  with pytest.raises(ValueError, match=message) as error:
    list(generate.sample(networks, REQUESTS[:1], settings))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('request_', 'message'),
  [
    (generate.Request('x' * 40, 0), 'caption of 40 bytes does not fit 32'),
    (generate.Request(' ', 0), 'a prompt is empty'),
    (generate.Request('a', -1), 'seed -1 must be from 0'),
    (generate.Request('a', 2**32), 'seed 4294967296 must be from 0'),
  ],
)
def test_requests_that_cannot_be_are_refused(networks, request_, message):
  make = generate.make_generator(networks, SETTINGS, mesh_of(1))
  with pytest.raises(ValueError, match=message):
    list(make([request_]))


def test_a_model_without_a_part_is_refused(networks):
  without = networks._replace(params={'dit': networks.params['dit']})
  with pytest.raises(ValueError, match='has no autoencoder and no text'):
    generate.make_generator(without, SETTINGS, mesh_of(1))


def test_anchors_are_far_enough_from_all_that_is_painted():
  settings = SETTINGS._replace(window=81, overlap=2)
  generate.check_window(settings, 4, latents=21)  # one window
  with pytest.raises(ValueError, match='window=81 frames must be 61 or fewer'):
    generate.check_window(settings, 4, latents=22)
  generate.check_window(settings._replace(window=61), 4, latents=22)
