"""A triangle mesh, and the geometry that everything here needs of one. Legend: V vertices, T triangles."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Mesh:
    """Triangles, counter-clockwise seen from outside."""

    vertices_V3: np.ndarray
    normals_V3: np.ndarray
    triangles_T3: np.ndarray
    part_T: np.ndarray
    """What each triangle belongs to, as its model numbers its parts."""
    both_sides: bool = False
    """Whether triangles are seen from behind too, as in models whose winding cannot be relied on."""

    @cached_property
    def outline_N3(self) -> np.ndarray:
        """The places of the vertices, those within 2 cm of each other once: enough to tell what the mesh hides."""
        _, first = np.unique(np.round(self.vertices_V3 * 50) @ [1e8, 1e4, 1.0], return_index=True)
        return self.vertices_V3[first]

    def stretched(self, factors: tuple[float, ...]) -> "Mesh":
        """The mesh with its three axes multiplied by ``factors``."""
        if all(factor == 1 for factor in factors):
            return self
        vertices_V3, normals_V3 = self.vertices_V3 * factors, unit(self.normals_V3 / factors)
        return replace(self, vertices_V3=vertices_V3, normals_V3=normals_V3)


def dot(a_N3: np.ndarray, b_N3: np.ndarray) -> np.ndarray:
    """The scalar products (N) of two lists of vectors."""
    return np.einsum("ij,ij->i", a_N3, b_N3)


def unit(vectors_N3: np.ndarray) -> np.ndarray:
    """The vectors at length 1; zero stays zero."""
    return vectors_N3 / (np.sqrt(dot(vectors_N3, vectors_N3))[:, None] + 1e-12)


def face_normals(vertices_V3: np.ndarray, triangles_T3: np.ndarray) -> np.ndarray:
    """Normals (T, 3) of the triangles, twice as long as their area."""
    a, b, c = (vertices_V3[triangles_T3[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


def smooth_normals(vertices_V3: np.ndarray, triangles_T3: np.ndarray) -> np.ndarray:
    """Unit normals of the vertices: the area-weighted mean of the faces around each."""
    faces = face_normals(vertices_V3, triangles_T3)
    corner = triangles_T3.reshape(-1)
    spread = np.repeat(faces, 3, axis=0)
    summed = np.stack([np.bincount(corner, spread[:, k], minlength=len(vertices_V3)) for k in range(3)], axis=1)
    return unit(summed)
