"""Convolutions of training on a CPU, by oneDNN in bfloat16.

XLA's CPU backend convolves in float32, and takes the gradients of kernels
slowly. oneDNN, which torch brings, has both in bfloat16, as the matrix units of
recent CPUs (AMX) multiply. Operands and results are rounded to bfloat16, and
sums within a convolution kept in float32; all else stays in float32. Matrix
products stay too: what trains a small DiT waits for memory, not for them.

It is off but for runs that ask for it: it is no part of the promise of equal
bits, and needs torch, which is an extra.
"""

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import buffer_callback
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

Video = Float[Array, 'B T H W C']
Other = Float[Array, 'B U V X E']
Kernel = Float[Array, 't h w C E']
Strides = tuple[int, int, int]
Pad = tuple[tuple[int, int], tuple[int, int]]
Tensor = Any  # of torch

_torch: Any = None


def use(on: bool) -> None:
  """Says whether what `takes` names is convolved by oneDNN from here on.

  Raises:
    ValueError: it cannot be.
  """
  global _torch
  if not on:
    _torch = None
    return
  if jax.default_backend() != 'cpu':
    raise ValueError(
      f'run.onednn=True is for CPUs, and JAX has {jax.default_backend()}'
    )
  try:
    torch = importlib.import_module('torch')
  except ImportError as error:
    raise ValueError(
      'run.onednn=True needs torch, which is not there: pip install torch'
    ) from error
  torch.set_num_threads(1)  # each core is a device, and calls it by itself
  _torch = torch


def takes(x: Float[Array, 'B *S C']) -> bool:
  """Whether oneDNN is for this: rows that a mesh shares out alike.

  Inside a `shard_map`, as clips are decoded in, it is not.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if _torch is None or mesh.empty or mesh.manual_axes:
    return False
  shares = math.prod(mesh.shape[axis] for axis in _rows())
  return x.dtype == jnp.float32 and x.shape[0] % shares == 0


def convolve(x: Video, kernel: Kernel, strides: Strides, pad: Pad) -> Other:
  """`causal.convolve` of at least as many frames as the kernel has taps."""
  if any(before != after for before, after in pad):
    x = jnp.pad(x, ((0, 0), (0, 0), *pad, (0, 0)))
    pad = ((0, 0), (0, 0))
  padding = (0, *(before for before, _ in pad))
  size = [
    (x.shape[1 + i] + 2 * padding[i] - kernel.shape[i]) // strides[i] + 1
    for i in range(3)
  ]
  how = dict(stride=strides, padding=padding)
  return _by_rows(
    functools.partial(_convolve, **how),
    functools.partial(_convolve_back, **how),
    (*size, kernel.shape[-1]),
  )(x, kernel)


def _rows() -> tuple[str, ...]:
  """The mesh axes that share out the rows of a batch."""
  (axes,) = nn.logical_to_mesh_axes(('batch',))
  return axes


def _by_rows(
  forward: Callable[..., None],
  backward: Callable[..., None],
  shape: tuple[int, ...],
) -> Callable[[Array, Array], Array]:
  """A product of rows and a kernel that all rows share, and its gradients.

  Args:
    forward: Writes the product: (out, x, kernel), tensors of one device.
    backward: Writes the gradients: ((to_x, to_kernel), x, kernel, gradient).
    shape: Of a row of the product.
  """

  def value(x, kernel):
    out = jax.ShapeDtypeStruct((x.shape[0], *shape), x.dtype)
    return _call(forward, out, x, kernel)

  def gradients(x, kernel, gradient):
    to_x, to_kernel = _call(backward, (x, kernel), x, kernel, gradient)
    return to_x, jax.lax.psum(to_kernel, _rows())

  share = functools.partial(jax.shard_map, check_vma=False)
  rows, whole = P(_rows()), P()
  value = share(value, in_specs=(rows, whole), out_specs=rows)
  gradients = share(
    gradients, in_specs=(rows, whole, rows), out_specs=(rows, whole)
  )
  run = jax.custom_vjp(value)
  run.defvjp(
    lambda x, kernel: (value(x, kernel), (x, kernel)),
    lambda kept, gradient: gradients(*kept, gradient),
  )
  return run


def _call(function: Callable[..., None], like: Any, *inputs: Array) -> Any:
  """Has torch write arrays like others."""

  def call(context, out, *buffers):
    del context
    function(jax.tree.map(_tensor, out), *map(_tensor, buffers))

  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
  return buffer_callback.buffer_callback(call, shapes)(*inputs)


def _tensor(buffer: Any) -> Tensor:
  """The memory of an array; nothing is copied."""
  return _torch.from_numpy(np.asarray(buffer))


def _convolve(out, x, kernel, *, stride, padding):
  y = _torch.nn.functional.conv3d(
    _channels_first(x), _taps(kernel), None, stride, padding
  )
  out.copy_(y.movedim(1, -1))


def _convolve_back(out, x, kernel, gradient, *, stride, padding):
  to_x, to_kernel, _ = _torch.ops.aten.convolution_backward(
    _channels_first(gradient),
    _channels_first(x),
    _taps(kernel),
    bias_sizes=None,
    stride=stride,
    padding=padding,
    dilation=(1, 1, 1),
    transposed=False,
    output_padding=(0, 0, 0),
    groups=1,
    output_mask=(True, True, False),
  )
  out[0].copy_(to_x.movedim(1, -1))
  out[1].copy_(to_kernel.permute(2, 3, 4, 1, 0))


def _channels_first(x: Tensor) -> Tensor:
  """[B, T, H, W, C], as it lies in memory, with the axes in torch's order."""
  return x.to(_torch.bfloat16).movedim(-1, 1)


def _taps(kernel: Tensor) -> Tensor:
  kernel = kernel.permute(4, 3, 0, 1, 2).to(_torch.bfloat16)
  return kernel.contiguous(memory_format=_torch.channels_last_3d)
