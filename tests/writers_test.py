import json
import re
import subprocess

import jax
import jax.numpy as jnp
import pytest
from tensorboardX import proto

from sora_jax import writers


class FakeClock:
  """Seconds that pass only when told."""

  now = 100.0

  def __call__(self):
    return self.now


def read_lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_rates_are_work_over_time_since_the_last_report():
  clock = FakeClock()
  throughput = writers.Throughput(clock)
  for _ in range(2):
    with throughput.waiting():
      clock.now += 0.5
    clock.now += 3.5
    throughput.add(clips=6, tokens=1000)
  assert throughput.report() == writers.Rates(
    steps=0.25, clips=1.5, tokens=250.0, waiting=0.125
  )
  clock.now += 2.0
  throughput.add(clips=1, tokens=10)
  assert throughput.report() == writers.Rates(
    steps=0.5, clips=0.5, tokens=5.0, waiting=0.0
  )


def test_waiting_counts_even_when_the_data_fail():
  clock = FakeClock()
  throughput = writers.Throughput(clock)
  with pytest.raises(StopIteration), throughput.waiting():
    clock.now += 1.0
    raise StopIteration
  clock.now += 3.0
  assert throughput.report().waiting == 0.25


def test_a_report_at_once_divides_by_no_zero():
  assert writers.Throughput(FakeClock()).report().clips == 0


@pytest.mark.parametrize(
  'steps_per_second, eta',
  [
    (18800 / 3780, '1h03m'),
    (18800 / 245, '4m05s'),
    (18800 / 12, '12s'),
    (18800 / (2 * 86400 + 3 * 3600 + 59), '2d03h'),
    (18800 / 59.9, '1m00s'),
  ],
)
def test_the_progress_line_reads_as_documented(steps_per_second, eta):
  rates = writers.Rates(steps_per_second, 12.34, 4512.0, 0.021)
  line = writers.progress_line(1200, 20000, {'loss': 0.12341}, rates)
  assert line == (
    'step 1200/20000  loss 0.1234  12.3 clips/s  4.51k tokens/s  '
    f'waiting 2 %  eta {eta}'
  )


def test_large_rates_are_shortened():
  rates = writers.Rates(0.0, 999.6, 2.5e9, 1.0)
  line = writers.progress_line(0, 10, {}, rates)
  assert line == 'step 0/10  1k clips/s  2.5G tokens/s  waiting 100 %'


def test_scalars_reach_the_line_the_file_and_tensorboard(tmp_path, capsys):
  rates = writers.Rates(2.0, 4.0, 100.0, 0.5)
  with writers.MetricWriter(tmp_path / 'run', 20) as writer:
    writer.write(10, {'loss': jnp.asarray(0.5), 'grad_norm': 2.0}, rates)
    writer.write(10, {'psnr': 35.25, 'ssim': jnp.nan})
  assert capsys.readouterr().out.splitlines() == [
    'step 10/20  loss 0.5  4 clips/s  100 tokens/s  waiting 50 %  eta 5s',
    'step 10/20  psnr 35.25  ssim nan',
  ]
  assert read_lines(tmp_path / 'run/metrics.jsonl') == [
    {
      'step': 10,
      'loss': 0.5,
      'grad_norm': 2.0,
      'clips_per_second': 4.0,
      'tokens_per_second': 100.0,
      'waiting': 0.5,
    },
    {'step': 10, 'psnr': 35.25, 'ssim': None},
  ]
  (events,) = (tmp_path / 'run/tensorboard').iterdir()
  seen = read_events(events)
  assert seen['loss'] == (10, 0.5)
  assert seen['psnr'] == (10, 35.25)
  assert seen['waiting'] == (10, 0.5)


def read_events(path):
  """Scalars by name, from TensorBoard's framing: length, check, body, check."""
  content, scalars = path.read_bytes(), {}
  while content:
    size = int.from_bytes(content[:8], 'little')
    event = proto.event_pb2.Event.FromString(content[12 : 12 + size])
    for value in event.summary.value:
      scalars[value.tag] = (event.step, value.simple_value)
    content = content[16 + size :]
  return scalars


