"""Layers that the networks share.

Parameters are float32 and carry a logical name for each of their axes, which
`sharding.RULES` maps to the mesh. The names:

  embed   the width of a network
  heads   attention heads times features per head, head by head
  mlp     hidden width of an MLP
  text    width of the text features that a DiT is given
  vocab   rows of a token embedding
  layers  the stacked blocks of a network

An axis without a name (None) is never split. A name occurs at most once in one
parameter, which Flax requires.

Linear layers compute in their `dtype`; norms, modulation and time embeddings
in float32.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

Axes = tuple[str | None, ...]


class Linear(nn.Module):
  """Matrix product over the last axis, plus a bias.

  Where a collection `lora` has the variables `a` and `b`, plus (x a) b; see
  `models.lora`.

  Attributes:
    features: width of the result.
    axes: logical names of the kernel's input and output axis.
    use_bias: whether to add a bias.
    kernel_init: initializer of the kernel; biases start at zero.
    dtype: type of the computation and of the result.
  """

  features: int
  axes: Axes
  use_bias: bool = True
  kernel_init: Callable = nn.initializers.xavier_uniform()
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Float[Array, '*S In']) -> Float[Array, '*S Out']:
    kernel = self.param(
      'kernel',
      nn.with_logical_partitioning(self.kernel_init, self.axes),
      (x.shape[-1], self.features),
    )
    y = matmul(x.astype(self.dtype), kernel.astype(self.dtype))
    if self.use_bias:
      zeros = nn.initializers.zeros
      bias = self.param(
        'bias',
        nn.with_logical_partitioning(zeros, self.axes[1:]),
        (self.features,),
      )
      y += align(bias.astype(self.dtype), y)
    if self.has_variable('lora', 'a'):
      a, b = (self.get_variable('lora', name) for name in ('a', 'b'))
      low = matmul(x.astype(self.dtype), a.astype(self.dtype))
      y += matmul(low, b.astype(self.dtype))
    return y


class MLP(nn.Module):
  """Two linear layers with a nonlinearity between them.

  Attributes:
    hidden: width between the layers.
    features: width of the result.
    axis: logical name of the input axis.
    activation: the nonlinearity; GELU is its tanh form.
    dtype: type of the computation and of the result.
  """

  hidden: int
  features: int
  axis: str | None = 'embed'
  activation: Callable = jax.nn.gelu
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: Float[Array, '*S In']) -> Float[Array, '*S Out']:
    x = Linear(
      self.hidden, (self.axis, 'mlp'), dtype=self.dtype, name='linear_1'
    )(x)
    return Linear(
      self.features, ('mlp', 'embed'), dtype=self.dtype, name='linear_2'
    )(self.activation(x))


class RMSNorm(nn.Module):
  """Divides by the root mean square of the last axis; float32 in and out.

  Attributes:
    axis: logical name of the scale's axis.
    eps: added to the mean square.
  """

  axis: str | None = None
  eps: float = 1e-6

  @nn.compact
  def __call__(self, x: Float[Array, '*S D']) -> Float[Array, '*S D']:
    scale = self.param(
      'scale',
      nn.with_logical_partitioning(nn.initializers.ones, (self.axis,)),
      x.shape[-1:],
    )
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + self.eps) * align(scale, x)


class LayerNorm(nn.Module):
  """`standardize`, then a learned scale and bias."""

  eps: float = 1e-6

  @nn.compact
  def __call__(self, x: Float[Array, '*S D']) -> Float[Array, '*S D']:
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    shape = x.shape[-1:]
    scale = self.param(
      'scale', nn.with_logical_partitioning(ones, (None,)), shape
    )
    bias = self.param(
      'bias', nn.with_logical_partitioning(zeros, (None,)), shape
    )
    x = standardize(x, self.eps)
    return x * align(scale, x) + align(bias, x)


def matmul(
  x: Float[Array, '*S In'], kernel: Float[Array, 'In Out']
) -> Float[Array, '*S Out']:
  """Product over the last axis of `x`.

  On CPU the leading axes are folded into one first. The gradient of the kernel
  then sums over one axis, which XLA for CPU does without copying transposes:
  training is about twice as fast. Elsewhere it does not matter, and folding
  axes that a mesh splits would cost communication.
  """

  def folded(x: Array, kernel: Array) -> Array:
    y = x.reshape(-1, x.shape[-1]) @ kernel
    return y.reshape(*x.shape[:-1], kernel.shape[-1])

  return jax.lax.platform_dependent(x, kernel, cpu=folded, default=jnp.matmul)


def standardize(
  x: Float[Array, '*S D'], eps: float = 1e-6
) -> Float[Array, '*S D']:
  """Layer norm without parameters: zero mean, unit variance, in float32."""
  x = x.astype(jnp.float32)
  x -= jnp.mean(x, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(variance + eps)


def modulate(
  x: Float[Array, 'B N D'],
  shift: Float[Array, '#B #N D'],
  scale: Float[Array, '#B #N D'],
  eps: float = 1e-6,
) -> Float[Array, 'B N D']:
  """Adaptive layer norm: standardizes, then scales by 1 + scale and shifts."""
  return standardize(x, eps) * (1 + scale) + shift


def add(
  x: Float[Array, 'B N D'], y: Float[Array, 'B N D']
) -> Float[Array, 'B N D']:
  """Residual sum, in float32 and then back to the type of `x`."""
  return (x.astype(jnp.float32) + y.astype(jnp.float32)).astype(x.dtype)


def modulation_table(
  module: nn.Module, rows: int, width: int
) -> Float[Array, '1 1 J D']:
  """The learned part of a module's modulation, zero at the start."""
  table = module.param(
    'scale_shift_table',
    nn.with_logical_partitioning(nn.initializers.zeros, (None, None)),
    (rows, width),
  )
  return table[None, None]


