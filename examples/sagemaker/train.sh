#!/usr/bin/env bash
# What runs on each host of the job: installs dann beside the torch that the image has, then trains.
set -euo pipefail
cd "$(dirname "$0")"
python -m pip install --quiet "$(echo ./dann-*.whl)[train]"
exec python train.py
