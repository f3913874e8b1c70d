import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from sora_jax.models import text

SMALL = text.TextConfig(
  vocab=20, width=16, depth=2, heads=2, head_dim=6, mlp=24
)
KEY = jax.random.key(0)


def encode(config, params, ids, segment=None):
  ids = jnp.asarray(ids)
  segment = jnp.ones_like(ids) if segment is None else jnp.asarray(segment)
  return jax.jit(text.T5Encoder(config).apply)({'params': params}, ids, segment)


def shapes(config):
  return jax.eval_shape(lambda key: nn.meta.unbox(text.init(config, key)), KEY)


def test_heads_start_at_a_letter_a_word_a_phrase_and_the_sentence():
  bias = text.DistanceBias(text.TextConfig())
  variables = nn.meta.unbox(bias.init(KEY, 160))
  weights = jax.nn.softmax(bias.apply(variables, 160)[0], axis=-1)
  for query in (60, 80, 100):
    for head in range(8):
      # Distances from 8 on share a bucket with some more.
      reach = {0: 1, 1: 11, 2: 31, 3: 160}[head // 2]
      behind = weights[head, query, max(0, query - reach) : query]
      after = weights[head, query, query + 1 : query + 1 + reach]
      seen = after if head % 2 else behind
      assert seen.sum() > 0.5
      assert seen.max() < 1.5 * seen.mean()
      other = behind if head % 2 else after
      assert other.sum() < 0.05 * max(1, reach / 10)


@pytest.fixture(scope='module')
def params():
  """Every parameter drawn at random, so that nothing hides behind a one."""
  leaves, tree = jax.tree.flatten(shapes(SMALL))
  generator = np.random.default_rng(0)
  return jax.tree.unflatten(
    tree,
    [
      jnp.asarray(generator.normal(size=x.shape) * 0.3, x.dtype) for x in leaves
    ],
  )


@pytest.mark.parametrize(
  ('name', 'count'),
  [('umt5-xxl', 5_680_910_336), ('t5-v1.1-xxl', 4_762_310_656)],
)
def test_published_sizes_have_their_number_of_parameters(name, count):
  config = text.TextConfig(**text.SIZES[name])
  leaves = jax.tree.leaves(shapes(config))
  assert sum(math.prod(x.shape) for x in leaves) == count


def test_distances_fall_into_t5s_buckets():
  """Edges by hand: 8 exact, then 8 * 16^(j / 8) up to 128; later keys + 16."""
  distance = np.asarray([0, 1, 7, 8, 11, 12, 16, 31, 32, 64, 127, 128, 900])
  after = np.asarray([0, 17, 23, 24, 24, 25, 26, 27, 28, 30, 31, 31, 31])
  bucket = lambda d: text.distance_bucket(d, buckets=32, max_distance=128)
  np.testing.assert_array_equal(bucket(distance), after)
  before = np.where(distance > 0, after - 16, 0)
  np.testing.assert_array_equal(bucket(-distance), before)


def reference(config, params, ids):
  """The encoder for one caption, in float64, as the papers write it."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  length, heads = len(ids), config.heads
  index = np.arange(length)
  bucket = text.distance_bucket(
    index[None] - index[:, None], config.buckets, config.max_distance
  )

  def rms(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.eps) * scale

  def gelu(x):
    return (x + x * np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2

  x = p['embedding'][ids]
  for i in range(config.depth):
    b = jax.tree.map(lambda y, i=i: y[i], p['blocks'])
    table = p if config.shared_bias else b
    bias = table['relative_attention_bias']['embedding'][bucket]  # N L A
    h = rms(x, b['attention_norm']['scale'])
    q, k, v = (
      (h @ b['attention'][n]['kernel']).reshape(length, heads, -1)
      for n in 'qkv'
    )
    scores = np.einsum('NAK,LAK->NLA', q, k) + bias
    weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    y = np.einsum('NLA,LAK->NAK', weights, v).reshape(length, -1)
    x = x + y @ b['attention']['o']['kernel']
    h = rms(x, b['mlp_norm']['scale'])
    m = b['mlp']
    gate = gelu(h @ m['wi_0']['kernel'])
    x = x + (gate * (h @ m['wi_1']['kernel'])) @ m['wo']['kernel']
  return rms(x, p['final_layer_norm']['scale'])


@pytest.mark.parametrize('shared_bias', [False, True])
def test_it_is_the_published_encoder(shared_bias, params):
  config = dataclasses.replace(SMALL, shared_bias=shared_bias)
  if shared_bias:  # as in T5 v1.1, whose first block holds the only table
    blocks = dict(params['blocks'])
    tables = blocks.pop('relative_attention_bias')
    table = jax.tree.map(lambda x: x[0], tables)
    params = params | dict(blocks=blocks, relative_attention_bias=table)
  ids = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
  np.testing.assert_allclose(
    encode(config, params, [ids])[0], reference(config, params, ids), atol=1e-4
  )


def test_packed_or_alone_a_caption_has_the_same_features(params):
  first, second = [5, 6, 7, 1], [9, 8, 5, 4, 3, 1]
  ids = [[*first, *second, 0, 0], [0, 0, *second, 0, *first[:3]]]
  segment = [[1] * 4 + [2] * 6 + [0] * 2, [0] * 2 + [3] * 6 + [0] + [1] * 3]
  packed = encode(SMALL, params, ids, segment)
  alone = {len(c): encode(SMALL, params, [c])[0] for c in (first, second)}
  np.testing.assert_allclose(packed[0, :4], alone[4], atol=1e-5)
  np.testing.assert_allclose(packed[0, 4:10], alone[6], atol=1e-5)
  np.testing.assert_allclose(packed[1, 2:8], alone[6], atol=1e-5)
  # A shorter caption is another caption, so its features differ.
  assert np.abs(packed[1, 9:] - alone[4][:3]).max() > 0.01


def test_empty_slots_are_zeros_and_do_not_leak(params):
  segment = [[1, 1, 1, 0, 0]]
  y = encode(SMALL, params, [[5, 6, 1, 0, 0]], segment)
  other = encode(SMALL, params, [[5, 6, 1, 9, 12]], segment)
  np.testing.assert_array_equal(y, other)
  assert not y[0, 3:].any()
  assert y[0, :3].any(axis=-1).all()


def test_order_matters(params):
  y = np.asarray(encode(SMALL, params, [[5, 6, 7, 1]])[0])
  swapped = encode(SMALL, params, [[6, 5, 7, 1]])[0]
  assert np.abs(y[[1, 0, 2, 3]] - swapped).max() > 0.01


@pytest.mark.parametrize('shared_bias', [False, True])
def test_loop_and_unrolled_blocks_agree(shared_bias):
  config = dataclasses.replace(SMALL, shared_bias=shared_bias)
  params = nn.meta.unbox(jax.jit(lambda key: text.init(config, key))(KEY))
  unrolled = dataclasses.replace(config, scan=False)
  ids = [[5, 6, 7, 1]]
  np.testing.assert_allclose(
    encode(config, params, ids), encode(unrolled, params, ids), atol=1e-5
  )


def test_bfloat16_stays_close_and_features_are_float32(params):
  ids = [[5, 6, 7, 8, 9, 1]]
  exact = encode(SMALL, params, ids)
  low = encode(dataclasses.replace(SMALL, dtype='bfloat16'), params, ids)
  assert low.dtype == jnp.float32
  error = np.linalg.norm(low - exact) / np.linalg.norm(exact)
  assert 0 < error < 0.03


def test_rounded_once_it_gives_the_same_bits_in_half_the_bytes(params):
  config, ids = dataclasses.replace(SMALL, dtype='bfloat16'), [[5, 6, 7, 1]]
  lean = text.lean(config, params)
  one, other = (encode(config, tree, ids) for tree in (params, lean))
  assert one.tobytes() == other.tobytes()
  size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  assert size(lean['embedding']) == size(params['embedding']) / 2
  assert size(lean['blocks']['mlp']) == size(params['blocks']['mlp']) / 2


def test_the_byte_encoder_learns_to_tell_words_apart():
  config = text.TextConfig(width=32, heads=2, head_dim=16, mlp=64)
  words = ['a red ball falls', 'a fed ball reels', 'b red ball falls']
  ids = jnp.asarray([[byte + 3 for byte in w.encode()] for w in words])
  params = nn.meta.unbox(jax.jit(lambda key: text.init(config, key))(KEY))
  optimizer = optax.adam(3e-3)

  def loss(params):
    y = text.T5Encoder(config).apply(
      {'params': params}, ids, jnp.ones_like(ids)
    )
    logits = y.mean(axis=1)[:, :3]
    labels = jnp.arange(3)
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, labels
    ).mean()

  def step(carry, _):
    params, state = carry
    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradients, state)
    return (optax.apply_updates(params, updates), state), value

  train = jax.jit(lambda carry: jax.lax.scan(step, carry, length=60))
  _, losses = train((params, optimizer.init(params)))
  assert losses[0] > 0.7
  assert losses[-1] < 0.05


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('heads', 0, 'heads=0'),
    ('buckets', 30, 'buckets=30'),
    ('max_distance', 8, 'max_distance=8'),
    ('dtype', 'int8', 'bfloat16'),
  ],
)
def test_sizes_that_cannot_be_are_refused(field, value, message):
  config = dataclasses.replace(SMALL)
  setattr(config, field, value)  # as a flag does, after construction
  with pytest.raises(ValueError, match=message):
    text.init(config, KEY)
