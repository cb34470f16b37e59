"""Which sets a run opens, from its mode and its data specs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dann.infer.errors import UsageError
from dann.train import domains
from dann.train.domains import draw_missing_cars, is_simulated, located, open_domains, open_source_sets
from dann.train.image_set import ImageSet
from dann.train.rendering.cars import write_cars
from dann.train.settings import TrainConfig

Configure = Callable[..., TrainConfig]


@pytest.fixture
def opened_with_labels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The specs that were opened with labels since, in order."""
    specs: list[str] = []
    open_labelled = domains.open_labelled

    def recorded(spec: str, *args: Any, **options: Any) -> Any:
        specs.append(spec)
        return open_labelled(spec, *args, **options)

    monkeypatch.setattr(domains, "open_labelled", recorded)
    return specs


def test_adaptation_opens_the_target_without_labels(configure: Configure, sets: dict[str, str], opened_with_labels):
    found = open_domains(configure({"data.target": sets["target"]}))
    assert opened_with_labels == [sets["source"], sets["test"]]
    assert type(found.unlabelled) is ImageSet and len(found.unlabelled) == 40
    public = [name for name in dir(found.unlabelled) if not name.startswith("_")]
    assert not [name for name in public if "label" in name or "class" in name]


def test_source_mode_opens_no_target(configure: Configure, sets: dict[str, str], opened_with_labels):
    found = open_domains(configure({"data.target": "nowhere.npz"}, mode="source"))
    assert opened_with_labels == [sets["source"], sets["test"]]
    assert found.unlabelled is None and len(found.labelled) == 24


def test_the_oracle_trains_on_the_labelled_target_alone(configure: Configure, sets: dict[str, str]):
    found = open_domains(configure({"data.target": sets["target"]}, mode="target"))
    assert found.unlabelled is None and len(found.labelled) == 40
    assert found.labelled.images.fingerprint() != open_domains(configure()).labelled.images.fingerprint()
    assert found.classes == ("across", "upright")


def test_an_oracle_that_is_tested_on_what_it_trains_on_is_told(configure: Configure, sets: dict[str, str]):
    oracle = configure({"data.target": sets["target"], "data.test": sets["target"]}, mode="target")
    (note,) = open_domains(oracle).notes
    assert note.startswith("40 of the 40 test images are trained on")
    held_out = configure({"data.test": sets["source"], "data.holdout": 0.25}, mode="source")
    assert open_domains(held_out).notes[0].startswith("18 of the 24 test images are trained on")
    assert open_domains(configure({"data.target": sets["target"]}, mode="target")).notes == []


def test_the_oracle_needs_labels(configure: Configure):
    with pytest.raises(UsageError, match="has no labels, and they are needed here"):
        open_domains(configure(mode="target"))


def test_classes_of_the_test_set_that_the_source_lacks_are_refused(configure: Configure, tmp_path: Path):
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "test.npz", x=pixels, y=np.arange(2), classes=["across", "round"])
    with pytest.raises(UsageError, match=r"classes that the model was not trained on: \['round'\]"):
        open_domains(configure({"data.test": str(tmp_path / "test.npz")}))


def test_a_held_out_part_of_the_source_is_not_trained_on(configure: Configure):
    config = configure({"data.holdout": 0.25})
    train, test = open_source_sets(config)
    assert test is not None
    assert (len(train), len(test)) == (18, 6)
    assert not set(train.images.names) & set(test.images.names)
    again = open_source_sets(config)[1]
    assert again is not None and again.images.names == test.images.names


def test_a_source_test_set_spares_the_source(configure: Configure, sets: dict[str, str]):
    train, test = open_source_sets(configure({"data.holdout": 0.25, "data.source_test": sets["target"]}))
    assert len(train) == 24 and test is not None and len(test) == 40


