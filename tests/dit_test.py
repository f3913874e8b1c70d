import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from sora_jax.models import dit, layers, rope

# Small, but with different numbers wherever two could be confused.
SMALL = dit.DiTConfig(
  width=24,
  depth=2,
  heads=2,
  mlp=40,
  patch=(1, 2, 1),
  channels=3,
  text_width=10,
  frequencies=16,
  dtype='float32',
)
KEY = jax.random.key(0)
VALUES = 6  # in a patch of 1 x 2 x 1 latents of 3 channels

# Two clips of 4 and 6 tokens, with captions of 3 and 2 rows, and empty slots.
CLIP_TOKENS, CLIP_TEXT = (4, 6), (3, 2)


def fresh(config):
  return nn.meta.unbox(jax.jit(lambda key: dit.init(config, key))(KEY))


def apply(config, params, inputs):
  run = jax.jit(dit.SpacetimeDiT(config).apply)
  return run({'params': params}, **inputs)


@pytest.fixture(scope='module')
def params():
  """Every parameter drawn at random, so that nothing hides behind a zero."""
  shapes = jax.eval_shape(lambda key: nn.meta.unbox(dit.init(SMALL, key)), KEY)
  leaves, tree = jax.tree.flatten(shapes)
  generator = np.random.default_rng(0)
  return jax.tree.unflatten(
    tree,
    [
      jnp.asarray(generator.normal(size=x.shape) * 0.3, x.dtype) for x in leaves
    ],
  )


def clip(seed, tokens, text):
  """One clip alone in its row, at two noise levels."""
  x, position, level, features = jax.random.split(jax.random.key(seed), 4)
  ones = jnp.ones((1, tokens), jnp.int32)
  return dict(
    x=jax.random.normal(x, (1, tokens, VALUES)),
    level=jax.random.uniform(level, (1, 2)),
    position=jax.random.randint(position, (1, tokens, 3), 0, 9),
    segment=ones,
    group=jnp.arange(tokens)[None] % 2,
    text=jax.random.normal(features, (1, text, SMALL.text_width)),
    text_segment=jnp.ones((1, text), jnp.int32),
    text_of=ones,
  )


def pack(clips, empty_tokens=3, empty_text=2):
  """The clips in one row, as segments 1, 2, ..., then empty slots."""
  shifts = dict(segment=1, text_segment=1, text_of=1, group=2)
  row = {
    name: jnp.concatenate(
      [c[name] + shifts.get(name, 0) * i for i, c in enumerate(clips)], axis=1
    )
    for name in clips[0]
  }
  empty = dict.fromkeys(row, empty_tokens)
  empty |= dict(text=empty_text, text_segment=empty_text, level=0)
  return {
    name: jnp.pad(y, [(0, 0), (0, empty[name])] + [(0, 0)] * (y.ndim - 2))
    for name, y in row.items()
  }


@pytest.fixture
def clips():
  sizes = zip(CLIP_TOKENS, CLIP_TEXT, strict=True)
  return [clip(i, *size) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
  ('name', 'count'),
  [
    ('1.3b', 1_418_996_800),
    ('5b', 4_999_787_712),
    ('14b', 14_288_491_584),
    ('a14b-t2v', 14_288_491_584),
    ('a14b-i2v', 14_288_901_184),
  ],
)
def test_published_sizes_have_their_number_of_parameters(name, count):
  config = dit.DiTConfig(**dit.SIZES[name])
  shapes = jax.eval_shape(lambda key: dit.init(config, key), KEY)
  assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize('name', dit.SIZES)
def test_every_named_size_can_be(name):
  dit.check(dit.DiTConfig(**dit.SIZES[name]))


