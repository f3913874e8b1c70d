"""Our networks beside those of others, on one model: `launch.py parity`.

Every network of a directory is opened twice, by diffusers or transformers and
by us, and given the same random input in float32. What is told is the largest
difference of any number that comes out, beside the largest number.
"""

import dataclasses
import importlib
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from sora_jax import config as config_lib, networks, tokens
from sora_jax.data import tokenizer as tokenizer_lib, transforms
from sora_jax.models import autoencoder, dit, text
from sora_jax.weights import directory

Params = Any
# Of differences, for numbers around 1; a wrong network is off by far more.
BOUNDS = {
  'transformer': 2e-5,
  'transformer_2': 2e-5,
  'vae': 5e-5,
  'text_encoder': 5e-5,
}
CAPTIONS = (
  'a small red ball rolls right at speed 2.0',
  'Eine Katze &amp; ein Hund,  im   Schnee.',
  '',
)


class Row(NamedTuple):
  """How far two networks are apart."""

  network: str  # its folder
  what: str
  difference: float
  size: float  # of the largest number

  @property
  def holds(self) -> bool:
    bound = BOUNDS.get(self.network, 0.0)
    return self.difference <= bound * max(1.0, self.size)


def main(config: config_lib.Config | None, flags: types.SimpleNamespace) -> int:
  """`launch.py parity`: a table, and exit status 1 where a bound is broken."""
  del config
  print('the largest difference of any number, and the largest number')
  rows = []
  for row in compare(epath.Path(flags.model or networks.SHIPPED)):
    rows.append(row)
    verdict = '' if row.holds else '  too far'
    print(
      f'{row.network:<13} {row.what:<34} {row.difference:>9.2g} '
      f'of {row.size:<8.3g}{verdict}',
      flush=True,
    )
  return int(not all(row.holds for row in rows))


def compare(path: epath.Path) -> Iterator[Row]:
  """Compares all networks of a model, one after the other.

  Raises:
    ValueError: it is no model, or what it is compared with is not installed.
  """
  torch = _library('torch')
  torch.set_grad_enabled(False)
  index = directory.read_index(path)
  networks_of = {
    'dit': _dit,
    'dit_low': _dit,
    'autoencoder': _autoencoder,
    'text': _text,
  }
  with jax.default_matmul_precision('highest'):
    for name in directory.named(index):
      folder = directory.KINDS[name].folder
      config = dataclasses.replace(
        directory.read_config(path, name), dtype='float32'
      )
      params = jax.tree.map(
        jnp.asarray, directory.read_params(path, name, config)
      )
      library, class_name = index[folder]
      network = getattr(_library(library), class_name)
      theirs = network.from_pretrained(str(path / folder)).float().eval()
      for what, (a, b) in networks_of[name](config, params, theirs):
        yield _row(folder, what, a, b)
      del params, theirs
  if index.get(directory.TOKENIZER):
    yield _tokenizer(path / directory.TOKENIZER)


