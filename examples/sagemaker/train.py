"""Trains on this host of a SageMaker job, together with its other hosts: becomes ``torchrun … -m dann.cli train …``."""

import os
import sys

from dann.infer.errors import DannError
from dann.train.sagemaker import torchrun_arguments

try:
    words = torchrun_arguments(os.environ)
except DannError as error:
    sys.exit(f"error: {error}")
print("torchrun", *words, flush=True)
os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *words])
