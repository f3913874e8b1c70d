"""A corpus to prepared latents: `launch.py prepare`, and `train` by itself.

The DiT trains on what the frozen autoencoder makes of each clip, computed
once. Latents carry the digest of the autoencoder that made them, and are
refused by a run with another one.
"""

import collections
import math
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import Array, Float

from sora_jax import (
  batch,
  canvas,
  codec,
  config as config_lib,
  corpus,
  networks as networks_lib,
  objectives,
  sharding,
  sizing,
)
from sora_jax.data import latents, pieces, pipeline, sources, transforms
from sora_jax.models import autoencoder, onednn, text
from sora_jax.weights import directory

Params = Any
EncodeText = Callable[[str, int], list[int]]  # of a tokenizer

# Clips of one size that are encoded together.
ENCODE_BATCH = 8
# Pixels of all their frames that are encoded at once; it bounds memory.
MOST_PIXELS = 2**24
# Clips that may wait for others of their size, which bounds memory.
MOST_WAITING = 64
MOST_SIZES = 64  # that a model says it has learned
TOLD_EVERY = 1024  # clips between two lines that say how far it is


def check(config: config_lib.Config) -> None:
  """Raises ValueError for a corpus that is not to be prepared."""
  if config.data.beside:
    raise ValueError(
      f'data.beside={config.data.beside}: only an autoencoder learns from two '
      'corpora'
    )


def main(config: config_lib.Config, flags: types.SimpleNamespace) -> None:
  """`launch.py prepare`: writes `latents` in the working directory."""
  if flags.data:
    config.data.corpus = pipeline.Corpus.FOLDER
    config.data.path = flags.data
  check(config)
  onednn.use(config.run.onednn)
  sharding.use_cores(ENCODE_BATCH)
  frozen = networks_lib.read_frozen(config)
  sizing.fit_tokens(config)
  out = latents_of(config, flags.workdir)
  if out.exists():
    raise ValueError(f'{out} exists already; remove it to prepare it again')
  prepare_once(config, frozen, unprepared(config, out), out)
  made = latents.LatentSource(out)
  print(f'{out}: {len(made)} clips; {made.info["left_out"]} left out')


def unprepared(config: config_lib.Config, out: epath.Path) -> Any | None:
  """The corpus, if it is still to be prepared; None where it lies in `out`.

  Raises:
    ValueError: it cannot be read, or a clip does not fit the limits.
  """
  missing = np.array(not out.exists())
  if jax.process_count() > 1:
    # One looks for all: a late one would find what the first has made.
    missing = multihost_utils.broadcast_one_to_all(missing)
  if not missing:
    return None
  source = corpus.open_corpus(config.data, out.parent)
  encode = networks_lib.read_tokenizer(config).encode
  sharding.on_first(
    lambda: _check_clips(source, config, encode), 'looking through the corpus'
  )
  return source


def prepare_once(
  config: config_lib.Config,
  frozen: dict[str, Params],
  source: Any,
  out: epath.Path,
) -> None:
  """Prepares what `unprepared` gave, on process 0; the others wait for it.

  Raises:
    ValueError: none of its clips can be read.
  """
  sharding.on_first(
    lambda: prepare(config, frozen, source, out), 'preparing latents'
  )