def test_metrics_leave_the_device_under_a_transfer_guard(tmp_path):
  loss = jax.jit(lambda: jnp.ones(()))()
  with writers.MetricWriter(tmp_path, 2) as writer:
    with jax.transfer_guard('disallow'):
      writer.write(1, {'loss': loss})
  assert read_lines(tmp_path / 'metrics.jsonl')[0]['loss'] == 1.0


def test_a_resumed_run_reads_as_one_run(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  with writers.MetricWriter(tmp_path, 10, every=1) as writer:
    for step in range(1, 8):
      writer.write(step, {'loss': 1.0 / step})
  before = path.read_text().splitlines()
  with path.open('a') as file:
    file.write('{"step": 2, "lo')  # cut by a crash
  with writers.MetricWriter(tmp_path, 10, every=1, start_step=5) as writer:
    assert path.read_text().splitlines() == before[:5]
    for step in range(6, 11):
      writer.write(step, {'loss': 2.0})
  lines = read_lines(path)
  assert [line['step'] for line in lines] == list(range(1, 11))
  assert [line['loss'] for line in lines[5:]] == [2.0] * 5
  assert not list(tmp_path.glob('*.tmp'))


def test_a_run_from_the_start_forgets_another_one(tmp_path):
  for loss in (1.0, 2.0):
    with writers.MetricWriter(tmp_path, 10) as writer:
      writer.write(1, {'loss': loss})
  assert read_lines(tmp_path / 'metrics.jsonl') == [{'step': 1, 'loss': 2.0}]


def test_reports_are_due_every_so_often_and_at_the_end(tmp_path):
  with writers.MetricWriter(tmp_path, 11, every=5) as writer:
    assert [s for s in range(1, 12) if writer.due(s)] == [5, 10, 11]
  with pytest.raises(ValueError, match='every=0'):
    writers.MetricWriter(tmp_path, 11, every=0)


def test_other_processes_write_nothing(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with writers.MetricWriter(tmp_path, 10) as writer:
    writer.write(1, {'loss': 1.0})
  writers.write_config(tmp_path, {}, {})
  assert not list(tmp_path.iterdir())
  assert not capsys.readouterr().out


def test_the_config_is_written_with_what_it_was_run_on(tmp_path, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_test=1')
  config = {'model': {'width': 32, 'patch': [1, 2, 2]}, 'seed': 0}
  writers.write_config(tmp_path / 'run', config, {'text': 'ab'})
  written = json.loads((tmp_path / 'run/config.json').read_text())
  assert written['config'] == config
  assert written['frozen'] == {'text': 'ab'}
  run = written['run']
  assert run['devices'] == 8
  assert run['device'] == 'cpu'
  assert run['flags'] == {'XLA_FLAGS': '--xla_test=1', 'LIBTPU_INIT_ARGS': ''}
  assert run['versions']['jax'] == jax.__version__
  assert re.fullmatch(r'3\.\d+\.\d+.*', run['versions']['python'])
  assert [p.name for p in (tmp_path / 'run').iterdir()] == ['config.json']


def test_the_revision_is_that_of_this_checkout_or_none(tmp_path, monkeypatch):
  package = tmp_path / 'checkout' / 'sora_jax'
  package.mkdir(parents=True)
  monkeypatch.setattr(writers, '__file__', str(package / 'writers.py'))

  def git(directory, *args):
    who = ('-c', 'user.name=n', '-c', 'user.email=e@example.org')
    return (
      subprocess
      .run(['git', *who, *args], cwd=directory, check=True, capture_output=True)
      .stdout.decode()
      .strip()
    )

  assert writers._revision() == ''
  git(tmp_path, 'init')  # another repository around the package
  git(tmp_path, 'commit', '--allow-empty', '-m', 'other')
  assert writers._revision() == ''
  git(package.parent, 'init')
  (package / 'a.py').write_text('1')
  git(package.parent, 'add', '.')
  git(package.parent, 'commit', '-m', 'one')
  commit = git(package.parent, 'rev-parse', 'HEAD')
  assert writers._revision() == commit
  (package / 'a.py').write_text('2')
  assert writers._revision() == commit + '-dirty'
