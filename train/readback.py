"""Small tensors that are read on the host without waiting for the device."""

import torch
from torch import Tensor


class Readback:
    """A copy of ``tensor`` on its way to the host: on a GPU it comes when the device has got there, else it is here."""

    def __init__(self, tensor: Tensor):
        tensor = tensor.detach()
        self._copied: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            on_host = torch.empty_like(tensor, device="cpu", pin_memory=True)
            self._value = on_host.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._value = tensor.clone()

    def is_here(self) -> bool:
        """Whether :meth:`value` would not wait."""
        return self._copied is None or self._copied.query()

    def value(self) -> Tensor:
        """The copy, on the host, once it is there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._value
