import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from etils import epath
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sora_jax import checkpoint, checksums


def make_mesh(rows, columns):
  axes = (AxisType.Auto, AxisType.Auto)
  return jax.make_mesh((rows, columns), ('data', 'fsdp'), axis_types=axes)


def make_state(seed=0, mesh=None, width=32):
  rng = np.random.default_rng(seed)
  params = {
    'blocks': {
      'kernel': jnp.asarray(rng.normal(size=(64, width)), jnp.float32),
      'bias': jnp.asarray(rng.normal(size=(8,)), jnp.bfloat16),
    }
  }
  state = {
    'step': jnp.asarray(seed, jnp.int32),
    'trainable': params,
    'frozen': {},
    'ema': jax.tree.map(lambda x: x + 1, params),
    'opt': optax.adam(1e-3).init(params),
  }
  if mesh is None:
    return state
  split = NamedSharding(mesh, PartitionSpec('data', 'fsdp'))
  whole = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(
    lambda x: jax.device_put(x, split if x.ndim == 2 else whole), state
  )


def abstract(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state,
  )


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def save_steps(directory, *steps, **fields):
  with checkpoint.CheckpointStore(directory, **fields) as store:
    for step in steps:
      store.save(step, make_state(step), {'position': step})


def data_files(directory, step):
  names = (directory / str(step)).rglob('*')
  return sorted(p for p in names if p.is_file() and p.stat().st_size)