def prepare(
  config: config_lib.Config,
  frozen: dict[str, Params],
  source: Any,
  out: epath.Path,
) -> None:
  """Encodes every clip of a corpus, and captions if their encoder is frozen.

  Raises:
    ValueError: none can be read.
  """
  encode_text = networks_lib.read_tokenizer(config).encode
  devices = jax.local_devices()
  devices = devices[: math.gcd(ENCODE_BATCH, len(devices))]
  mesh = sharding.make_mesh(sharding.MeshConfig(), devices)
  encode = codec.make_encoder(
    config.autoencoder, frozen['autoencoder'], mesh, most_pixels=MOST_PIXELS
  )
  features = _feature_fn(config, frozen.get('text'), encode_text)
  net, restarts = config.autoencoder, pieces.restarts(config.data.shares)
  count, used, start = 0, set(), time.monotonic()
  turns = collections.Counter()  # of batches of each size
  with sharding.use(mesh), latents.Writer(out) as writer:
    for clips in _batches(_clips(source, config)):
      if config.model.condition_channels and len(clips[0].video) == 1:
        logging.warning(
          '%d stills are left out, as the network would be shown all of them',
          len(clips),
        )
        continue
      # The last clip is repeated to fill the one shape that is compiled.
      fill = [clips[min(i, len(clips) - 1)] for i in range(ENCODE_BATCH)]
      video = np.stack([clip.video for clip in fill])
      z = encode(video)
      again = seen = [None] * len(clips)
      if config.model.condition_channels:
        seen = _condition(encode, video, net.time)
      if restarts and z.shape[1] > 1:
        at = pieces.restart_at(z.shape[1], turns[z.shape])
        turns[z.shape] += 1
        again = _encode_from(at, encode, video, net.time)
      of_clips = zip(clips, z, again, seen, strict=False)
      for clip, latent, restart, condition in of_clips:
        captions = clip.caption.splitlines() or ['']
        slots = max(_slots(c, config, encode_text) for c in captions)
        anew = 0 if restart is None else len(restart) - 1
        row = latents.Row(clip.id, latent.shape[:3], captions, slots, anew)
        parts = sum(map(transforms.parts, captions), [])
        texts = tuple(map(features, parts)) if features else ()
        writer.write(row, latents.Record(latent, texts, restart, condition))
        count += 1
        used.add(clip.id.partition('+')[0])
        if count % TOLD_EVERY == 0:
          _tell(count, len(source), time.monotonic() - start)
    if not count:
      raise ValueError(
        f'none of the {len(source)} clips of the corpus could be prepared'
      )
    info = {
      'channels': config.autoencoder.channels,
      'left_out': len(source) - len(used),
      'openings': restarts,
      'condition': config.model.condition_channels,
      'made_of': _made_of(config),
      **_digests(frozen),
    }
    if features:
      empty = features('')
      info['empty_features'] = empty.tolist()
      info['text_width'] = empty.shape[-1]
    writer.finish(info)


def _encode_from(
  at: int, encode: codec.Encode, video: codec.Frames, time: int
) -> codec.Latents:
  """The image latent of the last frame of the latent `at`, and what follows it.

  Args:
    at: a latent frame.
    encode: from `codec.make_encoder`.
    video: clips.
    time: frames that a latent after the first covers.
  """
  # Of the same length, which is compiled already: what follows the end changes
  # nothing before it.
  z = encode(np.roll(video, -time * at, axis=1))
  return z[:, : z.shape[1] - at]


def _condition(
  encode: codec.Encode, video: codec.Frames, time: int
) -> list[Float[np.ndarray, 'F h w Q']]:
  """What a network that starts from an image sees of clips: their frame 0."""
  pixels = np.zeros(video.shape, np.float32)
  pixels[:, :1] = objectives.to_pixels(jnp.asarray(video[:, :1]))
  known = np.zeros(video.shape[1], np.float32)
  known[0] = 1
  z = encode(pixels)
  return [canvas.condition(known, latent, time) for latent in z]


def _tell(count: int, total: int, seconds: float) -> None:
  print(
    f'prepared {count:,} of about {total:,} clips, '
    f'{count / seconds:.3g} clips/s',
    flush=True,
  )


def _slots(
  caption: str, config: config_lib.Config, encode_text: EncodeText
) -> int:
  """Text slots that the parts of a caption take; ValueError: too many."""
  limit = config.data.limits.text
  slots = sum(len(encode_text(p, limit)) for p in transforms.parts(caption))
  if slots > limit:
    raise ValueError(
      f'caption of {slots} tokens does not fit {limit} text slots: '
      f'{caption[:40]!r}...'
    )
  return slots


