"""Light on a car: hemispheric ambient, a key and a fill light, highlights, and a mirrored surrounding.

Colours are linear RGB, 1.0 a white surface in full light; :func:`to_display` makes sRGB of them.
Legend: P pixels, M materials.
"""

from dataclasses import dataclass

import numpy as np

from dann.train.rendering.car_decals import Material

_DISPLAY_GAMMA = 1 / 2.2
_AMBIENT_FLOOR = 0.4  # share of the ambient light that reaches the lowest parts of a car
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
    surroundings: np.ndarray
    """(3,) colour of what stands around."""

    def mirrored(self, direction_P3: np.ndarray) -> np.ndarray:
        """What a mirror shows in that direction: (P, 3)."""
        up = direction_P3[:, 2]
        turn = np.arctan2(direction_P3[:, 1], direction_P3[:, 0]) / (2 * np.pi) % 1.0
        skyline = self.skyline[(turn * len(self.skyline)).astype(np.int64) % len(self.skyline)]
        sky = self.sky * (1.25 - 0.5 * np.clip(up, 0, 1))[:, None]
        seen = np.where((up < skyline)[:, None], self.surroundings, sky)
        above = np.clip(0.5 + up / _HORIZON_BLEND, 0, 1)[:, None]
        return above * seen + (1 - above) * self.ground


@dataclass(frozen=True)
class Finish:
    """How each material looks, one row per :class:`Material`."""

    albedo_M3: np.ndarray
    mirror_M: np.ndarray
    """Share of light mirrored head-on; more at grazing angles."""
    highlight_M: np.ndarray
    """Strength of the key light's highlight."""
    sharpness_M: np.ndarray
    """Blinn-Phong exponent."""


def finish(*, paint: np.ndarray, gloss: float, glass: float, rim: float, lamps: float) -> Finish:
    """The materials of one car. ``paint`` linear RGB; ``gloss`` 0…1; ``glass``, ``rim``, ``lamps`` are brightnesses."""
    table = {  # albedo, mirror, highlight, sharpness
        Material.PAINT: (paint, 0.06 * gloss, 0.9 * gloss, 20 + 100 * gloss),
        Material.GLASS: ((glass, glass * 1.05, glass * 1.1), 0.07, 0.9, 120),
        Material.TRIM: ((0.03, 0.03, 0.032), 0.01, 0.08, 12),
        Material.CHROME: ((0.35, 0.35, 0.36), 0.45, 0.8, 60),
        Material.HEADLIGHT: ((lamps, lamps, lamps * 0.97), 0.25, 0.9, 80),
        Material.TAILLIGHT: ((0.42, 0.012, 0.015), 0.08, 0.6, 60),
        Material.PLATE: ((0.75, 0.75, 0.68), 0.01, 0.1, 10),
        Material.RUBBER: ((0.018, 0.018, 0.018), 0.0, 0.05, 8),
        Material.RIM: ((rim, rim, rim * 1.02), 0.15, 0.5, 30),
        Material.DARK: ((0.008, 0.008, 0.008), 0.0, 0.0, 1),
    }
    rows = [table[material] for material in Material]
    return Finish(*(np.array([row[k] for row in rows], float) for k in range(4)))


def shade(
    material_P: np.ndarray,
    normal_P3: np.ndarray,
    to_camera_P3: np.ndarray,
    height_P: np.ndarray,
    *,
    look: Finish,
    light: Light,
) -> np.ndarray:
    """Linear RGB (P, 3) of surface points; normals and directions are unit vectors, heights metres above ground."""
    facing = np.clip((normal_P3 * to_camera_P3).sum(axis=1), 0.02, 1)
    lambert_key = np.clip(normal_P3 @ light.key_direction, 0, None)
    lambert_fill = np.clip(normal_P3 @ light.fill_direction, 0, None)
    upward = (0.5 + 0.5 * normal_P3[:, 2])[:, None]
    reach = np.clip(_AMBIENT_FLOOR + (1 - _AMBIENT_FLOOR) * height_P / _AMBIENT_FULL_M, 0, 1)[:, None]
    ambient = (upward * light.sky + (1 - upward) * light.ground) * reach
    diffuse = ambient + lambert_key[:, None] * light.key + lambert_fill[:, None] * light.fill
    halfway = to_camera_P3 + light.key_direction
    halfway /= np.linalg.norm(halfway, axis=1, keepdims=True) + 1e-9
    gloss = np.clip((normal_P3 * halfway).sum(axis=1), 0, 1) ** look.sharpness_M[material_P]
    highlight = (look.highlight_M[material_P] * gloss * (lambert_key > 0))[:, None] * light.key
    head_on = look.mirror_M[material_P]
    mirror = (head_on + (1 - head_on) * (head_on > 0.02) * (1 - facing) ** 5)[:, None]  # Schlick's Fresnel
    bounced = 2 * facing[:, None] * normal_P3 - to_camera_P3
    return look.albedo_M3[material_P] * diffuse * (1 - mirror) + highlight + mirror * light.mirrored(bounced)


def to_display(linear: np.ndarray) -> np.ndarray:
    """sRGB in 0…1 from linear light; what is brighter than white clips."""
    return np.clip(linear, 0, 1) ** _DISPLAY_GAMMA
