"""The list of clips of a folder: what each is, and what could not be used.

`build` decodes every file once and writes `manifest.jsonl`, one row a clip in
the order of their names, and `quarantine.jsonl`, the files left out and why.
From then on the manifest alone says what the corpus holds, so every host sees
the same clips under the same numbers.

Captions of `NAME.mp4` are the lines of `NAME.txt` beside it, or lines
`{"file": "NAME.mp4", "caption": "..."}` of `captions.jsonl` at the top of the
folder, where a caption may also be a list of them.
"""

import collections
import hashlib
import json
import re
from collections.abc import Iterator
from concurrent import futures
from typing import Any, NamedTuple, cast

from etils import epath

from sora_jax.data import video

MANIFEST, QUARANTINE = 'manifest.jsonl', 'quarantine.jsonl'
CAPTIONS = 'captions.jsonl'
MEDIA_TYPES = video.VIDEO_TYPES + video.IMAGE_TYPES


class Row(NamedTuple):
  """One clip."""

  id: str  # its path from the top of the folder
  path: str  # from the manifest's folder, or absolute
  width: int  # pixels
  height: int
  frames: int
  fps: float
  captions: list[str]  # at least one
  sha256: str
  bytes: int
  mtime: float  # seconds; with `bytes`, tells whether the file has changed

  @property
  def kind(self) -> str:
    return 'image' if self.frames == 1 else 'video'


class Quarantined(NamedTuple):
  """One file left out."""

  id: str
  reason: str


class Report(NamedTuple):
  """What `build` found."""

  manifest: epath.Path
  rows: list[Row]
  quarantined: list[Quarantined]
  ignored: collections.Counter[str]  # files of other types, by suffix

  @property
  def reasons(self) -> collections.Counter[str]:
    """Files left out, by reason; numbers in a reason read N."""
    return collections.Counter(
      re.sub(r'\d+', 'N', q.reason) for q in self.quarantined
    )

  def __str__(self) -> str:
    parts = [f'{len(self.rows)} clips accepted']
    for title, counts in (
      ('quarantined', self.reasons),
      ('files of other types', self.ignored),
    ):
      if counts:
        each = ', '.join(f'{name}: {n}' for name, n in counts.most_common())
        parts.append(f'{counts.total()} {title} ({each})')
    return '; '.join(parts)


def build(root: epath.PathLike, out: epath.PathLike) -> Report:
  """Measures the clips of a folder and writes their manifest.

  A file that has neither grown nor changed since the last manifest is not
  decoded again. Hidden files and folders are not looked at.

  Args:
    root: the folder; its subfolders count too.
    out: the folder to write to.

  Raises:
    ValueError: the folder is missing, unreadable, without videos and images,
      or without one that can be used; or `captions.jsonl` is malformed.
    OSError: the manifest cannot be written.
  """
  root = epath.Path(root)
  out = epath.Path(out)
  broken: list[Quarantined] = []
  files = dict(sorted(_walk(root, '', broken)))
  media = {name: f for name, f in files.items() if _type(name) in MEDIA_TYPES}
  if not media:
    raise ValueError(
      f'{root} holds no videos or images; known types: {", ".join(MEDIA_TYPES)}'
    )
  captions = _read_captions(files)
  broken += [
    Quarantined(name, 'named in captions.jsonl, but there is no such file')
    for name in captions
    if name not in media
  ]
  measured = _measured_before(out / MANIFEST)

  def measure(name: str) -> Row | Quarantined:
    try:
      texts = captions.get(name, []) + _beside(name, files)
      return _measure(name, media[name], out, texts, measured.get(name))
    except (ValueError, OSError) as error:
      return Quarantined(name, video.reason(error))

  with futures.ThreadPoolExecutor() as pool:
    results = list(pool.map(measure, media))
  rows = [r for r in results if isinstance(r, Row)]
  broken += [r for r in results if isinstance(r, Quarantined)]
  others = [n for n in files if n not in media and not _is_ours(n, media)]
  report = Report(
    out / MANIFEST,
    rows,
    sorted(broken),
    collections.Counter(map(_type, others)),
  )
  _write(out / QUARANTINE, report.quarantined)
  if not rows:
    raise ValueError(f'{root} holds no usable clip: {report}')
  _write(out / MANIFEST, rows)
  return report


def locate(manifest: epath.PathLike, row: Row) -> epath.Path:
  """Where the file of a row is."""
  path = epath.Path(row.path)
  return path if path.is_absolute() else epath.Path(manifest).parent / path


