"""A corpus to latents: what is encoded, what is left out, what is refused."""

import collections
import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from etils import epath

from sora_jax import (
  batch,
  corpus,
  networks,
  objectives,
  prepare,
  problems,
  sizing,
  tasks,
)
from sora_jax.data import latents, pipeline, transforms
from sora_jax.data.worlds import balls
from sora_jax.models import autoencoder, text


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  path = epath.Path(tmp_path_factory.mktemp('models')) / 'model'
  return path, tiny.write_model(path)


def world(model, **data):
  path, _ = model
  config = tiny.config(clips=10, sizes=('32x32x5', '48x32x9'), **data)
  config.autoencoder_from = str(path)
  config.data.limits.text, config.data.limits.tokens = 96, 18
  return config


def prepare_once(config, frozen, out):
  prepare.prepare_once(config, frozen, prepare.unprepared(config, out), out)


def encode(networks, video):
  """One clip by itself, in one pass."""
  run = jax.jit(
    lambda params, video: autoencoder.encode(
      networks.config.autoencoder, params, objectives.to_pixels(video)
    )
  )
  return np.asarray(run(networks.params['autoencoder'], video[None]))[0]


def test_every_clip_of_a_world_is_encoded_at_its_own_size(
  model, tmp_path, monkeypatch, capsys
):
  path, networks = model
  config = world(model)
  flags = types.SimpleNamespace(data=None, workdir=str(tmp_path))
  monkeypatch.setattr(prepare, 'TOLD_EVERY', 4)
  prepare.main(config, flags)
  lines = capsys.readouterr().out.splitlines()
  assert [line.partition(',')[0] for line in lines[:2]] == [
    f'prepared {count} of about 10 clips' for count in (4, 8)
  ]
  source = latents.LatentSource(tmp_path / 'latents')
  assert len(source) == 10
  sizes = {(2, 4, 4), (3, 4, 6)}
  assert {row.size for row in source.rows} == sizes
  for index, row in enumerate(source.rows):
    number = int(row.id.removesuffix('+0'))
    size = batch.parse_size(config.data.sizes[number % 2])
    clip, _ = balls.clip(0, number, size)
    assert source.rows[index].captions == [clip.caption]
    # float16 keeps 11 bits.
    np.testing.assert_allclose(
      source[index].latent, encode(networks, clip.video), atol=5e-3, rtol=2e-3
    )
  with pytest.raises(ValueError, match='latents exists already; remove it'):
    prepare.main(config, flags)


@pytest.mark.parametrize('chunk', [4, 99])
def test_a_second_stream_starts_anew_where_it_is_needed(
  model, tmp_path, monkeypatch, chunk
):
  path, networks = model
  pixels = prepare.ENCODE_BATCH * 32 * 32 * chunk
  monkeypatch.setattr(prepare, 'MOST_PIXELS', pixels)
  config = world(model)
  sizes = '32x32x17', '48x32x17', '32x48x17'
  config.data.sizes, config.data.shares.end = sizes, 0.5
  config.data.clips = 30
  config.data.limits.tokens = 99
  flags = types.SimpleNamespace(data=None, workdir=str(tmp_path))
  prepare.main(config, flags)
  source = latents.LatentSource(tmp_path / 'latents')
  starts = collections.defaultdict(set)
  for index, row in enumerate(source.rows):
    record = source[index]
    at = row.size[0] - len(record.restart)
    number = int(row.id.removesuffix('+0'))
    clip, _ = balls.clip(0, number, batch.parse_size(sizes[number % 3]))
    anew = encode(networks, clip.video[4 * at :])
    np.testing.assert_allclose(record.restart, anew, rtol=2e-3, atol=2e-3)
    starts[row.size].add(at)
  # Of ten clips of a size, encoded eight at a time.
  assert [len(of_size) for of_size in starts.values()] == [2, 2, 2]


