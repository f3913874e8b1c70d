"""Captions of the balls world say what they promise, and only that."""

import itertools

import pytest

from sora_jax.data.worlds import captions


def test_a_caption_reads_as_a_person_reads_it():
  promised = captions.attributes('a small red ball rolls left at speed 1.3')
  assert promised.law == 'uniform'
  (ball,) = promised.balls
  assert (ball.colour, ball.size, ball.direction) == ('red', 'small', 'left')
  assert ball.speed == pytest.approx((1.25, 1.35))


def test_a_collision_names_the_first_ball_first():
  promised = captions.attributes(
    'a large cyan ball going right fast hits '
    'a medium black ball going left at 2.0'
  )
  assert promised.law == 'collision'
  assert [b.colour for b in promised.balls] == ['cyan', 'black']
  assert [b.direction for b in promised.balls] == ['right', 'left']
  assert promised.balls[0].speed == captions.SPEEDS['fast']
  assert promised.balls[1].speed == pytest.approx((1.95, 2.05))


def test_an_image_promises_no_motion():
  promised = captions.attributes('a small red ball and a large blue ball')
  assert promised.law == 'still'
  assert [b.direction for b in promised.balls] == ['', '']


@pytest.mark.parametrize(
  'caption',
  [
    'a tiny red ball rolls left at speed 1.3',
    'a small red ball rolls left',
    'a small red ball rolls left at speed 1.3 ',
    'a small red ball going left at 2.0 hits '
    'a small blue ball going left at 2.0',
    'a small red ball and a large red ball',
  ],
)
def test_what_is_not_of_the_grammar_is_refused_by_name(caption):
  with pytest.raises(ValueError) as error:
    captions.attributes(caption)
  assert repr(caption) in str(error.value)


def test_every_sentence_is_read_as_its_own_law_and_no_other():
  words = {
    'a': 'a small red ball',
    'b': 'a large blue ball',
    'a_way': 'left',
    'b_way': 'right',
    'a_speed': 'slowly',
    'b_speed': 'at 3.0',
  }
  for law, sentences in captions.SENTENCES.items():
    for sentence in sentences:
      assert captions.attributes(sentence.format(**words)).law == law


def test_words_for_sizes_do_not_touch():
  bounds = list(captions.SIZES.values())
  for (_, low), (high, _) in itertools.pairwise(bounds):
    assert high - low >= 0.05
    assert captions.size_word(low + 0.03) != captions.size_word(high - 0.03)
  for word, (low, high) in captions.SIZES.items():
    assert captions.size_word(low) == captions.size_word(high) == word


def test_only_a_speed_within_its_interval_gets_the_word():
  assert captions.speed_phrase(1.5, worded=True, brief=False) == 'slowly'
  assert captions.speed_phrase(1.5, worded=False, brief=False) == 'at speed 1.5'
  assert captions.speed_phrase(2.5, worded=True, brief=True) == 'at 2.5'
