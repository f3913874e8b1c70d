"""The run's state: one dict of trees, created where it will lie.

  step        int32, the number of steps done, which is the place in the data
  trainable   parameters that the optimizer moves
  frozen      parameters that the loss only reads: what adapters lie beside
  ema         moving average of `trainable`, which is what gets sampled
  opt         the optimizer's state
  counters    steps skipped for numbers that were not finite
  judge       of an adversarial autoencoder: its discriminator, and its `opt`

Nothing else survives a step, so a run that goes on from a saved state repeats
what an uninterrupted one would have done.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from sora_jax import optimizer, sharding
from sora_jax.models import discriminator

State = dict[str, Any]
Params = Any


def initialise(
  init: Callable[[Key[Array, '']], Params],
  transform: optax.GradientTransformation,
  key: Key[Array, ''],
  *,
  start: Params,
  frozen: Params,
  judge: optax.GradientTransformation | None = None,
) -> State:
  """The state of step 0; pure, so that `jit` can shard it as it is made.

  Args:
    init: Key to boxed parameters.
    transform: The optimizer.
    key: The run's root key.
    start: Parameters that replace what `init` draws, by network.
    frozen: Parameters to read, possibly {}.
    judge: The discriminator's optimizer, or None where there is none.
  """
  key_params, key_judge = jax.random.split(key)
  trainable = sharding.unbox(init(key_params)) | start
  state = dict(
    step=jnp.zeros((), jnp.int32),
    trainable=trainable,
    frozen=frozen,
    ema=jax.tree.map(jnp.copy, trainable),
    opt=transform.init(trainable),
    counters=optimizer.init_counters()
    | {'broken': jnp.zeros((), jnp.int32)},  # clips left out so far
  )
  if judge is not None:
    params = discriminator.init(key_judge)
    state['judge'] = dict(params=params, opt=judge.init(params))
  return state


def shardings(
  init: Callable[[Key[Array, '']], Params],
  state: State,
  mesh: Mesh,
  frozen: Params,
) -> State:
  """Where each array of the state lies.

  Args:
    init: As in `initialise`; its boxes name the axes.
    state: Abstract, from `jax.eval_shape`.
    mesh: To lie on.
    frozen: Those that are only read, abstract and boxed.
  """
  boxed = jax.eval_shape(init, jax.random.key(0)) | frozen
  of_params = sharding.param_shardings(boxed, mesh)
  params = sharding.unbox(boxed)
  return sharding.state_shardings(state, params, of_params, mesh)


def abstract(state: State, where: State) -> State:
  """Shapes and shardings: what a checkpoint is restored into."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    where,
  )
