"""Which visits call the network, by a curve and a tolerance."""

import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import samplers, stepcache

# Of eight steps, so that since the first the prediction has changed by
# 0, 0.4, 0.6, 0.65, 0.68, 0.69, 0.7 and 0.72.
CURVE = (0.4, 0.2, 0.05, 0.03, 0.01, 0.01, 0.02)


def calls(num_steps, tolerance, *, sampler='euler', alpha=1.0, start=1.0):
  levels = samplers.levels_schedule(num_steps, alpha, start)
  visits = samplers.SAMPLERS[sampler].visits(levels)[:-1]
  called = stepcache.calls(visits, alpha, CURVE, tolerance)
  return ''.join('x' if call else '.' for call in called.tolist())


@pytest.mark.parametrize(
  ('tolerance', 'expected'),
  [
    (0.001, 'xxxxxxxx'),
    (0.025, 'xxxxx..x'),
    (0.06, 'xxx.x...'),
    (0.11, 'xxx....x'),
    (0.5, 'x.x.....'),
    (0.8, 'x.......'),
  ],
)
def test_changes_add_up_until_they_pass_the_tolerance(tolerance, expected):
  assert calls(8, tolerance) == expected


def test_a_curve_holds_for_any_number_of_steps_and_any_shift():
  assert calls(8, 0.06, alpha=3.0) == calls(8, 0.06)
  assert calls(4, 0.06) == 'xxx.'  # at 0, 0.6, 0.68 and 0.7
  halves = calls(16, 0.06)
  assert halves[:5] == 'xxxxx'  # at 0, 0.2, 0.4, 0.5 and 0.6
  assert halves.count('x') < 8


def test_what_begins_later_still_begins_by_a_call():
  assert calls(4, 0.06, start=0.5) == 'x...'  # at 0.68, 0.69, 0.7 and 0.72


def test_the_second_visit_of_a_level_never_calls():
  assert calls(8, 0.06, sampler='heun') == 'xx.x...x.......'


def test_a_change_is_a_share_of_the_norm_of_its_row():
  clean = jnp.ones((3, 2, 4, 5)).at[1, 0].set(1.25).at[2].set(2.0)
  np.testing.assert_allclose(
    stepcache.changes(clean), [[0.2, 0.375], [0.0, 0.5]], rtol=1e-6
  )


@pytest.mark.parametrize(
  ('tolerance', 'curve', 'message'),
  [
    (-0.1, CURVE, 'cache=-0.1 must be the change'),
    (float('nan'), CURVE, 'cache=nan must be'),
    (float('inf'), CURVE, 'cache=inf must be'),
    (0.1, (), 'cache=0.1: the model has no cache_curve'),
  ],
)
def test_caches_that_cannot_be_are_refused(tolerance, curve, message):
  with pytest.raises(ValueError, match=message):
    stepcache.check(tolerance, curve)
  stepcache.check(0.0, ())
