"""Experiment files: load the config one returns, and set fields of it by flag.

An experiment is a Python file with `get_config()` or `get_config(arg)` that
returns a tree of dataclasses; `FILE.py:ARG` passes the argument. Every field
of the tree is a flag: `--config.model.depth=4`, `--noconfig.model.qk_norm`.
"""

import dataclasses
import difflib
import enum
import importlib.util
import inspect
import pathlib
import re
import traceback
import types
import typing
from collections.abc import Iterable
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

_OVERRIDE = re.compile(r'--?(?P<no>no)?config\.(?P<path>[^=]+)')


class Field(NamedTuple):
  """One leaf of a config tree."""

  type: Any  # as annotated
  value: Any

  @property
  def accepts(self) -> str:
    """What a flag may set the field to, in words."""
    return _accepts(self.type)


def load(spec: str, overrides: Iterable[str] = ()) -> Any:
  """Returns the config of `FILE.py` or `FILE.py:ARG`, with fields overridden.

  Args:
    spec: the file and its argument. If the file looks the argument up in a
      dict that it calls `VARIANTS`, an error names the nearest key.
    overrides: flags such as `--config.model.depth=4`, applied in order.

  Raises:
    ValueError: no such file, argument or field, or a value of a wrong type.
  """
  path, _, argument = spec.partition(':')
  module = _load_module(pathlib.Path(path))
  arguments = [argument] if argument else []
  variants = list(getattr(module, 'VARIANTS', {}))
  try:
    inspect.signature(module.get_config).bind(*arguments)
  except TypeError:
    fix = 'takes no argument' if argument else f'needs {path}:ARG'
    known = f'; known: {", ".join(variants)}' if variants else ''
    raise ValueError(f'--config={spec}: {path} {fix}{known}') from None
  try:
    config = module.get_config(*arguments)
  except KeyError as error:
    if error.args != (argument,):
      raise
    hint = nearest(argument, variants)
    raise ValueError(f'--config={spec}: no {argument!r}{hint}') from None
  return override(config, list(overrides))


def override(config: Any, args: list[str]) -> Any:
  """Returns a copy of a config with flags applied to its fields.

  Raises:
    ValueError: an unknown field, or a value that is not of its type.
  """
  known = fields(config)
  for arg in args:
    if match := _OVERRIDE.match(arg):
      _check_field(arg, match['path'], bool(match['no']), known)
  flag_values = flags.FlagValues()
  flag_values.set_gnu_getopt(True)
  argv = ['', *args]
  try:
    config_flags.DEFINE_config_dataclass(
      'config', config, flag_values=flag_values, sys_argv=argv
    )
    words = flag_values(argv)[1:]
  except flags.IllegalFlagValueError as error:
    raise ValueError(_explain(error, known)) from error
  except flags.Error as error:
    raise ValueError(str(error)) from error
  if words:
    raise ValueError(f'{words[0]!r} is not a flag; write --name=value')
  config = flag_values['config'].value
  for path, field in fields(config).items():
    if not _fits(field.value, field.type):
      raise ValueError(f'--config.{path}={field.value} is not {field.accepts}')
  return config


def fields(config: Any, prefix: str = '') -> dict[str, Field]:
  """Returns the leaves of a config tree by dotted path."""
  leaves = {}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    path = prefix + field.name
    if dataclasses.is_dataclass(value):
      leaves |= fields(value, path + '.')
    else:
      leaves[path] = Field(field.type, value)
  return leaves


def is_override(arg: str) -> bool:
  """Whether an argument has the form `--config.FIELD` or `--noconfig.FIELD`."""
  return bool(_OVERRIDE.match(arg))


def nearest(name: str, choices: Iterable[str], prefix: str = '') -> str:
  """Returns '; nearest: X', or all choices if none is near."""
  choices = list(choices)
  found = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
  if found:
    return f'; nearest: {prefix}{found[0]}'
  known = ', '.join(prefix + choice for choice in choices)
  return f'; known: {known}' if known else ''