def test_what_is_seen_beside_the_noise_is_as_in_sampling(model, tmp_path):
  path, found = model
  config = world(model)
  config.model.condition_channels = 8
  frozen = {'autoencoder': found.params['autoencoder']}
  prepare_once(config, frozen, out := epath.Path(tmp_path) / 'latents')
  made = latents.LatentSource(out)
  assert made.info['condition'] == 8
  asked = networks.Networks(config, found.params)
  for index in (0, 1):  # of both sizes
    number = int(made.rows[index].id.removesuffix('+0'))
    size = batch.parse_size(config.data.sizes[number % 2])
    still = balls.clip(0, number, size)[0].video[0]
    scene = tasks.animate(tasks.make_encoder(asked), still, size.frames)
    np.testing.assert_allclose(
      made[index].condition,
      tasks.condition(asked, scene).canvas.condition,
      atol=5e-3,
      rtol=2e-3,
    )


@pytest.mark.parametrize('workers', [0, 2])
def test_files_keep_their_aspect_and_broken_ones_are_left_out(
  model, tmp_path, workers
):
  folder = tiny.write_videos(
    tmp_path / 'videos', [(11, 64, 32), (5, 32, 64), (9, 40, 40), (1, 32, 32)]
  )
  config = world(model, path=str(folder), corpus=pipeline.Corpus.FOLDER)
  config.data.sizes, config.data.workers = ('32x32x5',), workers
  corpus.open_corpus(config.data, tmp_path)
  # Broken only then, and with its old time: what a failing disk does.
  file, stat = folder / '2.mp4', (folder / '2.mp4').stat()
  file.write_bytes(bytes(stat.length))
  os.utime(file, (stat.mtime, stat.mtime))
  prepare_once(
    config,
    {'autoencoder': model[1].params['autoencoder']},
    epath.Path(tmp_path / 'latents'),
  )
  rows = latents.LatentSource(tmp_path / 'latents').rows
  # 64 x 32 at 32 x 32 pixels is 48 x 16 or so, in sides of 16.
  assert [(row.id, row.size) for row in rows] == [
    ('0+0', (2, 2, 6)),
    ('0+5', (2, 2, 6)),
    ('1+0', (2, 6, 2)),
    ('3+0', (1, 4, 4)),
  ]
  assert latents.LatentSource(tmp_path / 'latents').info['left_out'] == 1


@pytest.mark.parametrize(
  ('frames', 'most', 'expected'),
  [
    (33, 33, [(0, 33)]),
    (40, 33, [(0, 33)]),
    (66, 33, [(0, 33), (33, 33)]),
    (12, 33, [(0, 9)]),
    (1, 33, [(0, 1)]),
    (4, 1, [(0, 1), (1, 1), (2, 1), (3, 1)]),
  ],
)
def test_windows_are_neighbours_of_whole_latents(frames, most, expected):
  assert sizing.windows(frames, most) == expected


def test_native_sizes_keep_aspect_and_pixels():
  target = batch.Size(64, 64, 1)
  size = lambda width, height: sizing.native_size(
    batch.Size(width, height, 1), target, 16
  )
  assert size(64, 64) == size(640, 640) == (64, 64)
  assert size(1280, 720) == (80, 48)
  assert size(720, 1280) == (48, 80)
  assert size(6400, 64) == (640, 16)


def test_a_frozen_encoder_is_run_once_a_caption(model, tmp_path):
  config = world(model)
  config.text_from = config.autoencoder_from
  config.data.clips, config.data.limits.tokens = 3, 24
  frozen = {k: model[1].params[k] for k in ('autoencoder', 'text')}
  prepare_once(config, frozen, epath.Path(tmp_path / 'latents'))
  source = latents.LatentSource(tmp_path / 'latents')
  assert source.info['text_width'] == config.text.width
  for index in range(3):
    ids = transforms.byte_ids(source.rows[index].captions[0], 96)
    ids = jnp.array(ids)[None]
    alone = text.T5Encoder(config.text).apply(
      {'params': jax.device_put(frozen['text'])}, ids, jnp.ones_like(ids)
    )
    (features,) = source[index].features
    np.testing.assert_allclose(features, alone[0], atol=1e-4)
  problem = problems.diffusion_problem(config, tmp_path, np.arange(8))
  pack = problem.open_data()(0)
  assert pack.text_ids is None and pack.text.shape[-1] == config.text.width
  assert [x.shape for x in problem.shapes[0] if x is not None] == [
    x.shape for x in pack if x is not None
  ]


