"""Which part of a training clip is clean, and what its latents are."""

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest

from sora_jax.data import pieces

FRAMES, AT = 9, 4
LATENT = np.random.default_rng(0).normal(size=(FRAMES, 4, 6, 2))
# As if encoded anew: other numbers, for an image latent and the last five.
RESTART = LATENT[AT - 1 :] + 100


class Lesson(NamedTuple):
  """What is drawn of a clip, and its latents."""

  latent: np.ndarray
  drawn: pieces.Outline

  def __getattr__(self, name):
    return getattr(self.drawn, name)


def teach(latent, restart, shares, rng):
  restarted = 0 if restart is None else len(restart) - 1
  drawn = pieces.outline(latent.shape[:3], restarted, shares, 2, rng)
  return Lesson(pieces.take(drawn, latent, restart), drawn)


def lessons(count=300, restart=RESTART, **shares):
  return [
    teach(LATENT, restart, pieces.Shares(**shares), np.random.default_rng(i))
    for i in range(count)
  ]


def test_without_shares_a_clip_is_noise_all_over():
  for lesson in lessons(20):
    np.testing.assert_array_equal(lesson.latent, LATENT)
    assert not lesson.clean.any()
    assert not lesson.by_frame
    assert lesson.frame.tolist() == list(range(FRAMES))


def test_a_clean_start_is_of_the_clip_itself():
  lengths = set()
  for lesson in lessons(start=1.0):
    frames = lesson.clean[:, 0, 0]
    count = int(frames.sum())
    assert frames[:count].all()
    assert (lesson.clean == frames[:, None, None]).all()
    np.testing.assert_array_equal(lesson.latent, LATENT)
    lengths.add(count)
  assert lengths == set(range(1, FRAMES))


@pytest.mark.parametrize('kind', ['end', 'both', 'middle'])
def test_a_piece_further_on_is_of_a_stream_that_started_anew(kind):
  lasts, starts = set(), set()
  for lesson in lessons(**{kind: 1.0}):
    frames = lesson.clean[:, 0, 0]
    inside = np.flatnonzero(frames[AT:]) + AT
    last = inside[-1] + 1
    assert inside.tolist() == list(range(AT, last))
    np.testing.assert_array_equal(
      lesson.latent[AT:last], RESTART[1:][: last - AT]
    )
    np.testing.assert_array_equal(lesson.latent[:AT], LATENT[:AT])
    assert len(lesson.latent) == (FRAMES if kind == 'middle' else last)
    np.testing.assert_array_equal(
      lesson.latent[last:], LATENT[last : len(lesson.latent)]
    )
    lasts.add(int(last))
    starts.add(int(frames[:AT].sum()))
    # There is something to make before the piece.
    assert not frames[AT - 1]
  assert lasts == set(range(AT + 1, FRAMES + 1))
  assert starts == ({1, 2, 3} if kind == 'both' else {0})


@pytest.mark.parametrize('kind', ['end', 'both', 'middle'])
def test_the_image_latent_that_opens_a_piece_is_shown_behind_the_clip(kind):
  shown = 0
  with_and_without = zip(
    lessons(**{kind: 1.0}), lessons(**{kind: 1.0}, opening=0.5), strict=True
  )
  for plain, lesson in with_and_without:
    frames = len(plain.latent)
    np.testing.assert_array_equal(lesson.latent[:frames], plain.latent)
    np.testing.assert_array_equal(lesson.clean[:frames], plain.clean)
    assert lesson.frame[:frames].tolist() == plain.frame.tolist()
    assert lesson.source[:frames].tolist() == plain.source.tolist()
    if len(lesson.latent) > frames:
      np.testing.assert_array_equal(lesson.latent[frames:], RESTART[:1])
      assert lesson.clean[frames:].all()
      # Where the latent is that its frame closes.
      assert lesson.frame[frames:] == lesson.source[frames:] == AT - 1
      shown += 1
  assert 120 < shown < 180  # of 300
  for lesson in lessons(20, start=1.0, opening=1.0):
    assert len(lesson.latent) == FRAMES


def test_a_place_is_kept_for_what_is_shown():
  shares = pieces.Shares(end=0.1, opening=0.5)
  assert [pieces.most_latents(shares, frames) for frames in (1, 9)] == [1, 10]
  assert pieces.most_latents(pieces.Shares(start=0.1, opening=0.5), 9) == 9
  assert pieces.most_latents(pieces.Shares(end=0.1), 9) == 9