def _load_module(path: pathlib.Path) -> types.ModuleType:
  if not path.is_file():
    raise ValueError(f'--config={path}: no such file{_nearest_file(path)}')
  spec = importlib.util.spec_from_file_location(path.stem, path)
  if spec is None or spec.loader is None:
    raise ValueError(f'--config={path}: not a Python file (NAME.py)')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise ValueError(
      f'--config={path}: line {error.lineno}: {error.msg}'
    ) from error
  except (NameError, ImportError, AttributeError, TypeError) as error:
    line = traceback.extract_tb(error.__traceback__)[-1]
    raise ValueError(
      f'--config={path}: {line.filename}, line {line.lineno}: {error}'
    ) from error
  if not hasattr(module, 'get_config'):
    raise ValueError(f'--config={path}: has no get_config()')
  return module


def _nearest_file(path: pathlib.Path) -> str:
  folders = (path.parent, pathlib.Path('experiments'))
  files = {
    file.name: str(file)
    for folder in folders
    for file in sorted(folder.glob('*.py'))
  }
  name = path.with_suffix('.py').name
  if found := difflib.get_close_matches(name, files, n=1, cutoff=0.5):
    return f'; nearest: {files[found[0]]}'
  return nearest(str(path), files.values())


def _check_field(
  arg: str, path: str, negated: bool, known: dict[str, Field]
) -> None:
  """Raises unless a path is a field that can be set, negated if a switch."""
  name = arg.partition('=')[0]
  if path not in known:
    inside = [leaf for leaf in known if leaf.startswith(path + '.')]
    if inside:
      raise ValueError(f'{name} is a group of fields, such as {inside[0]}')
    raise ValueError(f'no field --config.{path}{_nearest_field(path, known)}')
  if negated and known[path].type is not bool:
    raise ValueError(f'{name}: not a switch but {known[path].accepts}')


def _nearest_field(path: str, known: dict[str, Field]) -> str:
  """Prefers the right name in the wrong place over a similar path."""
  leaf = path.rpartition('.')[2]
  same = [field for field in known if field.rpartition('.')[2] == leaf]
  found = same or difflib.get_close_matches(path, known, n=1, cutoff=0.5)
  if found:
    return '; nearest: ' + ' or '.join(f'--config.{f}' for f in found[:3])
  groups = dict.fromkeys(field.partition('.')[0] for field in known)
  return f'; known: {", ".join(groups)}'


def _explain(error: flags.Error, known: dict[str, Field]) -> str:
  """Turns what absl says of a field into `--name=value is not <accepted>`."""
  match = re.fullmatch(r'flag --config\.([\w.]+)=(.*?): .*', str(error), re.S)
  if match is None:
    return str(error)
  path, value = match.groups()
  return f'--config.{path}={value} is not {known[path].accepts}'


def _accepts(kind: Any) -> str:
  """Describes the values of an annotation."""
  words = {int: 'an integer', float: 'a number', str: 'a text'}
  words |= {bool: 'true or false', type(None): 'unset'}
  if kind in words:
    return words[kind]
  if isinstance(kind, type) and issubclass(kind, enum.Enum):
    return 'one of ' + ', '.join(kind.__members__)
  parts = typing.get_args(kind)
  if typing.get_origin(kind) is not tuple:
    return ' or '.join(_accepts(part) for part in parts) or str(kind)
  inner = ', '.join('...' if p is Ellipsis else p.__name__ for p in parts)
  return f'a tuple ({inner})'


def _fits(value: Any, kind: Any) -> bool:
  """Whether a tuple has the elements that its annotation promises.

  Flags check the type of everything else themselves.
  """
  parts = typing.get_args(kind)
  if typing.get_origin(kind) is not tuple or not parts:
    return True
  if parts[-1] is Ellipsis:
    parts = parts[:1] * len(value)
  allowed = {float: (int, float)}
  return len(value) == len(parts) and all(
    isinstance(item, allowed.get(part, typing.get_origin(part) or part))
    for item, part in zip(value, parts, strict=True)
  )
