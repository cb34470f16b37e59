import numpy as np
import pytest

from dann.infer.errors import UsageError
from dann.train.rendering.car_bodies import Surface, build_mesh, side_view
from dann.train.rendering.car_proportions import BODY_CLASSES, kinds, proportions, sample_body


def _mesh(body_class, seed=0):
    return build_mesh(side_view(sample_body(np.random.default_rng(seed), body_class)))


def test_unknown_class_is_refused_and_the_nearest_named():
    with pytest.raises(UsageError, match="did you mean 'sedan'"):
        sample_body(np.random.default_rng(0), "sedam")


@pytest.mark.parametrize("body_class", BODY_CLASSES)
def test_mesh_has_the_size_of_its_body(body_class):
    body = sample_body(np.random.default_rng(1), body_class)
    mesh = build_mesh(side_view(body))
    low, high = mesh.vertices_V3.min(axis=0), mesh.vertices_V3.max(axis=0)
    assert high[0] - low[0] == pytest.approx(body.length, abs=0.02)
    assert high[2] == pytest.approx(body.height, abs=0.15)
    assert low[2] == pytest.approx(0, abs=0.02)  # it stands on its wheels
    mirrors = 0.4
    assert body.width - 0.05 < high[1] - low[1] < body.width + mirrors


@pytest.mark.parametrize("body_class", BODY_CLASSES)
def test_faces_point_outwards(body_class):
    mesh = _mesh(body_class)
    a, b, c = (mesh.vertices_V3[mesh.triangles_T3[:, k]] for k in range(3))
    volume = (np.cross(a, b) * c).sum() / 6  # positive for a closed surface that is counter-clockwise outside
    length, width, height = np.ptp(mesh.vertices_V3, axis=0)
    assert 0.3 < volume / (length * width * height) < 1.0
    up = np.cross(b - a, c - a)[mesh.part_T == Surface.ROOF, 2]
    assert up.min() > -1e-9 and up.max() > 0


@pytest.mark.parametrize("body_class", BODY_CLASSES)
def test_every_body_of_a_class_is_possible(body_class):
    for seed in range(200):
        body = sample_body(np.random.default_rng(seed), body_class)
        profile = side_view(body)
        base_front, top_front, top_rear, base_rear = profile.cabin
        assert 0 < base_front < top_front < top_rear < base_rear <= body.length
        assert body.wheel / 2 < body.axles[0] and body.axles[1] + body.wheel / 2 < body.length - 0.1
        assert (profile.roof >= profile.shoulder).all() and (profile.half_width > 0.4).all()


def test_only_a_pickup_has_a_bed():
    assert {c for c in BODY_CLASSES if (_mesh(c).part_T == Surface.BED).any()} == {"pickup"}


def test_bodies_of_one_class_differ_in_every_proportion():
    bodies = [sample_body(np.random.default_rng(seed), "suv") for seed in range(5)]
    for name in proportions():
        assert len({getattr(body, name) for body in bodies}) == 5, name


@pytest.mark.parametrize("body_class", BODY_CLASSES)
def test_every_kind_of_a_class_is_drawn(body_class):
    drawn = {sample_body(np.random.default_rng(seed), body_class).kind for seed in range(60)}
    assert drawn == set(kinds(body_class)) and len(drawn) > 2


def test_classes_keep_their_order_of_heights():
    mean = {
        c: np.mean([sample_body(np.random.default_rng(seed), c).height for seed in range(30)]) for c in BODY_CLASSES
    }
    assert mean["coupe"] < mean["sedan"] < mean["wagon"] < mean["hatchback"] < mean["suv"] < mean["van"]
