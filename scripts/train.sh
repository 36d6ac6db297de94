#!/usr/bin/env bash
# Train from a YAML file.
#   scripts/train.sh CONFIG [--debug] [--gpus 0,1] [further options of `plumbline train`]
set -euo pipefail
if [[ $# -lt 1 ]]; then
  sed -n '2,3p' "$0" >&2
  exit 2
fi
plumbline="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/plumbline"
[[ -x $plumbline ]] || plumbline=plumbline   # copied elsewhere: the one on PATH
exec "$plumbline" train "$@"
