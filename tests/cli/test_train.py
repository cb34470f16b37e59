"""``dann train``: data specs, settings, output, and what it refuses."""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from command import DATA, NETWORK, TINY, Ran, dann, done, outcome, refused, start

from dann.train.config import preset_names


def resolved(*words: str | Path) -> dict[str, Any]:
    """The settings that ``dann train WORDS…`` would train with."""
    return tomllib.loads(done("train", *words, "--print-config").stdout)


def trained(*words: str | Path) -> dict[str, Any]:
    """What the run of a short training records."""
    done("train", *words, *TINY, "--name", "run", "--quiet")
    return json.loads(Path("runs/run/config.json").read_text())


# ---- data ---------------------------------------------------------------------------------------------------------


def as_csv(folder: str) -> str:
    """The class folders in ``folder`` as a CSV that lies beside it."""
    paths = sorted(Path(folder).rglob("*.png"))
    rows = [f"{path.as_posix()},{path.parent.name}" for path in paths]
    Path(f"{folder}.csv").write_text("\n".join(["path,label", *rows]))
    return f"{folder}.csv"


def as_npz(folder: str) -> str:
    """The class folders in ``folder`` as an .npz that lies beside it."""
    paths = sorted(Path(folder).rglob("*.png"))
    images = [np.asarray(cv2.imread(str(path))) for path in paths]
    np.savez(f"{folder}.npz", x=np.stack(images), y=[int(path.parent.name == "noon") for path in paths])
    return f"{folder}.npz"


@pytest.mark.parametrize(
    ("write", "classes"), [(str, ["night", "noon"]), (as_csv, ["night", "noon"]), (as_npz, ["0", "1"])]
)
def test_class_folders_csv_and_npz_hold_the_same_images(write, classes: list[str], place: Path):
    about = trained("--source", write("renders"), "--target", write("photos"), "--test", write("labelled"))
    assert about["classes"] == classes
    assert about["data"]["labelled"]["images"] == 14  # two of 16 are held out
    assert about["data"]["unlabelled"]["images"] == 16
    assert json.loads(Path("runs/run/result.json").read_text())["target"]["images"] == 16


def test_the_long_names_of_source_and_target_are_taken_too(place: Path):
    about = trained("--source-domain-dir", "renders", "--target-domain-dir", "photos")
    assert about["config"]["data"]["source"] == str(place / "renders")
    assert about["config"]["data"]["target"] == str(place / "photos")


def test_the_split_layout_is_read(place: Path):
    for old, new in (("renders", "train/source"), ("photos", "train/target"), ("labelled", "test")):
        shutil.move(place / old, place / "root" / new)
    about = trained("--layout", "split", "--data-root", "root")
    assert about["data"]["labelled"]["images"] == 14 and about["data"]["unlabelled"]["images"] == 16


def test_settings_in_a_file_that_names_no_data_are_over_the_default_preset(place: Path):
    (place / "tweaks.toml").write_text("epochs = 3\n")
    printed = done("train", "--config", "tweaks.toml", "--print-config").stdout
    assert "epochs = 3" in printed and 'source = "cars"' in printed


def test_a_path_that_is_too_long_is_a_path_that_does_not_exist(place: Path):
    refused(dann("train", "--source", "a/" + "x" * 300, "--target", "photos", *TINY), 2, "does not exist")


def test_a_flat_folder_of_photos_is_a_target(place: Path):
    about = trained("--source", "renders", "--target", "photos/noon")
    assert about["data"]["unlabelled"]["images"] == 8


def test_images_that_cannot_be_read_are_named_and_left_out(place: Path, spoil):
    names = spoil(place / "renders/noon")
    ran = done("train", *DATA, *TINY)
    left_out = [line for line in ran.stderr.splitlines() if line.startswith("left out")]
    assert [line.split(":")[0] for line in left_out] == [f"left out 'renders/noon/{name}'" for name in names]
    assert "is empty" in left_out[0] and all("damaged or truncated" in line for line in left_out[1:])


