"""Every test runs on eight simulated CPU devices, with strict arrays."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
# Most of the time goes into compiling small programs: four fifths of it less.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false',
)

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_debug_key_reuse', True)
jax.devices()  # starts them, or a verb under test would ask for fewer


@pytest.fixture(scope='module')
def cached_compilation(tmp_path_factory):
  """Programs that a file of tests compiles again and again compile once."""
  settings = {
    'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('compiled')),
    'jax_persistent_cache_min_compile_time_secs': 0.1,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(autouse=True, scope='session')
def signer_home(tmp_path_factory):
  """Local certificates are made here, not in the home of who runs tests."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CONFIG_HOME', str(tmp_path_factory.mktemp('config')))
    yield


@pytest.fixture
def one_device(monkeypatch):
  """Lets runs see one of the simulated devices, and XLA has less to do."""
  # Not at the top: modules imported before pytest starts go unchecked.
  from sora_jax import sharding

  make_mesh = sharding.make_mesh
  monkeypatch.setattr(
    sharding,
    'make_mesh',
    lambda config, devices=None: make_mesh(config, jax.devices()[:1]),
  )


@pytest.fixture
def no_jit(monkeypatch):
  """Makes whatever compiles at the edges of the package fail."""

  def fail(*unused, **unused_too):
    raise AssertionError('this should have been refused before any compile')

  monkeypatch.setattr(jax, 'jit', fail)
