"""What a run is told of its network in the middle: scores, criteria without target labels, warnings; and its memory."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dann.infer.preprocess import PreprocessSpec
from dann.train.batch_norm import SOURCE, TARGET, DomainBatchNorm, reestimate
from dann.train.data import LabelledSet
from dann.train.domains import Domains, open_domains
from dann.train.evaluate import evaluate, outputs, to_float
from dann.train.image_set import ImageSet, images_from_arrays
from dann.train.judge import Judge
from dann.train.model import DomainAdversarialNetwork
from dann.train.selection import Evidence, score_all
from dann.train.settings import TrainConfig
from dann.train.trained import build_network

Configure = Callable[..., TrainConfig]
CPU = torch.device("cpu")


def network_of(config: TrainConfig, *, seed: int = 0) -> DomainAdversarialNetwork:
    """Untrained, in training mode, with statistics of each domain's own."""
    network = build_network(replace(config, seed=seed), 2).train()
    with torch.no_grad():
        for domain in (SOURCE, TARGET):
            network.features(torch.rand(8, 3, 16, 16) * (1 + domain), domain)
    return network


def judge_of(config: TrainConfig) -> Judge:
    return Judge(config, open_domains(config), CPU)


# ---- scores and criteria ------------------------------------------------------------------------------------------


def test_the_scores_are_those_of_an_evaluation(configure: Configure):
    config = configure({"data.holdout": 0.25})
    domains, network = open_domains(config), network_of(config)
    judgement, _ = judge_of(config).judge(network, 3)
    expected = evaluate(
        network,
        source=domains.source_test,
        target=domains.target_test,
        classes=domains.classes,
        adapted=True,
        device=CPU,
    )
    assert judgement.scores == expected
    assert expected.source is not None and expected.target is not None
    assert judgement.headline() == {
        "step": 3,
        "source_accuracy": expected.source.accuracy,
        "target_accuracy": expected.target.accuracy,
        "domain_accuracy": expected.domain_accuracy,
    }


def test_the_criteria_are_of_the_unlabelled_target_and_the_source(configure: Configure):
    config = configure({"data.holdout": 0.25})
    domains, network = open_domains(config), network_of(config)
    assert domains.source_test is not None and domains.unlabelled is not None
    held_out = outputs(network, domains.source_test.images, device=CPU, domain=SOURCE)
    trained_on = outputs(network, domains.labelled.images, device=CPU, domain=SOURCE)
    target = outputs(network, domains.unlabelled, device=CPU, domain=TARGET)
    expected = score_all(
        Evidence(
            source_logits_NK=held_out.logits_NK,
            source_labels_N=domains.source_test.labels,
            source_features_ND=held_out.features_ND,
            target_logits_NK=target.logits_NK,
            target_features_ND=target.features_ND,
            source_train_features_ND=trained_on.features_ND,
        )
    )
    assert judge_of(config).judge(network, 3)[0].criteria == pytest.approx(expected)
    assert judge_of(config).judge(network, 3)[0].criteria["source-accuracy"] == expected["source-accuracy"]


def test_target_labels_have_no_say(configure: Configure):
    config = configure({"selection.criterion": "im"})
    domains = open_domains(config)
    test = domains.target_test
    assert test is not None
    other = replace(domains, target_test=LabelledSet(test.images, 1 - test.labels, test.classes))
    one, two = Judge(config, domains, CPU), Judge(config, other, CPU)
    for step in range(1, 4):
        network = network_of(config, seed=step)
        (mine, kept), (yours, kept_too) = one.judge(network, step), two.judge(network, step)
        assert (mine.criteria, mine.warnings, kept) == (yours.criteria, yours.warnings, kept_too)
        assert mine.headline()["target_accuracy"] == pytest.approx(1 - (yours.headline()["target_accuracy"] or 0.0))
    assert one.selector.state() == two.selector.state()


def test_at_most_so_many_images_are_looked_at(configure: Configure, monkeypatch: pytest.MonkeyPatch):
    config = configure({"selection.images": 5, "data.holdout": 0.25, "data.test": None})
    read: list[int] = []
    plain = ImageSet.read
    monkeypatch.setattr(ImageSet, "read", lambda self, rows: read.append(len(rows)) or plain(self, rows))
    judge_of(config).judge(network_of(config), 1)
    assert read == [6, 5, 5]  # all that was held out has a score; of the others it is samples


