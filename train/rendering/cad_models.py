"""Models from CAD and modelling programs, made ready to stand in a scene: loaded, upright, turned, of one size.

trimesh reads the file; what is added here is what a folder of models from everywhere needs: any unit and any axes,
triangles wound either way, textures that are missing, and a new colour for the paint.

Legend: C corners (three of its own for each triangle, so that edges stay sharp), T triangles, P pixels.
"""

import codecs
import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from dann.infer.errors import DannError, missing_extra
from dann.infer.preprocess import shrunk
from dann.train.rendering.mesh import Mesh, dot, face_normals, unit
from dann.train.rendering.orientation import guess_front, guess_up, longer_side, turn_of
from dann.train.rendering.raster import Fragments
from dann.train.rendering.scene import Scene
from dann.train.rendering.shading import Look

MODEL_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")
LENGTH_M = 4.5  # of the longer horizontal side, once a model is loaded
_CONVENTION = {".glb": "y", ".gltf": "y", ".obj": "y", ".ply": "z", ".stl": "z"}
_CREASE_DEG = 40.0  # faces that meet at a sharper angle have an edge between them
_CROWDED = 64  # corners at one place; with more the faces stay flat
_VEHICLES = (1, 30_000)  # units: from a metre, in metres, to 30 m, in millimetres
_STRAY = 20.0  # a part this many times further out than 99 % of the surface does not belong to the model
_FLAT = 0.02  # smallest over largest side of what can only be a drawing or a ground plane
_HUGE = 1e60  # coordinates beyond this overflow in areas
_TEXTURE_PX = 2048
_MANY = 300_000  # triangles
_PLAIN = 0.5  # sRGB grey of a surface without colour
_GLASS = re.compile(r"glass|window|windscreen|windshield", re.IGNORECASE)
_TO_LINEAR = ((np.arange(256) / 255.0) ** 2.2).astype(np.float32)


class ModelError(DannError):
    """A model file that cannot be rendered."""


@dataclass(frozen=True)
class Material:
    """One material of a model."""

    name: str
    glass: bool
    pyramid: tuple[np.ndarray, ...]
    """The texture (uint8 RGB) at full, half, quarter, … size; empty without a texture."""


@dataclass(frozen=True)
class CadModel:
    """A loaded model. A :class:`~.photograph.Model`."""

    mesh: Mesh
    """``part_T`` is the index of each triangle's material."""
    materials: tuple[Material, ...]
    colour_C3: np.ndarray
    """Linear RGB of each corner, which a texture is multiplied with."""
    uv_C2: np.ndarray
    texels_T: np.ndarray
    """Texture pixels along a metre of each triangle."""
    paint: np.ndarray | None
    """(3,) linear RGB of the colour that covers most of the model and is replaced; ``None`` where none stands out."""
    sha256: str
    """Of the file and of the materials, textures and buffers that it names."""
    up: str
    front: str
    size: tuple[float, float, float]
    """Length, width and height in the file's units."""
    notes: tuple[str, ...]
    """What the user should know, a sentence each."""

    def look(self, seen: Fragments, place_P3: np.ndarray, scene: Scene, metres_per_pixel: float) -> Look:
        """Textures and colours, the model's paint in the scene's colour, and the gloss of paint or glass."""
        del place_P3
        albedo_P3 = seen.interpolate(self.colour_C3)
        part_P = self.mesh.part_T[seen.triangle_P]
        if any(material.pyramid for material in self.materials):
            self._apply_textures(albedo_P3, part_P, seen, metres_per_pixel)
        if self.paint is not None:
            albedo_P3 = _repaint(albedo_P3, self.paint, np.array(scene.paint, np.float32))
        glass_P = np.array([material.glass for material in self.materials])[part_P]
        albedo_P3[glass_P] = scene.glass
        # Dark and grey parts, tyres and trim for the most part, are dull; what has a colour is lacquered.
        red_P, green_P, blue_P = albedo_P3.T
        lacquer = scene.gloss * np.clip(np.maximum(np.maximum(red_P, green_P), blue_P) / 0.1, 0.1, 1)
        return Look(
            albedo_P3,
            np.where(glass_P, 0.07, 0.06 * lacquer),
            np.where(glass_P, 0.9, 0.9 * lacquer),
            np.where(glass_P, 120, 20 + 100 * lacquer),
        )

    def _apply_textures(
        self, albedo_P3: np.ndarray, part_P: np.ndarray, seen: Fragments, metres_per_pixel: float
    ) -> None:
        uv_P2 = seen.interpolate(self.uv_C2)
        texels_per_pixel = self.texels_T[seen.triangle_P] * metres_per_pixel
        level_P = np.log2(np.clip(texels_per_pixel, 1, None)).round().astype(np.int64)
        for index, material in enumerate(self.materials):
            if not material.pyramid:
                continue
            own = np.flatnonzero(part_P == index)
            level_own = np.minimum(level_P[own], len(material.pyramid) - 1)
            for level in range(level_own.min(initial=0), level_own.max(initial=-1) + 1):
                chosen = own[level_own == level]
                albedo_P3[chosen] *= _TO_LINEAR.take(_texel(material.pyramid[level], uv_P2.take(chosen, axis=0)))


