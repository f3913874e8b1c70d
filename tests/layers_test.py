import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sora_jax.models import dit, layers


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def test_linear_is_a_product_and_a_bias():
  x, kernel, bias = normal(0, 2, 3, 4), normal(1, 4, 5), normal(2, 5)
  y = layers.Linear(5, ('embed', 'mlp')).apply(
    {'params': {'kernel': kernel, 'bias': bias}}, x
  )
  expected = np.asarray(x) @ np.asarray(kernel) + np.asarray(bias)
  np.testing.assert_allclose(y, expected, atol=1e-6)


def test_linear_names_its_axes_and_keeps_the_scale_of_its_input():
  x = normal(0, 64, 512)
  linear = layers.Linear(512, ('embed', 'mlp'))
  params = linear.init(jax.random.key(1), x)
  assert nn.get_partition_spec(params)['params'] == {
    'kernel': jax.sharding.PartitionSpec('embed', 'mlp'),
    'bias': jax.sharding.PartitionSpec('mlp'),
  }
  np.testing.assert_allclose(np.std(linear.apply(params, x)), 1.0, atol=0.05)


def test_folding_axes_on_cpu_changes_neither_product_nor_gradients():
  x, kernel, weight = normal(0, 2, 3, 4), normal(1, 4, 5), normal(2, 2, 3, 5)

  def gradients(product):
    return jax.value_and_grad(
      lambda x, kernel: jnp.vdot(product(x, kernel), weight), (0, 1)
    )(x, kernel)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    gradients(layers.matmul),
    gradients(jnp.matmul),
  )


def test_norms_have_the_moments_they_promise():
  x = 3 + 5 * normal(0, 7, 64)
  y = layers.standardize(x)
  np.testing.assert_allclose(np.mean(y, axis=-1), 0, atol=1e-6)
  np.testing.assert_allclose(np.var(y, axis=-1), 1, atol=1e-5)
  scale, bias = 1 + normal(1, 64) / 4, normal(2, 64)
  affine = layers.LayerNorm().apply(
    {'params': {'scale': scale, 'bias': bias}}, x
  )
  expected = np.asarray(y) * np.asarray(scale) + np.asarray(bias)
  np.testing.assert_allclose(affine, expected, atol=1e-6)
  rms = layers.RMSNorm().apply({'params': {'scale': scale}}, x)
  mean_square = np.mean(np.square(np.asarray(rms) / np.asarray(scale)), axis=-1)
  np.testing.assert_allclose(mean_square, 1, atol=1e-5)


def test_norms_compute_in_float32_whatever_comes_in():
  x = (200 + normal(0, 2, 512)).astype(jnp.bfloat16)
  y = layers.standardize(x)
  assert y.dtype == jnp.float32
  x64 = np.asarray(x, np.float64)
  expected = (x64 - x64.mean(-1, keepdims=True)) / x64.std(-1, keepdims=True)
  np.testing.assert_allclose(y, expected, atol=1e-4)


def test_sinusoid_has_cosines_first_at_geometric_frequencies():
  zero, far = layers.sinusoid(jnp.asarray([0.0, 700.0]), 256)
  np.testing.assert_array_equal(zero, np.repeat([1.0, 0.0], 128))
  angle = 700 * 10_000.0 ** (-np.arange(128) / 128)
  np.testing.assert_allclose(far[:128], np.cos(angle), atol=1e-4)
  np.testing.assert_allclose(far[128:], np.sin(angle), atol=1e-4)


def test_modulation_reaches_the_tokens_of_its_group_exactly():
  values = normal(0, 2, 3, 6, 8)
  group = jnp.asarray([[2, 0, 0, 1], [1, 1, 2, 0]])
  parts = layers.spread(values, layers.one_hot(group, 3))
  for j, part in enumerate(parts):
    expected = np.stack([values[b, group[b], j] for b in range(2)])
    np.testing.assert_array_equal(part, expected)


def test_a_lone_group_reaches_every_token_without_being_copied():
  values = normal(0, 2, 1, 6, 8)
  parts = layers.spread(values, jnp.ones((2, 4, 1)))
  for j, part in enumerate(parts):
    np.testing.assert_array_equal(part, values[:, :, j])


def test_residual_sums_are_rounded_once():
  x = jnp.full((1, 1, 1), 256.0, jnp.bfloat16)  # its neighbours are 2 apart
  y = jnp.full((1, 1, 1), 1.25, jnp.float32)
  assert layers.add(x, y) == 258.0
  assert layers.add(x, y).dtype == jnp.bfloat16


class Layer(nn.Module):
  """A block for `stack`: a residual nonlinearity."""

  @nn.compact
  def __call__(self, x, shift):
    h = layers.Linear(x.shape[-1], ('embed', 'mlp'), name='linear')(x)
    return x + jnp.tanh(h + shift), None


@pytest.mark.parametrize('remat', [False, True])
@pytest.mark.parametrize('scan', [False, True])
def test_a_stack_is_its_layers_one_after_another(scan, remat):
  x, shift = normal(0, 2, 8), normal(1, 2, 8)
  net = layers.stack(Layer, 3, scan=scan, remat=remat)()
  boxed = net.init(jax.random.key(2), x, shift)
  kernel = boxed['params']['linear']['kernel']
  assert kernel.names == ('layers', 'embed', 'mlp')
  params = nn.meta.unbox(boxed)
  assert params['params']['linear']['kernel'].shape == (3, 8, 8)

  def loop(params):
    y = x
    for i in range(3):
      layer = jax.tree.map(lambda p, i=i: p[i], params)
      y, _ = Layer().apply(layer, y, shift)
    return jnp.sum(jnp.square(y))

  def stacked(params):
    return jnp.sum(jnp.square(net.apply(params, x, shift)[0]))

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-5),
    jax.value_and_grad(stacked)(params),
    jax.value_and_grad(loop)(params),
  )


@pytest.mark.parametrize(
  ('backend', 'dtype'),
  [('cpu', 'float32'), ('gpu', 'bfloat16'), ('tpu', 'bfloat16')],
)
def test_the_type_to_compute_in_follows_the_platform(
  monkeypatch, backend, dtype
):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  assert layers.resolve_dtype(dit.DiTConfig()).dtype == dtype
  for given in ('float32', 'bfloat16'):
    asked = dit.DiTConfig(dtype=given)
    assert layers.resolve_dtype(asked) == asked


def test_unknown_types_are_refused_with_the_choices():
  with pytest.raises(ValueError, match='float16.*auto, float32, bfloat16'):
    layers.check_dtype('float16')