def test_the_sample_is_the_same_for_the_same_seed(configure: Configure):
    config = configure({"selection.images": 5})
    network = network_of(config)
    one, same, other = (
        judge_of(replace(config, seed=seed)).judge(network, 1)[0].criteria["entropy"] for seed in (0, 0, 1)
    )
    assert one == same != other


@pytest.mark.parametrize("mode", ["source", "target"])
def test_where_nothing_adapts_there_are_no_criteria(mode: str, configure: Configure, sets: dict[str, str]):
    config = configure({"data.target": sets["target"]}, mode=mode)
    judge = judge_of(config)
    for step in (1, 2):
        judgement, selected = judge.judge(network_of(config), step)
        assert (judgement.criteria, judgement.warnings, selected) == ({}, [], True)
        assert judgement.scores.domain_accuracy is None


def test_an_objective_without_domain_classifier_has_no_domain_accuracy(configure: Configure):
    config = configure({"objectives.dann": 0.0, "objectives.mcc": 1.0, "data.holdout": 0.25})
    judgement = judge_of(config).judge(network_of(config), 1)[0]
    assert judgement.scores.domain_accuracy is None and judgement.criteria


def test_judging_changes_nothing_in_the_network(configure: Configure):
    config = configure()
    network = network_of(config)
    network.feature_extractor[1].eval()  # as where it is frozen
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes, random = [module.training for module in network.modules()], torch.get_rng_state()
    judge_of(config).judge(network, 1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)


# ---- AdaBN --------------------------------------------------------------------------------------------------------


def test_adabn_takes_the_statistics_of_the_whole_target(configure: Configure):
    config = configure({"adabn": True, "selection.images": 5})
    network, expected = network_of(config), network_of(config).eval()
    modes = [module.training for module in network.modules()]
    judge_of(config).judge(network, 1)
    unlabelled = open_domains(config).unlabelled
    assert unlabelled is not None
    pixels = to_float(torch.from_numpy(unlabelled.read(np.arange(len(unlabelled)))))
    reestimate(expected, [pixels], lambda images_NCHW: expected.features(images_NCHW, TARGET))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name])
    layer = next(module for module in network.modules() if isinstance(module, DomainBatchNorm))
    assert not torch.equal(layer.running_mean[SOURCE], layer.running_mean[TARGET])
    assert [module.training for module in network.modules()] == modes


def test_the_order_of_the_target_does_not_matter_to_adabn(configure: Configure):
    """A folder is read class by class, so a batch in order holds one class: its variance is not the target's."""
    config = configure({"adabn": True})
    network = network_of(config)
    pixels = np.random.default_rng(0).integers(0, 60, (600, 16, 16, 3), dtype=np.uint8)
    pixels[300:] += 180  # the second class is bright
    images = images_from_arrays(pixels, [str(i) for i in range(600)], PreprocessSpec(height=16, width=16))
    Judge(config, replace(open_domains(config), unlabelled=images), CPU).judge(network, 1)

    expected = network_of(config).eval()
    reestimate(expected, [to_float(torch.from_numpy(pixels))], lambda x: expected.features(x, TARGET))
    found, wanted = (
        next(module for module in each.modules() if isinstance(module, DomainBatchNorm)) for each in (network, expected)
    )
    torch.testing.assert_close(found.running_mean[TARGET], wanted.running_mean[TARGET], rtol=0.01, atol=0.01)
    torch.testing.assert_close(found.running_var[TARGET], wanted.running_var[TARGET], rtol=0.05, atol=0.0)


# ---- warnings -----------------------------------------------------------------------------------------------------


def constant(colour: int, count: int) -> ImageSet:
    pixels = np.full((count, 16, 16, 3), colour, np.uint8)
    return images_from_arrays(pixels, [str(i) for i in range(count)], PreprocessSpec(height=16, width=16))


def domains_of(labels: list[int]) -> Domains:
    """Dark source images with ``labels``, and bright target images, all the same."""
    classes = ("across", "upright")
    return Domains(
        labelled=LabelledSet(constant(10, len(labels)), np.array(labels), classes),
        unlabelled=constant(240, 12),
        source_test=None,
        target_test=LabelledSet(constant(240, 6), np.arange(6) % 2, classes),
        simulated=False,
    )


