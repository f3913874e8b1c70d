"""The networks of a system with their configs, to and from where they are kept.

They are kept as a model directory (`weights/directory.py`) or as the working
directory of a run, whose last good checkpoint then speaks, by its average.
"""

import copy
import functools
import hashlib
import json
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Array, Key

from sora_jax import checkpoint, config as config_lib, published, sharding
from sora_jax.data import tokenizer as tokenizer_lib
from sora_jax.models import (
  abstract as abstract_lib,
  autoencoder,
  contrast,
  dit,
  lora,
  probe,
  text,
)
from sora_jax.weights import adapters, directory, params as params_lib

Params = Any

SHIPPED = epath.Path(__file__).parent / 'weights' / 'balls'

# Name of a network that is trained here -> field of the config, and how its
# parameters are made.
KINDS = {
  'dit': ('model', dit.init),
  'text': ('text', text.init),
  'autoencoder': ('autoencoder', autoencoder.init),
  'probe': ('probe', probe.init),
}
SYSTEM = ('dit', 'text', 'autoencoder')  # what makes clips; the probe judges


class Weights(NamedTuple):
  """A network whose parameters are not read until they have a place."""

  boxed: Params  # abstract, with their logical axes
  # Shardings -> parameters. Of a model directory, each device is handed its own
  # part, and no more is read for it.
  place: Callable[[Params], Params]


class Networks(NamedTuple):
  """Networks by name: those of KINDS, and of a model of two experts 'dit_low'.

  Of the config, only what describes the networks and how to sample is used.
  """

  config: config_lib.Config
  params: dict[str, Params]
  tokenizer: tokenizer_lib.Tokenizer = tokenizer_lib.BYTES


def read(
  path: epath.PathLike, names: tuple[str, ...] | None = None
) -> Networks:
  """Reads a model directory or a run.

  Args:
    path: Of one.
    names: Of the networks that are wanted; by default all.

  Raises:
    ValueError: it is neither, or something in it is damaged.
  """
  path = epath.Path(path)
  if directory.is_model(path):
    return _read_model(path, names)
  if (path / 'config.json').exists():
    return _read_run(path, names)
  if not path.exists():
    raise ValueError(f'{path}: no such directory; give a model or a run')
  raise ValueError(
    f'{path} is neither a model (no {directory.INDEX}) nor a run (no '
    'config.json)'
  )


def _read_model(
  path: epath.Path, names: tuple[str, ...] | None = None
) -> Networks:
  model = directory.read(path, names)
  tokenizer = tokenizer_lib.BYTES
  if 'text' in model.params:
    folder = path / directory.TOKENIZER
    tokenizer = tokenizer_lib.from_files(model.tokenizer, folder)
  return Networks(_config_of(model, path), model.params, tokenizer)


def describe(path: epath.PathLike) -> config_lib.Config:
  """The config of a model directory, without its weights.

  Raises:
    ValueError: it is none, or something in it is damaged.
  """
  return _config_of(directory.describe(path), epath.Path(path))


def _config_of(model: directory.Model, path: epath.Path) -> config_lib.Config:
  config = config_lib.from_dict(config_lib.Config, model.sampling)
  for name, part in model.configs.items():
    if name == 'dit_low' and part != model.configs.get('dit'):
      raise ValueError(f'{path}: its two experts must be of one config')
    setattr(config, field(name), part)
  if not model.sampling and 'dit' in model.configs:
    published.sampling(config, model, path)
  return config


def field(name: str) -> str:
  """The field of a config that describes a network."""
  return KINDS[name.removesuffix('_low')][0]


def painters(params: dict[str, Params]) -> dict[str, Params]:
  """Of networks by name, the transformer, or the two experts."""
  return {k: v for k, v in params.items() if field(k) == 'model'}


