"""The sets that a run trains and is tested on, opened from its configuration.

Target labels are structurally absent from adaptation: the target is an :class:`ImageSet`, which has none. Only mode
``target``, the oracle, opens the target with labels, and then nothing else is trained on.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dann.infer.errors import UsageError
from dann.train.data import (
    ImageSet,
    LabelledSet,
    default_data_root,
    has_test_split,
    holdout,
    open_labelled,
    open_unlabelled,
    split_layout,
)
from dann.train.named_sets import CARS, DIGIT_SETS, NAMED_SETS
from dann.train.rendering.cars import is_cars_set, write_cars
from dann.train.settings import DataConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Domains:
    """Everything a run reads."""

    labelled: LabelledSet
    """What the label classifier learns from: the source, or the target in mode ``target``."""
    unlabelled: ImageSet | None
    """The target: in mode ``dann``, and in mode ``source`` for its batch statistics if ``adabn`` asks for them."""
    source_test: LabelledSet | None
    target_test: LabelledSet | None
    simulated: bool
    """Whether the target photos are simulated ones, which every result must say."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labelled.classes

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Name and reason of every image that could not be read."""
        sets = [
            self.labelled.images,
            self.unlabelled,
            *(s.images for s in (self.source_test, self.target_test) if s),
        ]
        return list(dict.fromkeys(entry for images in sets if images is not None for entry in images.skipped))

    @property
    def notes(self) -> list[str]:
        """What the scores must not be taken for."""
        test = [] if self.target_test is None else self.target_test.images.names
        known = len(set(test) & set(self.labelled.images.names))
        if known:
            return [f"{known} of the {len(test)} test images are trained on: target accuracy says little of new images"]
        return []

    def record(self) -> dict[str, Any]:
        """What ``config.json`` keeps of the data: enough to tell whether a resumed run still sees the same."""
        labelled = {"labelled": self.labelled, "source_test": self.source_test, "target_test": self.target_test}
        data = {
            name: {
                "images": len(found),
                "fingerprint": found.images.fingerprint(),
                "labels": hashlib.sha256(found.labels.tobytes()).hexdigest(),
            }
            for name, found in labelled.items()
            if found is not None
        }
        if self.unlabelled is not None:
            data["unlabelled"] = {"images": len(self.unlabelled), "fingerprint": self.unlabelled.fingerprint()}
        return {"classes": list(self.classes), "data": data, "simulated": self.simulated}

    def changed_since(self, recorded: dict[str, Any]) -> list[str]:
        """What is no longer as :meth:`record` had it, for people: ``unlabelled (40 images, now 41)``."""
        before, now = dict(recorded.get("data", {})), self.record()
        changed = [] if recorded.get("classes") == now["classes"] else ["the classes"]
        for name in dict.fromkeys([*before, *now["data"]]):
            then, here = before.get(name), now["data"].get(name)
            if then != here:
                counts = [f"{each['images']} images" if each else "none" for each in (then, here)]
                what = f"{counts[0]}, now {counts[1]}" if counts[0] != counts[1] else "content or labels differ"
                changed.append(f"{name} ({what})")
        return changed


def specs(data: DataConfig) -> tuple[str, str | None, str | None]:
    """Source, target and test spec, whichever way the configuration names them."""
    if data.layout == "split":
        if data.source or data.target or data.test:
            raise UsageError(
                "layout 'split' says by itself where source, target and test are; leave those specs out, and a preset, "
                "which names them"
            )
        if data.data_root is None:
            raise UsageError("layout 'split' needs the folder that holds train/ and test/; give it as --data-root")
        return split_layout(Path(data.data_root))
    if not data.source:
        raise UsageError("no source images were given; name them with --source, or choose a --preset that has its own")
    return data.source, data.target, data.test


def is_simulated(spec: str) -> bool:
    """Whether ``spec`` is the set ``cars`` or a folder in one: photos that :mod:`dann.train.rendering` drew."""
    folder = Path(spec)
    return spec == CARS or any(is_cars_set(above) for above in (folder, *folder.resolve().parents[:2]))


def located(config: TrainConfig) -> TrainConfig:
    """``config`` with absolute paths, so that its run can be resumed and evaluated from any folder."""

    def absolute(spec: str | None) -> str | None:
        return spec if not spec or spec in NAMED_SETS else str(Path(spec).absolute())

    data = config.data
    fields = {name: absolute(getattr(data, name)) for name in ("source", "target", "test", "source_test")}
    if data.data_root or any(spec in NAMED_SETS for spec in fields.values()):
        fields["data_root"] = str(Path(data.data_root or default_data_root()).absolute())
    weights = config.model.weights
    return replace(
        config,
        init_from=absolute(config.init_from),
        model=replace(
            config.model, weights=weights if weights in ("none", "DEFAULT") else str(Path(weights).absolute())
        ),
        data=replace(data, **fields),
    )


def draw_missing_cars(config: TrainConfig, on_message: Callable[[str], None]) -> None:
    """Draw the embedded ``cars`` under the data root, if ``config`` uses them and they are not there."""
    data = config.data
    root = Path(data.data_root or default_data_root())
    if CARS in (data.source, data.target, data.test) and data.layout == "specs" and not (root / CARS).exists():
        on_message(
            f"drawing the embedded cars (studio renders and simulated photos) into {root / CARS}: once, about a minute"
        )
        write_cars(root / CARS)


def open_domains(config: TrainConfig) -> Domains:
    """Open what ``config.mode`` needs; :class:`UsageError` for what is missing, empty or does not match."""
    data = config.data
    source, target, test = specs(data)
    needs_photos = config.mode == "dann" or (config.adabn and config.mode == "source")
    if target is None and (needs_photos or config.mode == "target"):
        what = "adabn" if config.mode == "source" else f"mode {config.mode!r}"
        raise UsageError(f"{what} needs target images; name them with --target")

    labelled, source_test = open_source_sets(config)
    classes = labelled.classes
    if config.mode == "target":
        assert target is not None
        labelled = open_labelled(target, data.preprocess, role="target", data_root=data.root, classes=classes)
    unlabelled = None
    if needs_photos:
        assert target is not None
        unlabelled = open_unlabelled(target, data.preprocess, data_root=data.root)
    return Domains(
        labelled=labelled,
        unlabelled=unlabelled,
        source_test=source_test,
        target_test=open_target_test(data, target, test, classes),
        simulated=any(is_simulated(spec) for spec in (target, test) if spec),
    )


def open_target_test(
    data: DataConfig, target: str | None, test: str | None, classes: tuple[str, ...]
) -> LabelledSet | None:
    """The labelled target images to report on: ``test``, else the target's own test split, else none."""
    spec = test or (target if target and has_test_split(target) else None)
    if spec is None:
        return None
    return open_labelled(spec, data.preprocess, split="test", role="target", data_root=data.root, classes=classes)


def open_source_sets(config: TrainConfig) -> tuple[LabelledSet, LabelledSet | None]:
    """The source to train on and the source to test on, which share no image."""
    data = config.data
    source, _, _ = specs(data)
    labelled = open_labelled(source, data.preprocess, data_root=data.root)
    spec = data.source_test or (source if source in DIGIT_SETS else None)
    if spec is not None:
        test = open_labelled(spec, data.preprocess, split="test", data_root=data.root, classes=labelled.classes)
        return labelled, test
    if data.holdout == 0:
        return labelled, None
    return holdout(labelled, data.holdout, config.seed)
