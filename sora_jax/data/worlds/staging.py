"""A scene into pixels: sky, ground, shadows, mirror images, actors, weather."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from sora_jax.data.worlds import (
  actors,
  animals,
  drawing,
  motion,
  places,
  scene_captions,
  shadows,
  tracing,
  weather,
)

RIPPLED = (
  0.9  # pixels of a picture of 64, that a wave of slope 0.1 moves a mirror
)


class Player(NamedTuple):
  """An actor of a scene."""

  name: str  # of animals.BUILDERS
  colour: str  # of scene_captions.COLOURS
  path: motion.Path


class Stage(NamedTuple):
  """A scene at every frame."""

  players: list[Player]
  props: list[list[drawing.Part]]  # behind the players, in the world's axes
  setting: places.Setting
  air: places.Air
  view: tracing.View
  time: Float[np.ndarray, ' T']  # seconds
  seed: Float[np.ndarray, 'n 4']  # numbers in [0, 1), for drops and stars


def linear_light(name: str) -> tuple[float, float, float]:
  """A named colour as light; gamma is 2, so that roots turn light into sRGB."""
  r, g, b = (float(c / 255) ** 2 for c in scene_captions.COLOURS[name])
  return r, g, b


def parts_of(player: Player) -> list[drawing.Part]:
  """An actor's parts in the world's axes."""
  build = animals.BUILDERS[player.name]
  parts = build(player.path, linear_light(player.colour))
  return actors.placed(parts, player.path)


def _still(view: tracing.View) -> tracing.View:
  """A camera that never moves, as one frame, so that its view is made once."""
  if np.ptp(view.axes, axis=0).any() or np.ptp(view.position, axis=0).any():
    return view
  return view._replace(position=view.position[:1], axes=view.axes[:1])


def _window(view: tracing.View, rows: slice) -> tracing.Window:
  """All rays through some rows."""
  zero = np.zeros(len(view.axes), int)
  first, last, _ = rows.indices(view.height)
  return drawing.rays(view, zero, zero + first, view.width, last - first)


def _rise(view: tracing.View, window: tracing.Window) -> np.ndarray:
  """How far rays rise per unit ahead, the same along a row."""
  axes = view.axes.astype(np.float32)[:, :, :, None, None]
  return axes[:, 1, 1] * window.y + axes[:, 2, 1]


def _horizon(view: tracing.View) -> tuple[int, int]:
  """The first row that ever sees the ground, and the last of the sky plus 1."""
  rise = _rise(view, _window(view, slice(None)))[:, :, 0]
  ground = np.nonzero((rise < 0.5 / view.focal).any(0))[0]
  sky = np.nonzero((rise > -0.5 / view.focal).any(0))[0]
  first = int(ground[0]) if len(ground) else view.height
  return first, int(sky[-1]) + 1 if len(sky) else 0


def _sunlight(
  cast: list[list[drawing.Part]], view: tracing.View, air: places.Air
) -> Float[np.ndarray, 'T H W']:
  """How much of the sun reaches the ground of each pixel."""
  light = np.ones((len(view.axes), view.height, view.width), np.float32)
  for parts in cast:
    shadow = shadows.cast(parts, view, air.light.direction)
    if shadow is None:
      continue
    h, w = shadow.light.shape[1:]
    for t, (left, top) in enumerate(zip(shadow.left, shadow.top, strict=True)):
      region = light[t, top : top + h, left : left + w]
      np.minimum(region, shadow.light[t], out=region)
  return light


def _mirrored(
  cast: list[list[drawing.Part]],
  view: tracing.View,
  stage: Stage,
  first: int,
) -> tuple[Float[np.ndarray, '3 T h W'], np.ndarray]:
  """What the ground mirrors, from some row on, and how much of it."""
  place = places.PLACES[stage.setting.place]
  window = _window(view, slice(first, None))
  x, z = (tracing.linear(view.axes[:, :, k], window) for k in (0, 2))
  rise = np.minimum(_rise(view, window), -1e-3)
  length = np.sqrt(x * x + z * z + rise * rise)
  across = down = None
  facing, up = -rise, -rise
  if place.moves:
    ground = places.ground_of(view, window)
    across, down = places.waves(ground, stage.time)
    # D - 2 (D.n) n, with the normal n = (-across, 1, -down).
    facing = np.maximum(across * x + down * z - rise, 1e-3)
    x, z = x - 2 * facing * across, z - 2 * facing * down
    up = np.maximum(rise + 2 * facing, 0.02)
  frames = len(stage.time)
  image = np.zeros((3, frames, view.height, view.width), np.float32)
  image[:, :, first:] = places.sky(stage.setting, stage.air, up, x, z)
  light, cut = stage.air.light, place.moves
  layers = [
    drawing.draw(parts, stage.view, light, mirror=True, cut=cut)
    for parts in cast
  ]
  drawing.paste(image, [v for v in layers if v], stage.air.haze)
  image = image[:, :, first:]
  if across is not None and down is not None:
    image = _rippled(image, across, down)
  return image, places.fresnel(facing / length, place.mirror)


def _rippled(image: np.ndarray, across: np.ndarray, down: np.ndarray):
  """A mirror image whose pixels lie where waves throw them."""
  _, frames, height, width = image.shape
  scale = np.float32(10 * RIPPLED * min(height * 2, width) / 64)
  rows = np.arange(height)[:, None] + np.rint(3 * scale * down).astype(int)
  columns = np.arange(width) + np.rint(scale * across).astype(int)
  index = np.clip(rows, 0, height - 1) * width + np.clip(columns, 0, width - 1)
  index = index + (np.arange(frames) * height * width)[:, None, None]
  return image.reshape(3, -1)[:, index]


def _ground(
  cast: list[list[drawing.Part]], stage: Stage, view: tracing.View, first: int
) -> list[np.ndarray]:
  """The ground's colour in the sun, the shade and the haze, from a row on."""
  place, air = places.PLACES[stage.setting.place], stage.air
  ground = places.ground_of(view, _window(view, slice(first, None)))
  albedo = place.albedo(ground, stage.setting.shift, stage.time)
  sun = _sunlight(cast, stage.view, air)[:, first:]
  sky = 0.55 + 0.45 * sun  # a shadow lacks some of the sky, too
  clear = np.exp(-np.float32(air.haze[0]) * ground.reach)
  colours = []
  for k in range(3):
    lit = sun * np.float32(air.light.sun[k] * air.light.direction[1])
    lit += sky * np.float32(air.light.sky[k])
    lit *= albedo[k] * clear
    lit += np.float32(air.haze[1][k]) * (1 - clear)
    colours.append(lit)
  if place.mirror:
    image, share = _mirrored(cast, view, stage, first)
    share = share * clear
    colours = [c + share * (m - c) for c, m in zip(colours, image, strict=True)]
  return colours


