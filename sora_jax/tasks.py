"""Pixels to canvases, and back: the ways of prompting by image and video.

A task paints a canvas from frames and says what of the result is taken from
those frames as they were. Frames are encoded as the network knows latents from
its training: a piece at the start from its own first frame; a piece further on
as a stream of its own, whose image latent is shown behind the clip or left out.
So a piece of k latents is 1 + 4 (k - 1) frames at the start, and 1 + 4 k frames
elsewhere, the first of which closes the latent before.

What is painted before such a piece is moved to meet it; see `registration`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from sora_jax import (
  batch,
  canvas as canvas_lib,
  codec,
  generate,
  objectives,
  registration,
  sharding,
)

Video = UInt8[np.ndarray, '_T _H _W 3']
# Frames of one clip to its normalised latent.
Encode = Callable[[Video], Float[np.ndarray, 'F h w C']]


class Scene(NamedTuple):
  """A canvas, and what surrounds the frames that are made on it."""

  canvas: canvas_lib.Canvas
  pixels: Video  # of the frames to be made, where they are known
  keep: Float[np.ndarray, '_T _H _W']  # 1 takes them from `pixels`
  before: Video  # frames of the clip in front of the canvas, and behind it
  after: Video
  meets: tuple[int, ...] = ()  # frames that a known piece further on opens with

  @property
  def size(self) -> batch.Size:
    """Of the whole clip."""
    frames, height, width = self.keep.shape
    return batch.Size(
      width, height, len(self.before) + frames + len(self.after)
    )

  @property
  def digest(self) -> str:
    """SHA-256 of all that a prompt and a seed are answered with."""
    digest = hashlib.sha256()
    canvas = self.canvas._asdict()
    del canvas['shown']  # as the lengths of the others tell
    for part in (*canvas.values(), *self[1:]):
      if part is not None:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()

  def finish(self, made: Iterable[Video]) -> Iterator[Video]:
    """The whole clip, part by part, of the frames that were made."""
    at = 0
    yield self.before
    for frames in self._met(made):
      part = slice(at, at := at + len(frames))
      keep = self.keep[part, ..., None]
      mixed = keep * self.pixels[part] + (1 - keep) * frames
      yield np.rint(mixed).astype(np.uint8)
    yield self.after

  def _met(self, made: Iterable[Video]) -> Iterator[Video]:
    """The frames that were made, moved where a known piece comes after them.

    Those that may be moved are held back until it is there.
    """
    meets, at, held = list(self.meets), 0, self.pixels[:0]
    for frames in made:
      held = np.concatenate([held, frames])
      while meets and meets[0] < at + len(held):
        known, here = self.pixels[meets[0]], meets.pop(0) - at
        lead = slice(max(0, here - self._lead(at + here)), here)
        held[lead] = registration.meet(held[lead], held[here], known)
      free = max(0, meets[0] - registration.LEAD - at) if meets else len(held)
      yield held[:free]
      at, held = at + len(held[:free]), held[free:]
    yield held

  def _lead(self, meets: int) -> int:
    """Frames before a known piece that are moved: none that is known itself."""
    known = np.flatnonzero(self.keep[:meets].all(axis=(1, 2)))
    made = meets - 1 - int(known[-1]) if len(known) else meets
    return min(registration.LEAD, made)


def make_encoder(networks: generate.Networks, tile: int = 0) -> Encode:
  """What encodes one clip, in tiles of so many pixels a side; 0: whole."""
  run = _encoder(networks, tile)
  return lambda video: run(video[None])[0]


def _encoder(networks: generate.Networks, tile: int) -> codec.Encode:
  mesh = sharding.make_mesh(sharding.MeshConfig(), jax.local_devices()[:1])
  config, params = networks.config, networks.params
  return codec.make_encoder(
    config.autoencoder, params['autoencoder'], mesh, tile
  )


def condition(
  networks: generate.Networks, scene: Scene, tile: int = 0
) -> Scene:
  """The scene for a network that sees what is known beside the noise.

  Its canvas has nothing known: the network is shown the known frames, with grey
  between them, as one clip's latent; see `canvas.condition`.

  Raises:
    ValueError: no frame is known as a whole, one is in part, or a network that
      sees something else.
  """
  config = networks.config
  channels, time = config.model.condition_channels, config.autoencoder.time
  wanted = time + config.autoencoder.channels
  if channels != wanted:
    raise ValueError(
      f'the network sees {channels} channels beside the noise; {wanted} would '
      'be a mask and a latent'
    )
  known = scene.keep[:, 0, 0]
  if (scene.keep != known[:, None, None]).any() or set(known) - {0.0, 1.0}:
    raise ValueError(
      'the network sees whole frames beside the noise, and no parts of them; '
      'take --task=animate, keyframes, extend, extend_backwards or connect'
    )
  if not known.any():
    raise ValueError(
      'the network starts from frames: give some, as --task=animate '
      '--image=FILE'
    )

  pixels = np.asarray(objectives.to_pixels(jnp.asarray(scene.pixels[None])))
  grey_between = pixels * known[None, :, None, None, None]
  latent = _encoder(networks, tile)(grey_between)[0]
  blank = canvas_lib.text_to_video(*latent.shape)
  canvas = blank._replace(
    text_of=canvas_lib.hide(scene.canvas).text_of,
    condition=canvas_lib.condition(known, latent, time),
  )
  return scene._replace(canvas=canvas)


def animate(
  encode: Encode, image: UInt8[np.ndarray, 'H W 3'], frames: int
) -> Scene:
  """A still that starts to move: frame 0 is the image.

  Raises:
    ValueError: a clip of one frame, which is the image.
  """
  if frames < 5:
    height, width, _ = image.shape
    raise ValueError(
      'animate: the image is the first frame, and there is no other; ask for '
      f'more, as --size={width}x{height}x33'
    )
  return _around({0: image[None]}, {0: encode(image[None])}, frames)


def keyframes(
  encode: Encode, images: dict[int, UInt8[np.ndarray, 'H W 3']], frames: int
) -> Scene:
  """Stills at chosen frames, and motion between them.

  Four frames to a latent: a still but for that at 0 stands for the four frames
  of its latent.
  """
  kept, pieces = {}, {}
  for at, image in images.items():
    if at == 0:
      kept[0], pieces[0] = image[None], encode(image[None])
    else:
      latent = 1 + (at - 1) // 4
      still = np.repeat(image[None], 5, axis=0)
      kept[4 * latent - 3], pieces[latent] = still[1:], encode(still)[1:]
  return _around(kept, pieces, frames)


def extend(encode: Encode, clip: Video, frames: int, latents: int) -> Scene:
  """A clip that goes on for `frames` more, from its last `latents` latents.

  Raises:
    ValueError: the clip is shorter than what shall be kept of it.
  """
  known = _enough(clip, latents, 'end')
  last = clip[len(clip) - known :]
  total = known + 4 * _latents(frames)
  scene = _around({0: last}, {0: encode(last)}, total)
  return scene._replace(before=clip[: len(clip) - known])


def extend_backwards(
  encode: Encode, clip: Video, frames: int, latents: int
) -> Scene:
  """A clip that begins `frames` earlier, into its first `latents` latents.

  The clip's own first frame closes the last latent that is made.
  """
  known = _enough(clip, latents, 'beginning')
  first = clip[:known]
  at, latent = 1 + _latents(frames), encode(first)
  scene = _around(
    {4 * at - 4: first},
    {at: latent[1:]},
    4 * (at + latents) - 3,
    {at: latent[:1]},
  )
  return scene._replace(after=clip[known:])


def connect(
  encode: Encode,
  one: Video,
  other: Video,
  frames: int,
  latents: int,
  lines: int = 1,
) -> Scene:
  """Two clips, and frames between them that lead across.

  The other clip's first frame closes the last latent that is made, so there
  are 4 k - 1 frames between them: `frames`, or up to 3 more. With one line of
  prompt they are two parts of one clip; with `lines` of 2 each is of its own,
  see `canvas.two_stories`. A network that sees what is known beside the noise
  (`condition`) is shown both ends at once all the same.

  Raises:
    ValueError: clips of two sizes, one that is too short, or other `lines`.
  """
  if one.shape[1:] != other.shape[1:]:
    raise ValueError(
      f'connect: clips of {one.shape[2]}x{one.shape[1]} and '
      f'{other.shape[2]}x{other.shape[1]} pixels; they must have one size'
    )
  if lines not in (1, 2):
    raise ValueError(f'connect: {lines=} of a prompt must be 1 or 2')
  head = _enough(one, latents, 'end')
  tail = _enough(other, latents, 'beginning')
  last, first = one[len(one) - head :], other[:tail]
  at, latent = latents + _latents(frames + 1), encode(first)
  scene = _around(
    {0: last, 4 * at - 4: first},
    {0: encode(last), at: latent[1:]},
    4 * (at + latents) - 3,
    {at: latent[:1]},
  )
  if lines == 2:
    scene = scene._replace(canvas=canvas_lib.two_stories(scene.canvas))
  return scene._replace(before=one[: len(one) - head], after=other[tail:])


def _latents(frames: int) -> int:
  """Latents of four frames that hold so many."""
  return -(-frames // 4)


def edit(encode: Encode, clip: Video, strength: float) -> Scene:
  """A clip repainted by the prompt, from itself noised to `strength`."""
  canvas_lib.check_strength(strength)
  canvas = canvas_lib.edit(encode(clip), strength)
  return _scene(canvas, clip, np.zeros(clip.shape[:3], np.float32))


def replace(
  encode: Encode,
  clip: Video,
  mask: Bool[np.ndarray, '_T _H _W'],
) -> Scene:
  """What a mask marks repainted by the prompt; other pixels stay.

  The mask is grown to whole latents and one more on each side, as a latent
  has seen pixels around its own; the repainted part fades into the kept one
  over that rim.

  Raises:
    ValueError: a mask of another size than the clip.
  """
  if mask.shape != clip.shape[:3]:
    raise ValueError(
      f'replace: a mask of {mask.shape} frames, rows and columns; the clip has '
      f'{clip.shape[:3]}'
    )
  if not mask.any():
    raise ValueError('replace: the mask marks nothing to repaint')
  latent = encode(clip)
  marked = _latent_mask(mask, latent.shape[:3])
  canvas = canvas_lib.replace(latent, _grown(marked))
  return _scene(canvas, clip, 1.0 - _feathered(canvas.start > 0, clip.shape))


def outpaint(
  encode: Encode, clip: Video, size: batch.Size, left: int, top: int
) -> Scene:
  """A clip inside a larger frame, whose rest is made up.

  Raises:
    ValueError: a place outside the frame, or another number of frames.
  """
  frames, height, width, _ = clip.shape
  if frames != size.frames:
    raise ValueError(f'outpaint: a clip of {frames} frames, and {size} asked')
  if not (0 <= left <= size.width - width and 0 <= top <= size.height - height):
    raise ValueError(
      f'outpaint: a clip of {width}x{height} at {left},{top} is not inside '
      f'{size}'
    )
  # The border goes on outwards, so that the encoder sees no edge.
  pads = (top, size.height - height - top), (left, size.width - width - left)
  whole = np.pad(clip, ((0, 0), *pads, (0, 0)), mode='edge')
  mask = np.pad(
    np.zeros(clip.shape[:3], bool), ((0, 0), *pads), constant_values=True
  )
  return replace(encode, whole, mask)


def text_to_video(canvas: canvas_lib.Canvas, size: batch.Size) -> Scene:
  """Nothing known; of a loop, all frames are of four to a latent."""
  frames = 4 * canvas.frames if canvas.loop else size.frames
  empty = np.zeros((frames, size.height, size.width, 3), np.uint8)
  return _scene(canvas, empty, np.zeros(empty.shape[:3], np.float32))


def _around(
  kept: dict[int, Video],
  pieces: dict[int, Float[np.ndarray, 'K h w C']],
  frames: int,
  openings: dict[int, canvas_lib.Image] | None = None,
) -> Scene:
  """A scene of 1 + 4 k frames around known ones, and their latents."""
  canvas = canvas_lib.keyframes(pieces, 1 + (frames - 1) // 4, openings)
  shape = next(iter(kept.values())).shape[1:]
  pixels = np.zeros((frames, *shape), np.uint8)
  keep = np.zeros(pixels.shape[:3], np.float32)
  for at, video in kept.items():
    pixels[at : at + len(video)] = video
    keep[at : at + len(video)] = 1
  meets = tuple(4 * latent - 4 for latent in openings or {})
  return _scene(canvas, pixels, keep)._replace(meets=meets)


def _scene(
  canvas: canvas_lib.Canvas, pixels: Video, keep: Float[np.ndarray, '_T _H _W']
) -> Scene:
  none = pixels[:0]
  return Scene(canvas, pixels, keep, before=none, after=none)


def _enough(clip: Video, latents: int, side: str) -> int:
  """Frames at a side of a clip that make up so many latents.

  Raises:
    ValueError: it has fewer.
  """
  # A stream begins with a frame alone, which only an end keeps as a latent.
  least = {'end': 1, 'beginning': 5}[side]
  frames = least + 4 * (latents - 1)
  if len(clip) < frames:
    most = 1 + (len(clip) - least) // 4
    fits = f'--keep={most} is the most' if most > 0 else 'give a longer one'
    raise ValueError(
      f'--keep={latents}: a clip of {len(clip)} frames is shorter than the '
      f'{frames} frames of its {side} that these latents are; {fits}'
    )
  return frames


def _latent_mask(
  mask: Bool[np.ndarray, '_T _H _W'], size: tuple[int, int, int]
) -> Bool[np.ndarray, 'F h w']:
  """Latents that cover a marked pixel."""
  rows, columns = mask.shape[1] // size[1], mask.shape[2] // size[2]
  cells = mask.reshape(len(mask), size[1], rows, size[2], columns)
  cells = np.any(cells, axis=(2, 4))
  later = np.any(cells[1:].reshape(size[0] - 1, -1, *size[1:]), axis=1)
  return np.concatenate([cells[:1], later])


def _grown(mask: Bool[np.ndarray, 'F h w']) -> Bool[np.ndarray, 'F h w']:
  """With the neighbours of what is marked, on each side in space."""
  wide = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
  rows = wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
  return rows[..., :-2] | rows[..., 1:-1] | rows[..., 2:]


def _feathered(
  made: Bool[np.ndarray, 'F h w'], shape: tuple[int, ...]
) -> Float[np.ndarray, 'T H W']:
  """1 well inside what is made, 0 outside, and a slope over its outer cell."""
  frames, height, width = shape[:3]
  rows, columns = height // made.shape[1], width // made.shape[2]
  per_frame = np.concatenate([made[:1], np.repeat(made[1:], 4, axis=0)])
  fine = per_frame[:frames].repeat(rows, axis=1).repeat(columns, axis=2)
  depth = np.zeros(fine.shape, np.float32)
  inside = fine
  for _ in range(rows):
    depth += inside
    inside = ~_grown(~inside)
  return depth / rows
