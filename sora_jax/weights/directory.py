"""A model as a directory, in the layout of diffusers.

  model_index.json   which parts there are, by their classes
  transformer/       config.json, diffusion_pytorch_model.safetensors
  transformer_2/     the same, of a second expert, which takes over at low noise
  text_encoder/      config.json, model.safetensors
  vae/               config.json, diffusion_pytorch_model.safetensors
  probe/             the same, of a judge, alone in its directory
  tokenizer/         files of the library that made it
  scheduler/         scheduler_config.json
  sampling.json      how we sample; published models have none

A large network is several files and an index of them. What is read and written
are the tensors and configs of diffusers and transformers: they open what we
train, and we what they hold.
"""

import functools
import json
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util

from sora_jax import sharding
from sora_jax.models import abstract, autoencoder, dit, probe, text
from sora_jax.weights import configs, names, params as params_lib, tensors

Params = Any

INDEX = 'model_index.json'
SAMPLING = 'sampling.json'
SCHEDULER = 'scheduler/scheduler_config.json'
TOKENIZER = 'tokenizer'
LARGEST_TOKENIZER = 100_000_000  # bytes of a file of it
STORED = ('float32', 'float16', 'bfloat16')


class Kind(NamedTuple):
  """How a network is made, and where its files are."""

  init: Callable[..., Params]
  folder: str
  stem: str  # of the names of its files
  library: str


KINDS = {
  'dit': Kind(dit.init, 'transformer', 'diffusion_pytorch_model', 'diffusers'),
  'dit_low': Kind(
    dit.init, 'transformer_2', 'diffusion_pytorch_model', 'diffusers'
  ),
  'text': Kind(text.init, 'text_encoder', 'model', 'transformers'),
  'autoencoder': Kind(
    autoencoder.init, 'vae', 'diffusion_pytorch_model', 'diffusers'
  ),
  'probe': Kind(probe.init, 'probe', 'model', 'sora_jax'),
}


class Model(NamedTuple):
  """Networks by name, which is one of KINDS, and how to sample."""

  configs: dict[str, Any]  # DiTConfig, TextConfig, AutoencoderConfig, ...
  params: dict[str, Params]
  sampling: dict[str, Any]  # empty where nothing says it in our words
  scheduler: dict[str, Any] = {}
  tokenizer: dict[str, bytes] = {}  # its files by name
  index: dict[str, Any] = {}  # what else the index says


def write(
  directory: epath.PathLike,
  model: Model,
  dtype: str = 'float32',
  copied: Mapping[str, epath.Path] = types.MappingProxyType({}),
) -> None:
  """Writes a model; a directory that exists is replaced when all is written.

  Args:
    directory: Where to.
    model: What to write; parameters are numpy or JAX arrays.
    dtype: Of the stored numbers, one of STORED. The short ones halve the
      files; float16 is the more exact of them for weights within its range.
    copied: Networks that are in `configs` alone, and the models whose files of
      them are taken as they are.

  Raises:
    ValueError: an unknown type, or a weight that float16 cannot hold.
  """
  check_dtype(dtype)
  directory = epath.Path(directory)
  partial = directory.with_name(directory.name + '.part')
  if partial.exists():
    partial.rmtree()
  for name in model.params:
    write_network(partial, name, model.configs[name], model.params[name], dtype)
  for name, source in copied.items():
    (partial / KINDS[name].folder).mkdir(parents=True)
    for file in (source / KINDS[name].folder).iterdir():
      file.copy(partial / KINDS[name].folder / file.name)
  if model.tokenizer:
    (partial / TOKENIZER).mkdir(parents=True)
  for file, data in model.tokenizer.items():
    (partial / TOKENIZER / file).write_bytes(data)
  if model.scheduler:
    (partial / SCHEDULER).parent.mkdir(parents=True)
    _write_json(partial / SCHEDULER, model.scheduler)
  if model.sampling:
    _write_json(partial / SAMPLING, model.sampling)
  _write_json(partial / INDEX, _index(model, (*model.params, *copied)))
  old = directory.with_name(directory.name + '.old')
  if old.exists():
    old.rmtree()
  if directory.exists():
    directory.rename(old)
  partial.rename(directory)
  if old.exists():
    old.rmtree()


def write_network(
  directory: epath.PathLike,
  name: str,
  config: Any,
  params: Params,
  dtype: str,
  largest: int = tensors.LARGEST_FILE,
) -> None:
  """Writes one network into its folder, in files of at most `largest` bytes."""
  folder = epath.Path(directory) / KINDS[name].folder
  folder.mkdir(parents=True)
  _write_json(folder / 'config.json', configs.FORMS[name].write(config))
  store = functools.partial(_store, dtype=dtype)
  stored = params_lib.unload(params, places(name, config), store)
  tensors.write(folder, KINDS[name].stem, stored, largest)


def _index(model: Model, parts: Sequence[str]) -> dict[str, Any]:
  """The classes by which diffusers opens a model."""
  index: dict[str, Any] = {
    '_class_name': 'SceneProbe' if 'probe' in parts else 'WanPipeline',
    '_diffusers_version': configs.VERSION,
  } | model.index
  for name in parts:
    folder, library = KINDS[name].folder, KINDS[name].library
    written = configs.FORMS[name].write(model.configs[name])
    class_name = written.get('_class_name') or written['architectures'][0]
    index[folder] = [library, class_name]
  if model.tokenizer:
    told = json.loads(model.tokenizer['tokenizer_config.json'])
    index[TOKENIZER] = ['transformers', told['tokenizer_class']]
  if model.scheduler:
    index['scheduler'] = ['diffusers', model.scheduler['_class_name']]
  return index


