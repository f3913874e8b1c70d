"""Convolutions by oneDNN are those of XLA, but for rounding to bfloat16.

Of CPUs without instructions for bfloat16 it does the same, slowly.
"""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from sora_jax import prepare, sharding
from sora_jax.data import latents
from sora_jax.models import autoencoder, causal, onednn

pytest.importorskip('torch')

PAD = ((1, 1), (1, 1))
TINY = autoencoder.AutoencoderConfig(
  channels=2,
  encoder_width=4,
  decoder_width=4,
  multiples=(1, 2),
  halve_time=(True,),
  blocks=1,
  dtype='float32',
)


def both(function, *inputs):
  """What a function gives by oneDNN on eight devices, and by XLA on one."""
  inputs = jax.device_get(inputs)
  expected = jax.jit(function)(*inputs)
  onednn.use(True)
  with sharding.use(sharding.make_mesh(sharding.MeshConfig())):
    # Another function, or JAX would not trace it again.
    found = jax.jit(lambda *inputs: function(*inputs))(*inputs)
    found = jax.device_get(found)
  onednn.use(False)
  return found, jax.device_get(expected)


def distance(tree, other):
  """The largest error of a leaf, as a part of its root mean square."""
  errors = jax.tree.map(
    lambda a, b: np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)), tree, other
  )
  return max(jax.tree.leaves(jax.device_get(errors)))


@pytest.mark.parametrize(
  'window, strides, pad',
  [
    ((3, 3, 3), (1, 1, 1), PAD),
    ((3, 1, 1), (2, 1, 1), ((0, 0), (0, 0))),
    ((1, 3, 3), (1, 2, 2), ((0, 1), (0, 1))),
    ((1, 1, 1), (1, 1, 1), ((0, 0), (0, 0))),
  ],
)
def test_values_and_gradients_are_off_by_what_is_rounded(window, strides, pad):
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.random.normal(keys[0], (8, 5, 6, 8, 4))
  kernel = jax.random.normal(keys[1], (*window, 4, 6))

  def run(x, kernel):
    def total(x, kernel):
      y = causal.convolve(x, kernel, strides, pad)
      weights = np.random.default_rng(0).normal(size=y.shape)
      return jnp.sum(weights * y), y

    (_, y), grads = jax.value_and_grad(total, (0, 1), has_aux=True)(x, kernel)
    return y, *grads

  # bfloat16 rounds by 2e-3 of a number.
  assert 1e-4 < distance(*both(run, x, kernel)) < 6e-3


def test_an_autoencoder_learns_by_it_as_by_xla():
  params = sharding.unbox(autoencoder.init(TINY, jax.random.key(0)))
  video = jax.random.uniform(jax.random.key(1), (8, 5, 8, 8, 3))

  def gradients(params, video):
    def loss(params):
      apply = autoencoder.Autoencoder(TINY).apply
      return jnp.mean((apply({'params': params}, video) - video) ** 2)

    grads = jax.grad(loss)(params)
    return jnp.concatenate([jnp.ravel(g) for g in jax.tree.leaves(grads)])

  assert 1e-4 < distance(*both(gradients, params, video)) < 2e-2


@pytest.mark.parametrize('how', ['rows', 'type', 'shared out already'])
def test_what_it_does_not_take_is_convolved_by_xla(how):
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.random.normal(keys[0], (1 if how == 'rows' else 8, 3, 4, 4, 2))
  kernel = jax.random.normal(keys[1], (3, 3, 3, 2, 2))
  if how == 'type':
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)

  def run(x, kernel):
    convolve = functools.partial(causal.convolve, pad=PAD)
    if how == 'shared out already' and onednn._torch:
      rows = P(sharding.ROWS)
      convolve = jax.shard_map(convolve, in_specs=(rows, P()), out_specs=rows)
    return convolve(x, kernel)

  found, expected = both(run, x, kernel)
  np.testing.assert_array_equal(found, expected)


def test_without_torch_it_is_refused(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(ValueError, match='pip install torch'):
    onednn.use(True)


def test_latents_are_prepared_by_it(tmp_path):
  tiny.write_model(tmp_path / 'model')
  config = tiny.config(clips=8)
  config.autoencoder_from = str(tmp_path / 'model')
  config.data.limits.text = 96
  made = []
  for on in (False, True):
    config.run.onednn = on
    flags = types.SimpleNamespace(data=None, workdir=str(tmp_path / f'{on}'))
    prepare.main(config, flags)
    source = latents.LatentSource(tmp_path / f'{on}' / 'latents')
    made.append([source[i].latent for i in range(len(source))])
  onednn.use(False)
  assert len(made[0]) == 8 and 1e-4 < distance(*made) < 2e-2
