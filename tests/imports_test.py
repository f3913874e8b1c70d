"""Imports go one way, and files and functions stay short enough to read."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / 'sora_jax'

# A module imports from its own level or a lower one. A folder stands for all
# modules in it; models and data are on one level but apart from each other.
LEVELS = (
  'batch rng flow samplers stepcache guidance'.split()
  + 'tokens canvas tiling registration sharding'.split()
  + 'memory traffic watermark'.split(),
  'models weights data'.split(),
  'objectives optimizer state checksums checkpoint replay preemption'.split()
  + 'writers metrics certificate seal provenance'.split(),
  'gpu experiment config corpus published networks experts'.split(),
  'paint codec windows spool captions generate'.split()
  + 'reconstruct tasks prompting'.split()
  + 'frechet plots gallery figures suite'.split()
  + 'sizing prepare label sample problems program train podplan'.split()
  + 'heldout probing adherence evaluate calibrate speed bench'.split()
  + 'examples examples_balls showcase demo verify'.split()
  + ['parity'],
  ['cli'],
)
APART = {'models': {'data'}, 'weights': {'data'}, 'data': {'models', 'weights'}}
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80

MODULES = sorted(PACKAGE.rglob('*.py'))
DATA_MODULES = [path for path in MODULES if PACKAGE / 'data' in path.parents]
SOURCES = [*MODULES, *sorted((ROOT / 'experiments').glob('*.py'))]
SOURCES += [ROOT / 'launch.py']


def name_of(path):
  return str(path.relative_to(ROOT))


@functools.cache
def parse(path):
  return ast.parse(path.read_text())


def imports(path):
  """Returns dotted names, one longer than the module if it imports from it."""
  names = set()
  for node in ast.walk(parse(path)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def part(path):
  """Returns the part of the package that a file is: a folder or a module."""
  first = path.relative_to(PACKAGE).parts[0]
  return first.removesuffix('.py')


def parts_imported(path):
  names = [name.split('.') for name in imports(path)]
  return {name[1] for name in names if name[0] == 'sora_jax'}


def level(name):
  found = [i for i, names in enumerate(LEVELS) if name in names]
  assert found, f'{name} has no level: add it to LEVELS in {__file__}'
  return found[0]


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_imports_go_down_the_levels(path):
  own = part(path)
  if own == '__init__':
    assert not parts_imported(path)
    return
  for other in parts_imported(path):
    assert level(other) <= level(own), f'{own} imports {other}'
    assert other not in APART.get(own, ()), f'{own} imports {other}'


def test_imports_have_no_cycles():
  graph = {}
  for path in MODULES:
    graph.setdefault(part(path), set()).update(parts_imported(path))
  done = []

  def visit(name, trail):
    assert name not in trail, ' -> '.join([*trail, name])
    if name not in done:
      for other in graph.get(name, set()) - {name}:
        visit(other, [*trail, name])
      done.append(name)

  for name in graph:
    visit(name, [])


def reached(path):
  """Returns names that a file imports, or that what it imports does."""
  names, todo = set(), [path]
  while todo:
    for name in imports(todo.pop()) - names:
      names.add(name)
      file = ROOT / (name.replace('.', '/') + '.py')
      todo += [file] if file in MODULES else []
  return names


@pytest.mark.parametrize('path', DATA_MODULES, ids=name_of)
def test_data_never_imports_jax(path):
  for name in reached(path):
    assert name.split('.')[0] not in ('jax', 'flax', 'optax', 'orbax'), name
    # jaxtyping's Array is jax.Array; its shape types are not.
    assert name != 'jaxtyping.Array'


def test_the_package_never_imports_experiments():
  for path in MODULES:
    for name in imports(path):
      assert name.split('.')[0] not in ('experiments', 'launch', 'tests'), path


@pytest.mark.parametrize('path', SOURCES, ids=name_of)
def test_files_and_functions_are_short(path):
  assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
  for node in ast.walk(parse(path)):
    if isinstance(node, ast.FunctionDef):
      lines = node.end_lineno - node.lineno + 1
      assert lines <= MAX_FUNCTION_LINES, f'{node.name}: {lines} lines'
