"""From a corpus to batches, each a pure function of the global step.

grain does the workers and the prefetching. The order comes from the plan, so
the position in the data is one integer, and a run can go on from it with any
number of workers, hosts or devices.
"""

import dataclasses
import enum
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from absl import flags, logging
from jaxtyping import Int

from sora_jax import batch, canvas, tokens
from sora_jax.data import latents, pieces, plan, rendered, sources, transforms

RowIndex = Int[np.ndarray, 'R']  # the rows of a batch that a host reads


class Corpus(enum.Enum):
  """Where clips come from."""

  WORLD = 'world'  # rendered as they are asked for
  FOLDER = 'folder'  # videos and images, with captions beside them
  TFDS = 'tfds'  # a directory that TFDS prepared


@dataclasses.dataclass(kw_only=True)
class DataConfig:
  """A corpus, and how batches are made of it."""

  corpus: Corpus = Corpus.WORLD
  world: str = 'balls'
  path: str = ''  # of a folder, its manifest.jsonl, or a TFDS directory
  # A folder (or its manifest.jsonl) that every fourth clip of a world is taken
  # from instead, so that an autoencoder knows real video too.
  beside: str = ''
  # A directory, best in memory, where a world's clips are kept for further
  # crops once they are rendered; empty: each crop renders its clip.
  rendered: str = ''
  split: str = 'train'  # of a world or a TFDS directory
  video_key: str = 'video'  # features of a TFDS directory
  caption_key: str = 'caption'
  clips: int = 16384  # of a world
  # A world's clips have these sizes in turn. Files are cut into windows of
  # at most so many frames and scaled, at native aspect, to as many pixels.
  sizes: tuple[str, ...] = ('64x64x33',)
  # The autoencoder sees crops of these sizes, step by step in turn.
  crops: tuple[str, ...] = ('64x64x9',)
  limits: plan.Limits = dataclasses.field(default_factory=plan.Limits)
  shares: pieces.Shares = dataclasses.field(default_factory=pieces.Shares)
  caption_dropout: float = 0.1  # share of clips that see an empty caption
  latents: str = ''  # a prepared directory; empty: `latents` in the workdir
  workers: int = 0  # processes that read; 0: a thread of this one
  prefetch: int = 4  # batches held ready


def check(config: DataConfig) -> None:
  """Raises ValueError for numbers that cannot be."""
  plan.check(config.limits)
  pieces.check(config.shares)
  if not config.sizes:
    raise ValueError('data.sizes is empty; it needs a size, as 64x64x33')
  if config.corpus is not Corpus.WORLD and len(config.sizes) > 1:
    raise ValueError(
      f'data.sizes={config.sizes}: files keep their own aspect, and take one '
      'size, for their duration and number of pixels'
    )
  if config.beside and config.corpus is not Corpus.WORLD:
    raise ValueError(
      f'data.beside={config.beside}: a corpus of {config.corpus.value} stands '
      'alone; put all files into one folder, and name it in data.path'
    )
  if config.rendered and config.corpus is not Corpus.WORLD:
    raise ValueError(
      f'data.rendered={config.rendered}: a corpus of {config.corpus.value} is '
      'not rendered; leave it empty'
    )
  for name in ('workers', 'prefetch'):
    if getattr(config, name) < 0:
      raise ValueError(f'data.{name}={getattr(config, name)} must be 0 or more')
  if not 0 <= config.caption_dropout <= 1:
    raise ValueError(
      f'data.caption_dropout={config.caption_dropout} must be from 0 to 1'
    )


def make_source(config: DataConfig) -> Any:
  """Opens the corpus that the config names.

  Raises:
    ValueError: it is missing, empty or unreadable.
  """
  if config.corpus is Corpus.WORLD:
    sizes = tuple(batch.parse_size(s) for s in config.sizes)
    world = sources.WorldSource(
      config.world, sizes, config.clips, split=config.split
    )
    kept: Any = world
    if config.rendered:
      kept = rendered.Rendered(world, config.rendered)
    if config.beside:
      return sources.Mixed(kept, sources.FolderSource(config.beside))
    return kept
  if not config.path:
    raise ValueError(
      f'data.path is empty; a {config.corpus.value} corpus needs its place'
    )
  if config.corpus is Corpus.FOLDER:
    return sources.FolderSource(config.path)
  return sources.TFDSSource(
    config.path, config.split, config.video_key, config.caption_key
  )


