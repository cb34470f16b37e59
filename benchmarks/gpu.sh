#!/usr/bin/env bash
# What needs a GPU: the tests marked gpu, then the benchmarks. Half an hour is enough for all of it.
#
#   benchmarks/gpu.sh OUT [PART…]      parts: tests reversal steps compiled scaling; all of them without any
#   DEVICE=cpu benchmarks/gpu.sh OUT   rehearses it, with numbers that say nothing
#
# Each part writes a file of its name to OUT. The exit status is 1 where one failed.
set -uo pipefail
out=${1:?give the folder to write to}
shift
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(tests reversal steps compiled scaling)
cd "$(dirname "$0")/.."
mkdir -p "$out"
python=${PYTHON:-python} device=${DEVICE:-cuda}

steps() {  # what else benchmarks/train_step.py takes
    "$python" benchmarks/train_step.py --device "$device" "$@" --steps 100 --regime digits --batch-size 64 --batch-size 512 &&
        "$python" benchmarks/train_step.py --device "$device" "$@" --steps 40 --regime folders
}

run() {
    case $1 in
    tests)
        "$python" -m dann.cli doctor
        "$python" -m pytest -m gpu -rs --continue-on-collection-errors tests/cli/test_doctor.py tests/infer/test_engine.py \
            tests/train/test_{reversal_gpu,device_batches,finite_watch,loss_window,compiled_step,loop_gpu}.py
        ;;
    reversal) "$python" benchmarks/gradient_reversal.py --device "$device" ;;
    steps) steps --amp off && steps --amp bf16 ;;
    compiled) steps --amp bf16 --compile ;;
    scaling)
        "$python" benchmarks/train_scaling.py --device "$device" --batch-size 64 --batch-size 512 --batch-size 4096 \
            --images 10000 --images 60000 --processes 1
        ;;
    *)
        echo "no part is called $1; there are tests, reversal, steps, compiled and scaling" >&2
        return 2
        ;;
    esac
}

status=0
for part in "${parts[@]}"; do
    run "$part" 2>&1 | tee "$out/$part.txt"
    [ "${PIPESTATUS[0]}" -eq 0 ] || { echo "$part failed" >&2; status=1; }
done
exit $status
