#!/usr/bin/env bash
# Everything that must hold before a change lands: environment, lint, types, tests.
#
#   bash scripts/test.sh                  # fast suite
#   CI=true bash scripts/test.sh          # also the tests that start training processes of their own
#   bash scripts/test.sh -m slow          # arguments go to pytest; this runs the long tests
#   TEXT4SEG_REAL_DATA=/path/to/data bash scripts/test.sh     # also the tests on real images and annotations
#
# Makes .venv on its first run; see scripts/environment.sh for its options. WORKERS says how many processes share
# the tests (default: one for each core, at most 8).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment dev,train
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

"$PYTHON" -m llava.doctor
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
if [ $# -gt 0 ]; then
  exec "$PYTHON" -m pytest "$@"
fi
wanted="not slow"
if [ -z "${CI:-}" ]; then wanted+=" and not engines"; fi
if [ -z "${TEXT4SEG_REAL_DATA:-}" ]; then wanted+=" and not real_data"; fi
exec "$PYTHON" -m pytest -m "$wanted" -n "${WORKERS:-logical}" --maxprocesses 8 --dist loadgroup --no-loadscope-reorder
