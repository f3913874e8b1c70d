"""Every test runs on eight simulated CPU devices, with strict arrays."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
# Most of the time goes into compiling small programs: four fifths of it less.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
  ' --xla_cpu_parallel_codegen_split_count=1',
)

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_debug_key_reuse', True)
jax.devices()  # starts them, or a verb under test would ask for fewer


@pytest.fixture(autouse=True, scope='session')
def cached_compilation(tmp_path_factory):
  """Programs that tests compile again and again compile once."""
  base = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    base = base.parent  # which the workers share
  jax.config.update('jax_compilation_cache_dir', str(base / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
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
