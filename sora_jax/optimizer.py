"""AdamW or Muon, with a schedule, a decay mask, an average and a NaN guard.

Everything is a pure function of arrays, so one `jit` of the train step holds
it all, sharded and donated. The state is the run's dict
`{step, trainable, frozen, ema, opt, counters}`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax import tree_util
from jaxtyping import Array, Bool, Float, Int, PyTree


@dataclasses.dataclass(kw_only=True)
class OptimConfig:
  """How parameters move; every 0 marked so switches its part off."""

  method: str = 'adamw'  # a key of METHODS
  learning_rate: float = 3e-4  # at the peak
  schedule: str = 'cosine'  # a key of SCHEDULES
  warmup_steps: int = 500
  end_fraction: float = 0.1  # of the peak, reached at the last step
  decay_fraction: float = 0.2  # of the steps after warm-up; 'wsd' only
  b1: float = 0.9
  b2: float = 0.99
  eps: float = 1e-8
  weight_decay: float = 0.01  # times the learning rate, as in AdamW
  clip_norm: float = 1.0  # global norm of the gradients; 0 is off
  ema_decay: float = 0.999  # reached after a warm-up, see `update_ema`
  max_bad_steps: int = 20  # non-finite steps in a row before a run stops


def check(config: OptimConfig) -> None:
  """Raises ValueError for numbers that cannot be; so does `make_optimizer`."""
  if config.max_bad_steps < 1:
    raise ValueError(f'{config.max_bad_steps=} must be 1 or more')
  for name in ('b1', 'b2', 'ema_decay'):
    if not 0 <= getattr(config, name) < 1:
      raise ValueError(
        f'optim.{name}={getattr(config, name)} must be in [0, 1)'
      )
  for name in ('learning_rate', 'eps', 'weight_decay', 'clip_norm'):
    if not getattr(config, name) >= 0:
      raise ValueError(
        f'optim.{name}={getattr(config, name)} must be 0 or more'
      )


def constant(
  progress: Float[Array, ''], config: OptimConfig
) -> Float[Array, '']:
  """Stays at the peak."""
  del config
  return jnp.ones_like(progress)


def cosine(progress: Float[Array, ''], config: OptimConfig) -> Float[Array, '']:
  """Half a cosine from the peak to `end_fraction` of it.

  Source: Loshchilov and Hutter 2017 (arXiv:1608.03983), eq. 5, no restart.
  """
  end = config.end_fraction
  return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def warmup_stable_decay(
  progress: Float[Array, ''], config: OptimConfig
) -> Float[Array, '']:
  """Stays at the peak, then falls in a line over the last `decay_fraction`.

  A run can be lengthened from any checkpoint of the flat part.
  Source: Hu et al. 2024 (arXiv:2404.06395), section 4.
  """
  left = jnp.minimum(1.0, (1 - progress) / config.decay_fraction)
  return config.end_fraction + (1 - config.end_fraction) * left


# A schedule maps progress after warm-up, 0 to 1, to a fraction of the peak.
SCHEDULES: dict[str, Callable] = {
  'constant': constant,
  'cosine': cosine,
  'wsd': warmup_stable_decay,
}


def make_schedule(config: OptimConfig, total_steps: int) -> optax.Schedule:
  """Learning rate by step: a linear warm-up, then the chosen shape.

  Step 0 already moves by 1 / warmup_steps of the peak; the last step,
  `total_steps - 1`, has the end of the shape.

  Raises:
    ValueError: an unknown schedule, a fraction out of range, or a warm-up
      longer than the run.
  """
  if config.schedule not in SCHEDULES:
    raise ValueError(
      f'optim.schedule={config.schedule!r} is unknown; choose from '
      f'{", ".join(SCHEDULES)}'
    )
  if not 0 < config.decay_fraction <= 1:
    raise ValueError(
      f'optim.decay_fraction={config.decay_fraction} must be in (0, 1]'
    )
  if not 0 <= config.warmup_steps <= total_steps:
    raise ValueError(
      f'optim.warmup_steps={config.warmup_steps} must be between 0 and the '
      f'{total_steps} steps of the run; shorten the warm-up'
    )
  shape = SCHEDULES[config.schedule]
  warmup = config.warmup_steps

  def schedule(step: jax.typing.ArrayLike) -> Float[Array, '']:
    step = jnp.asarray(step, jnp.float32)
    rise = jnp.minimum(1.0, (step + 1) / max(1, warmup))
    progress = (step - warmup) / max(1, total_steps - 1 - warmup)
    fraction = shape(jnp.clip(progress, 0.0, 1.0), config)
    return config.learning_rate * rise * fraction

  return schedule


def decay_mask(params: PyTree) -> PyTree:
  """True where weight decay applies: leaves named `kernel`.

  The name decides, never the rank: scanned layers are stacked, which makes
  their biases matrices. Boxed parameters keep the name of their box.
  """

  return tree_util.tree_map_with_path(lambda path, _: _is_kernel(path), params)


def _is_kernel(path: tuple) -> bool:
  """Whether a leaf is a matrix or a convolution.

  Biases, norm scales, modulation tables, embeddings and relative position
  biases carry other names.
  """
  return _names(path)[-1:] == ['kernel']


def _names(path: tuple) -> list[str]:
  return [k.key for k in path if isinstance(k, tree_util.DictKey)]


def adamw(
  config: OptimConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Source: Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2."""
  return optax.adamw(
    schedule,
    b1=config.b1,
    b2=config.b2,
    eps=config.eps,
    weight_decay=config.weight_decay,
    mask=decay_mask,
  )