def _read_run_config(
  path: epath.Path,
) -> tuple[config_lib.Config, dict[str, str]]:
  """The config of a run, and digests of the networks that it only reads."""
  try:
    saved = json.loads((path / 'config.json').read_text())
  except (ValueError, OSError) as error:
    raise ValueError(f'{path / "config.json"}: {error}') from error
  if not {'config', 'frozen'} <= saved.keys():
    raise ValueError(
      f'{path / "config.json"}: not of a run, or of an older version'
    )
  config = config_lib.from_dict(config_lib.Config, saved['config'])
  return config, saved['frozen']


def _read_run(
  path: epath.Path, wanted: tuple[str, ...] | None = None
) -> Networks:
  config, digests = _read_run_config(path)
  if config.expert is not config_lib.Expert.WHOLE:
    raise ValueError(
      f'{path} trains one of two experts; take {path / "model"}, the model of '
      'both that it leaves'
    )
  judges = config.stage is config_lib.Stage.PROBE
  names = ('probe',) if judges else SYSTEM
  shapes = {name: _restorable(abstract(config, name)) for name in names}
  if config.stage is config_lib.Stage.AUTOENCODER:
    if directory.is_model(path / 'model'):  # statistics come with the export
      exported = _read_model(path / 'model').config.autoencoder
      config.autoencoder.latent_mean = exported.latent_mean
      config.autoencoder.latent_std = exported.latent_std
    parts = {'ema': {'autoencoder': shapes['autoencoder']}}
  elif judges:
    parts = {'ema': shapes}
  elif config.stage is config_lib.Stage.TEXT:
    towers = jax.eval_shape(
      lambda key: init_towers(config, key), jax.random.key(0)
    )
    parts = {'ema': {'text': shapes['text'], 'contrast': _restorable(towers)}}
  else:
    trained = {k: x for k, x in shapes.items() if k not in digests}
    parts = {'ema': trained}
    if config.lora.rank:
      parts['frozen'] = {'dit': trained.pop('dit')}
      trained['lora'] = _restorable(abstract_adapters(config))
  if wanted is not None:
    digests = {k: x for k, x in digests.items() if k in wanted}
  frozen = _read_again(config, digests, path) if digests else {}
  with checkpoint.CheckpointStore(path / 'checkpoints') as store:
    state = store.restore_part(parts).state
  state = jax.device_get(state)
  params = merge(config, state['ema'], frozen | state.get('frozen', {}))
  if wanted is not None:
    params = {name: tree for name, tree in params.items() if name in wanted}
  tokenizer = tokenizer_lib.BYTES
  if 'text' in params:
    tokenizer = read_tokenizer(config)
  return Networks(config, params, tokenizer)


def _read_again(
  config: config_lib.Config, digests: dict[str, str], path: epath.Path
) -> Params:
  """What a run took as it was, from where it was."""
  whole = f'once it has ended, its model directory {path / "model"} has all'
  if directory.is_model(path / 'model'):
    whole = f'take {path / "model"}, which has all'
  found = copy.deepcopy(config)
  try:
    frozen = read_frozen(found)
  except ValueError as error:
    words = f'{path} took networks as they were: {error}; {whole}'
    raise ValueError(words) from error
  for name, theirs in digests.items():
    same = getattr(found, field(name)) == getattr(config, field(name))
    if not same or digest(frozen[name]) != theirs:
      raise ValueError(
        f'{path}: {name}_from={getattr(config, name + "_from")} is not the '
        f'{name} that this run had; {whole}'
      )
  return frozen


def merge(config: config_lib.Config, trained: Params, frozen: Params) -> Params:
  """The networks that a run has made: adapters are added to what they adapt.

  Args:
    config: Of the run.
    trained: Its average.
    frozen: What it has only read.
  """
  params = {k: v for k, v in (trained | frozen).items() if k in KINDS}
  if 'lora' in trained:
    added = lora.scaled(config.lora, trained['lora'])
    params['dit'] = lora.merge(params['dit'], added)
  return params


def _restorable(boxed: Params) -> Params:
  """Abstract parameters as a checkpoint is restored to: on the host.

  From there no more is placed than is needed at a time.
  """
  here = jax.sharding.SingleDeviceSharding(sharding.host_device())
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
    sharding.unbox(boxed),
  )


