"""Prompt and canvas to latent to frames, clip by clip."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from sora_jax import (
  batch,
  canvas as canvas_lib,
  config as config_lib,
  decoder,
  flow,
  guidance,
  memory,
  networks as networks_lib,
  paint,
  samplers,
  sharding,
  stepcache,
  tokens,
  windows,
)
from sora_jax.data import transforms
from sora_jax.models import autoencoder, rope

Params = Any
Networks = networks_lib.Networks
Settings = paint.Settings

LESS_MEMORY = 'take a smaller --size, --window or --micro_batch'


class Request(NamedTuple):
  """One clip to make."""

  prompt: str  # a line for each part of the canvas that has its own
  seed: int
  canvas: canvas_lib.Canvas | None = None  # nothing painted, of settings.size


class Part(NamedTuple):
  """What comes next of some clips."""

  latent: Float[np.ndarray, 'B F h w C']  # normalised
  video: UInt8[np.ndarray, 'B T H W 3']


class Made(NamedTuple):
  """One clip, made."""

  request: Request
  latent: Float[np.ndarray, 'F h w C']  # normalised
  video: UInt8[np.ndarray, 'T H W 3']

  @property
  def digest(self) -> str:
    """SHA-256 of the latent's bytes, float32 and little-endian."""
    return hashlib.sha256(latent_bytes(self.latent)).hexdigest()


def latent_bytes(latent: Float[np.ndarray, 'F h w C']) -> bytes:
  """What is hashed of a latent."""
  return latent.astype('<f4').tobytes()


def settings_of(config: config_lib.SampleConfig) -> Settings:
  """The settings that a model comes with."""
  values = {name: getattr(config, name) for name in Settings._fields}
  return Settings(**values | {'size': batch.parse_size(config.size)})


def check(config: config_lib.Config, settings: Settings) -> None:
  """Raises ValueError for what networks of this config cannot sample."""
  networks_lib.check_statistics(config, 'model')
  size = settings.size
  net = config.autoencoder
  autoencoder.check_size(net, size.frames, size.height, size.width)
  side = net.space * config.model.patch[1]
  if size.width % side or size.height % side:
    raise ValueError(
      f'{size.width}x{size.height} pixels: both sides must be multiples of '
      f'{side}, the pixels that one token covers'
    )
  for name, table in (
    ('sampler', samplers.SAMPLERS),
    ('schedule', samplers.SCHEDULES),
    ('guidance_rule', guidance.RULES),
  ):
    if getattr(settings, name) not in table:
      raise ValueError(
        f'{name} {getattr(settings, name)!r} is unknown; choose from '
        f'{", ".join(table)}'
      )
  if not 0 <= settings.guidance_low < settings.guidance_high <= 1:
    raise ValueError(
      f'guidance_low={settings.guidance_low} and '
      f'guidance_high={settings.guidance_high} must be levels, 0 to 1, the '
      'low one first'
    )
  for name in ('guidance', 'guidance_below'):
    if not np.isfinite(getattr(settings, name)):
      raise ValueError(
        f'{name}={getattr(settings, name)} must be a finite number'
      )
  if not 0 <= settings.boundary < 1:
    raise ValueError(
      f'boundary={settings.boundary} must be a level between two experts, or 0 '
      'where there is one'
    )
  if not 0 <= settings.shift < np.inf:
    raise ValueError(f'shift={settings.shift} must be above 0, or 0 for none')
  stepcache.check(settings.cache, config.sample.cache_curve)
  for name in ('steps', 'micro_batch'):
    if getattr(settings, name) < 1:
      raise ValueError(f'{name}={getattr(settings, name)} must be 1 or more')
  check_window(settings, net.time)