def test_nothing_held_out_means_no_source_scores(configure: Configure):
    assert open_source_sets(configure())[1] is None


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    """A data root with a set like the one that is rendered: six sides of two classes, one image each."""
    for number, side in enumerate(("train/source", "train/target", "test")):
        for label, name in enumerate(("suv", "van")):
            folder = tmp_path / "cars" / side / name
            folder.mkdir(parents=True)
            for copy in range(3):
                grey = 20 + 60 * number + 20 * label + copy
                cv2.imwrite(str(folder / f"{copy}.png"), np.full((16, 16, 3), grey, np.uint8))
    (tmp_path / "cars" / "cars.json").write_text('{"renderer": 1}', encoding="utf-8")
    return tmp_path


def test_the_embedded_set_plays_all_its_roles(cars: Path, configure: Configure):
    names = dict.fromkeys(("data.source", "data.target", "data.test"), "cars")
    found = open_domains(configure({**names, "data.data_root": str(cars), "data.holdout": 0.34}))
    assert found.simulated
    assert found.unlabelled is not None and found.source_test is not None and found.target_test is not None
    sides = [found.labelled.images, found.source_test.images, found.unlabelled, found.target_test.images]
    where = [{Path(name).relative_to(cars / "cars").parts[:-2] for name in images.names} for images in sides]
    assert where == [{("train", "source")}, {("train", "source")}, {("train", "target")}, {("test",)}]


def test_the_split_layout_names_the_same_folders(cars: Path, configure: Configure):
    named = {**dict.fromkeys(("data.source", "data.target", "data.test"), "cars"), "data.data_root": str(cars)}
    no_specs = {"data.source": "", "data.target": None, "data.test": None}
    split = {**no_specs, "data.layout": "split", "data.data_root": str(cars / "cars")}
    one, other = open_domains(configure(named)), open_domains(configure(split))
    assert one.labelled.images.names == other.labelled.images.names
    assert one.simulated and other.simulated


def test_folders_inside_the_rendered_set_are_simulated_and_others_are_not(cars: Path, tmp_path_factory):
    assert is_simulated("cars")
    assert is_simulated(str(cars / "cars" / "test"))
    assert is_simulated(str(cars / "cars" / "train" / "target"))
    assert not is_simulated(str(cars))
    assert not is_simulated(str(tmp_path_factory.mktemp("photos")))


def test_real_photos_beside_rendered_sources_are_not_simulated(cars: Path, configure: Configure, sets: dict[str, str]):
    settings = {"data.source": str(cars / "cars" / "train" / "source"), "data.target": sets["unlabelled"]}
    assert not open_domains(configure({**settings, "data.test": None})).simulated


def test_a_located_configuration_opens_the_same_sets_from_anywhere(
    configure: Configure, sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = Path(sets["source"]).parent
    monkeypatch.chdir(folder)
    relative = {f"data.{name}": Path(sets[name]).name for name in ("source", "target", "test")}
    config = located(configure(relative))
    monkeypatch.chdir(tmp_path)
    assert config.data.source == sets["source"] and config.data.source_test is None and config.data.data_root is None
    assert len(open_domains(config).labelled) == 24


def test_locating_keeps_named_sets_and_says_where_they_were(configure: Configure, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DANN_DATA", "digits")
    data = located(configure({"data.source": "mnist", "data.target": "mnistm", "data.test": None})).data
    assert (data.source, data.target, data.test) == ("mnist", "mnistm", None)
    assert data.data_root == str(Path.cwd() / "digits")


def test_the_embedded_cars_are_drawn_once_where_they_lack(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(domains, "write_cars", partial(write_cars, source=10, target=5, test=5, size_px=16, workers=1))
    config = configure(
        {"data.source": "cars", "data.target": "cars", "data.test": "cars", "data.data_root": str(tmp_path)}
    )
    messages: list[str] = []
    draw_missing_cars(config, messages.append)
    draw_missing_cars(config, messages.append)
    assert len(messages) == 1 and "simulated photos" in messages[0]
    found = open_domains(config)
    assert found.simulated and found.classes == ("hatchback", "pickup", "sedan", "suv", "van")
    assert found.unlabelled is not None and len(found.unlabelled) == 5


def test_other_data_draws_no_cars(configure: Configure, tmp_path: Path):
    draw_missing_cars(configure({"data.data_root": str(tmp_path)}), pytest.fail)
    assert list(tmp_path.iterdir()) == []
