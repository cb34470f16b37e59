#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the tests marked gpu, then the benchmarks. Half an hour is enough.
#
#   benchmarks/gpu.sh OUT      writes OUT/tests.txt, gradient_reversal.md and train_step.md
set -uo pipefail
out=${1:?give the folder to write to}
cd "$(dirname "$0")/.."
mkdir -p "$out"
python=${PYTHON:-python}

"$python" -m dann.cli doctor | tee "$out/doctor.txt"
"$python" -m pytest -m gpu -rs tests/train/test_{reversal_gpu,device_batches,finite_watch,loss_window,loop_gpu}.py tests/cli/test_doctor.py \
    --continue-on-collection-errors 2>&1 | tee "$out/tests.txt" | tail -40
"$python" benchmarks/gradient_reversal.py 2>&1 | tee "$out/gradient_reversal.md"
for amp in off bf16; do
    "$python" benchmarks/train_step.py --device cuda --amp "$amp" --steps 100 --regime digits --batch-size 64 \
        --batch-size 256 --batch-size 1024 2>&1 | tee -a "$out/train_step.md"
    "$python" benchmarks/train_step.py --device cuda --amp "$amp" --steps 40 --regime folders --batch-size 64 2>&1 |
        tee -a "$out/train_step.md"
done
