#!/usr/bin/env bash
# The check of a GPU machine, from a checkout that is not installed: bench/gpu_check.sh [--dry] OUT_FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."

# dipfast.kernels lives in kernels/: a copy under the package stands in for the installed mapping.
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
cp -r dipfast "$site/dipfast"
cp -r kernels "$site/dipfast/kernels"

# Where pydantic is not installed: from the wheels in bench/wheels, for this run alone.
python3 -c "import pydantic" 2>/dev/null || python3 -m pip install -q --no-index --find-links bench/wheels --target "$site" pydantic

PYTHONPATH="$site" PYTHONUNBUFFERED=1 python3 bench/gpu_check.py "$@"
