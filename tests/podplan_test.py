"""Training on TPUs that are not here."""

import jax
import jax.numpy as jnp
import pytest
import tiny

from sora_jax import config as config_lib, memory, podplan, published
from sora_jax.models import dit


def test_the_work_of_a_step_is_what_its_products_are():
  """Of a DiT whose attention takes all scores at once."""
  config = tiny.config()
  config.model = dit.DiTConfig(
    width=256, heads=4, mlp=1024, depth=3, text_width=64, scan=False
  )
  limits = config.data.limits
  limits.rows, limits.tokens, limits.text = 2, 512, 64
  ints = lambda *shape: jax.ShapeDtypeStruct((2, *shape), jnp.int32)
  floats = lambda *shape: jax.ShapeDtypeStruct((2, *shape), jnp.float32)
  inputs = (
    *(floats(512, 64), floats(1), ints(512, 3), ints(512), ints(512)),
    *(floats(64, 64), ints(64), ints(512)),
  )
  params = jax.eval_shape(
    lambda key: dit.init(config.model, key), jax.random.key(0)
  )

  def loss(params, *inputs):
    net = dit.SpacetimeDiT(config.model)
    return jnp.sum(net.apply({'params': params}, *inputs))

  lowered = jax.jit(jax.grad(loss)).lower(params, *inputs)
  counted = lowered.compile().cost_analysis()['flops']
  # Beside products there are norms, softmax and the like.
  assert 0.9 < podplan.model_flops(config) / counted < 1


def test_adapters_leave_out_gradients_of_the_kernels_beside_them():
  config = published.of_size('1.3b')
  config.data.limits.tokens, config.data.limits.text = 1, 0
  whole = podplan.model_flops(config)
  config.lora.rank = 4
  assert podplan.model_flops(config) / whole == pytest.approx(2 / 3, rel=1e-3)


def test_a_chip_whose_memory_is_known_has_a_peak():
  assert set(podplan.PEAK) == set(memory.TPU_MEMORY)


def test_published_models_are_planned_by_name():
  published.of_size('5b').autoencoder.channels = 7  # of that config alone
  config = published.of_size('5b')
  assert config.model.channels == config.autoencoder.channels == 48
  assert config.text.width == config.model.text_width == 4096
  assert config.sample.size == '1280x704x121'


@pytest.fixture
def no_compiler(monkeypatch):
  monkeypatch.setattr(podplan.importlib.util, 'find_spec', lambda name: None)


def test_a_plan_needs_the_compiler(no_compiler):
  with pytest.raises(ValueError, match='pip install libtpu'):
    podplan.chips('v5p:2x2x2')


def test_plans_are_of_the_dit():
  config = config_lib.Config(stage=config_lib.Stage.AUTOENCODER)
  with pytest.raises(ValueError, match='stage=autoencoder: plans are of the D'):
    podplan.plan(config, jax.devices())


def planned(**mesh):
  """A transformer of 1.3 B without its weights."""
  config = published.of_size('1.3b')
  config.model.remat = True
  config.data.limits.rows, config.data.limits.tokens = 4, 8192
  for name, size in mesh.items():
    setattr(config.mesh, name, size)
  return config


def test_a_plan_says_what_a_chip_holds_computes_and_is_sent():
  pytest.importorskip('libtpu')
  with pytest.raises(ValueError, match='--topology=v9:2x2x1: .* v9; such as'):
    podplan.chips('v9:2x2x1')
  with pytest.raises(ValueError, match='nothing is known of TPU v3; take one'):
    podplan.chips('v3:2x2')
  chips = podplan.chips('v5p:2x2x1')
  lines = podplan.plan(planned(fsdp=2, context=2), chips)
  assert lines[0] == '4 devices (TPU v5): data 1, fsdp 2, context 2, tensor 1'
  assert lines[1].startswith('1.42 B parameters to train; 4 rows of 8,192')
  assert 'GB of a device (weights 2.8' in lines[2] and '95 GB' in lines[2]
  # Weights come to every device, and gradients go from it.
  assert 'all-gather' in lines[4]


def test_what_does_not_fit_a_chip_is_refused():
  pytest.importorskip('libtpu')
  config = planned()
  with pytest.raises(ValueError, match=r'memory: .*15.75G.*: raise run.accum'):
    podplan.plan(config, podplan.chips('v5e:2x2'))
