"""Trains on a CPU whose convolutions oneDNN takes, in bfloat16.

  python experiments/onednn.py train \
      --config=experiments/autoencoder.py:release --workdir=runs/autoencoder

takes what `launch.py` takes, in an environment that has torch, which brings
oneDNN (`pip install -e ".[parity]"`). XLA's CPU backend computes convolutions
in float32, and the gradients of their kernels slowly. Two cores with AMX take
five times as many crops of the release's autoencoder by this; jemalloc, which
gives no page back, adds a tenth:

  LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2 \
  MALLOC_CONF=dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always

Operands are rounded to bfloat16, as a TPU does by default, and sums are kept
in float32; all else is as in float32. What comes out is a model as any other.
"""

import functools
import pathlib
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.experimental.buffer_callback import buffer_callback
from jax.sharding import PartitionSpec as P

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sora_jax import sharding  # noqa: E402
from sora_jax.models import causal  # noqa: E402

ROWS = P(sharding.ROWS)
WHOLE = P()
plain = causal.convolve  # of XLA


def convolve(x, kernel, strides=(1, 1, 1), pad=((0, 0), (0, 0))):
  """`causal.convolve`, of rows that a mesh shares out alike."""
  frames = (x.shape[1] - kernel.shape[0]) // strides[0] + 1
  mesh = jax.sharding.get_abstract_mesh()
  shares = 0 if mesh.empty else mesh.shape['data'] * mesh.shape['fsdp']
  if not frames or not shares or x.shape[0] % shares:
    return plain(x, kernel, strides, pad)
  if any(before != after for before, after in pad):
    x = jnp.pad(x, ((0, 0), (0, 0), *pad, (0, 0)))
    pad = ((0, 0), (0, 0))
  call = functools.partial(
    _call, strides=strides, pad=(0, *(before for before, _ in pad))
  )

  def value(x, kernel):
    shape = jax.eval_shape(
      functools.partial(plain, strides=strides, pad=pad), x, kernel
    )
    return call(_value, shape, x, kernel)

  def gradients(x, kernel, gradient):
    to_x, to_kernel = call(_gradients, (x, kernel), x, kernel, gradient)
    return to_x, jax.lax.psum(to_kernel, sharding.ROWS)

  share = functools.partial(jax.shard_map, check_vma=False)
  value = share(value, in_specs=(ROWS, WHOLE), out_specs=ROWS)
  gradients = share(
    gradients, in_specs=(ROWS, WHOLE, ROWS), out_specs=(ROWS, WHOLE)
  )
  run = jax.custom_vjp(value)
  run.defvjp(
    lambda x, kernel: (value(x, kernel), (x, kernel)),
    lambda kept, gradient: gradients(*kept, gradient),
  )
  return run(x, kernel)


def _call(function, shapes, *inputs, **how):
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), shapes
  )
  return buffer_callback(functools.partial(function, **how), shapes)(*inputs)


def _value(context, out, x, kernel, *, strides, pad):
  del context
  y = torch.nn.functional.conv3d(
    _channels_first(x), _kernel(kernel), None, strides, pad
  )
  _tensor(out).copy_(y.movedim(1, -1))


def _gradients(context, out, x, kernel, gradient, *, strides, pad):
  del context
  to_x, to_kernel, _ = torch.ops.aten.convolution_backward(
    _channels_first(gradient),
    _channels_first(x),
    _kernel(kernel),
    bias_sizes=None,
    stride=strides,
    padding=pad,
    dilation=(1, 1, 1),
    transposed=False,
    output_padding=(0, 0, 0),
    groups=1,
    output_mask=(True, True, False),
  )
  _tensor(out[0]).copy_(to_x.movedim(1, -1))
  _tensor(out[1]).copy_(to_kernel.permute(2, 3, 4, 1, 0))


def _tensor(buffer):
  """The memory of an array of XLA's; nothing is copied."""
  return torch.from_numpy(np.asarray(buffer))


def _channels_first(buffer):
  """[B, T, H, W, C], as it lies in memory, with the axes in torch's order."""
  return _tensor(buffer).to(torch.bfloat16).movedim(-1, 1)


def _kernel(buffer):
  kernel = _tensor(buffer).permute(4, 3, 0, 1, 2).to(torch.bfloat16)
  return kernel.contiguous(memory_format=torch.channels_last_3d)


def install() -> None:
  """Makes autoencoders convolve by oneDNN, a thread for each device."""
  torch.set_num_threads(1)
  torch.set_grad_enabled(False)
  causal.convolve = convolve


if __name__ == '__main__':
  install()
  launch = str(ROOT / 'launch.py')
  sys.argv[0] = launch
  runpy.run_path(launch, run_name='__main__')
