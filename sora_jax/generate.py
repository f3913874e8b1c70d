"""Prompt and canvas to latent to frames, clip by clip."""

import hashlib
import operator
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
  flow,
  guidance,
  networks as networks_lib,
  paint,
  samplers,
  sharding,
  stepcache,
  tokens,
)
from sora_jax.data import transforms
from sora_jax.models import autoencoder, rope

Params = Any
Networks = networks_lib.Networks
Settings = paint.Settings

# Latent frames decoded at once: enough to keep a device busy, and memory does
# not grow with the length of the clip.
DECODE_CHUNK = 8


class Request(NamedTuple):
  """One clip to make."""

  prompt: str  # a line for each part of the canvas that has its own
  seed: int
  canvas: canvas_lib.Canvas | None = None  # nothing painted, of settings.size


class Made(NamedTuple):
  """One clip, made."""

  request: Request
  latent: Float[np.ndarray, 'F h w C']  # normalised
  video: UInt8[np.ndarray, 'T H W 3']

  @property
  def digest(self) -> str:
    """SHA-256 of the latent's bytes, float32 and little-endian."""
    return hashlib.sha256(self.latent.astype('<f4').tobytes()).hexdigest()


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
  if not np.isfinite(settings.guidance):
    raise ValueError(f'guidance={settings.guidance} must be a finite number')
  stepcache.check(settings.cache, config.sample.cache_curve)
  for name in ('steps', 'micro_batch'):
    if getattr(settings, name) < 1:
      raise ValueError(f'{name}={getattr(settings, name)} must be 1 or more')
  places = tokens.token_grid(latent_size(net, size), config.model.patch)
  if max(places) > rope.MAX_POSITION:
    raise ValueError(
      f'{size} is {places} tokens along time, height and width; each must be '
      f'{rope.MAX_POSITION} or fewer'
    )


def latent_size(
  config: autoencoder.AutoencoderConfig, size: batch.Size
) -> tuple[int, int, int]:
  """Latent frames, rows and columns of a clip."""
  frames = 1 + (size.frames - 1) // config.time
  return frames, size.height // config.space, size.width // config.space


def make_decoder(
  config: autoencoder.AutoencoderConfig, mesh: Mesh
) -> Callable[[Params, Float[Array, 'B F h w C']], Iterator[np.ndarray]]:
  """Normalised latents to uint8 frames, chunk by chunk in constant memory."""

  def finish(stream, video):
    return stream, to_uint8(video)

  def first(params, z):
    return finish(*autoencoder.decode_chunk(config, params, {}, z))

  def later(params, z, stream):
    return finish(*autoencoder.decode_chunk(config, params, stream, z))

  first, later = (
    paint.on_each_device(first, mesh),
    paint.on_each_device(later, mesh),
  )

  def decode(params, z):
    stream, frames = first(params, z[:, : 1 + DECODE_CHUNK])
    yield np.asarray(frames)
    for i in range(1 + DECODE_CHUNK, z.shape[1], DECODE_CHUNK):
      stream, frames = later(params, z[:, i : i + DECODE_CHUNK], stream)
      yield np.asarray(frames)

  return decode


def to_uint8(video: Float[Array, 'B T H W 3']) -> UInt8[Array, 'B T H W 3']:
  """Pixels in [-1, 1] to 0 ... 255."""
  return jnp.round((video + 1.0) * 127.5).astype(jnp.uint8)


def sample(
  networks: Networks,
  requests: Iterable[Request],
  settings: Settings,
  mesh: Mesh | None = None,
) -> Iterator[Made]:
  """Makes clips from prompts, in the order asked for.

  Their canvases, if they have any, are of one layout.
  By default it runs on as many devices as there are micro-batches.

  Raises:
    ValueError: a size, a sampler, a prompt or a seed that cannot be.
  """
  requests = list(requests)
  if not requests:
    return iter(())
  if mesh is None:
    mesh = mesh_for(len(requests), settings)
  make = make_generator(networks, settings, mesh, requests[0].canvas)
  return make(requests)


