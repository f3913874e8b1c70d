"""The command line: what it accepts, and what it says of everything else."""

import dataclasses
import importlib
import inspect
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest
from absl import flags

import launch
from sora_jax import batch, cli, experiment

ROOT = pathlib.Path(launch.__file__).parent

EXPERIMENT = """
import dataclasses
import enum


class Kind(enum.Enum):
  V = 'v'
  X0 = 'x0'


@dataclasses.dataclass(kw_only=True)
class Model:
  depth: int = 12
  patch: tuple[int, int, int] = (1, 2, 2)
  qk_norm: bool = True
  kind: Kind = Kind.V
  limit: int | None = None


@dataclasses.dataclass(kw_only=True)
class Optim:
  learning_rate: float = 1e-3
  betas: tuple[float, ...] = (0.9, 0.99)


@dataclasses.dataclass(kw_only=True)
class Config:
  name: str = 'plain'
  model: Model = dataclasses.field(default_factory=Model)
  optim: Optim = dataclasses.field(default_factory=Optim)


VARIANTS = {'plain': 12, 'shallow': 2}


def get_config(arg='plain'):
  return Config(name=arg, model=Model(depth=VARIANTS[arg]))
"""


@pytest.fixture
def path(tmp_path):
  file = tmp_path / 'tiny_run.py'
  file.write_text(EXPERIMENT)
  return file


def parse(line, *more):
  argv = ['launch.py', *line.split(), *more]
  return cli.parse(launch.VERBS, argv, flags.FlagValues())


def train(path, *more):
  return parse('train --workdir=run', f'--config={path}', *more)


def run(*args, cwd=ROOT, env=None):
  return subprocess.run(
    [sys.executable, ROOT / 'launch.py', *args],
    cwd=cwd,
    env=env,
    capture_output=True,
    text=True,
    timeout=60,
  )


def test_a_verb_gets_its_flags_as_values():
  call = parse('sample --prompt=a --prompt b --size=64x48x33 --guidance=2.5')
  assert call.module == 'sora_jax.sample'
  assert call.config is None
  assert call.flags.prompt == ['a', 'b']
  assert call.flags.size == batch.Size(64, 48, 33)
  assert call.flags.guidance == 2.5
  assert call.flags.steps is None
  assert parse('demo --retrain').flags.retrain
  assert not parse('demo').flags.retrain


def test_a_verb_may_take_names_of_files():
  flags = parse('verify a.mp4 --trust root.pem b.mp4').flags
  assert (flags.files, flags.trust) == (['a.mp4', 'b.mp4'], 'root.pem')
  assert parse('verify').flags.files == []
  assert 'verify FILE ... [--FLAG' in cli.help_verb(
    'verify', launch.VERBS['verify']
  )


def test_an_experiment_is_loaded_with_its_argument(path):
  assert train(path).config.model.depth == 12
  call = train(f'{path}:shallow')
  assert call.config.name == 'shallow'
  assert call.config.model.depth == 2
  assert vars(call.flags) == {'workdir': 'run', 'multihost': False}


def test_every_kind_of_field_can_be_set_by_flag(path):
  overrides = [
    '--config.name=a=b',
    '--config.model.depth',
    '3',
    '--config.model.patch=(2, 4, 4)',
    '--noconfig.model.qk_norm',
    '--config.model.kind=x0',
    '--config.model.limit=7',
    '--config.optim.learning_rate=2e-4',
    '--config.optim.betas=(0.5, 1)',
  ]
  config = train(path, *overrides).config
  assert dataclasses.asdict(config) == {
    'name': 'a=b',
    'model': {
      'depth': 3,
      'patch': (2, 4, 4),
      'qk_norm': False,
      'kind': type(config.model.kind).X0,
      'limit': 7,
    },
    'optim': {'learning_rate': 2e-4, 'betas': (0.5, 1)},
  }


def test_overrides_may_come_before_the_experiment(path):
  call = parse('train --config.model.depth 3 --workdir=run', f'--config={path}')
  assert call.config.model.depth == 3


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    ('trian', "no verb 'trian'; nearest: train"),
    ('--workdir=x train', 'the verb comes first'),
    ('train --wrkdir=x', 'no flag --wrkdir; nearest: --workdir'),
    ('train --prompt=x', '--prompt is a flag of sample, not of train'),
    ('sample --config.seed=1', 'sample takes no --config'),
    ('train --config.seed=1', 'needs --config=FILE.py[:ARG] and --workdir=DIR'),
    ('sample a red ball', "'a' is not a flag"),
    ('sample --steps=many', '--steps=many is not a positive integer'),
    ('sample --steps=0', '--steps=0 is not a positive integer'),
    ('sample --guidance=hi', '--guidance=hi is not a number'),
    ('sample --format=avi', 'avi is not one of mp4, gif, webp, png, jpg'),
    ('sample --size=64x64x32', 'nearest that are: 29 and 33'),
  ],
)
def test_a_wrong_flag_is_explained(line, said):
  with pytest.raises(ValueError) as error:
    parse(line)
  assert said in str(error.value)


