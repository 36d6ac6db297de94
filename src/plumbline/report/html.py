"""Self-contained HTML pages: one file, inline styles, pictures as data URLs, no script.

Labels, captions and file names come from models and strangers: every value is escaped, and the page's own policy lets
no script run and nothing load, whatever a value may hold.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from PIL import Image

from plumbline.storage.files import write_atomically
from plumbline.storage.text import duration


def render_page(template: str, context: Mapping[str, Any], package: str = "plumbline.report") -> str:
    """Render `templates/<template>` of a package; it may extend `base.html` of this one."""
    return _environment(package).get_template(template).render(context)


def render_fragment(template: str, context: Mapping[str, Any]) -> str:
    """Render a template of this package that is a part of a page; values are escaped all the same."""
    return _environment("plumbline.report").get_template(template).render(context)


def write_page(path: str | Path, html: str) -> Path:
    """Write a page; it appears whole or not at all. Characters that UTF-8 cannot hold become question marks."""
    write_atomically(Path(path), html.encode("utf-8", "replace").decode("utf-8"))
    return Path(path)


def data_url(image: Image.Image, quality: int = 86) -> str:
    """The picture as a JPEG data URL."""
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def number(value: float | None) -> str:
    """A number for people: four significant digits, `–` where there is none."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3e}" if value and not 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"


@cache
def _environment(package: str) -> Environment:
    names = dict.fromkeys((package, "plumbline.report"))
    loader = ChoiceLoader([PackageLoader(name) for name in names])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"duration": duration, "number": number}
    return environment
