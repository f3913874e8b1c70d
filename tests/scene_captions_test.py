"""Captions of scenes say what is true, and are read back."""

import collections

import numpy as np
import pytest

from sora_jax.data.worlds import scene_captions as captions, scene_plans

COUNT = 600


@pytest.fixture(scope='module')
def plans():
  return [scene_plans.plan(0, i, 'train') for i in range(COUNT)]


def test_captions_promise_what_is_true(plans):
  for plan in plans:
    promised = captions.attributes(plan.caption)
    for field, value in promised._asdict().items():
      true = getattr(plan.said, field)
      # What is not said is not promised.
      assert value == true or value == '', (plan.caption, field)
    for field in ('object', 'colour', 'count', 'event', 'place', 'second'):
      assert getattr(promised, field) == getattr(plan.said, field), plan.caption


def test_captions_of_images_promise_things_alone(plans):
  for plan in plans:
    promised = captions.attributes(plan.image_caption)
    assert promised.event == promised.camera == promised.way == ''
    assert promised.object == plan.said.object
    assert promised.place == plan.said.place


def test_captions_are_short_enough_and_plain(plans):
  lengths = []
  for plan in plans:
    for caption in (plan.caption, plan.image_caption):
      assert caption.isascii() and caption == caption.lower()
      assert '{' not in caption and '  ' not in caption
    assert len(plan.caption) <= captions.LONG_LIMIT
    assert len(plan.image_caption) <= captions.SHORT_LIMIT
    lengths.append(len(plan.caption))
  # There are short forms and long ones.
  assert np.mean(np.array(lengths) <= captions.SHORT_LIMIT) > 0.5
  assert np.mean(np.array(lengths) > captions.SHORT_LIMIT) > 0.1


def test_no_caption_can_be_longer_than_its_limit():
  said = [
    (
      f'three purple {captions.PLURALS[name]}',
      verb + ' to the right' * (event in captions.DIRECTED),
    )
    for name in captions.OBJECTS
    for event in scene_plans.EVENTS[name]
    for _, verb in captions.verbs(event, name)
    if event != 'collide'
  ]
  said += [
    ('an orange ball', f'{verb} an orange ball right')
    for verb, _ in captions.verbs('collide', 'ball')
  ]
  words = {
    field: 'x' * max(len(p) for ps in table.values() for p in ps)
    for field, table in captions.PHRASES.items()
  }
  for kinds, limit in (
    (captions.SHORT, captions.SHORT_LIMIT),
    (captions.PRODUCT, captions.LONG_LIMIT),
    (captions.IMAGES, captions.SHORT_LIMIT),
    (captions.LONG, captions.LONG_LIMIT),
  ):
    for sentence in kinds:
      for who, does in said:
        text = sentence.format(who=who, does=does, **words)
        assert len(text) <= limit, text


def test_every_word_and_sentence_is_used(plans):
  many = [p.caption for p in plans]
  many += [scene_plans.plan(1, i, 'train').caption for i in range(1500)]
  text = '\n'.join(many)
  for table in captions.PHRASES.values():
    for phrases in table.values():
      for phrase in phrases:
        assert phrase in text, phrase
  for word in (*captions.COLOURS, *captions.OBJECTS, *captions.COUNTS):
    assert word in text, word
  said = collections.Counter(captions.attributes(c).event for c in many)
  assert set(said) == set(captions.EVENTS)


def test_a_phrase_means_one_thing():
  for field, table in captions.PHRASES.items():
    phrases = [p for ps in table.values() for p in ps]
    assert len(set(phrases)) == len(phrases), field
  for name in captions.OBJECTS:
    meant = collections.defaultdict(set)
    for event in scene_plans.EVENTS[name]:
      for pair in captions.verbs(event, name):
        for verb in filter(None, pair):
          meant[verb].add(event)
    assert all(len(events) == 1 for events in meant.values()), name


@pytest.mark.parametrize(
  'caption, expected',
  [
    (
      'a product photo of a red bicycle that starts to ride left',
      ('bicycle', 'red', 1, 'start', 'left', 'studio', '', '', ''),
    ),
    (
      'two orange fish swim under water',
      ('fish', 'orange', 2, 'swim', '', 'underwater', '', '', ''),
    ),
    (
      'an orange drone hovers at sea at night',
      ('drone', 'orange', 1, 'hover', '', 'water', 'night', '', ''),
    ),
    (
      'a red ball hits a blue ball to the right on sand, the camera orbits',
      ('ball', 'red', 1, 'collide', 'right', 'sand', '', '', 'orbit', 'blue'),
    ),
  ],
)
def test_sentences_are_read(caption, expected):
  assert captions.attributes(caption) == captions.Attributes(*expected)


@pytest.mark.parametrize(
  'caption',
  [
    'a red ball',
    'a red ball swims',
    'a mauve ball rolls on sand',
    'a red cat drives on sand',
    'a red ball hits on sand',
    'a red bicycle rides a blue ball on sand',
    'a video of a red car on sand, at noon: it shows how a blue car drives, '
    'and the camera pans',
  ],
)
def test_what_is_no_sentence_is_refused(caption):
  with pytest.raises(ValueError, match='caption'):
    captions.attributes(caption)


def test_the_grammar_lists_every_word():
  text = captions.grammar()
  for word in (*captions.COLOURS, *captions.OBJECTS, *captions.EVENTS):
    assert word in text
