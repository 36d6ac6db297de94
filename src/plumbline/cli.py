"""The command line: one verb per command; heavy imports happen inside the verb that needs them."""

from __future__ import annotations

import sys

from cyclopts import App

from plumbline import __version__

app = App(name="plumbline", help="Fine-tune Qwen3-VL from YAML, keep it true to its base, and use what was trained.",
          version=__version__)
config_app = App(name="config", help="Show, compare, check and document configurations.")
data_app = App(name="data", help="Check, measure and convert JSONL data.")
app.command(config_app)
app.command(data_app)


def main() -> None:
    """Run the command line; user errors print one clean message, bugs keep their traceback."""
    from plumbline.errors import UserError

    try:
        code = app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)
