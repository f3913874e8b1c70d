"""Skies and grounds: what lies behind and under the actors.

A ground is the plane of height 0 with a pattern in its own coordinates, which
fades where a pixel covers more of it than the pattern's grain, so that nothing
flickers. Colours are linear light.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sora_jax.data.worlds import drawing, tracing

TILE = 256  # texels of the noise, which repeats
HOURS = ('day', 'dusk', 'night')
WEATHERS = ('clear', 'rain', 'fog')
ALIKE = ('studio', 'underwater')  # the same at every hour, in any weather


class Setting(NamedTuple):
  """Where and when a scene is."""

  place: str  # of PLACES
  hour: str  # of HOURS
  weather: str  # of WEATHERS
  azimuth: float  # radians; where the sun is
  shift: Float[np.ndarray, '2']  # of the ground's pattern, units


class Air(NamedTuple):
  """The light of a setting, and what one sees of the sky through its air."""

  light: drawing.Light
  zenith: Float[np.ndarray, '3']
  horizon: Float[np.ndarray, '3']
  haze: tuple[float, Float[np.ndarray, '3']]  # part lost per unit, and colour


class _Look(NamedTuple):
  """The light of an hour, or of a place that has light of its own."""

  elevation: float  # of the sun, radians
  sun: tuple[float, float, float]
  sky: tuple[float, float, float]
  bounce: tuple[float, float, float]  # from the ground
  zenith: tuple[float, float, float]
  horizon: tuple[float, float, float]
  grey: float  # of its clouds and fog


_LOOKS = {
  'day': _Look(
    elevation=0.85,
    sun=(1.0, 0.94, 0.8),
    sky=(0.36, 0.44, 0.58),
    bounce=(0.2, 0.18, 0.14),
    zenith=(0.1, 0.27, 0.62),
    horizon=(0.62, 0.74, 0.84),
    grey=0.5,
  ),
  'dusk': _Look(
    elevation=0.4,
    sun=(1.12, 0.6, 0.3),
    sky=(0.28, 0.24, 0.34),
    bounce=(0.17, 0.12, 0.11),
    zenith=(0.07, 0.08, 0.25),
    horizon=(0.85, 0.38, 0.16),
    grey=0.22,
  ),
  'night': _Look(
    elevation=0.8,
    sun=(0.22, 0.26, 0.36),
    sky=(0.08, 0.1, 0.17),
    bounce=(0.035, 0.035, 0.05),
    zenith=(0.004, 0.008, 0.03),
    horizon=(0.025, 0.04, 0.085),
    grey=0.06,
  ),
  'studio': _Look(
    elevation=0.95,
    sun=(0.75, 0.75, 0.75),
    sky=(0.5, 0.5, 0.5),
    bounce=(0.36, 0.36, 0.36),
    zenith=(0.72, 0.72, 0.72),
    horizon=(0.8, 0.8, 0.8),
    grey=0.5,
  ),
  # Less red than there is, but enough to tell pink from purple.
  'underwater': _Look(
    elevation=1.2,
    sun=(0.78, 0.92, 0.84),
    sky=(0.17, 0.36, 0.43),
    bounce=(0.09, 0.15, 0.15),
    zenith=(0.1, 0.42, 0.5),
    horizon=(0.012, 0.13, 0.2),
    grey=0.5,
  ),
}
# Light lost per unit of the way.
_HAZE = {'clear': 0.004, 'rain': 0.02, 'fog': 0.085, 'underwater': 0.06}
_DIM = {'clear': 1.0, 'rain': 0.35, 'fog': 0.45}  # of the sun


def air_of(setting: Setting) -> Air:
  """The light and the air of a setting."""
  own = setting.place in ALIKE
  look = _LOOKS[setting.place if own else setting.hour]
  sun, sky, bounce, zenith, horizon = (np.array(c) for c in look[1:6])
  if setting.weather != 'clear':
    grey = look.grey * np.array([0.95, 1.0, 1.06])
    sky = 0.75 * sky + 0.35 * grey
    zenith, horizon = (0.15 * c + 0.85 * grey for c in (zenith, horizon))
    zenith = horizon if setting.weather == 'fog' else 0.7 * zenith
  light = drawing.Light(
    direction=np.array([
      np.cos(look.elevation) * np.sin(setting.azimuth),
      np.sin(look.elevation),
      np.cos(look.elevation) * np.cos(setting.azimuth),
    ]),
    sun=_DIM[setting.weather] * sun,
    sky=sky,
    ground=bounce,
  )
  thin = _HAZE[
    'underwater' if setting.place == 'underwater' else setting.weather
  ]
  return Air(light, zenith, horizon, (thin, horizon))


@functools.cache
def noise() -> Float[np.ndarray, '256 256']:
  """Smooth random values that repeat, mean 0 and deviation 1, at all scales."""
  rng = np.random.Generator(np.random.Philox(7))
  total = np.zeros((TILE, TILE))
  for octave in range(2, 9):
    side = 2**octave
    coarse = rng.standard_normal((side, side))
    at = (np.arange(TILE) + 0.5) * side / TILE
    i = np.floor(at).astype(int)
    part = at - i
    part = part * part * (3 - 2 * part)
    for axis in (0, 1):
      near, far = (np.take(coarse, (i + k) % side, axis) for k in (0, 1))
      weight = part[:, None] if axis == 0 else part
      coarse = near + weight * (far - near)
    total += coarse * 0.8**octave
  return ((total - total.mean()) / total.std()).astype(np.float32)


def sample(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """The noise at texels u, v, between which it is linear."""
  flat = noise().ravel()
  left, low = np.floor(u), np.floor(v)
  a, b = u - left, v - low
  i, j = left.astype(np.int32) & (TILE - 1), low.astype(np.int32) & (TILE - 1)
  right, i = (i + 1) & (TILE - 1), i
  row, above = j * TILE, ((j + 1) & (TILE - 1)) * TILE
  one, two = flat.take(row + i), flat.take(row + right)
  one += a * (two - one)
  three, four = flat.take(above + i), flat.take(above + right)
  three += a * (four - three)
  one += b * (three - one)
  return one


class Ground(NamedTuple):
  """Pixels that look at the ground, each [T h w] or broadcastable to it."""

  x: np.ndarray  # units
  z: np.ndarray
  reach: np.ndarray  # distance along the ray, in units of its forward part
  grain: np.ndarray  # units of ground that a pixel covers, away from the eye
  steep: np.ndarray  # sine of the angle at which it is seen


def ground_of(view: tracing.View, window: tracing.Window) -> Ground:
  """Where rays meet height 0; the camera does not roll, so rows are level."""
  axes = view.axes.astype(np.float32)[:, :, :, None, None]
  down = -(axes[:, 1, 1] * window.y + axes[:, 2, 1])
  reach = view.position[:, 1, None, None].astype(np.float32) / np.maximum(
    down, 1e-3
  )
  x, z = (
    tracing.linear(view.axes[:, :, k], window) * reach
    + view.position[:, k, None, None].astype(np.float32)
    for k in (0, 2)
  )
  steep = down / np.sqrt(down * down + 1)
  grain = reach / np.float32(view.focal) / np.maximum(steep, np.float32(0.02))
  return Ground(x, z, reach, grain, steep)


def _fade(grain: np.ndarray, size: float) -> np.ndarray:
  """1 where a pattern of a size is seen, 0 where a pixel covers all of it."""
  return np.clip(1.5 - grain * np.float32(1.5 / size), 0, 1)


def _tint(base, change, mix: np.ndarray) -> list[np.ndarray]:
  """base + mix change, a channel at a time."""
  return [
    np.float32(b) + np.float32(c) * mix
    for b, c in zip(base, change, strict=True)
  ]


Albedo = list[np.ndarray]


def grass(g: Ground, shift: np.ndarray, time: np.ndarray) -> Albedo:
  """Green in patches, with blades where one is near enough to see them."""
  x, z = g.x + np.float32(shift[0]), g.z + np.float32(shift[1])
  patches = sample(x * 5, z * 5)
  blades = sample(x * 27, z * 27) * _fade(g.grain, 0.2)
  bright = np.maximum(1 + 0.2 * patches + 0.33 * blades, 0.15)
  warm = np.clip(0.5 + 0.3 * patches, 0, 1)
  return [
    (a + b * warm) * bright
    for a, b in ((0.07, 0.09), (0.24, 0.04), (0.03, 0.0))
  ]


def sand(g: Ground, shift: np.ndarray, time: np.ndarray) -> Albedo:
  """Pale sand in ripples."""
  x, z = g.x + np.float32(shift[0]), g.z + np.float32(shift[1])
  patches = sample(x * 6, z * 6)
  ripples = np.sin(5.5 * z + 1.4 * x + 0.9 * patches) * _fade(g.grain, 0.9)
  grains = sample(x * 60, z * 60) * _fade(g.grain, 0.12)
  bright = 1 + 0.08 * patches + 0.1 * ripples + 0.06 * grains
  return [np.float32(c) * bright for c in (0.72, 0.5, 0.27)]


def checker(g: Ground, shift: np.ndarray, time: np.ndarray) -> Albedo:
  """Squares of one unit, each pixel the mean over what it covers."""

  def wave(a, width):
    # The mean of a square wave of period 2 over a width.
    triangle = lambda p: np.abs((p * 0.5) % 1 - 0.5) * 2
    width = np.clip(width, 0.02, 4)
    return (triangle(a + width / 2) - triangle(a - width / 2)) / width

  x, z = g.x + np.float32(shift[0]), g.z + np.float32(shift[1])
  pixel = g.grain * g.steep
  mix = 0.5 + 0.5 * wave(x, pixel) * wave(z, g.grain)
  return _tint((0.07, 0.08, 0.1), (0.62, 0.6, 0.54), mix)


def ruins(g: Ground, shift: np.ndarray, time: np.ndarray) -> Albedo:
  """Slabs of stone, one row shifted against the next, with moss in the gaps."""
  x, z = g.x + np.float32(shift[0]), g.z + np.float32(shift[1])
  patches = sample(x * 7, z * 7)
  row = np.floor(z / np.float32(0.9))
  across = x + np.float32(0.6) * row + 0.05 * patches
  slab = np.floor(across / np.float32(1.3))
  near = np.minimum(
    np.abs((across / np.float32(1.3)) % 1 - 0.5) * -1.3 + 0.65,
    np.abs((z / np.float32(0.9)) % 1 - 0.5) * -0.9 + 0.45,
  )
  gap = np.clip(1 - (near - 0.02) / np.maximum(g.grain, 0.03), 0, 1) * _fade(
    g.grain, 0.7
  )
  tone = np.sin(slab * np.float32(12.9) + row * np.float32(78.2))
  bright = 1 + 0.1 * tone * _fade(g.grain, 1.5) + 0.12 * patches
  bright = bright + 0.1 * sample(x * 40, z * 40) * _fade(g.grain, 0.15)
  return [
    np.float32(c) * bright * (1 - gap) + np.float32(m) * gap
    for c, m in ((0.42, 0.07), (0.37, 0.1), (0.3, 0.04))
  ]


def studio(g: Ground, shift: np.ndarray, time: np.ndarray) -> Albedo:
  """White paper."""
  return [np.full_like(g.x, c) for c in (0.72, 0.72, 0.73)]


def seabed(g: Ground, shift: np.ndarray, time: np.ndarray) -> Albedo:
  """Sand under bright lines that the waves above it focus."""
  colours = sand(g, shift, time)
  when = time.astype(np.float32)[:, None, None]
  x, z = g.x * np.float32(1.1), g.z * np.float32(1.1)
  for _ in range(2):
    x, z = (
      x + 0.55 * np.sin(1.9 * z + 0.9 * when),
      z + 0.55 * np.sin(1.7 * x - 1.1 * when),
    )
  lines = np.abs(np.sin(1.3 * x) + np.sin(1.5 * z))
  lines = np.maximum(1 - 0.9 * lines, 0)
  bright = 0.62 + 1.0 * lines * lines * _fade(g.grain, 1.2)
  return [c * bright for c in colours]


def waves(g: Ground, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Slopes of a water surface along x and z."""
  when = time.astype(np.float32)[:, None, None]
  across, down = np.zeros_like(g.x), np.zeros_like(g.x)
  for kx, kz, rate, steep in (
    (1.3, 2.2, 1.6, 0.05),
    (-2.1, 3.4, 2.3, 0.045),
    (3.6, 4.3, 3.1, 0.04),
    (-6.5, 5.2, 4.3, 0.03),
  ):
    size = 2 * np.pi / np.hypot(kx, kz)
    crest = np.cos(np.float32(kx) * g.x + np.float32(kz) * g.z - rate * when)
    crest *= np.float32(steep) * _fade(g.grain, size)
    across = across + kx / np.hypot(kx, kz) * crest
    down = down + kz / np.hypot(kx, kz) * crest
  return across, down