# ---- settings -----------------------------------------------------------------------------------------------------


def test_without_data_it_trains_on_the_embedded_cars(place: Path):
    assert resolved() == resolved("--preset", "cars")
    assert resolved()["data"]["source"] == "cars"
    assert resolved("--mode", "source", "--seed", "3")["data"]["source"] == "cars"
    assert resolved("--source", "renders")["data"].get("target") is None


def test_a_preset_without_data_asks_for_them(place: Path):
    refused(dann("train", "--preset", "photos"), 2, "no source images were given", "--source")


@pytest.mark.parametrize("preset", preset_names())
def test_printed_settings_are_read_back_the_same(preset: str, place: Path):
    flags = ["--preset", preset, "--mode", "source", "--set", "optimiser.clip_norm=0.5", "--set", "data.holdout=0.2"]
    if preset == "photos":  # whose data are the user's
        flags += ["--source", "renders", "--target", "photos"]
    Path("my settings.toml").write_text(printed := done("train", *flags, "--print-config").stdout)
    assert done("train", "--config", "my settings.toml", "--print-config").stdout == printed


def test_flags_override_the_file_which_overrides_the_preset(place: Path):
    Path("file.toml").write_text("seed = 4\nepochs = 7\n[optimiser]\nlr = 0.25")
    settings = resolved("--preset", "mnist-mnistm", "--config", "file.toml", "--seed", "5")
    assert (settings["seed"], settings["epochs"], settings["optimiser"]["lr"]) == (5, 7, 0.25)
    assert settings["data"]["source"] == "mnist"


@pytest.mark.parametrize(
    ("flags", "table", "values"),
    [
        (["--size", "16x24"], "data", {"height": 16, "width": 24}),
        (["--size", "32"], "data", {"height": 32, "width": 32}),
        (["--set", "model.label_hidden=[3, 4]"], "model", {"label_hidden": [3, 4]}),
        (["--set", "data.resize=crop"], "data", {"resize": "crop"}),
        (["--set", "augment.flip=true"], "augment", {"flip": True}),
        (["--set", "optimiser.lr=1"], "optimiser", {"lr": 1.0}),
        (["--optimizer", "sgd", "--lr-schedule", "cosine"], "optimiser", {"name": "sgd", "lr_schedule": "cosine"}),
        (["--lam-max", "0.5", "--lam-schedule", "linear"], "adapt", {"lam_max": 0.5, "lam_schedule": "linear"}),
        (["--weights", "DEFAULT", "--backbone", "resnet18"], "model", {"weights": "DEFAULT", "backbone": "resnet18"}),
        (["--bn", "domain"], "model", {"bn": "domain"}),
        (["--ema", "0.99"], "optimiser", {"ema": 0.99}),
        (["--select", "im"], "selection", {"criterion": "im"}),
        (["--method", "cdan"], "objectives", {"dann": 0.0, "cdan": 1.0}),
        (["--method", "mean-teacher", "--ema", "0.5"], "optimiser", {"ema": 0.5}),
        (["--method", "mcc", "--set", "objectives.mcc=0.5"], "objectives", {"dann": 0.0, "mcc": 0.5}),
    ],
)
def test_flags_become_settings(flags: list[str], table: str, values: dict[str, Any], place: Path):
    settings = resolved("--source", "renders", *flags)[table]
    assert {name: settings[name] for name in values} == values


def test_flags_of_the_run_itself_become_settings(place: Path):
    settings = resolved("--source", "renders", "--accumulate", "4", "--init-from", "start.pth")
    assert (settings["accumulate"], settings["init_from"]) == (4, "start.pth")


def test_a_network_that_is_not_square_trains_and_exports(place: Path):
    done("train", *DATA, *TINY, "--size", "16x24")
    done("export")
    done("infer", "--test-loc", "labelled", "--out-path", "preds.csv")


# ---- output -------------------------------------------------------------------------------------------------------


