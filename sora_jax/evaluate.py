"""Scores of a model: `launch.py evaluate`; one table and one JSON.

Generation is scored on held-out prompts of the world `balls`, beside two
bounds: true clips of the same prompts, which show what the tracker itself
gets right, and these clips passed through the autoencoder, below whose error
no latent model can come; or of the world `scenes`, see `adherence`. Beside
them: the Frechet distance of the same clips, and the loss on held-out clips at
each level of noise. Reconstruction is scored on the same clips, and on files
where a folder is given. With --suite ways of prompting are scored instead, see
`suite`.
"""

import functools
import json
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from sora_jax import (
  adherence,
  batch,
  config as config_lib,
  corpus,
  frechet,
  generate,
  heldout,
  metrics,
  networks as networks_lib,
  plots,
  probing,
  reconstruct,
  rng,
  sample,
  sharding,
  sizing,
  suite,
  writers,
)
from sora_jax.data import sources, transforms, video
from sora_jax.data.worlds import balls, scenes

Video = metrics.Video
Networks = networks_lib.Networks

WORLDS = {'balls': balls, 'scenes': scenes}
FILE_WINDOWS = 4  # of each file, evenly spaced


class WorldScores(NamedTuple):
  """Tallies of the same prompts, from the bound down."""

  true: metrics.Tally
  decoded: metrics.Tally
  generated: metrics.Tally
  psnr: float  # of the decoded clips, dB, mean over clips
  ssim: float
  # Distance from the simulator's velocities, frame by frame, units/s.
  true_motion: float
  decoded_motion: float
  frechet: frechet.Distances


class Scored(NamedTuple):
  """Scores of held-out prompts of a world, and how they are told."""

  scores: WorldScores | adherence.SceneScores
  table: str
  bars: dict[str, plots.Bar]
  told: dict[str, str] = {}  # beside the scores


class Judge(NamedTuple):
  """What tells whether clips of a world are as their prompts say."""

  # Of networks, settings, what makes clips, a number of held-out prompts, the
  # seed of the first, and extractors: see `on_balls`.
  score: Callable[..., Scored]
  broken: Callable[[Video, str], list[str]]  # what a clip does not keep


def main(config: None, flags: types.SimpleNamespace) -> None:
  """Prints the table and writes `scores.json`."""
  del config
  names = suite.names_of(flags.suite) if flags.suite else []
  if names and flags.world != 'balls':
    raise ValueError(
      f'--suite={flags.suite} scores balls, not {flags.world}; leave out '
      '--world'
    )
  sharding.use_cores()
  networks = networks_lib.read(flags.model or networks_lib.SHIPPED)
  out = epath.Path(flags.out)
  out.mkdir(parents=True, exist_ok=True)
  if 'autoencoder' not in networks.params:
    raise ValueError(
      f'{flags.model} has no autoencoder; evaluate that of a diffusion run or '
      'of an autoencoder'
    )
  networks_lib.check_from_text(networks, 'evaluate')
  rng.check_seeds(flags.seed, flags.cases)
  settings = generate.settings_of(networks.config.sample)
  results: dict[str, Any] = {
    'card': sample.card(networks, settings),
    'run': writers.surroundings(),
    'world': flags.world,
  }
  if names:
    if 'dit' not in networks.params:
      raise ValueError(f'{flags.model} has no dit; --suite makes clips')
    studio = suite.make_studio(networks, flags.cases, flags.seed)
    suite.check(studio, names)
    results['tasks'] = suite.run(studio, names, out)
  elif 'dit' in networks.params:
    results |= _generation(networks, settings, flags, out)
  else:
    found = on_true_clips(networks, flags.cases, flags.world)
    results['reconstruction'] = found
    print(reconstruct.table(f'held-out {flags.world}', found))
  if flags.data:
    results['files'] = on_files(networks, flags.data, out)
    for name, row in results['files'].items():
      print(reconstruct.table(name, row))
  text = json.dumps(results, indent=1) + '\n'
  video.publish(out / 'scores.json', text.encode())
  print(f'scores: {out / "scores.json"}')


def _generation(
  networks: Networks,
  settings: generate.Settings,
  flags: types.SimpleNamespace,
  out: epath.Path,
) -> dict[str, Any]:
  """Scores made clips and the loss; leaves a plot of each."""
  extractors = [frechet.of_latents(networks)]
  if flags.extractor:
    extractors.append(frechet.of_torchscript(flags.extractor))
  mesh = generate.mesh_for(flags.cases, settings)
  make = generate.make_generator(networks, settings, mesh)
  scored = judge_of(flags.world).score(
    networks, settings, make, flags.cases, flags.seed, extractors=extractors
  )
  print(scored.table)
  plots.shares(out / 'shares.png', scored.bars)
  told = {'generation': _plain(scored.scores)} | scored.told
  if not heldout.reads_bytes(networks):
    print('no held-out loss, as this model has a tokenizer of its own')
    return told
  data = heldout.of_world(networks.config, flags.cases, flags.world)
  losses = heldout.loss_by_level(networks, data, out)
  print('held-out loss by level of noise:')
  print('  '.join(f'{level}: {loss:.4f}' for level, loss in losses.items()))
  plots.curve(out / 'loss.png', losses, 'level of noise', 'held-out loss')
  return told | {'loss_by_level': losses}


def judge_of(world: str) -> Judge:
  """The tracker of `balls`, or the probe that ships of `scenes`."""
  if world == 'balls':
    return Judge(_of_balls, metrics.broken_promises)
  probe = probing.Probe()
  return Judge(functools.partial(_of_scenes, probe), probe.broken_promises)


