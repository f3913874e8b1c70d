"""When XLA is told to be deterministic, and that it knows the word."""

import os
import subprocess
import sys

import pytest

from sora_jax import gpu

OURS = '--xla_gpu_deterministic_ops=true'


@pytest.mark.parametrize(
  ('platforms', 'plugins', 'given', 'expected'),
  [
    ('', ['xla_cuda13'], '', OURS),
    ('', ['xla_rocm7'], '', OURS),
    ('cuda,cpu', [], '', OURS),
    ('gpu', ['xla_cuda13'], '--xla_dump_to=a', f'--xla_dump_to=a {OURS}'),
    ('cpu', ['xla_cuda13'], '', ''),
    ('tpu', ['xla_cuda13'], '--xla_dump_to=a', '--xla_dump_to=a'),
    ('', [], '', ''),
    ('', ['tpu'], '', ''),
    ('cuda', [], '--xla_gpu_deterministic_ops=false', None),
  ],
)
def test_a_gpu_is_told_unless_the_user_has_told_it(
  platforms, plugins, given, expected
):
  environment = {'JAX_PLATFORMS': platforms, 'XLA_FLAGS': given}
  expected = given if expected is None else expected
  assert gpu.xla_flags(environment, plugins) == expected


def test_nothing_in_the_environment_is_nothing_to_say():
  assert gpu.xla_flags({}, []) == ''
  assert gpu.xla_flags({}, ['xla_cuda13']) == OURS


@pytest.mark.parametrize(('name', 'known'), [('ops', True), ('opz', False)])
def test_xla_ends_on_a_flag_it_does_not_know_and_ours_it_knows(name, known):
  flag = OURS.replace('ops', name)
  done = subprocess.run(
    [sys.executable, '-c', 'import jax; jax.numpy.ones(1)'],
    env=os.environ | {'XLA_FLAGS': flag},
    capture_output=True,
  )
  assert (done.returncode == 0) == known
