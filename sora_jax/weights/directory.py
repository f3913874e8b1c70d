"""A model as a directory: one folder a network, in safetensors.

  model_index.json              which networks there are, and how to sample
  transformer/                  config.json, diffusion_pytorch_model.safetensors
  text_encoder/                 config.json, model.safetensors
  vae/                          config.json, diffusion_pytorch_model.safetensors

The folders and file names are those of diffusers; the tensors have the names
of our own trees, with dots.
"""

import json
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import traverse_util

Params = Any

INDEX = 'model_index.json'
# Types of stored numbers, by their names in a safetensors file.
DTYPES = {'F32': np.float32, 'F16': np.float16, 'BF16': jnp.bfloat16}
STORED = ('float32', 'float16', 'bfloat16')  # the same by their own names
# Name of a network in our trees -> its folder and file.
PLACES = {
  'dit': ('transformer', 'diffusion_pytorch_model.safetensors'),
  'text': ('text_encoder', 'model.safetensors'),
  'autoencoder': ('vae', 'diffusion_pytorch_model.safetensors'),
}


class Model(NamedTuple):
  """Networks by name ('dit', 'text', 'autoencoder'), and how to sample."""

  configs: dict[str, dict[str, Any]]
  params: dict[str, Params]
  sampling: dict[str, Any]


def write(
  directory: epath.PathLike, model: Model, dtype: str = 'float32'
) -> None:
  """Writes a model; a directory that exists is replaced when all is written.

  Args:
    directory: Where to.
    model: What to write; parameters are numpy or JAX arrays.
    dtype: Of the stored numbers, one of STORED. The short ones halve the
      files; float16 is the more exact of them for weights within its range.

  Raises:
    ValueError: an unknown type, or a weight that float16 cannot hold.
  """
  check_dtype(dtype)
  directory = epath.Path(directory)
  partial = directory.with_name(directory.name + '.part')
  if partial.exists():
    partial.rmtree()
  for name, params in model.params.items():
    folder, file = PLACES[name]
    (partial / folder).mkdir(parents=True)
    text = json.dumps(model.configs[name], indent=1) + '\n'
    (partial / folder / 'config.json').write_text(text)
    flat = traverse_util.flatten_dict(params, sep='.')
    arrays = {k: _store(k, np.asarray(v), dtype) for k, v in flat.items()}
    (partial / folder / file).write_bytes(safetensors.numpy.save(arrays))
  index = {'networks': sorted(model.params), 'sampling': model.sampling}
  (partial / INDEX).write_text(json.dumps(index, indent=1) + '\n')
  old = directory.with_name(directory.name + '.old')
  if old.exists():
    old.rmtree()
  if directory.exists():
    directory.rename(old)
  partial.rename(directory)
  if old.exists():
    old.rmtree()


def write_sampling(directory: epath.PathLike, sampling: dict[str, Any]) -> None:
  """Replaces how to sample, and nothing else, of a model that is there."""
  path = epath.Path(directory) / INDEX
  index = _read_json(path) | {'sampling': sampling}
  partial = path.with_name(INDEX + '.part')
  partial.write_text(json.dumps(index, indent=1) + '\n')
  partial.replace(path)


def check_dtype(dtype: str) -> None:
  """Raises ValueError for a type that weights are not stored in."""
  if dtype not in STORED:
    raise ValueError(f'weights: {dtype=} must be one of {", ".join(STORED)}')


def _store(name: str, values: np.ndarray, dtype: str) -> np.ndarray:
  """Rounds to the nearest number of a type."""
  largest = np.abs(values).max(initial=0)
  most = float(jnp.finfo(dtype).max)
  if most < largest < np.inf:
    raise ValueError(
      f'weights: {name} has a value of {largest:.3g}, beyond the {most:.3g} of '
      f'{dtype}; store bfloat16 or float32'
    )
  return np.asarray(jnp.asarray(values, dtype))


def is_model(directory: epath.PathLike) -> bool:
  """Whether a directory has the index of a model."""
  return (epath.Path(directory) / INDEX).exists()


def read(directory: epath.PathLike) -> Model:
  """Reads a model; parameters are float32 numpy arrays.

  Raises:
    ValueError: the directory is not a model, or a file of it is damaged.
  """
  directory = epath.Path(directory)
  if not is_model(directory):
    raise ValueError(f'{directory} has no {INDEX}: it is not a model')
  index = _read_json(directory / INDEX)
  if not set(index.get('networks', ['?'])) <= set(PLACES):
    raise ValueError(
      f'{directory / INDEX} is of another kind: its "networks" must be '
      f'some of {", ".join(PLACES)}'
    )
  configs, params = {}, {}
  for name in index['networks']:
    folder, file = PLACES[name]
    configs[name] = _read_json(directory / folder / 'config.json')
    params[name] = _read_tensors(directory / folder / file)
  return Model(configs, params, index.get('sampling', {}))


def _read_json(path: epath.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(f'{path}: {error}') from error


def _read_tensors(path: epath.Path) -> Params:
  # Not by safetensors.numpy.load, which writes bfloat16 but cannot read it.
  try:
    tensors = safetensors.deserialize(path.read_bytes())
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(f'{path}: {error}') from error
  flat = {}
  for name, tensor in tensors:
    if tensor['dtype'] not in DTYPES:
      raise ValueError(
        f'{path}: {name} is stored as {tensor["dtype"]}; what can be read '
        f'is {", ".join(DTYPES)}'
      )
    stored = np.frombuffer(tensor['data'], DTYPES[tensor['dtype']])
    flat[name] = stored.reshape(tensor['shape']).astype(np.float32)
  return traverse_util.unflatten_dict(flat, sep='.')