def _library(name: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ValueError(
      f'{name} is not installed: pip install "sora_jax[parity]"'
    ) from error


def _row(network: str, what: str, ours: Any, theirs: Any) -> Row:
  ours, theirs = np.asarray(ours), theirs.numpy()
  assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
  difference = float(np.abs(ours - theirs).max())
  return Row(network, what, difference, float(np.abs(theirs).max()))


Pairs = Iterator[tuple[str, tuple[Any, Any]]]


def _dit(config: dit.DiTConfig, params: Params, theirs: Any) -> Pairs:
  """One noise level for all tokens, and one for each latent frame."""
  torch = _library('torch')
  rng = np.random.default_rng(0)
  channels = config.channels + config.condition_channels
  t, h, w = config.patch
  z = rng.normal(size=(1, 3 * t, 3 * h, 4 * w, channels)).astype(np.float32)
  features = rng.normal(size=(1, 7, config.text_width)).astype(np.float32)
  fill = max(config.text_length - 7, 0)
  padded = np.pad(features, ((0, 0), (0, fill), (0, 0)))
  run = make_dit(config, z.shape[1:4])
  for what, levels in (
    ('one noise level', np.array([0.7])),
    ('a level for each latent frame', np.array([0.0, 0.3, 0.9])),
  ):
    times = dit.LEVEL_SCALE * levels
    if len(levels) > 1:
      times = np.repeat(times, 3 * 4)[None]  # of every token
    found = theirs(
      torch.from_numpy(einops.rearrange(z, 'B T H W C -> B C T H W')),
      torch.from_numpy(times.astype(np.float32)),
      torch.from_numpy(padded),
      return_dict=False,
    )[0]
    ours = jax.jit(run)(params, z, levels.astype(np.float32)[None], features)
    yield what, (ours, found.permute(0, 2, 3, 4, 1))


def make_dit(
  config: dit.DiTConfig, size: tuple[int, int, int]
) -> Callable[..., jax.Array]:
  """The network on one latent `[1, F, h, w, C]`, which others take whole.

  What is returned takes parameters, the latent, its noise levels (one, or one
  for each frame of tokens) and text features `[1, L, E]`.
  """
  position = tokens.positions(tokens.token_grid(size, config.patch))[None]
  ones = jnp.ones(position.shape[:2], jnp.int32)

  def run(params, z, level, features):
    x = tokens.patchify(jnp.asarray(z), config.patch)
    group = position[..., 0] if level.shape[1] > 1 else 0 * ones
    y = dit.SpacetimeDiT(config).apply(
      {'params': params},
      x,
      jnp.asarray(level),
      jnp.asarray(position),
      ones,
      jnp.asarray(group),
      jnp.asarray(features),
      jnp.ones(features.shape[:2], jnp.int32),
      ones,
    )
    return tokens.unpatchify(y, size, config.patch)

  return run


def _autoencoder(
  config: autoencoder.AutoencoderConfig, params: Params, theirs: Any
) -> Pairs:
  """Encoder and decoder, in one pass and in chunks."""
  torch = _library('torch')
  rng = np.random.default_rng(0)
  frames, time, side = 1 + 3 * config.time, config.time, 4 * config.space
  video = rng.uniform(-1, 1, (1, frames, side, 2 * side, 3)).astype(np.float32)
  first = lambda x: torch.from_numpy(
    einops.rearrange(x, 'B T ... C -> B C T ...')
  )
  last = lambda x: x.permute(0, 2, 3, 4, 1)
  theirs_mean = last(theirs.encode(first(video)).latent_dist.mode())
  encode, decode = (_jit(config, params, way) for way in ('encode', 'decode'))
  mean, _ = encode({}, video)[0]
  yield 'encode', (mean, theirs_mean)
  for cuts in ((1, 1 + 2 * time), (1 + time,)):
    parts = np.split(video, cuts, axis=1)
    means = [mean for mean, _ in _streamed(encode, parts)]
    words = ' + '.join(str(part.shape[1]) for part in parts)
    yield f'encode {words} frames', (np.concatenate(means, 1), theirs_mean)
  z = rng.normal(size=mean.shape).astype(np.float32)
  theirs_video = last(theirs.decode(first(z)).sample)
  pixels, _ = decode({}, z)
  yield 'decode', (np.clip(pixels, -1, 1), theirs_video)
  for cuts in ((1, 2), (2, 3)):
    parts = np.split(z, cuts, axis=1)
    pixels = np.concatenate(_streamed(decode, parts), axis=1)
    words = ' + '.join(str(part.shape[1]) for part in parts)
    yield f'decode {words} latents', (np.clip(pixels, -1, 1), theirs_video)


def _jit(
  config: autoencoder.AutoencoderConfig, params: Params, method: str
) -> Callable[[Any, np.ndarray], tuple[Any, Any]]:
  """One direction of an autoencoder, `(state, chunk) -> (out, state)`."""

  @jax.jit
  def run(params, state, chunk):
    return autoencoder.Autoencoder(config).apply(
      {'params': params, **state},
      chunk,
      not state,
      method=method,
      mutable=['stream'],
    )

  return lambda state, chunk: run(params, state, chunk)


def _streamed(
  run: Callable[[Any, np.ndarray], tuple[Any, Any]], parts: list[np.ndarray]
) -> list[Any]:
  """What comes of the chunks of a clip, one after the other."""
  found, state = [], {}
  for part in parts:
    out, state = run(state, part)
    found.append(out)
  return found


def _text(config: text.TextConfig, params: Params, theirs: Any) -> Pairs:
  """Three captions of different lengths, padded."""
  torch = _library('torch')
  rng = np.random.default_rng(0)
  ids = rng.integers(3, config.vocab, (3, 40)).astype(np.int32)
  there = (np.arange(40) < np.array([[40], [13], [1]])).astype(np.int32)
  ids *= there
  ours = text.T5Encoder(config).apply(
    {'params': params}, jnp.asarray(ids), jnp.asarray(there)
  )
  found = theirs(torch.from_numpy(ids).long(), torch.from_numpy(there).long())
  seen = found.last_hidden_state * torch.from_numpy(there)[..., None]
  yield 'captions of 40, 13 and 1 ids', (ours, seen)


def _tokenizer(folder: epath.Path) -> Row:
  """Captions whose ids differ, as a number."""
  auto = _library('transformers').AutoTokenizer.from_pretrained(str(folder))
  files = {path.name: path.read_bytes() for path in folder.iterdir()}
  ours = tokenizer_lib.from_files(files, folder)
  reads_bytes = ours.encode is transforms.byte_ids
  clean = (lambda caption: caption) if reads_bytes else tokenizer_lib.clean
  wrong = sum(
    ours.encode(caption, 512) != auto(clean(caption)).input_ids
    for caption in CAPTIONS
  )
  return Row('tokenizer', 'captions that differ', wrong, len(CAPTIONS))