def water(g: Ground, shift: np.ndarray, time: np.ndarray) -> Albedo:
  """What light comes back from under a surface, the rest being mirrored."""
  return [np.full_like(g.x, c) for c in (0.012, 0.075, 0.1)]


class Place(NamedTuple):
  """A ground."""

  albedo: Callable[[Ground, np.ndarray, np.ndarray], Albedo]  # its pattern
  mirror: float = 0.0  # part of the light reflected at normal incidence
  moves: bool = False  # its pattern does


PLACES = {
  'grass': Place(grass),
  'sand': Place(sand),
  'checker': Place(checker, mirror=0.06),
  'ruins': Place(ruins),
  'water': Place(water, mirror=0.05, moves=True),
  'underwater': Place(seabed, moves=True),
  'studio': Place(studio, mirror=0.04),
}


def fresnel(steep: np.ndarray, normal: float) -> np.ndarray:
  """Part of the light that a surface reflects, by Schlick's formula.

  Args:
    steep: cosine between the ray and the surface's normal.
    normal: what is reflected at normal incidence.
  Source: Schlick 1994, An Inexpensive BRDF Model for Physically-based
  Rendering, equation 15.
  """
  away = 1 - np.clip(steep, 0, 1)
  square = away * away
  return np.float32(normal) + np.float32(1 - normal) * square * square * away