def test_nothing_is_left_of_a_preparation_that_failed(
  model, tmp_path, monkeypatch
):
  write = latents.Writer.write

  def fail(self, row, record):
    if row.id.startswith('5'):
      raise OSError(28, 'No space left on device')
    write(self, row, record)

  monkeypatch.setattr(latents.Writer, 'write', fail)
  out = epath.Path(tmp_path / 'latents')
  with pytest.raises(OSError, match='No space left'):
    prepare_once(
      world(model), {'autoencoder': model[1].params['autoencoder']}, out
    )
  assert list(tmp_path.iterdir()) == []


def test_captions_that_are_too_long_are_told_before_anything_is_encoded(
  model, tmp_path, no_jit
):
  config = world(model)
  config.data.limits.text = 40
  with pytest.raises(
    ValueError, match='clip 0: .* does not fit 40 .*; raise data.l'
  ):
    prepare_once(config, {}, epath.Path(tmp_path / 'latents'))


def test_clips_that_are_too_large_are_told_before_anything_is_encoded(
  model, tmp_path, no_jit
):
  folder = tiny.write_videos(tmp_path / 'v', [(5, 32, 32), (5, 64, 32)])
  config = world(model, path=str(folder), corpus=pipeline.Corpus.FOLDER)
  # 45 x 23 pixels are 48 x 16 in sides of 16; two latent frames: 6 tokens.
  config.data.sizes, config.data.limits.tokens = ('32x32x5',), 5
  with pytest.raises(ValueError, match='clip 0 needs 8 tokens.*raise it to 8'):
    prepare_once(config, {}, epath.Path(tmp_path / 'latents'))
  config.data.limits.tokens, config.data.limits.groups = 8, 1
  config.data.shares.start = 0.5
  with pytest.raises(ValueError, match='clip 0 needs 2 groups.*raise it to 2'):
    prepare_once(config, {}, epath.Path(tmp_path / 'latents'))
  config.data.limits.groups = 2
  # Past the checks it comes to where it would compile.
  frozen = {'autoencoder': {}}
  with pytest.raises(AssertionError, match='before any compile'):
    prepare_once(config, frozen, epath.Path(tmp_path / 'latents'))


def test_clips_of_one_size_are_encoded_together():
  shapes = [(1, 8, 8), (5, 8, 8)] * 9
  clip = lambda i: batch.Clip(
    np.zeros((*shapes[i], 3), np.uint8), '', 0.0, f'{i}'
  )
  groups = list(prepare._batches(map(clip, range(18))))
  assert [len(group) for group in groups] == [8, 8, 1, 1]
  for group in groups:
    assert len({c.video.shape for c in group}) == 1
  assert sorted(int(c.id) for g in groups for c in g) == list(range(18))


def test_statistics_are_those_of_all_latents_of_readable_clips(model):
  _, networks = model
  rng = np.random.default_rng(0)
  batches = [
    batch.Frames(
      video=rng.integers(0, 256, (3, 5, 16, 16, 3)).astype(np.uint8),
      draw=np.array([0, 1, 2 if step else -1], np.int32),
    )
    for step in range(2)
  ]
  mean, std = prepare.latent_statistics(
    networks.config.autoencoder, networks.params['autoencoder'], iter(batches)
  )
  unscaled = []
  config = networks.config.autoencoder
  for frames in batches:
    for video, draw in zip(frames.video, frames.draw, strict=True):
      if draw >= 0:
        z = encode(networks, video)
        unscaled.append(z * np.array(config.latent_std) + config.latent_mean)
  values = np.concatenate([z.reshape(-1, 4) for z in unscaled])
  np.testing.assert_allclose(mean, values.mean(0), atol=1e-5)
  np.testing.assert_allclose(std, values.std(0), rtol=1e-3)
