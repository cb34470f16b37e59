"""What training finds on this machine, in lines for people."""

import torch

from dann.infer.errors import DannError
from dann.train import reversal_kernel
from dann.train.device import cuda_obstacle


def lines() -> list[str]:
    """torch and its devices, and on each who computes the gradient reversal."""
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    obstacle = cuda_obstacle()
    found = [f"torch {torch.__version__}, built for {built_for}" + (f": {obstacle}" if obstacle else "")]
    devices = [torch.device("cpu")]
    if obstacle is None:
        devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return found + [_about(device) for device in devices]


def _about(device: torch.device) -> str:
    try:
        chosen = reversal_kernel.choice(device)
        reversal = f"by {'the CUDA kernel' if chosen.kernel else 'torch'} ({chosen.reason})"
    except DannError as error:  # of DANN_REVERSAL
        reversal = f"fails: {error}"
    if device.type == "cpu":
        return f"cpu: gradient reversal {reversal}"
    properties = torch.cuda.get_device_properties(device)
    about = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return f"{device}: {about}, compute capability {properties.major}.{properties.minor}; gradient reversal {reversal}"
