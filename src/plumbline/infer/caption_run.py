"""The caption run: pictures -> requests -> replies -> caption rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from plumbline.data.answer_schema import dense_schema
from plumbline.data.images import load_image
from plumbline.infer.captions import caption_row
from plumbline.infer.engine import Engine, Reply, Request
from plumbline.infer.inputs import CaptionItem
from plumbline.infer.plan import CaptionPlan, identity_of
from plumbline.infer.runner import RunReport, run_work

if TYPE_CHECKING:
    from PIL import Image

OnCaption = Callable[[Mapping[str, Any], "Image.Image"], None]


class Captions:
    """One row per picture, in the form of `captions`."""

    def __init__(self, plan: CaptionPlan):
        self.plan = plan
        self._system, self._user = plan.card.prompts.of_mode(plan.mode)
        bound = plan.settings.guided and plan.mode == "dense"
        self._schema = dense_schema(plan.card.emit_norm, plan.card.answer) if bound else None

    def ask(self, item: CaptionItem) -> Request:
        return self.request(item.key, load_image(item.path()))

    def request(self, key: str, picture: Image.Image) -> Request:
        """The question about a picture (8-bit RGB)."""
        return Request(key, (picture,), self._system, self._user, self.plan.settings.sampling, self._schema)

    def row(self, item: CaptionItem, request: Request | None, reply: Reply) -> Mapping[str, Any]:
        size = (0, 0) if request is None else request.images[0].size
        return caption_row(item.image, size, reply, self.plan.mode, self.plan.card.emit_norm).as_dict()


def run_captions(
    plan: CaptionPlan,
    engine: Callable[[], Engine],
    on_caption: OnCaption | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> RunReport:
    """Describe the pictures of the plan, one row each; a picture that fails costs itself alone.

    engine: made when there is something to ask. on_caption: called before a row is written, with it and its picture
    (not for pictures that could not be opened).
    """

    def forward(item: CaptionItem, request: Request | None, row: Mapping[str, Any]) -> None:
        if on_caption is not None and request is not None:
            on_caption(row, request.images[0])

    return run_work(plan.items, Captions(plan), engine, plan.run_options, identity_of(plan), forward, progress)