def _backdrop(
  cast: list[list[drawing.Part]], stage: Stage
) -> Float[np.ndarray, '3 T H W']:
  """Sky and ground, which meet at the horizon with a soft edge."""
  view = _still(stage.view)
  first, last = _horizon(view)
  shape = (3, len(stage.time), view.height, view.width)
  picture = np.empty(shape, np.float32)
  if last:
    window = _window(view, slice(0, last))
    x, z = (tracing.linear(view.axes[:, :, k], window) for k in (0, 2))
    rise = _rise(view, window)
    picture[:, :, :last] = places.sky(stage.setting, stage.air, rise, x, z)
    if stage.setting.hour == 'night' and stage.setting.weather == 'clear':
      picture[:, :, :last] += weather.stars(stage.seed, view)[:, :last]
  if first < view.height:
    rise = _rise(view, _window(view, slice(first, None)))
    seen = np.clip(0.5 - rise * np.float32(view.focal), 0, 1)
    for k, colour in enumerate(_ground(cast, stage, view, first)):
      both = slice(first, last)
      overlap = max(0, last - first)
      behind = picture[k, :, both] * (1 - seen[:, :overlap])
      picture[k, :, first:] = colour
      picture[k, :, both] *= seen[:, :overlap]
      picture[k, :, both] += behind
  return picture


def _falling(
  picture: Float[np.ndarray, '3 T H W'],
  labels: UInt8[np.ndarray, 'T H W'],
  stage: Stage,
) -> None:
  """Rain and bubbles over everything else."""
  covers = []
  if stage.setting.weather == 'rain':
    wet = stage.setting.place == 'water'
    wind = 0.3 * np.sin(stage.setting.azimuth)
    covers = [
      weather.rain(stage.seed[: weather.DROPS], stage.time, wind, stage.view),
      weather.splashes(
        stage.seed[: weather.SPLASHES], stage.time, wet, stage.view
      )
      * (labels == 0),
    ]
  for i, player in enumerate(stage.players):
    if player.name == 'diver':
      turn = motion.forward(player.path.heading)
      mouth = player.path.position + 0.8 * turn + [0, 0.75, 0]
      own = stage.seed[i * weather.BUBBLES :][: weather.BUBBLES]
      covers.append(
        weather.bubbles(
          mouth, player.path.velocity, own, stage.time, stage.view
        )
      )
  bright = 1.6 * stage.air.horizon + 0.35 * stage.air.light.sky
  if stage.setting.place == 'underwater':
    bright = np.array([0.6, 0.9, 0.95])
  for cover in covers:
    for k in range(3):
      picture[k] += cover * (np.float32(bright[k]) - picture[k])


def render(
  stage: Stage,
) -> tuple[UInt8[np.ndarray, 'T H W 3'], UInt8[np.ndarray, 'T H W']]:
  """Renders a scene.

  Returns:
    The frames in sRGB; and 1 + the player that each pixel shows, 0 for none.
  """
  cast = [parts_of(p) for p in stage.players]
  picture = _backdrop([*cast, *stage.props], stage)
  cut = stage.setting.place == 'water'
  light = stage.air.light
  behind = [drawing.draw(parts, stage.view, light) for parts in stage.props]
  drawing.paste(picture, [v for v in behind if v], stage.air.haze)
  layers = [drawing.draw(parts, stage.view, light, cut=cut) for parts in cast]
  labels = np.zeros(picture.shape[1:], np.uint8)
  known = [i for i, layer in enumerate(layers) if layer is not None]
  shown = [layer for layer in layers if layer is not None]
  if shown:
    drawing.paste(picture, shown, stage.air.haze, labels)
    labels = np.array([0, *(1 + i for i in known)], np.uint8)[labels]
  _falling(picture, labels, stage)
  np.clip(picture, 0, 1, out=picture)
  np.sqrt(picture, out=picture)
  picture *= 255
  picture += np.float32(0.5)
  frames = picture.astype(np.uint8).transpose(1, 2, 3, 0)
  return np.ascontiguousarray(frames), labels