def iterate(
  make_batch: Callable[[int], Any],
  start: int,
  config: DataConfig,
  end: int = 2**31 - 1,
) -> Iterator[Any]:
  """Batches of steps from `start` to before `end`, read ahead by grain."""
  steps = grain.MapDataset.range(start, end).map(make_batch)
  ahead = max(1, config.prefetch)
  # One thread each: what renders clips is Python, and threads of it hold one
  # another up. Where files or a network are slow, take more workers.
  read = lambda count: steps.to_iter_dataset(grain.ReadOptions(1, count))
  if not config.workers:
    return iter(read(ahead))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain reads flags of its own
  options = grain.MultiprocessingOptions(
    num_workers=config.workers, per_worker_buffer_size=ahead
  )
  return iter(read(1).mp_prefetch(options, worker_init_fn=_end_with_parent))


def _end_with_parent(index: int, count: int) -> None:
  """Ends a worker with the process that reads from it, however that ends.

  Waiting to hand over a batch that nobody takes, it would stay for ever. What
  tells a whole group of processes to end, as schedulers do, is for the trainer,
  which may need batches until all hosts have saved.
  """
  del index, count
  signal.signal(signal.SIGTERM, signal.SIG_IGN)

  def wait():
    parent = multiprocessing.parent_process()
    if parent is not None:
      parent.join()
      os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


class FrameBatches:
  """Step -> `batch.Frames`: crops at native aspect, for the autoencoder.

  Args:
    source: Of clips.
    config: Of the data; `crops` are its sizes in turn.
    seed: Of the run.
    rows: Which rows of each batch to read; the others belong to other hosts.
  """

  def __init__(
    self, source: Any, config: DataConfig, seed: int, rows: RowIndex
  ):
    self._source, self._seed, self._rows = source, seed, rows
    self.crops = [batch.parse_size(s) for s in config.crops]
    if not self.crops:
      raise ValueError('data.crops is empty; it needs a size, as 64x64x9')
    self._batch = config.limits.rows
    self._shuffled: tuple[int, Any] = (-1, None)  # one epoch's order

  def __call__(self, step: int) -> batch.Frames:
    crop = self.crops[step % len(self.crops)]
    draws = step * self._batch + self._rows
    clips = [self._crop(int(draw), crop) for draw in draws]
    empty = np.zeros((crop.frames, crop.height, crop.width, 3), np.uint8)
    return batch.Frames(
      video=np.stack([empty if c is None else c for c in clips]),
      draw=np.array(
        [
          batch.BROKEN if c is None else d
          for c, d in zip(clips, draws, strict=True)
        ],
        np.int32,
      ),
    )

  def _order(self, epoch: int) -> Int[np.ndarray, ' n']:
    if self._shuffled[0] != epoch:
      order = transforms.generator(self._seed, 'order', epoch)
      self._shuffled = (epoch, order.permutation(len(self._source)))
    return self._shuffled[1]

  def _crop(self, draw: int, crop: batch.Size) -> np.ndarray | None:
    """The crop of one draw; None where its clip cannot be read."""
    epoch, rank = divmod(draw, len(self._source))
    index = int(self._order(epoch)[rank])
    rng = transforms.generator(self._seed, 'crop', draw)
    try:
      frames = sources.random_window(self._source, index, crop.frames, rng)
    except (sources.BrokenVideo, OSError) as error:
      logging.warning('clip %d left out of this batch: %s', index, error)
      return None
    return transforms.random_crop(frames, crop.width, crop.height, rng)


