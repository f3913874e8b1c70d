import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sora_jax import optimizer


def rate(step, total=1001, **fields):
  config = optimizer.OptimConfig(
    learning_rate=2.0, warmup_steps=100, end_fraction=0.1, **fields
  )
  return float(optimizer.make_schedule(config, total)(step))


@pytest.mark.parametrize('schedule', sorted(optimizer.SCHEDULES))
def test_warm_up_is_linear_and_reaches_the_peak(schedule):
  assert rate(0, schedule=schedule) == pytest.approx(2.0 / 100)
  assert rate(49, schedule=schedule) == pytest.approx(1.0)
  assert rate(99, schedule=schedule) == pytest.approx(2.0)
  assert rate(100, schedule=schedule) == pytest.approx(2.0)


def test_each_schedule_has_its_known_values_after_warm_up():
  assert rate(1000, schedule='constant') == pytest.approx(2.0)
  # Halfway, a cosine is halfway between its ends.
  assert rate(550, schedule='cosine') == pytest.approx(2.0 * (1 + 0.1) / 2)
  assert rate(325, schedule='cosine') == pytest.approx(
    2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
  )
  assert rate(1000, schedule='cosine') == pytest.approx(0.2)
  flat = dict(schedule='wsd', decay_fraction=0.2)
  assert rate(819, **flat) == pytest.approx(2.0)
  assert rate(910, **flat) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
  assert rate(1000, **flat) == pytest.approx(0.2)


def test_steps_past_the_end_keep_the_last_rate():
  assert rate(5000, schedule='cosine') == pytest.approx(0.2)


def test_a_bad_schedule_is_refused_by_name():
  with pytest.raises(ValueError, match='constant, cosine, wsd'):
    rate(0, schedule='linear')
  with pytest.raises(ValueError, match='warmup_steps=100'):
    rate(0, total=50)
  with pytest.raises(ValueError, match='decay_fraction=0.0'):
    rate(0, decay_fraction=0.0)


class Block(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    init = nn.with_logical_partitioning(nn.initializers.zeros, ('six', 'embed'))
    table = self.param('table', init, (6, 4))
    x = nn.LayerNorm(name='norm')(x) + table[0][None]
    return nn.Dense(4, name='dense')(x), None


class Model(nn.Module):
  @nn.compact
  def __call__(self, ids):
    x = nn.Embed(5, 4, name='embed')(ids)
    blocks = nn.scan(
      Block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=3,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    x, _ = blocks(name='blocks')(x, None)
    gamma = self.param('gamma', nn.initializers.ones, (1, 4))
    bias = self.param('relative_bias', nn.initializers.zeros, (32, 2))
    return x * gamma + bias.sum()


@pytest.mark.parametrize('boxed', [True, False])
def test_only_kernels_decay_even_where_scan_stacks_the_biases(boxed):
  params = jax.eval_shape(
    Model().init, jax.random.key(0), jnp.zeros((2,), jnp.int32)
  )['params']
  assert params['blocks']['dense']['bias'].shape == (3, 4)
  params = params if boxed else nn.meta.unbox(params)
  mask = nn.meta.unbox(optimizer.decay_mask(params))
  assert mask == {
    'embed': {'embedding': False},
    'blocks': {
      'table': False,
      'norm': {'scale': False, 'bias': False},
      'dense': {'kernel': True, 'bias': False},
    },
    'gamma': False,
    'relative_bias': False,
  }


PARAMS = {
  'kernel': np.array([[0.5, -2.0]], np.float32),
  'bias': np.array([1.5], np.float32),
}
GRADS = {
  'kernel': np.array([[3.0, 0.0]], np.float32),
  'bias': np.array([4.0], np.float32),
}
CONFIG = optimizer.OptimConfig(
  learning_rate=0.1,
  schedule='constant',
  warmup_steps=0,
  b1=0.9,
  b2=0.99,
  eps=1e-3,
  weight_decay=0.2,
  clip_norm=1.0,
)


def test_two_adamw_steps_agree_with_the_algorithm_by_hand():
  opt = optimizer.make_optimizer(CONFIG, 10)
  params = jax.tree.map(jnp.asarray, PARAMS)
  state = opt.init(params)
  for _ in range(2):
    updates, state = opt.update(GRADS, state, params)
    params = optax.apply_updates(params, updates)

  for name, decay in (('kernel', 0.2), ('bias', 0.0)):
    x = PARAMS[name].astype(np.float64)
    g = GRADS[name] / 5.0  # the norm of (3, 4) is clipped from 5 to 1
    m = v = 0.0
    for n in (1, 2):
      m = 0.9 * m + 0.1 * g
      v = 0.99 * v + 0.01 * g**2
      step = (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.99**n)) + 1e-3)
      x = x - 0.1 * (step + decay * x)
    np.testing.assert_allclose(params[name], x, rtol=1e-5)


