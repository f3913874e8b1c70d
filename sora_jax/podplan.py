"""A training step for TPUs that are not here: `launch.py plan`.

The TPU's compiler needs no TPU. So what a pod would hold, compute and send is
known before one is rented, from the program itself that it would run. Weights
and data need not be there either.
"""

import copy
import importlib.util
import os
import types
from collections.abc import Sequence

import jax
import numpy as np

from sora_jax import (
  config as config_lib,
  problems,
  program as program_lib,
  sharding,
  traffic,
  train,
)

# Matrix products in bfloat16, FLOP/s of a device of each kind. Source:
# cloud.google.com/tpu/docs, system architecture of each version.
PEAK = {
  'TPU v4': 137.5e12,  # one of two cores
  'TPU v5 lite': 197e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'TPU7x': 1153.5e12,  # one of two
}

# The compiler would ask what TPU it is on, wonder at the answer, and let nobody
# compile beside it.
ON_NONE = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v5p-8',
}


def main(config: config_lib.Config, flags: types.SimpleNamespace) -> None:
  """`launch.py plan`: compiles a step, and prints what it takes."""
  jax.config.update('jax_platforms', 'cpu')  # before it looks for others
  devices = chips(flags.topology, flags.slices)
  print('\n'.join(plan(config, devices)))


def chips(topology: str, slices: int = 1) -> list[jax.Device]:
  """Devices of a topology such as `v5p:4x4x4`, to compile for.

  Raises:
    ValueError: there is no compiler, or no such topology.
  """
  from jax.experimental import topologies

  if not importlib.util.find_spec('libtpu'):
    raise ValueError(
      'the compiler of TPUs is not installed: pip install libtpu'
    )
  for name, value in ON_NONE.items():
    os.environ.setdefault(name, value)
  many = dict(num_slices=slices) if slices > 1 else {}
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=topology, **many
    )
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(
      f'--topology={topology}: {str(error).splitlines()[0]}; such as '
      'v5e:4x4, v6e:8x8, v4:2x2x2, v5p:2x2x2 or TPU7x:2x2x1'
    ) from error
  kind = found.devices[0].device_kind
  if kind not in PEAK:
    raise ValueError(
      f'--topology={topology}: nothing is known of {kind}; take one of '
      f'{", ".join(PEAK)}'
    )
  return list(found.devices)


def plan(config: config_lib.Config, devices: Sequence[jax.Device]) -> list[str]:
  """Lines that say what a step of a DiT takes on such devices.

  Raises:
    ValueError: the config cannot be, or a device cannot hold it.
  """
  if config.stage is not config_lib.Stage.DIFFUSION:
    raise ValueError(f'stage={config.stage.value}: plans are of the DiT')
  config = copy.deepcopy(config)
  for network in (config.model, config.text):
    if network.dtype == 'auto':
      network.dtype = 'bfloat16'  # as it is on a TPU
  train.check(config)
  mesh = sharding.make_mesh(config.mesh, devices)
  sharding.process_rows(config.data.limits.rows, mesh)
  program = program_lib.make(config, problems.planned(config), mesh)
  with sharding.use(mesh):
    held = program_lib.memory_of(config, program, devices)
    # The same again, which JAX has kept.
    compiled = program.step.lower(program.state, *program.batches).compile()
  kind, count = devices[0].device_kind, len(devices)
  axes = ', '.join(f'{name} {size}' for name, size in mesh.shape.items())
  work = model_flops(config) / count
  sent = traffic.of(compiled.as_text())
  told = ', '.join(f'{name} {size / 1e9:.3g}' for name, size in sent.items())
  return [
    f'{count} devices ({kind}): {axes}',
    _size(config, program),
    held,
    f'work: {work / 1e12:.3g} TFLOP of a device and a step, '
    f'{work / PEAK[kind]:.3g} s at its peak of {PEAK[kind] / 1e12:.0f} TFLOP/s',
    f'traffic: of a device and a step, GB: {told or "none"}',
  ]


def _size(config: config_lib.Config, program: program_lib.Program) -> str:
  leaves = jax.tree.leaves(program.state['trainable'])
  count = sum(leaf.size for leaf in leaves)
  limits = config.data.limits
  return (
    f'{count / 1e9:.3g} B parameters to train; {limits.rows} rows of '
    f'{limits.tokens:,} tokens'
  )


def model_flops(config: config_lib.Config) -> float:
  """Of one training step of the DiT, every row full of one clip.

  Products with a kernel of P numbers take 2 P a token, and scores and weighted
  sums 4 L D a layer and a token that sees L. The backward pass takes twice as
  much, but once for kernels beside adapters, which have no gradient; adapters,
  and what is computed again to save memory, are not counted. Source: Chowdhery
  et al. 2022 (arXiv:2204.02311), appendix B.
  """
  model, limits = config.model, config.data.limits
  tokens, captions = limits.tokens, limits.text + (model.text_length > 0)
  D = model.width
  block = 4 * D**2 + 2 * D**2 + 2 * D * model.mlp  # attention, to text, MLP
  ends = np.prod(model.patch) * (2 * model.channels + model.condition_channels)
  kernels = tokens * (model.depth * block + ends * D)
  # Keys and values of captions, and the MLP that captions come through.
  kernels += captions * (model.depth * 2 * D**2 + (model.text_width + D) * D)
  pairs = model.depth * tokens * (tokens + captions) * D
  times = 2 if config.lora.rank else 3
  return float(limits.rows * (times * 2 * kernels + 3 * 4 * pairs))
