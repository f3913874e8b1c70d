"""Prompt and canvas to latent to frames.

One jitted program samples a micro-batch of clips of one size: text encoder,
every solver step with guidance, and nothing of the request besides. Its shape
is fixed and each clip's noise belongs to its own seed, so a clip has the same
bits whatever else was asked for, in whichever slot, on any number of devices
along data and fsdp.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Float, Int, UInt, UInt8

from sora_jax import (
  batch,
  canvas as canvas_lib,
  config as config_lib,
  flow,
  guidance,
  networks as networks_lib,
  objectives,
  rng,
  samplers,
  sharding,
  tokens,
)
from sora_jax.data import transforms
from sora_jax.models import autoencoder, rope

Params = Any
Networks = networks_lib.Networks

# Latent frames decoded at once: enough to keep a device busy, and memory does
# not grow with the length of the clip.
DECODE_CHUNK = 8


class Request(NamedTuple):
  """One clip to make."""

  prompt: str
  seed: int


class Settings(NamedTuple):
  """How clips are made; see `SampleConfig`."""

  size: batch.Size
  sampler: str
  steps: int
  guidance: float
  guidance_rule: str
  guidance_low: float
  guidance_high: float
  micro_batch: int


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
  for name in ('steps', 'micro_batch'):
    if getattr(settings, name) < 1:
      raise ValueError(f'{name}={getattr(settings, name)} must be 1 or more')
  places = tokens.token_grid(latent_size(net, size), config.model.patch)
  if max(places) > rope.MAX_POSITION:
    raise ValueError(
      f'{size} is {places} tokens along time, height and width; each must be '
      f'{rope.MAX_POSITION} or fewer'
    )


# ------------------------------------------------------------ the programs


def latent_size(
  config: autoencoder.AutoencoderConfig, size: batch.Size
) -> tuple[int, int, int]:
  """Latent frames, rows and columns of a clip."""
  frames = 1 + (size.frames - 1) // config.time
  return frames, size.height // config.space, size.width // config.space


def make_sampler(
  config: config_lib.Config, settings: Settings, mesh: Mesh
) -> Callable[..., Float[Array, 'B N P']]:
  """Compiles once: (params, plan, levels, seeds [B], text ids [B, 2, L]).

  What it returns takes clips to latent tokens [B, N, P]. B is a micro-batch
  for each device along data and fsdp; all clips have the same plan and levels,
  which are arguments, since XLA simplifies what it sees of a constant, and not
  in the same way for every number of devices.
  """
  sampler = samplers.SAMPLERS[settings.sampler]

  def micro_batch(shared, seeds, text_ids):
    params, plan, levels = shared
    x = jax.vmap(lambda seed: _start(plan, seed))(seeds)
    velocity_fn = _velocity(config, settings, plan, levels, params, text_ids)
    start = jnp.broadcast_to(plan.start, x.shape[:2])
    noise_fn = lambda step: jax.vmap(
      lambda seed: _noise(plan, seed, 'sampler', step)
    )(seeds)
    return samplers.integrate(velocity_fn, x, start, levels, sampler, noise_fn)

  return on_each_device(micro_batch, mesh)


def on_each_device(
  function: Callable[..., Any], mesh: Mesh
) -> Callable[..., Any]:
  """Jits `function(shared, *rows)` to run on every device's rows alone.

  Each device sees all of `shared` and a micro-batch of its own, and computes
  what one device would compute alone, to the bit.
  """

  def run(shared, *rows):
    mapped = jax.shard_map(
      function,
      mesh=mesh,
      in_specs=(P(), *(P(sharding.ROWS) for _ in rows)),
      out_specs=P(sharding.ROWS),
      check_vma=False,
    )
    return mapped(shared, *rows)

  return jax.jit(run)


def _start(
  plan: canvas_lib.CanvasTokens, seed: UInt[Array, '']
) -> Float[Array, 'N P']:
  """The canvas, noised to the level that each token starts from."""
  noise = _noise(plan, seed, 'noise')
  return flow.interpolate(
    jnp.asarray(plan.known), noise, jnp.asarray(plan.start)
  )


def _noise(
  plan: canvas_lib.CanvasTokens,
  seed: UInt[Array, ''],
  purpose: str,
  *indices: rng.Index,
) -> Float[Array, 'N P']:
  key = rng.key(jax.random.key(seed), purpose, *indices)
  return rng.token_noise(key, jnp.asarray(plan.index), plan.known.shape[-1])


def _velocity(
  config: config_lib.Config,
  settings: Settings,
  plan: canvas_lib.CanvasTokens,
  levels: Float[Array, ' E'],
  params: Params,
  text_ids: Int[Array, 'm 2 L'],
) -> samplers.VelocityFn:
  """Guided velocity of a micro-batch: rows with and without the prompt."""
  guided = settings.guidance != 1.0
  rule = guidance.RULES[settings.guidance_rule]
  ways = 2 if guided else 1
  rows = text_ids.shape[0] * ways
  ids = text_ids[:, :ways].reshape(rows, -1)
  pack = _pack(plan, rows, ids)
  text = objectives.text_features(config.text, params.get('text'), pack)

  def velocity_fn(x, level):
    x_rows = jnp.repeat(x, ways, axis=0)
    level_rows = jnp.repeat(level, ways, axis=0)
    prediction = objectives.denoise(
        config.model, params['dit'], x_rows, level_rows[:, plan.first], pack,
        text,
    )  # fmt: skip
    velocity = flow.to_velocity(
      prediction, x_rows, level_rows, config.denoising.prediction
    )
    if not guided:
      return velocity
    scale = guidance.within(
      settings.guidance, level, settings.guidance_low, settings.guidance_high
    )
    velocity = rule(velocity[0::2], velocity[1::2], scale)
    if settings.guidance_rule == 'zero_star':
      velocity = jnp.where(level[..., None] > levels[1], 0.0, velocity)
    return velocity

  return velocity_fn


def _pack(
  plan: canvas_lib.CanvasTokens, rows: int, ids: Int[Array, 'R L']
) -> batch.Pack:
  """One clip a row: what surrounds the tokens of a canvas."""
  each = lambda x: jnp.broadcast_to(x, (rows, *np.shape(x)))
  ones = np.ones(len(plan.start), np.int32)
  return batch.Pack(
    tokens=None,
    position=each(plan.position),
    index=each(plan.index),
    segment=each(ones),
    group=each(plan.group),
    group_clip=each(np.ones(len(plan.first), np.int32)),
    group_index=each(np.arange(len(plan.first), dtype=np.int32)),
    text_of=each(plan.text_of),
    text_segment=(ids != transforms.PAD).astype(jnp.int32),
    draw=None,
    tokens_in_clip=None,
    text_ids=ids,
  )


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

  first, later = on_each_device(first, mesh), on_each_device(later, mesh)

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


# ------------------------------------------------------------- the requests


def sample(
  networks: Networks,
  requests: Iterable[Request],
  settings: Settings,
  mesh: Mesh | None = None,
) -> Iterator[Made]:
  """Makes clips from prompts, in the order asked for.

  By default it runs on as many devices as there are micro-batches.

  Raises:
    ValueError: a size, a sampler, a prompt or a seed that cannot be.
  """
  requests = list(requests)
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
  """Places the weights; what it returns compiles once, at its first call."""
  missing = set(networks_lib.KINDS) - set(networks.params)
  if missing:
    raise ValueError(f'the model has no {" and no ".join(sorted(missing))}')
  config = networks.config
  check(config, settings)
  size = latent_size(config.autoencoder, settings.size)
  canvas = canvas_lib.text_to_video(*size, config.model.channels, '')
  plan = canvas_lib.to_tokens(canvas, config.model.patch)
  params = jax.device_put(networks.params, sharding.replicated(mesh))
  alpha = float(flow.shift_alpha(len(plan.start), config.denoising.level))
  levels = samplers.levels_schedule(settings.steps, alpha)
  shared = jax.device_put((params, plan, levels), sharding.replicated(mesh))
  run = make_sampler(config, settings, mesh)
  decode = make_decoder(config.autoencoder, mesh)
  count = mesh.shape['data'] * mesh.shape['fsdp'] * settings.micro_batch

  def generate(requests: list[Request]) -> Iterator[Made]:
    slots = config.sample.text_slots
    ids = np.array([prompt_ids(request.prompt, slots) for request in requests])
    seeds = np.array([_seed(request) for request in requests], np.uint32)
    for i in range(0, len(requests), count):
      # The last clip is repeated to fill the one shape that is compiled.
      fill = np.minimum(np.arange(i, i + count), len(requests) - 1)
      with sharding.use(mesh):
        values = run(shared, seeds[fill], ids[fill])
        z = tokens.unpatchify(values, size, config.model.patch)
        chunks = list(decode(params['autoencoder'], z))
      frames, z = np.concatenate(chunks, axis=1), np.asarray(z)
      for j, request in enumerate(requests[i : i + count]):
        yield Made(request, z[j], frames[j])

  return generate


def prompt_ids(prompt: str, slots: int) -> Int[np.ndarray, '2 L']:
  """A prompt and the empty prompt as padded token ids.

  Raises:
    ValueError: the prompt is empty, or needs more than `slots` ids.
  """
  if not prompt.strip():
    raise ValueError('a prompt is empty; it must say what to show')
  out = np.full((2, slots), transforms.PAD, np.int32)
  for row, text in zip(out, (prompt, ''), strict=True):
    ids = transforms.byte_ids(text, slots)
    row[: len(ids)] = ids
  return out


def _seed(request: Request) -> int:
  if not 0 <= request.seed < 2**32:
    raise ValueError(f'seed {request.seed} must be from 0 to {2**32 - 1}')
  return request.seed
