"""A model kept in memory that describes pictures; what `plumbline infer` does, without files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.data.images import load_image
from plumbline.errors import DataError
from plumbline.infer.captions import CaptionRow, caption_row, error_row
from plumbline.infer.config import InferSettings, Sampling
from plumbline.infer.engine import Engine, Request
from plumbline.infer.plan import CaptionPlan, choose_mode, find_card, find_weights, run_options

if TYPE_CHECKING:
    from PIL import Image


class Captioner:
    """Describes pictures with a base or merged model, an adapter, a checkpoint or a run.

    Args:
        model: Folder of the weights.
        adapter: Folder of an adapter for a base model.
        mode: `dense` or `summary`; as trained when left out.
        emit_norm: How coordinates are written, only where the model has no `plumbline.json`.
        sampling: How tokens are chosen; greedy by default.
        batch_size: Pictures decoded at a time.
        servers: Addresses of OpenAI-compatible servers that answer instead; `model` then only gives the card.

    Raises:
        UserError: The folder holds no weights, or the mode is not one that was trained.

    Example:
        >>> captioner = Captioner("output/merged")
        >>> for row in captioner.describe(Path("photos").glob("*.jpg")):
        ...     print(row.image, row.objects)
    """

    def __init__(
        self,
        model: str | Path,
        *,
        adapter: str | Path | None = None,
        mode: str | None = None,
        emit_norm: str | None = None,
        sampling: Sampling | None = None,
        batch_size: int = 1,
        servers: tuple[str, ...] = (),
    ):
        from collections import Counter

        from plumbline.infer.caption_run import Captions
        from plumbline.infer.open_engine import open_engine

        folder, added, _ = find_weights(Path(model), None if adapter is None else Path(adapter))
        card, _ = find_card(added or folder, emit_norm)
        settings = InferSettings(
            model=Path(model),
            input=Path(),
            output=Path("-"),
            sampling=sampling or Sampling(),
            batch_size=batch_size,
            servers=servers,
        )
        plan = CaptionPlan(settings, folder, added, card, (), (), Counter(), (), choose_mode(card, mode))
        self._captions, self._plan = Captions(plan), plan
        self._engine: Engine = open_engine(plan)

    def describe(self, pictures: Iterable[str | Path | Image.Image]) -> Iterator[CaptionRow]:
        """Describe pictures, a row each, in the order given.

        Args:
            pictures: Paths, or Pillow images (any mode; they are taken as they are, without EXIF).

        Yields:
            A row per picture; a picture that cannot be opened or answered has the status `error:<kind>`.
        """
        window = run_options(self._plan.settings, Path("-")).window
        numbered = enumerate(pictures)
        while batch := list(islice(numbered, window)):
            yield from self._describe(batch)

    def _describe(self, batch: list[tuple[int, str | Path | Image.Image]]) -> Iterator[CaptionRow]:
        names = {str(number): str(given) if isinstance(given, str | Path) else "" for number, given in batch}
        rows: dict[str, CaptionRow] = {}
        requests: dict[str, Request] = {}
        for number, given in batch:
            key = str(number)
            try:
                picture = load_image(given) if isinstance(given, str | Path) else given.convert("RGB")
                requests[key] = self._captions.request(key, picture)
            except DataError as error:
                rows[key] = error_row(key, names[key], "image", error.problems[0].what)
        for reply in self._engine.stream(list(requests.values())):
            size = requests[reply.key].images[0].size
            rows[reply.key] = caption_row(names[reply.key], size, reply, self._plan.mode, self._plan.card.emit_norm)
        yield from (rows[key] for key in names)
