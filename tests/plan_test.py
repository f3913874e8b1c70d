"""Plans: every clip once an epoch, within the limits, by the seed alone."""

import itertools

import numpy as np
import pytest

from sora_jax.data import plan

LIMITS = plan.Limits(rows=3, tokens=20, clips=4, text=30, groups=6)


def corpus(count=50, seed=0):
  generator = np.random.default_rng(seed)
  return plan.Needs(
    tokens=generator.integers(1, 21, count),
    text=generator.integers(1, 16, count),
    groups=generator.integers(1, 4, count),
  )


def epoch_of(made, count, epoch=0):
  """The steps of an epoch, by the draws in them."""
  steps = []
  for step in itertools.count():
    rows = made.rows(step)
    first = min(e.draw for row in rows for e in row)
    if first >= (epoch + 1) * count:
      return steps
    if first >= epoch * count:
      steps.append(rows)


def entries(steps):
  return [e for rows in steps for row in rows for e in row]


@pytest.mark.parametrize('epoch', [0, 1, 2])
def test_every_clip_comes_exactly_once_an_epoch(epoch):
  made = plan.Plan(corpus(), LIMITS, seed=1)
  found = entries(epoch_of(made, 50, epoch))
  assert sorted(e.clip for e in found) == list(range(50))
  draws = range(50 * epoch, 50 * epoch + 50)
  assert sorted(e.draw for e in found) == list(draws)


def test_no_row_needs_more_than_it_holds():
  needs = corpus(200)
  for rows in epoch_of(plan.Plan(needs, LIMITS, seed=1), 200):
    assert len(rows) == LIMITS.rows
    for row in rows:
      clips = [e.clip for e in row]
      assert len(clips) <= LIMITS.clips
      for name in ('tokens', 'text', 'groups'):
        total = getattr(needs, name)[clips].sum()
        assert total <= getattr(LIMITS, name), name


@pytest.mark.parametrize('name', ['tokens', 'text', 'groups', 'clips'])
def test_each_limit_alone_is_kept_to_the_brim(name):
  ones = np.ones(12, int)
  wide = dict(rows=1, tokens=99, clips=99, text=99, groups=99)
  limits = plan.Limits(**wide | {name: 3})
  steps = epoch_of(plan.Plan(plan.Needs(ones, ones, ones), limits, 0), 12)
  assert [len(rows[0]) for rows in steps] == [3, 3, 3, 3]


def test_a_draw_is_the_epoch_times_the_clips_plus_the_rank():
  made = plan.Plan(corpus(), LIMITS, seed=1)
  order = {e.draw: e.clip for e in entries(epoch_of(made, 50, 1))}
  # Limits change which row a clip lies in, never its draw.
  wide = plan.Limits(rows=7, tokens=99, clips=9, text=99, groups=99)
  found = entries(epoch_of(plan.Plan(corpus(), wide, seed=1), 50, 1))
  assert {e.draw: e.clip for e in found} == order


def test_a_step_does_not_depend_on_what_was_asked_before():
  made = plan.Plan(corpus(), LIMITS, seed=1)
  forward = [made.rows(step) for step in range(40)]
  asked = np.random.default_rng(0).permutation(40)
  assert all(made.rows(int(s)) == forward[s] for s in asked)
  restarted = plan.Plan(corpus(), LIMITS, seed=1)
  assert restarted.rows(39) == forward[39]
  assert restarted.rows(2) == forward[2]


def test_seeds_and_epochs_have_orders_of_their_own():

  def clips(seed, epoch):
    steps = epoch_of(plan.Plan(corpus(), LIMITS, seed), 50, epoch)
    return [e.clip for e in entries(steps)]

  assert clips(1, 0) == clips(1, 0)
  assert clips(1, 0) != clips(2, 0)
  assert clips(1, 0) != clips(1, 1)


def test_the_order_is_shuffled_beyond_a_rows_reach():
  ones = np.ones(1000, int)
  single = plan.Limits(rows=1, tokens=1, clips=1, text=1, groups=1)
  steps = epoch_of(plan.Plan(plan.Needs(ones, ones, ones), single, 0), 1000)
  clips = [e.clip for e in entries(steps)]
  assert abs(np.corrcoef(clips, np.arange(1000))[0, 1]) < 0.1


def test_an_epoch_ends_in_empty_rows_and_the_next_starts_afresh():
  ones = np.ones(5, int)
  limits = plan.Limits(rows=3, tokens=1, clips=1, text=1, groups=1)
  made = plan.Plan(plan.Needs(ones, ones, ones), limits, 0)
  counts = [[len(row) for row in made.rows(step)] for step in range(4)]
  assert counts == [[1, 1, 1], [1, 1, 0]] * 2
  assert {e.draw for row in made.rows(2) for e in row} == {5, 6, 7}


def test_rows_fill_well_when_small_clips_can_follow_large_ones():
  needs = corpus(400)
  loose = plan.Limits(rows=1, tokens=20, clips=20, text=999, groups=99)
  steps = epoch_of(plan.Plan(needs, loose, seed=0), 400)
  assert needs.tokens.sum() / (20 * len(steps)) > 0.9


def test_clips_may_take_less_than_they_need_at_the_most():
  """Of each draw it is known; what may be needed at the most has to fit."""
  tens = np.full(40, 10)
  limits = plan.Limits(rows=2, tokens=10, clips=9, text=99, groups=4)
  most = plan.Needs(tens, np.ones(40, int), np.full(40, 3))
  takes = lambda entry: (2 + entry.draw % 3, 1)
  made = plan.Plan(most, limits, 0, takes)
  for epoch in (0, 1):
    steps = epoch_of(made, 40, epoch)
    found = entries(steps)
    assert sorted(e.clip for e in found) == list(range(40))
    assert len(steps) <= 7  # of two rows of three clips, not of one
    for rows in steps:
      for row in rows:
        assert sum(takes(entry)[0] for entry in row) <= 10
        assert len(row) <= 4  # groups
  narrow = plan.Limits(rows=2, tokens=9, clips=9, text=99, groups=4)
  with pytest.raises(ValueError, match='needs 10 tokens'):
    plan.Plan(most, narrow, 0, takes)


def test_an_empty_corpus_is_refused():
  with pytest.raises(ValueError, match='empty'):
    plan.Plan(corpus(0), LIMITS, 0)


@pytest.mark.parametrize('name', ['tokens', 'text', 'groups'])
def test_a_clip_that_fits_no_row_is_named_with_what_it_needs(name):
  needs = corpus(10)
  getattr(needs, name)[7] = 77
  limit = getattr(LIMITS, name)
  words = rf'clip 7 needs 77 {name}.*data\.limits\.{name} is {limit}\b'
  with pytest.raises(ValueError, match=words):
    plan.Plan(needs, LIMITS, 0)


@pytest.mark.parametrize('name', ['rows', 'clips'])
def test_a_batch_of_nothing_is_refused(name):
  limits = plan.Limits(rows=3, tokens=20, clips=4, text=30, groups=6)
  setattr(limits, name, 0)
  with pytest.raises(ValueError, match=rf'data\.limits\.{name}=0'):
    plan.Plan(corpus(), limits, 0)
