"""The step of a run as one jitted function, and what it takes of a device."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from sora_jax import (
  config as config_lib,
  memory,
  optimizer,
  problems,
  sharding,
  state as state_lib,
)

Problem = problems.Problem
State = state_lib.State
Params = Any

LESS = (
  'raise run.accumulate, mesh.fsdp or mesh.context, set model.remat, or take '
  'fewer data.limits.rows'
)


class Program(NamedTuple):
  """What a run compiles, before it has any array."""

  state: State  # shapes, and where each array lies
  where: State
  create: Callable[..., State]  # key, start, adapted -> the state of step 0
  step: Any  # jitted; (state, batch) -> state, sums
  batches: list[Any]  # shapes of each size of batch, and where they lie


def make(
  config: config_lib.Config, problem: Problem, mesh: jax.sharding.Mesh
) -> Program:
  """The step of a run, and of what it is a function."""
  transform = optimizer.make_optimizer(config.optim, config.run.steps)
  has_judge = problem.judge_loss is not None

  def create(key, start, adapted):
    return state_lib.initialise(
      problem.init,
      transform,
      key,
      start=start,
      frozen=adapted,
      judge=transform if has_judge else None,
    )

  start, adapted = (
    {name: weights.boxed for name, weights in part.items()}
    for part in (problem.start, problem.adapted)
  )
  key = jax.random.key(config.seed)
  shape = jax.eval_shape(create, key, *sharding.unbox((start, adapted)))
  where = state_lib.shardings(problem.init, shape, mesh, adapted)
  rows = sharding.batch_sharding(mesh)
  step = jax.jit(
    make_step(config, problem, transform),
    donate_argnums=0,
    in_shardings=(where, rows),
    out_shardings=(where, sharding.replicated(mesh)),
  )
  batches = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows),
    problem.shapes,
  )
  state = state_lib.abstract(shape, where)
  return Program(state, where, create, step, batches)


def memory_of(
  config: config_lib.Config,
  program: Program,
  devices: Sequence[jax.Device] | None = None,
) -> str:
  """What a device will hold; compiles the step for batches of every size.

  Args:
    config: Of the run.
    program: From `make`.
    devices: Those of this host; by default all that JAX has.

  Raises:
    ValueError: it is more than a device has.
  """
  state, batches = program.state, program.batches
  parts = {
    'weights': memory.kept([state['trainable'], state['frozen']]),
    'average': memory.kept(state['ema']),
    'optimizer': memory.kept(state['opt']),
  }
  if 'judge' in state:
    parts['judge'] = memory.kept(state['judge'])
  parts['batch'] = max(map(memory.kept, batches))
  steps = (memory.needed(program.step, state, b, advice=LESS) for b in batches)
  turns = {'step': max(steps)}
  if config.run.replay_every:
    parts['replay'] = memory.kept(state)
  return memory.check(parts, turns, LESS, devices)


def make_step(
  config: config_lib.Config,
  problem: Problem,
  transform: optax.GradientTransformation,
) -> Callable[[State, Any], tuple[State, dict[str, Array]]]:
  """One update from one batch, as a pure function; metrics are sums."""

  def step(state, batch):
    grads, sums = _gradients(
      lambda params, part: problem.loss(state, params, part),
      state['trainable'],
      batch,
      config.run.accumulate,
    )
    # NaN where no clip could be read, so that such a step counts as bad.
    loss = sums['loss'] / sums['count']
    following, norm = optimizer.guarded_update(
      transform, state, grads, loss, config.optim.ema_decay
    )
    following['counters']['broken'] += sums['broken'].astype(jnp.int32)
    sums |= dict(grad_norm=norm, **following['counters'])
    if problem.judge_loss is not None:
      following['judge'], sums['judge'] = _judge_step(
        lambda params, part: problem.judge_loss(state, params, part),
        transform,
        state['judge'],
        batch,
        config.run.accumulate,
      )
    return following, sums

  return step


def _judge_step(
  loss_fn: Callable,
  transform: optax.GradientTransformation,
  judge: dict[str, Any],
  batch: Any,
  micro_steps: int,
) -> tuple[dict[str, Any], Array]:
  """One update of the discriminator, and its loss."""
  grads, sums = _gradients(loss_fn, judge['params'], batch, micro_steps)
  updates, opt = transform.update(grads, judge['opt'], judge['params'])
  moved = dict(params=optax.apply_updates(judge['params'], updates), opt=opt)
  # As the networks, it stays as it is where numbers are not finite.
  good = jnp.isfinite(optax.tree.norm(grads))
  good &= jnp.isfinite(sums['loss'] / sums['count'])  # NaN: no clip was read
  kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, judge)
  return kept, sums['loss'] / jnp.maximum(sums['count'], 1)


def _gradients(
  loss_fn: Callable, params: Params, batch: Any, micro_steps: int
) -> tuple[Params, dict[str, Array]]:
  """Gradient of the mean loss over a batch that is cut into micro-batches.

  Sums and counts are added over the micro-batches before the one division,
  so the cut changes nothing but rounding.
  """

  def one(part):
    def loss_sum(params):
      total, count, metrics = loss_fn(params, part)
      return total, metrics | dict(loss=total, count=count)

    return jax.grad(loss_sum, has_aux=True)(params)

  def cut(x):
    # Strided, so that each micro-batch has rows of every device.
    return jnp.moveaxis(x.reshape(-1, micro_steps, *x.shape[1:]), 1, 0)

  if micro_steps == 1:
    total = one(batch)
  else:
    parts = jax.tree.map(cut, batch)
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts)),
    )
    total, _ = jax.lax.scan(
      lambda sums, part: (jax.tree.map(jnp.add, sums, one(part)), None),
      zeros,
      parts,
    )
  grads, sums = total
  count = jnp.maximum(sums['count'], 1)
  return jax.tree.map(lambda g: g / count, grads), sums
