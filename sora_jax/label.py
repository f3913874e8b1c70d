"""Marks, encodes, signs and writes a clip: how everything made here leaves.

Three marks say that a clip was made by a network: the manifest in its file
(`provenance.py`), a watermark in its pixels (`watermark.py`), which outlives
the manifest, and letters in a corner for those who look.
"""

import hashlib
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from sora_jax import certificate, provenance, watermark
from sora_jax.data import video

# These flags say how to label: beside --unlabelled they mean nothing.
FLAGS = ('label_prompt', 'tsa_url', 'visible_label', 'certificate', 'key')
LETTERS = 'AI'
# Facts that may name folders of this computer: a manifest beside the files
# keeps them, their labels do not.
PRIVATE = ('xla_flags',)
PROMPTS = ('negative',)  # and those that are told with the prompt alone


class Label(NamedTuple):
  """How clips are labelled; without a signer they are not."""

  signer: certificate.Signer | None
  prompt: bool = False  # also in the manifest
  visible: bool = False
  tsa_url: str = ''  # of a time stamp authority, RFC 3161

  @property
  def card(self) -> dict[str, Any]:
    """What of a file depends on its label."""
    return {
      'signed_by': self.signer.fingerprint if self.signer else '',
      'label_prompt': self.prompt,
      'visible_label': self.visible,
      'tsa_url': self.tsa_url,
    }


def of(flags: types.SimpleNamespace) -> Label:
  """The label that flags ask for.

  Raises:
    ValueError: flags that contradict each other, or no certificate and key.
    OSError: a file of theirs that cannot be read.
  """
  given = {name: getattr(flags, name, None) for name in FLAGS}
  if getattr(flags, 'unlabelled', False):
    if others := [f'--{name}' for name, value in given.items() if value]:
      raise ValueError(
        f'--unlabelled leaves nothing for {", ".join(others)} to do; give one '
        'or the other'
      )
    return Label(None)
  own, key = given['certificate'], given['key']
  if bool(own) != bool(key):
    raise ValueError(
      f'--{"certificate" if own else "key"} is given alone; give both '
      '--certificate=PEM and --key=PEM, or neither'
    )
  url = given['tsa_url'] or ''
  if url and not url.startswith(('http://', 'https://')):
    raise ValueError(f'--tsa_url={url} is not http://... or https://...')
  signer = certificate.load(own, key) if own and key else certificate.local()
  if own:
    _try(
      *(signer, ''),
      f'--certificate={own}',
      'C2PA takes one for signing documents, that another one has signed, and '
      'both in the PEM',
    )
  if url:
    _try(signer, url, f'--tsa_url={url}', 'give an authority that answers')
  return Label(
    signer, bool(given['label_prompt']), bool(given['visible_label']), url
  )


def _try(signer: certificate.Signer, url: str, flag: str, advice: str) -> None:
  """Signs an image: now, and not only when all is painted."""
  pixels = video.encode('tried.png', [np.zeros((1, 8, 8, 3), np.uint8)], 1.0)
  try:
    provenance.sign(pixels, '.png', signer, {}, tsa_url=url)
  except ValueError as error:
    raise ValueError(f'{flag}: {error}; {advice}') from error


def write(
  path: epath.Path,
  parts: Iterable[UInt8[np.ndarray, '_ _ _ 3']],
  fps: float,
  label: Label,
  facts: Callable[[], dict[str, Any]],
  inputs: tuple[provenance.Input, ...] = (),
) -> dict[str, str]:
  """Writes a labelled file; returns the hashes of its bytes.

  `video_sha256` is of the encoded video before it was signed, which is equal
  for equal frames; `file_sha256` of the file.

  Args:
    path: Whose suffix says the type.
    parts: Frames, in any number of parts.
    fps: Frames per second.
    label: How it is labelled.
    facts: Asked for what the label tells, when all frames are there; those
      that are PRIVATE it does not, and PROMPTS only where it tells the prompt.
    inputs: Files that it is made of.

  Raises:
    ValueError: the type cannot hold the frames, or it cannot be signed; then
      no file is written.
    OSError: it cannot be written.
  """
  pixels = (marked(part, label, again=bool(inputs)) for part in parts)
  data = video.encode(path, pixels, fps)
  file = data
  if label.signer:
    hidden = PRIVATE if label.prompt else (*PRIVATE, *PROMPTS)
    told = {k: v for k, v in facts().items() if k not in hidden}
    try:
      file = provenance.sign(
        data, path.suffix.lower(), label.signer, told, inputs, label.tsa_url
      )
    except ValueError as error:
      raise ValueError(
        f'{path}: {error}; --unlabelled writes without a label'
      ) from error
  video.publish(path, file)
  return {'video_sha256': _sha256(data), 'file_sha256': _sha256(file)}


def marked(
  frames: UInt8[np.ndarray, 'T H W 3'], label: Label, again: bool = False
) -> UInt8[np.ndarray, 'T H W 3']:
  """Frames with what the label puts into pixels, perhaps of a labelled file."""
  if label.visible:
    frames = lettered(frames)
  return watermark.mark(frames, again) if label.signer else frames


def lettered(
  frames: UInt8[np.ndarray, 'T H W 3'],
) -> UInt8[np.ndarray, 'T H W 3']:
  """Frames with LETTERS on black in the lower right corner."""
  _, height, width, _ = frames.shape
  size = max(10, min(height, width) // 14)
  font = ImageFont.load_default(size)
  left, top, right, bottom = font.getbbox(LETTERS)
  edge = size // 4
  box = Image.new(
    'RGB', (round(right - left) + 2 * edge, round(bottom - top) + 2 * edge)
  )
  ImageDraw.Draw(box).text(
    (edge - left, edge - top), LETTERS, fill='white', font=font
  )
  tag = np.asarray(box)[:height, :width]
  frames = frames.copy()
  frames[:, height - len(tag) :, width - tag.shape[1] :] = tag
  return frames


def _sha256(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()
