import numpy as np
import pytest

from dann.train.rendering.raster import frame_cropped, frame_square, look_at, rasterise

# counter-clockwise seen with y up, which is what faces the camera where y points down the screen
TRIANGLE = np.array([[2.0, 9.3], [13.7, 12.1], [6.2, 1.4]])
FACING = np.array([[0, 1, 2]])


def _inside(corners_32, x, y):
    edges = []
    for k in range(3):
        (ax, ay), (bx, by) = corners_32[k], corners_32[(k + 1) % 3]
        edges.append((bx - ax) * (y - ay) - (by - ay) * (x - ax))
    return all(e < 0 for e in edges) or all(e > 0 for e in edges)


def test_covers_exactly_the_pixel_centres_inside():
    seen = rasterise(TRIANGLE, np.ones(3), FACING, height=14, width=16)
    expected = [r * 16 + c for r in range(14) for c in range(16) if _inside(TRIANGLE, c + 0.5, r + 0.5)]
    assert seen.pixel_P.tolist() == expected and len(expected) > 30


def test_back_faces_are_not_drawn():
    assert rasterise(TRIANGLE, np.ones(3), FACING[:, ::-1], height=14, width=16).pixel_P.size == 0


def test_back_faces_are_drawn_where_both_sides_are_asked_for():
    ways = [FACING, FACING[:, ::-1]]
    front, back = (rasterise(TRIANGLE, np.ones(3), way, height=14, width=16, both_sides=True) for way in ways)
    assert front.pixel_P.tolist() == back.pixel_P.tolist() and len(back.pixel_P) > 30
    np.testing.assert_allclose(front.weights_PV.toarray(), back.weights_PV.toarray())


def test_what_lies_outside_the_image_is_cut():
    seen = rasterise(TRIANGLE - [8, 6], np.ones(3), FACING, height=14, width=16)
    assert 0 < len(seen.pixel_P) < 40
    assert rasterise(TRIANGLE + 100, np.ones(3), FACING, height=14, width=16).pixel_P.size == 0


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_nearer_triangle_wins_whatever_the_order(order):
    points = np.concatenate([TRIANGLE, TRIANGLE])
    inverse_depth = np.array([0.2] * 3 + [0.5] * 3)
    triangles = np.array([[0, 1, 2], [3, 4, 5]])[order]
    seen = rasterise(points, inverse_depth, triangles, height=14, width=16)
    assert (triangles[seen.triangle_P] == [3, 4, 5]).all()


def test_weights_are_perspective_correct():
    """Project, rasterise, interpolate the places: projecting those again must give the pixels' centres."""
    points = np.array([[-1.0, -1.2, 0.0], [-0.5, 1.3, 0.1], [1.4, 0.2, 1.5]])
    camera = look_at(points, azimuth_deg=70, elevation_deg=40, roll_deg=10, focal_mm=30)
    camera = frame_square(camera, points, size_px=64, fill=0.9, shift=(0, 0))
    pixels, inverse_depth = camera.project(points)
    triangles = np.array([[0, 1, 2], [2, 1, 0]])
    seen = rasterise(pixels, inverse_depth, triangles, height=64, width=64)
    again, _ = camera.project(seen.interpolate(points))
    centres = np.stack([seen.pixel_P % 64, seen.pixel_P // 64], axis=1) + 0.5
    assert len(centres) > 200
    np.testing.assert_allclose(again, centres, atol=1e-5)


@pytest.mark.parametrize(("shift", "side"), [((1, 0), "right"), ((-1, 0), "left")])
def test_frame_fills_and_shifts_to_the_edge(shift, side):
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3)) * [0.5, 0.5, 2]
    camera = look_at(points, azimuth_deg=20, elevation_deg=10, roll_deg=0, focal_mm=70)
    pixels, _ = frame_square(camera, points, size_px=100, fill=0.8, shift=shift).project(points)
    assert np.ptp(pixels, axis=0).max() == pytest.approx(80)
    assert (pixels[:, 0].max() if side == "right" else 100 - pixels[:, 0].min()) == pytest.approx(100)


@pytest.mark.parametrize("roll_deg", [0, 20])
def test_a_crop_is_as_large_as_asked_and_leaves_the_margins(roll_deg):
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3)) * [2, 1, 0.7]
    camera = look_at(points, azimuth_deg=70, elevation_deg=10, roll_deg=roll_deg, focal_mm=60)
    camera, height, width = frame_cropped(camera, points, size_px=200, margins=(0.1, 0.2, 0.3, 0.4))
    pixels, _ = camera.project(points)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    side = (high - low).max()
    assert max(height, width) == 200 > min(height, width)
    assert [*low, *(np.array([width, height]) - high)] == pytest.approx([k * side for k in (0.1, 0.2, 0.3, 0.4)], abs=1)


def test_a_longer_lens_flattens():
    """Of two equal sticks one behind the other, the far one looks nearly as large through a long lens."""
    points = np.array([[x, y, z] for x in (-2, 2) for y in (-1, 1) for z in (0, 1.0)])
    ratios = []
    for focal_mm in (30, 100, 1000):
        camera = look_at(points, azimuth_deg=0, elevation_deg=0, roll_deg=0, focal_mm=focal_mm)
        _, inverse_depth = camera.project(points)
        ratios.append(inverse_depth.min() / inverse_depth.max())
    assert ratios[0] < 0.5 < ratios[1] < 0.9 < ratios[2]


def test_azimuth_zero_looks_at_the_nose_from_before_it():
    points = np.array([[-2.0, -1, 0], [2, 1, 1.5]])
    camera = look_at(points, azimuth_deg=0, elevation_deg=0, roll_deg=0, focal_mm=72)
    assert camera.position == pytest.approx([-2 * np.linalg.norm([4, 2, 1.5]), 0, 0.75])
    _, inverse_depth = camera.project(np.array([[-2.0, 0, 0], [2.0, 0, 0]]))
    assert inverse_depth[0] > inverse_depth[1] > 0


def test_the_ground_ends_at_the_horizon():
    points = np.array([[-2.0, -1, 0], [2, 1, 1.5]])
    camera = look_at(points, azimuth_deg=30, elevation_deg=15, roll_deg=0, focal_mm=70)
    camera = frame_square(camera, points, size_px=100, fill=0.8, shift=(0, 0))
    left, right = camera.horizon()
    ground, _ = camera.project(np.array([[0.0, 0, 0]]))
    assert left[1] == pytest.approx(right[1], abs=1e-3) and ground[0, 1] > left[1]
