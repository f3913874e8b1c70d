"""Actors that flap, swim and walk; built as `actors` are."""

import numpy as np

from sora_jax.data.worlds import actors, drawing, motion
from sora_jax.data.worlds.actors import Colour, about, egg, limb, points, turned

EYE: Colour = (0.01, 0.01, 0.01)
NOSE: Colour = (0.6, 0.2, 0.2)


def _wing_spots(*u):
  """A dark border along the rim of a wing, and a spot."""
  r = u[0] * u[0] + u[2] * u[2]
  border = np.clip((r - 0.62) * 5 + 0.5, 0, 1)
  spot = (u[0] - 0.15) ** 2 + (u[2] - 0.3) ** 2
  return np.maximum(border, np.clip((0.05 - spot) * 20 + 0.5, 0, 1))


def butterfly(path: motion.Path, colour: Colour) -> list[drawing.Part]:
  """A butterfly, whose four wings flap 1.4 times a second, slower at rest."""
  rate, mean, swing, height = (
    (1.4, 0.45, 0.75, 0.5) if path.vigour else (0.5, 0.8, 0.4, 0.14)
  )
  flap = mean + swing * np.sin(2 * np.pi * rate * path.time)
  dark = (0.03, 0.025, 0.03)
  rim = dark if sum(colour) > 0.15 else (0.8, 0.45, 0.05)
  parts = [
    limb([-0.42, height - 0.06, 0], [0.1, height, 0], (0.05, 0.085), dark),
    egg([0.12, height, 0], [0.16, 0.1, 0.1], dark),
    egg([0.32, height + 0.03, 0], [0.1, 0.09, 0.09], dark),
  ]
  for side in (-1, 1):
    hinge = np.array([0.05, height + 0.05, 0.04 * side])
    # A positive angle lifts a wing on either side.
    lift = about('x', -side * flap)
    for centre, radii, sweep in (
      ([0.3, 0, 0.62], [0.4, 0.025, 0.66], 0.42),
      ([-0.3, 0, 0.46], [0.34, 0.025, 0.48], -0.45),
    ):
      x, y, z = centre
      turn = lift @ about('y', side * sweep)
      middle = turned(lift, [x, y, z * side]) + hinge
      paint = dict(second=rim, pattern=_wing_spots, gloss=0.1)
      parts.append(egg(middle, radii, colour, turn, **paint))
    feeler = np.array([0.36, height + 0.08, 0.03 * side])
    parts.append(limb(feeler, feeler + [0.25, 0.22, 0.14 * side], 0.02, dark))
  return parts


def fish(path: motion.Path, colour: Colour) -> list[drawing.Part]:
  """A fish, along which a wave runs towards its tail."""
  rate = 1.5 if path.vigour else 0.7
  phase = 2 * np.pi * rate * path.time
  height = 0.55
  pale = actors.paler(colour, 0.35)
  sway = lambda x: 0.16 * max(0.5 - x, 0.0) ** 1.5 * np.sin(phase + 2.6 * x)
  at = lambda x, y=0.0, z=0.0: points(x, height + y, z + sway(x))
  yaw = lambda x: about(
    'y', -np.arctan2(sway(x + 0.05) - sway(x - 0.05), 0.1) * 1.0
  )
  paint = dict(second=pale, pattern=actors.stripes(2.2, share=0.32), gloss=0.4)
  parts = [
    egg(at(0.12), [0.72, 0.44, 0.24], colour, yaw(0.1), **paint),
    egg(at(-0.5), [0.42, 0.24, 0.14], colour, yaw(-0.5), gloss=0.4),
  ]
  tail = yaw(-0.9)
  for up in (-1, 1):
    lobe = tail @ about('z', -up * 0.75)
    parts.append(
      egg(
        at(-1.0, 0.2 * up), [0.34, 0.13, 0.03], actors.darker(colour, 0.7), lobe
      )
    )
    fin = yaw(0.0) @ about('z', -0.5 * up - 0.1)
    place = at(-0.02, 0.46 * up) if up > 0 else at(-0.1, -0.4)
    parts.append(
      egg(
        place,
        [0.34 if up > 0 else 0.2, 0.14, 0.03],
        actors.darker(colour, 0.7),
        fin,
      )
    )
  for side in (-1, 1):
    paddle = about('y', side * (0.7 + 0.4 * np.sin(1.3 * phase))) @ about(
      'z', 0.4
    )
    parts.append(
      egg(at(0.16, -0.14, 0.27 * side), [0.2, 0.1, 0.025], pale, paddle)
    )
    parts.append(
      egg(at(0.58, 0.1, 0.15 * side), [0.1, 0.1, 0.06], (0.9, 0.9, 0.9))
    )
    parts.append(
      egg(at(0.61, 0.1, 0.19 * side), [0.06, 0.06, 0.04], EYE, gloss=1.0)
    )
  return parts


