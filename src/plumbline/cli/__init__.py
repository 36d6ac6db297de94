"""The command line: one verb per command, in files by what they are about; heavy imports happen inside the verbs."""

from __future__ import annotations

import os
import sys

from plumbline.cli import config, data, demo, inference, measuring, stage_b, start, training
from plumbline.cli.app import app

__all__ = ["app", "config", "data", "demo", "inference", "main", "measuring", "stage_b", "start", "training"]


def main() -> None:
    """Run the command line; user errors print one clean message, bugs keep their traceback."""
    from plumbline.errors import EXIT_INTERRUPTED, UserError, disk_error

    try:
        code = app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if (refused := disk_error(error)) is None:
            raise
        print(f"error: {refused}", file=sys.stderr)
        code = refused.exit_code
    sys.exit(code if isinstance(code, int) else 0)
