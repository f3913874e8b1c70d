"""What a device will hold is counted, told, and refused if it is too much."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec as P

from sora_jax import generate, memory, sharding, train


def test_what_is_kept_is_a_device_s_share():
  mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=4))
  struct = lambda dtype, *spec: jax.ShapeDtypeStruct(
    (16, 8), dtype, sharding=NamedSharding(mesh, P(*spec))
  )
  whole = 16 * 8 * 4
  assert memory.kept(struct(jnp.float32)) == whole
  assert memory.kept(struct(jnp.float32, 'data', 'fsdp')) == whole // 8
  tree = {'a': struct(jnp.bfloat16, 'fsdp'), 'b': [struct(jnp.float32, None)]}
  assert memory.kept(tree) == whole // 8 + whole


def test_a_program_needs_what_comes_out_of_it_unless_it_writes_over_it():
  x = jax.ShapeDtypeStruct((1024,), jnp.float32)
  add = lambda x: x + 1.0
  assert memory.needed(jax.jit(add), x) >= 4096
  assert memory.needed(jax.jit(add, donate_argnums=0), x) < 4096
  # Beside what comes out, all that has to be there at once on the way.
  sort_twice = lambda x: jnp.sort(jnp.outer(x, x), axis=0).sum()
  assert memory.needed(jax.jit(sort_twice), x) >= 4 * 1024**2


def test_a_program_that_is_counted_is_compiled_once():
  compiled = []
  listen = lambda event, seconds, **_: compiled.append(event)
  jax.monitoring.register_event_duration_secs_listener(listen)
  run = jax.jit(lambda x: jnp.tanh(x) * 3.25)
  memory.needed(run, jax.ShapeDtypeStruct((7,), jnp.float32))
  count = lambda: sum('backend_compile' in event for event in compiled)
  assert count() == 1
  run(np.ones(7, np.float32)).block_until_ready()
  assert count() == 1


def test_what_takes_turns_counts_once(monkeypatch):
  monkeypatch.setattr(memory, 'capacity', lambda device: 8_000_000_000)
  parts = {'weights': 3_000_000_000}
  turns = {'painting': 1_000_000_000, 'decoding': 4_000_000_000}
  assert memory.check(parts, turns, 'less') == (
    'memory: 7 GB of a device (weights 3, painting 1 or decoding 4), which has '
    '8 GB'
  )
  parts['weights'] += 2_500_000_000
  with pytest.raises(ValueError, match=r'9.5 GB .* which has 8 GB: take less'):
    memory.check(parts, turns, 'take less')
  monkeypatch.setattr(memory, 'capacity', lambda device: None)
  assert memory.check(parts, turns, 'less').endswith('decoding 4)')


def test_the_devices_of_a_cpu_share_its_memory():
  with open('/proc/meminfo') as file:
    total = int(file.readline().split()[1]) * 1024
  for count in (1, 8):  # as many as are used
    each = memory.capacity(jax.devices()[:count])
    assert each * count == pytest.approx(total, rel=1e-3)


def test_clips_that_do_not_fit_are_refused_before_they_are_painted(monkeypatch):
  config = tiny.config()
  found = generate.Networks(config, params := tiny.params(config))
  settings = generate.settings_of(config.sample)._replace(
    size=generate.batch.Size(32, 32, 5), steps=1, micro_batch=1
  )
  request = [generate.Request('a ball', 1)]
  mesh = generate.mesh_for(1, settings)
  told = []
  stream = generate.Stream(found, settings, mesh, told.append)
  list(stream(request))
  list(stream(request))
  # Each once, however often it is used; and not both at once.
  encoding, painting = told
  size = lambda *names: sum(
    x.nbytes for name in names for x in jax.tree.leaves(params[name])
  )
  assert f'(text encoder {size("text") / memory.GB:.3g}, enc' in encoding
  weights = size('dit', 'autoencoder')
  assert f'(weights {weights / memory.GB:.3g}, painting ' in painting

  stream = generate.Stream(found, settings, mesh)
  fits = lambda room: monkeypatch.setattr(memory, 'capacity', lambda _: room)
  fits(size('text') - 1)
  with pytest.raises(ValueError, match='which has .*: take a machine with'):
    stream.listen(request)
  monkeypatch.undo()
  stream.listen(request)
  fits(weights - 1)
  with pytest.raises(ValueError, match='which has .* take a device with more'):
    list(stream(request))
  fits(weights + 1)
  with pytest.raises(ValueError, match='which has .* take a smaller --size'):
    list(stream(request))


def test_a_run_that_does_not_fit_is_refused_before_it_starts(
  tmp_path, monkeypatch
):
  folder = epath.Path(tmp_path)
  model = tiny.write_model(folder / 'model')
  tiny.write_latents(folder / 'latents', model.params)
  config = tiny.config(latents=str(folder / 'latents'))
  config.autoencoder_from = str(folder / 'model')
  monkeypatch.setattr(memory, 'capacity', lambda device: 1000)
  words = (
    r'weights .*, average .*, optimizer .*, batch .*, step .* raise run.acc'
  )
  with pytest.raises(ValueError, match=words):
    train.train(config, folder / 'run')
  assert not (folder / 'run' / 'config.json').exists()