def muon_step(grads):
  """The updates of one step of Muon at a learning rate of 1, without decay."""
  config = optimizer.OptimConfig(
    method='muon',
    learning_rate=1.0,
    warmup_steps=0,
    weight_decay=0.0,
    clip_norm=0.0,
    schedule='constant',
  )
  opt = optimizer.make_optimizer(config, 10)
  params = jax.tree.map(jnp.zeros_like, grads)
  updates, _ = opt.update(grads, opt.init(params), params)
  return updates


def test_muon_moves_a_kernel_by_a_nearly_orthogonal_matrix():
  gradient = jax.random.normal(jax.random.key(0), (24, 64))
  gradient *= jnp.logspace(0, 2, 24)[:, None]  # no direction is to be lost
  update = np.asarray(muon_step({'kernel': gradient})['kernel'])
  # Five Newton-Schulz steps bring singular values near 1, and 0.2 sqrt(64)
  # their root mean square near 0.2.
  values = np.linalg.svd(update, compute_uv=False) / (0.2 * 64**0.5)
  assert 0.3 < values.min() and values.max() < 1.3
  assert np.sqrt(np.mean(update**2)) == pytest.approx(0.2, rel=0.15)
  assert np.sum(update * np.asarray(gradient)) < 0


def test_muon_takes_stacked_layers_one_by_one_and_a_convolution_as_one_matrix():
  stack = jax.random.normal(jax.random.key(1), (3, 8, 16))
  together = muon_step({'blocks': {'kernel': stack}})['blocks']['kernel']
  for layer, update in zip(stack, together, strict=True):
    alone = muon_step({'kernel': layer})['kernel']
    np.testing.assert_allclose(update, alone, atol=1e-6)
  taps = jax.random.normal(jax.random.key(2), (3, 1, 2, 4, 8))
  found = muon_step({'kernel': taps})['kernel']
  matrix = muon_step({'kernel': taps.reshape(24, 8)})['kernel']
  np.testing.assert_allclose(found.reshape(24, 8), matrix, atol=1e-6)


def test_muon_leaves_what_is_no_kernel_to_adam():
  grads = jax.tree.map(jnp.asarray, GRADS)
  found = muon_step(grads)['bias']
  # With Nesterov's look ahead: 0.9 m_1 / (1 - 0.9^2) + g, of m_1 = 0.1 g.
  first = 0.9 * 0.1 / (1 - 0.9**2) + 1
  np.testing.assert_allclose(found, -first * np.sign(GRADS['bias']), rtol=1e-3)


def test_an_unknown_method_is_refused_by_name():
  with pytest.raises(ValueError, match='adamw, muon'):
    optimizer.make_optimizer(optimizer.OptimConfig(method='sgd'), 1000)


def test_gradients_under_the_clip_norm_are_left_alone():
  config = optimizer.OptimConfig(clip_norm=0.0, warmup_steps=0)
  free = optimizer.make_optimizer(config, 10)
  clipped = optimizer.make_optimizer(
    optimizer.OptimConfig(clip_norm=5.1, warmup_steps=0), 10
  )
  a, _ = free.update(GRADS, free.init(PARAMS), PARAMS)
  b, _ = clipped.update(GRADS, clipped.init(PARAMS), PARAMS)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_average_warms_up_and_then_holds_its_decay():
  ema, params = {'x': jnp.full(3, 8.0)}, {'x': jnp.full(3, 16.0)}
  first = optimizer.update_ema(ema, params, 0, 0.999)['x']  # d = 1/10
  np.testing.assert_allclose(first, 15.2, rtol=1e-6)
  later = optimizer.update_ema(ema, params, 90, 0.999)['x']  # d = 91/100
  np.testing.assert_allclose(later, 8.72, rtol=1e-6)
  late = optimizer.update_ema(ema, params, 10**6, 0.75)['x']  # exact in binary
  np.testing.assert_array_equal(late, 10.0)
  copied = optimizer.update_ema(ema, params, 7, 0.0)['x']
  np.testing.assert_array_equal(copied, 16.0)