def write_sampling(directory: epath.PathLike, sampling: dict[str, Any]) -> None:
  """Replaces how to sample, and nothing else, of a model that is there."""
  path = epath.Path(directory) / SAMPLING
  partial = path.with_name(path.name + '.part')
  _write_json(partial, sampling)
  partial.replace(path)


def _write_json(path: epath.Path, values: dict[str, Any]) -> None:
  path.write_text(json.dumps(values, indent=1) + '\n')


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
  return np.asarray(values).astype(jnp.dtype(dtype))


def is_model(directory: epath.PathLike) -> bool:
  """Whether a directory has the index of a model."""
  return (epath.Path(directory) / INDEX).exists()


def read(
  directory: epath.PathLike, wanted: tuple[str, ...] | None = None
) -> Model:
  """Reads a model; parameters are float32 numpy arrays.

  Args:
    directory: Of the model.
    wanted: Names of the networks whose parameters are read; by default all.

  Raises:
    ValueError: the directory is not a model, or a file of it is damaged.
  """
  directory = epath.Path(directory)
  model = describe(directory)
  params = {
    name: read_params(directory, name, config)
    for name, config in model.configs.items()
    if wanted is None or name in wanted
  }
  return model._replace(params=params)


def describe(directory: epath.PathLike) -> Model:
  """Reads all that a model says of itself, but for its parameters.

  Raises:
    ValueError: the directory is not a model, or a file of it is damaged.
  """
  directory = epath.Path(directory)
  index = read_index(directory)
  sampling, scheduler = directory / SAMPLING, directory / SCHEDULER
  return Model(
    configs={name: read_config(directory, name) for name in named(index)},
    params={},
    sampling=tensors.read_json(sampling) if sampling.exists() else {},
    scheduler=tensors.read_json(scheduler) if scheduler.exists() else {},
    tokenizer=read_tokenizer(directory),
    index={k: v for k, v in index.items() if not isinstance(v, list)},
  )


def read_index(directory: epath.PathLike) -> dict[str, Any]:
  """What a model's index says.

  Raises:
    ValueError: there is none, or it has none of our networks.
  """
  path = epath.Path(directory) / INDEX
  if not path.exists():
    raise ValueError(f'{directory} has no {INDEX}: it is not a model')
  index = tensors.read_json(path)
  if not named(index):
    folders = ', '.join(kind.folder for kind in KINDS.values())
    raise ValueError(
      f'{path} is of another kind: it must name one of {folders}'
    )
  return index


def named(index: dict[str, Any]) -> list[str]:
  """Networks that an index has a class for."""
  has = lambda entry: isinstance(entry, list) and bool(entry and entry[-1])
  return [n for n, kind in KINDS.items() if has(index.get(kind.folder))]


def read_config(directory: epath.PathLike, name: str) -> Any:
  """The config of one network of a model."""
  path = epath.Path(directory) / KINDS[name].folder / 'config.json'
  if not path.exists():
    raise ValueError(
      f'{path} is missing, though {INDEX} names {path.parent.name}'
    )
  return configs.FORMS[name].read(tensors.read_json(path), path)


def read_params(directory: epath.PathLike, name: str, config: Any) -> Params:
  """The parameters of one network of a model, float32 numpy arrays.

  Raises:
    ValueError: as `find_params`.
  """
  return params_lib.load(find_params(directory, name, config))


def find_params(
  directory: epath.PathLike, name: str, config: Any
) -> dict[str, params_lib.Stored]:
  """Where the parameters of one network lie, from the headers of its files.

  Args:
    directory: Of the model.
    name: One of KINDS.
    config: Its config.

  Raises:
    ValueError: a tensor is missing, is one too many, has another shape or type
      than the config says, or a file is damaged.
  """
  folder = epath.Path(directory) / KINDS[name].folder
  found = tensors.find(folder, KINDS[name].stem)
  original = name in ('dit', 'dit_low') and names.ORIGINAL_SIGN in found
  return params_lib.match(
    found,
    places(name, config, original),
    _shapes(name, config),
    folder,
    ignored=(names.TIED,) if name == 'text' else (),
  )


def _shapes(name: str, config: Any) -> dict[str, tuple[int, ...]]:
  """Shapes of a network's parameters, by path."""
  tree = sharding.unbox(abstract.params(KINDS[name].init, config))
  flat = traverse_util.flatten_dict(tree, sep='.')
  return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def places(
  name: str, config: Any, original: bool = False
) -> dict[str, names.Place]:
  """Where each parameter of a network lies in files."""
  options = {'original': True} if original else {}
  place = functools.partial(names.PLACE[name], config=config, **options)
  return {path: place(path) for path in _shapes(name, config)}


def read_tokenizer(directory: epath.Path) -> dict[str, bytes]:
  """The files of a model's tokenizer by name; none where it has none."""
  folder = directory / TOKENIZER
  if not folder.exists():
    return {}
  paths = sorted(path for path in folder.iterdir() if path.is_file())
  for path in paths:
    if path.stat().length > LARGEST_TOKENIZER:
      raise ValueError(f'{path}: too large to be of a tokenizer')
  return {path.name: path.read_bytes() for path in paths}
