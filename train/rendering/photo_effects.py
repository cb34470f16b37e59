"""What a camera does to a picture: blur, levels, exposure, colour cast, vignette, contrast, noise, JPEG."""

import cv2
import numpy as np

from dann.infer.preprocess import decode
from dann.train.rendering.scene import Scene


def through_lens(picture_HW3: np.ndarray, scene: Scene) -> np.ndarray:
    """What the lens does to a finished scene: defocus and motion blur. float32 RGB in 0…1, any size."""
    side = max(picture_HW3.shape) / 1000
    picture_HW3 = blur(picture_HW3, side * scene.defocus)
    return _smear(picture_HW3, side * scene.motion, np.radians(scene.motion_angle_deg))


def develop(picture_HW3: np.ndarray, scene: Scene) -> np.ndarray:
    """What sensor and camera do: levels, exposure, colour cast, vignette, contrast, noise, JPEG. Gives uint8 RGB."""
    if scene.black is not None:
        low, high = np.quantile(picture_HW3[::2, ::2], (0.02, 0.98))
        picture_HW3 = (picture_HW3 - low) * ((scene.white - scene.black) / max(high - low, 0.05)) + scene.black
    gain = 2**scene.exposure * np.array(scene.gain, np.float32)
    picture = np.clip(picture_HW3 * gain ** np.float32(1 / 2.2), 0, 1)
    picture *= 1 - scene.vignette * _corner_distance(*picture.shape[:2])
    if scene.contrast != 1:
        picture **= scene.contrast
    if scene.noise:
        picture += scene.noise * _noise(scene.rng(2), picture.shape)
    return _compress(np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8), scene.jpeg)


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


def _corner_distance(height: int, width: int) -> np.ndarray:
    """Squared distance from the middle, 1 in the corners: (H, W, 1)."""
    row, column = (np.linspace(-1, 1, side, dtype=np.float32) ** 2 / 2 for side in (height, width))
    return (row[:, None] + column[None])[:, :, None]


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Sensor noise: mostly brightness, partly colour."""
    height, width, _ = shape
    grey = rng.standard_normal((height, width, 1), np.float32)
    return 0.8 * grey + 0.6 * rng.standard_normal(shape, np.float32)


def _compress(image_HW3: np.ndarray, quality: int | None) -> np.ndarray:
    if quality is None:
        return image_HW3
    encoded = cv2.imencode(".jpg", image_HW3[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return decode(encoded.tobytes())
