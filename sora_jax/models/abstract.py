"""Shapes of a network's parameters, without making them."""

from collections.abc import Callable
from typing import Any

import jax

Params = Any
_TRACED: dict[tuple[Callable[..., Params], str], Params] = {}


def params(init: Callable[..., Params], config: Any) -> Params:
  """Abstract parameters in boxes that name their logical axes.

  A network takes most of a second to trace, whatever its size, and files,
  states and checkpoints all ask for its shapes; so it is traced once.

  Args:
    init: `(config, key) -> params`, of a module in `models`.
    config: Its dataclass, told apart from others by its `repr`.
  """
  name = init, repr(config)
  if name not in _TRACED:
    _TRACED[name] = jax.eval_shape(
      lambda key: init(config, key), jax.random.key(0)
    )
  return _TRACED[name]