def flip_bit(path, bit):
  content = bytearray(path.read_bytes())
  content[bit // 8] ^= 1 << bit % 8
  path.write_bytes(content)


@pytest.fixture
def warnings(monkeypatch):
  """The one-line warnings that were logged."""
  lines = []
  monkeypatch.setattr(
    logging, 'warning', lambda form, *args: lines.append(form % args)
  )
  return lines


def test_a_restored_state_is_bit_equal_on_another_mesh(tmp_path):
  state = make_state(3, make_mesh(4, 2))
  with checkpoint.CheckpointStore(tmp_path) as store:
    store.save(3, state, {'position': 3, 'order': [1, 2]})
  target = abstract(make_state(0, make_mesh(2, 4)))
  with checkpoint.CheckpointStore(tmp_path) as store:
    restored = store.restore(target)
  assert_same(restored.state, state)
  assert restored.step == 3
  assert restored.data == {'position': 3, 'order': [1, 2]}
  jax.tree.map(
    lambda x, t: x.sharding.is_equivalent_to(t.sharding, x.ndim) or 1 / 0,
    restored.state,
    target,
  )


def test_the_caller_may_donate_what_is_being_saved(tmp_path):
  advance = jax.jit(lambda x: x + 1, donate_argnums=0)
  x = jnp.zeros((1024, 1024))
  with checkpoint.CheckpointStore(tmp_path, keep=5) as store:
    for step in range(5):
      store.save(step, {'x': x}, {})
      x = advance(advance(x))
    for step in range(5):
      part = store.restore_part({'x': abstract(x)}, step)
      np.testing.assert_array_equal(part.state['x'], 2.0 * step)


def test_an_empty_directory_restores_to_nothing(tmp_path):
  with checkpoint.CheckpointStore(tmp_path / 'none') as store:
    assert store.restore(abstract(make_state())) is None
    assert store.steps() == []
    with pytest.raises(FileNotFoundError, match='no checkpoint in'):
      store.restore_part({'ema': {}})


def test_part_of_a_state_is_read_without_touching_a_file(tmp_path):
  save_steps(tmp_path, 1, 2)
  flip_bit(data_files(tmp_path, 2)[-1], 5)
  before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')}
  with checkpoint.CheckpointStore(tmp_path) as store:
    part = store.restore_part({'ema': abstract(make_state()['ema'])})
  assert part.step == 1
  assert_same(part.state, {'ema': make_state(1)['ema']})
  assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')}


def test_every_flipped_bit_is_found_and_the_older_step_is_taken(
  tmp_path, warnings
):
  save_steps(tmp_path, 1, 2)
  rng = np.random.default_rng(0)
  files = [*data_files(tmp_path, 2), tmp_path / '2.sha256.json']
  ema = {'ema': abstract(make_state()['ema'])}
  with checkpoint.CheckpointStore(tmp_path) as store:
    for n in range(2 * len(files)):
      path = files[n % len(files)]
      if path.name == '2.sha256.json':
        # Not every bit here matters, as that of a space; those of hashes do.
        bit = 8 * (path.read_text().index('"sha256": "') + 11 + n) + n % 4
      else:
        bit = int(rng.integers(8 * path.stat().st_size))
      flip_bit(path, bit)
      assert store.why_bad(2)
      assert store.restore_part(ema).step == 1
      assert warnings[-1].startswith(f'checkpoint 2 in {tmp_path} is bad')
      flip_bit(path, bit)
    assert len(warnings) >= 20
    assert store.good_steps() == [1, 2]


@pytest.mark.parametrize(
  'damage', ['truncated', 'missing', 'half copied', 'empty', 'no manifest']
)
def test_a_damaged_step_falls_back_and_can_be_saved_again(
  tmp_path, warnings, damage
):
  save_steps(tmp_path, 1, 2)
  manifest = tmp_path / '2.sha256.json'
  files = data_files(tmp_path, 2)
  if damage == 'truncated':
    files[-1].write_bytes(files[-1].read_bytes()[:-1])
  elif damage == 'missing':
    files[-1].unlink()
  elif damage == 'half copied':
    for path in files[::2]:
      path.unlink()
    manifest.unlink()
  elif damage == 'empty':
    epath.Path(tmp_path / '2').rmtree()
    (tmp_path / '2').mkdir()
    manifest.unlink()
  else:
    manifest.unlink()
  target = abstract(make_state())

  with checkpoint.CheckpointStore(tmp_path) as store:
    with pytest.raises(ValueError, match='no good checkpoint') as info:
      store.restore(target, step=2)
    assert '\n' not in str(info.value)
    restored = store.restore(target)
    assert restored.step == 1
    assert restored.data == {'position': 1}
    assert_same(restored.state, make_state(1))
    assert len(warnings) == 1
    assert '\n' not in warnings[0]
    assert (tmp_path / '2.aside').is_dir()
    store.save(2, make_state(7), {'position': 2}, block=True)
    assert store.good_steps() == [1, 2]
    assert_same(store.restore(target).state, make_state(7))


def test_when_every_step_is_corrupt_each_is_named(tmp_path):
  save_steps(tmp_path, 1, 2)
  flip_bit(data_files(tmp_path, 1)[0], 3)
  data_files(tmp_path, 2)[0].unlink()
  names = sorted(tmp_path.iterdir())
  with checkpoint.CheckpointStore(tmp_path) as store:
    with pytest.raises(ValueError, match='2: .*cannot be read.*; 1: .*SHA-256'):
      store.restore(abstract(make_state()))
  assert sorted(tmp_path.iterdir()) == names


def test_a_first_save_that_never_finished_counts_as_none(tmp_path):
  save_steps(tmp_path, 1)
  (tmp_path / '1.sha256.json').unlink()
  with checkpoint.CheckpointStore(tmp_path) as store:
    assert store.restore(abstract(make_state())) is None
    store.save(1, make_state(5), {}, block=True)
    assert store.good_steps() == [1]


def test_an_older_step_can_be_asked_for_and_the_newer_step_aside(tmp_path):
  save_steps(tmp_path, 1, 2, 3)
  target = abstract(make_state())
  with checkpoint.CheckpointStore(tmp_path) as store:
    with pytest.raises(ValueError, match=r'checkpoint 9 .*\[1, 2, 3\]'):
      store.restore(target, step=9)
    assert_same(store.restore(target, step=2).state, make_state(2))
    assert store.steps() == [1, 2]


def test_the_newest_steps_are_kept(tmp_path):
  save_steps(tmp_path, *range(2, 15, 2), keep=2)
  with checkpoint.CheckpointStore(tmp_path) as store:
    assert store.steps() == [12, 14]
  names = {p.name.split('.')[0] for p in tmp_path.iterdir()}
  assert names == {'12', '14'}


def test_saving_the_same_step_twice_keeps_the_first(tmp_path):
  with checkpoint.CheckpointStore(tmp_path) as store:
    store.save(1, make_state(1), {'from': 'first'})
    store.save(1, make_state(2), {'from': 'second'})
    assert store.restore(abstract(make_state())).data == {'from': 'first'}


def test_another_shape_or_name_is_refused_and_nothing_is_moved(tmp_path):
  save_steps(tmp_path, 1)
  wide = abstract(make_state(width=48))
  more = abstract(make_state()) | {'lora': abstract(make_state()['ema'])}
  less = {k: v for k, v in abstract(make_state()).items() if k != 'ema'}
  with checkpoint.CheckpointStore(tmp_path) as store:
    with pytest.raises(
      ValueError,
      match=r'ema\.blocks\.kernel is \(64, 32\) .* but \(64, 48\)',
    ) as info:
      store.restore(wide)
    assert '\n' not in str(info.value)
    with pytest.raises(ValueError, match=r'lora\.blocks\.bias is absent'):
      store.restore(more)
    with pytest.raises(ValueError, match=r'ema\..* but absent in this model'):
      store.restore(less)
    with pytest.raises(ValueError, match=r'ema\.blocks\.kernel'):
      store.restore_part({'ema': wide['ema']})
    assert store.good_steps() == [1]


def test_a_limit_that_makes_no_sense_is_refused(tmp_path):
  with pytest.raises(ValueError, match='keep=0'):
    checkpoint.CheckpointStore(tmp_path, keep=0)


def test_a_full_disk_is_one_line_and_harms_no_earlier_step(tmp_path):
  save_steps(tmp_path, 1)
  big = {'x': jax.random.normal(jax.random.key(0), (512, 1024))}
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  with checkpoint.CheckpointStore(tmp_path) as store:
    # A write past this size fails as one on a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
      with pytest.raises(OSError, match='checkpoint 2 was not') as info:
        store.save(2, big, {}, block=True)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert '\n' not in str(info.value)
    assert store.good_steps() == [1]
    assert {p.name for p in tmp_path.iterdir()} == {'1', '1.sha256.json'}
    store.save(2, big, {}, block=True)
    assert store.good_steps() == [1, 2]


def test_a_step_without_its_manifest_never_costs_an_older_one(
  tmp_path, monkeypatch
):
  save_steps(tmp_path, 1, keep=1)

  def fail(*unused):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with checkpoint.CheckpointStore(tmp_path, keep=1) as store:
    with monkeypatch.context() as patch:
      patch.setattr(checksums, 'write', fail)
      store.save(2, make_state(2), {})
      with pytest.raises(OSError, match='checkpoint 2 .* no space is left'):
        store.wait()
    assert store.good_steps() == [1]
  (tmp_path / '9').mkdir()  # a copy that was given up
  (tmp_path / '9.orbax-checkpoint-tmp').mkdir()  # a save that was killed
  # The next run has not restored anything and saves over what lies there.
  with checkpoint.CheckpointStore(tmp_path, keep=1) as store:
    store.save(2, make_state(3), {}, block=True)
    assert store.good_steps() == [2]
    assert not (tmp_path / '9.orbax-checkpoint-tmp').exists()
    restored = store.restore(abstract(make_state()))
    assert_same(restored.state, make_state(3))


SAVE_FOREVER = """
import os, sys
os.environ['JAX_PLATFORMS'] = 'cpu'
import jax
import jax.numpy as jnp
from sora_jax import checkpoint

x = jax.random.normal(jax.random.key(0), (1024, 2048))
with checkpoint.CheckpointStore(sys.argv[1], keep=2) as store:
  for step in range(1, 10_000):
    store.save(step, {'x': x + step}, {'position': step}, block=True)
    print(step, flush=True)
"""


def test_a_kill_in_the_middle_of_saving_leaves_an_earlier_step(tmp_path):
  rng = np.random.default_rng(0)
  x = jax.random.normal(jax.random.key(0), (1024, 2048))
  with subprocess.Popen(
    [sys.executable, '-c', SAVE_FOREVER, str(tmp_path)],
    stdout=subprocess.PIPE,
    env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)},
    text=True,
  ) as run:
    told = 0
    while told < 3:
      told = int(run.stdout.readline())
    time.sleep(rng.uniform(0, 0.1))
    run.send_signal(signal.SIGKILL)
    told = int((run.stdout.read().split() or [told])[-1])
  with checkpoint.CheckpointStore(tmp_path, keep=2) as store:
    state, data, step = store.restore({'x': abstract(x)})
    assert step in (told, told + 1)
    assert data == {'position': step}
    np.testing.assert_array_equal(state['x'], x + step)
    store.save(step + 1, state, {}, block=True)
    assert store.good_steps()[-1] == step + 1
  assert not list(tmp_path.glob('*tmp*'))