def muon(
  config: OptimConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Kernels move by momentum made orthogonal, all else by Adam.

  Both look ahead as Nesterov does. Steps of kernels have the root mean square
  of 0.2 that Adam's have, so that both take the same learning rates and decay.
  `b1` and `b2` are Adam's.
  Sources: Jordan et al. 2024, kellerjordan.github.io/posts/muon, which has the
  momentum of 0.95; Liu et al. 2025 (arXiv:2502.16982), section 2.2.
  """
  return optax.contrib.muon(
    schedule,
    beta=0.95,
    eps=config.eps,
    weight_decay=config.weight_decay,
    adam_b1=config.b1,
    adam_b2=config.b2,
    muon_weight_dimension_numbers=_matrices,
    consistent_rms=0.2,
  )


def _matrices(params: PyTree) -> PyTree:
  """Which axes of each kernel make a matrix; None of what is not one.

  The last axis is what comes out, all others are what goes in; but for the
  first one of `layers.stack`, which tells layers apart.
  """

  def axes(path: tuple, leaf: Any) -> Any:
    if not _is_kernel(path):
      return None
    inputs = range('blocks' in _names(path), leaf.ndim - 1)
    return optax.contrib.MuonDimensionNumbers(tuple(inputs), leaf.ndim - 1)

  return tree_util.tree_map_with_path(axes, params)


METHODS: dict[str, Callable] = {'adamw': adamw, 'muon': muon}


def make_optimizer(
  config: OptimConfig, total_steps: int
) -> optax.GradientTransformation:
  """Clips by global norm, then a method with the schedule and the decay mask.

  Raises:
    ValueError: what `make_schedule` raises, or an unknown method.
  """
  if config.method not in METHODS:
    raise ValueError(
      f'optim.method={config.method!r} is unknown; choose from '
      f'{", ".join(METHODS)}'
    )
  method = METHODS[config.method](config, make_schedule(config, total_steps))
  if not config.clip_norm:
    return method
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), method)


def update_ema(
  ema: PyTree, params: PyTree, step: Int[Array, ''] | int, decay: float
) -> PyTree:
  """Moves the average of the weights toward the weights after `step`.

  Returns d ema + (1 - d) params, with d = min(decay, (1 + step) / (10 + step)):
  a young average forgets its random start sooner. decay = 0 copies `params`.
  """
  step = jnp.asarray(step, jnp.float32)
  d = jnp.minimum(decay, (1 + step) / (10 + step))
  return jax.tree.map(lambda e, p: d * e + (1 - d) * p, ema, params)


def init_counters() -> dict[str, Int[Array, '']]:
  """The counters that `guarded_update` keeps in the state."""
  return {
    'skipped': jnp.zeros((), jnp.int32),
    'skipped_in_row': jnp.zeros((), jnp.int32),
  }


def guarded_update(
  optimizer: optax.GradientTransformation,
  state: dict[str, Any],
  grads: PyTree,
  loss: Float[Array, ''],
  ema_decay: float,
) -> tuple[dict[str, Any], Float[Array, '']]:
  """One step of the parameters, unless the loss or a gradient is not finite.

  A skipped step leaves `trainable`, `ema` and `opt` bit for bit as they were
  and is counted: `counters['skipped']` in all, `['skipped_in_row']` since the
  last good one. `step` advances either way, because it is the position in the
  data and the same batch would fail again.

  Returns:
    The next state, and the global norm of the gradients before clipping.
  """
  norm = optax.tree.norm(grads)
  # A norm that overflows is no use either: clipping by it would give zeros.
  good = jnp.isfinite(norm) & jnp.isfinite(loss)
  updates, opt = optimizer.update(grads, state['opt'], state['trainable'])
  trainable = optax.apply_updates(state['trainable'], updates)
  ema = update_ema(state['ema'], trainable, state['step'], ema_decay)
  moved = dict(trainable=trainable, ema=ema, opt=opt)
  kept = {name: state[name] for name in moved}
  parts = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, kept)
  counters = _count(state['counters'], good)
  return state | parts | dict(step=state['step'] + 1, counters=counters), norm


def _count(counters: dict[str, Any], good: Bool[Array, '']) -> dict[str, Any]:
  bad = jnp.where(good, 0, 1)
  return counters | {
    'skipped': counters['skipped'] + bad,
    'skipped_in_row': jnp.where(good, 0, counters['skipped_in_row'] + 1),
  }
