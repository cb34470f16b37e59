"""Scores against examples worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dann.infer.errors import DannError
from dann.infer.preprocess import PreprocessSpec
from dann.train.batch_norm import SOURCE, TARGET
from dann.train.data import LabelledSet
from dann.train.evaluate import batches, calibration_error, evaluate, outputs, scores, to_float
from dann.train.image_set import images_from_arrays
from dann.train.model import DomainAdversarialNetwork
from dann.train.settings import ModelConfig

CPU = torch.device("cpu")
CLASSES = ("car", "van", "bus")


def logits(*confidences: tuple[int, float]) -> np.ndarray:
    """Logits of three classes whose softmax gives ``confidence`` to a class and shares the rest."""
    rows = np.zeros((len(confidences), 3))
    for row, (predicted, confidence) in zip(rows, confidences, strict=True):
        row[:] = np.log((1 - confidence) / 2)
        row[predicted] = np.log(confidence)
    return rows.astype(np.float32)


EXAMPLE = logits((0, 0.9), (0, 0.9), (1, 0.9), (1, 0.5), (0, 0.5)), np.array([0, 0, 0, 1, 1])


def test_scores_by_hand():
    found = scores(*EXAMPLE, CLASSES)
    assert (found.images, found.correct, found.accuracy) == (5, 3, 0.6)
    assert found.recall == {"car": pytest.approx(2 / 3), "van": 0.5, "bus": None}
    assert found.mean_recall == pytest.approx((2 / 3 + 0.5) / 2)
    assert found.confusion == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    # bins: three images at 0.9 of which two are right, two at 0.5 of which one is right
    assert found.ece == pytest.approx(3 / 5 * abs(0.9 - 2 / 3) + 2 / 5 * abs(0.5 - 1 / 2), abs=1e-6)


def test_calibration_error_compares_within_bins_not_over_all():
    # 0.9 and wrong, 0.4 and right: both bins are off, although the overall means nearly agree
    assert calibration_error(logits((0, 0.9), (0, 0.4)), np.array([1, 0])) == pytest.approx((0.9 + 0.6) / 2, abs=1e-6)


def test_certain_and_right_is_perfectly_calibrated_even_for_huge_logits():
    assert calibration_error(np.array([[1e30, 0.0], [0.0, 1e30]], np.float32), np.array([0, 1])) == 0.0


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(DannError, match="not finite: it has diverged"):
        scores(np.array([[np.nan, 0.0]]), np.array([0]), ("a", "b"))


def test_pixels_become_floats_between_0_and_1():
    pixels = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).reshape(2, 3, 4, 3)
    images = to_float(pixels)
    assert images.shape == (2, 3, 3, 4) and images.dtype == torch.float32
    assert images[1, 2, 0, 3].item() == pytest.approx(pixels[1, 0, 3, 2].item() / 255)


def build(**options: bool) -> DomainAdversarialNetwork:
    torch.manual_seed(0)
    config = ModelConfig(backbone="conv6", width=0.1, dropout=0.5, label_hidden=(6,))
    return DomainAdversarialNetwork(config, classes=3, height=8, width=8, **options)


@pytest.fixture
def network() -> DomainAdversarialNetwork:
    return build()


@pytest.fixture
def labelled() -> Callable[[int], LabelledSet]:
    def make(seed: int) -> LabelledSet:
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
        images = images_from_arrays(pixels, [str(i) for i in range(11)], PreprocessSpec(height=8, width=8))
        return LabelledSet(images, rng.integers(0, 3, 11), CLASSES)

    return make


@pytest.mark.parametrize("batch_size", [1, 4, 11, 256])
def test_outputs_are_those_of_evaluation_mode_for_any_batch_size(network, labelled, batch_size: int):
    images = labelled(0).images
    found = outputs(network, images, device=CPU, batch_size=batch_size)
    assert network.training
    network.eval()
    with torch.no_grad():
        features = network.feature_extractor(to_float(torch.from_numpy(images.read(np.arange(11)))))
        np.testing.assert_allclose(found.features_ND, features, atol=1e-5)
        np.testing.assert_allclose(found.logits_NK, network.label_classifier(features), atol=1e-5)
        np.testing.assert_allclose(found.domain_logits_N, network.domain_logits(features), atol=1e-5)


def test_the_domain_classifier_of_cdan_sees_the_logits_too(labelled):
    network = build(two_domains=True, conditional=True).eval()
    found = outputs(network, labelled(0).images, device=CPU, domain=SOURCE)
    with torch.no_grad():
        features = network.features(to_float(torch.from_numpy(labelled(0).images.read(np.arange(11)))), SOURCE)
        logits = network.label_classifier(features)
        np.testing.assert_allclose(found.domain_logits_N, network.domain_logits(features, logits), atol=1e-5)


def test_each_set_is_judged_by_the_batch_statistics_of_its_domain(labelled):
    network = build(two_domains=True)
    with torch.no_grad():
        for domain, scale in ((SOURCE, 1.0), (TARGET, 0.2)):
            network.features(torch.rand(8, 3, 8, 8) * scale, domain)
    found = evaluate(network, source=labelled(0), target=labelled(1), classes=CLASSES, adapted=True, device=CPU)
    source, target = (
        outputs(network, labelled(domain).images, device=CPU, domain=domain) for domain in (SOURCE, TARGET)
    )
    assert found.source == scores(source.logits_NK, labelled(0).labels, CLASSES)
    assert found.target == scores(target.logits_NK, labelled(1).labels, CLASSES)
    swapped = outputs(network, labelled(0).images, device=CPU, domain=TARGET)
    assert not np.allclose(swapped.logits_NK, source.logits_NK)


def test_evaluation_changes_nothing_in_the_network(network, labelled):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.get_rng_state()
    evaluate(network, source=labelled(0), target=labelled(1), classes=CLASSES, adapted=True, device=CPU)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_every_layer_is_afterwards_in_the_mode_it_was_in(network, labelled):
    held = network.feature_extractor[1].eval()  # as frozen batch normalisation is, within a network that trains
    outputs(network, labelled(0).images, device=CPU)
    assert network.training and not any(layer.training for layer in held.modules())
    assert all(layer.training for layer in network.label_classifier.modules())


@pytest.mark.parametrize("batch_size", [1, 4, 11, 256])
def test_batches_are_all_images_in_order(labelled, batch_size: int):
    images = labelled(0).images
    found = list(batches(images, batch_size))
    assert np.array_equal(np.concatenate(found), images.read(np.arange(11)))
    assert max(map(len, found)) == min(batch_size, 11)


def test_a_classifier_that_says_one_domain_always_tells_half(network, labelled):
    network.domain_classifier[-1].bias.data.fill_(100.0)
    found = evaluate(network, source=labelled(0), target=labelled(1), classes=CLASSES, adapted=True, device=CPU)
    assert found.domain_accuracy == 0.5


def test_domain_accuracy_against_the_logits(network, labelled):
    source, target = labelled(0), labelled(1)
    found = evaluate(network, source=source, target=target, classes=CLASSES, adapted=True, device=CPU)
    own = [outputs(network, labelled.images, device=CPU).domain_logits_N for labelled in (source, target)]
    assert found.domain_accuracy == pytest.approx(((own[0] < 0).mean() + (own[1] >= 0).mean()) / 2)


def test_a_set_that_is_not_there_has_no_scores(network, labelled):
    found = evaluate(network, source=None, target=labelled(1), classes=CLASSES, adapted=True, device=CPU)
    assert found.source is None and found.domain_accuracy is None
    assert found.target is not None and found.to_dict()["target"]["images"] == 11


def test_without_adaptation_the_domain_classifier_is_not_scored(network, labelled):
    found = evaluate(network, source=labelled(0), target=labelled(1), classes=CLASSES, adapted=False, device=CPU)
    assert found.domain_accuracy is None and found.source is not None and found.target is not None
