"""Prompt and canvas to latent to frames, clip by clip."""

import contextlib
import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from sora_jax import (
  batch,
  canvas as canvas_lib,
  captions,
  codec,
  config as config_lib,
  flow,
  guidance,
  memory,
  networks as networks_lib,
  paint,
  rng,
  samplers,
  sharding,
  stepcache,
  tokens,
  windows,
)
from sora_jax.models import autoencoder, dit, rope

Params = Any
Networks = networks_lib.Networks
Settings = paint.Settings

LESS_MEMORY = 'take a smaller --size, --window, --micro_batch or --tile'


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
  side = net.space * config.model.patch[1]
  if size.width % side or size.height % side:
    raise ValueError(
      f'{size.width}x{size.height} pixels: both sides must be multiples of '
      f'{side}, the pixels that one token covers'
    )
  autoencoder.check_size(net, size.frames, size.height, size.width)
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
  if settings.guidance_rule == 'zero_star' and settings.sampler != 'euler':
    raise ValueError(
      f'guidance_rule zero_star stands still at first, and sampler '
      f'{settings.sampler} would go on from that; take euler'
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
    raise ValueError(
      f'shift={settings.shift} must be above 0, where 1 is none, or 0 for that '
      'of training'
    )
  stepcache.check(settings.cache, config.sample.cache_curve)
  for name in ('steps', 'micro_batch'):
    if getattr(settings, name) < 1:
      raise ValueError(f'{name}={getattr(settings, name)} must be 1 or more')
  codec.check_tile(net, settings.tile)
  check_window(settings, net.time, 1 + (size.frames - 1) // net.time)


def check_window(settings: Settings, time: int, latents: int) -> None:
  """Raises ValueError for windows that cannot go on from one another.

  Args:
    settings: How clips are made.
    time: Frames to a latent.
    latents: That are painted, which may be more or fewer than `settings.size`
      has, where something is known.
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
  if latents > most > canvas_lib.FAR:
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
  """This host's devices along data, no more than there are micro-batches.

  A power of two: other numbers of chips are no part of a torus.
  """
  micro_batches = -(-clips // max(1, settings.micro_batch))
  devices = jax.local_devices()
  most = max(1, min(micro_batches, len(devices)))
  devices = devices[: 2 ** int(math.log2(most))]
  return sharding.make_mesh(sharding.MeshConfig(), devices)


def make_generator(
  networks: Networks, settings: Settings, mesh: Mesh
) -> Callable[[list[Request]], Iterator[Made]]:
  """As `Stream`, for any number of clips that fit in memory."""
  stream, count = Stream(networks, settings, mesh), slots(settings, mesh)

  def generate(requests: list[Request]) -> Iterator[Made]:
    stream.listen(requests)
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


class Stream:
  """Makes clips, up to `slots` together, window by window.

  Memory does not grow with their length. Programs compile at their first use,
  and again for another size of canvas, for windows beside the first, and for
  where something is known.
  """

  def __init__(
    self,
    networks: Networks,
    settings: Settings,
    mesh: Mesh,
    tell: Callable[[str], None] = lambda line: None,
  ):
    """Places nothing yet.

    Args:
      networks: All of a model.
      settings: How clips are made.
      mesh: Where.
      tell: Is told of the memory that it takes, before it takes it.

    Raises:
      ValueError: networks or settings that cannot be.
    """
    _check_networks(networks, settings)
    check(networks.config, settings)
    self._networks, self._settings, self._mesh = networks, settings, mesh
    self._tell = tell
    self._encoder = captions.Encoder(
      networks, captions.device_of(settings.text_on_host, mesh), tell
    )
    self._decode = codec.Decoder(
      networks.config.autoencoder, mesh, settings.tile
    )
    self._sampler = functools.cache(
      lambda wrap: paint.make_sampler(networks.config, settings, mesh, wrap)
    )
    self._counted = False
    # What all clips have taken until now, with all that compiles meanwhile.
    self.seconds = {'painting': 0.0, 'decoding': 0.0}

  def listen(self, requests: Iterable[Request]) -> None:
    """Encodes the prompts of requests to come.

    Of those that are heard before anything is painted, the encoder is gone
    when the transformer comes.

    Raises:
      ValueError: a prompt that cannot be, or more than a device can hold.
    """
    lines = '\n'.join(request.prompt for request in requests)
    self._encoder.learn([*lines.split('\n'), self._settings.negative])

  def __call__(self, requests: list[Request]) -> Iterator[Part]:
    """Makes clips whose canvases differ in what is known, but not in where.

    Those without a canvas have an empty one, of `settings.size`.

    Raises:
      ValueError: a request that cannot be, or more than a device can hold.
    """
    # The last clip is repeated to fill the one shape that is compiled.
    fill = range(slots(self._settings, self._mesh))
    filled = [requests[min(i, len(requests) - 1)] for i in fill]
    config = self._networks.config
    empty = blank(config, self._settings.size)
    canvases = [empty if r.canvas is None else r.canvas for r in filled]
    if not config.sample.openings:
      canvases = list(map(canvas_lib.hide, canvases))
    rows = to_rows(filled, canvases, self._encoder, self._settings.negative)
    loop, frames = canvases[0].loop, canvases[0].frames
    window_latents = 1 + (self._settings.window - 1) // config.autoencoder.time
    most = frames if loop else window_latents
    _check_places(canvases[0], most, config.model.patch)
    state, first, last = None, np.array(0), np.array(0)
    for window in windows.split(frames, most, self._settings.overlap):
      parts = [windows.cut(canvas, window) for canvas in canvases]
      if window.done:
        past = last[:, window.at - window.done :]
        for part, a, b in zip(parts, first, past, strict=True):
          part.known[: window.known] = np.concatenate([a, b])
      goes_on = frames > most
      z = self._paint(parts, rows, goes_on)
      z = z[:, window.known : window.frames]
      with sharding.use(self._mesh), self._timed('decoding'):
        state, video = self._decode(self._placed['autoencoder'], z, state, loop)
      z = np.asarray(z)
      first = first if window.done else z[:, :1]
      last = np.concatenate([last, z], axis=1)[:, -most:] if window.done else z
      yield Part(z[: len(requests)], video[: len(requests)])

  @functools.cached_property
  def _placed(self) -> dict[str, Params]:
    """The networks that paint and decode, on every device."""
    config, params = self._networks.config, self._networks.params
    painters = networks_lib.painters(params)
    lean = {k: dit.lean(config.model, v) for k, v in painters.items()}
    lean['autoencoder'] = params['autoencoder']
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(lean))
    devices = self._mesh.local_devices
    memory.check({'weights': weights}, {}, 'take a device with more', devices)
    with sharding.use(self._mesh):  # not that of a run, which may span hosts
      return jax.device_put(lean, sharding.replicated(self._mesh))

  def _paint(
    self,
    canvases: list[canvas_lib.Canvas],
    rows: paint.Rows,
    goes_on: bool = False,
  ) -> Float[Array, 'B F h w C']:
    """Paints canvases of one layout, all of them at once."""
    config, patch = self._networks.config, self._networks.config.model.patch
    known = np.stack([canvas.known for canvas in canvases])
    layout = canvases[0]
    condition = _condition(config, canvases)
    if not layout.start.any():
      return jnp.asarray(known)
    rows = rows._replace(known=tokens.patchify(known, patch))
    if condition is not None:
      rows = rows._replace(condition=tokens.patchify(condition, patch))
    run = self._sampler(layout.frames if layout.loop else 0)
    with sharding.use(self._mesh):
      shared = jax.device_put(
        schedule(config, self._settings, layout),
        sharding.replicated(self._mesh),
      )
      shared = shared._replace(params=networks_lib.painters(self._placed))
      with self._timed('painting'):
        self._count(run, shared, rows, layout, goes_on)
        values = jax.block_until_ready(run(shared, rows))
      return tokens.unpatchify(values, layout.start.shape, patch)

  @contextlib.contextmanager
  def _timed(self, what: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    self.seconds[what] += time.perf_counter() - begun

  def _count(
    self,
    run: Callable[..., Any],
    shared: paint.Shared,
    rows: paint.Rows,
    layout: canvas_lib.Canvas,
    goes_on: bool,
  ) -> None:
    """Tells once of the bytes that the first clips take.

    Args:
      run: What paints.
      shared: Its arguments.
      rows: The same.
      layout: Of a window.
      goes_on: Whether there are others after it.
    """
    if self._counted:
      return
    self._counted = True
    clips = self._placed['autoencoder'], slots(self._settings, self._mesh)
    size = (layout.frames, *layout.start.shape[1:])
    decoding = self._decode.needed(*clips, size, layout.loop, goes_on)
    # What frames to come need of those before is kept while they are painted.
    kept = self._decode.remembered(*clips, size) if goes_on else 0
    parts = {'weights': memory.kept(self._placed)}
    painting = memory.needed(run, shared, rows) + kept
    turns = {'painting': painting, 'decoding': decoding}
    devices = self._mesh.local_devices
    self._tell(memory.check(parts, turns, LESS_MEMORY, devices))


def _check_networks(networks: Networks, settings: Settings) -> None:
  """Raises ValueError where one is missing."""
  needed = {*networks_lib.SYSTEM, *(('dit_low',) if settings.boundary else ())}
  if missing := needed - set(networks.params):
    raise ValueError(
      f'the model has no {" and no ".join(sorted(missing))}; give one that a '
      'run of the diffusion stage has left'
    )


def _check_places(
  layout: canvas_lib.Canvas, most: int, patch: tokens.Patch
) -> None:
  """Raises ValueError where a window would reach beyond the rotary tables."""
  size = (min(layout.frames, most), *layout.start.shape[1:])
  places = tokens.token_grid(size, patch)
  if max(places) > rope.MAX_POSITION:
    raise ValueError(
      f'{places} tokens along time, height and width: each must be '
      f'{rope.MAX_POSITION} or fewer'
    )


def _condition(
  config: config_lib.Config, canvases: list[canvas_lib.Canvas]
) -> Float[np.ndarray, 'B F h w Q'] | None:
  """What the network sees beside the noise; ValueError: it is not there."""
  channels = config.model.condition_channels
  found = {
    0 if c.condition is None else c.condition.shape[-1] for c in canvases
  }
  if found != {channels}:
    raise ValueError(
      f'canvas: {sorted(found)} channels beside the noise; the network sees '
      f'{channels} (`tasks.condition` makes them)'
    )
  return (
    np.stack([np.asarray(c.condition) for c in canvases]) if channels else None
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
  encoder: captions.Encoder,
  negative: str = '',
) -> paint.Rows:
  """Requests as arrays, but for what of their canvases is known.

  Raises:
    ValueError: a seed or a prompt that cannot be, or canvases that are painted
      in different places.
  """
  layout = canvases[0]
  for request, canvas in zip(requests, canvases, strict=True):
    for name in ('start', 'text_of', 'position', 'index', 'loop', 'second'):
      if not np.array_equal(getattr(canvas, name), getattr(layout, name)):
        raise ValueError(
          f'{request.prompt!r} has a canvas of another {name} than the first '
          'one of its batch; sample them apart'
        )
  told = [
    encoder.told(request.prompt, layout.lines, negative) for request in requests
  ]
  return paint.Rows(
    seed=np.array([rng.check_seeds(r.seed) for r in requests], np.uint32),
    known=None,
    text=np.stack([features for features, _ in told]),
    text_segment=np.stack([segment for _, segment in told]),
  )
