"""Is a file as it was labelled, and what does it say? `launch.py verify`.

Verdicts, of each file:

  trusted         as it was signed, by someone that --trust knows
  valid           as it was signed, by someone unknown
  tampered        changed since it was signed, cut, or badly signed
  watermark only  no label, but pixels that were made here
  unlabelled      nothing found, which proves nothing
"""

import types

from cryptography import x509
from etils import epath

from sora_jax import provenance, watermark
from sora_jax.data import video

GOOD = (provenance.TRUSTED, provenance.VALID)
FRAMES = 64  # that a watermark is looked for in


def main(config: None, flags: types.SimpleNamespace) -> int:
  """Prints what is known of each file; 0 where all are trusted or valid."""
  del config
  if not flags.files:
    raise ValueError('no file: write `launch.py verify FILE ...`')
  trust = _anchors(flags.trust) if flags.trust else ''
  verdicts = []
  for name in flags.files:
    report = verify(name, trust)
    verdicts.append(report.verdict)
    print(f'{_plain(name)}: {report.verdict}')
    for line in lines_of(report):
      print(f'  {line}')
  return int(not set(verdicts) <= set(GOOD))


def verify(path: epath.PathLike, trust: str = '') -> provenance.Report:
  """What the label says and, without one, whether there is a watermark."""
  path = epath.Path(path)
  report = provenance.read(path.read_bytes(), trust)
  if report.verdict == provenance.UNLABELLED and marked(path):
    return report._replace(verdict=provenance.WATERMARK_ONLY)
  return report


def marked(path: epath.PathLike) -> bool:
  """Whether the frames of a file have a watermark; no, if it has none."""
  try:
    frames = min(FRAMES, video.read_info(path).frames)
    return watermark.found(video.read_frames(path, 0, frames))
  except video.BrokenVideo:
    return False


def lines_of(report: provenance.Report) -> list[str]:
  """A label in words, a line for each thing that it says.

  Facts have names that their signer chose, and so a prefix.
  """
  rows = {
    'because': ', '.join(report.reasons),
    'signed by': report.signer,
    'time stamp': _time(report),
    'made by': report.generator,
    'source type': report.source_type,
  }
  lines = [f'{name}: {value}' for name, value in rows.items() if value]
  lines += [_line_of(each) for each in report.inputs]
  lines += [f'says {name}: {value}' for name, value in report.facts.items()]
  return [_plain(line) for line in lines]


def _time(report: provenance.Report) -> str:
  if not report.time:
    return 'none' if report.signer else ''
  known = 'trusted' if report.time_trusted else 'unknown'
  return f'{report.time}, authority {known}'


def _line_of(each: provenance.Ingredient) -> str:
  """Its name, which is free, after what was found."""
  history = f', made by {each.generator}' if each.generator else ''
  return f'{each.label} input ({each.role}): {each.name}{history}'


def _plain(text: str) -> str:
  """Without what ends a line or moves the cursor, so that none is forged."""
  return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _anchors(path: str) -> str:
  """The certificates of a file, as PEM; raises ValueError for none."""
  text = epath.Path(path).read_bytes()
  try:
    x509.load_pem_x509_certificates(text)
  except ValueError as error:
    raise ValueError(f'--trust={path} holds no PEM certificate') from error
  return text.decode()
