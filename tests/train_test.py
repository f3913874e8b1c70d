"""The trainer: what a step does, what the loop survives, what is refused."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from etils import epath
from flax import linen as nn

from sora_jax import (
  checkpoint,
  cli,
  config as config_lib,
  memory,
  networks,
  problems,
  program,
  replay,
  sharding,
  state as state_lib,
  train,
)
from sora_jax.weights import tensors

ROWS, WEIGHTS = 8, 4


def linear_problem(bad=(), empty=(), order=None, weights=WEIGHTS, start=None):
  """Least squares: all that the loop does, without a network to compile.

  Batches of the steps in `bad` are NaN, of those in `empty` none could be read;
  `order` names other batches by step.
  """
  target = np.arange(1.0, weights + 1, dtype=np.float32)

  def init(key):
    return {'net': {'kernel': 0.1 * jax.random.normal(key, (weights,))}}

  def loss(state, trainable, x):
    del state
    kernel = trainable['net']['kernel']
    error = jnp.einsum('bi,i->b', x, kernel) - jnp.einsum('bi,i->b', x, target)
    read = jnp.any(x != 0, axis=1)
    count, broken = jnp.float32(jnp.sum(read)), jnp.sum(~read)
    return (
      jnp.sum(error**2),
      count,
      dict(clips=count, broken=broken, tokens=count),
    )

  def make_batch(step):
    rng = np.random.default_rng(step if order is None else order[step])
    x = rng.normal(size=(ROWS, weights)).astype(np.float32)
    return x * (np.nan if step in bad else 0 if step in empty else 1)

  return problems.Problem(
    init=init,
    start={
      name: networks.Weights(
        tree, lambda where, tree=tree: jax.device_put(tree, where)
      )
      for name, tree in (start or {}).items()
    },
    frozen={},
    loss=loss,
    judge_loss=None,
    shapes=[jax.ShapeDtypeStruct((ROWS, weights), np.float32)],
    open_data=lambda: make_batch,
  )


@pytest.fixture
def fit(monkeypatch, tmp_path, one_device):
  """Runs a `linear_problem` for some steps; returns the state and its place."""
  monkeypatch.setattr(train, 'export', lambda *unused: None)

  def fit(steps=5, name='run', max_bad_steps=20, replay=0, save=1, **problem):
    config = config_lib.Config()
    config.data.limits.rows = ROWS
    config.optim.schedule, config.optim.warmup_steps = 'constant', 0
    config.optim.learning_rate = 0.1
    config.optim.max_bad_steps = max_bad_steps
    config.run.steps, config.run.log_every, config.run.save_every = (
      steps,
      1,
      save,
    )
    config.run.sample_every, config.run.replay_every = 0, replay
    monkeypatch.setitem(
      problems.PROBLEMS,
      config.stage,
      lambda *unused: linear_problem(**problem),
    )
    workdir = epath.Path(tmp_path / name)
    flags = types.SimpleNamespace(workdir=str(workdir), multihost=False)
    call = cli.Call('launch.py train', 'sora_jax.train', config, flags, False)
    return train.train(config, workdir), workdir, call

  return fit


def lines_of(workdir):
  return [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]


def assert_same(tree, other):
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


# ----------------------------------------------------------------- the loop


def test_a_batch_that_is_not_finite_is_skipped_and_counted(fit):
  state, workdir, _ = fit(steps=5, bad=(2,))
  assert int(state['step']) == 5
  assert int(state['counters']['skipped']) == 1
  assert int(state['counters']['skipped_in_row']) == 0
  lines = lines_of(workdir)
  assert [line['skipped'] for line in lines] == [0, 0, 1, 1, 1]
  assert [line['loss'] is None for line in lines] == [0, 0, 1, 0, 0]
  # What it leaves is the run that never saw that batch.
  other, _, _ = fit(steps=4, name='other', order=(0, 1, 3, 4))
  for name in ('trainable', 'opt'):
    assert_same(state[name], other[name])


def test_a_step_without_a_clip_moves_nothing_and_is_counted(fit):
  state, workdir, _ = fit(steps=5, empty=(2,))
  assert int(state['counters']['skipped']) == 1
  assert int(state['counters']['broken']) == ROWS
  assert [line['broken'] for line in lines_of(workdir)] == [0, 0, *[ROWS] * 3]
  other, _, _ = fit(steps=4, name='other', order=(0, 1, 3, 4))
  for name in ('trainable', 'opt'):
    assert_same(state[name], other[name])


def test_a_run_of_nothing_finite_stops_in_one_line(fit, tmp_path):
  with pytest.raises(FloatingPointError, match='step 5: 3 steps in a row') as e:
    fit(steps=50, bad=range(2, 50), max_bad_steps=3)
  assert '\n' not in str(e.value)
  like = jax.eval_shape(lambda: {'net': {'kernel': jnp.zeros(WEIGHTS)}})
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = state_lib.abstract(like, jax.tree.map(lambda _: here, like))
  with checkpoint.CheckpointStore(tmp_path / 'run' / 'checkpoints') as store:
    saved = store.restore_part({'trainable': like})
  assert np.isfinite(saved.state['trainable']['net']['kernel']).all()


def test_the_command_line_tells_of_numbers_that_are_not_finite(
  fit, monkeypatch, capsys
):
  _, _, call = fit(steps=1)

  def fail(*unused):
    raise FloatingPointError('step 5: 3 steps in a row')

  monkeypatch.setattr(train, 'train', fail)
  with pytest.raises(SystemExit) as exit_status:
    cli._execute(call)
  assert exit_status.value.code == 2
  error = capsys.readouterr().err
  assert error == 'launch.py train: step 5: 3 steps in a row\n'


def test_nothing_is_copied_to_the_device_behind_the_loop(fit, monkeypatch):
  monkeypatch.setattr(sharding, 'shard_batch', lambda batch, mesh: batch)
  with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
    fit()


def test_the_loss_of_the_loop_falls_and_every_step_is_logged_once(fit):
  state, workdir, _ = fit(steps=40)
  lines = lines_of(workdir)
  assert [line['step'] for line in lines] == list(range(1, 41))
  assert lines[-1]['loss'] < 0.1 * lines[0]['loss']
  fit(steps=40)  # has nothing left to do
  assert lines_of(workdir) == lines


def test_steps_that_are_taken_twice_change_nothing(fit):
  plain, _, _ = fit(name='plain')
  replayed, _, _ = fit(name='replayed', replay=2)
  assert_same(plain, replayed)


def test_a_chip_that_computes_wrong_stops_the_run(fit, monkeypatch, tmp_path):
  copy = replay._copy

  @jax.jit
  def wrong(state):
    kernel = state['trainable']['net']['kernel']
    trainable = {'net': {'kernel': kernel.at[2].mul(1 + 1e-6)}}
    return copy(state) | {'trainable': trainable}

  monkeypatch.setattr(replay, '_copy', wrong)
  with pytest.raises(replay.SilentCorruption, match=r'step 4.*kernel'):
    fit(replay=4)
  # What was saved before it stays, to go on from.
  assert (tmp_path / 'run' / 'checkpoints' / '3').exists()
  # Nor is anything saved after it where that is noticed a step later.
  with pytest.raises(replay.SilentCorruption, match=r'step 4.*kernel'):
    fit(replay=4, save=6, steps=6, name='later')
  assert not (tmp_path / 'later' / 'checkpoints' / '6').exists()
  with pytest.raises(replay.SilentCorruption, match=r'step 5.*kernel'):
    fit(replay=5, save=9, steps=5, name='last')


@pytest.mark.slow
def test_copies_agree_on_a_mesh_of_every_axis(tmp_path):
  """Or every run on such a mesh would be said to compute wrong."""
  model = tiny.write_model(tmp_path / 'model')
  tiny.write_latents(tmp_path / 'latents', model.params)
  config = tiny.config()
  config.autoencoder_from = str(tmp_path / 'model')
  config.data.latents = str(tmp_path / 'latents')
  config.mesh.fsdp = config.mesh.tensor = config.mesh.context = 2
  config.optim.method, config.run.replay_every = 'muon', 1
  state = train.train(config, epath.Path(tmp_path / 'run'))
  assert int(state['step']) == config.run.steps


def test_another_config_does_not_replace_that_of_the_run(fit):
  _, workdir, _ = fit()
  before = (workdir / 'config.json').read_text()
  with pytest.raises(ValueError, match='use the config that the checkpoint'):
    fit(weights=WEIGHTS + 1, max_bad_steps=7)
  assert (workdir / 'config.json').read_text() == before


def test_a_run_starts_from_the_weights_that_it_is_given(fit):
  kernel = np.array([4.0, 3.0, 2.0, 1.0], np.float32)
  state, _, _ = fit(steps=0, start={'net': {'kernel': kernel}})
  for name in ('trainable', 'ema'):
    np.testing.assert_array_equal(state[name]['net']['kernel'], kernel)


# ------------------------------------------------------------- the networks


@pytest.fixture(scope='module')
def places(tmp_path_factory):
  """Models that fit and do not fit, and latents of the right one."""
  folder = epath.Path(tmp_path_factory.mktemp('models'))
  model = tiny.write_model(folder / 'model')
  tiny.write_model(folder / 'dit_alone', 'dit')
  model.config.autoencoder.latent_std = ()
  networks.write(folder / 'unmeasured', model, 'float32')
  tiny.write_latents(folder / 'latents', model.params)
  others = {'autoencoder': jax.tree.map(lambda x: x + 1, model.params['dit'])}
  tiny.write_latents(folder / 'latents_of_others', others)
  return folder


@pytest.fixture
def config(places):
  config = tiny.config(latents=str(places / 'latents'))
  config.autoencoder_from = str(places / 'model')
  return config


def gradients(config, problem, params, pack):
  """Loss and gradients of one step, by the optimizer that only keeps them."""
  keep = optax.chain(optax.trace(0.0), optax.scale(-1e-3))
  state = jax.device_put(
    dict(
      step=np.int32(0),
      trainable=params,
      frozen={},
      ema=params,
      opt=keep.init(params),
      counters=dict.fromkeys(
        ('skipped', 'skipped_in_row', 'broken'), np.int32(0)
      ),
    )
  )
  state, sums = jax.jit(program.make_step(config, problem, keep))(state, pack)
  return float(sums['loss'] / sums['count']), state['opt'][0].trace


def test_accumulation_changes_a_step_by_rounding_only(config, tmp_path):
  problem = problems.diffusion_problem(config, tmp_path, np.arange(8))
  params = tiny.params(config, 'dit', 'text')
  # 12 clips: the last rows are short of some, so micro-batches differ.
  pack = problem.open_data()(0)
  filled = (pack.segment > 0).sum(axis=1)
  assert len(set(filled.reshape(-1, 4).sum(axis=0))) > 1
  loss, grads = gradients(config, problem, params, pack)
  config.run.accumulate = 4
  loss_of_parts, grads_of_parts = gradients(config, problem, params, pack)
  assert loss_of_parts == pytest.approx(loss, rel=1e-5)
  largest = jax.tree.map(lambda g: np.abs(g).max(), grads)
  assert min(jax.tree.leaves(largest['dit'])) > 0
  jax.tree.map(
    lambda a, b, scale: np.testing.assert_allclose(a, b, atol=1e-4 * scale),
    grads_of_parts,
    grads,
    largest,
  )


def test_the_losses_of_a_step_close_over_no_array_of_the_device(
  config, tmp_path
):
  # The compiler would fetch it, which accelerators refuse in the loop.
  rows = np.arange(config.data.limits.rows)
  config.data.crops, config.data.caption_dropout = ('16x16x5',), 0.0
  for stage in config_lib.Stage:
    if stage is config_lib.Stage.PROBE:
      config.data.world = 'scenes'
    problem = problems.PROBLEMS[stage](config, tmp_path, rows)
    shapes = nn.unbox(jax.eval_shape(problem.init, jax.random.key(0)))
    state = dict(step=np.int32(0), trainable=shapes)
    pack = problem.open_data()(0)
    traced = jax.make_jaxpr(problem.loss)(state, shapes, pack)
    assert not [x for x in traced.consts if isinstance(x, jax.Array)], stage


def test_batches_have_the_shapes_that_are_told_before_any_is_read(
  config, tmp_path
):
  rows = np.arange(config.data.limits.rows)
  config.data.crops, config.data.caption_dropout = ('16x16x5', '32x16x1'), 0.0
  for stage in config_lib.Stage:
    if stage is config_lib.Stage.PROBE:
      config.data.world, config.data.sizes = 'scenes', ('32x32x5', '48x32x5')
    problem = problems.PROBLEMS[stage](config, tmp_path, rows)
    batches = problem.open_data()
    for i, told in enumerate(problem.shapes):
      found = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batches(i)
      )
      assert found == told, stage


def test_a_run_that_does_not_fit_is_refused_before_its_corpus_is_prepared(
  config, places, tmp_path, monkeypatch
):
  monkeypatch.setattr(memory, 'capacity', lambda *unused: 10**5)
  config.data.latents, config.data.limits.text = '', 96
  with pytest.raises(ValueError, match='GB of a device'):
    train.train(config, epath.Path(tmp_path / 'run'))
  assert not (tmp_path / 'run' / 'latents').exists()


def test_the_diffusion_loss_falls_on_a_small_corpus(
  config,
  tmp_path,
  one_device,
):
  config.optim.learning_rate = 3e-3
  config.run.steps, config.run.log_every = 60, 1
  config.run.sample_every, config.sample.prompts = 40, ('a ball', 'no ball')
  train.train(config, epath.Path(tmp_path))
  made = sorted(path.name for path in (tmp_path / 'samples' / '40').iterdir())
  assert made == [
    '0000_a_ball_seed0.mp4',
    '0001_no_ball_seed1.mp4',
    'sheet.png',
  ]
  loss = [line['loss'] for line in lines_of(epath.Path(tmp_path))]
  assert np.mean(loss[-10:]) < 0.5 * np.mean(loss[:10])
  made = networks.read(tmp_path / 'model')
  assert set(made.params) == {'dit', 'text', 'autoencoder'}
  assert made.config.sample.sizes == ('32x32x5', '32x32x1', '16x32x5')


def test_a_run_starts_from_the_networks_of_a_model(config, places, tmp_path):
  config.init_from = str(places / 'model')
  start = problems.diffusion_problem(config, tmp_path, np.arange(8)).start
  model = networks.read(places / 'model')
  read = {name: weights.place(None) for name, weights in start.items()}
  assert_same(read, {k: model.params[k] for k in ('dit', 'text')})
  config.init_from = str(places / 'dit_alone')
  start = problems.diffusion_problem(config, tmp_path, np.arange(8)).start
  assert set(start) == {'dit'}


def test_each_device_reads_its_own_part_of_what_a_run_starts_from(
  config, places, tmp_path, monkeypatch
):
  config.init_from, config.mesh.fsdp = str(places / 'model'), 8
  model = networks.read(places / 'model').params
  problem = problems.diffusion_problem(config, tmp_path, np.arange(8))
  boxed = {name: weights.boxed for name, weights in problem.start.items()}
  where = sharding.param_shardings(boxed, sharding.make_mesh(config.mesh))
  sizes, read = [], tensors.read

  def counted(*asked):
    sizes.append((part := read(*asked)).size)
    return part

  monkeypatch.setattr(tensors, 'read', counted)
  start, _ = train._given(problem, dict(trainable=where))
  assert_same(start, {name: model[name] for name in start})
  leaves = jax.tree.leaves(start)
  # What is of every device is read once for all of them.
  own = [1 if leaf.is_fully_replicated else 8 for leaf in leaves]
  part = [leaf.addressable_shards[0].data.size for leaf in leaves]
  assert sum(sizes) == sum(np.multiply(own, part))


def test_a_decoder_that_is_trained_alone_keeps_the_scales_of_its_latents(
  places, tmp_path
):
  config = tiny.config()
  config.stage = config_lib.Stage.AUTOENCODER
  config.data.clips, config.data.crops = 4, ('32x32x5',)
  config.reconstruction.decoder_only = True
  config.optim.weight_decay = 0.0
  build = lambda: problems.autoencoder_problem(config, tmp_path, np.arange(2))
  with pytest.raises(ValueError, match='decoder_only needs init_from'):
    build()
  config.init_from = str(places / 'model')
  config.autoencoder.latent_mean = config.autoencoder.latent_std = ()
  build()
  known = networks.read(places / 'model').config.autoencoder
  assert config.autoencoder.latent_std == known.latent_std != ()
  config.optim.weight_decay = 0.1
  with pytest.raises(ValueError, match='weight_decay=0.1 would move the encod'):
    build()


# ---------------------------------------------------------- what is refused


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('autoencoder_from', '', 'autoencoder_from is empty'),
    ('autoencoder_from', '{}/dit_alone', 'has no autoencoder'),
    ('autoencoder_from', '{}/unmeasured', 'has no latent statistics'),
    ('autoencoder_from', '{}/nowhere', 'nowhere: no such directory'),
    ('text_from', '{}/dit_alone', 'has no text'),
    ('data.latents', '{}/latents_of_others', 'with another autoencoder'),
    ('data.latents', '{}/model', 'not a directory of prepared latents'),
    ('data.limits.rows', 12, '12 rows must be a multiple of .* 8'),
    ('data.limits.tokens', 7, 'needs 8 tokens, but data.limits.tokens is 7'),
    ('run.accumulate', 3, r'rows=8 must be a multiple of run.accumulate=3'),
    ('run.accumulate', 0, 'run.accumulate=0 must be 1 or more'),
    ('run.save_every', 0, 'run.save_every=0 must be 1 or more'),
    ('run.log_every', 0, 'run.log_every=0 must be 1 or more'),
    ('run.onednn', True, 'stage diffusion trains has none; leave it out'),
    ('run.export_dtype', 'half', "'half' must be one of float32, float16"),
    ('optim.schedule', 'cosin', "'cosin' is unknown; choose from .*cosine"),
    ('optim.method', 'sgd', "'sgd' is unknown; choose from adamw, muon"),
    ('optim.warmup_steps', 9, 'between 0 and the 4 steps'),
    ('optim.max_bad_steps', 0, 'max_bad_steps=0 must be 1 or more'),
    ('model.channels', 5, 'channels=5 must be the 4 channels of the autoenc'),
    ('model.text_width', 64, 'text_width=64 must be the 32 features of the t'),
    ('model.heads', 3, 'must be a multiple of'),
    ('mesh.fsdp', 3, 'needs a multiple of 3 devices, and there are 8'),
    ('mesh.fsdp', 0, 'mesh: fsdp=0 must be at least 1'),
    ('mesh.context', 3, 'mesh.context=3: data.limits.tokens=16 must be a mul'),
    ('seed', -1, 'seed=-1 must be 0 or more'),
    ('data.beside', 'clips', 'data.beside=clips: only an autoencoder learns'),
    ('optim.ema_decay', 2.0, r'optim.ema_decay=2.0 must be in \[0, 1\)'),
    ('data.limits.rows', 0, 'data.limits.rows=0 must be at least 1'),
    ('data.prefetch', -3, 'data.prefetch=-3 must be 0 or more'),
    ('data.shares.opening', 0.5, 'sample.openings must be True'),
    ('data.caption_dropout', 1.5, 'caption_dropout=1.5 must be from 0 to 1'),
    ('denoising.level.std', -1.0, 'std=-1.0 must be at least 0'),
    ('stage', config_lib.Stage.TEXT, 'caption_dropout=0.1 must be 0'),
  ],
)
def test_a_run_that_cannot_be_is_refused_before_it_compiles(
  config,
  places,
  tmp_path,
  no_jit,
  field,
  value,
  message,
):
  *groups, name = field.split('.')
  part = config
  for group in groups:
    part = getattr(part, group)
  if isinstance(value, str):
    value = value.format(places)
  setattr(part, name, value)
  with pytest.raises(ValueError, match=message) as error:
    train.train(config, epath.Path(tmp_path / 'run'))
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_only_the_dit_shares_out_tokens(config):
  config.stage, config.mesh.context = config_lib.Stage.AUTOENCODER, 2
  with pytest.raises(ValueError, match='which stage autoencoder does not'):
    train.check(config)


def test_weights_of_other_networks_are_refused(config, places, no_jit):
  config.init_from = str(places / 'model')
  config.model.depth = 3
  with pytest.raises(ValueError, match='its dit has other shapes than model'):
    networks.read_start(config, ('dit', 'text'))
  config.init_from = str(places / 'dit_alone')
  with pytest.raises(ValueError, match='has none of autoencoder'):
    networks.read_start(config, ('autoencoder',))


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('size', '40x32x5', '40x32 pixels: .* multiples of 16'),
    ('sampler', 'huen', "'huen' is unknown"),
    ('prompts', ('x' * 40,), 'caption of 40 bytes does not fit 32'),
    ('prompts', ('',), 'a prompt is empty'),
  ],
)
def test_samples_that_could_not_be_made_are_refused_at_the_start(
  config, tmp_path, no_jit, field, value, message
):
  config.run.sample_every = 1000
  setattr(config.sample, field, value)
  with pytest.raises(ValueError, match=message):
    train.train(config, epath.Path(tmp_path / 'run'))