@pytest.fixture
def plain(configure: Configure) -> TrainConfig:
    """Both heads linear and nothing normalised, so that what they say can be set by hand."""
    return configure({"model.batch_norm": False, "model.label_hidden": [], "model.domain_hidden": []})


def says_class(network: DomainAdversarialNetwork, label: int) -> None:
    network.label_classifier[-1].bias.data = 50.0 * torch.eye(2)[label]  # type: ignore[union-attr]


def tells_domains(network: DomainAdversarialNetwork, *, sign: float) -> None:
    """By the line half-way between dark and bright, rightly (1) or wrongly (−1)."""
    network.eval()
    with torch.no_grad():
        dark_D, bright_D = network.features(torch.tensor([10 / 255, 240 / 255]).view(2, 1, 1, 1).expand(2, 3, 16, 16))
        linear = network.domain_classifier[-1]
        linear.weight.copy_(sign * (bright_D - dark_D))  # type: ignore[union-attr, operator]
        linear.bias.copy_(-sign * ((bright_D - dark_D) @ (bright_D + dark_D)) / 2)  # type: ignore[union-attr, operator]


def names(judge: Judge) -> list[tuple[int, str]]:
    return [(warning.step, warning.name) for warning in judge.warnings]


def test_a_collapse_is_warned_of_once_a_run(plain: TrainConfig):
    judge, network = Judge(plain, domains_of([0, 1] * 6), CPU), network_of(plain)
    found = []
    for step, label in ((1, None), (2, 1), (3, 1), (4, 0)):
        if label is not None:
            says_class(network, label)
        found.append([warning.name for warning in judge.judge(network, step)[0].warnings])
    assert found == [[], ["collapse"], [], []]
    assert names(judge) == [(2, "collapse")]


def test_source_accuracy_that_is_lost_is_warned_of_once_a_run(plain: TrainConfig):
    judge, network = Judge(plain, domains_of([0] * 11 + [1]), CPU), network_of(plain)
    for step, label in enumerate((0, 0, 1, 1), start=1):
        says_class(network, label)
        judge.judge(network, step)
    assert names(judge) == [(3, "source-lost")]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_domains_that_stay_told_or_untold_are_warned_of_at_the_third_evaluation(sign: float, plain: TrainConfig):
    judge, network = Judge(plain, domains_of([0, 1] * 6), CPU), network_of(plain)
    tells_domains(network, sign=sign)
    for step in range(1, 5):
        assert judge.judge(network, step)[0].scores.domain_accuracy is None  # nothing of the source was held out
    assert names(judge) == [(3, "domains-stuck")]


def test_a_run_that_is_well_has_no_warnings(configure: Configure):
    config = configure({"data.holdout": 0.25})
    judge, network = judge_of(config), network_of(config)
    for step in range(1, 6):
        judge.judge(network, step)
    assert judge.warnings == []


# ---- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [0, 2, 4])
def test_a_judge_that_is_restored_goes_on_as_if_it_had_stayed(stop_after: int, configure: Configure):
    config = configure({"selection.criterion": "im", "data.holdout": 0.25})
    whole, judge = judge_of(config), judge_of(config)
    for step in range(1, 6):
        if step == stop_after + 1:
            state = json.loads(json.dumps(judge.state()))
            judge = judge_of(config)
            judge.restore(state)
        network = network_of(config, seed=step)
        if step in (2, 4):
            says_class(network, 0)
        assert whole.judge(network, step) == judge.judge(network, step)
    assert judge.state() == whole.state()
    assert len(whole.headlines) == 5 and names(whole) == [(2, "collapse")]


def test_the_best_on_test_labels_is_the_first_with_the_highest_target_accuracy(configure: Configure):
    judge = judge_of(configure())
    assert judge.best_on_test_labels() is None
    accuracies: list[Any] = [None, 0.25, 0.75, 0.5, 0.75, None]
    judge.headlines = [{"step": step, "target_accuracy": accuracy} for step, accuracy in enumerate(accuracies)]
    assert judge.best_on_test_labels() == {"step": 2, "target_accuracy": 0.75}
    assert judge.at(4) == {"step": 4, "target_accuracy": 0.75}


def test_without_test_labels_there_is_no_best(configure: Configure):
    config = configure({"data.test": None})
    judge = judge_of(config)
    judge.judge(network_of(config), 1)
    assert judge.best_on_test_labels() is None and judge.headlines[0]["target_accuracy"] is None
