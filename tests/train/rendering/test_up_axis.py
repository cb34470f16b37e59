import numpy as np
import pytest
import trimesh
from vehicles import UPS, box, car, join, turned

from dann.train.rendering.car_bodies import Surface
from dann.train.rendering.car_proportions import CLASSES
from dann.train.rendering.procedural_car import sample_car
from dann.train.rendering.up_axis import UP_AXES, guess_up


@pytest.mark.parametrize("up", UPS)
def test_the_axes_turn_without_mirroring(up):
    axes = UP_AXES[up]
    assert np.linalg.det(axes) == pytest.approx(1)
    arrow = turned(box((0, 0, 0), (0.1, 0.1, 1)), up)
    assert np.ptp(arrow.vertices @ axes.T, axis=0) == pytest.approx([0.1, 0.1, 1])
    assert (arrow.vertices @ axes.T)[:, 2].max() == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
@pytest.mark.parametrize("up", UPS)
def test_a_car_is_told_from_its_shape_whichever_way_it_lies(up, scale):
    mesh = turned(car(), up)
    assert guess_up(mesh.vertices * scale + [50, 0, -7], mesh.faces) == up


@pytest.mark.parametrize("floor", [True, False], ids=["floor", "no floor"])
@pytest.mark.parametrize("body_class", CLASSES)
def test_all_kinds_of_cars_are_told_upright_and_upside_down(body_class, floor):
    for seed in range(8):
        mesh = sample_car(np.random.default_rng(seed), body_class).mesh
        triangles = mesh.triangles_T3 if floor else mesh.triangles_T3[mesh.part_T != Surface.UNDERSIDE]
        assert guess_up(mesh.vertices_V3, triangles) == "z"
        assert guess_up(mesh.vertices_V3 * [1, -1, -1], triangles) == "-z"


@pytest.mark.parametrize(
    "mesh",
    [box((0, 0, 0), (1, 1, 1)), box((0, 0, 0), (4, 2, 1.5)), trimesh.creation.icosphere()],
    ids=["cube", "box", "ball"],
)
def test_a_shape_that_does_not_tell_is_left_open(mesh):
    assert guess_up(mesh.vertices, mesh.faces) is None


def test_an_aerial_does_not_turn_a_car_over():
    mesh = join(car(), box((1.5, -0.01, 1.4), (1.52, 0.01, 2.2)))
    assert guess_up(mesh.vertices, mesh.faces) == "z"
