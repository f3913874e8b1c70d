"""The mesh, and what lies where on it.

The mesh always has the four axes of `MeshConfig`, of size 1 where unused, so
one program serves a laptop and a pod:

  * data: rows of the batch; the only axis that crosses slices of a TPU pod;
  * fsdp: rows of the batch too, and a share of every parameter;
  * context: tokens of a row, in the DiT as it trains;
  * tensor: attention heads and hidden features.

Models name the axes of their parameters; `RULES` maps names to mesh axes.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

AXES = ('data', 'fsdp', 'context', 'tensor')
ROWS = ('data', 'fsdp')  # the axes that share out the rows of a batch

# Logical axis of a parameter or activation -> mesh axes; None is not sharded.
RULES = (
  ('batch', ROWS),
  ('tokens', 'context'),
  ('embed', 'fsdp'),
  ('heads', 'tensor'),
  ('mlp', 'tensor'),
  ('text', None),
  ('vocab', None),
  ('layers', None),
)


@dataclasses.dataclass(kw_only=True)
class MeshConfig:
  """Devices along each axis of the mesh; their product is all of them."""

  data: int = -1  # -1: all devices that the other axes leave
  fsdp: int = 1
  context: int = 1
  tensor: int = 1


def use_cores(rows: int = 0) -> None:
  """Makes each core of a CPU a device, where nothing else has been asked for.

  Small networks gain more from that than from threads: 1.8 times on two cores.
  Call it before JAX first looks for devices; later it does nothing. GPUs and
  TPUs are not concerned.

  Args:
    rows: of a batch, which the number of devices must divide; 0 for any.
  """
  if 'JAX_NUM_CPU_DEVICES' in os.environ:
    return
  # Only Linux tells which cores a process may use.
  affinity = getattr(os, 'sched_getaffinity', None)
  usable = len(affinity(0)) if affinity else os.cpu_count() or 1
  cores = 2 ** int(math.log2(usable))
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', math.gcd(cores, rows))


def join_hosts() -> None:
  """Joins the processes of one job, so that their devices make one mesh.

  JAX finds the others by itself on a TPU pod and under Slurm, MPI or
  Kubernetes. Elsewhere each process is told by JAX_COORDINATOR_ADDRESS
  (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID. Call it before
  JAX first looks for devices.

  Raises:
    ValueError: no other processes are known.
  """
  given = [
    int(os.environ[name]) if name in os.environ else None
    for name in ('JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
  ]
  try:
    jax.distributed.initialize(num_processes=given[0], process_id=given[1])
  except ValueError as error:
    raise ValueError(
      f'--multihost: {error} JAX finds the other processes on a TPU pod and '
      'under Slurm, MPI or Kubernetes; elsewhere set JAX_COORDINATOR_ADDRESS, '
      'JAX_NUM_PROCESSES and JAX_PROCESS_ID'
    ) from error


def host_device() -> jax.Device:
  """This host's CPU; where JAX was told of none, the first device."""
  with contextlib.suppress(RuntimeError):
    return jax.local_devices(backend='cpu')[0]
  return jax.local_devices()[0]


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """Arranges devices (by default all) in the mesh that the config asks for.

  Raises:
    ValueError: a size below 1, sizes that do not multiply to the number of
      devices, or `data`
      does not cover the slices of a TPU pod.
  """
  for name in AXES:
    size = getattr(config, name)
    if size < 1 and not (name == 'data' and size == -1):
      raise ValueError(f'mesh: {name}={size} must be at least 1')
  devices = jax.devices() if devices is None else list(devices)
  rest = config.fsdp * config.context * config.tensor
  data = len(devices) // rest if config.data == -1 else config.data
  if data < 1 or data * rest != len(devices):
    sizes = ', '.join(f'{name}={getattr(config, name)}' for name in AXES)
    raise ValueError(
      f'mesh: {sizes} needs {"a multiple of " if config.data == -1 else ""}'
      f'{abs(config.data) * rest} devices, and there are {len(devices)}'
    )
  shape = (data, config.fsdp, config.context, config.tensor)
  return Mesh(
    _arrange(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES)
  )


def _arrange(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
  """Orders devices so that all axes but `data` stay on fast connections."""
  # Elsewhere than on TPU the order of devices is by host, which is enough.
  on_tpu = devices[0].platform == 'tpu'
  # Chips that are compiled for, and are not here, know no slice.
  index = {getattr(device, 'slice_index', 0) for device in devices}
  slices = len(index) if on_tpu else 1
  if slices == 1:
    return mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  data, *rest = shape
  if data % slices:
    raise ValueError(
      f'mesh: data={data} must be a multiple of the {slices} slices'
    )
  return mesh_utils.create_hybrid_device_mesh(
    (data // slices, *rest),
    (slices, *(1 for _ in rest)),
    devices,
    allow_split_physical_axes=True,
  )


@contextlib.contextmanager
def use(mesh: Mesh) -> Generator[Mesh, None, None]:
  """Enters a mesh: jitted code inside sees it, and the names in `RULES`."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    yield mesh


def replicated(mesh: Mesh) -> NamedSharding:
  """A copy on every device."""
  return NamedSharding(mesh, P())


def unbox(boxed: Any) -> Any:
  """Parameters without the boxes that name their axes; abstract ones too."""
  is_box = lambda x: isinstance(x, nn.meta.AxisMetadata)
  # Flax would constrain the value to the mesh, which a shape cannot be.
  return jax.tree.map(
    lambda x: x.unbox(apply_constraint=False) if is_box(x) else x,
    boxed,
    is_leaf=is_box,
  )


def param_shardings(boxed: Any, mesh: Mesh) -> Any:
  """Shardings of parameters whose axes are named, as a tree without boxes.

  Args:
    boxed: What `jax.eval_shape(model.init, ...)` gives: shapes in
      `nn.LogicallyPartitioned` boxes. Without a box, a leaf is replicated.
    mesh: From `make_mesh`.

  Raises:
    ValueError: an unknown axis name, or heads or features that the tensor axis
      does not divide. An axis that fsdp does not divide is not sharded: fsdp
      saves memory, and what it does not divide is small.
  """
  is_box = lambda x: isinstance(x, nn.Partitioned)

  def sharding(path, leaf):
    if not is_box(leaf):
      return replicated(mesh)
    shape = unbox(leaf).shape
    try:
      return NamedSharding(mesh, _spec(leaf.names, shape, mesh))
    except ValueError as error:
      raise ValueError(f'{path_name(path)} {shape}: {error}') from None

  return jax.tree_util.tree_map_with_path(sharding, boxed, is_leaf=is_box)


def _spec(names: Sequence[str | None], shape: tuple[int, ...], mesh: Mesh) -> P:
  """Looks the names of one parameter's axes up in `RULES`."""
  table = dict(RULES) | {None: None}
  spec = []
  for name, dim in zip(names, shape, strict=True):
    if name not in table:
      raise ValueError(f'axis {name!r} is not one of {sorted(dict(RULES))}')
    axis = table[name]
    # A mesh axis shards one axis of an array only: the first that asks for it.
    if axis is None or axis in spec:
      spec.append(None)
    elif dim % (size := mesh.shape[axis]) == 0:
      spec.append(axis)
    elif axis == 'fsdp':
      spec.append(None)
    else:
      fits = [n for n in range(1, dim + 1) if dim % n == 0]
      raise ValueError(
        f'{name} of {dim} cannot be shared by {axis}={size}; '
        f'sizes that fit: {", ".join(map(str, fits[:12]))}'
      )
  return P(*spec)


def state_shardings(state: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
  """Shardings of a tree that repeats the parameters: optimizer, average, run.

  A leaf lies as the parameter whose path ends its own and whose shape it has,
  as `opt/0/mu/head/bias` ends in `head/bias`; others, as step counts, are
  replicated.

  Args:
    state: Abstract tree, as `jax.eval_shape(optimizer.init, params)`.
    params: Abstract parameters without boxes.
    shardings: Theirs, from `param_shardings`.
    mesh: From `make_mesh`.
  """
  shapes = jax.tree_util.tree_flatten_with_path(params)[0]
  known = {
    _keys(path): (leaf.shape, sharding)
    for (path, leaf), sharding in zip(
      shapes, jax.tree.leaves(shardings), strict=True
    )
  }

  def sharding(path, leaf):
    keys = _keys(path)
    # From the longest ending, so that `bias` does not stand for `head/bias`.
    for start in range(len(keys)):
      shape, found = known.get(keys[start:], (None, None))
      if shape == leaf.shape:
        return found
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(sharding, state)


def _keys(path: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def path_name(path: tuple[Any, ...]) -> str:
  """A path in a tree as `blocks/attention/q`."""
  return '/'.join(_keys(path))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows of a batch over data and fsdp; whole along every other axis."""
  return NamedSharding(mesh, P(ROWS))


def process_rows(rows: int, mesh: Mesh) -> np.ndarray:
  """Which rows of a global batch this process must load, in ascending order.

  Under context or tensor parallelism several processes may load one row.

  Raises:
    ValueError: the rows cannot be shared out evenly.
  """
  shares = math.prod(mesh.shape[axis] for axis in ROWS)
  if rows % shares:
    raise ValueError(
      f'batch: {rows} rows must be a multiple of data x fsdp = {shares}'
    )
  indices = batch_sharding(mesh).addressable_devices_indices_map((rows,))
  return np.unique(
    np.concatenate([np.arange(rows)[index] for index in indices.values()])
  )


def shard_batch(batch: Any, mesh: Mesh) -> Any:
  """Makes global arrays of this process's rows (see `process_rows`)."""
  place = batch_sharding(mesh)
  # With several processes JAX takes this for a transfer that nobody asked for.
  with jax.transfer_guard_host_to_device('allow'):
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(place, np.asarray(x)),
      batch,
    )


def from_host(tree: Any, where: Any) -> Any:
  """Copies a tree that every host has to where its leaves shall lie.

  `jax.device_put` would first compare each leaf across hosts.
  """
  return jax.tree.map(
    lambda x, place: jax.make_array_from_callback(
      np.shape(x), place, lambda index: x[index]
    ),
    tree,
    where,
  )


def on_first(work: Callable[[], None], doing: str) -> None:
  """Process 0 does some work of the host; all others wait, and fail if it does.

  All processes call it together.

  Args:
    work: What only one of them may do.
    doing: What it is called where it has failed elsewhere.

  Raises:
    ValueError: it failed on process 0, which itself raises what `work` does.
  """
  failure = None
  if jax.process_count() > 1:
    # Where it is the first thing that they do together, what joins them gives
    # up sooner than long work ends.
    multihost_utils.broadcast_one_to_all(np.array(False))
  if jax.process_index() == 0:
    try:
      work()
    except Exception as error:  # raised below, when all have heard
      failure = error
  failed = np.array(failure is not None)
  if jax.process_count() > 1:
    failed = multihost_utils.broadcast_one_to_all(failed)
  if failure is not None:
    raise failure
  if failed:
    raise ValueError(f'{doing} failed on process 0, which says why')


def to_host(tree: Any) -> Any:
  """Whole numpy arrays of a tree that may lie on the devices of many hosts.

  All processes call it together, and each gets everything.
  """
  if jax.process_count() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(tree, tiled=True)