def load_model(path: Path, up: str = "auto", front: str = "auto") -> CadModel:
    """The model in ``path``, upright, with its nose towards −x.

    ``up`` and ``front`` say where its top and its nose point in the file: one of :data:`~.orientation.AXES`, or
    ``auto``. Raises :class:`ModelError` for a file that is not a model, has no triangles, or nothing but a flat sheet,
    and where its shape says that ``front`` is up or down.
    """
    corners_C3, colour_C3, uv_C2, part_T, materials, notes, sha256 = _read(path)
    corners_C3, kept_T, stray = _without_stray(corners_C3)
    if stray:
        notes.append(stray)
        corner = np.repeat(kept_T, 3)
        colour_C3, uv_C2, part_T = colour_C3[corner], uv_C2[corner], part_T[kept_T]
    triangles_T3 = np.arange(len(corners_C3)).reshape(-1, 3)
    if len(triangles_T3) > _MANY:
        notes.append("so many triangles take long and much memory: simplify it")
    up, note_on_up = _choose_up(corners_C3, triangles_T3, up, _CONVENTION[path.suffix.lower()])
    front, note_on_front = _choose_front(corners_C3, triangles_T3, up, front)
    notes += [note for note in (note_on_up, note_on_front) if note]
    corners_C3, size = _stand(corners_C3, up, front)
    if min(size) < _FLAT * max(size):
        raise ModelError(
            f"is flat: {size[0]:.4g} long, {size[1]:.4g} wide and {size[2]:.4g} high (up is {up}); is there a ground "
            "plane in it? Take it out, or set --up"
        )
    if not _VEHICLES[0] <= max(size) <= _VEHICLES[1]:
        notes.append("no vehicle has this size in metres, centimetres or millimetres; it is rendered at the usual one")
    mesh = Mesh(corners_C3, _creased_normals(corners_C3), triangles_T3, part_T, both_sides=True)
    model = CadModel(
        mesh,
        materials,
        colour_C3.astype(np.float32),
        uv_C2.astype(np.float32),
        _texel_density(mesh, uv_C2, materials),
        None,
        sha256,
        up,
        front,
        size,
        tuple(notes),
    )
    return replace(model, paint=_main_colour(model))


# ---- reading ----


