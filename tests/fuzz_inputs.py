"""Fuzzing by coverage of what comes from outside: ``python fuzz_inputs.py image|manifest|rows [libFuzzer options]``.

An exception, a crash, a timeout or too much memory ends it, and the input is left in the folder of
``-artifact_prefix``. Of OpenCV nothing is instrumented: the ways that are found are those of dann.
"""

import csv
import importlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

atheris: Any = importlib.import_module("atheris")  # it is on Linux alone, and without types

with atheris.instrument_imports(include=["dann"]):
    import mutations
    from good_manifest import MANIFEST

    from dann.infer.bundle import BundleError, Manifest, is_one_line, sealed
    from dann.infer.images import spreadsheet_safe
    from dann.infer.predict import Prediction
    from dann.infer.results import UNKNOWN, Rows


def image(data: bytes) -> None:
    mutations.ending(data)


def manifest(data: bytes) -> None:
    try:
        Manifest.from_json(data)
    except BundleError:
        pass


def resealed(data: bytes) -> bytes:
    """Whatever else changed in a manifest, its own hash fits."""
    return sealed(re.sub(rb'("manifest_sha256":\s*)"[^"]*"', rb'\1"' + b"0" * 64 + b'"', data, count=1))


def rows(data: bytes) -> None:
    """What Python's readers find in the rows is what was written."""
    given = atheris.FuzzedDataProvider(data)
    text = [os.fsdecode(given.ConsumeBytes(given.ConsumeIntInRange(0, 40)).replace(b"\0", b"")) for _ in range(6)]
    classes = list(dict.fromkeys(name for name in text[:4] if is_one_line(name) and name != UNKNOWN)) or ["a"]
    options = {"top_k": given.ConsumeIntInRange(1, len(classes)), "probs": given.ConsumeBool()}
    options["min_probability"] = given.ConsumeProbability()
    probabilities = np.array([given.ConsumeProbability() for _ in classes], np.float32)
    best = int(probabilities.argmax())
    path, error = text[4:]
    good = Prediction(path, label=classes[best], probability=float(probabilities[best]), probabilities=probabilities)
    for prediction in (good, Prediction(path, error=error)):
        header, row = read_csv(Rows(classes, format="csv", **options), prediction)
        values = json.loads(Rows(classes, format="jsonl", **options).row(prediction))
        assert [*values] == header and len(row) == len(header)
        assert all(cell == written(value) for cell, value in zip(row, values.values(), strict=True))
        assert values["path"] == spreadsheet_safe(path) and values["error"] == prediction.error
        unknown = prediction is good and float(probabilities[best]) < options["min_probability"]
        assert values["label"] == (UNKNOWN if unknown else prediction.label)


def read_csv(rows: Rows, prediction: Prediction) -> list[list[str]]:
    content = (rows.header() + rows.row(prediction)).decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(content, newline="")))


def written(value: str | float | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.6f}"


SEEDS: dict[str, list[bytes]] = {
    "image": [*mutations.FILES.values()],
    "manifest": [MANIFEST.to_json(), b"{}", b'{"schema": 1}'],
    "rows": [bytes(range(1, 256)), b'a,"b\n' * 50],
}
TARGETS: dict[str, Callable[[bytes], None]] = {"image": image, "manifest": manifest, "rows": rows}
SEALS: dict[str, Callable[[bytes], bytes]] = {"image": mutations.sealed_png, "manifest": resealed}
"""What makes a mutated input pass its checksums."""


def main(name: str, *options: str) -> None:
    def mutate(data: bytes, size: int, seed: int) -> bytes:
        return SEALS.get(name, bytes)(atheris.Mutate(data, size))[:size]

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS[name]):
            Path(folder, str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *options, folder], TARGETS[name], custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
