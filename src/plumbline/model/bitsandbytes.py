"""bitsandbytes without its slow start: PEFT imports it wherever it is installed, for 8-bit optimisers and QLoRA."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from importlib.util import find_spec
from typing import Any


def import_bitsandbytes() -> None:
    """Import bitsandbytes, where it is installed, before PEFT does; call it before the first import of PEFT.

    Its import compiles four small kernels, for which torch loads its whole compiler (1.6 s) whether or not anything
    is quantised. Here they are compiled when they are first called.
    """
    if find_spec("bitsandbytes") is None:
        return
    # It warns, while it is imported, of a kernel for processors that is not installed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    with _compiling_later():
        import bitsandbytes  # noqa: F401


@contextmanager
def _compiling_later() -> Iterator[None]:
    """Inside the block `torch.compile` returns functions that are compiled at their first call."""
    import torch

    compile_now = torch.compile

    def compile_later(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
        if function is None:
            return partial(compile_later, **options)
        compiled = cache(partial(compile_now, function, **options))

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return compiled()(*args, **kwargs)

        return call

    torch.compile = compile_later  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_now
