"""The page holds what it shows, and nothing in it is taken for HTML."""

import base64
import html.parser

from etils import epath

from sora_jax import gallery


class Elements(html.parser.HTMLParser):
  """Notes elements with their attributes, and the text between them."""

  def __init__(self):
    super().__init__()
    self.found, self.text = [], ''

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.text += data


def test_a_page_holds_every_byte_and_says_how_each_was_made(tmp_path):
  made, given = epath.Path(tmp_path / 'a.mp4'), epath.Path(tmp_path / 'b.png')
  made.write_bytes(bytes(range(256)))
  given.write_bytes(b'a picture')
  entry = gallery.Entry(
    made, 'edit', 'a <b>red</b> & blue ball', 'f' * 64, 'run "it"', (given,)
  )
  parts = [gallery.Part('First', 'some', [entry]), gallery.Part('None', '', [])]
  seen = Elements()
  seen.feed(gallery.page('title', 'text', parts, 'law < 90 %'))
  assert not [tag for tag, _ in seen.found if tag in ('script', 'link')]
  (video,) = [attrs for tag, attrs in seen.found if tag == 'video']
  assert {'autoplay', 'loop', 'muted'} <= set(video)
  media, data = video['src'].split(',')
  assert media == 'data:video/mp4;base64'
  assert base64.b64decode(data) == made.read_bytes()
  (image,) = [attrs for tag, attrs in seen.found if tag == 'img']
  assert base64.b64decode(image['src'].split(',')[1]) == b'a picture'
  for text in (entry.prompt, entry.command, 'f' * 16, 'law < 90 %', 'First'):
    assert text in seen.text
  assert 'None' not in seen.text and 'f' * 17 not in seen.text