def _of_balls(
  *asked: Any, extractors: Sequence[frechet.Extractor] = ()
) -> Scored:
  scores = on_balls(*asked, extractors=extractors)
  return Scored(scores, world_table(scores), bars(scores))


def _of_scenes(
  probe: probing.Probe,
  *asked: Any,
  extractors: Sequence[frechet.Extractor] = (),
) -> Scored:
  extractors = [*extractors, probe.extractor]
  scores = adherence.on_scenes(*asked, probe=probe, extractors=extractors)
  told = {'probe_sha256': probe.digest}
  return Scored(scores, adherence.table(scores), adherence.bars(scores), told)


def on_balls(
  networks: Networks,
  settings: generate.Settings,
  make: Callable[[list[generate.Request]], Iterator[generate.Made]],
  cases: int,
  seed: int,
  extractors: Sequence[frechet.Extractor] = (),
) -> WorldScores:
  """Samples held-out prompts and scores them beside their bounds.

  Args:
    networks: with an autoencoder.
    settings: of the samples; their size is that of the true clips.
    make: from `generate.make_generator`.
    cases: number of prompts.
    seed: of the first sample.
    extractors: by whose features distances are told.
  """
  prompts = balls.held_out_prompts(heldout.SEED, cases)
  captions = [caption for caption, _ in prompts]
  requests = [generate.Request(c, seed + i) for i, c in enumerate(captions)]
  made = [clip.video for clip in make(requests)]
  clips = [
    balls.clip(heldout.SEED, index, settings.size, 'test')
    for _, index in prompts
  ]
  true, truths = [clip.video for clip, _ in clips], [t for _, t in clips]
  decoded = reconstruct.through(networks, true)
  pairs = list(zip(decoded, true, strict=True))
  return WorldScores(
    true=metrics.tally(true, captions),
    decoded=metrics.tally(decoded, captions),
    generated=metrics.tally(made, captions),
    psnr=float(np.mean([metrics.psnr(a, b) for a, b in pairs])),
    ssim=float(np.mean([metrics.ssim(a, b) for a, b in pairs])),
    true_motion=metrics.motion_error(true, truths),
    decoded_motion=metrics.motion_error(decoded, truths),
    frechet=frechet.distances(extractors, made, decoded, true),
  )


def on_true_clips(
  networks: Networks, cases: int, world: str = 'balls'
) -> dict[str, float]:
  """PSNR and SSIM of held-out clips of a world through the autoencoder."""
  size = batch.parse_size(networks.config.sample.size)
  source = WORLDS[world]
  prompts = source.held_out_prompts(heldout.SEED, cases)
  videos = [
    source.clip(heldout.SEED, index, size, 'test')[0].video
    for _, index in prompts
  ]
  return reconstruct.compare(networks, videos)


def on_files(
  networks: Networks, folder: str, out: epath.Path
) -> dict[str, dict[str, float]]:
  """PSNR and SSIM of windows of each file of a folder, by file.

  A file that cannot be read is told, and left out.
  """
  source = sources.FolderSource(corpus.list_folder(folder, out / corpus.LISTS))
  results = {}
  for index, row in enumerate(source.rows):
    try:
      videos = _windows(networks.config, source, index)
    except (sources.BrokenVideo, OSError) as error:
      print(f'left out: {error}')
      continue
    results[row.id] = reconstruct.compare(networks, videos)
  return results


def _windows(
  config: config_lib.Config, source: sources.FolderSource, index: int
) -> list[Video]:
  """Some windows of a file, at the size that the model samples."""
  size, info = batch.parse_size(config.sample.size), source.info(index)
  places = sizing.windows(info.frames, size.frames)
  picks = np.linspace(0, len(places) - 1, min(FILE_WINDOWS, len(places)))
  width, height = sizing.native_size(info, size, config.autoencoder.space)
  return [
    transforms.cover(source.window(index, *places[pick]), width, height)
    for pick in picks.round().astype(int)
  ]


def world_table(scores: WorldScores) -> str:
  """The scores as text, bounds first."""
  lines = [
    f'{scores.true.cases} held-out prompts; velocity: distance of the first '
    'speed from the promised one, units/s',
    f'{"":36}{metrics.TALLY_HEADER}',
    f'{"true clips (the tracker itself)":36}{scores.true}',
    f'{"true clips through the autoencoder":36}{scores.decoded}',
    f'{"made from the prompts":36}{scores.generated}',
    f'{"  95 % confidence interval":36}{scores.generated.intervals()}',
    f'the autoencoder: {scores.psnr:.1f} dB PSNR, {scores.ssim:.4f} SSIM; '
    f'frame by frame {scores.decoded_motion:.3f} units/s off the simulator, '
    f'true clips {scores.true_motion:.3f}',
  ]
  return '\n'.join(lines + frechet.lines(scores.frechet))


def bars(scores: WorldScores) -> dict[str, plots.Bar]:
  """The shares as `plots.shares` takes them."""
  made, decoded = scores.generated, scores.decoded
  return {
    name: (
      share := getattr(made, name),
      metrics.interval(share, made.cases),
      getattr(decoded, name),
    )
    for name in ('colour', 'direction', 'law', 'size')
  }


def _plain(value: Any) -> Any:
  """Named tuples as what JSON can hold, by name."""
  if hasattr(value, '_asdict'):
    value = value._asdict()
  if isinstance(value, dict):
    return {name: _plain(item) for name, item in value.items()}
  return value
