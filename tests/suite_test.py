"""Every task is set and scored: here for clips that show nothing at all."""

import json
import types

import numpy as np
import pytest
import tiny

from sora_jax import batch, evaluate, figures, generate, reconstruct, suite
from sora_jax.data import video

SIZE = batch.Size(64, 64, 33)
COUNT = 4


def encode(clip):
  """In place of the network: a latent of the right size."""
  frames, height, width, _ = clip.shape
  size = (1 + (frames - 1) // 4, height // 8, width // 8, 4)
  return np.ones(size, np.float32)


class Blank:
  """In place of the generator: white frames, and a note of what was asked."""

  def __init__(self):
    self.asked = []

  def __call__(self, requests):
    layouts = {request.canvas.start.tobytes() for request in requests}
    assert len(layouts) == 1, 'what is made together has one layout'
    self.asked += requests
    for request in requests:
      frames = request.canvas.frames
      rows, columns = request.canvas.known.shape[1:3]
      count = 4 * frames if request.canvas.loop else 4 * frames - 3
      white = np.full((count, 8 * rows, 8 * columns, 3), 255, np.uint8)
      yield generate.Made(request, request.canvas.known[:frames], white)


@pytest.fixture
def studio(monkeypatch):
  """Whose autoencoder loses nothing."""
  monkeypatch.setattr(reconstruct, 'through', lambda networks, videos: videos)
  networks = generate.Networks(tiny.config(), {})
  settings = generate.settings_of(networks.config.sample)._replace(size=SIZE)
  make = Blank()
  return suite.Studio(networks, settings, make, make, encode, COUNT, seed=7)


@pytest.mark.parametrize('task', suite.TASKS)
def test_a_task_is_set_on_true_clips_and_scores_what_is_made(studio, task):
  scored, made = suite.TASKS[task](studio)
  assert len(made) == COUNT
  assert [r.seed for r in studio.make.asked][:COUNT] == [7, 8, 9, 10]
  for figure in scored:
    if 'share' in figure.name and not np.isnan(figure.bound):
      assert figure.bound == 1, figure
    elif 'off by' in figure.name:
      # A way between two clips bends, and so is off at its ends.
      assert figure.bound < (1.5 if task == 'connect' else 0.1), figure
  worst = {f.name: f.made for f in scored}
  if task in ('text', 'image', 'loop'):  # where nothing is known
    assert worst['colour, share'] == worst.get('law, share', 0) == 0
  # What was to be kept is right, whatever is made around it.
  assert worst.pop('largest change of what was to be kept, of 255', 0) == 0


@pytest.mark.parametrize(
  ('task', 'frames', 'wrong'),
  [
    ('extend', slice(0, 9), slice(9, 33)),
    ('extend_backwards', slice(20, 33), slice(0, 20)),
    ('fill_in', slice(0, 5), slice(5, 20)),
  ],
)
def test_what_is_known_is_of_the_true_clip_and_at_its_place(
  studio, task, frames, wrong
):
  _, made = suite.TASKS[task](studio)
  for clip, true in zip(made, studio.cases().videos, strict=True):
    np.testing.assert_array_equal(clip[frames], true[frames])
    assert (clip[wrong] == 255).all()
  if task == 'fill_in':
    true = studio.cases().videos[0]
    np.testing.assert_array_equal(made[0][20:], true[20:29])


def test_a_join_is_measured_where_it_is(studio, monkeypatch):
  """True frames on both sides of a join are right, and no others count."""
  _, made = suite.connect(studio)
  cases = studio.cases(suite.SINGLE)
  assert {len(clip) for clip in made} == {9 + 19 + 33 - 16}
  for k, clip in enumerate(made):
    after = cases.videos[(k + 1) % COUNT]
    np.testing.assert_array_equal(clip[:9], cases.videos[k][:9])
    np.testing.assert_array_equal(clip[28:], after[16:])
    # What is nearer to the middle may be anything.
    clip[9:11], clip[26:28] = cases.videos[k][9:11], after[14:16]
  monkeypatch.setattr(suite.Studio, 'paint', lambda *unused: made)
  scored, _ = suite.connect(studio)
  for figure in scored:
    assert figure.made < 0.1 < figure.bound < 2  # of a cubic, which bends


@pytest.mark.parametrize(
  ('task', 'frame'), [('extend', 9), ('extend_backwards', 19)]
)
def test_the_step_across_a_join_is_of_the_frame_next_to_what_is_known(
  studio, monkeypatch, task, frame
):
  scored, made = suite.TASKS[task](studio)
  assert scored[-1].name == 'step across the join, off by units/s'
  assert scored[-1].made > 1
  for clip, true in zip(made, studio.cases().videos, strict=True):
    clip[frame] = true[frame]
  monkeypatch.setattr(suite.Studio, 'paint', lambda *unused: made)
  scored, _ = suite.TASKS[task](studio)
  assert scored[-1].made == scored[-1].bound < 0.1


def test_masks_that_differ_are_painted_one_by_one(studio):
  scored, made = suite.replace(studio)
  cases = studio.cases()
  for clip, true, truth in zip(made, cases.videos, cases.truths, strict=True):
    gone = figures.disc(truth, SIZE)
    assert (clip[gone] == 255).mean() > 0.9
    assert (clip != true).any()
  assert scored[0].made == 0


def test_clips_that_do_not_fit_the_tasks_are_refused_at_once(studio):
  size = lambda *size: studio._replace(
    settings=studio.settings._replace(size=batch.Size(*size))
  )
  suite.check(studio, list(suite.TASKS))
  suite.check(size(80, 48, 29), ['extend'])
  with pytest.raises(ValueError, match='29 frames, and the model makes 64x64x'):
    suite.check(size(64, 64, 25), ['extend'])
  with pytest.raises(
    ValueError, match='outpaint asks for 100x36x33 of a model'
  ):
    suite.check(size(80, 48, 33), ['outpaint'])


def test_the_verb_prints_a_line_a_figure_and_leaves_sheets(
  studio, tmp_path, monkeypatch, capsys
):
  tiny.write_model(tmp_path / 'model')
  monkeypatch.setattr(suite, 'make_studio', lambda *unused: studio)
  monkeypatch.setattr(
    suite, 'TASKS', {name: suite.TASKS[name] for name in ('extend', 'loop')}
  )
  flags = types.SimpleNamespace(
    model=str(tmp_path / 'model'),
    cases=COUNT,
    seed=0,
    suite='tasks',
    world='balls',
    data=None,
    out=str(tmp_path / 'out'),
  )
  evaluate.main(None, flags)
  printed = capsys.readouterr().out
  assert printed.count('\n') == 1 + 2 + 3 + 5 + 1
  scores = json.loads((tmp_path / 'out' / 'scores.json').read_text())
  assert scores['tasks']['loop']['step across the seam, of 255'] == [0.0, None]
  assert video.read_info(tmp_path / 'out' / 'loop.png').width == 8 * 64


def test_some_tasks_can_be_named_and_no_others():
  assert suite.names_of('tasks') == list(suite.TASKS)
  assert suite.names_of('minute,loop') == ['minute', 'loop']
  with pytest.raises(ValueError, match="no task 'hour'; known: text,"):
    suite.names_of('minute,hour')
  with pytest.raises(ValueError, match='nearest: loop'):
    suite.names_of('lop')
