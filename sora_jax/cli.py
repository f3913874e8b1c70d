"""The command line: verbs, their flags, and errors that fit on one line.

A verb is a module with `main(config, flags)`. `config` is the dataclass tree
that its experiment returned, with every `--config.FIELD=VALUE` applied, or
None for a verb without one; `flags` has the verb's own flags as attributes,
and as `files` the names beside them, of a verb that takes some.
A mistake of the user's (ValueError or OSError, from here or from the verb), or
a run whose numbers are no longer finite (FloatingPointError), ends with one
line on stderr and exit status 2; --traceback shows where.

Nothing here imports JAX, so help and misspelt flags answer at once.
"""

import enum
import functools
import importlib
import os
import pathlib
import re
import select
import signal
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TextIO

from absl import app, flags, logging

from sora_jax import batch, experiment, gpu


class Flag(NamedTuple):
  """One flag of a verb, `--name=METAVAR`; a switch has no metavar."""

  name: str
  metavar: str
  help: str
  define: Callable[..., Any] = flags.DEFINE_string
  default: Any = None
  required: bool = False

  @property
  def usage(self) -> str:
    return f'--{self.name}={self.metavar}' if self.metavar else f'--{self.name}'


class Verb:
  """A module to run, what it is for, and the flags that it takes."""

  def __init__(
    self, module: str, summary: str, *takes: Flag, files: bool = False
  ):
    self.module = module
    self.summary = summary
    self.files = files  # whether it takes names of files beside flags
    self.flags = {flag.name: flag for flag in (*takes, TRACEBACK)}


class Call(NamedTuple):
  """A parsed command line."""

  program: str  # as errors name it: `launch.py VERB`
  module: str
  config: Any
  flags: types.SimpleNamespace
  traceback: bool


class _SizeParser(flags.ArgumentParser):
  """Reads `WIDTHxHEIGHTxFRAMES`."""

  def parse(self, argument: str | batch.Size) -> batch.Size:
    return batch.parse_size(str(argument))


HELP = {'--help', '-help', '-h'}
DEFINE_size = functools.partial(flags.DEFINE, _SizeParser())


def switch(name: str, text: str) -> Flag:
  """A flag that is off unless it is given."""
  return Flag(name, '', text, flags.DEFINE_bool, default=False)


def count(
  name: str, text: str, lowest: int = 1, default: int | None = None
) -> Flag:
  """A flag that is a whole number, `lowest` or more."""
  define = functools.partial(flags.DEFINE_integer, lower_bound=lowest)
  return Flag(name, 'N', text, define, default)


def choice(
  name: str, choices: tuple[str, ...], text: str, default: str | None = None
) -> Flag:
  """A flag that is one of a few words."""
  define = functools.partial(flags.DEFINE_enum, enum_values=choices)
  return Flag(name, '|'.join(choices), text, define, default)


TRACEBACK = switch('traceback', 'on an error, show where')


def run(verbs: dict[str, Verb]) -> None:
  """Runs the verb that the command line names, and exits with its status."""
  gpu.make_deterministic()  # an experiment that is loaded may import JAX
  app.run(_execute, flags_parser=functools.partial(_parse_or_exit, verbs))


def parse(
  verbs: dict[str, Verb],
  argv: list[str],
  flag_values: flags.FlagValues = flags.FLAGS,
) -> Call:
  """Reads `[program, verb, flags...]` into a call.

  Names are checked before the experiment is loaded, as that may import JAX.

  Raises:
    ValueError: an unknown or missing name, or a value that it does not take.
  """
  name, verb = _find_verb(verbs, argv)
  for flag in verb.flags.values():
    flag.define(
      name=flag.name,
      default=flag.default,
      help=flag.help,
      flag_values=flag_values,
    )
  flag_values.set_gnu_getopt(True)
  try:
    rest = flag_values([argv[0], *argv[2:]], known_only=True)[1:]
  except flags.Error as error:
    raise ValueError(_explain(error, flag_values)) from error
  files = [word for word in rest if verb.files and not word.startswith('-')]
  _check_names([word for word in rest if word not in files], name, verbs)
  values = {key: flag_values[key].value for key in verb.flags}
  _check_required(verb, values)
  show_traceback = bool(values.pop('traceback'))
  spec = values.pop('config', None)
  config = experiment.load(spec, rest) if spec else None
  given_files = {'files': files} if verb.files else {}
  call_flags = types.SimpleNamespace(**values, **given_files)
  return Call(_program(argv), verb.module, config, call_flags, show_traceback)


def _find_verb(verbs: dict[str, Verb], argv: list[str]) -> tuple[str, Verb]:
  name = argv[1]
  if name.startswith('-'):
    raise ValueError(f'{name}: the verb comes first: {", ".join(verbs)}')
  if name not in verbs:
    hint = experiment.nearest(name, verbs)
    raise ValueError(f'no verb {name!r}{hint}')
  return name, verbs[name]


def _check_names(rest: list[str], name: str, verbs: dict[str, Verb]) -> None:
  """Raises for whatever is neither a flag of the verb nor an override.

  `rest` is what the verb's flags left over. A word is the value of the
  override before it, as in `--config.model.depth 4`.
  """
  verb = verbs[name]
  previous = ''
  for word in rest:
    if experiment.is_override(word):
      if 'config' not in verb.flags:
        raise ValueError(f'{word}: {name} takes no --config')
    elif word.startswith('-'):
      raise ValueError(_unknown_flag(word, name, verbs))
    elif not experiment.is_override(previous):
      raise ValueError(f'{word!r} is not a flag; write --name=value')
    previous = word