def test_scores_go_to_standard_output_and_progress_does_not(place: Path):
    ran = done("train", *DATA, *TINY)
    scores = ["source", "target", "domains"]
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["run:", *scores, "last", "selected", "best"]
    assert ran.stderr.startswith("train: 1/2")
    quiet = done("train", *DATA, *TINY, "--quiet")
    assert quiet.stderr == "" and quiet.stdout.startswith("run: runs/custom-dann-s0-2 ")


def test_last_selected_and_best_on_test_labels_are_side_by_side(place: Path):
    ran = done("train", *DATA, *NETWORK, "--epochs", "3", "--select", "im", "--name", "mine")
    result = json.loads(Path("runs/mine/result.json").read_text())
    lines = ran.stdout.splitlines()[-3:]
    for line, title in zip(lines, ("last ", "selected (im) ", "best on test labels "), strict=True):
        entry = result[title.split(" (")[0].strip().replace(" ", "_")]
        assert line.startswith(title)
        assert f"step {entry['step']:>6}  target accuracy {entry['target_accuracy']:.4f}" in line
    gap = result["selected"]["target_accuracy"] - result["best_on_test_labels"]["target_accuracy"]
    assert f"(not a result; selected is {gap:+.4f})" in lines[2]


@pytest.mark.parametrize("words", [["--mode", "source"], ["--mode", "target"]], ids=" ".join)
def test_where_nothing_is_selected_nothing_is_side_by_side(words: list[str], place: Path):
    assert "best on test labels" not in done("train", *DATA, *TINY, *words).stdout


def test_a_run_is_named_after_its_method(place: Path):
    assert done("train", *DATA, *TINY, "--method", "mcc").stdout.startswith("run: runs/custom-mcc-s0 ")
    assert done("train", *DATA, *TINY, "--mode", "source").stdout.startswith("run: runs/custom-source-s0 ")
    changed = ["--method", "mcc", "--set", "objectives.bnm=0.5"]
    assert done("train", *DATA, *TINY, *changed).stdout.startswith("run: runs/custom-mcc-bnm-s0 ")


def test_it_is_told_what_was_taken_of_weights_to_begin_from(finished: Path):
    ran = done("train", *DATA, *TINY, "--init-from", "runs/tiny", "--mode", "source")
    assert [line for line in ran.stderr.splitlines() if "tensors loaded" in line][0].startswith("feature_extractor: ")
    assert json.loads(Path("runs/custom-source-s0/config.json").read_text())["config"]["init_from"].endswith(
        "runs/tiny"
    )


def test_a_method_with_averaged_weights_and_selection_trains_exports_and_infers(place: Path):
    words = ["--method", "mean-teacher", "--bn", "domain", "--select", "bnm", "--accumulate", "2"]
    done("train", *DATA, *TINY, *words)
    assert Path("runs/custom-mean-teacher-s0/checkpoints/selected.safetensors").is_file()
    done("eval")
    done("export")
    assert (
        json.loads(Path("runs/custom-mean-teacher-s0/bundle/manifest.json").read_text())["provenance"]["checkpoint"]
        == "selected"
    )
    done("infer", "--test-loc", "labelled", "--out-path", "preds.csv")


def test_the_oracle_is_stamped(place: Path):
    assert done("train", *DATA, *TINY, "--mode", "target").stdout.splitlines()[1].startswith("ORACLE")


