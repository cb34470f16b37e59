"""The parts of a run's report: each is what the page shows, or a sentence that says why it is not there.

A run may have been interrupted, have no target, no test labels, or images that are gone. Scores are those that the run
wrote; features, mistakes and calibration come from what its network says of its images now.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup

from dann.infer.errors import UsageError
from dann.infer.preprocess import shrunk
from dann.train.data import ImageSet
from dann.train.evaluate import calibration_error, confidence_bins, evaluation_subset, scores
from dann.train.reporting import figures
from dann.train.reporting.diagnostics import (
    Prediction,
    class_change,
    proxy_a_distance,
    samples,
    tsne,
    worst_mistakes,
)
from dann.train.reporting.run_outputs import ImageOutputs, RunOutputs
from dann.train.reporting.run_record import RunRecord

Part = dict[str, Any] | str
"""What the template shows, or why there is nothing to show."""

SEED = 0  # of what is drawn here: the same images for every run, whatever its own seed
FEATURES = 1000  # images of each domain that the A-distance is measured on
_DOTS = 500  # images of each domain for t-SNE, which takes seconds for a thousand dots
_THUMBNAILS = 24
_THUMBNAIL_PX = 128
_LOSSLESS_PX = 64  # JPEG would smear the few pixels of a digit
_MOST_BARS = 30  # classes; beyond, the table tells more
_NO_TEST_LABELS = "The run has no labelled test images that could be scored."


def score(value: float | None) -> str:
    """An accuracy."""
    return "–" if value is None else f"{value:.3f}"


def points(change: float | None) -> str:
    """A difference of accuracies in percentage points, with its sign."""
    if change is None:
        return "–"
    return f"{100 * change:+.1f}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


def number(value: float | None) -> str:
    """Anything else, in four digits."""
    return "–" if value is None else f"{value:.4g}".replace("-", "−")


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The labelled images that a run is judged by: the target's, or the source's where the target has no labels."""

    domain: str
    scores: dict[str, Any]
    outputs: ImageOutputs | str
    """What the network says of them now, or why that cannot be told."""


def tested(record: RunRecord, seen: RunOutputs) -> Tested | None:
    """What the run is judged by: its own scores where it finished, else what its network says now."""
    for domain, outputs in (("target", seen.target), ("source", seen.source)):
        if record.result.get(domain):
            found = record.result[domain]
            return Tested(domain=domain, scores=found, outputs=_of_the_same(outputs, found))
        if isinstance(outputs, ImageOutputs) and outputs.labels_N is not None:
            found = scores(outputs.logits_NK, outputs.labels_N, seen.classes).to_dict()
            return Tested(domain=domain, scores=found, outputs=outputs)
    return None


def _of_the_same(outputs: ImageOutputs | str, scored: dict[str, Any]) -> ImageOutputs | str:
    """``outputs``, unless they are of other images than were scored."""
    if isinstance(outputs, str):
        return outputs
    images_K = [sum(row) for row in scored["confusion"]]
    if outputs.labels_N is None or np.bincount(outputs.labels_N, minlength=len(images_K)).tolist() != images_K:
        return "The test images are no longer those that the run was scored on."
    return outputs


def checkpoints(record: RunRecord) -> Part:
    """The accuracies of the last, the selected and the best checkpoint, side by side with the gap to the best."""
    result, evaluations = record.result, record.of_kind("eval")
    if result:
        criterion = result.get("selection", {}).get("criterion", "last")
        named = {
            "last": result.get("last"),
            f"selected ({criterion})": result.get("selected"),
            "best on test labels": result.get("best_on_test_labels"),
        }
    elif evaluations:
        named = {"last evaluation": evaluations[-1]}
    else:
        return "The run was never evaluated."
    best = (result.get("best_on_test_labels") or {}).get("target_accuracy")
    keys = ("source_accuracy", "target_accuracy", "domain_accuracy")
    rows = [
        {
            "name": name,
            "time": record.time(found["step"]),
            "exported": name.startswith(result.get("checkpoint", "no checkpoint")),
            "gap": _difference(found.get("target_accuracy"), best),
            **{key: found.get(key) for key in keys},
        }
        for name, found in named.items()
        if found
    ]
    return {"rows": rows, "unit": record.time_unit}