def read(path: epath.PathLike) -> list[Row]:
  """Reads a manifest back.

  Raises:
    ValueError: it is missing or empty, or a line is not a row; which is said.
  """
  path = epath.Path(path)
  try:
    text = path.read_text()
    lines = text.removesuffix('\n').split('\n') if text else []
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(
      f'manifest {path} cannot be read: {video.reason(error)}'
    ) from error
  if not lines:
    raise ValueError(f'manifest {path} is empty; build it again')
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      rows.append(_parse(line))
    except (ValueError, TypeError) as error:
      raise ValueError(
        f'manifest {path}, line {number}: {error}; build it again'
      ) from error
  return rows


def _parse(line: str) -> Row:
  fields = json.loads(line)
  if not isinstance(fields, dict) or set(fields) != set(Row._fields):
    raise ValueError(f'it is not an object with the keys {list(Row._fields)}')
  row = Row(**fields)
  for name, kind in Row.__annotations__.items():
    if not isinstance(fields[name], list if name == 'captions' else kind):
      raise ValueError(f'{name}={fields[name]!r} is not {kind}')
  if min(row.width, row.height, row.frames, row.fps) <= 0:
    raise ValueError(f'size or rate of {row.id} is not above 0')
  if not row.captions or not all(isinstance(c, str) for c in row.captions):
    raise ValueError(f'captions={row.captions!r} are not texts')
  return row


def _walk(
  folder: epath.Path, prefix: str, broken: list[Quarantined]
) -> Iterator[tuple[str, epath.Path]]:
  """All files under a folder by their path from its top."""
  try:
    entries = list(folder.iterdir())
  except OSError as error:
    if not prefix:
      raise ValueError(
        f'folder {folder} cannot be read: {video.reason(error)}'
      ) from error
    broken.append(
      Quarantined(prefix, f'folder cannot be read: {video.reason(error)}')
    )
    return
  for entry in entries:
    if entry.name.startswith('.'):
      continue
    name = prefix + entry.name
    if entry.is_dir():
      yield from _walk(entry, f'{name}/', broken)
    else:
      yield name, entry


def _type(name: str) -> str:
  return epath.Path(name).suffix.lower()


def _text_name(name: str) -> str:
  return str(epath.Path(name).with_suffix('.txt'))


def _is_ours(name: str, media: dict[str, epath.Path]) -> bool:
  """Whether a file that is no clip is one of those that speak of clips."""
  texts = {_text_name(clip) for clip in media}
  return name in texts or name in (MANIFEST, QUARANTINE, CAPTIONS)


def _read_captions(files: dict[str, epath.Path]) -> dict[str, list[str]]:
  """Captions by clip, from `captions.jsonl` if there is one."""
  captions = collections.defaultdict(list)
  if CAPTIONS not in files:
    return captions
  path = files[CAPTIONS]
  try:
    lines = path.read_text().split('\n')  # other breaks may be in a text
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not UTF-8') from error
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      fields = json.loads(line)
      texts = fields['caption']
      texts = [texts] if isinstance(texts, str) else list(texts)
      captions[str(fields['file'])] += _clean(texts)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
      raise ValueError(
        f'{path}, line {number} is not {{"file": "a.mp4", "caption": "..."}}'
      ) from error
  return captions


def _beside(name: str, files: dict[str, epath.Path]) -> list[str]:
  """Captions from the text file beside a clip, if there is one."""
  path = files.get(_text_name(name))
  if path is None:
    return []
  try:
    return _clean(path.read_text(encoding='utf-8').splitlines())
  except UnicodeDecodeError as error:
    raise ValueError('its caption is not UTF-8') from error


def _clean(texts: list[str]) -> list[str]:
  return [' '.join(t.split()) for t in texts if t.strip()]


def _measure(
  name: str,
  path: epath.Path,
  out: epath.Path,
  captions: list[str],
  before: Row | None,
) -> Row:
  if not captions:
    raise ValueError('it has no caption')
  stat = path.stat()
  size, mtime = int(stat.length), float(stat.mtime)
  if before and (before.bytes, before.mtime) == (size, mtime):
    return before._replace(captions=captions)
  info = video.read_info(path)
  with path.open('rb') as file:
    digest = hashlib.file_digest(cast(Any, file), 'sha256').hexdigest()
  place = path
  if path.is_relative_to(out):
    place = path.relative_to(out)
  elif not path.is_absolute():  # `absolute` would take gs:// for a folder
    place = path.absolute()
  return Row(name, str(place), *info, captions, digest, size, mtime)


def _measured_before(path: epath.Path) -> dict[str, Row]:
  try:
    return {row.id: row for row in read(path)}
  except ValueError:  # none yet, or damaged: measure all
    return {}


def _write(path: epath.Path, rows: list[Any]) -> None:
  # In ASCII, as names of files need not be UTF-8.
  text = ''.join(json.dumps(row._asdict()) + '\n' for row in rows)
  path.parent.mkdir(parents=True, exist_ok=True)
  video.publish(path, text.encode())