@pytest.mark.parametrize(
  ('flag', 'said'),
  [
    ('--config.model.dept=1', 'nearest: --config.model.depth'),
    ('--config.depth=1', 'nearest: --config.model.depth'),
    ('--config.model=1', 'is a group of fields, such as model.depth'),
    ('--noconfig.model.depth', 'not a switch but an integer'),
    ('--config.model.depth=two', 'depth=two is not an integer'),
    ('--config.model.depth=1.5', 'depth=1.5 is not an integer'),
    ('--config.model.limit=two', 'limit=two is not an integer or unset'),
    ('--config.model.qk_norm=si', 'qk_norm=si is not true or false'),
    ('--config.model.kind=v2', 'kind=v2 is not one of V, X0'),
    ('--config.model.patch=(1,2)', '(1, 2) is not a tuple (int, int, int)'),
    ('--config.model.patch=abc', 'is not a tuple (int, int, int)'),
    ('--config.optim.betas=(1,"a")', 'is not a tuple (float, ...)'),
    ('--config.optim.learning_rate=abc', 'rate=abc is not a number'),
  ],
)
def test_a_wrong_field_is_explained(path, flag, said):
  with pytest.raises(ValueError) as error:
    train(path, flag)
  assert said in str(error.value)


def test_a_wrong_experiment_names_the_nearest(path):
  for spec, said in [
    (path.with_name('tiny_rum.py'), f'no such file; nearest: {path}'),
    (f'{path}:shalow', "no 'shalow'; nearest: shallow"),
    (path.parent, 'no such file'),
  ]:
    with pytest.raises(ValueError) as error:
      train(spec)
    assert said in str(error.value)


def test_an_experiment_without_an_argument_says_so(tmp_path):
  none, one = tmp_path / 'none.py', tmp_path / 'one.py'
  none.write_text('def get_config():\n  return 1\n')
  one.write_text("VARIANTS = {'B': 1}\ndef get_config(arg):\n  return 1\n")
  with pytest.raises(ValueError, match='takes no argument'):
    experiment.load(f'{none}:B')
  with pytest.raises(ValueError, match='needs .*one.py:ARG; known: B'):
    experiment.load(str(one))


def test_a_broken_experiment_names_its_line(tmp_path):
  file = tmp_path / 'broken.py'
  file.write_text('x = 1\ndef get_config(:\n')
  with pytest.raises(ValueError, match='broken.py: line 2: '):
    experiment.load(str(file))


def test_an_experiment_is_not_changed_by_its_overrides(path):
  config = experiment.load(str(path))
  changed = experiment.override(config, ['--config.model.depth=1'])
  assert (config.model.depth, changed.model.depth) == (12, 1)


def test_help_is_short_and_lists_every_verb():
  done = run('--help')
  lines = done.stdout.splitlines()
  assert done.returncode == 0
  assert len(lines) < 24
  assert max(map(len, lines)) <= 80
  for verb in launch.VERBS:
    assert any(line.startswith(f'  {verb} ') for line in lines)
  assert run().returncode == 2


@pytest.mark.parametrize('verb', launch.VERBS)
def test_help_of_a_verb_lists_its_flags(verb):
  text = cli.help_verb(verb, launch.VERBS[verb])
  for flag in launch.VERBS[verb].flags:
    assert f'  --{flag}' in text
  assert max(map(len, text.splitlines())) <= 80


def test_help_with_an_experiment_lists_its_fields(path):
  text = cli.help_verb('train', launch.VERBS['train'], f'{path}:shallow')
  assert '--config.model.depth=2 ' in text
  assert '--config.model.kind=V ' in text
  assert 'one of V, X0' in text


def test_a_mistake_ends_with_one_line_and_status_2():
  done = run('sample', '--promt=x')
  assert done.returncode == 2
  assert done.stdout == ''
  assert done.stderr == 'launch.py sample: no flag --promt; nearest: --prompt\n'


