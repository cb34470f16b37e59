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


def apply(images_NCHW: Tensor, config: AugmentConfig, parameters: dict[str, np.ndarray]) -> Tensor:
    """The float images (N, 3, H, W) in [0, 1], changed by ``parameters``; still in [0, 1]."""

    def on_device(name: str) -> Tensor:
        values = parameters[name]
        return torch.from_numpy(values if values.dtype == bool else values.astype(np.float32)).to(images_NCHW.device)

    if "affine" in parameters:
        height, width = images_NCHW.shape[2:]
        theta = on_device("affine")
        theta[:, 0, 1] *= height / width  # [−1, 1] spans both sides, so a rotation must not shear what is not square
        theta[:, 1, 0] *= width / height
        with torch.autocast(images_NCHW.device.type, enabled=False):  # half-precision coordinates would move pixels
            grid = F.affine_grid(theta, list(images_NCHW.shape), align_corners=False)
        images_NCHW = F.grid_sample(images_NCHW, grid, padding_mode="border", align_corners=False)
    if "contrast" in parameters:
        mean = images_NCHW.mean(dim=(1, 2, 3), keepdim=True)
        images_NCHW = (images_NCHW - mean) * on_device("contrast") + mean
    if "gain" in parameters:
        images_NCHW = images_NCHW * on_device("gain")
    if "offset" in parameters:
        images_NCHW = images_NCHW + on_device("offset")
    if "invert" in parameters:
        images_NCHW = torch.where(on_device("invert"), 1 - images_NCHW, images_NCHW)
    if "noise_seed" in parameters:
        images_NCHW = images_NCHW + config.noise * _noise(images_NCHW, parameters["noise_seed"])
    return images_NCHW.clamp(0, 1) if parameters else images_NCHW


def _noise(images_NCHW: Tensor, seeds_N: np.ndarray) -> Tensor:
    """Standard normal numbers of the shape of ``images_NCHW``, drawn on the host, each image's from its own seed."""
    generator, shape = torch.Generator(), images_NCHW.shape[1:]
    noise = [torch.randn(shape, generator=generator.manual_seed(int(seed))) for seed in seeds_N]
    return torch.stack(noise).to(images_NCHW.device)


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
