import numpy as np
import pytest

from dann.train.rendering.car_bodies import Surface, build_mesh, side_view
from dann.train.rendering.car_decals import Decals, Material, sample_trim
from dann.train.rendering.car_proportions import BODY_CLASSES, sample_body


def _materials(body_class, seed=0):
    """Material and surface at the middle of each triangle."""
    rng = np.random.default_rng(seed)
    profile = side_view(sample_body(rng, body_class))
    mesh = build_mesh(profile)
    middle = mesh.vertices_V3[mesh.triangles_T3].mean(axis=1)
    return Decals(profile, sample_trim(rng, profile)).materials(mesh.part_T, middle), mesh.part_T, middle


@pytest.mark.parametrize("body_class", BODY_CLASSES)
def test_every_car_has_windows_lamps_plates_tyres_and_paint(body_class):
    material, surface, middle = _materials(body_class)
    assert {Material.PAINT, Material.GLASS, Material.RUBBER, Material.HEADLIGHT} <= set(material)
    assert (material[surface == Surface.SIDE] == Material.GLASS).any()
    assert (middle[material == Material.HEADLIGHT, 0] < 0).all()
    assert (middle[material == Material.TAILLIGHT, 0] > 0).all()


def test_a_panel_van_has_no_windows_behind_the_doors():
    ends = []
    for seed in range(12):
        material, surface, middle = _materials("van", seed)
        glass = middle[(material == Material.GLASS) & (surface == Surface.SIDE), 0]
        ends.append(glass.max())
    assert min(ends) < 0 < 1 < max(ends)


def test_solid_surfaces_have_one_material():
    material, surface, _ = _materials("pickup")
    assert set(material[surface == Surface.BED]) == {Material.TRIM}
    assert set(material[surface == Surface.UNDERSIDE]) == {Material.DARK}