def diver(path: motion.Path, colour: Colour) -> list[drawing.Part]:
  """A diver with a bottle, a mask and fins, who kicks."""
  phase = 2 * np.pi * (0.9 if path.vigour else 0.45) * path.time
  swing = 0.34 if path.vigour else 0.2
  h = 0.6
  skin, dark = (0.62, 0.33, 0.2), (0.03, 0.03, 0.035)
  bottle = (
    (0.75, 0.6, 0.05)
    if colour[2] > 0.2 or colour[1] < 0.4
    else (0.6, 0.62, 0.66)
  )
  parts = [
    limb([0.36, h + 0.02, 0], [-0.22, h - 0.03, 0], (0.2, 0.16), colour),
    egg([0.74, h + 0.1, 0], [0.17, 0.18, 0.155], colour),
    egg([0.83, h + 0.06, 0], [0.11, 0.12, 0.12], skin),
    egg([0.87, h + 0.1, 0], [0.09, 0.075, 0.125], (0.05, 0.3, 0.4), gloss=1.0),
    limb([-0.2, h + 0.26, 0], [0.36, h + 0.28, 0], 0.115, bottle, gloss=0.6),
    limb([0.42, h + 0.28, 0], [0.82, h - 0.05, 0.1], 0.03, dark),
  ]
  for side in (-1, 1):
    hip = points(-0.24, h - 0.04, 0.11 * side)
    kick = swing * side * np.sin(phase)
    bend = -0.25 + 0.3 * side * np.cos(phase)
    knee = hip + turned(about('z', kick), [-0.46, 0, 0])
    foot = knee + turned(about('z', kick + bend), [-0.42, 0, 0])
    parts.append(limb(hip, knee, (0.125, 0.09), colour))
    parts.append(limb(knee, foot, (0.09, 0.06), colour))
    blade = about('z', kick + 1.6 * bend)
    tip = foot + turned(blade, [-0.22, -0.02, 0])
    parts.append(egg(tip, [0.28, 0.035, 0.11], bottle, blade))
    shoulder = points(0.4, h, 0.18 * side)
    reach = about('z', -0.9 - 0.25 * side * np.sin(phase * 0.5))
    elbow = shoulder + turned(reach, [0.26, 0, 0.1 * side])
    hand = elbow + turned(about('z', -0.35), [0.3, 0, -0.04 * side])
    parts.append(limb(shoulder, elbow, (0.085, 0.07), colour))
    parts.append(limb(elbow, hand, (0.07, 0.05), colour))
    parts.append(egg(hand, [0.075, 0.06, 0.06], skin))
  return parts