SAVE_ON_TWO = """
import os, pathlib, sys
os.environ['JAX_PLATFORMS'] = 'cpu'
import jax
from jax.experimental import multihost_utils
import numpy as np
from sora_jax import checkpoint

process, port, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update('jax_num_cpu_devices', 2)
jax.distributed.initialize(f'localhost:{port}', 2, process)
axes = (jax.sharding.AxisType.Auto,)
mesh = jax.make_mesh((4,), ('data',), axis_types=axes)
split = jax.NamedSharding(mesh, jax.P('data'))
values = np.arange(256 * 64, dtype=np.float32).reshape(256, 64)

def make(offset):
  rows = lambda index: values[index] + offset
  return {'x': jax.make_array_from_callback(values.shape, split, rows)}

shape = {'x': jax.ShapeDtypeStruct(values.shape, np.float32, sharding=split)}
with checkpoint.CheckpointStore(directory) as store:
  assert store.restore(shape) is None
  for step in (1, 2):
    store.save(step, make(step), {'position': step})
  store.wait()
  multihost_utils.sync_global_devices('saved')
  if process == 0:  # harm a file that the other process wrote
    harmed, *_ = pathlib.Path(directory, '2').glob('*/*process_1/d/*')
    harmed.write_bytes(harmed.read_bytes()[:-1] + b'?')
  multihost_utils.sync_global_devices('harmed')
  assert store.good_steps() == [1]
  state, data, step = store.restore(shape)
  assert (data, step) == ({'position': 1}, 1)
  for shard in state['x'].addressable_shards:
    np.testing.assert_array_equal(shard.data, values[shard.index] + 1)
  store.save(2, make(7), {'position': 2}, block=True)
  multihost_utils.sync_global_devices('saved again')
  assert store.good_steps() == [1, 2]
"""


@pytest.mark.slow
def test_two_processes_fall_back_to_the_same_step(tmp_path):
  with socket.socket() as listener:
    listener.bind(('localhost', 0))
    port = listener.getsockname()[1]
  runs = [
    subprocess.Popen(
      [sys.executable, '-c', SAVE_ON_TWO, str(n), str(port), str(tmp_path)],
      stderr=subprocess.PIPE,
      env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)},
      text=True,
    )
    for n in range(2)
  ]
  try:
    for run in runs:
      _, errors = run.communicate(timeout=120)
      assert run.returncode == 0, errors
  finally:
    for run in runs:
      run.kill()
  assert (tmp_path / '2.sha256.1.json').exists()
