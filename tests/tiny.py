"""Settings of the smallest network that trains, for tests that need a run and not a result."""

from typing import Any

TINY: dict[str, Any] = {
    "data.height": 16,
    "data.width": 16,
    "model.backbone": "dann-mnist",
    "model.width": 0.1,
    "model.label_hidden": [6],
    "model.domain_hidden": [6],
    "device": "cpu",
    "amp": "off",
    "batch_size": 8,
}
