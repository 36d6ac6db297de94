#!/usr/bin/env bash
# Merge a stage-2 adapter into its base model.
#   scripts/merge_stage2_lora.sh CHECKPOINT OUTPUT [BASE_MODEL] [further options of `plumbline merge`]
set -euo pipefail
if [[ $# -lt 2 ]]; then
  sed -n '2,3p' "$0" >&2
  exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
arguments=(--adapter "$1" --output "$2")
shift 2
if [[ $# -gt 0 && $1 != --* ]]; then
  arguments+=(--base "$1")
  shift
fi
plumbline="$root/.venv/bin/plumbline"
[[ -x $plumbline ]] || plumbline=plumbline   # copied elsewhere: the one on PATH
exec "$plumbline" merge "${arguments[@]}" "$@"
