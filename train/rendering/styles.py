"""The looks of a rendered set: from which range each number of a scene is drawn.

``STUDIO`` is the clean render of the embedded cars. ``SIMULATED_PHOTO`` is their target domain: *simulated* photos,
made by the same renderer with other light, cameras, surroundings and a degraded picture; they are not photographs.
``VARIED`` is for training what shall work on real photos: everything that says nothing about the class varies as widely
as it can (domain randomisation, arXiv 1703.06907), and the image is cropped to the object.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from dann.infer.errors import UsageError, unknown_name
from dann.train.plain_values import build

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How strong each effect is: every pair is the lower and upper end of a uniform draw, one per image."""

    azimuth_deg: Range
    """Camera around the object: 0 is before it, 90 at its side. Left and right are as likely."""
    front: float
    """Share of images from before rather than from behind, where ``azimuth_deg`` allows both."""
    elevation_deg: Range
    """Camera above the horizontal."""
    roll_deg: Range
    """Camera tilt."""
    focal_mm: Range
    """Focal length on 36 mm wide film, at a distance from which the whole object just fits: short exaggerates
    perspective."""
    stretch: float
    """Largest relative change of the object's length, width and height, each by itself: few models show more shapes."""
    margin: Range | None
    """Crop to the object, with so much around it, as a share of its longer side. ``None``: square images."""
    fill: Range
    """Share of a square image's side that the object takes."""
    shift: float
    """How far the object may leave the middle of a square image: 0 never, 1 up to the edge."""

    saturation: Range
    """Of the paint, 0 is grey."""
    value: Range
    """Brightness of the paint."""
    gloss: Range
    """Of the paint, 0 is chalk and 1 a mirror finish."""

    key_elevation_deg: Range
    """Main light above the horizontal."""
    key: Range
    """Strength of the main light."""
    ambient: Range
    """Strength of the light from all round."""
    warmth: Range
    """Colour of the main light: −1 blue sky, 0 white, 1 evening sun."""
    shadow: Range
    """Darkness of the shadow on the ground."""
    skyline: Range
    """Height of what the paint mirrors, as the sine of its elevation."""

    studio: float
    """Share of images before an empty backdrop."""
    photo: float
    """Share of the others before a photo, where photos are given."""
    clutter: Range
    """Contrast of drawn surroundings."""
    bokeh: Range
    """Radius of the blur of what stands behind the object, in thousandths of the image's side."""
    occluder_chance: float
    """Probability that something stands before the object."""
    occluder: Range
    """Its width, as a share of the image."""

    defocus: Range
    """Radius of the lens blur, in thousandths of the image's side."""
    motion: Range
    """Length of the motion blur, in thousandths of the image's side."""
    black: Range | None
    """Display value, 1.0 is white, to which automatic levels bring the darkest 2 % of the picture. ``None``: as lit."""
    white: Range
    """The same of the brightest 2 %; without effect where ``black`` is ``None``."""
    exposure: Range
    """Stops."""
    cast: float
    """Largest gain difference between colour channels."""
    contrast: Range
    """Exponent on the finished picture: below 1 flat, above 1 hard."""
    vignette: Range
    """Darkening of the corners."""
    noise: Range
    """Standard deviation of the sensor noise, 1.0 is white."""
    jpeg: tuple[int, int] | None
    """JPEG quality, or ``None`` for no compression."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, tuple) and (len(value) != 2 or not value[0] <= value[1]):
                raise UsageError(f"{name} is {list(value)}; expected two numbers, the lower one first")
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            ends = value if isinstance(value, tuple) else (value, value)
            if value is not None and not (low <= ends[0] and ends[1] <= high):
                raise UsageError(f"{name} is {value}; expected values from {low} to {high}")


# Of each setting: what makes no sense beyond is refused.
LIMITS = {
    "azimuth_deg": (0, 180), "front": (0, 1), "elevation_deg": (0, 89), "roll_deg": (-180, 180),
    "focal_mm": (30, 2000), "stretch": (0, 0.5), "margin": (0, 5), "fill": (0.05, 1), "shift": (0, 1),
    "saturation": (0, 1), "value": (0, 1), "gloss": (0, 1), "key_elevation_deg": (5, 90), "key": (0, 10),
    "ambient": (0.01, 10), "warmth": (-1, 1), "shadow": (0, 1), "skyline": (0, 1), "studio": (0, 1), "photo": (0, 1),
    "clutter": (0, 2), "bokeh": (0, 200), "occluder_chance": (0, 1), "occluder": (0, 1), "defocus": (0, 200),
    "motion": (0, 200), "black": (0, 0.5), "white": (0.5, 1.5), "exposure": (-5, 5), "cast": (0, 0.9),
    "contrast": (0.1, 5), "vignette": (0, 1), "noise": (0, 1), "jpeg": (1, 100),
}  # fmt: skip


STUDIO = Style(
    azimuth_deg=(18, 162), front=0.5, elevation_deg=(4, 32), roll_deg=(0, 0), focal_mm=(95, 180), stretch=0.0,
    margin=None, fill=(0.82, 0.92), shift=0.2, saturation=(0.0, 0.95), value=(0.12, 0.95), gloss=(0.3, 0.6),
    key_elevation_deg=(45, 70), key=(0.55, 0.75), ambient=(0.55, 0.7), warmth=(0, 0), shadow=(0.35, 0.55),
    skyline=(0, 0), studio=1.0, photo=0.0, clutter=(0, 0), bokeh=(0, 0), occluder_chance=0.0, occluder=(0, 0),
    defocus=(0, 0), motion=(0, 0), black=None, white=(1, 1), exposure=(0, 0), cast=0.0,
    contrast=(1, 1), vignette=(0, 0), noise=(0, 0), jpeg=None,
)  # fmt: skip

SIMULATED_PHOTO = Style(
    azimuth_deg=(18, 162), front=0.5, elevation_deg=(2, 28), roll_deg=(-2.5, 2.5), focal_mm=(75, 150), stretch=0.0,
    margin=None, fill=(0.80, 0.96), shift=0.6, saturation=(0.0, 0.9), value=(0.08, 0.92), gloss=(0.3, 1.0),
    key_elevation_deg=(22, 75), key=(0.3, 1.0), ambient=(0.3, 0.65), warmth=(-0.5, 0.8), shadow=(0.3, 0.7),
    skyline=(0.02, 0.3), studio=0.0, photo=0.0, clutter=(0.5, 0.5), bokeh=(6, 24), occluder_chance=0.2,
    occluder=(0.02, 0.06), defocus=(0, 4), motion=(0, 9), black=None, white=(1, 1),
    exposure=(-0.4, 0.4), cast=0.10, contrast=(0.85, 1.2),    vignette=(0, 0.35), noise=(0.004, 0.03), jpeg=(40, 90),
)  # fmt: skip

VARIED = Style(
    azimuth_deg=(0, 180), front=0.75, elevation_deg=(0, 12), roll_deg=(-2.5, 2.5), focal_mm=(36, 90), stretch=0.0,
    margin=(0.0, 0.08), fill=(1, 1), shift=0.0, saturation=(0.0, 0.9), value=(0.05, 0.95), gloss=(0.3, 1.0),
    key_elevation_deg=(15, 80), key=(0.2, 1.2), ambient=(0.25, 0.7), warmth=(-0.5, 0.7), shadow=(0.3, 0.8),
    skyline=(0.02, 0.5), studio=0.15, photo=0.6, clutter=(0.7, 1.5), bokeh=(0, 12), occluder_chance=0.05,
    occluder=(0.02, 0.05), defocus=(0, 2), motion=(0, 1), black=(0.0, 0.12), white=(0.8, 1.05), exposure=(-0.2, 0.2),
    cast=0.08, contrast=(0.85, 1.2), vignette=(0, 0.15), noise=(0.0, 0.025), jpeg=(50, 95),
)  # fmt: skip

STYLES = {"studio": STUDIO, "simulated-photo": SIMULATED_PHOTO, "varied": VARIED}


def style_of(name: str, changes: dict[str, Any]) -> Style:
    """The style called ``name`` with ``changes`` of its fields, one number being both ends of a range.

    Raises :class:`UsageError` for what is not a style, or not a change of it.
    """
    if name not in STYLES:
        raise unknown_name("look", name, STYLES)
    unknown = [key for key in changes if key not in LIMITS]
    if unknown:
        raise UsageError(f"{unknown_name('setting', unknown[0], LIMITS)}; docs/rendering.md has all")
    pairs = {
        key: (value, value)
        for key, value in changes.items()
        if type(value) in (int, float) and isinstance(getattr(VARIED, key), tuple)
    }
    style = build(Style, {**dataclasses.asdict(STYLES[name]), **changes, **pairs}, where="")
    if style.margin is not None and (idle := sorted({"fill", "shift"} & changes.keys())):
        raise UsageError(
            f"{' and '.join(idle)} would do nothing, as images are cropped to the object; set margin=none too"
        )
    return style
