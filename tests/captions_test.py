"""What a clip hears: each caption alone, from an encoder that then leaves."""

import gc

import jax
import numpy as np
import pytest
import tiny

from sora_jax import captions, networks, sharding
from sora_jax.models import text

SLOTS = 32


@pytest.fixture(scope='module')
def found():
  return networks.Networks(config := tiny.config(), tiny.params(config))


@pytest.fixture
def encoder(found):
  return captions.Encoder(found, jax.devices()[0])


def expected(found, *lines):
  """What the encoder says of lines in one row, as training packs them."""
  words = [found.tokenizer.encode(line, SLOTS) for line in lines]
  ids = np.concatenate(words)[None].astype(np.int32)
  segment = np.repeat(np.arange(len(lines)), [len(w) for w in words])[None] + 1
  run = jax.jit(text.T5Encoder(found.config.text).apply)
  return run({'params': found.params['text']}, ids, segment.astype(np.int32))[0]


def test_a_clip_hears_its_prompt_and_what_to_move_away_from(found, encoder):
  features, segment = encoder.told('a ball', negative='grey')
  assert features.shape == (2, SLOTS, found.config.text.width)
  for row, caption in enumerate(('a ball', 'grey')):
    count = len(caption) + 1  # with the end
    np.testing.assert_array_equal(segment[row, :count], 1)
    np.testing.assert_array_equal(segment[row, count:], 0)
    np.testing.assert_array_equal(features[row, count:], 0.0)
    np.testing.assert_allclose(
      features[row, :count], expected(found, caption), rtol=0, atol=1e-5
    )
  _, without = encoder.told('a ball')
  assert without[1].sum() == 1  # the end alone


def test_lines_follow_one_another(found, encoder):
  features, segment = encoder.told('one\nthree', 2)
  said = expected(found, 'one', 'three')
  assert features.shape[1] == segment.shape[1] == 2 * SLOTS
  np.testing.assert_allclose(features[0, : len(said)], said, rtol=0, atol=1e-5)
  assert segment[0].tolist() == [1] * 4 + [2] * 6 + [0] * (2 * SLOTS - 10)
  np.testing.assert_array_equal(features[0, :4], encoder.told('one')[0][0, :4])


def test_what_is_heard_has_the_same_bits_whatever_is_heard_beside(found):
  here, there = jax.devices()[0], jax.devices()[1]
  together = captions.Encoder(found, here)
  together.learn(['a', 'two balls', 'a ball', 'grey'])
  for device in (here, there):
    alone = captions.Encoder(found, device).told('a ball', negative='grey')
    beside = together.told('a ball', negative='grey')
    for one, other in zip(beside, alone, strict=True):
      assert one.tobytes() == other.tobytes()


def test_a_run_on_other_devices_does_not_matter(found):
  """A run's mesh is there when it samples meanwhile."""
  alone = captions.Encoder(found, jax.devices()[0]).told('a ball').features
  with sharding.use(sharding.make_mesh(sharding.MeshConfig())):
    beside = captions.Encoder(found, jax.devices()[0]).told('a ball').features
  assert alone.tobytes() == beside.tobytes()


def test_a_caption_is_encoded_once_and_the_encoder_leaves(found):
  device, told = jax.devices()[2], []
  on_device = lambda: [x for x in jax.live_arrays() if device in x.devices()]
  before = len(on_device())
  encoder = captions.Encoder(found, device, told.append)
  assert len(on_device()) == before
  encoder.learn(['a ball', 'two', ''])
  gc.collect()
  assert len(on_device()) == before
  encoder.told('a ball')
  encoder.learn(['two', 'a ball'])
  assert len(told) == 1
  encoder.learn(['three'])
  assert len(told) == 2


@pytest.mark.parametrize(
  ('prompt', 'lines', 'words'),
  [
    ('a\nb', 1, 'has 2 lines; its canvas has 1 parts'),
    ('a', 2, 'has 1 lines; its canvas has 2 parts'),
    (' ', 1, 'a prompt is empty'),
    ('x' * 40, 1, 'caption of 40 bytes does not fit 32'),
  ],
)
def test_prompts_that_cannot_be_are_refused(encoder, prompt, lines, words):
  with pytest.raises(ValueError, match=words):
    encoder.told(prompt, lines)