def empty_row(
  limits: plan.Limits, values: int, text_width: int, condition: int = 0
) -> batch.Pack:
  """A row of a pack without a clip, and without the batch axis.

  Args:
    limits: Of a pack.
    values: P, numbers of a token.
    text_width: E, of cached features; 0: it has text ids.
    condition: Numbers of a token that the network sees beside the noisy ones.
  """
  N, M, L, G = limits.tokens, limits.clips, limits.text, limits.groups
  zeros = lambda *shape: np.zeros(shape, np.int32)
  return batch.Pack(
    tokens=np.zeros((N, values), np.float32),
    position=zeros(N, 3),
    index=zeros(N),
    segment=zeros(N),
    group=zeros(N),
    group_clip=zeros(G),
    group_index=zeros(G),
    group_clean=zeros(G),
    text_of=zeros(N),
    text_segment=zeros(L),
    draw=np.full(M, batch.EMPTY, np.int32),
    tokens_in_clip=zeros(M),
    text_ids=None if text_width else zeros(L),
    text=np.zeros((L, text_width), np.float32) if text_width else None,
    condition=np.zeros((N, condition), np.float32) if condition else None,
  )


class PackBatches:
  """Step -> `batch.Pack`, of prepared latents.

  Args:
    source: Of prepared latents.
    config: Of the data.
    patch: Latent frames, rows and columns of a token.
    seed: Of the run.
    rows: Which rows of each batch to read.
    condition: Channels that the network sees beside the noisy ones.

  Raises:
    ValueError: the latents lack something that the batches need.
  """

  def __init__(
    self,
    source: latents.LatentSource,
    config: DataConfig,
    patch: tuple[int, int, int],
    seed: int,
    rows: RowIndex,
    condition: int = 0,
  ):
    self._source, self._config, self._patch = source, config, patch
    self._seed, self._rows, self._condition = seed, rows, condition
    grids = [tokens.token_grid(row.size, patch) for row in source.rows]
    if pieces.restarts(config.shares) and not source.info.get('openings'):
      raise ValueError(
        f'{source.directory} has no streams that start anew, with what opens '
        'them, which data.shares of end, both and middle need; remove it to '
        'prepare it again'
      )
    if condition and source.info.get('condition', 0) != condition:
      raise ValueError(
        f'{source.directory} was prepared without the {condition} channels '
        'that the network sees beside the noise; remove it to prepare it again'
      )
    counts = [
      pieces.most_latents(config.shares, g[0]) * g[1] * g[2] for g in grids
    ]
    most = plan.Needs(
      tokens=np.array(counts, int),
      text=np.array([row.slots for row in source.rows], int),
      groups=np.array([pieces.groups(config.shares, g[0]) for g in grids]),
    )
    any_share = any(dataclasses.astuple(config.shares))
    take = self._take_of if any_share else None
    self._plan = plan.Plan(most, config.limits, seed, take)

  def __call__(self, step: int) -> batch.Pack:
    rows = self._plan.rows(step)
    packed = [self._pack_row(rows[i]) for i in self._rows]
    columns = zip(*packed, strict=True)
    return batch.Pack(*(None if c[0] is None else np.stack(c) for c in columns))

  def _outline(self, entry: plan.Entry) -> pieces.Outline:
    row = self._source.rows[entry.clip]
    rng = transforms.generator(self._seed, 'piece', entry.draw)
    shares, side = self._config.shares, self._patch[1]
    return pieces.outline(row.size, row.restarted, shares, side, rng)

  def _take_of(self, entry: plan.Entry) -> tuple[int, int]:
    """Tokens and groups that one draw of a clip takes."""
    drawn = self._outline(entry)
    frames, rows, columns = tokens.token_grid(drawn.clean.shape, self._patch)
    groups = frames if drawn.by_frame else 1 + int(drawn.clean.any())
    return frames * rows * columns, groups

  def _pack_row(self, row: plan.Row) -> batch.Pack:
    """One row of a pack, without the batch axis."""
    out = self._empty_row()
    slot = text_slot = group = 0
    for m, entry in enumerate(row):
      try:
        record = self._source[entry.clip]
      except latents.BrokenRecord as error:
        logging.warning('left out of this batch: %s', error)
        out.draw[m] = batch.BROKEN  # and its slots stay empty
        continue
      texts = self._texts(entry, record)
      count, groups = self._write_tokens(
        out, slot, group, m, entry, record, lines=len(texts)
      )
      text_slot += self._write_text(out, text_slot, m, texts)
      slot, group = slot + count, group + groups
    return out

  def _write_tokens(
    self,
    out: batch.Pack,
    slot: int,
    group: int,
    m: int,
    entry: plan.Entry,
    record: latents.Record,
    lines: int,
  ) -> tuple[int, int]:
    """Puts a clip into its row; returns the slots and groups that it took."""
    drawn = self._outline(entry)
    latent = pieces.take(drawn, record.latent, record.restart)
    grid = tokens.token_grid(latent.shape[:3], self._patch)
    values = tokens.patchify(latent[None], self._patch)[0]
    clean = tokens.patchify(drawn.clean[None, ..., None], self._patch)[0]
    clean = clean.all(axis=-1)
    count, position = len(values), tokens.positions(grid)
    member = position[:, 0] if drawn.by_frame else clean.astype(np.int32)
    groups = int(member.max()) + 1
    at, own = slice(slot, slot + count), slice(group, group + groups)
    out.tokens[at] = values
    # A record that should have some and has none was refused when it was read.
    if self._condition and record.condition is not None:
      seen = tokens.patchify(record.condition[None], self._patch)
      out.condition[at] = seen[0]
    out.position[at] = position
    t = self._patch[0]
    out.position[at, 0] = drawn.frame[::t][position[:, 0]] // t
    out.index[at] = np.arange(count)
    out.segment[at] = m + 1
    # A caption's parts go with the clip's own time, whatever is cut off it.
    starts = canvas.even_starts(len(record.latent), lines)
    line = canvas.line_of(drawn.source[::t], starts)[position[:, 0]]
    out.text_of[at] = self._text_segment(m, line)
    out.group[at] = group + member
    out.group_clip[own] = m + 1
    out.group_index[own] = np.arange(groups)
    if not drawn.by_frame:
      out.group_clean[own] = np.arange(groups)  # the second one, if there is
    out.draw[m], out.tokens_in_clip[m] = entry.draw, count
    return count, groups

  def _empty_row(self) -> batch.Pack:
    info = self._source.info
    patch, width = int(np.prod(self._patch)), info.get('text_width', 0)
    return empty_row(
      self._config.limits,
      patch * info['channels'],
      width,
      patch * self._condition,
    )

  def _texts(
    self, entry: plan.Entry, record: latents.Record
  ) -> list[np.ndarray]:
    """Ids or features of the parts of one caption of a clip, or of none."""
    rng = transforms.generator(self._seed, 'caption', entry.draw)
    captions = self._source.rows[entry.clip].captions
    choice = int(rng.integers(len(captions)))
    dropped = rng.random() < self._config.caption_dropout
    parts = [''] if dropped else transforms.parts(captions[choice])
    if 'text_width' not in self._source.info:
      limit = self._config.limits.text
      return [np.array(transforms.byte_ids(p, limit), np.int32) for p in parts]
    if dropped:
      return [np.array(self._source.info['empty_features'], np.float32)]
    before = sum(len(transforms.parts(c)) for c in captions[:choice])
    return list(record.features[before : before + len(parts)])

  def _write_text(
    self, out: batch.Pack, start: int, m: int, texts: list[np.ndarray]
  ) -> int:
    """Puts a caption into its row; returns the slots that it took."""
    field = out.text_ids if out.text is None else out.text
    for part, values in enumerate(texts):
      at = slice(start, start + len(values))
      field[at] = values
      out.text_segment[at] = self._text_segment(m, 1 + part)
      start = at.stop
    return sum(map(len, texts))

  def _text_segment(self, m: int, line: Any) -> Any:
    """Of a line, from 1, of the caption of a row's clip `m`."""
    return m + 1 + (line - 1) * self._config.limits.clips