def test_a_fresh_block_is_the_identity_and_a_fresh_network_says_zero(clips):
  inputs, params = clips[0], fresh(SMALL)
  assert not np.any(apply(SMALL, params, inputs))

  x = jax.random.normal(jax.random.key(2), (1, 4, SMALL.width))
  around = dit.Surroundings(
    modulation=jnp.zeros((1, 2, 6, SMALL.width)),
    group=layers.one_hot(inputs['group'], 2),
    rotation=rope.rotations(inputs['position'], SMALL.width // SMALL.heads),
    segment=inputs['segment'],
    text=jax.random.normal(jax.random.key(3), (1, 3, SMALL.width)),
    text_segment=inputs['text_segment'],
    text_of=inputs['text_of'],
  )
  block = jax.tree.map(lambda p: p[0], params['blocks'])
  y, _ = jax.jit(dit.Block(SMALL).apply)({'params': block}, x, around)
  np.testing.assert_array_equal(y, x)


def test_packed_or_alone_a_clip_gets_the_same_prediction(params, clips):
  packed = apply(SMALL, params, pack(clips))[0]
  alone = [apply(SMALL, params, c)[0] for c in clips]
  assert np.std(alone[0]) > 0.1
  np.testing.assert_allclose(
    packed[: sum(CLIP_TOKENS)], np.concatenate(alone), atol=2e-5
  )


def test_what_lies_in_empty_slots_does_not_leak(params, clips):
  inputs = pack(clips)
  full = sum(CLIP_TOKENS)
  noise = jax.random.normal(jax.random.key(5), inputs['x'].shape)
  tampered = inputs | dict(
    x=jnp.where(inputs['segment'][..., None] > 0, inputs['x'], 50 * noise),
    text=jnp.where(inputs['text_segment'][..., None] > 0, inputs['text'], 50.0),
    position=jnp.where(
      inputs['segment'][..., None] > 0, inputs['position'], 900
    ),
  )
  np.testing.assert_array_equal(
    apply(SMALL, params, tampered)[0, :full],
    apply(SMALL, params, inputs)[0, :full],
  )


def test_gradients_are_finite_beside_empty_slots(params, clips):
  inputs = pack(clips)
  model = dit.SpacetimeDiT(SMALL)

  def loss(params, x):
    y = model.apply({'params': params}, **(inputs | dict(x=x)))
    return jnp.sum(jnp.where(inputs['segment'][..., None] > 0, y, 0.0) ** 2)

  to_params, to_x = jax.jit(jax.grad(loss, (0, 1)))(params, inputs['x'])
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(to_params))
  assert all(np.any(g) for g in jax.tree.leaves(to_params))
  assert np.isfinite(to_x).all()
  assert not to_x[inputs['segment'] == 0].any()


def test_a_token_listens_to_the_caption_it_is_told_to(params, clips):
  """A storyboard: one clip whose halves hear different captions."""
  inputs = pack([clips[0]], empty_tokens=0, empty_text=0)
  inputs |= dict(text_segment=jnp.asarray([[1, 2, 2]]))

  def heard(caption, text_of):
    """Which tokens change with a caption, in a network of one block."""
    config = dataclasses.replace(SMALL, depth=1)
    one = params | dict(blocks=jax.tree.map(lambda p: p[:1], params['blocks']))
    told = inputs | dict(text_of=jnp.asarray([text_of]))
    changed = told | dict(
      text=jnp.where(
        told['text_segment'][..., None] == caption, 9.0, told['text']
      )
    )
    difference = apply(config, one, told) - apply(config, one, changed)
    return np.abs(difference[0]).max(axis=-1) > 0

  np.testing.assert_array_equal(heard(1, [1, 1, 2, 0]), [1, 1, 0, 0])
  np.testing.assert_array_equal(heard(2, [1, 1, 2, 0]), [0, 0, 1, 0])


def test_levels_are_heard_by_the_tokens_of_their_group(params, clips):
  config = dataclasses.replace(SMALL, depth=1)
  one = params | dict(blocks=jax.tree.map(lambda p: p[:1], params['blocks']))
  # Alone in its segment, a token hears nobody else's level.
  inputs = clips[0] | dict(segment=jnp.arange(4)[None] + 1)
  other = inputs | dict(level=inputs['level'].at[0, 1].add(0.01))
  difference = apply(config, one, inputs) - apply(config, one, other)
  np.testing.assert_array_equal(
    np.abs(difference[0]).max(axis=-1) > 0, inputs['group'][0] == 1
  )


def test_only_differences_of_positions_matter(params, clips):
  inputs = clips[1]
  moved = inputs | dict(position=inputs['position'] + 100)
  stretched = inputs | dict(position=inputs['position'] * 2)
  y = apply(SMALL, params, inputs)
  np.testing.assert_allclose(apply(SMALL, params, moved), y, atol=5e-4)
  assert np.abs(apply(SMALL, params, stretched) - y).max() > 0.05


@pytest.mark.parametrize('change', [dict(scan=False), dict(remat=True)])
def test_loop_and_recomputation_change_no_prediction_and_no_gradient(
  change, params, clips
):
  inputs = pack(clips)

  def gradients(config):
    model = dit.SpacetimeDiT(config)
    loss = lambda p: jnp.mean(model.apply({'params': p}, **inputs) ** 2)
    return jax.jit(jax.value_and_grad(loss))(params)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5, rtol=1e-4),
    gradients(SMALL),
    gradients(dataclasses.replace(SMALL, **change)),
  )


def test_bfloat16_stays_close_and_float32_stays_where_it_matters(params, clips):
  inputs = pack(clips)
  full = sum(CLIP_TOKENS)
  exact = apply(SMALL, params, inputs)[0, :full]
  low = apply(dataclasses.replace(SMALL, dtype='bfloat16'), params, inputs)
  assert low.dtype == jnp.float32
  error = np.linalg.norm(low[0, :full] - exact) / np.linalg.norm(exact)
  assert 0 < error < 0.03


