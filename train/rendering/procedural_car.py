"""A procedural car that can stand in a scene: its body as a mesh, its equipment as decals, its materials' looks."""

import numpy as np

from dann.train.rendering.car_bodies import build_mesh, side_view
from dann.train.rendering.car_decals import Decals, Material, sample_trim
from dann.train.rendering.car_proportions import Body, sample_body
from dann.train.rendering.mesh import Mesh
from dann.train.rendering.raster import Fragments
from dann.train.rendering.scene import Scene
from dann.train.rendering.shading import Look


class ProceduralCar:
    """A car of a class, with proportions and equipment of its own. A :class:`~.photograph.Model`."""

    def __init__(self, body: Body, decals: Decals, mesh: Mesh):
        self.body = body
        self._decals = decals
        self._mesh = mesh

    @property
    def mesh(self) -> Mesh:
        return self._mesh

    def look(self, seen: Fragments, place_P3: np.ndarray, scene: Scene, metres_per_pixel: float) -> Look:
        """How the materials of the decals look at each pixel."""
        del metres_per_pixel  # the decals are as fine as a small image needs
        material_P = self._decals.materials(self._mesh.part_T[seen.triangle_P], place_P3)
        return Look(*(values[material_P] for values in _finish(scene)))


def sample_car(rng: np.random.Generator, body_class: str) -> ProceduralCar:
    """A random car of ``body_class``."""
    body = sample_body(rng, body_class)
    profile = side_view(body)
    return ProceduralCar(body, Decals(profile, sample_trim(rng, profile)), build_mesh(profile))


def _finish(scene: Scene) -> tuple[np.ndarray, ...]:
    """Albedo (M, 3), mirrored share, highlight and its sharpness (M each) of every material."""
    glass, rim, lamps, gloss = scene.glass, scene.rim, scene.lamps, scene.gloss
    table = {
        Material.PAINT: (scene.paint, 0.10 * gloss, 0.9 * gloss, 20 + 100 * gloss),
        Material.GLASS: ((glass, glass * 1.05, glass * 1.1), 0.05, 0.9, 120),
        Material.TRIM: ((0.03, 0.03, 0.032), 0.01, 0.08, 12),
        Material.CHROME: ((0.35, 0.35, 0.36), 0.45, 0.8, 60),
        Material.HEADLIGHT: ((lamps, lamps, lamps * 0.97), 0.15, 0.9, 80),
        Material.TAILLIGHT: ((0.42, 0.012, 0.015), 0.08, 0.6, 60),
        Material.PLATE: ((0.75, 0.75, 0.68), 0.01, 0.1, 10),
        Material.RUBBER: ((0.018, 0.018, 0.018), 0.0, 0.05, 8),
        Material.RIM: ((rim, rim, rim * 1.02), 0.15, 0.5, 30),
        Material.DARK: ((0.008, 0.008, 0.008), 0.0, 0.0, 1),
    }
    rows = [table[material] for material in Material]
    return tuple(np.array([row[k] for row in rows], np.float32) for k in range(4))