def sky(
  setting: Setting, air: Air, rise: np.ndarray, x: np.ndarray, z: np.ndarray
) -> Float[np.ndarray, '3 T h w']:
  """The sky in directions (x, rise, z) that need not have length 1."""
  length = 1 / np.sqrt(x * x + z * z + rise * rise)
  up = np.clip(rise * length, 0, 1)
  if setting.place == 'studio':
    up = np.clip(rise * length * 2.2, 0, 1)
  part = 1 - (1 - up) ** 4
  colour = [
    np.float32(a) + np.float32(b - a) * part
    for a, b in zip(air.horizon, air.zenith, strict=True)
  ]
  if setting.place in ALIKE:
    return np.stack(np.broadcast_arrays(*colour))
  sun = air.light.direction
  cosine = (
    x * np.float32(sun[0]) + z * np.float32(sun[2]) + rise * np.float32(sun[1])
  ) * length
  glow = np.maximum(cosine, 0) ** 12
  ahead = np.maximum(rise, np.float32(0.04))
  cloud = sample(
    x / ahead * 14 + 300 * setting.shift[0].astype(np.float32), z / ahead * 14
  )
  cloud = (
    np.clip(0.6 * cloud + 0.2, 0, 1) * np.clip(rise * length * 7, 0, 1) * 0.85
  )
  clear = setting.weather == 'clear'
  for k in range(3):
    white = (
      0.25 * air.zenith[k] + 0.6 * air.horizon[k] + 0.35 * air.light.sky[k]
    )
    if clear:
      colour[k] = (
        colour[k]
        + cloud * np.float32(white - 0) * (1 - 0.3 * part)
        - cloud * colour[k]
      )
    colour[k] = colour[k] + glow * np.float32(
      0.25 * air.light.sun[k] * (1.0 if clear else 0.3)
    )
  return np.stack(np.broadcast_arrays(*colour))
