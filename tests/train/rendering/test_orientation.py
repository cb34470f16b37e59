import numpy as np
import pytest
import trimesh
from vehicles import UPS, box, car, facing, join, turned

from dann.train.rendering.car_bodies import Surface
from dann.train.rendering.car_proportions import BODY_CLASSES, CLASSES
from dann.train.rendering.orientation import AXES, guess_front, guess_up, turn_of
from dann.train.rendering.procedural_car import sample_car

FRONTS = [(up, front) for up in UPS for front in UPS if front[-1] != up[-1]]


@pytest.mark.parametrize(("up", "front"), FRONTS)
def test_a_model_is_turned_without_mirroring(up, front):
    turn = turn_of(up, front)
    assert np.linalg.det(turn) == pytest.approx(1)
    assert turn @ AXES[up] == pytest.approx([0, 0, 1]) and turn @ AXES[front] == pytest.approx([-1, 0, 0])


@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
@pytest.mark.parametrize("up", UPS)
def test_a_car_is_told_from_its_shape_whichever_way_it_lies(up, scale):
    mesh = turned(car(), up)
    assert guess_up(mesh.vertices * scale + [50, 0, -7], mesh.faces) == up


@pytest.mark.parametrize(("up", "front"), FRONTS)
def test_the_nose_of_a_car_is_found_whichever_way_it_faces(up, front):
    mesh = facing(car(), up, front)
    assert guess_front(mesh.vertices * 1e3 + [50, 0, -7], mesh.faces, up) == front


@pytest.mark.parametrize("body_class", BODY_CLASSES)
def test_no_car_is_turned_back_to_front(body_class):
    told = set()
    for seed in range(12):
        mesh = sample_car(np.random.default_rng(seed), body_class).mesh
        told.add(guess_front(mesh.vertices_V3, mesh.triangles_T3, "z"))
    assert told <= {"-x", None} and (told == {"-x"}) == (body_class in {"hatchback", "suv", "van", "wagon"})


def test_an_aerial_does_not_turn_a_car_round():
    mesh = join(car(), box((-1.9, -0.01, 0.8), (-1.88, 0.01, 1.9)))
    assert guess_front(mesh.vertices, mesh.faces, "z") == "-x"


def test_an_end_without_a_surface_tells_nothing():
    mesh = join(box((0, 0, 0), (1, 1, 1)), box((1, 0, 0), (40, 1e-6, 1e-6)))
    assert guess_front(mesh.vertices, mesh.faces, "z") is None


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
    assert guess_front(mesh.vertices, mesh.faces, "z") is None


def test_an_aerial_does_not_turn_a_car_over():
    mesh = join(car(), box((1.5, -0.01, 1.4), (1.52, 0.01, 2.2)))
    assert guess_up(mesh.vertices, mesh.faces) == "z"