def abstract(config: config_lib.Config, name: str) -> Params:
  """Shapes of one network's parameters, boxed with their logical axes."""
  init = KINDS[name.removesuffix('_low')][1]
  return abstract_lib.params(init, getattr(config, field(name)))


def make_init(config: config_lib.Config, names: tuple[str, ...]) -> Any:
  """A function from a key to the boxed parameters of some networks."""

  def init(key: Key[Array, '']) -> dict[str, Params]:
    keys = jax.random.split(key, len(names))
    made = {}
    for name, key_network in zip(names, keys, strict=True):
      made[name] = KINDS[name][1](getattr(config, field(name)), key_network)
    return made

  return init


def make_adapters(config: config_lib.Config) -> Any:
  """A function from a key to boxed adapters of the DiT."""
  return lambda key: {
    'lora': lora.init(config.lora, abstract(config, 'dit'), key)
  }


def abstract_adapters(config: config_lib.Config) -> Params:
  """Shapes of a DiT's adapters, boxed with their logical axes."""
  return jax.eval_shape(make_adapters(config), jax.random.key(0))['lora']


def adapt(networks: Networks, place: epath.PathLike) -> Networks:
  """Networks with the adapters of a file added.

  Args:
    networks: What to add to.
    place: The path of a file. As `high:PATH` or `low:PATH` its adapters are of
      that one of two experts, whatever the file calls it.

  Raises:
    ValueError: the file is damaged, or its adapters fit none of the networks.
  """
  params = dict(networks.params)
  word, _, path = str(place).partition(':')
  said = word in ('high', 'low')
  path = path if said else str(place)
  found = adapters.read(path, networks.config.model)
  if said:
    name = config_lib.Expert(word).network
    if 'dit_low' not in params:
      raise ValueError(f'{place}: the model has one transformer; give {path}')
    # Files of either expert say 'dit' where they were trained apart.
    if found.keys() not in ({'dit'}, {name}):
      raise ValueError(f'{path} says itself which it adapts; give it so')
    found = {name: next(iter(found.values()))}
  elif 'dit_low' in params and set(found) == {'dit'}:
    raise ValueError(
      f'{path} does not say which of two experts it adapts; give it as '
      f'high:{path} or low:{path}'
    )
  for name, part in found.items():
    if name not in params:
      raise ValueError(f'{path} adapts a {name}, which the model does not have')
    try:
      params[name] = lora.merge(params[name], part)
    except ValueError as error:
      raise ValueError(f'{path} is of another size of DiT: {error}') from error
  return networks._replace(params=params)


def init_towers(config: config_lib.Config, key: Key[Array, '']) -> Params:
  """Boxed parameters of what teaches the text encoder."""
  values = math.prod(config.model.patch) * config.model.channels
  return contrast.init(key, values, config.text.width)


def write(
  path: epath.PathLike,
  networks: Networks,
  dtype: str,
  copied: Mapping[str, epath.Path] = types.MappingProxyType({}),
) -> None:
  """Writes a model directory with weights of one dtype.

  Args:
    path: Where to.
    networks: What to write.
    dtype: Of their stored numbers.
    copied: Further networks, and the models whose files of them are taken.
  """
  config, names = networks.config, (*networks.params, *copied)
  parts = {name: getattr(config, field(name)) for name in names}
  told = 'text' in parts
  model = directory.Model(
    parts,
    networks.params,
    sampling(config) if set(parts) <= {*SYSTEM, 'dit_low'} else {},
    scheduler=published.scheduler(config) if 'dit' in parts else {},
    tokenizer=networks.tokenizer.files if told else {},
    index=published.index(config) if 'dit' in parts else {},
  )
  directory.write(path, model, dtype, copied)


def check_from_text(networks: Networks, what: str) -> None:
  """Raises ValueError for a model whose clips start from an image."""
  if networks.config.model.condition_channels:
    raise ValueError(
      f'{what} makes clips from prompts alone, and those of this model start '
      'from an image; take another model'
    )


def sampling(config: config_lib.Config) -> dict[str, Any]:
  """What a model directory says of how to sample."""
  return {
    name: config_lib.to_dict(getattr(config, name))
    for name in ('denoising', 'sample')
  }


