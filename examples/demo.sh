#!/usr/bin/env bash
# From nothing to predictions: renders cars, trains without and with adaptation, exports, classifies.
# Run from the root of the project with `dann` on the PATH (`make demo` does both). Writes demo/ and runs/.
# The "photos" are simulated too: a program draws them with clutter, shadow, blur, noise and colour casts.
set -euo pipefail

dann data cars --out demo/cars

dann train --mode source
dann eval --data demo/cars/test --out-path demo/source.json

dann train
dann eval --data demo/cars/test --out-path demo/dann.json

dann export
dann infer --test-loc demo/cars/test --out-path demo/preds.csv

python - <<'SUMMARY'
import json

for mode, name in (("source", "source only"), ("dann", "DANN")):
    with open(f"demo/{mode}.json") as file:
        print(f"{name:12s} accuracy on simulated photos: {json.load(file)['target']['accuracy']:.3f}")
SUMMARY
echo "predictions: demo/preds.csv"
