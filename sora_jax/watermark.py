"""An invisible mark of frames: that they were made here, and nothing else.

A faint pattern of waves is added to the brightness of every frame, whose phases
are a key. To find it, the phases of a clip's own waves are held against the
key's, at every shift and at many scales. So it stays after a file was encoded
again, made smaller or cropped, where a signature does not. It stops nobody who
wants it gone: the key is in this file.

Of K waves, `score` is sum_k cos(phase_k - key_k) / sqrt(K / 2). To a clip that
knows nothing of the key the phases of the key are random, and
E exp(a cos U) = I0(a) <= exp(a^2 / 4), so a score above z has a chance below
exp(-z^2 / 2), at one shift and scale, whatever the clip shows. THRESHOLD
follows from the number of those that are tried.
Source: Cox et al. 1997 (spread spectrum); Kutter 1999 (a tile that repeats
survives crops); Kuglin and Hines 1975 (phase correlation).
"""

import functools
import hashlib

import einops
import numpy as np
from jaxtyping import Bool, Complex, Float, Int, UInt8

SMALLEST = 256  # pixels of the shorter side that are marked
TILE = 128  # pixels, after which the pattern repeats
# Periods of the waves are TILE / 22 to TILE / 6: still there at half the size,
# and finer than what most pictures are made of.
BAND = 6, 22
RMS = 2.2  # of 255; PSNR 41 dB
# A score of one tile at its own place, which others pass in exp(-8) of cases.
IN_PLACE = 4.0
GREY = np.array([0.299, 0.587, 0.114], np.float32)

# Sizes of a clip relative to what was marked; neighbours differ by as much as
# shifts the waves by a third of the shortest at the edges of a window.
SCALES = np.exp(np.arange(np.log(0.4), np.log(2.2), 0.02))
WINDOW = 512  # pixels that are looked at, from the middle
FRAMES = 32
FALSE_POSITIVES = 1e-9  # at most, of clips that are not marked
THRESHOLD = float(
  np.sqrt(2 * np.log(TILE**2 * len(SCALES) / FALSE_POSITIVES))
)  # 8.35


