"""Weight files: only named tensors are ever read, and what fits of them goes into a network."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from dann.infer.errors import DannError, UsageError
from dann.train.backbones import build_backbone
from dann.train.batch_norm import SOURCE, TARGET
from dann.train.checkpoint import write
from dann.train.model import DomainAdversarialNetwork
from dann.train.settings import ModelConfig
from dann.train.weights import Account, initialise, load_backbone, read_weights


def save_contiguous(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


CLASSES = ("bus", "car", "van")
BatchNorm = Literal["split", "domain"]
SAVERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "weights.safetensors": save_contiguous,
    "weights.pth": torch.save,
}
each_format = pytest.mark.parametrize("name", SAVERS)


def backbone(seed: int = 0, name: str = "conv6", *, width: float = 0.1) -> nn.Module:
    torch.manual_seed(seed)
    return build_backbone(ModelConfig(backbone=name, width=width))


def adversarial(
    seed: int = 0, *, classes: int = 3, bn: BatchNorm | None = None, conditional: bool = False
) -> DomainAdversarialNetwork:
    torch.manual_seed(seed)
    config = ModelConfig(backbone="conv6", width=0.1, label_hidden=(6,), domain_hidden=(5,), bn=bn or "split")
    sides: dict[str, bool] = {"two_domains": bn is not None, "conditional": conditional}
    return DomainAdversarialNetwork(config, classes=classes, height=8, width=8, **sides)


def checkpoint(
    path: Path, network: nn.Module, averaged: nn.Module | None = None, classes: tuple[str, ...] = CLASSES
) -> Path:
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    if averaged is not None:
        tensors |= {f"adaptation.averaged.module.{name}": tensor for name, tensor in averaged.state_dict().items()}
    tensors |= {"optimiser.0.momentum_buffer": torch.zeros(2), "rng.cpu": torch.get_rng_state()}
    write(path, tensors, {"step": 1, "classes": classes})
    return path


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@each_format
def test_named_tensors_come_back_as_they_were_saved(name: str, tmp_path: Path):
    state = adversarial().state_dict()
    SAVERS[name](state, tmp_path / name)
    assert_same(read_weights(tmp_path / name), state)


def test_a_checkpoint_gives_the_network_and_nothing_of_the_optimiser(tmp_path: Path):
    network = adversarial()
    assert_same(read_weights(checkpoint(tmp_path / "a.safetensors", network)), network.state_dict())


def test_a_checkpoint_with_averaged_weights_gives_those(tmp_path: Path):
    averaged = adversarial(1)
    assert_same(read_weights(checkpoint(tmp_path / "a.safetensors", adversarial(0), averaged)), averaged.state_dict())


def test_names_of_a_foreign_safetensors_file_are_left_alone(tmp_path: Path):
    save_file({"network.a": torch.ones(1), "b": torch.zeros(1)}, tmp_path / "a.safetensors", {"format": "pt"})
    assert sorted(read_weights(tmp_path / "a.safetensors")) == ["b", "network.a"]


def test_a_run_gives_its_selected_weights_else_its_last(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    last, selected = adversarial(0), adversarial(1)
    checkpoint(tmp_path / "checkpoints" / "last.safetensors", last)
    assert_same(read_weights(tmp_path), last.state_dict())
    checkpoint(tmp_path / "checkpoints" / "selected.safetensors", selected)
    assert_same(read_weights(tmp_path), selected.state_dict())


@pytest.mark.parametrize("around", ["state_dict", "model_state_dict", "model"])
def test_what_a_training_script_puts_around_a_state_dict_is_taken_off(around: str, tmp_path: Path):
    state = backbone().state_dict()
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, around: state}, tmp_path / "a.pth")
    assert_same(read_weights(tmp_path / "a.pth"), state)


def test_what_ddp_and_compile_put_before_the_names_is_taken_off(tmp_path: Path):
    network = nn.Sequential(nn.Linear(2, 2), nn.Module())
    network[1] = torch.compile(nn.Linear(2, 2))  # type: ignore[assignment]
    state = network.state_dict()
    assert "1._orig_mod.weight" in state
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "a.pth")
    assert sorted(read_weights(tmp_path / "a.pth")) == ["0.bias", "0.weight", "1.bias", "1.weight"]


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_pickled_objects_are_refused_without_running_them(tmp_path: Path):
    file = tmp_path / "module.pth"
    for save in (
        lambda: torch.save(backbone(), file),
        lambda: torch.save({"weight": torch.ones(1), "extra": Touch(tmp_path / "ran")}, file),
        lambda: file.write_bytes(pickle.dumps(Touch(tmp_path / "ran"), protocol=4)),
    ):
        save()
        with warnings.catch_warnings(record=True, action="always") as seen:
            with pytest.raises(DannError, match="only named tensors are read: save network.state_dict") as caught:
                read_weights(file)
        assert seen == []
        assert "weights_only" not in str(caught.value)  # torch's own message tells how to run them nevertheless
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights"])
def test_safetensors_are_told_by_their_content(name: str, tmp_path: Path):
    state = adversarial().state_dict()
    save_contiguous(state, tmp_path / name)
    assert_same(read_weights(tmp_path / name), state)


@pytest.mark.parametrize("change", [Tensor.to_sparse, lambda tensor: tensor.to("meta")])
def test_tensors_without_plain_values_are_refused(change: Callable[[Tensor], Tensor], tmp_path: Path):
    state = backbone().state_dict()
    torch.save({**state, "0.weight": change(state["0.weight"])}, tmp_path / "a.pth")
    with pytest.raises(UsageError, match="hold 0.weight as a sparse tensor, or without its values"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensor: tensor.long(), r"0.weight is torch.int64 in .*, and torch.float32 here"),
        (lambda tensor: tensor.to(torch.complex64), r"0.weight is torch.complex64 in"),
        (lambda tensor: tensor * torch.nan, r"0.weight in .* is not finite: that network has diverged"),
    ],
)
@pytest.mark.parametrize("load", [load_backbone, lambda network, file: initialise(network, file)])
def test_values_that_train_to_nothing_are_refused(change: Any, said: str, load: Any, tmp_path: Path):
    network, state = backbone(2), backbone(1).state_dict()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.save({**state, "0.weight": change(state["0.weight"])}, tmp_path / "a.pth")
    with pytest.raises(DannError, match=said):
        load(network, tmp_path / "a.pth")
    assert_same(network.state_dict(), before)


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], {}, {"epoch": 3}, {"model": {}}])
def test_a_file_of_something_else_is_refused(content: object, tmp_path: Path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="hold something other than named tensors"):
        read_weights(tmp_path / "other.pth")


@each_format
def test_a_damaged_file_is_refused(name: str, tmp_path: Path):
    SAVERS[name](backbone().state_dict(), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"x" * 100, b"\x80\x04" + content):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DannError, match=f"{name}' (cannot be read|are damaged)") as caught:
            read_weights(tmp_path / name)
        assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["none.pth", "x" * 300])
def test_a_missing_file_is_refused(name: str, tmp_path: Path):
    with pytest.raises(UsageError, match="is not a file; expected a .safetensors, a torch state dict or the folder"):
        read_weights(tmp_path / name)


def test_a_folder_that_is_no_run_and_a_run_without_weights_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="is not a file"):
        read_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="last.safetensors' is not a file"):
        read_weights(tmp_path)


@each_format
def test_a_backbone_takes_all_its_weights_and_leaves_the_rest_of_the_file(name: str, tmp_path: Path):
    wanted, network = backbone(1).state_dict(), backbone(2)
    SAVERS[name]({**wanted, "fc.weight": torch.zeros(3)}, tmp_path / name)
    load_backbone(network, tmp_path / name)
    assert_same(network.state_dict(), wanted)


def test_a_backbone_takes_that_of_a_checkpoint(tmp_path: Path):
    wanted, network = adversarial(1), backbone(2)
    load_backbone(network, checkpoint(tmp_path / "a.safetensors", wanted))
    assert_same(network.state_dict(), wanted.feature_extractor[1].state_dict())


def test_a_backbone_refuses_the_weights_of_another_and_is_left_as_it_was(tmp_path: Path):
    network, file = backbone(), tmp_path / "a.pth"
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.save(backbone(1, width=0.2).state_dict(), file)
    with pytest.raises(
        UsageError, match=r"backbone: 0.weight is \(6, 3, 3, 3\) in the file, \(3, 3, 3, 3\) here \(the first of 30"
    ):
        load_backbone(network, file)
    torch.save(backbone(1, "conv9").state_dict(), file)
    with pytest.raises(UsageError, match="do not fit the backbone: 20 tensors are missing, first .*; 0.weight is"):
        load_backbone(network, file)
    assert_same(network.state_dict(), before)


@pytest.mark.parametrize("run", [False, True], ids=["state dict", "checkpoint"])
def test_a_backbone_refuses_the_weights_of_a_deeper_one(run: bool, tmp_path: Path):
    """Which has all that the backbone has, in the same shapes."""
    deeper, network = torchvision.models.resnet34(), build_backbone(ModelConfig(backbone="resnet18"))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.save(deeper.state_dict(), tmp_path / "a.pth")
    if run:
        checkpoint(tmp_path / "a.pth", nn.ModuleDict({"feature_extractor": nn.Sequential(nn.Identity(), deeper)}))
    said = r"do not fit the backbone: 80 tensors have no place in it, first layer1.2.bn1.bias. Name the --backbone"
    with pytest.raises(UsageError, match=said):
        load_backbone(network, tmp_path / "a.pth")
    assert_same(network.state_dict(), before)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_a_backbone_leaves_the_classifier_that_was_taken_off(name: str, tmp_path: Path):
    published = torchvision.models.get_model(name, num_classes=7)
    network = build_backbone(ModelConfig(backbone=name))
    torch.save(published.state_dict(), tmp_path / "published.pth")
    load_backbone(network, tmp_path / "published.pth")
    wanted = published.state_dict()
    assert_same(network.state_dict(), {key: wanted[key] for key in network.state_dict()})


def test_a_backbone_does_not_need_the_counters_of_old_batch_normalisation(tmp_path: Path):
    wanted, network = backbone(1).state_dict(), backbone(2)
    without = {name: tensor for name, tensor in wanted.items() if "num_batches" not in name}
    save_file(without, tmp_path / "old.safetensors")
    load_backbone(network, tmp_path / "old.safetensors")
    assert torch.equal(network.state_dict()["0.weight"], wanted["0.weight"])


def test_counters_of_any_type_are_taken_for_what_they_are(tmp_path: Path):
    network, state = backbone(2), backbone(1).state_dict()
    torch.save({name: tensor.float() for name, tensor in state.items()}, tmp_path / "a.pth")
    load_backbone(network, tmp_path / "a.pth")
    assert_same(network.state_dict(), state)


def test_a_network_starts_from_a_checkpoint(tmp_path: Path):
    source, network = adversarial(1), adversarial(2)
    source(torch.rand(4, 3, 8, 8))  # moves the running statistics, and what counts their batches
    account = initialise(network, checkpoint(tmp_path / "a.safetensors", source))
    assert_same(network.state_dict(), source.state_dict())
    assert account.lines() == [
        "feature_extractor: 30 of 30 tensors loaded",
        "label_classifier: 4 of 4 tensors loaded",
        "domain_classifier: 4 of 4 tensors loaded",
    ]


def test_other_classes_keep_only_the_last_layer_from_loading(tmp_path: Path):
    source, network = adversarial(1, classes=31), adversarial(2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    account = initialise(network, checkpoint(tmp_path / "a.safetensors", source))
    other = [name for name, *_ in account.mismatched]
    assert other == ["label_classifier.3.weight", "label_classifier.3.bias"]
    wanted = {name: (before if name in other else source.state_dict())[name] for name in before}
    assert_same(network.state_dict(), wanted)
    assert account.lines()[1] == (
        "label_classifier: 2 of 4 tensors loaded; "
        "label_classifier.3.weight is (31, 6) in the file, (3, 6) here (the first of 2 that differ)"
    )


@pytest.mark.parametrize("theirs", [("car", "bus", "van"), ("a", "b", "c")])
def test_layers_for_other_classes_are_left_out_although_they_fit(theirs: tuple[str, ...], tmp_path: Path):
    source, network = adversarial(1), adversarial(2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    file = checkpoint(tmp_path / "a.safetensors", source, classes=theirs)
    account = initialise(network, file, classes=CLASSES, of_classes=network.of_classes)
    last = ("label_classifier.3.weight", "label_classifier.3.bias")
    assert account.of_other_classes == last and not set(last) & {*account.loaded, *account.kept, *account.unused}
    assert_same(
        network.state_dict(), {name: (before if name in last else source.state_dict())[name] for name in before}
    )
    assert account.lines()[1] == "label_classifier: 2 of 4 tensors loaded; 2 left out, being for other classes"


def test_a_domain_classifier_that_sees_the_classes_is_left_out_with_them(tmp_path: Path):
    source, network = adversarial(1, conditional=True), adversarial(2, conditional=True)
    file = checkpoint(tmp_path / "a.safetensors", source, classes=("a", "b", "c"))
    account = initialise(network, file, classes=CLASSES, of_classes=network.of_classes)
    assert {name.partition(".")[0] for name in account.of_other_classes} >= {"label_classifier", "domain_classifier"}
    assert account.lines()[-1].startswith("domain_classifier: 0 of 4 tensors loaded; 4 left out")


def test_layers_for_the_same_classes_are_taken(tmp_path: Path):
    source, network = adversarial(1), adversarial(2)
    file = checkpoint(tmp_path / "a.safetensors", source)
    initialise(network, file, classes=CLASSES, of_classes=network.of_classes)
    assert_same(network.state_dict(), source.state_dict())


def test_a_torchvision_state_dict_fills_the_backbone(tmp_path: Path):
    torch.manual_seed(0)
    published = torchvision.models.shufflenet_v2_x0_5()
    torch.save(published.state_dict(), tmp_path / "published.pth")
    network = DomainAdversarialNetwork(ModelConfig(backbone="shufflenet_v2_x0_5"), classes=3, height=32, width=32)
    account = initialise(network, tmp_path / "published.pth")
    wanted = {name: tensor for name, tensor in published.state_dict().items() if not name.startswith("fc.")}
    assert_same(network.feature_extractor[1].state_dict(), wanted)
    assert account.unused == ("fc.weight", "fc.bias")
    assert account.lines()[1:] == [
        "label_classifier: 0 of 4 tensors loaded; 4 not in the file",
        "domain_classifier: 0 of 4 tensors loaded; 4 not in the file",
        "unused in the file: fc.weight, fc.bias",
    ]


def test_names_that_fit_as_they_are_get_no_prefix(tmp_path: Path):
    network = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(1, 1)}), "b": nn.Linear(1, 1)})
    torch.save({"b.weight": torch.tensor([[7.0]])}, tmp_path / "a.pth")
    assert initialise(network, tmp_path / "a.pth").loaded == ("b.weight",)
    assert network.state_dict()["b.weight"] == 7


def trained(network: DomainAdversarialNetwork) -> DomainAdversarialNetwork:
    """``network`` with statistics, scales and shifts that differ from each other and from where they began."""
    for domain in (SOURCE, TARGET):
        network.features(torch.rand(8, 3, 8, 8) * (domain + 1), domain)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("feature_extractor.1"):
                parameter.add_(torch.rand_like(parameter))
    return network.eval()


@pytest.mark.parametrize("bn", ["split", "domain"])
def test_plain_batch_normalisation_becomes_that_of_both_domains(bn: BatchNorm, tmp_path: Path):
    plain, network = trained(adversarial(1)), adversarial(2, bn=bn).eval()
    account = initialise(network, checkpoint(tmp_path / "a.safetensors", plain))
    images = torch.rand(2, 3, 8, 8)
    for domain in (SOURCE, TARGET):
        torch.testing.assert_close(network(images, domain), plain(images))
    assert (account.kept, account.mismatched, account.unused) == ((), (), ())


@pytest.mark.parametrize("bn", ["split", "domain"])
def test_the_targets_batch_normalisation_becomes_the_plain_one(bn: BatchNorm, tmp_path: Path):
    adapted, network = trained(adversarial(1, bn=bn)), adversarial(2).eval()
    account = initialise(network, checkpoint(tmp_path / "a.safetensors", adapted))
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(network(images), adapted(images, TARGET))
    assert not torch.allclose(network(images), adapted(images, SOURCE))
    assert (account.kept, account.mismatched, account.unused) == ((), (), ())


def test_no_other_tensor_is_made_to_fit(tmp_path: Path):
    torch.save({"a": torch.ones(1), "scale": torch.ones(3)}, tmp_path / "a.pth")
    network = nn.ParameterDict({"a": torch.zeros(1), "scale": torch.zeros(2, 3)})
    assert initialise(network, tmp_path / "a.pth").mismatched == (("scale", (3,), (2, 3)),)


def test_a_file_of_which_nothing_fits_is_refused(tmp_path: Path):
    torch.save(backbone(width=0.3).state_dict(), tmp_path / "wider.pth")  # its counters of batches would fit
    with pytest.raises(
        UsageError, match=r"nothing in .* fits .*begins with 0.weight \(10, 3, 3, 3\), the network with"
    ):
        initialise(adversarial(), tmp_path / "wider.pth")


def test_the_account_is_short():
    unused = tuple(f"block.{i}" for i in range(20))
    lines = Account(loaded=("a.b",), kept=(), mismatched=(), unused=unused).lines()
    listed = "block.0, block.1, block.2, block.3, block.4, block.5, … (20 in all)"
    assert lines == ["a: 1 of 1 tensors loaded", f"unused in the file: {listed}"]