def read_frozen(config: config_lib.Config) -> dict[str, Params]:
  """Networks that a run only reads, on the host; their configs enter `config`.

  Raises:
    ValueError: there is no autoencoder, or what was read is not what it
      should be.
  """
  if not config.autoencoder_from:
    raise ValueError(
      'autoencoder_from is empty; this stage needs the directory of a '
      'trained autoencoder (experiments/autoencoder.py trains one)'
    )
  frozen = {}
  for name, place in (
    ('autoencoder', config.autoencoder_from),
    ('text', config.text_from),
  ):
    if place:
      found = read(place, (name,))
      if name not in found.params:
        raise ValueError(f'{name}_from={place} has no {name}')
      frozen[name] = found.params[name]
      setattr(config, field(name), getattr(found.config, field(name)))
  check_statistics(config, config.autoencoder_from)
  return frozen


def read_tokenizer(config: config_lib.Config) -> tokenizer_lib.Tokenizer:
  """That of the frozen text encoder; one that is trained here reads bytes.

  Raises:
    ValueError: it cannot be read.
  """
  place = epath.Path(config.text_from)
  if not config.text_from:
    return tokenizer_lib.BYTES
  if directory.is_model(place):
    folder = place / directory.TOKENIZER
    return tokenizer_lib.from_files(directory.read_tokenizer(place), folder)
  return read_tokenizer(_read_run_config(place)[0])


def check_statistics(config: config_lib.Config, place: epath.PathLike) -> None:
  """Raises ValueError unless the autoencoder of `place` scales its latents."""
  if not config.autoencoder.latent_std:
    raise ValueError(
      f'{place}: its autoencoder has no latent statistics, which the end of '
      'its training measures; use the `model` directory that it leaves'
    )


def digest(params: Params) -> str:
  """SHA-256 over parameters, in the order of their names."""
  total = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    total.update(jax.tree_util.keystr(path).encode())
    total.update(np.asarray(leaf, np.float32).tobytes())
  return total.hexdigest()


def config_digest(networks: Networks, cache: float) -> str:
  """SHA-256 over what, besides its weights, a model computes by.

  Args:
    networks: The model.
    cache: The tolerance; the curve is used, and so counts, above 0 alone.
  """
  names = ['denoising', *(field(name) for name in sorted(networks.params))]
  fields = {n: config_lib.to_dict(getattr(networks.config, n)) for n in names}
  if networks.config.sample.openings:
    fields['openings'] = True
  if cache:
    fields['cache_curve'] = networks.config.sample.cache_curve
  return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def read_start(
  config: config_lib.Config, names: tuple[str, ...]
) -> dict[str, Weights]:
  """Weights to start a run from, where `init_from` names some.

  Raises:
    ValueError: they are not of the config's shapes, or there are none.
  """
  if not config.init_from:
    return {}
  path = epath.Path(config.init_from)
  if directory.is_model(path):
    model = directory.describe(path)
    theirs = _config_of(model, path)
    # A file that is damaged is noticed now, and not when there is a place.
    start = {}
    for name in names:
      place = config.expert.network if name == 'dit' else name
      if place in model.configs:
        found = directory.find_params(path, place, model.configs[place])
        start[name] = functools.partial(params_lib.load, found)
  else:
    theirs, params, _ = read(path, names)
    start = {
      name: functools.partial(sharding.from_host, tree)
      for name, tree in params.items()
    }
  if not start:
    raise ValueError(
      f'init_from={config.init_from} has none of {", ".join(names)}'
    )
  for name in start:
    if _shapes(config, name) != _shapes(theirs, name):
      raise ValueError(
        f'init_from={config.init_from}: its {name} has other shapes than '
        f'{field(name)} of this config'
      )
  return {k: Weights(abstract(config, k), place) for k, place in start.items()}


def _shapes(config: config_lib.Config, name: str) -> Any:
  tree = sharding.unbox(abstract(config, name))
  return jax.tree.map(lambda leaf: leaf.shape, tree)
