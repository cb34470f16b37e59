"""The exported network computes what the trained one computes in evaluation, without the domain head."""

import pytest
import torch
from torch import Tensor

from dann.export.network import FeatureExtractor, InferenceNetwork, LabelClassifier
from dann.train.evaluate import to_float
from dann.train.model import DomainAdversarialNetwork
from dann.train.settings import ModelConfig


@pytest.fixture(scope="module")
def network() -> DomainAdversarialNetwork:
    torch.manual_seed(0)
    config = ModelConfig(backbone="conv6", width=0.25)
    return DomainAdversarialNetwork(config, classes=3, height=16, width=24).eval()


@pytest.fixture(scope="module")
def images_NHWC() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 16, 24, 3), dtype=torch.uint8, generator=generator)


def test_logits_are_those_of_evaluation(network: DomainAdversarialNetwork, images_NHWC: Tensor):
    expected = network(to_float(images_NHWC))
    logits, probabilities = InferenceNetwork(network)(images_NHWC)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(probabilities, expected.softmax(1), rtol=0, atol=1e-6)


def test_features_are_a_third_output_where_asked_for(network: DomainAdversarialNetwork, images_NHWC: Tensor):
    module = InferenceNetwork(network, with_features=True)
    features = module(images_NHWC)[2]
    assert module.output_names == ("logits", "probabilities", "features")
    torch.testing.assert_close(features, network.feature_extractor(to_float(images_NHWC)), rtol=0, atol=1e-6)


def test_halves_chained_are_the_whole(network: DomainAdversarialNetwork, images_NHWC: Tensor):
    (features,) = FeatureExtractor(network)(images_NHWC)
    for half, whole in zip(LabelClassifier(network)(features), InferenceNetwork(network)(images_NHWC), strict=True):
        assert torch.equal(half, whole)


def test_domain_classifier_is_not_part_of_it(network: DomainAdversarialNetwork):
    for module in (InferenceNetwork(network), FeatureExtractor(network), LabelClassifier(network)):
        assert not [name for name in module.state_dict() if "domain" in name]
