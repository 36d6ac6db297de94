#!/usr/bin/env bash
# Summarise every picture of a folder of tickets.
#   scripts/stage_a_infer.sh --model MODEL --input TICKETS --output FOLDER [further options of `plumbline stage-a`]
set -euo pipefail
if [[ $# -lt 1 ]]; then
  sed -n '2,3p' "$0" >&2
  exit 2
fi
plumbline="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/plumbline"
[[ -x $plumbline ]] || plumbline=plumbline   # copied elsewhere: the one on PATH
exec "$plumbline" stage-a "$@"