def mark(
  frames: UInt8[np.ndarray, 'T H W 3'], again: bool = False
) -> UInt8[np.ndarray, 'T H W 3']:
  """Frames with the pattern; smaller ones than SMALLEST have no room for it.

  Args:
    frames: Any number of them.
    again: Whether some may be kept of a file that was marked. What has the
      pattern then stays as it is, tile by tile, or it would grow each time.
  """
  _, height, width, _ = frames.shape
  if min(height, width) < SMALLEST:
    return frames
  times = -(-height // TILE), -(-width // TILE)
  pattern = np.tile(_tile(), times)[:height, :width]
  marked = np.empty_like(frames)
  for frame, out in zip(frames, marked, strict=True):
    added = np.where(_marked(frame), 0, pattern) if again else pattern
    out[:] = np.rint(frame + added[..., None]).clip(0, 255)
  return marked


def _marked(frame: UInt8[np.ndarray, 'H W 3']) -> Bool[np.ndarray, 'H W']:
  """Which tiles have the pattern where `mark` puts it."""
  ky, kx, key = _waves()
  rows, columns = (side - side % TILE for side in frame.shape[:2])
  tiles = einops.rearrange(
    _flattened(frame @ GREY)[:rows, :columns],
    '(a y) (b x) -> a b y x',
    y=TILE,
    x=TILE,
  )
  waves_abK = np.fft.fft2(tiles)[..., ky, kx]
  agree_abK = waves_abK / np.maximum(np.abs(waves_abK), 1e-6) * key.conj()
  scores = agree_abK.real.sum(axis=-1) / np.sqrt(len(key) / 2)
  marked = (scores > IN_PLACE).repeat(TILE, axis=0).repeat(TILE, axis=1)
  # A rest that fills no tile goes with the one beside it.
  rest = [(0, side % TILE) for side in frame.shape[:2]]
  return np.pad(marked, rest, mode='edge')


def found(frames: UInt8[np.ndarray, 'T H W 3']) -> bool:
  """Whether frames are marked; FALSE_POSITIVES of others seem to be."""
  return score(frames) > THRESHOLD


def score(frames: UInt8[np.ndarray, 'T H W 3']) -> float:
  """The largest score of all shifts and scales."""
  ky, kx, key = _waves()
  picture = _picture(frames)
  rows, columns = (_waves_at_scales(side) for side in picture.shape)
  # One axis after the other: S scales, B + 1 waves across, 2 B + 1 down. The
  # picture is real, so it meets cosines and sines as columns of their own.
  right = np.ascontiguousarray(columns[..., BAND[1] :])
  partial_SHb = (picture @ right.view(np.float32)).view(np.complex64)
  waves_Sab = rows.swapaxes(1, 2) @ partial_SHb
  waves_SK = waves_Sab[:, ky + BAND[1], kx]
  agree_SK = waves_SK / np.maximum(np.abs(waves_SK), 1e-6) * key.conj()
  spectrum = np.zeros((len(SCALES), TILE, TILE // 2 + 1), np.complex64)
  spectrum[:, ky % TILE, kx] = agree_SK
  spectrum[:, :, 0] *= 2
  sums = np.fft.irfft2(spectrum, (TILE, TILE)).max() * TILE**2 / 2
  return float(sums / np.sqrt(len(key) / 2))


@functools.cache
def _waves() -> tuple[
  Int[np.ndarray, ' K'], Int[np.ndarray, ' K'], Complex[np.ndarray, ' K']
]:
  """Waves in a tile, down and across, of one half plane; and their phases."""
  low, high = BAND
  ky, kx = np.mgrid[-high : high + 1, : high + 1]
  radius = np.hypot(ky, kx)
  chosen = (low <= radius) & (radius <= high) & ((kx > 0) | (ky > 0))
  ky, kx = ky[chosen], kx[chosen]
  # No generator: its numbers may change with a version of numpy.
  digits = hashlib.shake_256(b'sora_jax').digest(2 * len(ky))
  turns = np.frombuffer(digits, '<u2') / 2**16
  return ky, kx, np.exp(2j * np.pi * turns)


@functools.cache
def _tile() -> Float[np.ndarray, 'y x']:
  ky, kx, key = _waves()
  spectrum = np.zeros((TILE, TILE), complex)
  spectrum[ky % TILE, kx] = key
  tile = np.fft.ifft2(spectrum).real
  return tile * RMS / tile.std()


@functools.lru_cache(4)
def _waves_at_scales(side: int) -> Complex[np.ndarray, 'S side k']:
  """Waves of -BAND[1] to BAND[1] periods a tile, of each scale."""
  k = np.arange(-BAND[1], BAND[1] + 1)
  place = np.arange(side)[:, None] / (TILE * SCALES[:, None, None])
  return np.exp(-2j * np.pi * k * place).astype(np.complex64)


def _picture(frames: UInt8[np.ndarray, 'T H W 3']) -> Float[np.ndarray, 'y x']:
  """Frames laid over each other: what moves fades, and the mark does not."""
  picks = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames)))
  height, width = frames.shape[1:3]
  rows, columns = (_middle(side) for side in (height, width))
  chosen = frames[picks.round().astype(int)][:, rows, columns]
  grey = chosen @ GREY
  flat = np.mean([_flattened(frame) for frame in grey], axis=0)
  fade = [np.hanning(side + 2)[1:-1] for side in flat.shape]
  return (flat * np.outer(*fade)).astype(np.float32)


def _middle(side: int) -> slice:
  start = max(0, side - WINDOW) // 2
  return slice(start, start + min(side, WINDOW))


def _flattened(grey: Float[np.ndarray, 'y x']) -> Float[np.ndarray, 'y x']:
  """Less its local mean, over its local deviation: edges count no more."""
  mean = _local_mean(grey)
  variance = _local_mean(grey**2) - mean**2
  return (grey - mean) / np.sqrt(np.maximum(variance, 0) + 4)


def _local_mean(x: Float[np.ndarray, 'y x']) -> Float[np.ndarray, 'y x']:
  """Of the 9 x 9 pixels around each."""
  for _ in range(2):
    wide = np.pad(x, ((5, 4), (0, 0)), mode='edge').cumsum(0, np.float64)
    x = ((wide[9:] - wide[:-9]) / 9).T
  return x
