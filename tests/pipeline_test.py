"""Batches are functions of the step, whoever reads which rows of them."""

import functools
import itertools
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from sora_jax import batch, tokens
from sora_jax.data import (
  latents,
  pieces,
  pipeline,
  plan,
  sources,
  transforms,
)

ROOT = pathlib.Path(__file__).parent.parent
PATCH = (1, 2, 2)
SIZES = [(1, 2, 2), (3, 2, 4), (2, 4, 2), (1, 4, 4), (3, 2, 2)]
CHANNELS, COUNT, SEED = 3, 11, 5
LIMITS = dict(rows=4, tokens=8, clips=3, text=24, groups=6)
ALL = np.arange(4)


def captions_of(clip):
  return [f'{clip}', f'{clip} ä'] if clip % 2 else [f'{clip}']


def prepared(place, text_width=0, captions_of=captions_of, condition=None):
  generator = np.random.default_rng(0)
  with latents.Writer(place) as writer:
    for i in range(COUNT):
      size, captions = SIZES[i % len(SIZES)], captions_of(i)
      latent = generator.normal(size=(*size, CHANNELS)).astype(np.float16)
      shape = lambda caption: (1 + len(caption.encode()), text_width)
      parts = sum(map(transforms.parts, captions), [])
      features = [generator.normal(size=shape(c)) for c in parts]
      record = latents.Record(latent, tuple(features) if text_width else ())
      if condition:
        record = record._replace(condition=condition(latent))
      slots = 1 + max(len(c.encode()) for c in captions)
      writer.write(latents.Row(f'{i}', size, captions, slots, 0), record)
    info = {'channels': CHANNELS, 'condition': 2 * CHANNELS if condition else 0}
    if text_width:
      info |= {'text_width': text_width, 'empty_features': [[7.0] * text_width]}
    writer.finish(info)
  return latents.LatentSource(place)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return prepared(tmp_path_factory.mktemp('ids') / 'latents')


@pytest.fixture(scope='module')
def cached(tmp_path_factory):
  """A source with the features of a frozen text encoder."""
  return prepared(tmp_path_factory.mktemp('features') / 'latents', text_width=4)


def config(limits=None, **fields):
  limits = plan.Limits(**LIMITS | (limits or {}))
  return pipeline.DataConfig(limits=limits, **fields)


def packs(source, rows=ALL, **fields):
  return pipeline.PackBatches(source, config(**fields), PATCH, SEED, rows)


def clip_of(draw):
  epoch, rank = divmod(draw, COUNT)
  order = transforms.generator(SEED, 'order', epoch).permutation(COUNT)
  return int(order[rank])


def segments(pack):
  """(row, segment, draw) of every clip in a pack."""
  for r, m in itertools.product(*map(range, pack.draw.shape)):
    if pack.draw[r, m] >= 0:
      yield r, m + 1, int(pack.draw[r, m])


def texts(make, steps):
  """Draw -> the caption that its clip got."""
  found = {}
  for step in range(steps):
    pack = make(step)
    for r, segment, draw in segments(pack):
      ids = pack.text_ids[r, pack.text_segment[r] == segment]
      assert ids[-1] == transforms.END
      text = bytes((ids[:-1] - transforms.BYTE_OFFSET).astype(np.uint8))
      found[draw] = text.decode()
  return found


def assert_same(a, b):
  assert type(a) is type(b)
  for name, x, y in zip(a._fields, a, b, strict=True):
    if x is not None or y is not None:
      assert x.dtype == y.dtype, name
      np.testing.assert_array_equal(x, y, name)


# ------------------------------------------------------------------- packs


