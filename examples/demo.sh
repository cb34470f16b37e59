#!/usr/bin/env bash
# From nothing to predictions: renders cars, trains without and with adaptation, exports, classifies.
# Run from the root of the project with `dann` on the PATH (`make demo` does both). Writes demo/ only.
# The "photos" are simulated too: a program draws them with clutter, shadow, blur, noise and colour casts.
set -euo pipefail
export DANN_DATA=demo  # where `dann train` looks for the set `cars`
rm -rf demo/runs

dann data cars --out demo/cars

dann train --runs demo/runs --mode source
dann train --runs demo/runs
dann export --runs demo/runs
dann infer --runs demo/runs --test-loc demo/cars/test --out-path demo/preds.csv

python - <<'SUMMARY'
import csv
import json

print("\naccuracy on simulated photos (no photo was ever labelled in training):")
for mode, name in (("source", "source only"), ("dann", "DANN")):
    with open(f"demo/runs/cars-{mode}-s0/result.json") as file:
        print(f"  {name:12s} {json.load(file)['target']['accuracy']:.3f}")
with open("demo/preds.csv", newline="") as file:
    rows = list(csv.DictReader(file))
right = sum(row["label"] == row["path"].split("/")[0] for row in rows)
print(f"  {'preds.csv':12s} {right / len(rows):.3f}   ({right} of {len(rows)} rows, by the exported DANN model)")
SUMMARY
