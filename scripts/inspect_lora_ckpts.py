#!/usr/bin/env python
"""Show what is in adapters: `python scripts/inspect_lora_ckpts.py CHECKPOINT [CHECKPOINT ...] [--json]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """The largest exit code of `plumbline inspect-lora` over the checkpoints."""
    flags = [word for word in sys.argv[1:] if word.startswith("-")]
    checkpoints = [word for word in sys.argv[1:] if not word.startswith("-")]
    if not checkpoints:
        print(__doc__, file=sys.stderr)
        return 2
    plumbline = Path(sys.executable).with_name("plumbline")
    return max(
        subprocess.run([plumbline, "inspect-lora", path, *flags], check=False).returncode for path in checkpoints
    )


if __name__ == "__main__":
    sys.exit(main())
