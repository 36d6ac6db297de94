"""The runner on a cluster: Ray Data hands the items to processes that ask, the rows come back to the one that writes.

Only the writing process touches the output, so resuming, locking and counting are those of any run. A process that
dies is started again by Ray with the items it had: they are sent again, and have one row.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Generator, Iterable
from typing import Any

from plumbline.errors import ConfigError, Problem
from plumbline.infer.engine import Engine
from plumbline.infer.runner import Answered, Asking, Runner, RunOptions, Work
from plumbline.storage.objects import JsonObject


def on_cluster(workers: int | None = None, *, uses_gpu: bool = True) -> Runner:
    """The runner on the cluster that `RAY_ADDRESS` names, else on one of this machine's own cores.

    workers: processes, each with an engine of its own; None: one per GPU, one where there is none. uses_gpu: each needs
    a GPU where the cluster has any. Models, pictures and prompts must lie under the same paths on every machine.
    Raises ConfigError where Ray is not installed.
    """
    try:
        import ray.data
    except ImportError as error:
        fix = "pip install 'plumbline[ray]'"
        raise ConfigError(Problem("--runner", f"Ray Data cannot be loaded: {error}", fix)) from error

    def run(
        work: Work[Any], engine: Callable[[], Engine], options: RunOptions, todo: Iterable[Any]
    ) -> Generator[Answered, None, None]:
        items = {item.key: item for item in todo}
        _join_cluster()
        gpus = int(ray.cluster_resources().get("GPU", 0)) if uses_gpu else 0
        boxed = [{"item": pickle.dumps(item)} for item in items.values()]
        dataset = ray.data.from_items(boxed, override_num_blocks=-(-len(boxed) // options.window)).map_batches(
            _Process,
            fn_constructor_args=(work, engine, options.tries),
            batch_size=options.window,
            compute=ray.data.ActorPoolStrategy(size=workers or max(1, gpus)),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        for found in dataset.iter_rows():
            key, row, reason = pickle.loads(found["answered"])
            yield Answered(items[key], None, row, reason)

    return run


class _Process:
    """What each process of the cluster runs."""

    def __init__(self, work: Work[Any], engine: Callable[[], Engine], tries: int):
        self._asking = Asking(work, engine(), tries)

    def __call__(self, batch: JsonObject) -> dict[str, list[bytes]]:
        items = [pickle.loads(boxed) for boxed in batch["item"]]
        answers = self._asking.answers(self._asking.prepared(items))
        return {"answered": [pickle.dumps((found.item.key, found.row, found.reason)) for found in answers]}


def _join_cluster() -> None:
    """Quietly; a cluster that this process has joined already is kept."""
    import ray
    from ray.data import DataContext

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