def test_what_the_network_sees_beside_the_noise_goes_with_its_clip(tmp_path):
  def seen(latent):
    return np.concatenate([latent, -latent], axis=-1)

  source = prepared(tmp_path / 'latents', condition=seen)
  make = pipeline.PackBatches(source, config(), PATCH, SEED, ALL, 2 * CHANNELS)
  pack = make(0)
  used = pack.segment > 0
  joined = tokens.join(
    pack.tokens[used][None], pack.condition[used][None], PATCH
  )
  whole = joined.reshape(*joined.shape[:2], -1, 3 * CHANNELS)
  latent, same, opposite = np.split(whole, 3, axis=-1)
  assert np.abs(latent).max() > 1
  np.testing.assert_array_equal(same, latent)
  np.testing.assert_array_equal(opposite, -latent)
  assert not pack.condition[~used].any()
  with pytest.raises(ValueError, match='without the 5 channels that the netw'):
    pipeline.PackBatches(source, config(), PATCH, SEED, ALL, 5)


def test_a_row_is_the_same_whichever_host_reads_it(source):
  whole = packs(source, caption_dropout=0.5)
  for rows in ([2], [3, 1], [0, 1]):
    part = packs(source, np.array(rows), caption_dropout=0.5)
    for step in (4, 0, 1):
      expected = whole(step)
      chosen = [None if x is None else x[rows] for x in expected]
      assert_same(part(step), batch.Pack(*chosen))


def test_a_step_does_not_depend_on_the_steps_before(source):
  expected = [packs(source)(step) for step in range(4)]
  make = packs(source)
  for step in (3, 0, 2, 2):
    assert_same(make(step), expected[step])


def test_tokens_of_a_segment_are_the_patches_of_its_clip(source):
  pack = packs(source)(0)
  assert pack.tokens.shape == (4, 8, 12) and pack.tokens.dtype == np.float32
  for r, segment, draw in segments(pack):
    latent = source[clip_of(draw)].latent
    at = pack.segment[r] == segment
    values = tokens.patchify(latent[None], PATCH)[0]
    np.testing.assert_array_equal(pack.tokens[r, at], values)
    np.testing.assert_array_equal(pack.index[r, at], np.arange(len(values)))
    grid = tokens.token_grid(latent.shape[:3], PATCH)
    np.testing.assert_array_equal(pack.position[r, at], tokens.positions(grid))
    assert pack.tokens_in_clip[r, segment - 1] == at.sum() == len(values)


def test_clips_share_rows_and_the_rest_of_a_row_is_empty(source):
  pack = packs(source)(0)
  assert max(segment for _, segment, _ in segments(pack)) > 1
  empty = pack.segment == 0
  assert empty.any() and not pack.tokens[empty].any()
  assert not pack.text_of[empty].any()
  assert not pack.text_ids[pack.text_segment == 0].any()
  unused = pack.draw < 0
  assert not pack.tokens_in_clip[unused].any()
  for r, slot in np.argwhere(unused):
    for field in (pack.segment, pack.text_segment, pack.group_clip):
      assert slot + 1 not in field[r]


def test_every_clip_comes_once_an_epoch(source):
  draws = []
  for step in range(6):
    draws += [draw for _, _, draw in segments(packs(source)(step))]
  assert sorted(draws)[: 2 * COUNT] == list(range(2 * COUNT))


@pytest.mark.parametrize('by_frame', [False, True])
def test_a_token_follows_a_group_of_its_own_clip(source, by_frame):
  shares = pieces.Shares(frames=float(by_frame))
  pack = packs(source, shares=shares)(0)
  used = 0
  for r, n in np.argwhere(pack.segment > 0):
    g = pack.group[r, n]
    assert pack.group_clip[r, g] == pack.segment[r, n]
    frame = pack.position[r, n, 0]
    expected = frame if by_frame else 0
    assert pack.group_index[r, g] == expected
  for r, segment, draw in segments(pack):
    frames = source[clip_of(draw)].latent.shape[0]
    expected = frames if by_frame else 1
    assert (pack.group_clip[r] == segment).sum() == expected
    used += expected
  assert (pack.group_clip > 0).sum() == used
  assert not pack.group_clean.any()