def test_rounded_once_it_gives_the_same_bits_in_half_the_bytes(params, clips):
  config = dataclasses.replace(SMALL, dtype='bfloat16')
  lean = dit.lean(config, params)
  inputs = pack(clips)
  one, other = (apply(config, tree, inputs) for tree in (params, lean))
  assert one.tobytes() == other.tobytes()
  size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  assert size(lean['blocks']['ffn']) == size(params['blocks']['ffn']) / 2
  assert size(lean['time']) == size(params['time'])
  assert dit.lean(SMALL, params)['time'] is params['time']


def test_norms_can_be_turned_off(clips):
  config = dataclasses.replace(SMALL, qk_norm=False, cross_norm=False)
  params = fresh(config)
  assert 'norm2' not in params['blocks']
  assert 'norm_q' not in params['blocks']['attn1']
  assert apply(config, params, clips[0]).shape == (1, 4, VALUES)


def test_a_small_network_learns_a_small_batch():
  """Four captions, four clips: from noise and a caption back to the clip."""
  config = dit.DiTConfig(
    width=64, depth=2, heads=2, mlp=128, channels=2, text_width=8
  )
  clean, text, noise = (
    jax.random.normal(jax.random.key(i), shape)
    for i, shape in enumerate([(4, 8, 8), (4, 2, 8), (4, 8, 8)])
  )
  level = jnp.asarray([[0.3], [0.5], [0.7], [0.9]])
  t = level[..., None]
  index = jnp.arange(8)
  ones = jnp.ones((4, 8), jnp.int32)
  inputs = dict(
    x=(1 - t) * clean + t * noise,
    level=level,
    position=jnp.tile(
      jnp.stack([index // 4, index // 2 % 2, index % 2], -1), (4, 1, 1)
    ),
    segment=ones,
    group=0 * ones,
    text=text,
    text_segment=ones[:, :2],
    text_of=ones,
  )
  params = fresh(config)
  optimizer = optax.adam(3e-3)

  def loss(params):
    y = dit.SpacetimeDiT(config).apply({'params': params}, **inputs)
    return jnp.mean((y - clean) ** 2)

  def step(carry, _):
    params, state = carry
    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradients, state)
    return (optax.apply_updates(params, updates), state), value

  train = jax.jit(lambda carry: jax.lax.scan(step, carry, length=150))
  _, losses = train((params, optimizer.init(params)))
  assert losses[0] > 0.8
  assert losses[-1] < 0.01


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('heads', 5, 'width=24.*heads=5'),
    ('heads', 12, 'heads of 2'),
    ('depth', 0, 'depth=0'),
    ('patch', (1, 2), 'patch=.1, 2.'),
    ('condition_channels', -1, 'condition_channels=-1'),
    ('frequencies', 15, 'frequencies=15'),
    ('dtype', 'float64', 'bfloat16'),
  ],
)
def test_sizes_that_cannot_be_are_refused(field, value, message):
  config = dataclasses.replace(SMALL)
  setattr(config, field, value)  # as a flag does, after construction
  with pytest.raises(ValueError, match=message):
    dit.init(config, KEY)


def test_a_patch_of_another_size_is_refused_with_both_sizes(params, clips):
  inputs = clips[0] | dict(x=jnp.zeros((1, 4, VALUES + 1)))
  with pytest.raises(ValueError, match='7 values.* makes 6'):
    apply(SMALL, params, inputs)


def test_rows_of_zeros_need_not_be_there(params, clips):
  """`text_length` stands for captions that are padded as Wan's are.

  Two clips in one row, with captions of 3 and 2 rows, equal each alone with its
  caption and all the rows of zeros.
  """
  padded = dataclasses.replace(SMALL, text_length=512)
  packed = apply(padded, params, pack(clips))
  at = 0
  for one in clips:
    rows = 512 - one['text'].shape[1]
    full = one | dict(
      text=jnp.pad(one['text'], ((0, 0), (0, rows), (0, 0))),
      text_segment=jnp.ones((1, 512), jnp.int32),
    )
    alone = apply(SMALL, params, full)
    found = packed[:, at : at + alone.shape[1]]
    # Of numbers around 1, as the bounds of `parity` are: these are up to 2.7.
    bound = 1e-5 * max(1.0, np.abs(alone).max())
    np.testing.assert_allclose(found, alone, atol=bound, rtol=0)
    # The rows do say something.
    assert np.abs(apply(SMALL, params, one) - alone).max() > 1e-2
    at += alone.shape[1]