VERB = """
import sys

from sora_jax import cli


def main(config, flags):
  {body}


if __name__ == '__main__':
  take = cli.Flag('out', 'FILE', 'a file')
  cli.run({{'work': cli.Verb('program', 'Works.', take)}})
"""


def run_verb(tmp_path, body, *args, **environment):
  """Runs a program with one verb, `work`, that does what `body` says."""
  file = tmp_path / 'program.py'
  file.write_text(VERB.format(body=textwrap.dedent(body)))
  return subprocess.run(
    [sys.executable, file, 'work', *args],
    env={'PYTHONPATH': f'{ROOT}:{tmp_path}'} | environment,
    capture_output=True,
    text=True,
    timeout=60,
  )


def test_a_verb_runs_deterministically_on_a_gpu_and_as_told_elsewhere(tmp_path):
  body = "import os; print(os.environ.get('XLA_FLAGS'))"
  told = '--xla_gpu_deterministic_ops=true'
  for platform, expected in (('cpu', 'None'), ('cuda', told)):
    done = run_verb(tmp_path, body, JAX_PLATFORMS=platform)
    assert done.stdout == f'{expected}\n'


def test_an_experiment_is_loaded_after_a_gpu_is_told(tmp_path):
  file = tmp_path / 'tells.py'
  file.write_text('import os\nraise ValueError(os.environ["XLA_FLAGS"])')
  done = run(
    *('train', '--workdir=run', f'--config={file}'),
    env={'JAX_PLATFORMS': 'cuda'},
  )
  told = '--xla_gpu_deterministic_ops=true'
  assert done.stderr == f'launch.py train: {told}\n'


def test_a_verb_returns_the_exit_status(tmp_path):
  assert run_verb(tmp_path, 'print(flags.out)', '--out=a').stdout == 'a\n'
  assert run_verb(tmp_path, 'return 3').returncode == 3


def test_what_a_verb_raises_for_a_user_is_one_line(tmp_path):
  done = run_verb(tmp_path, "raise ValueError('width 7\\nis odd')")
  assert done.returncode == 2
  assert done.stderr == 'program.py work: width 7 is odd\n'
  done = run_verb(tmp_path, "open('/no/such/clip.mp4')")
  assert done.returncode == 2
  assert done.stderr == (
    'program.py work: /no/such/clip.mp4: No such file or directory\n'
  )


def test_traceback_shows_where_a_verb_raised(tmp_path):
  done = run_verb(tmp_path, "raise ValueError('odd')", '--traceback')
  assert done.returncode == 2
  assert 'in main' in done.stderr
  assert done.stderr.endswith('program.py work: odd\n')


def test_a_fault_of_ours_keeps_its_traceback(tmp_path):
  done = run_verb(tmp_path, 'return [][1]')
  assert done.returncode == 1
  assert 'IndexError' in done.stderr


CLOSED = 'import os; reader, writer = os.pipe(); os.close(reader); '


def test_output_that_nobody_reads_any_more_ends_a_verb_quietly(tmp_path):
  done = run_verb(tmp_path, f"{CLOSED}os.dup2(writer, 1); print('unseen')")
  assert done.returncode == 141  # as of a process that SIGPIPE ended
  assert done.stderr == ''


def test_help_that_nobody_reads_any_more_ends_quietly():
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, ROOT / 'launch.py', '--help'],
    stdout=writer,
    stderr=subprocess.PIPE,
    timeout=60,
  )
  os.close(writer)
  assert (done.returncode, done.stderr) == (141, b'')


def test_another_broken_pipe_is_an_error(tmp_path):
  done = run_verb(tmp_path, f"{CLOSED}os.write(writer, b'lost')")
  assert done.returncode == 2
  assert done.stderr == 'program.py work: system: Broken pipe\n'


def test_an_interrupted_verb_exits_with_130(tmp_path):
  done = run_verb(tmp_path, 'raise KeyboardInterrupt')
  assert done.returncode == 130
  assert done.stderr == 'program.py work: interrupted\n'


@pytest.mark.parametrize('verb', launch.VERBS)
def test_every_verb_has_a_main(verb):
  module = importlib.import_module(launch.VERBS[verb].module)
  assert list(inspect.signature(module.main).parameters) == ['config', 'flags']


def test_the_command_line_imports_neither_jax_nor_c2pa():
  code = 'import sys, launch; sys.exit(bool({"jax", "c2pa"} & {*sys.modules}))'
  assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0
