"""3-D models that the rendering tests make for themselves, in every format."""

from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from trimesh.exchange.gltf import export_gltf
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import SimpleMaterial

FORMATS = ("glb", "gltf", "obj", "ply", "stl")
UPS = ("x", "y", "z", "-x", "-y", "-z")


def box(low: tuple[float, ...], high: tuple[float, ...]) -> trimesh.Trimesh:
    return trimesh.creation.box(bounds=[low, high])


def car() -> trimesh.Trimesh:
    """Something like a car, 4.4 × 1.8 × 1.4: a body, a cabin and four wheels; nose towards −x, z up."""
    parts = [box((-2.2, -0.85, 0.25), (2.2, 0.85, 0.8)), box((-0.5, -0.75, 0.8), (1.9, 0.75, 1.4))]
    for x in (-1.4, 1.35):
        for y in (-0.8, 0.8):
            wheel = trimesh.creation.cylinder(0.33, 0.2, sections=16)
            wheel.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0]))
            wheel.apply_translation([x, y, 0.33])
            parts.append(wheel)
    return join(*parts)


def join(*parts: trimesh.Trimesh) -> trimesh.Trimesh:
    joined = trimesh.util.concatenate(list(parts))
    assert isinstance(joined, trimesh.Trimesh)
    return joined


def turned(mesh: trimesh.Trimesh, up: str) -> trimesh.Trimesh:
    """A copy with what pointed along z along ``up``, one of ``UPS``."""
    axis = np.eye(3)["xyz".index(up[-1])] * (-1 if up[0] == "-" else 1)
    copy = mesh.copy()
    copy.apply_transform(trimesh.geometry.align_vectors([0, 0, 1], axis))
    return copy


def facing(mesh: trimesh.Trimesh, up: str, front: str) -> trimesh.Trimesh:
    """A copy with what pointed along z along ``up`` and the nose, which was towards −x, along ``front``."""
    top, nose = (np.eye(3)["xyz".index(axis[-1])] * (-1 if axis[0] == "-" else 1) for axis in (up, front))
    turn = np.eye(4)
    turn[:3, :3] = np.column_stack([-nose, np.cross(nose, top), top])
    copy = mesh.copy()
    copy.apply_transform(turn)
    return copy


def two_ended() -> trimesh.Trimesh:
    """A grey box, 4 × 2 × 1.5, with a red plate at its nose, towards −x, and a blue one at its tail."""
    body, nose, tail = box((-2, -1, 0), (2, 1, 1.5)), box((-2.05, -1, 0), (-2, 1, 1.5)), box((2, -1, 0), (2.05, 1, 1.5))
    for part, colour in ((body, [120, 120, 120, 255]), (nose, [255, 0, 0, 255]), (tail, [0, 0, 255, 255])):
        coloured(part, faces=colour)
    return join(body, nose, tail)


def save(mesh: trimesh.Trimesh, path: Path) -> Path:
    """Write ``mesh`` in the format of the file's name, with its textures beside it; gives ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gltf":
        for name, content in export_gltf(trimesh.Scene(mesh)).items():
            (path if name == "model.gltf" else path.parent / name).write_bytes(content)
    else:
        mesh.export(path)
    return path


def coloured(mesh: trimesh.Trimesh, *, faces: Any = None, vertices: Any = None) -> None:
    """Give ``mesh`` colours (RGBA, 0…255), one for all or one for each."""
    mesh.visual = ColorVisuals(mesh, face_colors=faces, vertex_colors=vertices)


def textured(mesh: trimesh.Trimesh, image: Image.Image) -> trimesh.Trimesh:
    """``mesh`` with ``image`` as seen from its right side, from end to end and from the ground to the top."""
    low, high = mesh.bounds
    uv = 0.01 + 0.98 * ((mesh.vertices - low) / (high - low))[:, [0, 2]]  # 0 and 1 are the same place
    mesh.visual = TextureVisuals(uv=uv, material=SimpleMaterial(image=image, diffuse=[255] * 4))
    return mesh


def quartered() -> trimesh.Trimesh:
    """A box of 4 × 2 × 1.5 with a texture: the front is red, the rear blue, and the lower half of each darker."""
    image = Image.new("RGB", (64, 64))
    for colour, corner in (("#ff0000", (0, 0)), ("#0000ff", (32, 0)), ("#800000", (0, 32)), ("#000080", (32, 32))):
        image.paste(Image.new("RGB", (32, 32), colour), corner)
    return textured(box((-2, -1, 0), (2, 1, 1.5)).subdivide(), image)


def write_obj(path: Path, mesh: trimesh.Trimesh, *, head: str = "", materials: str | None = None) -> Path:
    """``mesh`` as the text of an OBJ file by hand: all corners with texture coordinates, ``head`` before the faces.

    ``materials`` is the content of an MTL file beside it, with a material called ``skin`` that the model uses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"v {x} {y} {z}" for x, y, z in mesh.vertices]
    lines += [f"vt {x / 4 + 0.5} 0.5" for x, _, _ in mesh.vertices]
    if materials is not None:
        path.with_suffix(".mtl").write_text(f"newmtl skin\n{materials}\n", encoding="utf-8")
        lines += [f"mtllib {path.stem}.mtl", "usemtl skin"]
    lines += [head, *("f " + " ".join(f"{corner + 1}/{corner + 1}" for corner in face) for face in mesh.faces)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