def compared(judged: Tested | None, before: RunRecord | None) -> Part:
    """Accuracy and recall beside those of the source-only run ``before``."""
    if before is None:
        return "No source-only run was named to compare with."
    name = str(before.run.root)
    if before.config.mode != "source":
        raise UsageError(f"run {name!r} is of mode {before.config.mode!r}; name one of mode 'source' to compare with")
    if judged is None or judged.domain != "target":
        return "Without labelled target images there is nothing to compare with a source-only run."
    was = before.result.get("target")
    if not was:
        raise UsageError(f"run {name!r} has no target scores to compare with: finish it, and with test images")
    if _images_by_class(was) != _images_by_class(judged.scores):
        raise UsageError(
            f"run {name!r} was tested on other images ({_images_by_class(was)}) than this one "
            f"({_images_by_class(judged.scores)}); name one with the same classes and test images"
        )
    return {
        "run": before.run.root.resolve().name,
        "accuracy": was["accuracy"],
        "change": judged.scores["accuracy"] - was["accuracy"],
        "recall": was["recall"],
        "recall_change": class_change(was["recall"], judged.scores["recall"]),
    }


def cards(record: RunRecord, judged: Tested | None, change: Part, distance: Part) -> list[tuple[str, str, str]]:
    """The numbers to see first: title, number and what to hold it against; those that the run has."""
    found: list[tuple[str, str, str]] = []
    if judged is not None:
        of, images = judged.scores, judged.scores["images"]
        note = f"on {images} test images; mean recall {score(of['mean_recall'])}"
        found.append((f"{judged.domain.capitalize()} accuracy", score(of["accuracy"]), note))
    if not isinstance(change, str):
        found.append(("Over source only", points(change["change"]), f"points; it has {score(change['accuracy'])}"))
    if judged is not None and judged.domain == "target" and (source := record.result.get("source")):
        found.append(("Source accuracy", score(source["accuracy"]), f"on {source['images']} test images"))
    if record.result.get("domain_accuracy") is not None:
        found.append(("Domains told", score(record.result["domain_accuracy"]), "0.5 is chance"))
    if not isinstance(distance, str):
        found.append(("Proxy A-distance", f"{distance['distance']:.2f}", "0: alike, 2: apart"))
    if judged is not None:
        found.append(("Calibration error", score(judged.scores["ece"]), "ECE; 0 is perfect"))
    return found


def losses(record: RunRecord) -> Part:
    """Every loss that was logged, over time."""
    names = [key for key in record.keys("step") if key.endswith("_loss")]
    if not names:
        return "No training step was logged."
    curves = {name.removesuffix("_loss").replace("_", " "): record.curve("step", name) for name in names}
    return {"figure": Markup(figures.loss_curves(curves, x_label=record.time_unit))}


def accuracy(record: RunRecord, rows: Part) -> Part:
    """Source and target accuracy over time, the checkpoints of ``rows`` marked."""
    source, target = record.curve("eval", "source_accuracy"), record.curve("eval", "target_accuracy")
    if not source[0] and not target[0]:
        return "No accuracy was logged: the run was not evaluated, or has no labelled test images."
    key = "target_accuracy" if target[0] else "source_accuracy"
    marks = {} if isinstance(rows, str) else {row["name"]: (row["time"], row[key]) for row in rows["rows"]}
    marks = {name: point for name, point in marks.items() if point[1] is not None}
    return {"figure": Markup(figures.accuracy_curves(source, target, marks, x_label=record.time_unit))}


def told(record: RunRecord) -> Part:
    """How well the domain classifier told the domains apart, over time."""
    curves = {
        name: record.curve(kind, "domain_accuracy") for name, kind in (("training", "step"), ("test images", "eval"))
    }
    curves = {name: points for name, points in curves.items() if points[0]}
    if not curves:
        adversarial = record.config.mode == "dann" and record.config.objectives.adversarial
        return "No domain accuracy was logged." if adversarial else "No domain classifier was trained."
    return {"figure": Markup(figures.domain_accuracy_curve(curves, x_label=record.time_unit))}