def test_a_clean_piece_is_a_group_of_its_own(source):
  pack = packs(source, shares=pieces.Shares(start=1.0))(0)
  for r, segment, draw in segments(pack):
    frames = source[clip_of(draw)].latent.shape[0]
    own = pack.segment[r] == segment
    clean = pack.group_clean[r][pack.group[r]][own]
    if frames < 2:
      assert not clean.any()
    else:
      frame = pack.position[r, own, 0]
      assert clean[frame == 0].all() and not clean[frame == frames - 1].any()


def test_an_opening_has_a_place_in_the_row_behind_its_clip(tmp_path):
  rng = np.random.default_rng(0)
  with latents.Writer(tmp_path / 'latents') as writer:
    for i in range(COUNT):
      latent = rng.normal(size=(3, 2, 4, CHANNELS))
      restart = rng.normal(size=(2, 2, 4, CHANNELS)) + 100
      record = latents.Record(latent, (), restart)
      row = latents.Row(f'{i}', latent.shape[:3], ['a'], 2, restarted=1)
      writer.write(row, record)
    writer.finish({'channels': CHANNELS, 'openings': True})
  anew = latents.LatentSource(tmp_path / 'latents')
  shares = pieces.Shares(end=1.0, opening=1.0)
  with pytest.raises(ValueError, match='needs 8 tokens'):
    packs(anew, shares=shares, limits=dict(tokens=7))
  pack = packs(anew, shares=shares)(0)
  for r, segment, draw in segments(pack):
    own = pack.segment[r] == segment
    assert pack.position[r, own, 0].tolist() == [0, 0, 1, 1, 2, 2, 1, 1]
    assert pack.index[r, own].tolist() == list(range(8))
    clean = pack.group_clean[r][pack.group[r]][own]
    assert clean.tolist() == [0] * 4 + [1] * 4
    opening = tokens.patchify(anew[clip_of(draw)].restart[None, :1], PATCH)[0]
    np.testing.assert_array_equal(pack.tokens[r, own][6:], opening)


def test_a_midstream_begins_at_position_one(source):
  pack = packs(source, shares=pieces.Shares(midstream=1.0))(0)
  for r, segment, draw in segments(pack):
    whole = source[clip_of(draw)].latent
    own = pack.segment[r] == segment
    first = pack.position[r, own, 0].min()
    count = pack.tokens_in_clip[r, segment - 1]
    assert first == (len(whole) > 2) and own.sum() == count
    assert (pack.index[r, own] == np.arange(count)).all()
    if first:
      last = tokens.patchify(whole[None], PATCH)[0][-count:]
      np.testing.assert_array_equal(pack.tokens[r, own], last)


def test_rows_are_filled_by_what_is_learned_of_clips(source):
  """Of a clip in midstream some latents are left out, and others fit in."""
  limits = dict(rows=COUNT, tokens=8, clips=6, text=99)
  make = functools.partial(packs, source, np.arange(COUNT), limits=limits)
  whole, cut = make()(0), make(shares=pieces.Shares(midstream=1.0))(0)
  rows = [pack.segment.any(axis=1).sum() for pack in (whole, cut)]
  assert rows[1] < rows[0]
  for pack in (whole, cut):
    assert sorted(pack.draw[pack.draw >= 0]) == list(range(COUNT))
    taken = pack.tokens_in_clip.sum(axis=1)
    np.testing.assert_array_equal(taken, (pack.segment > 0).sum(axis=1))


def test_a_token_listens_to_the_caption_of_its_own_clip(source):
  pack = packs(source, caption_dropout=0.0)(0)
  np.testing.assert_array_equal(pack.text_of, pack.segment)
  found = texts(packs(source, caption_dropout=0.0), 8)
  assert len(found) > 2 * COUNT
  for draw, text in found.items():
    assert text in captions_of(clip_of(draw))
  # Both captions of a clip have their turns.
  assert set(captions_of(1)) <= set(found.values())


