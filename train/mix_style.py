"""MixStyle (Zhou et al., arXiv 2104.02008): images borrow each other's style while a network is trained.

The style of an image, its light, contrast and colour cast, shows in the mean and deviation of each channel of the
first layers; what is in it does not. A network that sees it in mixed styles learns to rely on neither.

Legend: N images, C channels, H × W positions.
"""

import torch
from torch import Tensor, nn

_SHARE = 0.5  # of the images, and
_ALPHA = 0.1  # of the Beta distribution of the mixing weight, are the authors'; it is mostly near 0 or 1
_SMALLEST_VARIANCE = 1e-6


class MixStyle(nn.Module):
    """In training, half of the images (N, C, H, W) take a mix of their own and of another's style; all else passes.

    The other image is any of the pass, in random order: one of the same domain, unless both domains go through the
    network together (``model.bn = "shared"``). No gradient flows through means and deviations. The random numbers are
    those of torch's generator of the host, so they do not depend on the device.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not self.training:
            return x_NCHW
        count, full = len(x_NCHW), x_NCHW.detach().float()  # a square may overflow in half precision
        weight_N = torch.distributions.Beta(_ALPHA, _ALPHA).sample((count,))
        own_N = torch.where(torch.rand(count) < _SHARE, weight_N, 1.0)
        own, other_N = _moved(own_N, x_NCHW.device).view(-1, 1, 1, 1), _moved(torch.randperm(count), x_NCHW.device)
        mean = full.mean(dim=(2, 3), keepdim=True)
        variance = (full - mean).square_().mean(dim=(2, 3), keepdim=True)  # torch's own is slow with channels last
        deviation = (variance + _SMALLEST_VARIANCE).sqrt()
        mixed_mean = own * mean + (1 - own) * mean[other_N]
        mixed_deviation = own * deviation + (1 - own) * deviation[other_N]
        scale = mixed_deviation / deviation
        return x_NCHW * scale.to(x_NCHW.dtype) + (mixed_mean - mean * scale).to(x_NCHW.dtype)


def _moved(values_N: Tensor, device: torch.device) -> Tensor:
    """To ``device``, without waiting for it; compiled code cannot pin memory, and copies from where it is."""
    if device.type == "cuda" and not torch.compiler.is_compiling():
        values_N = values_N.pin_memory()
    return values_N.to(device, non_blocking=True)