def schedules(record: RunRecord) -> Part:
    """λ, where it has an effect, and the learning rate, over time."""
    names = {"λ": "lam", "learning rate": "lr"} if record.config.mode == "dann" else {"learning rate": "lr"}
    curves = {name: record.curve("step", key) for name, key in names.items()}
    curves = {name: points for name, points in curves.items() if points[0]}
    if not curves:
        return "No schedule was logged."
    return {"figure": Markup(figures.schedule_curves(curves, x_label=record.time_unit))}


def selection(record: RunRecord) -> Part:
    """What each label-free criterion would have picked, and what that would have been worth."""
    if not record.result:
        return "Nothing is selected before the run is finished."
    found = record.result.get("selection", {})
    if len(found.get("choices", {})) < 2:  # "last" alone is no choice
        return "Nothing was selected: there is only the last checkpoint to choose from."
    best = (record.result.get("best_on_test_labels") or {}).get("target_accuracy")
    evaluations = {line["step"]: line for line in record.of_kind("eval")}
    rows = []
    for criterion, step in found["choices"].items():
        line = evaluations.get(step, {})
        rows.append(
            {
                "criterion": criterion,
                "used": criterion == found["criterion"],
                "time": record.time(step),
                "value": line.get("criteria", {}).get(criterion),
                "target_accuracy": line.get("target_accuracy"),
                "gap": _difference(line.get("target_accuracy"), best),
            }
        )
    return {"rows": rows, "unit": record.time_unit}


def classes(judged: Tested | None, change: Part) -> Part:
    """Per class: recall, what it is confused with, and the change against a source-only run."""
    if judged is None:
        return _NO_TEST_LABELS
    confusion_KK, recall = np.array(judged.scores["confusion"]), judged.scores["recall"]
    names, before = list(recall), None if isinstance(change, str) else change["recall"]
    rows = [
        {
            "name": name,
            "images": int(row_K.sum()),
            "predicted": int(confusion_KK[:, k].sum()),
            "recall": recall[name],
            "before": None if before is None else before.get(name),
            "change": None if isinstance(change, str) else change["recall_change"][name],
            "taken_for": _taken_for(k, row_K, names),
        }
        for k, (name, row_K) in enumerate(zip(names, confusion_KK, strict=True))
    ]
    return {
        "domain": judged.domain,
        "images": judged.scores["images"],
        "rows": rows,
        "compared": before is not None,
        "confusion": Markup(figures.confusion_matrix(judged.scores["confusion"], names)),
        "bars": Markup(figures.recall_bars(recall, before, domain=judged.domain)) if len(names) <= _MOST_BARS else None,
    }


def features(seen: RunOutputs) -> Part:
    """Where the features of both domains lie: t-SNE by class and by domain."""
    dots = {
        name: outputs.subset(evaluation_subset(len(outputs), _DOTS, SEED)) for name, outputs in _domains(seen).items()
    }
    if not dots:
        return _missing(seen)
    points_N2 = tsne(np.concatenate([outputs.features_ND for outputs in dots.values()]))
    by_class = [colour for outputs in dots.values() for colour in _class_colours(outputs)]
    by_domain = [figures.DOMAIN_COLOURS[name] for name, outputs in dots.items() for _ in range(len(outputs))]
    shown = " and ".join(f"{len(outputs)} {name} images" for name, outputs in dots.items())
    class_legend = {name: figures.colour_of(k) for k, name in enumerate(seen.classes)}
    if figures.NO_LABEL_COLOUR in by_class:
        class_legend["without label"] = figures.NO_LABEL_COLOUR
    return {
        "shown": shown,
        "by_class": Markup(figures.embedding(points_N2, by_class, f"t-SNE of the features of {shown}, by class")),
        "class_legend": class_legend,
        "by_domain": Markup(figures.embedding(points_N2, by_domain, f"t-SNE of the features of {shown}, by domain")),
        "domain_legend": {name: figures.DOMAIN_COLOURS[name] for name in dots},
    }


def a_distance(seen: RunOutputs) -> Part:
    """How far apart the features of the domains are."""
    domains = _domains(seen)
    if len(domains) < 2:
        return _missing(seen)
    source_ND, target_ND = (
        outputs.features_ND[evaluation_subset(len(outputs), FEATURES, SEED)] for outputs in domains.values()
    )
    found = proxy_a_distance(source_ND, target_ND, SEED)
    return "The A-distance needs two images of each domain." if found is None else asdict(found)


