"""A page of clips that opens without a server: `gallery.html` of the demo.

Every file is inside the page, byte for byte with its label. Beside each clip is
what it takes to make the same again.
"""

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

MEDIA = {
  '.mp4': 'video/mp4',
  '.png': 'image/png',
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; color: #222; background: #fff; }
section { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
h2 { margin-top: 2.5rem; }
figure { margin: 0; }
figure video, figure img { border: 1px solid #ccc;
  image-rendering: pixelated; }
figure .made { width: 100%; }
figure .given { height: 4rem; margin-right: .5rem; }
figcaption { overflow-wrap: anywhere; }
figcaption b { display: block; }
code, pre { font: 12px/1.4 ui-monospace, monospace; background: #f3f3f3; }
code { display: block; padding: .4rem; user-select: all; }
pre { padding: 1rem; overflow-x: auto; }
small { color: #666; }
"""


class Entry(NamedTuple):
  """A clip as the page shows it."""

  path: epath.Path  # of its file
  title: str
  prompt: str
  latent: str  # SHA-256
  command: str  # that makes it again
  given: tuple[epath.Path, ...] = ()  # files that it was made of


class Part(NamedTuple):
  """Clips under a heading."""

  title: str
  text: str
  entries: Sequence[Entry]


def page(title: str, text: str, parts: Sequence[Part], table: str) -> str:
  """Returns the HTML of a page.

  Args:
    title: of it.
    text: a sentence or two on top.
    parts: what it shows; those without clips are left out.
    table: figures as text, kept as it is.
  """
  body = [f'<h1>{html.escape(title)}</h1>', f'<p>{html.escape(text)}</p>']
  for part in parts:
    if part.entries:
      body.append(f'<h2>{html.escape(part.title)}</h2>')
      body.append(f'<p>{html.escape(part.text)}</p>')
      body += ['<section>', *map(_figure, part.entries), '</section>']
  body.append(f'<h2>Figures</h2>\n<pre>{html.escape(table)}</pre>')
  return '\n'.join([
    '<!doctype html>',
    '<html lang="en">',
    '<meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f'<title>{html.escape(title)}</title>',
    f'<style>{STYLE}</style>',
    *body,
    '</html>\n',
  ])


def _figure(entry: Entry) -> str:
  given = ''.join(_media(path, 'given') for path in entry.given)
  return '\n'.join([
    '<figure>',
    _media(entry.path, 'made'),
    '<figcaption>',
    f'<b>{html.escape(entry.title)}</b>',
    f'{html.escape(entry.prompt)}',
    f'<div>{given}</div>' if given else '',
    f'<code>{html.escape(entry.command)}</code>',
    f'<small>latent {entry.latent[:16]}</small>',
    '</figcaption>',
    '</figure>',
  ])


def _media(path: epath.Path, kind: str) -> str:
  """An element that holds all bytes of a file, and plays them over and over."""
  media = MEDIA[path.suffix]
  data = base64.b64encode(path.read_bytes()).decode()
  told = f'class="{kind}" src="data:{media};base64,{data}"'
  if media.startswith('video'):
    return f'<video {told} autoplay loop muted playsinline></video>'
  return f'<img {told} alt="">'
