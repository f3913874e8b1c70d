"""Rays meet shapes where geometry says, with edges that keep areas."""

import numpy as np
import pytest

from sora_jax.data.worlds import drawing, shapes, tracing

SIDE = 96
VIEW = tracing.View(np.zeros((1, 3)), np.eye(3)[None], 1.37 * SIDE, SIDE, SIDE)
WINDOW = drawing.rays(VIEW, np.zeros(1, int), np.zeros(1, int), SIDE, SIDE)
# From above and a little from the left; the camera's axes are x, y and ahead.
SUN = np.array([[-0.36, 0.8, -0.48]])
LIGHT = tracing.Light(SUN, np.array([[0.0, 1.0, 0.0]]), SUN)


def traced(shape, textured=False):
  return tracing.TRACERS[type(shape)](shape, WINDOW, LIGHT, textured)


def at(*p):
  return np.array([p], float)


def pixel(x, y, z):
  """Row and column of the pixel in which a point is seen."""
  return (
    int(SIDE / 2 - VIEW.focal * y / z),
    int(SIDE / 2 + VIEW.focal * x / z),
  )


def sphere(centre, radius):
  return shapes.Ellipsoid(at(*centre), np.eye(3)[None], np.full(3, radius))


def limb_sphere(centre, radius):
  return shapes.Limb(at(*centre), at(*centre) + 1e-6, (radius, radius))


@pytest.mark.parametrize('make', [sphere, limb_sphere])
@pytest.mark.parametrize('centre', [(0, 0, 6), (0.7, -0.5, 5)])
def test_a_sphere_covers_the_ellipse_of_its_tangent_cone(make, centre):
  """The cone of half angle a about an axis at angle b meets the plane at
  distance f in an ellipse of area pi f^2 sin^2 a cos a / K^(3/2), with
  K = cos^2 b - sin^2 a.
  """
  radius = 1.0
  seen = traced(make(centre, radius))
  distance = np.linalg.norm(centre)
  sin2 = (radius / distance) ** 2
  cos_b = centre[2] / distance
  k = cos_b**2 - sin2
  area = np.pi * VIEW.focal**2 * sin2 * np.sqrt(1 - sin2) / k**1.5
  assert seen.cover.sum() == pytest.approx(area, rel=3e-3)
  row, column = pixel(*centre)
  assert seen.depth[0, row, column] == pytest.approx(
    centre[2] * (1 - radius / distance), abs=0.01
  )


def test_a_sphere_is_lit_by_its_normal():
  centre = np.array([0.0, 0.0, 6.0])
  for make in (sphere, limb_sphere):
    seen = traced(make(centre, 1.0))
    for direction in ((0, 0, -1), (0.4, 0.3, -0.866), (-0.5, 0.6, -0.62)):
      normal = np.array(direction) / np.linalg.norm(direction)
      row, column = pixel(*(centre + normal))
      for cosine, towards in zip(seen.cosines, LIGHT, strict=True):
        expected = towards[0] @ normal
        assert cosine[0, row, column] == pytest.approx(expected, abs=0.05)


def test_an_ellipsoid_is_a_sphere_stretched_along_its_axes():
  c, s = np.cos(0.6), np.sin(0.6)
  axes = np.array([[[c, s, 0], [-s, c, 0], [0, 0, 1.0]]])
  shape = shapes.Ellipsoid(at(0, 0, 8), axes, np.array([1.5, 0.5, 0.05]))
  seen = traced(shape, textured=True)
  # Flat and square to the view, it is an ellipse.
  area = np.pi * 1.5 * 0.5 * (VIEW.focal / 8) ** 2
  assert seen.cover.sum() == pytest.approx(area, rel=5e-3)
  tip = pixel(1.4 * c, 1.4 * s, 8)
  assert seen.cover[(0, *tip)] == 1
  assert seen.local[0][(0, *tip)] == pytest.approx(1.4 / 1.5, abs=0.04)
  assert seen.cover[(0, *pixel(1.4 * c, -1.4 * s, 8))] == 0


