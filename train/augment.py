"""Random changes of a batch of training images.

The parameters are drawn on the host from a NumPy generator, the pixels are changed on the device: the same seed gives
the same batches whatever the device, the number of workers or the way the images are stored.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dann.train.settings import AugmentConfig


def draw(config: AugmentConfig, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Parameters for ``count`` images; only what ``config`` switches on is in the result."""
    parameters: dict[str, np.ndarray] = {}
    if config.flip or config.shift or config.scale or config.rotate_deg:
        parameters["affine"] = _affine(config, count, rng)
    if config.contrast:
        parameters["contrast"] = rng.uniform(1 - config.contrast, 1 + config.contrast, (count, 1, 1, 1))
    if config.colour:
        parameters["gain"] = rng.uniform(1 - config.colour, 1 + config.colour, (count, 3, 1, 1))
    if config.brightness:
        parameters["offset"] = rng.uniform(-config.brightness, config.brightness, (count, 1, 1, 1))
    if config.invert:
        parameters["invert"] = rng.random((count, 1, 1, 1)) < 0.5
    if config.noise:
        parameters["noise_seed"] = rng.integers(0, 2**62, count)  # one an image: noise does not depend on its batch
    return parameters


def tensors(parameters: dict[str, np.ndarray], height: int, width: int) -> dict[str, Tensor]:
    """What :func:`draw` gave as the arguments of :func:`apply` for images of this size, on the host."""
    found: dict[str, Tensor] = {}
    for name, values in parameters.items():
        if name == "noise_seed":
            found["noise"] = _noise(values, height, width)
        else:
            found[name] = torch.from_numpy(values if values.dtype == bool else values.astype(np.float32))
    if "affine" in found:  # [−1, 1] spans both sides, so a rotation must not shear what is not square
        found["affine"][:, 0, 1] *= height / width
        found["affine"][:, 1, 0] *= width / height
    return found


def apply(images_NCHW: Tensor, config: AugmentConfig, changes: dict[str, Tensor]) -> Tensor:
    """The float images (N, 3, H, W) in [0, 1], changed by ``changes``, of their device; still in [0, 1]."""
    if "affine" in changes:
        with torch.autocast(images_NCHW.device.type, enabled=False):  # half-precision coordinates would move pixels
            grid = F.affine_grid(changes["affine"], list(images_NCHW.shape), align_corners=False)
        images_NCHW = F.grid_sample(images_NCHW, grid, padding_mode="border", align_corners=False)
    if "contrast" in changes:
        mean = images_NCHW.mean(dim=(1, 2, 3), keepdim=True)
        images_NCHW = (images_NCHW - mean) * changes["contrast"] + mean
    if "gain" in changes:
        images_NCHW = images_NCHW * changes["gain"]
    if "offset" in changes:
        images_NCHW = images_NCHW + changes["offset"]
    if "invert" in changes:
        images_NCHW = torch.where(changes["invert"], 1 - images_NCHW, images_NCHW)
    if "noise" in changes:
        images_NCHW = images_NCHW + config.noise * changes["noise"]
    return images_NCHW.clamp(0, 1) if changes else images_NCHW


def _noise(seeds_N: np.ndarray, height: int, width: int) -> Tensor:
    """Standard normal numbers (N, 3, height, width), each image's from its own seed."""
    generator = torch.Generator()
    drawn = [torch.randn((3, height, width), generator=generator.manual_seed(int(seed))) for seed in seeds_N]
    return torch.stack(drawn)


def _affine(config: AugmentConfig, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2, 3) matrices from output to input coordinates in [−1, 1], of a square image."""
    angle = np.deg2rad(rng.uniform(-config.rotate_deg, config.rotate_deg, count))
    zoom = 1 / rng.uniform(1 - config.scale, 1 + config.scale, count)
    mirror = np.where(config.flip & (rng.random(count) < 0.5), -1.0, 1.0)
    shift = rng.uniform(-2 * config.shift, 2 * config.shift, (count, 2))
    matrix = np.empty((count, 2, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = mirror * zoom * np.cos(angle), -zoom * np.sin(angle)
    matrix[:, 1, 0], matrix[:, 1, 1] = mirror * zoom * np.sin(angle), zoom * np.cos(angle)
    matrix[:, :, 2] = shift
    return matrix
