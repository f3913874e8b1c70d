"""When a sampler calls the network, and when its last answer will do again.

The predicted data x0 of a clip change much at high noise and little later. So
one prediction stands for those that follow until they would have changed by
more than a tolerance, by a curve that was measured once for the model. Neither
looks at the clip that is made: all clips have the same schedule, and their bits
depend on nothing else.

What is kept is x0, of every row that the network sees; its velocity and its
guidance are computed anew at each step. With x0 fixed, `euler` goes straight on
to it, so there the cache takes long steps where the path is straight.

Sources: Liu et al. 2024 (TeaCache, arXiv:2411.19108) add up relative changes
until they pass a tolerance; Ma et al. 2025 (MagCache, arXiv:2506.09045) measure
a curve once that holds for every prompt. Both keep a residual of the network,
where we keep x0.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from sora_jax import flow


def check(tolerance: float, curve: tuple[float, ...]) -> None:
  """Raises ValueError for a cache that cannot be."""
  if not 0 <= tolerance < np.inf:
    raise ValueError(
      f'cache={tolerance} must be the change that is let pass, as a share of '
      'the prediction, or 0 for none'
    )
  if tolerance and not curve:
    raise ValueError(
      f'cache={tolerance}: the model has no cache_curve; '
      '`launch.py bench --what=cache --store` measures it'
    )


def changes(clean: Float[Array, 'V R N P']) -> Float[Array, 'R V-1']:
  """How far each prediction is from the one before, as a share of its norm.

  Norms are over the tokens of a row.
  """
  norm = lambda x: jnp.sqrt(jnp.sum(x**2, axis=(-2, -1)))
  return (norm(clean[1:] - clean[:-1]) / norm(clean[1:])).T


def calls(
  visits: Float[Array, ' V'],
  alpha: float,
  curve: tuple[float, ...],
  tolerance: float,
) -> Bool[Array, ' V']:
  """Whether each visit of a sampler calls the network; the first one does.

  Any other calls it if, by the curve, more than the tolerance lies between it
  and the last that did. Where a sampler stands twice at a level nothing does.

  Args:
    visits: Levels, falling, without the last, which is 0.
    alpha: By which they were shifted; see `flow.shift_levels`.
    curve: Change of the prediction from each of some equal steps to the next,
      before the shift, as it scales the levels of equal uncertainty. What the
      last step changes is never seen, so the steps are one more.
    tolerance: The most that may pass.
  """
  steps = len(curve) + 1
  done = 1 - np.asarray(flow.shift_levels(visits, 1 / alpha))
  total = np.interp(done, np.arange(steps) / steps, np.cumsum((0.0, *curve)))
  called, last = [], -np.inf
  for changed in total.tolist():
    called.append(changed - last > tolerance)
    last = changed if called[-1] else last
  return jnp.array(called)