def _check_clips(
  source: Any, config: config_lib.Config, encode_text: EncodeText
) -> None:
  """Raises ValueError for a clip that no row of a batch could hold."""
  limits, most = config.data.limits, sizing.longest(config)
  for index in range(len(source)):
    try:
      captions, info = source.captions(index), source.info(index)
    except (sources.BrokenVideo, OSError):
      continue  # told when it is encoded
    try:
      for caption in captions:
        _slots(caption, config, encode_text)
    except ValueError as error:
      raise ValueError(
        f'clip {index}: {error}; raise data.limits.text'
      ) from error
    frames, rows, columns = sizing.token_grid(info, config, most)
    shares = config.data.shares
    needs = {
      'tokens': pieces.most_latents(shares, frames) * rows * columns,
      'groups': pieces.groups(shares, frames),
    }
    for name, needed in needs.items():
      if needed > (limit := getattr(limits, name)):
        raise ValueError(
          f'clip {index} needs {needed} {name}, but data.limits.{name} is '
          f'{limit}: raise it to {needed}, or use smaller clips'
        )


def _clips(source: Any, config: config_lib.Config) -> Iterator[batch.Clip]:
  """Windows of clips, at sizes that the autoencoder and the DiT can take.

  They are read ahead, by `data.workers`, as a batch of training is.
  """
  reader = _WindowReader(source, config)
  for clip in pipeline.iterate(reader, 0, config.data, end=len(reader)):
    if isinstance(clip, str):
      logging.warning('%s', clip)
    else:
      yield clip


class _WindowReader:
  """Number of a window -> its clip, or a line that says what is wrong."""

  def __init__(self, source: Any, config: config_lib.Config):
    self._source, self._side = source, sizing.side(config)
    self._most = sizing.longest(config)
    self._windows = [
      (index, *window)
      for index in range(len(source))
      for window in self._cut(index)
    ]

  def __len__(self) -> int:
    return len(self._windows)

  def _cut(self, index: int) -> list[tuple[int, int]]:
    """Windows of a clip; an empty one, told when read, if it is damaged."""
    try:
      frames = self._source.info(index).frames
    except (sources.BrokenVideo, OSError):
      return [(0, 0)]
    return sizing.windows(frames, (self._most.frames if self._most else frames))

  def __call__(self, number: int) -> batch.Clip | str:
    index, start, count = self._windows[number]
    try:
      info = self._source.info(index)
      captions = '\n'.join(self._source.captions(index))
      target = self._most or info
      width, height = sizing.native_size(info, target, self._side)
      frames = self._source.window(index, start, count)
    except (sources.BrokenVideo, OSError) as error:
      return f'clip {index} is left out: {error}'
    frames = transforms.cover(frames, width, height)
    return batch.Clip(frames, captions, 0.0, f'{index}+{start}')


def _batches(clips: Iterator[batch.Clip]) -> Iterator[list[batch.Clip]]:
  """Groups of up to ENCODE_BATCH clips of one size."""
  waiting: dict[tuple[int, ...], list[batch.Clip]] = {}
  for clip in clips:
    group = waiting.setdefault(clip.video.shape, [])
    group.append(clip)
    if len(group) == ENCODE_BATCH:
      yield waiting.pop(clip.video.shape)
    elif sum(map(len, waiting.values())) >= MOST_WAITING:
      yield waiting.pop(next(iter(waiting)))  # the size that has waited longest
  yield from waiting.values()


def _feature_fn(
  config: config_lib.Config, params: Params | None, encode_text: EncodeText
) -> Any:
  """Caption to float32 [L, E] by the frozen encoder; None where it trains."""
  if params is None:
    return None
  slots = config.data.limits.text
  params = jax.device_put(params)

  @jax.jit
  def encode(params, ids):
    segment = (ids != transforms.PAD).astype(jnp.int32)
    return text.T5Encoder(config.text).apply({'params': params}, ids, segment)

  def features(caption: str) -> Float[np.ndarray, 'L E']:
    ids = encode_text(caption, slots)
    padded = np.full((1, slots), transforms.PAD, np.int32)
    padded[0, : len(ids)] = ids
    return np.asarray(encode(params, padded)[0, : len(ids)], np.float32)

  return features


