"""The jitted program that fills in a micro-batch of canvases.

Every solver step with guidance, and nothing of the request besides. Its shape
is fixed and each clip's noise belongs to its own seed, so a clip has the same
bits whatever else was asked for, in whichever slot, on any number of devices
along data and fsdp.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt

from sora_jax import (
  batch,
  canvas as canvas_lib,
  config as config_lib,
  flow,
  guidance,
  objectives,
  rng,
  samplers,
  sharding,
  stepcache,
)

Params = Any


class Settings(NamedTuple):
  """How clips are made; see `SampleConfig`."""

  size: batch.Size
  sampler: str
  steps: int
  schedule: str
  shift: float
  guidance: float
  guidance_rule: str
  guidance_low: float
  guidance_high: float
  boundary: float
  guidance_below: float
  one_level: bool
  text_on_host: bool
  tile: int
  micro_batch: int
  window: int
  overlap: int
  cache: float
  negative: str


class Shared(NamedTuple):
  """What all clips of a program have in common."""

  params: Params  # of the transformer, or of two: {'dit', 'dit_low'}
  plan: canvas_lib.CanvasTokens
  levels: Float[Array, ' E']
  calls: Bool[Array, ' V'] | None = None  # of the network; None: every one
  times: Float[Array, ' E'] | None = None  # of `levels`, as the network is told


class Rows(NamedTuple):
  """What is of each clip alone."""

  seed: Any  # uint32 [B]
  known: Any  # float32 [B, N, P]
  text: (
    Any  # float32 [B, 2, L, E]: of the prompt, and of what to move away from
  )
  text_segment: Any  # int32 [B, 2, L]: line of the prompt, from 1; 0: empty
  condition: Any = None  # float32 [B, N, Q]: patches beside the noisy ones


def make_sampler(
  config: config_lib.Config, settings: Settings, mesh: Mesh, wrap: int = 0
) -> Callable[[Shared, Rows], Float[Array, 'B N P']]:
  """Compiles once what takes clips to latent tokens.

  B is a micro-batch for each device along data and fsdp. The plan and the
  levels are arguments, since XLA simplifies what it sees of a constant, and not
  in the same way for every number of devices.

  Args:
    config: Of the networks.
    settings: How clips are made.
    mesh: Where.
    wrap: Latent frames after which time begins anew; 0 for never.
  """

  def micro_batch(shared, rows):
    return _walk(config, settings, shared, rows, wrap).x

  return on_each_device(micro_batch, mesh)


def make_meter(
  config: config_lib.Config, settings: Settings, mesh: Mesh
) -> Callable[[Shared, Rows], Float[Array, 'R V-1']]:
  """Compiles what makes clips to tell how their predictions change meanwhile.

  R counts the rows that the network sees, those without the prompt too, and V
  the visits; see `stepcache.changes`.
  """

  def micro_batch(shared, rows):
    walk = _walk(config, settings, shared, rows)
    return stepcache.changes(walk.predictions)

  return on_each_device(micro_batch, mesh)


def _walk(
  config: config_lib.Config,
  settings: Settings,
  shared: Shared,
  rows: Rows,
  wrap: int = 0,
) -> samplers.Walk:
  """A micro-batch from its noise to its latents."""
  plan, clips = shared.plan, len(rows.seed)
  stories = 1 if plan.second is None else 2
  rows = jax.tree.map(lambda x: jnp.repeat(x, stories, axis=0), rows)
  noise = functools.partial(_noise, plan, rows.seed)
  start = jnp.tile(_starts(plan), (clips, 1))
  is_known, drawn = (start == 0)[..., None], noise('noise')
  if settings.one_level:
    start = jnp.where(start == 0, plan.start.max(), start)

  def noised(x, level):
    """Known tokens are as noisy as the others, where they must be."""
    if not settings.one_level:
      return x
    return jnp.where(is_known, flow.interpolate(rows.known, drawn, level), x)

  walk = samplers.integrate(
    _predict(config, settings, shared, rows, wrap, noised),
    _velocity(settings, shared),
    flow.interpolate(rows.known, drawn, start),
    start,
    shared.levels,
    samplers.SAMPLERS[settings.sampler],
    lambda step: noise('sampler', step),
    shared.calls,
  )
  if settings.one_level:
    walk = walk._replace(x=jnp.where(is_known, rows.known, walk.x))
  if plan.second is not None:
    first, second = walk.x[0::2], walk.x[1::2]
    nearer = plan.second[None, :, None] < 0.5
    walk = walk._replace(x=jnp.where(nearer, first, second))
  return walk


def _starts(plan: canvas_lib.CanvasTokens) -> Float[Array, 'S N']:
  """Levels that each of S stories starts from; one knows its own end only."""
  if plan.second is None:
    return jnp.asarray(plan.start)[None]
  other = plan.start.max()
  own = [jnp.where(plan.second == end, plan.start, other) for end in (0, 1)]
  return jnp.stack(own)


def _lines(plan: canvas_lib.CanvasTokens) -> Int[Array, 'S N']:
  """Lines of the prompt that each of S stories listens to."""
  if plan.second is None:
    return jnp.asarray(plan.text_of)[None]
  return jnp.broadcast_to(1 + np.arange(2)[:, None], (2, len(plan.start)))


def _segments(plan: canvas_lib.CanvasTokens) -> Int[Array, 'S N']:
  """1 where each of S stories sees a token; what is shown opens the second."""
  every = jnp.ones((1, len(plan.start)), jnp.int32)
  if plan.second is None:
    return every
  return jnp.concatenate([jnp.where(plan.shown, 0, every), every])


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


def _noise(
  plan: canvas_lib.CanvasTokens,
  seeds: UInt[Array, ' m'],
  purpose: str,
  *indices: rng.Index,
) -> Float[Array, 'm N P']:
  """Noise of one purpose for the tokens of every clip, by its own seed."""

  def of_clip(seed):
    key = rng.key(jax.random.key(seed), purpose, *indices)
    return rng.token_noise(key, jnp.asarray(plan.index), plan.known.shape[-1])

  return jax.vmap(of_clip)(seeds)


def _ways(settings: Settings) -> int:
  """Rows of the network for a clip: with the prompt, and without if guided."""
  scales = {settings.guidance}
  if settings.boundary:
    scales.add(settings.guidance_below)
  return 1 if scales == {1.0} else 2


def _predict(
  config: config_lib.Config,
  settings: Settings,
  shared: Shared,
  rows: Rows,
  wrap: int,
  noised: Callable[[Array, Array], Array],
) -> samplers.PredictFn:
  """The clean data that the network sees in each row of a micro-batch."""
  ways = _ways(settings)
  plan, params, levels = shared.plan, shared.params, shared.levels
  pack = _pack(plan, rows, ways)

  def predict_fn(x, level):
    x_rows = jnp.repeat(noised(x, level), ways, axis=0)
    level_rows = jnp.repeat(level, ways, axis=0)
    seen = pack
    if wrap:
      seen = pack._replace(position=_turned(pack.position, level, levels, wrap))
    told = _told(level_rows, levels, shared.times)[:, plan.first]

    def expert(name):
      return objectives.denoise(
        config.model, params[name], x_rows, told, seen, seen.text
      )

    if settings.boundary:
      prediction = jax.lax.cond(
        told.max() < settings.boundary,
        lambda: expert('dit_low'),
        lambda: expert('dit'),
      )
    else:
      prediction = expert('dit')
    return flow.to_x0(
      prediction, x_rows, level_rows, config.denoising.prediction
    )

  return predict_fn


def _told(
  level: Float[Array, 'R N'],
  levels: Float[Array, ' E'],
  times: Float[Array, ' E'] | None,
) -> Float[Array, 'R N']:
  """What the network is told of levels: their times, where they have some."""
  if times is None:
    return level
  levels, level_RN1 = levels[None, None], level[..., None]
  place = jnp.sum(levels > level_RN1, axis=-1)
  scheduled = jnp.any(levels == level_RN1, axis=-1)
  return jnp.where(scheduled, jnp.take(times, place), level)


def _velocity(settings: Settings, shared: Shared) -> samplers.VelocityFn:
  """Guided velocity of a micro-batch by its clean data."""
  ways, plan = _ways(settings), shared.plan

  def velocity_fn(clean, x, level):
    velocity = flow.to_velocity(
      clean,
      jnp.repeat(x, ways, axis=0),
      jnp.repeat(level, ways, axis=0),
      flow.Prediction.X0,
    )
    if ways == 2:
      velocity = _guided(settings, shared, velocity, level)
    if plan.second is None:
      return velocity
    made, share = jnp.asarray(plan.start) > 0, jnp.asarray(plan.second)
    return _blended(velocity, made, share)

  return velocity_fn


def _guided(
  settings: Settings,
  shared: Shared,
  velocity: Float[Array, 'R N P'],
  level: Float[Array, 'm N'],
) -> Float[Array, 'm N P']:
  """One velocity of that with the prompt and that without."""
  levels = shared.levels
  scale = jnp.float32(settings.guidance)
  if settings.boundary:
    told = _told(level, levels, shared.times).max()
    scale = jnp.where(told < settings.boundary, settings.guidance_below, scale)
  scale = guidance.within(
    scale, level, settings.guidance_low, settings.guidance_high
  )
  rule = guidance.RULES[settings.guidance_rule]
  velocity = rule(velocity[0::2], velocity[1::2], scale)
  if settings.guidance_rule == 'zero_star':
    velocity = jnp.where(level[..., None] > levels[1], 0.0, velocity)
  return velocity


def _blended(
  velocity: Float[Array, 'm N P'],
  made: Bool[Array, ' N'],
  share: Float[Array, ' N'],
) -> Float[Array, 'm N P']:
  """Velocities of two stories a clip, which are one between their ends."""
  first, second = velocity[0::2], velocity[1::2]
  share, made = share[None, :, None], made[None, :, None]
  between = (1 - share) * first + share * second
  blend = lambda own: jnp.where(made, between, own)
  return jnp.stack([blend(first), blend(second)], 1).reshape(velocity.shape)


def _turned(
  position: Int[Array, 'R N 3'],
  level: Float[Array, 'm N'],
  levels: Float[Array, ' E'],
  wrap: int,
) -> Int[Array, 'R N 3']:
  """A loop begun elsewhere at each level, so that its seam is nowhere.

  Latent frames 1 ... wrap are turned by the golden section of a lap for every
  level that lies behind, which no two near levels share.
  """
  behind = jnp.sum(levels > level.max())
  turn = behind * max(1, round(wrap * (3 - 5**0.5) / 2))
  frame = 1 + (position[..., 0] - 1 + turn) % wrap
  return position.at[..., 0].set(frame)


def _pack(plan: canvas_lib.CanvasTokens, rows: Rows, ways: int) -> batch.Pack:
  """One clip a row: what surrounds the tokens of a canvas."""
  count = rows.text.shape[0] * ways
  each = lambda x: jnp.broadcast_to(x, (count, *np.shape(x)))
  text = lambda x: x[:, :ways].reshape(count, *x.shape[2:])
  condition = rows.condition
  if condition is not None:
    condition = jnp.repeat(condition, ways, axis=0)
  of_stories = lambda x: jnp.repeat(
    jnp.tile(x, (count // ways // len(x), 1)), ways, 0
  )
  return batch.Pack(
    tokens=None,
    position=each(plan.position),
    index=each(plan.index),
    segment=of_stories(_segments(plan)),
    group=each(plan.group),
    group_clip=each(np.ones(len(plan.first), np.int32)),
    group_index=each(np.arange(len(plan.first), dtype=np.int32)),
    group_clean=None,
    text_of=of_stories(_lines(plan)),
    text_segment=text(rows.text_segment),
    draw=None,
    tokens_in_clip=None,
    text=text(rows.text),
    condition=condition,
  )