def check_window(settings: Settings, time: int) -> None:
  """Raises ValueError for windows that cannot go on from one another.

  Args:
    settings: How clips are made.
    time: Frames to a latent.
  """
  window, least = settings.window, 1 + 2 * time
  if window < least or (window - 1) % time:
    raise ValueError(
      f'window={window} frames must be 1 + {time} k, and {least} or more'
    )
  most = 1 + (window - 1) // time
  if not 1 <= settings.overlap < most - 1:
    raise ValueError(
      f'overlap={settings.overlap} latents must be from 1 to {most - 2}, as a '
      f'window of {window} frames is an anchor, these and what is new; or '
      f'window must be {1 + time * (settings.overlap + 1)} or more'
    )
  if settings.size.frames > window and most > canvas_lib.FAR:
    raise ValueError(
      f'window={window} frames must be {1 + time * (canvas_lib.FAR - 1)} or '
      'fewer where a clip is longer, or its anchor would be too near'
    )


def latent_size(
  config: autoencoder.AutoencoderConfig, size: batch.Size
) -> tuple[int, int, int]:
  """Latent frames, rows and columns of a clip."""
  frames = 1 + (size.frames - 1) // config.time
  return frames, size.height // config.space, size.width // config.space


def sample(
  networks: Networks,
  requests: Iterable[Request],
  settings: Settings,
  mesh: Mesh | None = None,
) -> Iterator[Made]:
  """Makes clips from prompts, in the order asked for.

  Canvases of clips that are made together are of one layout.
  By default it runs on as many devices as there are micro-batches.

  Raises:
    ValueError: a size, a sampler, a prompt or a seed that cannot be.
  """
  requests = list(requests)
  if not requests:
    return iter(())
  if mesh is None:
    mesh = mesh_for(len(requests), settings)
  return make_generator(networks, settings, mesh)(requests)