def test_without_standard_error_it_trains_all_the_same(place: Path):
    ran = outcome(start("train", *DATA, *TINY, "--name", "mine", before="import sys; sys.stderr = None"))
    assert ran.exit_code == 0 and ran.stdout.startswith("run: runs/mine "), ran


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_results_that_cannot_be_printed_are_written_all_the_same(finished: Path):
    full = "import sys; sys.stdout = open('/dev/full', 'w')"
    ran = outcome(start("eval", "--run", "tiny", before=full))
    assert ran.exit_code == 1 and "error: the output cannot be written: No space left on device" in ran.stderr, ran
    assert json.loads(Path("runs/tiny/eval.json").read_text())["target"]["images"]


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "exit_code", "parts"),
    [
        (["--source", "nowhere/"], 2, ["'nowhere/'", "does not exist", "expected a folder"]),
        (["--source", "minst"], 2, ["'minst'", "did you mean 'mnist'?"]),
        (["--source", "empty"], 2, ["no images in 'empty'", ".jpg"]),
        (["--target", "empty"], 2, ["no images in 'empty'", ".jpg"]),
        (["--source", "renders/noon"], 2, ["has no labels", "one sub-folder per class"]),
        (["--source", "one"], 2, ["'one' has one class only, ['noon']", "two or more"]),
        (["--test", "other"], 2, ["'other' has classes", "['dusk']", "the model knows ['night', 'noon']"]),
        (["--source", "spoiled"], 1, ["none of 8 images can be read", "spoiled/a/empty.png"]),
        (["--source", "mnist"], 2, ["no MNIST files", "dann data fetch mnist"]),
        (["--backbone", "resnet81"], 2, ["unknown backbone 'resnet81'", "did you mean 'resnet18'?"]),
        (["--weights", "mine.pt"], 2, ["'mine.pt' is not a file", ".safetensors"]),
        (["--preset", "carz"], 2, ["unknown preset 'carz'", "did you mean 'cars'?"]),
        (["--method", "mean_teacher"], 2, ["unknown method 'mean_teacher'", "did you mean 'mean-teacher'?"]),
        (["--bn", "splitt"], 2, ["unknown value of model.bn 'splitt'", "did you mean 'split'?"]),
        (["--select", "source"], 2, ["unknown value of selection.criterion 'source'", "source-accuracy"]),
        (["--init-from", "mine.pt"], 2, ["'mine.pt' is not a file", ".safetensors"]),
        (["--accumulate", "0"], 2, ["accumulate is 0", "from 1"]),
        (["--ema", "1"], 2, ["optimiser.ema is 1.0"]),
        (["--method", "mean-teacher", "--ema", "0"], 2, ["objectives.mean_teacher needs averaged weights"]),
        (["--set", "objectives.cdan=1"], 2, ["objectives.dann and objectives.cdan", "set one to 0"]),
        (["--set", "objectives.dann=0"], 2, ["nothing adapts", "--mode source"]),
        (["--set", "optimizer.lr=1"], 2, ["unknown setting 'optimizer'", "did you mean 'optimiser'?"]),
        (["--set", "optimiser.lrr=1"], 2, ["unknown setting 'optimiser.lrr'", "did you mean 'optimiser.lr'?"]),
        (["--set", "optimiser.lr=fast"], 2, ["optimiser.lr is 'fast'", "expected float"]),
        (["--set", "lr"], 2, ["'lr'", "KEY=VALUE"]),
        (["--mode", "dan"], 2, ["'dan'", "did you mean 'dann'?"]),
        (["--size", "big"], 2, ["--size is 'big'", "96x128"]),
        (["--size", "16x"], 2, ["--size is '16x'", "96x128"]),
        (["--size", "2"], 2, ["images of 2x2 do not fit", "larger --size"]),
        (["--steps", "0"], 2, ["steps is 0", "from 1"]),
        (["--config", "none.toml"], 2, ["'none.toml' cannot be read"]),
        (["--layout", "split", "--data-root", "empty"], 2, ["layout 'split'", "leave those specs out"]),
        (["--device", "gpu"], 2, ["'gpu'", "auto, cpu, cuda"]),
        (["--amp", "fp16"], 4, ["--amp fp16 needs CUDA", "bf16"]),
        (["--name", "../mine"], 2, ["run name '../mine'"]),
        (["--runs", "/proc/runs"], 1, ["'/proc/runs/custom-dann-s0' cannot be made"]),
        (["--resume", "tiny"], 2, ["--resume continues a run with its own"]),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) and value[0].startswith("--") else None,
)
def test_what_cannot_be_trained_is_refused_and_leaves_no_run(
    words: list[str], exit_code: int, parts: list[str], place: Path, spoil
):
    (place / "empty").mkdir()
    shutil.copytree("renders/noon", "one/noon")
    shutil.copytree("renders/noon", "other/dusk")
    spoil(place / "spoiled/a")
    spoil(place / "spoiled/b")
    refused(dann("train", *DATA, *TINY, *words), exit_code, *parts)
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [([], ["--data-root"]), (["--data-root", "empty"], ["train/source", "train/target", "test"])],
    ids=["no root", "empty root"],
)
def test_a_split_layout_that_is_not_there_is_refused(words: list[str], parts: list[str], place: Path):
    (place / "empty").mkdir()
    refused(dann("train", "--layout", "split", *words, *TINY), 2, *parts)


