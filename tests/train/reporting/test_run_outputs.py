"""What the network of a run says of the run's own images, and why where it says nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dann.infer.errors import UnavailableError
from dann.train import checkpoint, evaluate
from dann.train.batch_norm import SOURCE, TARGET
from dann.train.loop import fit
from dann.train.reporting.run_outputs import ImageOutputs, RunOutputs, run_outputs
from dann.train.run_dir import RunDir
from dann.train.settings import TrainConfig
from dann.train.trained import load_trained

Configure = Callable[..., TrainConfig]


@pytest.fixture
def trained(configure: Configure, tmp_path: Path) -> Callable[..., RunDir]:
    """A function from settings to a run of one step."""

    def train(settings: dict[str, Any] | None = None, **plain: Any) -> RunDir:
        config = configure({"data.holdout": 0.25, **(settings or {})}, steps=1, **plain)
        return fit(config, runs=tmp_path / "runs").run

    return train


def outputs(run: RunDir) -> RunOutputs:
    return run_outputs(run, device="cpu", unlabelled=10, seed=0)


def test_both_domains_are_seen_as_evaluation_sees_them(trained: Callable[..., RunDir], sets: dict[str, str]):
    found = outputs(trained())
    assert isinstance(found.source, ImageOutputs) and isinstance(found.target, ImageOutputs)
    assert (len(found.source), len(found.target), found.classes) == (6, 20, ("across", "upright"))
    with np.load(sets["test"]) as stored:
        assert np.array_equal(found.target.images.read(np.arange(20)), stored["x"])
        assert found.target.labels_N is not None and np.array_equal(found.target.labels_N, stored["y"])
    assert found.target.logits_NK.shape == (20, 2) and len(found.target.features_ND) == 20


def test_each_domain_is_seen_with_its_own_batch_statistics(trained: Callable[..., RunDir]):
    run = trained({"model.bn": "domain"})
    found, network = outputs(run), load_trained(run)[2]
    for seen, domain, other in ((found.source, SOURCE, TARGET), (found.target, TARGET, SOURCE)):
        assert isinstance(seen, ImageOutputs)
        expected = evaluate.outputs(network, seen.images, device=torch.device("cpu"), domain=domain)
        foreign = evaluate.outputs(network, seen.images, device=torch.device("cpu"), domain=other)
        assert np.array_equal(seen.features_ND, expected.features_ND)
        assert not np.array_equal(seen.features_ND, foreign.features_ND)


def test_a_subset_keeps_image_label_and_outputs_together(trained: Callable[..., RunDir]):
    whole = outputs(trained()).target
    assert isinstance(whole, ImageOutputs) and whole.labels_N is not None
    part = whole.subset(np.array([7, 2]))
    assert part.labels_N is not None and part.labels_N.tolist() == whole.labels_N[[7, 2]].tolist()
    assert np.array_equal(part.images.read(np.arange(2)), whole.images.read(np.array([7, 2])))
    assert np.array_equal(part.logits_NK, whole.logits_NK[[7, 2]])
    assert np.array_equal(part.features_ND, whole.features_ND[[7, 2]])


def test_without_test_labels_some_of_the_unlabelled_images_are_seen(trained: Callable[..., RunDir]):
    found = outputs(trained({"data.test": None})).target
    assert isinstance(found, ImageOutputs)
    assert found.labels_N is None and len(found) == 10


def test_a_run_without_target_says_so(trained: Callable[..., RunDir]):
    found = outputs(trained({"data.test": None, "data.target": None}, mode="source"))
    assert isinstance(found.source, ImageOutputs)
    assert found.target == "The run has no target images."


def test_images_that_are_gone_are_named(trained: Callable[..., RunDir], sets: dict[str, str], tmp_path: Path):
    test = tmp_path / "test.npz"
    test.write_bytes(Path(sets["test"]).read_bytes())
    run = trained({"data.test": str(test)})
    test.unlink()
    found = outputs(run)
    assert isinstance(found.source, ImageOutputs)
    assert isinstance(found.target, str) and str(test) in found.target and found.target.endswith(".")


def test_a_run_without_checkpoint_says_so(trained: Callable[..., RunDir]):
    run = trained()
    run.evaluated.unlink()
    found = outputs(run)
    assert isinstance(found.target, str) and found.target.startswith("The network cannot be loaded: ")
    assert found.source == found.target and found.classes == ("across", "upright")


def test_a_network_that_diverged_says_so(trained: Callable[..., RunDir]):
    run = trained()
    about, tensors = checkpoint.read(run.evaluated)
    for name, tensor in tensors.items():
        if name.startswith("network.") and tensor.is_floating_point():
            tensors[name] = torch.full_like(tensor, torch.nan)
    checkpoint.write(run.evaluated, tensors, about)
    found = outputs(run)
    assert found.source == found.target == "The network has diverged: what it says is not finite."


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused(trained: Callable[..., RunDir]):
    with pytest.raises(UnavailableError):
        run_outputs(trained(), device="cuda", unlabelled=10, seed=0)
