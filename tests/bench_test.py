"""The table of equal bits, and folders held against each other."""

import types

import numpy as np
import pytest
import tiny
from etils import epath

from sora_jax import bench, generate, sample


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  path = epath.Path(tmp_path_factory.mktemp('models')) / 'model'
  tiny.write_model(path)
  return path


def flags(model, /, **given):
  fields = dict(what=None, model=None, compare=None, steps=None)
  fields |= dict(repeats=None, store=False)
  if not given.get('compare'):
    fields |= dict(what='determinism', model=str(model), steps=2, repeats=3)
  return types.SimpleNamespace(**fields | given)


@pytest.fixture
def no_processes(monkeypatch):
  """Other processes are tried by the slow test alone."""
  monkeypatch.setattr(bench, 'elsewhere', lambda *unused, **more: [])
  whole = bench.ways
  monkeypatch.setattr(
    bench, 'ways', lambda *args: (w for w in whole(*args) if w.latents)
  )


@pytest.mark.slow
def test_every_way_is_told_to_have_equal_bits(model, no_processes, capsys):
  bench.main(None, flags(model))
  lines = capsys.readouterr().out.splitlines()[2:]
  names = [line[:34].strip() for line in lines]
  assert names == [
    *('a request of 1', 'a request of 3', 'a request of 8', 'in other slots'),
    *('data=2', 'fsdp=2', 'data=4', 'fsdp=4'),
    *('data=8', 'fsdp=8', 'tensor=2', 'context=2', '3 times'),
  ]
  assert all(line.endswith('equal bits') for line in lines)


@pytest.mark.slow
def test_a_way_that_differs_is_told_and_fails(
  model, no_processes, monkeypatch, capsys
):
  made = bench.sampled

  def wrong(networks, settings, mesh, requests):
    latents = made(networks, settings, mesh, requests)
    if mesh.size == 4:
      latents[5] = latents[5] + np.float32(1e-3)
    return latents

  monkeypatch.setattr(bench, 'sampled', wrong)
  with pytest.raises(ValueError, match='2 ways of sampling gave other bits'):
    bench.main(None, flags(model))
  out = capsys.readouterr().out
  (line,) = [line for line in out.splitlines() if line.startswith('data=4')]
  assert line.split()[-1] == '1.00e-03'


@pytest.mark.slow
def test_other_processes_have_equal_bits(model):
  settings = generate.settings_of(tiny.config().sample)._replace(steps=2)
  one, *others = (
    bench.elsewhere(flags(model), settings, devices, processes)
    for devices, processes in ((1, 1), (2, 1), (1, 2))
  )
  for other in others:
    assert len(other) == bench.CLIPS
    for a, b in zip(one, other, strict=True):
      assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (dict(store=True), '--what=determinism takes no --store; it takes --model'),
    (dict(what='cache'), '--what=cache takes no --repeats; it takes --model'),
    (dict(compare='a,b', steps=3), '--compare takes no --steps; it takes no o'),
    (dict(compare='a,b', model='a'), '--compare takes no --model'),
    (dict(compare='a,b', store=True), '--compare takes no --store'),
    (
      dict(what='cache', repeats=None, model=None, store=True),
      '--store needs --model=DIR',
    ),
    (
      dict(what='cache', repeats=None, steps=1),
      'steps=1 must be 2 or more',
    ),
  ],
)
def test_a_flag_that_would_do_nothing_is_refused(model, no_jit, given, message):
  with pytest.raises(ValueError, match=message):
    bench.main(None, flags(model, **given))


def test_one_request_is_repeated_20_times_unless_told(
  model, no_processes, monkeypatch, capsys
):
  latent = np.zeros((2, 4, 4, 4), np.float32)
  monkeypatch.setattr(
    bench, 'sampled', lambda *args: [latent for ask in args[-1] for _ in ask]
  )
  bench.main(None, flags(model, repeats=None))
  last = capsys.readouterr().out.splitlines()[-1]
  assert last.split() == ['20', 'times', '20', 'equal', 'bits']


def test_folders_are_compared_by_hash_and_by_pixels(
  model, tmp_path, one_device, capsys
):
  folders = []
  for name, steps in (('a', 1), ('b', 1), ('c', 2)):
    given = dict(model=str(model), prompt=['a ball', 'two'], prompts=None)
    given |= dict(seed=3, out=str(tmp_path / name), format=None, steps=steps)
    sample.main(None, types.SimpleNamespace(**given, lora=None, task='text'))
    folders.append(str(tmp_path / name))
  a, b, c = folders
  capsys.readouterr()
  bench.main(None, flags(model, compare=f'{a},{b}'))
  assert capsys.readouterr().out.count('equal latents, equal bytes') == 2
  with pytest.raises(ValueError, match='2 files differ'):
    bench.main(None, flags(model, compare=f'{a},{c}'))
  assert 'pixels differ by' in capsys.readouterr().out
  with pytest.raises(ValueError, match='is not two folders'):
    bench.main(None, flags(model, compare=a))
  with pytest.raises(ValueError, match='has no manifest'):
    bench.main(None, flags(model, compare=f'{a},{tmp_path}'))
  with pytest.raises(ValueError, match='give either'):
    bench.main(None, flags(model, what=None))
