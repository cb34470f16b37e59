"""Light on a surface: hemispheric ambient, a key and a fill light, highlights, and a mirrored surrounding.

Colours are linear RGB, 1.0 a white surface in full light; :func:`to_display` makes sRGB of them.
Legend: P pixels.
"""

from dataclasses import dataclass

import numpy as np

from dann.train.rendering.mesh import dot, unit
from dann.train.rendering.raster import direction
from dann.train.rendering.scene import Scene

_DISPLAY_GAMMA = 1 / 2.2
_AMBIENT_FLOOR = 0.4  # share of the ambient light that reaches what lies on the ground
_AMBIENT_FULL_M = 0.7  # height above which all of it does
_HORIZON_BLEND = 0.25  # mirrored ground and sky melt into each other over this difference in sine of elevation


@dataclass(frozen=True)
class Light:
    """The light of one scene."""

    key_direction: np.ndarray
    """(3,) unit vector towards the key light."""
    key: np.ndarray
    """(3,) its colour."""
    fill_direction: np.ndarray
    fill: np.ndarray
    sky: np.ndarray
    """(3,) light from above."""
    ground: np.ndarray
    """(3,) light from below."""
    skyline: np.ndarray
    """Height (sine of the elevation) of what stands around, at equal steps of azimuth; all 0 is an empty studio."""
    panorama_HW3: np.ndarray
    """Colours of what stands around: rows from the top of the skyline to the ground, columns over the azimuth."""

    def mirrored(self, direction_P3: np.ndarray) -> np.ndarray:
        """What a mirror shows in that direction: (P, 3)."""
        up = direction_P3[:, 2]
        turn = np.arctan2(direction_P3[:, 1], direction_P3[:, 0]) / (2 * np.pi) % 1.0
        skyline = self.skyline[(turn * len(self.skyline)).astype(np.int64) % len(self.skyline)]
        sky = self.sky * (1.25 - 0.5 * np.clip(up, 0, 1))[:, None]
        rows, columns, _ = self.panorama_HW3.shape
        depth = np.clip(1 - up / np.maximum(skyline, 1e-6), 0, 1)
        row, column = (depth * (rows - 1)).astype(np.int64), (turn * columns).astype(np.int64) % columns
        around = self.panorama_HW3.reshape(-1, 3).take(row * columns + column, axis=0)
        seen = np.where((up < skyline)[:, None], around, sky)
        above = np.clip(0.5 + up / _HORIZON_BLEND, 0, 1)[:, None]
        return above * seen + (1 - above) * self.ground


def daylight_of(scene: Scene) -> np.ndarray:
    """(3,) colour of the light of sky and sun together."""
    sun, shade_side = _tints(scene)
    return 1.3 * scene.ambient * shade_side + scene.key * sun


def _tints(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Colours of the key light and of what comes from the sky: it is bluer where the sun is warmer."""
    sun = np.array([1 + 0.25 * scene.warmth, 1.0, 1 - 0.35 * scene.warmth])
    return sun, np.array([1 - 0.12 * scene.warmth, 1.0, 1 + 0.15 * scene.warmth])


def light_of(scene: Scene, panorama_HW3: np.ndarray) -> Light:
    """A key light, a weak fill light opposite, and light from all round.

    ``panorama_HW3`` (sRGB in 0…1) is what stands around, and is mirrored in the paint.
    """
    sun, shade_side = _tints(scene)
    values = dict(
        key_direction=direction(scene.key_azimuth_deg, scene.key_elevation_deg),
        key=scene.key * sun,
        fill_direction=direction(2 * scene.azimuth_deg - scene.key_azimuth_deg, 20),
        fill=0.25 * scene.ambient * shade_side,
        sky=scene.ambient * shade_side * 1.3,
        ground=scene.ambient * scene.ground * np.ones(3),
        skyline=scene.rng(3).uniform(0, 1, 24) * scene.skyline,
        panorama_HW3=scene.surroundings * 2 * scene.ambient * panorama_HW3 ** (1 / _DISPLAY_GAMMA),
    )
    return Light(**{name: value.astype(np.float32) for name, value in values.items()})


@dataclass(frozen=True)
class Look:
    """How the surface looks at each pixel."""

    albedo_P3: np.ndarray
    mirror_P: np.ndarray
    """Share of light mirrored head-on; more at grazing angles."""
    highlight_P: np.ndarray
    """Strength of the key light's highlight."""
    sharpness_P: np.ndarray
    """Blinn-Phong exponent."""


def shade(
    look: Look, normal_P3: np.ndarray, to_camera_P3: np.ndarray, height_P: np.ndarray, light: Light
) -> np.ndarray:
    """Linear RGB (P, 3) of surface points; normals and directions are unit vectors, heights metres above ground."""
    facing = np.clip(dot(normal_P3, to_camera_P3), 0.02, 1)
    lambert_key = np.clip(normal_P3 @ light.key_direction, 0, None)
    lambert_fill = np.clip(normal_P3 @ light.fill_direction, 0, None)
    upward = (0.5 + 0.5 * normal_P3[:, 2])[:, None]
    reach = np.clip(_AMBIENT_FLOOR + (1 - _AMBIENT_FLOOR) * height_P / _AMBIENT_FULL_M, 0, 1)[:, None]
    ambient = (upward * light.sky + (1 - upward) * light.ground) * reach
    diffuse = ambient + lambert_key[:, None] * light.key + lambert_fill[:, None] * light.fill
    halfway = to_camera_P3 + light.key_direction
    gloss = np.clip(dot(normal_P3, unit(halfway)), 0, 1) ** look.sharpness_P
    highlight = (look.highlight_P * gloss * (lambert_key > 0))[:, None] * light.key
    head_on = look.mirror_P
    mirror = (head_on + (1 - head_on) * (head_on > 0.02) * (1 - facing) ** 5)[:, None]  # Schlick's Fresnel
    bounced = 2 * facing[:, None] * normal_P3 - to_camera_P3
    return look.albedo_P3 * diffuse * (1 - mirror) + highlight + mirror * light.mirrored(bounced)


def to_display(linear: np.ndarray) -> np.ndarray:
    """sRGB in 0…1 from linear light; what is brighter than white clips."""
    return np.clip(linear, 0, 1) ** _DISPLAY_GAMMA
