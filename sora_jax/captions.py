"""Prompts to the features that the transformer listens to.

A caption is encoded once, alone and at one length, so that what a clip is told
has the same bits whatever was asked for beside it. The encoder lies on its
device only while it is asked, as that of a published model is larger than the
transformer.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from sora_jax import memory, networks as networks_lib, sharding
from sora_jax.data import transforms
from sora_jax.models import text

Params = Any

ON_HOST = 'take --text_on_host, and the encoder runs on the CPU'
LESS = 'take a machine with more'


class Told(NamedTuple):
  """What clips hear: the first row of each, and what they are to move from."""

  features: Float[np.ndarray, '2 L E']  # zeros in empty slots
  segment: Int[np.ndarray, '2 L']  # line of the prompt, from 1; 0: empty


def device_of(on_host: bool, mesh: jax.sharding.Mesh) -> jax.Device:
  """Where prompts are encoded: on the CPU, or the first device of a mesh.

  Raises:
    ValueError: JAX was told not to use the CPU.
  """
  if not on_host:
    return mesh.local_devices[0]
  device = sharding.host_device()
  if device.platform != 'cpu':
    raise ValueError(
      'text_on_host: JAX_PLATFORMS leaves out the CPU; add ",cpu" to it'
    )
  return device


class Encoder:
  """The text encoder of some networks, and what it has said."""

  def __init__(
    self,
    networks: networks_lib.Networks,
    device: jax.Device,
    tell: Callable[[str], None] = lambda line: None,
  ):
    """Places nothing yet.

    Args:
      networks: All of a model.
      device: Where the encoder runs.
      tell: Is told of the memory that it takes, before it takes it.
    """
    self._config = networks.config.text
    self._params = networks.params['text']
    self._encode = networks.tokenizer.encode
    self._slots = networks.config.sample.text_slots
    # A mesh of its own, as a run that samples meanwhile may span hosts.
    self._mesh = sharding.make_mesh(sharding.MeshConfig(), [device])
    self._tell = tell
    self._said: dict[str, Float[np.ndarray, 'l E']] = {}

    def run(params: Params, ids: Array, segment: Array) -> Array:
      module = text.T5Encoder(self._config)
      return module.apply({'params': params}, ids, segment)

    self._run = jax.jit(run)

  def learn(self, captions: Iterable[str]) -> None:
    """Encodes captions that are new, and then frees the device.

    Raises:
      ValueError: a caption is longer than the model reads, or the encoder is
        larger than the device.
    """
    words = {
      caption: self._encode(caption, self._slots)
      for caption in captions
      if caption not in self._said
    }
    if not words:
      return
    with sharding.use(self._mesh):
      run = self._placed()
      for caption, ids in words.items():
        row = np.full((1, self._slots), transforms.PAD, np.int32)
        row[0, : len(ids)] = ids
        segment = (np.arange(self._slots)[None] < len(ids)).astype(np.int32)
        features = np.asarray(run(row, segment))
        # A copy: a view would keep what it is of on a device that is a CPU.
        self._said[caption] = features[0, : len(ids)].copy()

  def _placed(self) -> Callable[..., Array]:
    """The encoder on its device, once it is known to fit."""
    lean = text.lean(self._config, self._params)
    parts = {'text encoder': sum(x.nbytes for x in jax.tree.leaves(lean))}
    (device,) = self._mesh.local_devices
    advice = LESS if device.platform == 'cpu' else ON_HOST
    memory.check(parts, {}, advice, [device])
    here = sharding.replicated(self._mesh)
    params = jax.device_put(lean, here)
    ids = jax.ShapeDtypeStruct((1, self._slots), np.int32, sharding=here)
    parts['encoding'] = memory.needed(self._run, params, ids, ids)
    self._tell(memory.check(parts, {}, advice, [device]))
    place = lambda *rows: jax.device_put(rows, here)
    return lambda *rows: self._run(params, *place(*rows))

  def told(self, prompt: str, lines: int = 1, negative: str = '') -> Told:
    """What a clip hears; captions that are new are learnt.

    Args:
      prompt: Its lines are captions of their own.
      lines: How many there must be; L is as many times what one may need.
      negative: Of one line, which every part is to move away from.

    Raises:
      ValueError: as `split` and `learn` do.
    """
    ways = split(prompt, lines), [negative] * lines
    self.learn([*ways[0], negative])
    shape = (2, self._slots * lines)
    features = np.zeros((*shape, self._config.width), np.float32)
    segment = np.zeros(shape, np.int32)
    for row, captions in enumerate(ways):
      end = 0
      for line, caption in enumerate(captions):
        said = self._said[caption]
        features[row, end : end + len(said)] = said
        segment[row, end : end + len(said)] = line + 1
        end += len(said)
    return Told(features, segment)


def split(prompt: str, lines: int = 1) -> list[str]:
  """The captions of a prompt.

  Raises:
    ValueError: a line is empty, or there are more or fewer than `lines`.
  """
  parts = prompt.split('\n')
  if len(parts) != lines:
    raise ValueError(
      f'prompt {prompt!r} has {len(parts)} lines; its canvas has {lines} parts '
      'that listen to a line each'
    )
  if not all(part.strip() for part in parts):
    raise ValueError('a prompt is empty; it must say what to show')
  return parts