def _leg(
  path: motion.Path, x: float, z: float, lag: float, colour: Colour, paw: Colour
):
  """A leg of a cat: its paw goes back on the ground and forwards in an arc."""
  stride, step = 0.42, path.travelled / 1.0 + lag
  swing = np.zeros_like(path.time)
  lift = swing
  if path.vigour:
    angle = 2 * np.pi * step
    swing, lift = (
      0.5 * stride * np.cos(angle),
      0.13 * np.maximum(np.sin(-angle), 0),
    )
  hip = points(x, 0.62, z)
  foot = points(x + 0.02 + swing, 0.06 + lift, z)
  bend = 0.1 if x < 0 else -0.08
  knee = (hip + foot) / 2 + points(bend + 0.3 * lift, 0.03, 0)
  return [
    limb(hip, knee, (0.13 if x < 0 else 0.11, 0.08), colour),
    limb(knee, foot, (0.08, 0.06), colour),
    egg(foot + [0.05, -0.01, 0], [0.11, 0.06, 0.075], paw),
  ]


def cat(path: motion.Path, colour: Colour) -> list[drawing.Part]:
  """A cat, which walks as fast as it goes, and whose tail waves."""
  pale = actors.paler(colour, 0.4) if sum(colour) > 0.3 else (0.5, 0.5, 0.5)
  fur = dict(
    second=actors.darker(colour, 0.4)
    if sum(colour) > 0.3
    else (0.12, 0.12, 0.12),
    pattern=actors.stripes(3.3, share=0.3),
    gloss=0.0,
  )
  bob = 0.015 * np.sin(4 * np.pi * path.travelled) if path.vigour else 0.0
  nod = bob + 0.02 * np.sin(2 * np.pi * 0.5 * path.time)
  head = points(0.86, 1.06 + nod, 0.02)
  parts = [
    egg(points(0.0, 0.74 + bob, 0), [0.66, 0.27, 0.24], colour, **fur),
    egg(points(0.46, 0.76 + bob, 0), [0.27, 0.29, 0.22], colour, gloss=0.0),
    egg(points(-0.46, 0.72 + bob, 0), [0.27, 0.28, 0.23], colour, gloss=0.0),
    limb(points(0.52, 0.84 + bob, 0), head, (0.2, 0.18), colour, gloss=0.0),
    egg(head, [0.25, 0.235, 0.25], colour, gloss=0.0),
    egg(head + [0.2, -0.08, 0], [0.12, 0.09, 0.13], pale, gloss=0.0),
    egg(head + [0.31, -0.05, 0], [0.035, 0.03, 0.045], NOSE),
  ]
  for side in (-1, 1):
    ear = head + [-0.02, 0.15, 0.15 * side]
    parts.append(
      limb(
        ear, ear + [-0.02, 0.2, 0.05 * side], (0.115, 0.015), colour, gloss=0.0
      )
    )
    eye = head + [0.185, 0.05, 0.13 * side]
    parts.append(egg(eye, [0.06, 0.065, 0.06], (0.55, 0.6, 0.1), gloss=0.8))
    parts.append(
      egg(eye + [0.035, 0, 0.015 * side], [0.04, 0.045, 0.04], EYE, gloss=1.0)
    )
    parts += _leg(path, 0.46, 0.15 * side, 0.25 + 0.25 * side, colour, pale)
    parts += _leg(path, -0.5, 0.15 * side, 0.5 + 0.25 * side, colour, pale)
  bone = points(-0.66, 0.84 + bob, 0)
  for i, rise in enumerate((0.5, 1.1, 1.7)):
    wave = 0.4 * np.sin(2 * np.pi * 0.8 * path.time - 0.8 * i)
    way = points(-0.3 * np.cos(rise), 0.3 * np.sin(rise), 0.3 * wave)
    parts.append(limb(bone, bone + way, 0.075 - 0.008 * i, colour, gloss=0.0))
    bone = bone + way
  return parts


BUILDERS: dict[str, actors.Builder] = {
  'ball': actors.ball,
  'cube': actors.cube,
  'cylinder': actors.cylinder,
  'cone': actors.cone,
  'bicycle': actors.bicycle,
  'car': actors.car,
  'drone': actors.drone,
  'butterfly': butterfly,
  'fish': fish,
  'diver': diver,
  'cat': cat,
}