def make_state(opt):
  params = jax.tree.map(jnp.asarray, PARAMS)
  return dict(
    step=jnp.asarray(4, jnp.int32),
    trainable=params,
    frozen={'text': jnp.ones(2)},
    ema=jax.tree.map(lambda x: x + 1, params),
    opt=opt.init(params),
    counters=optimizer.init_counters() | {'clips': jnp.asarray(7)},
  )


def test_a_good_step_is_the_plain_update():
  opt = optimizer.make_optimizer(CONFIG, 10)
  state = make_state(opt)
  step = jax.jit(
    lambda s, g, loss: optimizer.guarded_update(opt, s, g, loss, 0.5)
  )
  after, norm = step(state, GRADS, jnp.asarray(1.0))
  updates, moments = opt.update(GRADS, state['opt'], state['trainable'])
  expected = optax.apply_updates(state['trainable'], updates)
  d = 5 / 14  # step 4
  assert float(norm) == pytest.approx(5.0)
  assert int(after['step']) == 5
  assert int(after['counters']['clips']) == 7
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    after['opt'],
    moments,
  )
  for name in PARAMS:
    np.testing.assert_allclose(
      after['trainable'][name], expected[name], rtol=1e-6
    )
    mean = d * (PARAMS[name] + 1) + (1 - d) * np.asarray(expected[name])
    np.testing.assert_allclose(after['ema'][name], mean, rtol=1e-6)


@pytest.mark.parametrize('where', ['loss', 'gradient', 'overflow'])
def test_a_step_that_is_not_finite_changes_no_bit_and_is_counted(where):
  opt = optimizer.make_optimizer(CONFIG, 10)
  # Donation is what a run does; it must not disturb what is kept.
  step = jax.jit(
    lambda s, g, loss: optimizer.guarded_update(opt, s, g, loss, 0.5)[0],
    donate_argnums=0,
  )
  good = (GRADS, jnp.asarray(1.0))
  bad = {
    'loss': (GRADS, jnp.asarray(jnp.nan)),
    'gradient': (GRADS | {'bias': np.float32([np.inf])}, jnp.asarray(1.0)),
    'overflow': (GRADS | {'bias': np.float32([1e30])}, jnp.asarray(1.0)),
  }[where]
  state = step(make_state(opt), *good)
  parts = ('trainable', 'frozen', 'ema', 'opt')
  before = jax.tree.map(np.array, {k: state[k] for k in parts})
  for n in (1, 2):
    state = step(state, *bad)
    assert int(state['counters']['skipped_in_row']) == n
  after = jax.tree.map(np.array, {k: state[k] for k in parts})
  jax.tree.map(np.testing.assert_array_equal, before, after)
  assert int(state['step']) == 7

  state = step(state, *good)
  assert int(state['counters']['skipped']) == 2
  assert int(state['counters']['skipped_in_row']) == 0
  assert (state['trainable']['bias'] != after['trainable']['bias']).all()


def test_one_bad_shard_stops_the_step_on_every_device():
  mesh = jax.make_mesh((8,), ('fsdp',), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec('fsdp'))
  opt = optimizer.make_optimizer(CONFIG, 10)
  params = {'kernel': jax.device_put(jnp.arange(16.0), split)}
  state = make_state(opt) | dict(
    trainable=params, ema=params, opt=opt.init(params)
  )
  grads = jax.device_put(jnp.ones(16).at[13].set(jnp.nan), split)
  step = jax.jit(
    lambda s, g: optimizer.guarded_update(opt, s, g, jnp.ones(()), 0.5)[0]
  )
  after = step(state, {'kernel': grads})
  np.testing.assert_array_equal(after['trainable']['kernel'], np.arange(16.0))
  assert after['trainable']['kernel'].sharding.is_equivalent_to(split, 1)
  assert int(after['counters']['skipped']) == 1
