"""How well made scenes keep their prompts, beside what bounds it.

The prompts are combinations of object, event, place and colour that training
never shows. A probe judges (`probing`), so its own errors are told first: on
true clips, and on these passed through the autoencoder, below whose error no
latent model can come.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sora_jax import (
  frechet,
  generate,
  heldout,
  metrics,
  networks as networks_lib,
  plots,
  probing,
  reconstruct,
)
from sora_jax.data.worlds import scenes

Tally = dict[str, probing.Kept]  # by attribute


class SceneScores(NamedTuple):
  """Tallies of the same prompts, from the bound down."""

  true: Tally
  decoded: Tally
  generated: Tally
  autoencoder: dict[str, float]  # from `reconstruct.scores`
  frechet: frechet.Distances


def on_scenes(
  networks: networks_lib.Networks,
  settings: generate.Settings,
  make: Callable[[list[generate.Request]], Iterator[generate.Made]],
  cases: int,
  seed: int,
  probe: probing.Probe,
  extractors: Sequence[frechet.Extractor] = (),
) -> SceneScores:
  """Samples held-out prompts and scores them beside their bounds.

  Args:
    networks: with an autoencoder.
    settings: of the samples; their size is that of the true clips.
    make: from `generate.make_generator`.
    cases: number of prompts.
    seed: of the first sample.
    probe: who judges.
    extractors: by whose features distances are told.
  """
  prompts = scenes.held_out_prompts(heldout.SEED, cases)
  captions = [caption for caption, _ in prompts]
  requests = [generate.Request(c, seed + i) for i, c in enumerate(captions)]
  made = [clip.video for clip in make(requests)]
  true = [
    scenes.clip(heldout.SEED, index, settings.size, 'test')[0].video
    for _, index in prompts
  ]
  decoded = reconstruct.through(networks, true)
  promised = [scenes.attributes(caption) for caption in captions]
  tally = lambda videos: probing.kept(probe.attributes(videos), promised)
  return SceneScores(
    true=tally(true),
    decoded=tally(decoded),
    generated=tally(made),
    autoencoder=reconstruct.scores(decoded, true),
    frechet=frechet.distances(extractors, made, decoded, true),
  )


def table(scores: SceneScores) -> str:
  """The scores as text, bounds first."""
  names = list(scores.generated)
  row = lambda label, cells: f'{label:36}' + '  '.join(f'{c:>9}' for c in cells)
  shares = lambda tally: [f'{100 * tally[n].share:.1f} %' for n in names]
  ends = [metrics.interval(*scores.generated[name]) for name in names]
  told = scores.autoencoder
  lines = [
    'held-out prompts, judged by the probe; of those that promise it:',
    row('', names),
    row('', [f'of {scores.generated[name].cases}' for name in names]),
    row('true clips (the probe itself)', shares(scores.true)),
    row('true clips through the autoencoder', shares(scores.decoded)),
    row('made from the prompts', shares(scores.generated)),
    row(
      '  95 % confidence interval',
      [f'{100 * low:.0f}-{100 * high:.0f} %' for low, high in ends],
    ),
    f'the autoencoder: {told["psnr"]:.1f} dB PSNR, {told["ssim"]:.4f} SSIM, '
    f'flicker {told["flicker"]:.2f}',
  ]
  return '\n'.join(lines + frechet.lines(scores.frechet))


def bars(scores: SceneScores) -> dict[str, plots.Bar]:
  """The shares as `plots.shares` takes them."""
  return {
    name: (
      made.share,
      metrics.interval(*made),
      scores.decoded[name].share,
    )
    for name, made in scores.generated.items()
  }