def mesh_for(clips: int, settings: Settings) -> Mesh:
  """This host's devices along data, no more than there are micro-batches."""
  micro_batches = -(-clips // max(1, settings.micro_batch))
  devices = jax.local_devices()[: max(1, micro_batches)]
  return sharding.make_mesh(sharding.MeshConfig(), devices)


def make_generator(
  networks: Networks, settings: Settings, mesh: Mesh
) -> Callable[[list[Request]], Iterator[Made]]:
  """As `make_stream`, for any number of clips that fit in memory."""
  stream, count = make_stream(networks, settings, mesh), slots(settings, mesh)

  def generate(requests: list[Request]) -> Iterator[Made]:
    for i in range(0, len(requests), count):
      parts = list(stream(requests[i : i + count]))
      latent, frames = (
        np.concatenate(p, axis=1) for p in zip(*parts, strict=True)
      )
      for j, request in enumerate(requests[i : i + count]):
        yield Made(request, latent[j], frames[j])

  return generate


def slots(settings: Settings, mesh: Mesh) -> int:
  """Clips that are made together."""
  return mesh.shape['data'] * mesh.shape['fsdp'] * settings.micro_batch


def make_stream(
  networks: Networks,
  settings: Settings,
  mesh: Mesh,
  tell: Callable[[str], None] = lambda line: None,
) -> Callable[[list[Request]], Iterator[Part]]:
  """Places the weights; what it returns compiles at its first use.

  It does so again for another size of canvas, for windows beside the first, and
  for where something is known.

  What it returns makes up to `slots` clips together, window by window, in
  memory that does not grow with their length. Their canvases may differ in
  what is known, but not in where. Those without one have an empty one, of
  `settings.size`.

  Args:
    networks: All of a model.
    settings: How clips are made.
    mesh: Where.
    tell: Is told of the memory that it takes, before it takes it.

  Raises:
    ValueError: settings that cannot be, or more than a device can hold.
  """
  _check_networks(networks, settings)
  config = networks.config
  check(config, settings)
  with sharding.use(mesh):  # not that of a run, which may span hosts
    params = jax.device_put(networks.params, sharding.replicated(mesh))
  decode = decoder.Decoder(config.autoencoder, mesh)

  def count(painting: int, layout: canvas_lib.Canvas) -> None:
    decoding = decode.needed(
      params['autoencoder'],
      slots(settings, mesh),
      layout.start.shape,
      layout.loop,
    )
    parts = {'weights': memory.kept(params)}
    turns = {'painting': painting, 'decoding': decoding}
    tell(memory.check(parts, turns, LESS_MEMORY))

  paint_window = _window_painter(config, settings, mesh, params, count)
  window_latents = 1 + (settings.window - 1) // config.autoencoder.time

  def stream(requests: list[Request]) -> Iterator[Part]:
    # The last clip is repeated to fill the one shape that is compiled.
    fill = range(slots(settings, mesh))
    filled = [requests[min(i, len(requests) - 1)] for i in fill]
    empty = blank(config, settings.size)
    canvases = [empty if r.canvas is None else r.canvas for r in filled]
    rows = to_rows(filled, canvases, networks, settings.negative)
    loop = canvases[0].loop
    frames = len(canvases[0].start)
    most = frames if loop else window_latents
    _check_places(canvases[0], most, config.model.patch)
    state, first, last = None, np.array(0), np.array(0)
    for window in windows.split(frames, most, settings.overlap):
      parts = [windows.cut(canvas, window) for canvas in canvases]
      if window.done:
        past = last[:, window.at - window.done :]
        for part, a, b in zip(parts, first, past, strict=True):
          part.known[: window.known] = np.concatenate([a, b])
      z = paint_window(parts, rows)[:, window.known :]
      with sharding.use(mesh):
        state, video = decode(params['autoencoder'], z, state, loop)
      z = np.asarray(z)
      first = first if window.done else z[:, :1]
      last = np.concatenate([last, z], axis=1)[:, -most:] if window.done else z
      yield Part(z[: len(requests)], video[: len(requests)])

  return stream


def _check_networks(networks: Networks, settings: Settings) -> None:
  """Raises ValueError where one is missing, or a device cannot hold them."""
  needed = {*networks_lib.KINDS, *(('dit_low',) if settings.boundary else ())}
  if missing := needed - set(networks.params):
    raise ValueError(
      f'the model has no {" and no ".join(sorted(missing))}; give one that a '
      'run of the diffusion stage has left'
    )
  weights = sum(x.nbytes for x in jax.tree.leaves(networks.params))
  memory.check({'weights': weights}, {}, 'take a device with more')


def _check_places(
  layout: canvas_lib.Canvas, most: int, patch: tokens.Patch
) -> None:
  """Raises ValueError where a window would reach beyond the rotary tables."""
  size = (min(len(layout.start), most), *layout.start.shape[1:])
  places = tokens.token_grid(size, patch)
  if max(places) > rope.MAX_POSITION:
    raise ValueError(
      f'{places} tokens along time, height and width: each must be '
      f'{rope.MAX_POSITION} or fewer'
    )


def _window_painter(
  config: config_lib.Config,
  settings: Settings,
  mesh: Mesh,
  params: Params,
  count: Callable[[int, canvas_lib.Canvas], None],
) -> Callable[[list[canvas_lib.Canvas], paint.Rows], Float[Array, 'B F h w C']]:
  """What paints canvases of one layout, all of them at once.

  Before the first, `count` is told the bytes that painting will take.
  """
  counted = False
  sampler = functools.cache(
    lambda wrap: paint.make_sampler(config, settings, mesh, wrap)
  )

  def paint_window(canvases, rows):
    nonlocal counted
    known = np.stack([canvas.known for canvas in canvases])
    layout = canvases[0]
    beside = _beside(config, canvases)
    if not layout.start.any():
      return jnp.asarray(known)
    patch = config.model.patch
    rows = rows._replace(known=tokens.patchify(known, patch))
    if beside is not None:
      rows = rows._replace(beside=tokens.patchify(beside, patch))
    run = sampler(len(layout.start) if layout.loop else 0)
    with sharding.use(mesh):
      shared = jax.device_put(
        schedule(config, settings, layout), sharding.replicated(mesh)
      )
      shared = shared._replace(params=params)
      if not counted:
        count(memory.needed(run, shared, rows), layout)
        counted = True
      values = run(shared, rows)
      return tokens.unpatchify(values, layout.start.shape, patch)

  return paint_window


def _beside(
  config: config_lib.Config, canvases: list[canvas_lib.Canvas]
) -> Float[np.ndarray, 'B F h w K'] | None:
  """What the network sees beside the noise; ValueError: it is not there."""
  channels = config.model.condition_channels
  found = {0 if c.beside is None else c.beside.shape[-1] for c in canvases}
  if found != {channels}:
    raise ValueError(
      f'canvas: {sorted(found)} channels beside the noise; the network sees '
      f'{channels} (`tasks.beside` makes them)'
    )
  return (
    np.stack([np.asarray(c.beside) for c in canvases]) if channels else None
  )


def schedule(
  config: config_lib.Config, settings: Settings, layout: canvas_lib.Canvas
) -> paint.Shared:
  """What clips of one layout have in common, but for the weights."""
  plan = canvas_lib.to_tokens(layout, config.model.patch)
  by_tokens = flow.shift_alpha(len(plan.start), config.denoising.level)
  alpha = settings.shift or float(by_tokens)
  levels, times = samplers.SCHEDULES[settings.schedule](
    settings.steps, alpha, float(plan.start.max())
  )
  calls = None
  if settings.cache:
    visits = samplers.SAMPLERS[settings.sampler].visits(levels)[:-1]
    calls = stepcache.calls(
      visits, alpha, config.sample.cache_curve, settings.cache
    )
  return paint.Shared(None, plan, levels, calls, times)


def blank(config: config_lib.Config, size: batch.Size) -> canvas_lib.Canvas:
  """Nothing known, of a size in pixels and frames."""
  return canvas_lib.text_to_video(
    *latent_size(config.autoencoder, size), config.model.channels
  )


def to_rows(
  requests: list[Request],
  canvases: list[canvas_lib.Canvas],
  networks: Networks,
  negative: str = '',
) -> paint.Rows:
  """Requests as arrays, but for what of their canvases is known.

  Raises:
    ValueError: a seed or a prompt that cannot be, or canvases that are painted
      in different places.
  """
  layout = canvases[0]
  for request, canvas in zip(requests, canvases, strict=True):
    for name in ('start', 'text_of', 'position', 'index', 'loop'):
      if not np.array_equal(getattr(canvas, name), getattr(layout, name)):
        raise ValueError(
          f'{request.prompt!r} has a canvas of another {name} than the first '
          'one of its batch; sample them apart'
        )
  slots, encode = networks.config.sample.text_slots, networks.tokenizer.encode
  texts = [
    prompt_ids(request.prompt, slots, layout.lines, encode, negative)
    for request in requests
  ]
  return paint.Rows(
    seed=np.array([_seed(request) for request in requests], np.uint32),
    known=None,
    text_ids=np.stack([ids for ids, _ in texts]),
    text_segment=np.stack([segment for _, segment in texts]),
  )


def prompt_ids(
  prompt: str,
  slots: int,
  lines: int = 1,
  encode: Callable[[str, int], list[int]] = transforms.byte_ids,
  negative: str = '',
) -> tuple[Int[np.ndarray, '2 L'], Int[np.ndarray, '2 L']]:
  """A prompt and a negative one as padded token ids; and their lines, from 1.

  Args:
    prompt: Its lines are captions of their own.
    slots: L / lines, the ids that a line may need.
    lines: How many there must be.
    encode: A tokenizer's.
    negative: Of one line, which every part is to move away from.

  Raises:
    ValueError: a line is empty or needs more than `slots` ids, or there are
      more or fewer lines.
  """
  parts = prompt.split('\n')
  if len(parts) != lines:
    raise ValueError(
      f'prompt {prompt!r} has {len(parts)} lines; its canvas has {lines} parts '
      'that listen to a line each'
    )
  if not all(part.strip() for part in parts):
    raise ValueError('a prompt is empty; it must say what to show')
  ids = np.full((2, slots * lines), transforms.PAD, np.int32)
  segment = np.zeros_like(ids)
  for row, captions in enumerate((parts, [negative] * lines)):
    end = 0
    for line, caption in enumerate(captions):
      words = encode(caption, slots)
      ids[row, end : end + len(words)] = words
      segment[row, end : end + len(words)] = line + 1
      end += len(words)
  return ids, segment


def _seed(request: Request) -> int:
  if not 0 <= request.seed < 2**32:
    raise ValueError(f'seed {request.seed} must be from 0 to {2**32 - 1}')
  return request.seed