def test_a_limb_is_a_stadium_and_thins_to_a_cone():
  rod = traced(shapes.Limb(at(-1, 0, 7), at(1, 0, 7), (0.3, 0.3)))
  scale = VIEW.focal / 7
  area = (2 * 0.6 + np.pi * 0.09) * scale**2
  assert rod.cover.sum() == pytest.approx(area, rel=1e-2)
  assert rod.depth[0, SIDE // 2, SIDE // 2] == pytest.approx(6.7, abs=0.01)
  taper = traced(shapes.Limb(at(-1, 0, 7), at(1, 0, 7), (0.3, 0.1)))
  left, right = (
    taper.cover[0, :, pixel(x, 0, 7)[1]].sum() / scale for x in (-0.98, 0.98)
  )
  assert left == pytest.approx(0.6, abs=0.02)
  assert right == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize('width', [0.2, 0.5, 2.0])
def test_a_thin_limb_covers_the_part_of_pixels_that_it_is_wide(width):
  radius = width / 2 * 7 / VIEW.focal
  rod = traced(shapes.Limb(at(0, -5, 7), at(0, 5, 7), (radius, radius)))
  rows = rod.cover[0].sum(axis=1)
  np.testing.assert_allclose(rows, width, rtol=0.12)


def test_the_corners_of_a_box_lie_where_they_project():
  corners = shapes.CORNERS * [0.8, 0.6, 0.7]
  c, s = np.cos(0.5), np.sin(0.5)
  turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
  corners = corners @ turn.T + [0.1, -0.9, 6.0]
  seen = traced(shapes.Block(corners[None]))
  rows, columns = np.nonzero(seen.cover[0] > 0.5)
  seen_at = [VIEW.focal * corners[:, i] / corners[:, 2] for i in (0, 1)]
  assert columns.min() == pytest.approx(SIDE / 2 + seen_at[0].min(), abs=1)
  assert columns.max() + 1 == pytest.approx(SIDE / 2 + seen_at[0].max(), abs=1)
  assert rows.min() == pytest.approx(SIDE / 2 - seen_at[1].max(), abs=1)
  assert rows.max() + 1 == pytest.approx(SIDE / 2 - seen_at[1].min(), abs=1)
  # The top is seen, and faces up; the faces meet without a gap.
  top = pixel(0.1, -0.3, 6.0)
  assert seen.cosines[1][(0, *top)] == pytest.approx(1)
  assert (seen.cover[0, rows.mean().astype(int)] > 0).sum() == (
    seen.cover[0, rows.mean().astype(int)] > 0.99
  ).sum() + 2


def test_a_box_that_faces_the_camera_is_a_rectangle():
  corners = shapes.CORNERS * [0.8, 0.6, 0.5] + [0, 0, 6.0]
  seen = traced(shapes.Block(corners[None]))
  area = 1.6 * 1.2 * (VIEW.focal / 5.5) ** 2
  assert seen.cover.sum() == pytest.approx(area, rel=2e-3)
  assert seen.depth[0, SIDE // 2, SIDE // 2] == pytest.approx(5.5, rel=1e-4)


def test_a_cylinder_has_a_round_side_and_a_flat_end():
  lying = traced(shapes.Frustum(at(-1, 0, 7), at(1, 0, 7), (0.5, 0.5)))
  # Its outline is where rays touch it: sin of half the angle is 0.5 / 7.
  tall = 2 * np.tan(np.arcsin(0.5 / 7)) * VIEW.focal
  assert lying.cover[0, :, SIDE // 2].sum() == pytest.approx(tall, rel=5e-3)
  assert lying.depth[0, SIDE // 2, SIDE // 2] == pytest.approx(6.5, abs=0.01)
  # One that points at the camera shows its near end alone.
  facing = traced(shapes.Frustum(at(0, 0, 8), at(0, 0, 6), (0.5, 0.5)))
  area = np.pi * (0.5 * VIEW.focal / 6) ** 2
  assert facing.cover.sum() == pytest.approx(area, rel=0.02)
  np.testing.assert_allclose(facing.depth[facing.cover > 0.9], 6, rtol=1e-4)


def test_a_cone_is_a_triangle_from_the_side():
  cone = traced(shapes.Frustum(at(0, -1, 12), at(0, 1, 12), (0.8, 0.0)))
  scale = VIEW.focal / 12
  for row in range(pixel(0, 0.8, 12)[0], pixel(0, -0.9, 12)[0]):
    y = (SIDE / 2 - row - 0.5) / scale
    width = cone.cover[0, row].sum() / scale
    assert width == pytest.approx(0.8 * (1 - y), abs=0.02)


def test_a_wheel_is_a_ring_with_spokes_that_one_sees_through():
  wheel = shapes.Wheel(at(0, 0, 6), np.eye(3)[None], 1.2, 0.8, 2, 0.0)
  seen = traced(wheel)
  r = 1.2 * VIEW.focal / 6
  ring = np.pi * r**2 * (1 - 0.8**2)
  lines = 4 * 0.8 * r - 1  # two of one pixel, which cross, up to the ring
  assert seen.cover.sum() == pytest.approx(ring + lines, rel=0.03)
  assert seen.cover[(0, *pixel(0.35, 0.35, 6))] == 0
  assert seen.cover[(0, *pixel(0.6, 0.0, 6))] > 0.4
  assert seen.cover[(0, *pixel(1.08, 0.0, 6))] == 1


def test_boxes_hold_all_that_is_seen():
  rng = np.random.default_rng(0)
  turn = np.linalg.qr(rng.standard_normal((3, 3)))[0][None]
  moved = [
    shapes.moved(shape, turn, at(0.4, -0.3, 6))
    for shape in (
      sphere((0, 0, 0), 1.0),
      shapes.Limb(at(-1, 0.2, 0), at(0.6, 0, 0.5), (0.3, 0.1)),
      shapes.Frustum(at(0, 0, 0), at(0, 1.5, 0), (0.5, 0.2)),
      shapes.Block(shapes.CORNERS[None] * 0.7),
      shapes.Wheel(at(0, 0, 0), np.eye(3)[None], 0.9, 0.8, 2, 0.0),
    )
  ]
  boxes = tracing.outlines(*shapes.joint_bounds(moved), VIEW)
  for shape, (left, top, right, bottom) in zip(
    moved, boxes[:, :, 0], strict=True
  ):
    cover = traced(shape).cover[0]
    inside = cover[top:bottom, left:right].sum()
    assert inside == pytest.approx(cover.sum(), abs=0.6)
    # And are no wider than they need to be.
    rows, columns = np.nonzero(cover > 0.05)
    assert right - left <= np.ptp(columns) + 1 + SIDE / 6
    assert bottom - top <= np.ptp(rows) + 1 + SIDE / 6


def test_what_is_behind_the_camera_has_no_box():
  behind = sphere((0, 0, -3), 1.0)
  boxes = tracing.outlines(*shapes.joint_bounds([behind]), VIEW)
  assert not boxes.any()