def test_a_region_is_a_box_of_whole_tokens_for_all_frames():
  sizes = set()
  for lesson in lessons(region=1.0):
    noisy = ~lesson.clean
    assert (noisy == noisy[:1]).all() and noisy.any()
    rows, columns = noisy[0].any(axis=1), noisy[0].any(axis=0)
    assert (noisy[0] == rows[:, None] & columns).all()
    assert (rows[0::2] == rows[1::2]).all()
    assert (columns[0::2] == columns[1::2]).all()
    sizes.add((int(rows.sum()), int(columns.sum())))
  assert sizes == {(2, 2), (2, 4)}


def test_a_midstream_lacks_the_image_latent():
  for lesson in lessons(50, midstream=1.0):
    frames = len(lesson.latent)
    assert lesson.frame.tolist() == list(range(1, frames + 1))
    assert lesson.source.tolist() == list(range(FRAMES - frames, FRAMES))
    assert 2 <= len(lesson.latent) <= FRAMES - 1
    np.testing.assert_array_equal(lesson.latent, LATENT[-len(lesson.latent) :])
  for lesson in lessons(50, midstream=1.0, end=1.0):
    assert lesson.frame.tolist() == list(range(len(lesson.latent)))


def test_an_anchor_is_clean_and_far_ahead_of_a_window_that_goes_on():
  lengths = set()
  for lesson in lessons(anchor=1.0, midstream=0.5):
    frames = len(lesson.latent)
    assert lesson.frame.tolist() == [0, *range(16, 15 + frames)]
    assert lesson.source.tolist() == [0, *range(FRAMES + 1 - frames, FRAMES)]
    np.testing.assert_array_equal(lesson.latent[0], LATENT[0])
    np.testing.assert_array_equal(lesson.latent[1:], LATENT[1 - frames :])
    clean = lesson.clean[:, 0, 0]
    known = int(clean.sum())
    assert (lesson.clean == clean[:, None, None]).all() and clean[:known].all()
    assert 2 <= known < frames
    lengths.add(frames)
  assert lengths == set(range(3, FRAMES + 1))


def test_each_way_has_its_share():
  shares = dict(frames=0.1, start=0.2, end=0.15, region=0.25)
  counts = np.zeros(4)
  for lesson in lessons(4000, **shares):
    region = lesson.clean.any() and not lesson.clean.all(axis=(1, 2)).any()
    start = lesson.clean[0].all()
    end = lesson.clean[-1].all()
    counts += [lesson.by_frame, start, end and not start, region]
  np.testing.assert_allclose(counts / 4000, list(shares.values()), atol=0.02)


def test_images_and_clips_without_a_second_stream_are_noise_all_over():
  rng = np.random.default_rng(0)
  lesson = teach(LATENT, None, pieces.Shares(end=1.0), rng)
  assert not lesson.clean.any()
  image = teach(LATENT[:1], None, pieces.Shares(start=1.0), rng)
  assert not image.clean.any()
  short = teach(LATENT[:2], None, pieces.Shares(anchor=1.0), rng)
  assert not short.clean.any()


def test_groups_are_enough_for_every_way():
  assert pieces.groups(pieces.Shares(), 9) == 1
  assert pieces.groups(pieces.Shares(region=0.1), 9) == 2
  assert pieces.groups(pieces.Shares(anchor=0.1, midstream=0.1), 9) == 2
  assert pieces.groups(pieces.Shares(midstream=0.1), 9) == 1
  assert pieces.groups(pieces.Shares(frames=0.1), 9) == 9
  assert pieces.groups(pieces.Shares(frames=0.1), 1) == 1
  assert pieces.groups(pieces.Shares(frames=0.1, start=0.1), 1) == 2


def test_streams_start_anew_within_the_clip():
  for frames in range(2, 40):
    places = {pieces.restart_at(frames, i) for i in range(6)}
    assert min(places) >= 0 and max(places) <= frames - 2
  assert {pieces.restart_at(9, i) for i in range(3)} == {2, 4, 6}


@pytest.mark.parametrize(
  ('shares', 'message'),
  [
    (dict(end=-0.1), r'shares\.end=-0\.1 must be from 0 to 1'),
    (dict(start=0.7, end=0.7), r'add up to 1\.4; it must be 1 at most'),
  ],
)
def test_shares_that_cannot_be_are_refused(shares, message):
  with pytest.raises(ValueError, match=message):
    pieces.check(pieces.Shares(**shares))


def test_all_of_it_may_be_shared_out():
  names = [f.name for f in dataclasses.fields(pieces.Shares)]
  equal = dict.fromkeys(names, 1 / (len(names) - 2))
  pieces.check(pieces.Shares(**equal | {'midstream': 1.0, 'opening': 1.0}))
