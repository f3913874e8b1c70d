"""Captions to token ids, by the files of the tokenizer that a model comes with.

A model that reads bytes needs no more than their arithmetic. Others bring the
vocabulary of their library, which is then asked, and Wan's way of cleaning
captions with it.
"""

import html
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from sora_jax.data import transforms

CONFIG = 'tokenizer_config.json'
FAST, PIECES = 'tokenizer.json', 'spiece.model'
BYTE_CLASS = 'ByT5Tokenizer'
EXTRA = 'pip install "sora_jax[wan]"'


class Tokenizer(NamedTuple):
  """A tokenizer, and the files that it is kept in."""

  # (caption, most ids) -> ids with an end token, or ValueError.
  encode: Callable[[str, int], list[int]]
  files: dict[str, bytes]


BYTES = Tokenizer(
  transforms.byte_ids,
  {
    CONFIG: json.dumps(
      {
        'tokenizer_class': BYTE_CLASS,
        'extra_ids': 0,
        'pad_token': '<pad>',
        'eos_token': '</s>',
        'unk_token': '<unk>',
      },
      indent=1,
    ).encode()
  },
)


def from_files(files: dict[str, bytes], where: Any) -> Tokenizer:
  """The tokenizer that some files hold, by their names.

  Raises:
    ValueError: there are no files of a known kind, they are damaged, or the
      library that reads them is not installed.
  """
  try:
    if _class(files) == BYTE_CLASS:
      return Tokenizer(transforms.byte_ids, files)
    if FAST in files:
      return Tokenizer(_limited(_fast(files[FAST])), files)
    if PIECES in files:
      return Tokenizer(_limited(_pieces(files[PIECES])), files)
  except ImportError as error:
    raise ValueError(
      f'{where} needs the library {error.name}: {EXTRA}'
    ) from error
  except Exception as error:  # the libraries raise that, and nothing narrower
    raise ValueError(f'{where}: {error}') from error
  raise ValueError(f'{where} has neither {FAST} nor {PIECES}')


def _class(files: dict[str, bytes]) -> str:
  config = json.loads(files.get(CONFIG, b'{}'))
  return config.get('tokenizer_class', '') if isinstance(config, dict) else ''


def _fast(data: bytes) -> Callable[[str], list[int]]:
  import tokenizers

  library = tokenizers.Tokenizer.from_str(data.decode())
  library.no_padding()
  library.no_truncation()
  return lambda caption: library.encode(clean(caption)).ids


def _pieces(data: bytes) -> Callable[[str], list[int]]:
  import sentencepiece

  library = sentencepiece.SentencePieceProcessor(model_proto=data)
  return lambda caption: [*library.encode(clean(caption)), library.eos_id()]


def _limited(
  encode: Callable[[str], list[int]],
) -> Callable[[str, int], list[int]]:
  """Refuses captions that do not fit, where Wan's own code would cut them."""

  def limited(caption: str, limit: int) -> list[int]:
    ids = encode(caption)
    if len(ids) > limit:
      raise ValueError(
        f'caption of {len(ids)} tokens does not fit {limit} text slots; say it '
        f'in fewer words: {caption[:40]!r}...'
      )
    return ids

  return limited


def clean(caption: str) -> str:
  """A caption as Wan's encoder was shown it: mended, and in one line."""
  import ftfy

  mended = html.unescape(html.unescape(ftfy.fix_text(caption)))
  return ' '.join(mended.split())