def calibration(judged: Tested | None) -> Part:
    """How far the network's confidence can be believed."""
    if judged is None:
        return _NO_TEST_LABELS
    if isinstance(judged.outputs, str):
        return judged.outputs
    logits_NK, labels_N = judged.outputs.logits_NK, _labels(judged.outputs)
    error = calibration_error(logits_NK, labels_N)
    figure = figures.reliability(confidence_bins(logits_NK, labels_N), error, domain=judged.domain)
    return {"domain": judged.domain, "ece": error, "figure": Markup(figure)}


def mistakes(judged: Tested | None, names: Sequence[str]) -> Part:
    """The wrong predictions that the network was most sure of."""
    if judged is None:
        return _NO_TEST_LABELS
    if isinstance(judged.outputs, str):
        return judged.outputs
    found = worst_mistakes(judged.outputs.logits_NK, _labels(judged.outputs), _THUMBNAILS)
    if not found:
        return f"All {len(judged.outputs)} test images are right."
    return {"domain": judged.domain, "thumbnails": _thumbnails(found, judged.outputs.images, names)}


def sampled(seen: RunOutputs) -> Part:
    """Predictions for images of the target, or of the source where there is no target."""
    domains = _domains(seen)
    if not domains:
        return _missing(seen)
    domain, outputs = list(domains.items())[-1]
    found = samples(outputs.logits_NK, outputs.labels_N, _THUMBNAILS)
    thumbnails = _thumbnails(found, outputs.images, seen.classes)
    return {"domain": domain, "labelled": outputs.labels_N is not None, "thumbnails": thumbnails}


def _domains(seen: RunOutputs) -> dict[str, ImageOutputs]:
    both = {"source": seen.source, "target": seen.target}
    return {name: outputs for name, outputs in both.items() if isinstance(outputs, ImageOutputs)}


def _missing(seen: RunOutputs) -> str:
    return " ".join(dict.fromkeys(outputs for outputs in (seen.source, seen.target) if isinstance(outputs, str)))


def _labels(outputs: ImageOutputs) -> np.ndarray:
    assert outputs.labels_N is not None, "what is judged by has labels"
    return outputs.labels_N


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _images_by_class(found: dict[str, Any]) -> dict[str, int]:
    return {name: sum(row) for name, row in zip(found["recall"], found["confusion"], strict=True)}


def _taken_for(true: int, row_K: np.ndarray, names: Sequence[str]) -> str:
    """The wrong class that most images of a class are given, and how many."""
    wrong_K = np.where(np.arange(len(row_K)) == true, 0, row_K)
    return f"{names[int(wrong_K.argmax())]} ({wrong_K.max()})" if wrong_K.any() else "–"


def _class_colours(outputs: ImageOutputs) -> list[str]:
    if outputs.labels_N is None:
        return [figures.NO_LABEL_COLOUR] * len(outputs)
    return [figures.colour_of(int(label)) for label in outputs.labels_N]


def _thumbnails(found: Sequence[Prediction], images: ImageSet, names: Sequence[str]) -> list[dict[str, Any]]:
    pixels_NHWC = images.read(np.array([prediction.index for prediction in found]))
    return [
        {
            "uri": _data_uri(image_HWC),
            "file": images.names[prediction.index],
            "true": None if prediction.true is None else names[prediction.true],
            "predicted": names[prediction.predicted],
            "probability": prediction.probability,
        }
        for prediction, image_HWC in zip(found, pixels_NHWC, strict=True)
    ]


def _data_uri(image_HWC: np.ndarray) -> str:
    """The RGB image, made small, as an address that holds it: PNG for a tiny one, else JPEG."""
    side = max(image_HWC.shape[:2])
    if side <= _LOSSLESS_PX:
        kind, encoded = "png", cv2.imencode(".png", image_HWC[..., ::-1])[1]
    else:
        small = shrunk(image_HWC, _THUMBNAIL_PX / side) if side > _THUMBNAIL_PX else image_HWC
        kind, encoded = "jpeg", cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return f"data:image/{kind};base64,{b64encode(encoded.tobytes()).decode()}"
