#!/usr/bin/env bash
# From nothing to predictions: renders cars, trains without and with adaptation, exports, classifies.
# Run from the root of the project with `dann` on the PATH (`make demo` does both). Writes demo/ only.
# The "photos" are simulated too: a program draws them with clutter, shadow, blur, noise and colour casts.
set -euo pipefail
export DANN_DATA=demo  # where `dann train` looks for the set `cars`
rm -rf demo/runs

dann data cars --out demo/cars
dann data sheet --images demo/cars/train/source --out-path demo/source.jpg
dann data sheet --images demo/cars/test --out-path demo/target.jpg

dann train --runs demo/runs --mode source
dann train --runs demo/runs
dann export --runs demo/runs
dann infer --runs demo/runs --test-loc demo/cars/test --out-path demo/preds.csv
dann report --runs demo/runs --source-only cars-source-s0 --out-path demo/report.html

python - <<'SUMMARY'
import csv
import json

results = {}
for mode in ("source", "dann"):
    with open(f"demo/runs/cars-{mode}-s0/result.json") as file:
        results[mode] = json.load(file)["target"]
classes = list(results["dann"]["recall"])

print("\naccuracy on simulated photos (no photo was ever labelled in training):")
for mode, name in (("source", "source only"), ("dann", "DANN")):
    print(f"  {name:12s} {results[mode]['accuracy']:.3f}")
with open("demo/preds.csv", newline="") as file:
    rows = list(csv.DictReader(file))
right = sum(row["label"] == row["path"].split("/")[0] for row in rows)
print(f"  {'preds.csv':12s} {right / len(rows):.3f}   ({right} of {len(rows)} rows, by the exported DANN model)")

print("\nrecall of each class                    called, by DANN, " + "  ".join(f"{name:>9s}" for name in classes))
for name, called in zip(classes, results["dann"]["confusion"], strict=True):
    before, after = (results[mode]["recall"][name] for mode in ("source", "dann"))
    print(f"  {name:12s} {before:.3f} -> {after:.3f}  {after - before:+.3f}{'':19s}" + "  ".join(f"{n:9d}" for n in called))
print("\nto look at: demo/source.jpg  demo/target.jpg  demo/report.html  demo/preds.csv")
SUMMARY