@pytest.mark.parametrize('text_width', [0, 4])
def test_parts_of_a_caption_speak_to_a_clip_one_after_the_other(
  tmp_path, text_width
):
  source = prepared(tmp_path / 'latents', text_width, lambda _: ['a | bc | d'])
  # Of clips of so many latent frames, the part that each frame listens to.
  parts = {1: [2], 2: [1, 2], 3: [0, 1, 2]}
  make, seen = packs(source, caption_dropout=0.0), set()
  for step in range(3):
    pack = make(step)
    for r, segment, draw in segments(pack):
      clip = clip_of(draw)
      frames = source.rows[clip].size[0]
      for frame, part in enumerate(parts[frames]):
        own = pack.segment[r] == segment
        own &= pack.position[r, :, 0] == frame
        (told,) = set(pack.text_of[r, own])
        heard = pack.text_segment[r] == told
        if text_width:
          expected = source[clip].features[part]
          np.testing.assert_array_equal(pack.text[r, heard], expected)
        else:
          expected = transforms.byte_ids(['a', 'bc', 'd'][part], 9)
          assert pack.text_ids[r, heard].tolist() == expected
      seen.add(frames)
  assert seen == set(parts)


@pytest.mark.parametrize('share', [0.0, 0.3, 1.0])
def test_a_share_of_the_clips_sees_an_empty_caption(source, share):
  found = texts(packs(source, caption_dropout=share), 150)
  assert len(found) > 500
  dropped = np.mean([text == '' for text in found.values()])
  deviation = (share * (1 - share) / 500) ** 0.5
  assert dropped == pytest.approx(share, abs=3 * deviation)


def test_a_draw_gets_its_caption_whatever_the_limits(source):
  found = texts(packs(source, caption_dropout=0.4), 9)
  narrow = dict(rows=2, clips=1, tokens=6, text=20)
  make = packs(source, np.arange(2), limits=narrow, caption_dropout=0.4)
  other = texts(make, 12)
  shared = found.keys() & other.keys()
  assert len(shared) > COUNT
  assert {d: found[d] for d in shared} == {d: other[d] for d in shared}
  assert '' in {found[d] for d in shared}


def test_the_draw_of_a_dropped_caption_costs_no_more_than_its_end(source):
  pack = packs(source, caption_dropout=1.0)(0)
  for r, segment, _ in segments(pack):
    assert (pack.text_segment[r] == segment).sum() == 1


def test_cached_features_take_the_place_of_ids(source, cached):
  ids = texts(packs(source, caption_dropout=0.5), 2)
  make, seen = packs(cached, caption_dropout=0.5), set()
  for step in range(2):
    pack = make(step)
    assert pack.text_ids is None
    assert pack.text.shape == (4, 24, 4) and pack.text.dtype == np.float32
    assert not pack.text[pack.text_segment == 0].any()
    for r, segment, draw in segments(pack):
      found = pack.text[r, pack.text_segment[r] == segment]
      clip = clip_of(draw)
      if ids[draw]:
        choice = captions_of(clip).index(ids[draw])
        expected = cached[clip].features[choice]
      else:
        choice, expected = None, np.full((1, 4), 7.0)
      np.testing.assert_array_equal(found, expected.astype(np.float32))
      seen.add(choice)
  assert seen == {None, 0, 1}


def test_a_corpus_that_does_not_fit_is_refused_when_it_is_opened(source):
  with pytest.raises(ValueError, match=r'data\.limits\.tokens is 5'):
    packs(source, limits=dict(tokens=5))
  # A caption of 4 bytes and its end.
  with pytest.raises(ValueError, match=r'needs 5 text.*limits\.text is 4'):
    packs(source, limits=dict(text=4))
  with pytest.raises(ValueError, match=r'3 groups'):
    packs(source, limits=dict(groups=2), shares=pieces.Shares(frames=0.5))
  with pytest.raises(ValueError, match='no streams that start anew'):
    packs(source, shares=pieces.Shares(end=0.5))
  with pytest.raises(ValueError, match='patch'):
    pipeline.PackBatches(source, config(), (1, 4, 2), SEED, ALL)


# ------------------------------------------------------------------- frames


