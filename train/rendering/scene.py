"""Everything that is decided about one image before it is rendered: camera, colours, light, surroundings, photo.

A scene is plain numbers, so that a table can hold it and the same scene gives the same pixels. What stands in it is a
:class:`~dann.train.rendering.photograph.Model`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np

from dann.train.rendering.styles import Range, Style

STUDIO_BACKDROP = "studio"
DRAWN_BACKDROP = "drawn"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The numbers of one image. Angles in degrees; lengths in thousandths (‰) of the image's side."""

    seed: int
    """Of textures, clutter and noise."""

    azimuth_deg: float
    elevation_deg: float
    roll_deg: float
    focal_mm: float
    stretch: tuple[float, ...]
    """Factors on length, width and height of the object."""
    fill: float
    """Share of a square image that the object takes; without effect where the image is cropped to it."""
    shift_x: float
    shift_y: float
    margins: tuple[float, ...] | None
    """Left, top, right and bottom, as shares of the object's longer side; ``None``: a square image."""

    paint: tuple[float, ...]
    """Linear RGB."""
    gloss: float
    glass: float
    """Brightness of windows."""
    rim: float
    """Brightness of wheels."""
    lamps: float

    key_azimuth_deg: float
    key_elevation_deg: float
    key: float
    ambient: float
    warmth: float
    ground: float
    """Light from below, as a share of the ambient light."""
    surroundings: float
    """Brightness of what the paint mirrors, as a share of the ambient light."""
    skyline: float
    shadow: float
    shadow_softness: float

    backdrop: str
    """``studio``, ``drawn``, or the name of a photo."""
    clutter: float
    bokeh: float
    occluder: float
    """Width of what stands before the object, as a share of the image; 0 is nothing."""

    defocus: float
    motion: float
    motion_angle_deg: float
    black: float | None
    """Display value of the darkest 2 % of the picture; ``None``: as lit."""
    white: float
    exposure: float
    gain: tuple[float, ...]
    """Of each colour channel."""
    contrast: float
    vignette: float
    noise: float
    jpeg: int | None

    def rng(self, purpose: int) -> np.random.Generator:
        """The random numbers of one purpose: 0 backdrop, 1 what stands before the object, 2 sensor noise, 3 skyline."""
        return np.random.default_rng([self.seed, purpose])


def draw_scene(rng: np.random.Generator, style: Style, photos: Sequence[str] = ()) -> Scene:
    """A scene of ``style``. ``photos`` are the names of pictures that may stand behind the object."""

    def uniform(ends: Range) -> float:
        return float(rng.uniform(*ends))

    azimuth = _azimuth(rng, style)
    # The key light is on the camera's side more often than not.
    swing = rng.uniform(-60, 60) if rng.random() < 0.75 else rng.uniform(60, 300)
    red, green, blue = _paint(rng, style)
    return Scene(
        seed=int(rng.integers(2**53)),
        azimuth_deg=azimuth,
        elevation_deg=uniform(style.elevation_deg),
        roll_deg=uniform(style.roll_deg),
        focal_mm=uniform(style.focal_mm),
        stretch=tuple(1 + style.stretch * uniform((-1, 1)) for _ in range(3)),
        fill=uniform(style.fill),
        shift_x=uniform((-style.shift, style.shift)),
        shift_y=uniform((-style.shift, style.shift)),
        margins=None if style.margin is None else tuple(uniform(style.margin) for _ in range(4)),
        paint=(red, green, blue),
        gloss=uniform(style.gloss),
        glass=uniform((0.002, 0.03)),
        rim=uniform((0.12, 0.6)) if rng.random() < 0.8 else 0.03,
        lamps=uniform((0.15, 0.75)),
        key_azimuth_deg=float(azimuth + swing) % 360,
        key_elevation_deg=uniform(style.key_elevation_deg),
        key=uniform(style.key),
        ambient=uniform(style.ambient),
        warmth=uniform(style.warmth),
        ground=uniform((0.35, 0.7)),
        surroundings=uniform((0.05, 0.9)),
        skyline=uniform(style.skyline),
        shadow=uniform(style.shadow),
        shadow_softness=uniform((6, 18)),
        backdrop=_backdrop(rng, style, photos),
        clutter=uniform(style.clutter),
        bokeh=uniform(style.bokeh),
        occluder=uniform(style.occluder) if rng.random() < style.occluder_chance else 0.0,
        defocus=uniform(style.defocus),
        motion=uniform(style.motion),
        motion_angle_deg=uniform((0, 180)),
        black=None if style.black is None else uniform(style.black),
        white=uniform(style.white),
        exposure=uniform(style.exposure),
        gain=tuple(1 + style.cast * uniform((-1, 1)) for _ in range(3)),
        contrast=uniform(style.contrast),
        vignette=uniform(style.vignette),
        noise=uniform(style.noise),
        jpeg=None if style.jpeg is None else int(rng.integers(style.jpeg[0], style.jpeg[1] + 1)),
    )


def _azimuth(rng: np.random.Generator, style: Style) -> float:
    low, high = style.azimuth_deg
    azimuth, from_behind = rng.uniform(low, high), rng.random() >= style.front
    if (azimuth > 90) != from_behind and low <= 180 - azimuth <= high:
        azimuth = 180 - azimuth
    return float(azimuth if rng.random() < 0.5 else 360 - azimuth)


def _paint(rng: np.random.Generator, style: Style) -> tuple[float, float, float]:
    """Linear RGB of the paint; half of all objects are white, grey or black, as cars on the street are."""
    saturation = 0.04 if rng.random() < 0.5 else rng.uniform(*style.saturation)
    hsv = np.array([[[rng.uniform(0, 360), saturation, rng.uniform(*style.value)]]], np.float32)
    red, green, blue = (float(c) ** 2.2 for c in cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0])
    return red, green, blue


def _backdrop(rng: np.random.Generator, style: Style, photos: Sequence[str]) -> str:
    plain, photo, which = rng.random(3)
    if plain < style.studio:
        return STUDIO_BACKDROP
    return photos[int(which * len(photos))] if photos and photo < style.photo else DRAWN_BACKDROP


_RGB = ("red", "green", "blue")
_PARTS = {
    "stretch": ("length", "width", "height"),
    "paint": _RGB,
    "gain": _RGB,
    "margins": ("left", "top", "right", "bottom"),
}


def columns() -> list[str]:
    """Names of the numbers of a scene, one column each."""
    return [name for field in fields(Scene) for name in _column_names(field.name)]


def cells(scene: Scene) -> list[str]:
    """The values of :func:`columns`; empty where there is none."""
    row: list[str] = []
    for field in fields(Scene):
        value, names = getattr(scene, field.name), _column_names(field.name)
        values = value if isinstance(value, tuple) else (value,) * len(names)
        row += ["" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for v in values]
    return row


def _column_names(field: str) -> list[str]:
    return [f"{field}_{part}" for part in _PARTS[field]] if field in _PARTS else [field]