def _unknown_flag(word: str, name: str, verbs: dict[str, Verb]) -> str:
  """Says which verb takes a flag, or which flag is meant."""
  flag = word.lstrip('-').partition('=')[0]
  if owners := [other for other in verbs if flag in verbs[other].flags]:
    return f'--{flag} is a flag of {" and ".join(owners)}, not of {name}'
  hint = experiment.nearest(flag, verbs[name].flags, '--')
  return f'no flag --{flag}{hint}'


def _check_required(verb: Verb, values: dict[str, Any]) -> None:
  missing = [
    flag.usage
    for flag in verb.flags.values()
    if flag.required and values[flag.name] is None
  ]
  if missing:
    raise ValueError(f'needs {" and ".join(missing)}')


def _explain(error: flags.Error, flag_values: flags.FlagValues) -> str:
  """Turns what absl says of a flag into `--name=value is not <accepted>`."""
  match = re.fullmatch(r'flag --(\w+)=(.*?): (.*)', str(error), re.DOTALL)
  if match is None:
    return str(error)
  name, value, reason = match.groups()
  parser = flag_values[name].parser
  if isinstance(parser, _SizeParser):
    return f'--{name}: {reason}'
  if isinstance(parser, flags.EnumParser):
    return f'--{name}={value} is not one of {", ".join(parser.enum_values)}'
  return f'--{name}={value} is not {parser.syntactic_help}'


def _parse_or_exit(verbs: dict[str, Verb], argv: list[str]) -> Call:
  try:
    if len(argv) < 2 or argv[1] in HELP | {'help'}:
      print(_help(verbs), flush=True)
      sys.exit(0 if len(argv) > 1 else 2)
    if argv[1] in verbs and HELP & set(argv[2:]):
      specs = [arg[9:] for arg in argv if arg.startswith('--config=')]
      print(help_verb(argv[1], verbs[argv[1]], *specs[-1:]), flush=True)
      sys.exit(0)
    call = parse(verbs, argv)
  except (ValueError, OSError) as error:
    program = _program(argv[: 2 if set(argv[1:2]) & verbs.keys() else 1])
    _fail(program, error, '--traceback' in argv)
  if flags.FLAGS['verbosity'].using_default_value:
    flags.FLAGS.verbosity = logging.WARNING
  return call


def _program(argv: list[str]) -> str:
  return ' '.join([pathlib.Path(argv[0]).name, *argv[1:2]])


def _execute(call: Call) -> int:
  try:
    verb = importlib.import_module(call.module)
    status = verb.main(call.config, call.flags) or 0
    print(end='', flush=True)  # or Python would at its end, past all of this
    return status
  except (ValueError, OSError, FloatingPointError) as error:
    _fail(call.program, error, call.traceback)
  except KeyboardInterrupt:
    print(f'{call.program}: interrupted', file=sys.stderr)
    return 130


def _fail(prefix: str, error: Exception, show_traceback: bool) -> NoReturn:
  """Exits with status 2 after one line that says what was wrong.

  Where nobody reads the output any more, as `head` has seen enough, that is no
  error: it exits as if by SIGPIPE, and what is left unwritten goes nowhere.
  """
  if isinstance(error, BrokenPipeError) and _is_unread(sys.stdout):
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)
  if show_traceback:
    traceback.print_exception(error)
  message = str(error)
  if isinstance(error, OSError) and error.strerror:
    message = f'{error.filename or "system"}: {error.strerror}'
  print(f'{prefix}: {" ".join(message.split())}', file=sys.stderr)
  sys.exit(2)


def _is_unread(stream: TextIO) -> bool:
  """Whether a stream is a pipe whose other end is closed."""
  poll = select.poll()
  poll.register(stream, 0)
  return any(event & select.POLLERR for _, event in poll.poll(0))


def _help(verbs: dict[str, Verb]) -> str:
  rows = [(name, verb.summary) for name, verb in verbs.items()]
  return f"""\
usage: python launch.py VERB [--FLAG=VALUE ...]

Trains text-to-video models, and makes videos with them.

{_table(rows)}

Flags of a verb:  python launch.py VERB --help
A first look:     python launch.py demo"""


def help_verb(name: str, verb: Verb, spec: str = '') -> str:
  """Returns the flags of a verb and, given an experiment, its fields."""
  rows = []
  for flag in verb.flags.values():
    shown = flag.default is not None and flag.default is not False
    default = f' ({flag.default})' if shown else ''
    required = ', required' if flag.required else ''
    rows.append((flag.usage, flag.help + default + required))
    if flag.name == 'config':
      rows.append(('--config.FIELD=VALUE', 'sets a field of the experiment'))
  names = 'FILE ... ' if verb.files else ''
  text = f"""\
usage: python launch.py {name} {names}[--FLAG=VALUE ...]

{verb.summary}

{_table(rows)}"""
  if spec:
    fields = experiment.fields(experiment.load(spec))
    rows = [
      (f'--config.{path}={_plain(field.value)}', field.accepts)
      for path, field in fields.items()
    ]
    return f'{text}\n\nFields of {spec}:\n\n{_table(rows)}'
  if 'config' in verb.flags:
    text += f'\n\nFields:  python launch.py {name} --config=FILE.py --help'
  return text


def _plain(value: Any) -> Any:
  return value.name if isinstance(value, enum.Enum) else value


def _table(rows: list[tuple[str, str]]) -> str:
  width = min(40, max(len(left) for left, _ in rows))
  return '\n'.join(f'  {left:<{width}}  {right}' for left, right in rows)
