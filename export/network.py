"""What is exported: the trained network without its domain head, from pixels to probabilities.

Legend: N images, H × W pixels, D features, K classes. Cast, change of layout and scaling are part of the graph, so
whoever runs it feeds decoded pixels and nothing else. Outputs are float32, in whatever precision they are computed.
"""

import numpy as np
import torch
from torch import Tensor, nn

from dann.infer.verdict import BATCH_SIZES, run_in_batches
from dann.train.model import DomainAdversarialNetwork


class ExportedModule(nn.Module):
    """A module with one input and named outputs, of which the first is what the next module of a chain takes."""

    role: str
    """What it is in a bundle: :attr:`dann.infer.bundle.Artefact.role`."""
    output_names: tuple[str, ...]


class FeatureExtractor(ExportedModule):
    """Images uint8 (N, H, W, 3) RGB → features float32 (N, D)."""

    role = "feature_extractor"
    output_names = ("features",)

    def __init__(self, network: DomainAdversarialNetwork):
        super().__init__()
        self.feature_extractor = network.feature_extractor

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.feature_extractor(_planes(images)).float(),)


class LabelClassifier(ExportedModule):
    """Features float32 (N, D) → logits and probabilities, float32 (N, K)."""

    role = "label_classifier"
    output_names = ("logits", "probabilities")

    def __init__(self, network: DomainAdversarialNetwork):
        super().__init__()
        self.label_classifier = network.label_classifier

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits_NK = self.label_classifier(features).float()
        return logits_NK, logits_NK.softmax(dim=1)


class InferenceNetwork(ExportedModule):
    """Images uint8 (N, H, W, 3) RGB → logits and probabilities (N, K) and, where asked for, features (N, D)."""

    role = "classifier"

    def __init__(self, network: DomainAdversarialNetwork, *, with_features: bool = False):
        super().__init__()
        self.feature_extractor = network.feature_extractor
        self.label_classifier = network.label_classifier
        self.output_names = ("logits", "probabilities", *(["features"] if with_features else []))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features_ND = self.feature_extractor(_planes(images))
        logits_NK = self.label_classifier(features_ND).float()
        outputs = (logits_NK, logits_NK.softmax(dim=1), features_ND.float())
        return outputs[: len(self.output_names)]


def _planes(images_NHWC: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) → float32 (N, 3, H, W) in [0, 1].

    The cast comes first: TensorRT refuses to permute uint8. Without ``contiguous`` the strides of the permuted tensor
    reach the pooling layer, which is then exported as a gather over computed indices instead of a mean.
    """
    return images_NHWC.to(torch.float32).permute(0, 3, 1, 2).contiguous() / 255


@torch.inference_mode()
def outputs(network: ExportedModule, images_NHWC: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of ``network`` by name, float32 (N, …), for what it takes: most take images, uint8 (N, H, W, 3)."""
    network.eval()

    def execute(batch_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        values = network(torch.from_numpy(batch_NHWC))
        return dict(zip(network.output_names, (value.numpy() for value in values), strict=True))

    return run_in_batches(execute, images_NHWC, max(BATCH_SIZES))