def spread(
  values: Float[Array, 'B G J D'], group: Float[Array, 'B N G']
) -> list[Float[Array, '#B #N D']]:
  """Hands each token the J values of its group.

  The membership `group` is one-hot, so this is an exact selection; as a matrix
  product its gradient is one too, where a gather's would be a scatter-add of
  all tokens into few rows. A lone group is not copied to each token: its values
  keep an axis of one in the place of N, which broadcasts.
  """
  parts = [values[:, :, j] for j in range(values.shape[2])]
  if group.shape[-1] == 1:
    return parts
  return [
    jnp.einsum('BNG,BGD->BND', group, part, precision='highest')
    for part in parts
  ]


def sinusoid(t: Float[Array, '*S'], features: int) -> Float[Array, '*S F']:
  """Embeds numbers as cosines, then sines, of F/2 frequencies 1 ... 1e-4.

  Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5; cosines first
  as in Ho et al. 2020 and Wan.
  """
  half = features // 2
  frequency = np.exp(-np.log(1e4) * np.arange(half) / half)
  angle = jnp.expand_dims(t, -1) * jnp.float32(frequency).reshape(
    (1,) * t.ndim + (half,)
  )
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def one_hot(index: Int[Array, '*S'], size: int) -> Float[Array, '*S {size}']:
  """Membership of each entry in `size` groups, as float32."""
  return jax.nn.one_hot(index, size, dtype=jnp.float32)


def align(vector: Float[Array, ' D'], x: Float[Array, '*S D']) -> Array:
  """Gives a vector leading axes of size 1, as many as `x` has.

  Our tests forbid implicit rank promotion, which hides wrong shapes.
  """
  return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


DTYPES = ('auto', 'float32', 'bfloat16')
Config = TypeVar('Config', bound=Any)


def resolve_dtype(config: Config) -> Config:
  """A network's config with the type to compute in, where that was 'auto'.

  It is bfloat16 on GPUs and TPUs and float32 on CPUs, where XLA gains nothing
  by less.
  """
  if config.dtype != 'auto':
    return config
  on_cpu = jax.default_backend() == 'cpu'
  dtype = 'float32' if on_cpu else 'bfloat16'
  return dataclasses.replace(config, dtype=dtype)


def check_dtype(dtype: str) -> None:
  """Raises ValueError for a type that we do not compute in."""
  if dtype not in DTYPES:
    raise ValueError(f'{dtype=} must be one of {", ".join(DTYPES)}')


def lean(params: Any, dtype: str, exact: Collection[str] = ()) -> Any:
  """Parameters with those of linear layers in the type that they compute in.

  Layers round them to it at each use. Rounded once, they give the same numbers
  to the bit, and lie in fewer bytes.

  Args:
    params: Of a network.
    dtype: In which its linear layers compute.
    exact: Names of parts that compute in float32.
  """
  if not isinstance(params, Mapping):
    return params
  if 'kernel' in params:
    return {name: leaf.astype(dtype) for name, leaf in params.items()}
  return {
    name: part if name in exact else lean(part, dtype, exact)
    for name, part in params.items()
  }


def stack(
  block: type[nn.Module],
  depth: int,
  *,
  scan: bool = True,
  remat: bool = False,
) -> Callable[..., nn.Module]:
  """Makes `depth` blocks of one kind that run one after another.

  Their parameters are stacked on a leading axis named 'layers' either way.

  Args:
    block: a module `(x, *args) -> (x, None)`; all blocks get the same `args`.
    depth: number of blocks.
    scan: compile one block and loop over it; else compile each, which takes
      longer and may run faster.
    remat: recompute a block in the backward pass instead of storing what it
      computed, so memory holds one block and the inputs of the others.
  """
  if remat:
    # Inside a loop XLA cannot merge the two computations of a block, and
    # without the barriers that prevent it, it is free to fuse.
    block = nn.remat(block, prevent_cse=not scan)
  return nn.scan(
    block,
    variable_axes={'params': 0, 'lora': 0},
    split_rngs={'params': True},
    in_axes=nn.broadcast,
    length=depth,
    unroll=1 if scan else depth,
    metadata_params={nn.PARTITION_NAME: 'layers'},
  )
