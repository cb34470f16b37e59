#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the tests marked gpu, then the benchmarks. Half an hour is enough.
#
#   benchmarks/gpu.sh OUT      writes OUT/tests.txt, gradient_reversal.md, train_step.md and train_scaling.md
set -uo pipefail
out=${1:?give the folder to write to}
cd "$(dirname "$0")/.."
mkdir -p "$out"
python=${PYTHON:-python}

"$python" -m dann.cli doctor | tee "$out/doctor.txt"
"$python" -m pytest -m gpu -rs tests/train/test_{reversal_gpu,device_batches,finite_watch,loss_window,compiled_step,loop_gpu}.py tests/cli/test_doctor.py \
    --continue-on-collection-errors 2>&1 | tee "$out/tests.txt" | tail -40
"$python" benchmarks/gradient_reversal.py 2>&1 | tee "$out/gradient_reversal.md"
for kind in "--amp off" "--amp bf16" "--amp bf16 --compile"; do
    # shellcheck disable=SC2086  # one word or three
    "$python" benchmarks/train_step.py --device cuda $kind --steps 100 --regime digits --batch-size 64 \
        --batch-size 256 --batch-size 1024 2>&1 | tee -a "$out/train_step.md"
    # shellcheck disable=SC2086
    "$python" benchmarks/train_step.py --device cuda $kind --steps 40 --regime folders --batch-size 64 2>&1 |
        tee -a "$out/train_step.md"
done
"$python" benchmarks/train_scaling.py --device cuda --batch-size 64 --batch-size 512 --batch-size 4096 --images 10000 \
    --images 60000 --processes 1 2>&1 | tee "$out/train_scaling.md"