def _digests(frozen: dict[str, Params]) -> dict[str, str]:
  """SHA-256 of the networks that latents and features come from."""
  return {
    name: networks_lib.digest(frozen[name]) if name in frozen else ''
    for name in ('autoencoder', 'text')
  }


def _made_of(config: config_lib.Config) -> dict[str, Any]:
  """The fields of a config that say which clips there are."""
  data = config_lib.to_dict(config.data)
  names = ('corpus', 'world', 'path', 'split', 'clips', 'sizes')
  names += ('video_key', 'caption_key')
  return {name: data[name] for name in names}


def check_origin(
  source: latents.LatentSource,
  frozen: dict[str, Params],
  config: config_lib.Config,
) -> None:
  """Raises ValueError where other networks, or clips, made the latents.

  Latents that `data.latents` names may be of any clips.
  """
  for name, ours in _digests(frozen).items():
    theirs = source.info[name]
    if theirs != ours:
      raise ValueError(
        f'{source.directory} was prepared with another {name} '
        f'({theirs[:12] or "none"}, {name}_from is {ours[:12] or "none"}); '
        'remove it to prepare it again'
      )
  if config.data.latents:
    return
  made_of = source.info['made_of']
  for name, ours in _made_of(config).items():
    if (theirs := made_of.get(name)) != ours:
      raise ValueError(
        f'{source.directory} was prepared from data.{name}={theirs!r}, and '
        f'this run has {ours!r}; remove it to prepare it again'
      )


def learned(
  config: config_lib.Config, workdir: epath.PathLike
) -> tuple[str, ...]:
  """Sizes of the clips of a run, and of the model that it started from.

  Of clips of equal sides the longest, and stills by themselves; the most
  frequent MOST_SIZES.
  """
  net = config.autoencoder
  longest, count = {}, collections.Counter()
  for row in latents.LatentSource(latents_of(config, workdir)).rows:
    frames, height, width = row.size
    sides = width * net.space, height * net.space, frames > 1
    longest[sides] = max(frames, longest.get(sides, 0))
    count[sides] += 1
  before = config.sample.sizes
  if config.init_from and directory.is_model(config.init_from):
    before = networks_lib.describe(config.init_from).sample.sizes
  for size in map(batch.parse_size, before):
    sides = size.width, size.height, size.frames > 1
    frames = 1 + (size.frames - 1) // net.time
    longest[sides] = max(frames, longest.get(sides, 0))
    count[sides] += 1
  return tuple(
    str(batch.Size(width, height, 1 + net.time * (longest[sides] - 1)))
    for sides, _ in count.most_common(MOST_SIZES)
    for width, height, _ in [sides]
  )


def latents_of(
  config: config_lib.Config, workdir: epath.PathLike
) -> epath.Path:
  """Where the latents of a run lie."""
  return epath.Path(config.data.latents or epath.Path(workdir) / 'latents')


def latent_statistics(
  config: autoencoder.AutoencoderConfig,
  params: Params,
  batches: Iterator[batch.Frames],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation of each latent channel over some batches."""
  net = autoencoder.Autoencoder(config)

  @jax.jit
  def sums(params, frames) -> tuple[Array, Array, Array]:
    pixels = objectives.to_pixels(frames.video)
    z, _ = net.apply({'params': params}, pixels, method='encode')
    seen = (frames.draw >= 0).astype(jnp.float32)[:, None, None, None, None]
    size = z.shape[1] * z.shape[2] * z.shape[3]
    axes = (0, 1, 2, 3)
    return jnp.sum(seen) * size, (z * seen).sum(axes), (z**2 * seen).sum(axes)

  first = second = np.zeros(config.channels)
  count = 0.0
  for frames in batches:
    parts = [np.asarray(x, np.float64) for x in sums(params, frames)]
    count, first = count + parts[0], first + parts[1]
    second = second + parts[2]
  mean = first / count
  std = np.sqrt(np.maximum(second / count - mean**2, 1e-12))
  return tuple(mean.tolist()), tuple(std.tolist())