@pytest.mark.parametrize(
    "words", [["--target", "photos"], ["--test", "labelled"], ["--source-test", "labelled"]], ids=" ".join
)
def test_who_names_data_and_no_source_does_not_get_the_embedded_one(words: list[str], place: Path):
    refused(dann("train", *words, *TINY), 2, "no source images were given", "--source")
    assert not (place / "runs").exists()


def test_mode_dann_needs_photos(place: Path):
    refused(dann("train", "--source", "renders", *TINY), 2, "mode 'dann' needs target images", "--target")


def test_a_device_that_is_not_there_is_refused(place: Path, without_cuda: None):
    refused(dann("train", *DATA, *NETWORK, "--device", "cuda"), 4, "device 'cuda'", "use cpu or auto")


@pytest.mark.parametrize(
    "option",
    [
        ["--name", "b"],
        ["--print-config"],
        ["--seed", "1"],
        ["--preset", "cars"],
        ["--method", "mcc"],
        ["--bn", "split"],
    ],
)
def test_a_resumed_run_takes_no_other_options(option: list[str], finished: Path):
    refused(dann("train", "--resume", "tiny", *option), 2, "its own name and settings")


def test_a_finished_run_is_not_overwritten(finished: Path):
    before = (finished / "runs/tiny/config.json").read_bytes()
    refused(dann("train", *DATA, *TINY, "--name", "tiny"), 2, "'runs/tiny' exists already", "--name")
    assert (finished / "runs/tiny/config.json").read_bytes() == before


@pytest.mark.parametrize(("given", "meant"), [("--epoch", "--epochs"), ("--bach-size", "--batch-size")])
def test_a_mistyped_option_is_pointed_out(given: str, meant: str):
    ran: Ran = dann("train", given, "3")
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert given in ran.stderr and meant in ran.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["train", "--method", "mcc", "--mode", "source"],
            "--method mcc says how to adapt, and mode 'source' does not",
        ),
        (["train", "--steps", "3", "--epochs", "2"], "--steps and --epochs both say how long"),
        (["compare", "--steps", "3", "--epochs", "2"], "--steps and --epochs both say how long"),
        (["compare", "--set", "seed=5"], "leave --set seed=… out"),
        (["compare", "--set", "mode=source"], "leave --set mode=… out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words: list[str], said: str, place: Path):
    refused(dann(words[0], *DATA, *words[1:]), 2, said)
    assert not Path("runs").exists()


def test_a_file_does_not_take_a_method_back(place: Path):
    Path("all.toml").write_text(done("train", *DATA, "--print-config").stdout)
    refused(
        dann("train", "--config", "all.toml", "--method", "mcc"),
        2,
        "method 'mcc' is made of objectives.mcc, which is 0",
    )
    Path("lr.toml").write_text("[optimiser]\nlr = 0.5\n")
    found = resolved(*DATA, "--config", "lr.toml", "--method", "mcc")
    assert (found["optimiser"]["lr"], found["objectives"]["mcc"]) == (0.5, 1.0)


def test_a_profile_says_where_the_time_went(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(pictures)
    ran = done("train", *DATA, *NETWORK, "--steps", "8", "--runs", tmp_path, "--profile")
    assert "  forward " in ran.stderr and "profile.json" in ran.stderr
