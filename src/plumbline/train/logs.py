"""What a run logs on the terminal."""

from __future__ import annotations

import logging
import sys


class _ToStderr(logging.Handler):
    """Prints to what is stderr at that moment: runs of one process may have several."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def configure_logging(*, debug: bool, rank: int) -> None:
    """Info on rank 0, warnings from every rank, more with --debug."""
    own = logging.getLogger("plumbline")
    own.setLevel(logging.DEBUG if debug else logging.INFO if rank == 0 else logging.WARNING)
    if not own.handlers:
        handler = _ToStderr()
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s {'' if rank == 0 else f'[rank {rank}] '}%(message)s", "%H:%M:%S")
        )
        own.addHandler(handler)
        own.propagate = False
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