def _read(
    path: Path,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[Material, ...], list[str], str]:
    """Corners, their colours and texture coordinates, material of each triangle, all materials, notes, and SHA-256."""
    try:
        import trimesh
    except ImportError:
        raise missing_extra("train", "trimesh", "rendering models") from None

    content, suffix = path.read_bytes(), path.suffix.lower()
    companions = _Companions(path.parent, hashlib.sha256(content))
    content = _as_utf8(content) if suffix == ".obj" else content
    with _quiet():
        try:
            if suffix in (".glb", ".gltf"):
                _check_compression(content, suffix)
            # Unprocessed, as processing drops what is not a number, and merges all of a model in a tiny unit.
            resolver: Any = companions
            scene = trimesh.load_scene(BytesIO(content), suffix[1:], resolver=resolver, process=False)
            placed = [scene.graph[node] for node in scene.graph.nodes_geometry]
            surfaces = [
                (trimesh.transform_points(part.vertices, matrix)[part.faces], *_surface(part, str(name)))
                for matrix, name in placed
                if isinstance(part := scene.geometry[name], trimesh.Trimesh)
            ]
        except ModelError:
            raise
        except Exception as error:  # trimesh's readers raise whatever a malformed file makes them
            raise ModelError(
                f"cannot be read as {suffix}: damaged, cut off or of another kind ({_reason(error)}); export it again"
            ) from error
    surfaces = [surface for surface in surfaces if len(surface[0])]
    if not surfaces:
        raise ModelError("has no triangles; export it as a mesh, with faces")
    triangles, colours, uvs, materials = zip(*surfaces, strict=True)
    corners_C3 = np.concatenate(triangles).reshape(-1, 3)
    if not (np.abs(corners_C3) < _HUGE).all():
        raise ModelError("has vertices that are not finite numbers")
    if suffix == ".ply":
        _check_whole(content, len(corners_C3) // 3)
    part_T = np.repeat(np.arange(len(triangles)), [len(part) for part in triangles])
    uv_C2, notes = np.concatenate(uvs), list(dict.fromkeys(companions.notes))
    if not np.isfinite(uv_C2).all():
        notes.append("has texture coordinates that are not finite numbers: taken as 0")
        uv_C2 = np.nan_to_num(uv_C2, posinf=0.0, neginf=0.0)
    return corners_C3, np.concatenate(colours), uv_C2, part_T, materials, notes, companions.digest.hexdigest()


class _Companions:
    """The files that a model names: materials, textures and buffers. A resolver of trimesh.

    The folders that a name says are those of the computer where the model was made, so the file may as well lie beside
    the model. What is missing or broken is noted; trimesh goes on without it where it can.
    """

    def __init__(self, folder: Path, digest: Any):
        self.folder = folder
        self.digest = digest
        """Takes in every file that is read."""
        self.notes: list[str] = []

    def get(self, name: str) -> bytes:
        try:
            return self._content(name.strip())
        except Exception as error:
            self.notes.append(f"{_reason(error)}: drawn without it")
            raise

    __getitem__ = get

    def _content(self, name: str) -> bytes:
        path = next((path for text in _without_options(name) for path in self._places(text) if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(f"{name!r}, which it names, is missing")
        content, suffix = path.read_bytes(), path.suffix.lower()
        self.digest.update(content)
        if suffix == ".mtl":
            return _as_utf8(content)
        if suffix != ".bin" and not _is_image(content):
            raise ValueError(f"{name!r}, which it names, cannot be read as an image")
        return content

    def _places(self, name: str) -> Iterator[Path]:
        named = Path(unquote(name).replace("\\", "/"))
        yield from (self.folder / name, self.folder / named)
        yield from (path for path in sorted(self.folder.iterdir()) if path.name.lower() == named.name.lower())


def _without_options(name: str) -> Iterator[str]:
    """``name``, and what may be a name in it: in an MTL file options such as ``-s 1 1 1`` stand before a texture's."""
    yield name
    if name.startswith("-"):
        words = name.split()
        yield from (" ".join(words[start:]) for start in range(1, len(words)))


def _is_image(content: bytes) -> bool:
    """Whether it is a whole one, which trimesh would ask too late or not at all."""
    from PIL import Image

    try:
        Image.open(BytesIO(content)).load()
    except Exception:  # Pillow's readers, too, raise whatever a malformed file makes them
        return False
    return True


def _as_utf8(text: bytes) -> bytes:
    """``text`` for trimesh, which reads UTF-8 without a mark; other encodings differ in names and comments."""
    text = text.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1").encode()
    return text


def _check_compression(content: bytes, suffix: str) -> None:
    """Refuse glTF with compressed vertices, which trimesh would read as zeros."""
    text = content if suffix == ".gltf" else content[20 : 20 + int.from_bytes(content[12:16], "little")]
    compression = [name for name in json.loads(text).get("extensionsRequired", []) if "compression" in name]
    if compression:
        raise ModelError(f"is compressed ({', '.join(compression)}), which is not read; export it without")


def _check_whole(content: bytes, triangles: int) -> None:
    """Refuse a PLY file with fewer faces than it announces, of which trimesh reads what there is."""
    announced = re.search(rb"element face (\d+)", content[: content.find(b"end_header")])
    if announced and triangles < int(announced[1]):
        raise ModelError(f"is cut off: {int(announced[1]):,} faces announced, {triangles:,} found; export it again")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without trimesh's own lines on standard error: what matters of them becomes a note or an error."""
    logger = logging.getLogger("trimesh")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):  # trimesh asks for a module that guesses the encoding of what it takes for text
        return "it is broken"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _surface(part: Any, name: str) -> tuple[np.ndarray, np.ndarray, Material]:
    """Colours and texture coordinates of a part's corners, and its material."""
    corners = part.faces.reshape(-1)
    visual = part.visual
    uv_C2 = np.zeros((len(corners), 2))
    if visual.kind in ("vertex", "face"):
        rgba = visual.vertex_colors[corners] if visual.kind == "vertex" else np.repeat(visual.face_colors, 3, axis=0)
        return _TO_LINEAR[rgba[:, :3]], uv_C2, Material(name, bool((rgba[:, 3] < 153).all()), ())
    material = getattr(visual, "material", None)
    if material is None:
        return np.full((len(corners), 3), _PLAIN**2.2), uv_C2, Material(name, bool(_GLASS.search(name)), ())
    image = getattr(material, "image", None) or getattr(material, "baseColorTexture", None)
    uv = getattr(visual, "uv", None)
    base, linear = _base_colour(material)
    name = f"{name} {material.name or ''}".strip()
    see_through = base[3] < 153 and getattr(material, "alphaMode", None) != "OPAQUE"
    glass = bool(_GLASS.search(name)) or see_through or _opacity(material) < 0.6
    pyramid = ()
    if image is not None and uv is not None:
        uv_C2 = np.asarray(uv, float)[corners]
        pyramid = _pyramid(np.asarray(image.convert("RGB")))
        linear = np.ones(3) if hasattr(material, "diffuse") else linear
    return linear * _corner_colours(visual, corners), uv_C2, Material(name, glass, pyramid)


def _corner_colours(visual: Any, corners: np.ndarray) -> np.ndarray:
    """Linear RGB (C, 3) of the vertex colours that a part of a glTF file may have beside its material; else white."""
    colours = visual.vertex_attributes.get("color")
    if colours is None or len(colours) <= corners.max(initial=0):
        return np.ones((len(corners), 3))
    most = np.iinfo(colours.dtype).max if np.issubdtype(colours.dtype, np.integer) else 1
    return (np.asarray(colours, float)[:, :3] / most)[corners]


def _base_colour(material: Any) -> tuple[np.ndarray, np.ndarray]:
    """RGBA of a material in 0…255 as its file has it, and linear RGB: glTF's is linear, that of OBJ is not."""
    factor = getattr(material, "baseColorFactor", None)
    diffuse = getattr(material, "diffuse", None)
    given = diffuse if factor is None else factor
    rgba = np.array([255, 255, 255, 255] if given is None else given, float)
    return rgba, rgba[:3] / 255 if diffuse is None else _TO_LINEAR[rgba[:3].astype(np.uint8)]


def _opacity(material: Any) -> float:
    """What the ``d`` of a material of an OBJ file says."""
    words = (getattr(material, "kwargs", None) or {}).get("d", ["1"])
    try:
        return float(words[-1])
    except ValueError:
        return 1.0


def _pyramid(image_HW3: np.ndarray) -> tuple[np.ndarray, ...]:
    longest = max(image_HW3.shape[:2])
    if longest > _TEXTURE_PX:
        scale = _TEXTURE_PX / longest
        image_HW3 = shrunk(image_HW3, scale)
    levels = [np.ascontiguousarray(image_HW3)]
    while min(levels[-1].shape[:2]) >= 4:
        levels.append(shrunk(levels[-1], 0.5))
    return tuple(levels)


def _texel(texture_HW3: np.ndarray, uv_P2: np.ndarray) -> np.ndarray:
    """The nearest texture pixels (P, 3); textures repeat, and v points up."""
    rows, columns = texture_HW3.shape[:2]
    column = np.floor(uv_P2[:, 0] % 1.0 * columns).astype(np.int64) % columns
    row = np.floor((1 - uv_P2[:, 1]) % 1.0 * rows).astype(np.int64) % rows
    return texture_HW3.reshape(-1, 3).take(row * columns + column, axis=0)


# ---- shape ----


def _without_stray(corners_C3: np.ndarray) -> tuple[np.ndarray, np.ndarray, str | None]:
    """The corners without triangles that lie far outside the rest, which triangles are kept, and a note."""
    triangles = corners_C3.reshape(-1, 3, 3)
    area = np.linalg.norm(face_normals(corners_C3, np.arange(len(corners_C3)).reshape(-1, 3)), axis=1)
    if not area.sum():
        raise ModelError("has no triangle with an area")
    weight_C = np.repeat(area, 3)
    low, high = np.array([_quantiles(corners_C3[:, axis], weight_C, (0.005, 0.995)) for axis in range(3)]).T
    reach = (high - low).max()
    extent = np.ptp(corners_C3, axis=0).max()
    everything = np.ones(len(triangles), bool)
    if extent <= _STRAY * reach:
        return corners_C3, everything, None
    kept = ((triangles > low - reach) & (triangles < high + reach)).all(axis=(1, 2))
    note = (
        f"is {extent:.4g} units wide, but 99 % of its surface lies within {reach:.4g}: "
        f"left out {(~kept).sum()} triangles far away"
    )
    return triangles[kept].reshape(-1, 3), kept, note


def _quantiles(values: np.ndarray, weights: np.ndarray, shares: tuple[float, float]) -> tuple[float, float]:
    order = np.argsort(values)
    below = np.cumsum(weights[order]) / weights.sum()
    low, high = (float(values[order][min(np.searchsorted(below, share), len(values) - 1)]) for share in shares)
    return low, high


def _choose_up(corners_C3: np.ndarray, triangles_T3: np.ndarray, up: str, convention: str) -> tuple[str, str | None]:
    if up != "auto":
        return up, None
    guess = guess_up(corners_C3, triangles_T3)
    if guess is None:
        return convention, f"its up axis cannot be told from its shape: {convention} by convention; --up sets it"
    return guess, None if guess == convention else f"stands along {guess} by its shape; --up sets it"


def _choose_front(corners_C3: np.ndarray, triangles_T3: np.ndarray, up: str, front: str) -> tuple[str, str | None]:
    if front != "auto":
        if front[-1] == up[-1]:
            raise ModelError(f"stands along {up} by its shape, where its front cannot be (--front {front}); set --up")
        return front, None
    along = longer_side(corners_C3, up)
    # glTF's front is z, that of ROS and Gazebo x; z is up and -y the front in Blender, which writes it as glTF's.
    convention = "-y" if (up, along) == ("z", "y") else along
    guess = guess_front(corners_C3, triangles_T3, up)
    if guess is None:
        return convention, f"its front cannot be told from its shape: {convention} by convention; --front sets it"
    return guess, None if guess == convention else f"faces {guess} by its shape; --front sets it"


def _stand(corners_C3: np.ndarray, up: str, front: str) -> tuple[np.ndarray, tuple[float, float, float]]:
    """The corners with z up, nose towards −x, on the ground and of standard length; and their size before that."""
    turned = corners_C3 @ turn_of(up, front).T
    low, high = turned.min(axis=0), turned.max(axis=0)
    length, width, height = (float(side) for side in high - low)
    anchor = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    return (turned - anchor) * (LENGTH_M / max(length, width, 1e-12)), (length, width, height)


def _creased_normals(corners_C3: np.ndarray) -> np.ndarray:
    """Unit normals of the corners: the mean of the faces around that do not meet at a crease."""
    faces = face_normals(corners_C3, np.arange(len(corners_C3)).reshape(-1, 3))
    per_corner = np.repeat(faces, 3, axis=0)
    flat = unit(per_corner)
    _, place = np.unique(np.round(corners_C3, 5), axis=0, return_inverse=True)
    place = place.reshape(-1)
    order = np.argsort(place, kind="stable")
    counts = np.bincount(place)
    starts = np.cumsum(counts) - counts
    around = np.where(counts[place] <= _CROWDED, counts[place], 0)  # so many corners share the place of each
    here = np.repeat(np.arange(len(place)), around)
    step = np.arange(len(here)) - np.repeat(np.cumsum(around) - around, around)
    there = order[starts[place[here]] + step]
    smooth = (flat[here] * flat[there]).sum(axis=1) > np.cos(np.radians(_CREASE_DEG))
    here, there = here[smooth], there[smooth]
    summed = np.stack([np.bincount(here, per_corner[there, k], minlength=len(place)) for k in range(3)], axis=1)
    return np.where(around[:, None] > 0, unit(summed), flat)


def _texel_density(mesh: Mesh, uv_C2: np.ndarray, materials: tuple[Material, ...]) -> np.ndarray:
    pixels = np.array([np.prod(m.pyramid[0].shape[:2]) if m.pyramid else 0 for m in materials], float)
    u, v = np.moveaxis(uv_C2.reshape(-1, 3, 2), 2, 0)
    on_texture = np.abs((u[:, 1] - u[:, 0]) * (v[:, 2] - v[:, 0]) - (u[:, 2] - u[:, 0]) * (v[:, 1] - v[:, 0]))
    area = np.linalg.norm(face_normals(mesh.vertices_V3, mesh.triangles_T3), axis=1)
    return np.sqrt(on_texture * pixels[mesh.part_T] / np.maximum(area, 1e-12))


# ---- paint ----


def _main_colour(model: CadModel) -> np.ndarray | None:
    """The colour whose replacement repaints most of what is above the wheels and neither glass nor nearly black.

    A colour counts up to half as much again where it is saturated: windows drawn into a texture may be as large as the
    paint, and are grey.
    """
    colours = model.colour_C3.reshape(-1, 3, 3).mean(axis=1)
    uv = model.uv_C2.reshape(-1, 3, 2).mean(axis=1)
    for index, material in enumerate(model.materials):
        if material.pyramid:
            chosen = model.mesh.part_T == index
            level = material.pyramid[min(2, len(material.pyramid) - 1)]
            colours[chosen] *= _TO_LINEAR[_texel(level, uv[chosen])]
    area = np.linalg.norm(face_normals(model.mesh.vertices_V3, model.mesh.triangles_T3), axis=1)
    glass = np.array([material.glass for material in model.materials])[model.mesh.part_T]
    height = model.mesh.vertices_V3[:, 2].reshape(-1, 3).mean(axis=1)
    area[glass | (colours.max(axis=1) < 0.02) | (height < 0.3 * model.mesh.vertices_V3[:, 2].max())] = 0
    if not area.sum():
        return None
    bins = np.round(np.clip(colours, 0, 1) ** (1 / 2.2) * 8).astype(np.int64) @ [81, 9, 1]
    _, group_T = np.unique(bins, return_inverse=True)
    area_G = np.bincount(group_T, area)
    colour_G3 = np.stack([np.bincount(group_T, area * channel) for channel in colours.T], axis=1)
    kept = area_G > 0
    area_G, colour_G3 = area_G[kept], (colour_G3[kept] / area_G[kept, None]).astype(np.float32)
    repainted_G = [(area_G * _likeness(colour_G3, colour)).sum() for colour in colour_G3]
    saturation_G = 1 - colour_G3.min(axis=1) / colour_G3.max(axis=1)
    return colour_G3[np.argmax(repainted_G * (1 + saturation_G / 2))]


def _repaint(albedo_P3: np.ndarray, paint: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The colours with those like ``paint`` replaced by ``new``, lighter and darker places kept so."""
    share = _likeness(albedo_P3, paint)[:, None]
    brightness = albedo_P3 @ np.ones(3, np.float32) / paint.sum()
    return (1 - share) * albedo_P3 + share * new * np.clip(brightness, 0.3, 1.5)[:, None]


def _likeness(colours_P3: np.ndarray, paint: np.ndarray) -> np.ndarray:
    """How much each colour is taken for ``paint`` (P), from 0 to 1: by its hue, and less by its brightness."""
    total = colours_P3 @ np.ones(3, np.float32)
    apart = colours_P3 / (total + 1e-6)[:, None] - paint / paint.sum()
    dark_or_light = np.log(np.maximum(total / paint.sum(), 1e-6))
    return np.exp(-0.5 * (dot(apart, apart) / 0.12**2 + dark_or_light**2))
