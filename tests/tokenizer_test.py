"""Captions become the ids that a model's own tokenizer says."""

import io
import json

import pytest

from sora_jax.data import tokenizer, transforms


def test_a_model_that_reads_bytes_needs_no_library():
  found = tokenizer.from_files(tokenizer.BYTES.files, 'here')
  assert found.encode('aé', 9) == transforms.byte_ids('aé', 9)


@pytest.mark.parametrize(
  ('files', 'words'),
  [
    ({}, 'here has neither tokenizer.json nor spiece.model'),
    ({'tokenizer_config.json': b'{'}, 'here: '),
    ({'tokenizer_config.json': b'[]'}, 'here has neither'),
  ],
)
def test_files_of_no_tokenizer_are_refused(files, words):
  with pytest.raises(ValueError, match=words):
    tokenizer.from_files(files, 'here')


def words_file():
  """Words and an end token, as the library writes them."""
  library = pytest.importorskip('tokenizers')
  words = ['<pad>', '</s>', '<unk>', 'a', 'red', 'ball', '&']
  made = library.Tokenizer(
    library.models.WordLevel({w: i for i, w in enumerate(words)}, '<unk>')
  )
  made.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
  made.post_processor = library.processors.TemplateProcessing(
    '$A </s>', special_tokens=[('</s>', 1)]
  )
  made.enable_truncation(4)  # what a file says of lengths is not asked
  made.enable_padding(length=8)
  return {tokenizer.FAST: made.to_str().encode()}


def test_words_are_cleaned_and_looked_up():
  pytest.importorskip('ftfy')
  found = tokenizer.from_files(words_file(), 'here')
  ids = found.encode(' a  red\nball &amp;amp; a blue ball', 9)
  assert ids == [3, 4, 5, 6, 3, 2, 5, 1]
  assert found.encode('', 9) == [1]


CORPUS = 'a red ball rolls to the left and a blue ball flies up'.split()


def pieces_file():
  """Pieces of words, as those of T5: 0 pads, 1 ends."""
  library = pytest.importorskip('sentencepiece')
  out = io.BytesIO()
  library.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS * 5),
    model_writer=out,
    vocab_size=25,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  return {tokenizer.PIECES: out.getvalue()}


def test_pieces_are_those_of_transformers(tmp_path):
  transformers = pytest.importorskip('transformers')
  files = pieces_file()
  found = tokenizer.from_files(files, 'here')
  captions = ['a red ball', ' a  blue ball rolls\nleft ', 'the ball', '']
  (tmp_path / tokenizer.PIECES).write_bytes(files[tokenizer.PIECES])
  theirs = transformers.T5Tokenizer.from_pretrained(tmp_path)
  expected = theirs([tokenizer.clean(c) for c in captions]).input_ids
  assert [found.encode(c, 64) for c in captions] == expected
  assert expected[-1] == [1]


def test_captions_that_do_not_fit_are_refused_and_not_cut():
  pytest.importorskip('ftfy')
  found = tokenizer.from_files(words_file(), 'here')
  assert len(found.encode('a red ball', 4)) == 4
  with pytest.raises(ValueError, match="5 tokens does not fit 4 .* 'a red"):
    found.encode('a red ball &', 4)


def test_a_damaged_file_is_named():
  pytest.importorskip('tokenizers')
  with pytest.raises(ValueError, match='^here: '):
    tokenizer.from_files({tokenizer.FAST: json.dumps([1]).encode()}, 'here')
