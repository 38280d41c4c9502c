#!/usr/bin/env bash
# What needs an accelerator, in stages of at most nine minutes: tools/accelerator.sh STAGE, again until it exits with 0 (see accelerator.py).
cd "$(dirname "$0")/.." && PYTHONPATH=src exec "${PYTHON:-python3}" tools/accelerator.py "$@"