def mesh_for(clips: int, settings: Settings) -> Mesh:
  """This host's devices along data, no more than there are micro-batches."""
  micro_batches = -(-clips // max(1, settings.micro_batch))
  devices = jax.local_devices()[: max(1, micro_batches)]
  return sharding.make_mesh(sharding.MeshConfig(), devices)


def make_generator(
  networks: Networks,
  settings: Settings,
  mesh: Mesh,
  layout: canvas_lib.Canvas | None = None,
) -> Callable[[list[Request]], Iterator[Made]]:
  """Places the weights; what it returns compiles once, at its first call.

  Args:
    networks: All three of them.
    settings: How clips are made.
    mesh: Where.
    layout: A canvas whose levels, lines and time are those of every request;
      what is known may differ. Empty, of `settings.size`, by default.
  """
  missing = set(networks_lib.KINDS) - set(networks.params)
  if missing:
    raise ValueError(f'the model has no {" and no ".join(sorted(missing))}')
  config = networks.config
  check(config, settings)
  layout = layout or blank(config, settings.size)
  size = layout.start.shape
  shared = place(networks, settings, mesh, layout)
  wrap = size[0] if layout.loop else 0
  run = paint.make_sampler(config, settings, mesh, wrap)
  decode = make_decoder(config.autoencoder, mesh)
  count = mesh.shape['data'] * mesh.shape['fsdp'] * settings.micro_batch

  def generate(requests: list[Request]) -> Iterator[Made]:
    rows = to_rows(requests, layout, config)
    for i in range(0, len(requests), count):
      # The last clip is repeated to fill the one shape that is compiled.
      fill = np.minimum(np.arange(i, i + count), len(requests) - 1)
      with sharding.use(mesh):
        values = run(shared, jax.tree.map(operator.itemgetter(fill), rows))
        z = tokens.unpatchify(values, size, config.model.patch)
        frames = _decode(decode, shared.params['autoencoder'], z, layout.loop)
      z = np.asarray(z)
      for j, request in enumerate(requests[i : i + count]):
        yield Made(request, z[j], frames[j])

  return generate


def place(
  networks: Networks,
  settings: Settings,
  mesh: Mesh,
  layout: canvas_lib.Canvas,
) -> paint.Shared:
  """Weights, plan and schedule of clips of one layout, on all devices."""
  config = networks.config
  plan = canvas_lib.to_tokens(layout, config.model.patch)
  with sharding.use(mesh):  # not that of a run, which may span hosts
    alpha = float(flow.shift_alpha(len(plan.start), config.denoising.level))
    levels = samplers.levels_schedule(
      settings.steps, alpha, float(plan.start.max())
    )
    calls = None
    if settings.cache:
      visits = samplers.SAMPLERS[settings.sampler].visits(levels)[:-1]
      calls = stepcache.calls(
        visits, alpha, config.sample.cache_curve, settings.cache
      )
    return jax.device_put(
      paint.Shared(networks.params, plan, levels, calls),
      sharding.replicated(mesh),
    )


def blank(config: config_lib.Config, size: batch.Size) -> canvas_lib.Canvas:
  """Nothing known, of a size in pixels and frames."""
  return canvas_lib.text_to_video(
    *latent_size(config.autoencoder, size), config.model.channels
  )


def _decode(
  decode: Callable, params: Params, z: Float[Array, 'B F h w C'], loop: bool
) -> UInt8[np.ndarray, 'B T H W 3']:
  """Frames of latents; of a loop, those of its second lap."""
  laps = jnp.concatenate([z[:, -1:], z, z], axis=1) if loop else z
  frames = np.concatenate(list(decode(params, laps)), axis=1)
  # One frame of the first latent, then as many in each of two laps.
  return frames[:, (1 + frames.shape[1]) // 2 :] if loop else frames


def to_rows(
  requests: list[Request],
  layout: canvas_lib.Canvas,
  config: config_lib.Config,
) -> paint.Rows:
  """Requests as arrays.

  Raises:
    ValueError: a seed or a prompt that cannot be, or a canvas that is painted
      elsewhere than the layout is.
  """
  known = []
  for request in requests:
    canvas = layout if request.canvas is None else request.canvas
    for name in ('start', 'text_of', 'midstream', 'loop'):
      if not np.array_equal(getattr(canvas, name), getattr(layout, name)):
        raise ValueError(
          f'{request.prompt!r} has a canvas of another {name} than the first '
          'one of its batch; sample them apart'
        )
    known.append(canvas_lib.to_tokens(canvas, config.model.patch).known)
  texts = [
    prompt_ids(request.prompt, config.sample.text_slots, layout.lines)
    for request in requests
  ]
  return paint.Rows(
    seed=np.array([_seed(request) for request in requests], np.uint32),
    known=np.stack(known),
    text_ids=np.stack([ids for ids, _ in texts]),
    text_segment=np.stack([segment for _, segment in texts]),
  )


def prompt_ids(
  prompt: str, slots: int, lines: int = 1
) -> tuple[Int[np.ndarray, '2 L'], Int[np.ndarray, '2 L']]:
  """A prompt, and an empty one, as padded token ids; and their lines, from 1.

  Args:
    prompt: Its lines are captions of their own.
    slots: L / lines, the ids that a line may need.
    lines: How many there must be.

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
  for row, captions in enumerate((parts, [''] * lines)):
    end = 0
    for line, caption in enumerate(captions):
      words = transforms.byte_ids(caption, slots)
      ids[row, end : end + len(words)] = words
      segment[row, end : end + len(words)] = line + 1
      end += len(words)
  return ids, segment


def _seed(request: Request) -> int:
  if not 0 <= request.seed < 2**32:
    raise ValueError(f'seed {request.seed} must be from 0 to {2**32 - 1}')
  return request.seed