class Shades:
  """Clip `i` has the shade 10 i in all its pixels, and grows along time."""

  def __init__(self, broken=()):
    self.broken = broken

  def __len__(self):
    return 7

  def info(self, index):
    return batch.Size(12, 10, 9)

  def window(self, index, start, count):
    if index in self.broken:
      raise sources.BrokenVideo(f'{index}', 'it is no video')
    shade = 10 * index + np.arange(start, start + count, dtype=np.uint8)
    return np.broadcast_to(shade[:, None, None, None], (count, 10, 12, 3))


def frames(source=None, rows=ALL, crops=('8x8x5',)):
  fields = config(crops=crops)
  return pipeline.FrameBatches(source or Shades(), fields, SEED, rows)


def test_crops_come_in_turn_with_their_draws():
  make = frames(crops=('8x8x5', '4x6x1'))
  shapes = [make(step).video.shape for step in range(3)]
  assert shapes == [(4, 5, 8, 8, 3), (4, 1, 6, 4, 3), (4, 5, 8, 8, 3)]
  assert make(2).video.dtype == np.uint8
  assert make(2).draw.tolist() == [8, 9, 10, 11]
  assert make(2).draw.dtype == np.int32


def test_every_clip_is_seen_once_an_epoch_from_changing_frames():
  make = frames()
  first = [make(step).video[:, 0, 0, 0, 0] for step in range(7)]
  shades = np.concatenate(first).reshape(4, 7)
  for epoch in shades:
    assert sorted(epoch // 10) == list(range(7))
  assert len({tuple(epoch // 10) for epoch in shades}) == 4
  assert set((shades % 10).ravel()) == set(range(5))  # 9 frames, windows of 5


def test_frames_follow_one_another():
  video = frames()(3).video.astype(int)
  np.testing.assert_array_equal(np.diff(video, axis=1), 1)


def test_frames_are_the_same_from_any_step_and_on_any_host():
  expected = [frames()(step) for step in range(4)]
  for step in (3, 1):
    assert_same(frames()(step), expected[step])
    part = frames(rows=np.array([1, 3]))(step)
    assert_same(part, batch.Frames(*(x[[1, 3]] for x in expected[step])))


def test_a_broken_clip_leaves_a_hole_and_shifts_nothing():
  holes = 0
  for step in range(4):
    whole, torn = frames()(step), frames(Shades(broken=(2, 5)))(step)
    lost = torn.draw == batch.BROKEN
    np.testing.assert_array_equal(
      lost, np.isin(whole.video[:, 0, 0, 0, 0] // 10, (2, 5))
    )
    np.testing.assert_array_equal(torn.draw[~lost], whole.draw[~lost])
    np.testing.assert_array_equal(torn.video[~lost], whole.video[~lost])
    assert not torn.video[lost].any()
    holes += lost.sum()
  assert holes == 4  # 16 draws are two epochs and two clips


def test_a_broken_record_leaves_a_hole_and_shifts_nothing(source):
  class Torn(latents.LatentSource):
    def __getitem__(self, clip):
      if clip == 2:
        raise latents.BrokenRecord('damaged')
      return super().__getitem__(clip)

  torn_source = Torn(source.directory)
  holes = 0
  for step in range(4):
    whole, torn = packs(source)(step), packs(torn_source)(step)
    lost = torn.draw == batch.BROKEN
    assert {clip_of(int(d)) for d in whole.draw[lost]} <= {2}
    np.testing.assert_array_equal(torn.draw[~lost], whole.draw[~lost])
    for r, m in zip(*np.nonzero(lost), strict=True):
      assert not (torn.segment[r] == m + 1).any()
      assert not (torn.text_segment[r] == m + 1).any()
    for r, segment, _ in segments(torn):
      mine = torn.segment[r] == segment
      expected = whole.tokens[r][whole.segment[r] == segment]
      np.testing.assert_array_equal(torn.tokens[r][mine], expected)
    holes += lost.sum()
  assert holes >= 1


def test_a_fault_of_the_program_is_no_broken_clip():
  class Wrong(Shades):
    def window(self, index, start, count):
      raise TypeError('a bug')

  with pytest.raises(TypeError, match='a bug'):
    frames(Wrong())(0)


def test_a_short_clip_holds_its_last_frame():
  video = frames(crops=('8x8x13',))(0).video[:, :, 0, 0, 0].astype(int)
  np.testing.assert_array_equal(np.diff(video)[:, 8:], 0)
  np.testing.assert_array_equal(np.diff(video)[:, :8], 1)


def test_crops_are_asked_for():
  with pytest.raises(ValueError, match=r'data\.crops is empty'):
    frames(crops=())
  with pytest.raises(ValueError, match='8x8x4'):
    frames(crops=('8x8x4',))


# ---------------------------------------------------------- corpora and order


@pytest.mark.parametrize('start', [0, 3])
def test_batches_come_in_order_from_the_step_asked_for(source, start):
  make = packs(source)
  found = pipeline.iterate(make, start, config(prefetch=2))
  for step in range(start, start + 4):
    assert_same(next(found), make(step))


@pytest.mark.slow
def test_a_worker_ends_with_its_trainer_however_that_was_killed(tmp_path):
  program = tmp_path / 'trainer.py'
  program.write_text("""
import os
import signal

import numpy as np
from sora_jax.data import pipeline


def tells_where_it_is_made(step):
  return np.full((512, 512), os.getpid())


if __name__ == '__main__':
  config = pipeline.DataConfig(workers=1, prefetch=1)
  batches = pipeline.iterate(tells_where_it_is_made, 0, config)
  print(next(batches)[0, 0], flush=True)
  os.kill(os.getpid(), signal.SIGKILL)
""")
  # Read to its end: that comes once the worker, whose output it is too, is
  # gone.
  done = subprocess.run(
    [sys.executable, program],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    timeout=60,
  )
  assert done.returncode == -signal.SIGKILL
  assert int(done.stdout) > 0


@pytest.mark.slow
def test_a_worker_goes_on_where_all_are_told_to_end(tmp_path):
  """Schedulers tell each process of a group; the trainer has still to save."""
  program = tmp_path / 'trainer.py'
  program.write_text("""
import os
import signal

from sora_jax import preemption
from sora_jax.data import pipeline


def same(step):
  return step


if __name__ == '__main__':
  config = pipeline.DataConfig(workers=1, prefetch=1)
  batches = pipeline.iterate(same, 0, config)
  with preemption.Notice() as notice:
    assert next(batches) == 0 and not notice.reached(1)
    os.killpg(0, signal.SIGTERM)
    for step in range(1, 9):
      assert next(batches) == step
    assert notice.reached(9)
    raise preemption.Preempted
""")
  done = subprocess.run(
    [sys.executable, program],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    start_new_session=True,
    timeout=60,
  )
  assert done.returncode == 128 + signal.SIGTERM


@pytest.mark.slow
def test_workers_change_neither_batches_nor_order(source):
  make = packs(source)
  found = pipeline.iterate(make, 2, config(workers=1, prefetch=2))
  for step in range(2, 6):
    assert_same(next(found), make(step))


def test_a_world_is_made_as_the_config_says():
  made = pipeline.make_source(
    pipeline.DataConfig(clips=3, sizes=('16x16x5', '24x16x1'), split='test')
  )
  assert len(made) == 3
  assert [str(made.info(i)) for i in range(3)] == [
    '16x16x5',
    '24x16x1',
    '16x16x5',
  ]
  assert '-test-' in made[0].id


@pytest.mark.parametrize('kind', ['folder', 'tfds'])
def test_a_corpus_of_files_needs_its_place(kind, tmp_path):
  fields = pipeline.DataConfig(corpus=pipeline.Corpus(kind))
  with pytest.raises(ValueError, match=rf'data\.path is empty.*{kind}'):
    pipeline.make_source(fields)
  fields.path = str(tmp_path / 'nowhere')
  with pytest.raises((ValueError, OSError), match='nowhere'):
    pipeline.make_source(fields)
