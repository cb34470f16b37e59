"""The two looks of the car data, and what a camera does to a picture: blur, exposure, casts, noise, JPEG.

``STUDIO`` is the clean render of the source domain. ``SIMULATED_PHOTO`` is the target domain: *simulated* photos, made
by the same renderer with other light, cameras, surroundings and a degraded picture. They are not photographs.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from dann.infer.preprocess import decode

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PhotoStyle:
    """How strong each effect is: every pair is the lower and upper end of a uniform draw, one per image."""

    elevation_deg: Range
    """Camera above the horizontal."""
    dead_ahead_deg: float
    """Azimuths closer than this to straight ahead or behind are left out: a boot cannot be seen from there."""
    distance: Range
    """Camera to car, in car lengths: short distances exaggerate perspective."""
    roll_deg: Range
    """Camera tilt."""
    fill: Range
    """Share of the image's side that the car takes."""
    shift: float
    """How far the car may leave the middle: 0 never, 1 up to the edge."""

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

    clutter: float
    """Contrast of the surroundings, 0 is an empty studio."""
    bokeh: Range
    """Radius of the blur of what stands behind the car, in thousandths of the image's side."""
    skyline: Range
    """Height of what the paint mirrors, as the sine of its elevation."""
    occluder_chance: float
    """Probability that something stands before the car."""
    occluder: Range
    """Its width, as a share of the image."""

    defocus: Range
    """Radius of the lens blur, in thousandths of the image's side."""
    motion: Range
    """Length of the motion blur, in thousandths of the image's side."""
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


STUDIO = PhotoStyle(
    elevation_deg=(4, 32), dead_ahead_deg=18, distance=(2.6, 5.0), roll_deg=(0, 0), fill=(0.82, 0.92), shift=0.2,
    saturation=(0.0, 0.95), value=(0.12, 0.95), gloss=(0.3, 0.6),
    key_elevation_deg=(45, 70), key=(0.55, 0.75), ambient=(0.55, 0.7), warmth=(0, 0), shadow=(0.35, 0.55),
    clutter=0.0, bokeh=(0, 0), skyline=(0, 0), occluder_chance=0.0, occluder=(0, 0),
    defocus=(0, 0), motion=(0, 0), exposure=(0, 0), cast=0.0, contrast=(1, 1), vignette=(0, 0), noise=(0, 0), jpeg=None,
)  # fmt: skip

SIMULATED_PHOTO = PhotoStyle(
    elevation_deg=(2, 28), dead_ahead_deg=18, distance=(2.0, 4.2), roll_deg=(-2.5, 2.5), fill=(0.80, 0.96), shift=0.6,
    saturation=(0.0, 0.9), value=(0.08, 0.92), gloss=(0.3, 1.0),
    key_elevation_deg=(22, 75), key=(0.3, 1.0), ambient=(0.3, 0.65), warmth=(-0.5, 0.8), shadow=(0.3, 0.7),
    clutter=0.5, bokeh=(6, 24), skyline=(0.02, 0.3), occluder_chance=0.2, occluder=(0.02, 0.06),
    defocus=(0, 4), motion=(0, 9), exposure=(-0.4, 0.4), cast=0.10, contrast=(0.85, 1.2), vignette=(0, 0.35),
    noise=(0.004, 0.03), jpeg=(40, 90),
)  # fmt: skip


def expose(rng: np.random.Generator, picture_HW3: np.ndarray, style: PhotoStyle) -> np.ndarray:
    """What the lens does to a finished scene: defocus and motion blur. float32 RGB in 0…1, any size."""
    side = len(picture_HW3) / 1000
    picture_HW3 = blur(picture_HW3, side * rng.uniform(*style.defocus))
    length = side * rng.uniform(*style.motion)
    angle = rng.uniform(0, np.pi)
    return _smear(picture_HW3, length, angle)


def develop(rng: np.random.Generator, picture_HW3: np.ndarray, style: PhotoStyle) -> np.ndarray:
    """What sensor and camera do: exposure, colour cast, vignette, contrast, noise, JPEG. Gives uint8 RGB."""
    gain = 2 ** rng.uniform(*style.exposure) * (1 + style.cast * rng.uniform(-1, 1, 3))
    picture = np.clip(picture_HW3 * gain ** (1 / 2.2), 0, 1)
    picture *= 1 - rng.uniform(*style.vignette) * _corner_distance(len(picture))
    picture = picture ** rng.uniform(*style.contrast)
    picture += rng.uniform(*style.noise) * _noise(rng, picture.shape)
    return _compress(rng, np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8), style)


def blur(picture_HW3: np.ndarray, sigma_px: float) -> np.ndarray:
    """Gaussian blur; below 0.3 pixels nothing would be seen of it, and nothing is done."""
    return cv2.GaussianBlur(picture_HW3, (0, 0), sigma_px) if sigma_px > 0.3 else picture_HW3


def _smear(picture_HW3: np.ndarray, length_px: float, angle: float) -> np.ndarray:
    """Motion blur: the mean along a line of ``length_px``."""
    if length_px < 1:
        return picture_HW3
    size = 2 * int(np.ceil(length_px / 2)) + 1
    kernel = np.zeros((size, size), np.float32)
    middle, reach = size // 2, length_px / 2
    for step in np.linspace(-reach, reach, 2 * size):
        kernel[round(middle + step * np.sin(angle)), round(middle + step * np.cos(angle))] += 1
    return cv2.filter2D(picture_HW3, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)


def _corner_distance(size: int) -> np.ndarray:
    """Squared distance from the middle, 1 in the corners: (H, W, 1)."""
    axis = np.linspace(-1, 1, size) ** 2 / 2
    return (axis[:, None] + axis[None])[:, :, None]


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Sensor noise: mostly brightness, partly colour."""
    height, width, _ = shape
    return 0.8 * rng.standard_normal((height, width, 1)) + 0.6 * rng.standard_normal(shape)


def _compress(rng: np.random.Generator, image_HW3: np.ndarray, style: PhotoStyle) -> np.ndarray:
    if style.jpeg is None:
        return image_HW3
    quality = int(rng.integers(style.jpeg[0], style.jpeg[1] + 1))
    encoded = cv2.imencode(".jpg", image_HW3[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return decode(encoded.tobytes())
