"""Losses have the values that they have by hand, packed or alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sora_jax import batch, flow, objectives, rng, sharding
from sora_jax.data import latents, pieces, pipeline, plan
from sora_jax.data.worlds import scene_labels
from sora_jax.models import (
  autoencoder,
  contrast,
  discriminator,
  dit,
  probe,
  text,
)

PATCH = (1, 2, 2)
SIZES = [(2, 2, 4), (1, 4, 4)]
MODEL = dit.DiTConfig(
  width=12, depth=1, heads=2, mlp=8, channels=2, text_width=4, frequencies=4
)
ENCODER = text.TextConfig(width=4, depth=1, heads=1, head_dim=4, mlp=4)


class Corpus(latents.LatentSource):
  """Two prepared clips, without files."""

  def __init__(self):
    pass

  rows = [latents.Row(f'{i}', SIZES[i], [f'clip {i}'], 7, 0) for i in range(2)]
  info = {'channels': 2}

  def __getitem__(self, index):
    generator = np.random.default_rng(index)
    latent = generator.normal(size=(*SIZES[index], 2)).astype(np.float32)
    return latents.Record(latent, ())


def pack(rows, clips, **shares):
  """Both clips, in `rows` rows that hold `clips` each."""
  limits = plan.Limits(rows=rows, tokens=9, clips=clips, text=20, groups=3)
  config = pipeline.DataConfig(
    limits=limits,
    shares=pieces.Shares(**shares or {'frames': 1.0}),
    caption_dropout=0.0,
  )
  make = pipeline.PackBatches(Corpus(), config, PATCH, 0, np.arange(rows))
  return jax.tree.map(jnp.asarray, make(0))


def filled(init):
  """Parameters none of which is 0 or 1, of a usual size."""
  shapes = sharding.unbox(jax.eval_shape(init, jax.random.key(0)))
  generator = np.random.default_rng(0)
  fan_in = lambda x: np.prod(x.shape[:-1])  # of a vector: 1
  return jax.tree.map(
    lambda x: jnp.asarray(
      generator.normal(size=x.shape) / fan_in(x) ** 0.5, x.dtype
    ),
    shapes,
  )


@pytest.fixture(scope='module')
def trainable():
  return {
    'dit': filled(lambda key: dit.init(MODEL, key)),
    'text': filled(lambda key: text.init(ENCODER, key)),
  }


def denoising(trainable, pack, prediction=flow.Prediction.X0, **fields):
  fields = {'level': flow.LevelLaw(shift_base=2)} | fields
  config = objectives.DenoisingConfig(prediction=prediction, **fields)
  return objectives.denoising(
    trainable,
    pack,
    jax.random.key(0),
    model=MODEL,
    encoder=ENCODER,
    config=config,
  )


@jax.jit
def loss_and_gradient(trainable, pack):
  def loss(trainable):
    total, count, metrics = denoising(trainable, pack)
    # Of the pack's layout, and nothing to do with what lies in it.
    metrics = {k: v for k, v in metrics.items() if 'slots' not in k}
    return total, (count, metrics)

  return jax.value_and_grad(loss, has_aux=True)(trainable)


def assert_close(a, b, **limits):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **limits), a, b)


# ---------------------------------------------------------------- denoising


def truth(pack, kind):
  """What a network that knows everything would say."""
  noise = rng.pack_noise(
    jax.random.key(0), pack.draw, pack.segment, pack.index, 8
  )
  return {
    flow.Prediction.X0: pack.tokens,
    flow.Prediction.NOISE: noise,
    flow.Prediction.VELOCITY: noise - pack.tokens,
  }[kind]


def answers(monkeypatch, prediction):
  """Puts an oracle in the place of both networks."""
  features = lambda config, params, pack: jnp.zeros((1, 1, 1))
  monkeypatch.setattr(objectives, 'text_features', features)
  monkeypatch.setattr(objectives, 'denoise', lambda *args: prediction)


@pytest.mark.parametrize('kind', flow.Prediction)
def test_the_truth_has_no_loss(monkeypatch, kind):
  made = pack(1, 2)
  answers(monkeypatch, truth(made, kind))
  total, count, _ = denoising({'dit': None}, made, kind)
  assert total == 0 and count == 8
  answers(monkeypatch, truth(made, kind) + 0.01)
  assert denoising({'dit': None}, made, kind)[0] > 0


def test_the_loss_is_the_squared_error_summed_over_tokens(monkeypatch):
  made, kind = pack(1, 2), flow.Prediction.VELOCITY
  answers(monkeypatch, truth(made, kind) + 0.5)
  total, count, _ = denoising({'dit': None}, made, kind)
  assert total == pytest.approx(0.25 * 8) and count == 8


def test_the_network_sees_noise_at_the_level_of_its_group(monkeypatch):
  made, seen = pack(1, 2), {}

  def spy(config, params, x, level, *unused):
    seen.update(x=x, level=level)
    return x

  answers(monkeypatch, None)
  monkeypatch.setattr(objectives, 'denoise', spy)
  denoising({'dit': None}, made)
  noise = truth(made, flow.Prediction.NOISE)
  for n in np.flatnonzero(made.segment[0]):
    t = seen['level'][0, made.group[0, n]]
    expected = (1 - t) * made.tokens[0, n] + t * noise[0, n]
    np.testing.assert_allclose(seen['x'][0, n], expected, atol=1e-6)
  assert len(np.unique(seen['level'])) == 3  # a clip's frames differ


def test_what_is_clean_is_seen_as_it_is_and_has_no_loss(monkeypatch):
  made, seen = pack(2, 1, start=1.0), {}

  def network(model, params, x, level, *unused):
    seen.update(x=x, level=level)
    return jnp.full_like(x, 7.0)

  answers(monkeypatch, None)
  monkeypatch.setattr(objectives, 'denoise', network)
  _, count, _ = denoising({'dit': None}, made)
  clean = np.take_along_axis(made.group_clean, made.group, 1) > 0
  clean &= np.asarray(made.segment) > 0
  assert 0 < clean.sum() < (made.segment > 0).sum()
  np.testing.assert_array_equal(seen['x'][clean], made.tokens[clean])
  assert (seen['level'][made.group_clean > 0] == 0).all()
  assert count == (made.segment > 0).sum() - clean.sum()


def test_loss_by_level_adds_up_to_the_loss(monkeypatch):
  made = pack(2, 1)
  answers(monkeypatch, made.tokens + 1.0)
  total, count, metrics = denoising({'dit': None}, made)
  losses = [v for k, v in metrics.items() if k.startswith('loss_level')]
  counts = [v for k, v in metrics.items() if k.startswith('count_level')]
  assert len(losses) == len(counts) == objectives.LEVEL_BINS
  assert sum(losses) == pytest.approx(float(total), rel=1e-6)
  assert sum(counts) == count == 8
  # The error 1 of x0 counts 1 / t^2, which bounds the loss of each bin.
  for i in range(objectives.LEVEL_BINS):
    number = counts[i] * 1.0
    low, high = i / objectives.LEVEL_BINS, (i + 1) / objectives.LEVEL_BINS
    assert losses[i] >= number / high**2 * 0.999
    assert losses[i] <= number / max(low, flow.MARGIN) ** 2 * 1.001
  assert metrics['clips'] == 2


def test_two_clips_have_the_same_loss_and_gradient_packed_or_alone(trainable):
  (packed, (count, sums)), gradient = loss_and_gradient(trainable, pack(1, 2))
  alone, (count_alone, sums_alone) = loss_and_gradient(trainable, pack(2, 1))[0]
  gradient_alone = loss_and_gradient(trainable, pack(2, 1))[1]
  assert count == count_alone == 8
  assert packed == pytest.approx(float(alone), rel=1e-5)
  assert_close(sums, sums_alone, rtol=1e-4, atol=1e-5)
  assert_close(gradient, gradient_alone, rtol=1e-3, atol=1e-4)
  # Every parameter had a part in it: nothing agrees by being zero.
  assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(gradient))


def test_what_lies_in_empty_slots_changes_nothing(trainable):
  made = pack(2, 1)
  empty = made.segment == 0
  assert empty.any()
  filled = made._replace(
    tokens=jnp.where(empty[..., None], 9.0, made.tokens),
    position=jnp.where(empty[..., None], 3, made.position),
    index=jnp.where(empty, 5, made.index),
    group=jnp.where(empty, 2, made.group),
    text_ids=jnp.where(made.text_segment == 0, 77, made.text_ids),
  )
  expected = loss_and_gradient(trainable, made)
  found = loss_and_gradient(trainable, filled)
  assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_empty_row_adds_nothing_and_is_finite(trainable):
  made = pack(2, 2)  # both clips fit the first row
  assert not made.segment[1].any()
  found = loss_and_gradient(trainable, made)
  expected = loss_and_gradient(trainable, pack(1, 2))
  assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_cached_features_are_taken_as_they_are():
  made = pack(1, 2)
  features = jnp.ones((1, 20, 4))
  cached = made._replace(text=features, text_ids=None)
  assert objectives.text_features(ENCODER, None, cached) is features


def test_balanced_errors_count_less_near_both_ends(trainable):
  made = pack(1, 2)
  for level in (0.02, 0.5, 0.95):
    mean = float(np.log(level / (1 - level)))
    law = flow.LevelLaw(mean=mean, std=0.0, shift_base=0)
    plain, balanced = (
      denoising(trainable, made, weighting=weighting, level=law)[0]
      for weighting in objectives.Weighting
    )
    expected = 4 * level * (1 - level) * float(plain)
    assert balanced == pytest.approx(expected, rel=1e-4)


# ----------------------------------------------------------------- contrast


@pytest.mark.parametrize(
  ('scores', 'loss', 'right'),
  [
    (np.zeros((4, 4)), 3 * np.log(3), 1),  # of the first that are alike
    (50 * np.eye(4), 0, 3),
    (50 * np.eye(4)[[1, 0, 2, 3]], 2 * 50, 1),
  ],
)
def test_a_caption_is_told_from_those_of_the_clips_that_are_there(
  monkeypatch, scores, loss, right
):
  one = pack(2, 2)
  draw = jnp.array([[0, 1], [5, batch.BROKEN]])
  monkeypatch.setattr(
    objectives.contrast_lib, 'scores', lambda *unused: jnp.asarray(scores)
  )
  monkeypatch.setattr(objectives, 'text_features', lambda *unused: None)
  total, count, metrics = objectives.contrast(
    dict.fromkeys(('text', 'contrast')),
    one._replace(draw=draw),
    encoder=ENCODER,
  )
  assert total == pytest.approx(loss, abs=1e-5)
  assert (count, metrics['clips'], metrics['broken']) == (3, 3, 1)
  assert metrics['right'] == right


def test_contrast_teaches_captions_apart_packed_or_alone():
  encoder = text.TextConfig(width=16, depth=1, heads=2, head_dim=8, mlp=16)
  init = lambda key: {
    'text': text.init(encoder, key),
    'contrast': contrast.init(key, 8, 16),
  }
  params = sharding.unbox(init(jax.random.key(1)))
  loss = jax.jit(
    lambda params, pack: objectives.contrast(params, pack, encoder=encoder)[0]
  )
  packed, alone = pack(1, 2), pack(2, 1)
  assert loss(params, packed) == pytest.approx(
    float(loss(params, alone)), abs=1e-5
  )
  optimizer = optax.adam(1e-3)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state):
    value, grads = jax.value_and_grad(loss)(params, packed)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, value

  losses = []
  for _ in range(30):
    params, state, value = step(params, state)
    losses.append(float(value))
  assert losses[0] > 1.0 and losses[-1] < 0.05


# --------------------------------------------------------------- recognition


def test_only_what_a_scene_has_is_asked_of_the_probe(monkeypatch):
  """One scene with a colour alone, and one with a count and a camera too."""
  places = {name: i for i, name in enumerate(scene_labels.FIELDS)}
  labels = np.full((2, len(places)), scene_labels.ABSENT)
  labels[0, places['colour']] = 3
  labels[1, places['colour']], labels[1, places['count']] = 1, 2
  labels[1, places['camera']] = 0
  scores = np.zeros((2, scene_labels.CLASSES), np.float32)
  colours = len(scene_labels.FIELDS['object'])  # come after the objects
  scores[:, colours + 3] = 50  # of both: the first one's colour
  monkeypatch.setattr(
    objectives.probe,
    'look',
    lambda *unused: probe.Seen(
      None,
      jnp.asarray(scores),
      jnp.zeros((2, 3, 2, 2)),
      jnp.zeros((2, 3, 4)),
    ),
  )
  clips = batch.Labelled(
    jnp.zeros((2, 5, 16, 16, 3), jnp.uint8),
    jnp.asarray(labels),
    jnp.zeros((2, 5, 16, 16), bool),
    jnp.full((2, 5, 4), 0.5),
  )
  total, count, metrics = objectives.recognition(
    {'probe': None}, clips, model=probe.ProbeConfig()
  )
  guessed = np.log(3) + np.log(4)  # of counts and cameras, all alike
  unsure = np.log(2)  # of each place
  assert metrics['covered'] == pytest.approx(2 * unsure, rel=1e-5)
  assert metrics['missed'] == pytest.approx(2 * 0.5**2 / 2)
  told = 2 * objectives.COVER_WEIGHT * unsure
  told += objectives.MOTION_WEIGHT * float(metrics['missed'])
  assert total == pytest.approx(50 + guessed + told, rel=1e-5)
  assert (count, metrics['clips'], metrics['tokens']) == (2, 2, 10)
  # Of the second scene the camera alone is right, as the first of its kind.
  assert metrics['right'] == pytest.approx(1 + 1 / 3)


# ------------------------------------------------------------ reconstruction

SMALL = autoencoder.AutoencoderConfig(
  channels=2,
  encoder_width=4,
  decoder_width=4,
  multiples=(1, 1),
  halve_time=(True,),
  blocks=1,
)


@pytest.fixture(scope='module')
def weights():
  return {'autoencoder': filled(lambda key: autoencoder.init(SMALL, key))}


@pytest.fixture(scope='module')
def grey(weights):
  """Weights of zero: every latent value is N(0, 1), every pixel 0."""
  return jax.tree.map(jnp.zeros_like, weights)


def crops(video, draw=None):
  video = np.broadcast_to(np.asarray(video, np.uint8), (len(video), 3, 8, 8, 3))
  draw = np.arange(len(video)) if draw is None else np.array(draw)
  return batch.Frames(jnp.asarray(video), jnp.asarray(draw, jnp.int32))


def random_crops(count, seed=0, **fields):
  generator = np.random.default_rng(seed)
  return crops(generator.integers(0, 256, (count, 3, 8, 8, 3)), **fields)


def reconstruction(trainable, frames, config=None, **fields):
  run = functools.partial(
    objectives.reconstruction,
    model=SMALL,
    config=config or objectives.ReconstructionConfig(),
  )
  return jax.jit(run)(trainable, frames, jax.random.key(0), **fields)


@jax.jit
def reconstruction_gradient(trainable, frames):
  def loss(trainable):
    total, count, metrics = reconstruction(trainable, frames)
    return total, (count, metrics)

  return jax.value_and_grad(loss, has_aux=True)(trainable)


def test_pixels_go_from_minus_one_to_one():
  values = objectives.to_pixels(jnp.array([[[[[0, 255, 51]]]]], jnp.uint8))
  np.testing.assert_allclose(values.ravel(), [-1, 1, -0.6], atol=1e-6)


def test_a_flat_error_counts_at_every_scale(grey):
  frames = crops(np.full((2, 1, 1, 1, 1), 255))
  config = objectives.ReconstructionConfig(squared=0.25, multiscale=0.5)
  total, count, metrics = reconstruction(grey, frames, config)
  # Off by 1 everywhere, at full, half and quarter size, in both clips.
  assert total == pytest.approx(2 * (1 + 0.25 + 0.5 * 2)) and count == 2
  expected = {'clips': 2, 'broken': 0, 'l1': 2, 'mse': 2, 'kl': 0}
  expected['tokens'] = 2 * 2 * 4 * 4
  assert metrics == pytest.approx(expected, abs=1e-6)


def test_fine_noise_averages_out_at_coarse_scales(grey):
  checks = 255 * (np.indices((8, 8)).sum(axis=0) % 2)[..., None]
  total, _, metrics = reconstruction(grey, crops(checks[None, None]))
  assert metrics['l1'] == pytest.approx(1)
  assert total == pytest.approx(1 + metrics['mse'])


def test_the_kl_divergence_is_that_of_two_normal_laws(grey):
  mean, log_variance = 0.7, -1.2
  bias = jnp.array([mean] * 2 + [log_variance] * 2)
  params = grey['autoencoder'] | {
    'quant_conv': grey['autoencoder']['quant_conv'] | {'bias': bias}
  }
  frames = crops(np.full((1, 1, 1, 1, 1), 255))
  config = objectives.ReconstructionConfig(squared=0.0, multiscale=0.0, kl=0.1)
  total, _, metrics = reconstruction({'autoencoder': params}, frames, config)
  expected = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
  assert metrics['kl'] == pytest.approx(expected, rel=1e-5)
  assert total == pytest.approx(1 + 0.1 * expected, rel=1e-5)


def test_unreadable_clips_change_nothing(weights):
  frames = random_crops(3)
  broken = frames._replace(draw=frames.draw.at[1].set(batch.BROKEN))
  (total, (count, metrics)), gradient = reconstruction_gradient(weights, broken)
  assert count == metrics['clips'] == 2
  other = broken._replace(video=broken.video.at[1].set(0))
  assert_close(
    reconstruction_gradient(weights, other),
    ((total, (count, metrics)), gradient),
    rtol=1e-5,
    atol=1e-5,
  )


def test_a_decoder_alone_learns_from_the_same_latents(weights):
  config = objectives.ReconstructionConfig(decoder_only=True)
  frames = random_crops(1)
  loss = lambda w: reconstruction(w, frames, config)[0]
  alone = jax.jit(jax.grad(loss))(weights)['autoencoder']
  both = reconstruction_gradient(weights, frames)[1]['autoencoder']
  size = lambda tree: sum(
    float(jnp.abs(x).sum()) for x in jax.tree.leaves(tree)
  )
  for name, part in alone.items():
    if 'decode' in name or name == 'post_quant_conv':
      assert size(part) > 0
      assert_close(part, both[name], rtol=1e-4, atol=1e-5)
    else:
      assert size(part) == 0 < size(both[name])


def test_a_clip_has_the_same_loss_in_any_batch(weights):
  frames = random_crops(3)
  whole = reconstruction_gradient(weights, frames)
  order = jnp.array([2, 0, 1])
  turned = jax.tree.map(lambda x: x[order], frames)
  assert_close(
    reconstruction_gradient(weights, turned), whole, rtol=1e-4, atol=1e-4
  )
  # Not because the sampled latents do not matter.
  renamed = frames._replace(draw=frames.draw + 7)
  assert (
    abs(reconstruction_gradient(weights, renamed)[0][0] - whole[0][0]) > 1e-4
  )


# ----------------------------------------------------------------- the judge


@pytest.fixture(scope='module')
def judge():
  return filled(discriminator.init)


def test_the_judge_moves_the_decoder_once_it_has_started(weights, judge):
  frames = random_crops(2)
  config = objectives.ReconstructionConfig(adversarial=0.5, adversarial_start=3)

  @jax.jit
  def gradient(weights, step):
    loss = lambda w: reconstruction(w, frames, config, judge=judge, step=step)[
      0
    ]
    return jax.value_and_grad(loss)(weights)

  total, without = gradient(weights, 2)
  off = jax.jit(lambda w: reconstruction(w, frames, config)[0])(weights)
  assert total == pytest.approx(float(off), rel=1e-6)
  judged, with_judge = gradient(weights, 3)
  kernel = lambda tree: tree['autoencoder']['decoder']['conv_out']['kernel']
  assert jnp.abs(kernel(with_judge) - kernel(without)).max() > 1e-6
  assert judged != total


def test_the_judges_opinion_enters_with_its_weight(grey, judge):
  frames = random_crops(2)
  opinion = discriminator.judge(judge, jnp.zeros((2, 3, 8, 8, 3)))
  plain = reconstruction(grey, frames)[0]
  config = objectives.ReconstructionConfig(adversarial=0.5)
  total = reconstruction(grey, frames, config, judge=judge)[0]
  assert total == pytest.approx(float(plain - 0.5 * opinion.sum()), abs=1e-5)
  assert abs(opinion.sum()) > 1e-4


def test_the_generators_loss_leaves_the_judge_alone(judge):
  video = objectives.to_pixels(random_crops(1).video)
  gradient = jax.grad(lambda j: discriminator.judge(j, video).sum())(judge)
  assert not any(g.any() for g in jax.tree.leaves(gradient))


def test_an_undecided_judge_loses_two_and_counts_readable_clips(grey, judge):
  undecided = jax.tree.map(jnp.zeros_like, judge)
  frames = random_crops(3, draw=[4, batch.BROKEN, 6])
  total, count, _ = objectives.discrimination(
    undecided, grey, frames, model=SMALL
  )
  assert total == 2 * 2 and count == 2


def test_the_judge_learns_to_tell_noise_from_grey(grey, judge):
  optimizer = optax.adam(3e-3)
  frames = random_crops(2)

  @jax.jit
  def step(judge, state):
    def loss(judge):
      total, count, _ = objectives.discrimination(
        judge, grey, frames, model=SMALL
      )
      return total / count

    value, gradient = jax.value_and_grad(loss)(judge)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(judge, updates), state, value

  state, losses = optimizer.init(judge), []
  for _ in range(25):
    judge, state, value = step(judge, state)
    losses.append(float(value))
  assert losses[0] > 1.5 and losses[-1] < 0.5


def test_means_divide_each_sum_by_its_own_count():
  sums = {
    'loss': 6.0,
    'count': 3.0,
    'clips': 2.0,
    'l1': 1.5,
    'loss_level_0.00': 4.0,
    'count_level_0.00': 2.0,
    'loss_level_0.25': 0.0,
    'count_level_0.25': 0.0,
    'grad_norm': 7.0,
    'tokens': 6.0,
    'slots': 8.0,
    'pairs': 18.0,
    'pair_slots': 32.0,
  }
  assert objectives.means(sums) == {
    'filled': 0.75,
    'attended': 0.5625,
    'loss': 2.0,
    'count': 3.0,
    'clips': 2.0,
    'l1': 0.5,
    'loss_level_0.00': 2.0,
    'grad_norm': 7.0,
  }
