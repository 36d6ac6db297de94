#!/usr/bin/env bash
# Verdicts for the tickets of a Stage-B configuration.
#   scripts/stage_b_run.sh CONFIG [--log-level debug] [further options of `plumbline stage-b run`]
set -euo pipefail
if [[ $# -lt 1 ]]; then
  sed -n '2,3p' "$0" >&2
  exit 2
fi
plumbline="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/plumbline"
[[ -x $plumbline ]] || plumbline=plumbline   # copied elsewhere: the one on PATH
exec "$plumbline" stage-b run "$@"
