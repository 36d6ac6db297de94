"""Which pictures may be opened, and how each odd kind of picture becomes 8-bit RGB.

Two gates: `ImagePolicy` decides on the name before anything is touched; `load_image` looks at the header (format,
pixels) before anything is decoded. Pillow is imported when the first picture is opened.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import DataError, Problem
from plumbline.storage.text import shown, shown_path

if TYPE_CHECKING:
    from PIL import Image

ROOT_VARIABLE = "ROOT_IMAGE_DIR"
NO_SUCH_FILE = "no such file"
MAX_PIXELS = 100_000_000
MAX_DATA_URL_BYTES = 32 * 1024 * 1024
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What is decoded, by content and never by suffix. Formats that run interpreters (EPS, PDF) are not among them."""

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(file|data):|[A-Za-z]:[\\/]", re.IGNORECASE)
_HARMLESS = (OSError, SyntaxError, ValueError, EOFError, IndexError)
"""What Pillow's decoders raise on damaged files, besides its own errors and `struct.error`."""


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """Where pictures may lie.

    roots: folders of `custom.image_roots`; empty means the JSONL's folder and `extra_root`.
    url_allow: hosts of `custom.image_url_allow`. max_pixels: width x height above which nothing is decoded.
    extra_root: the environment's ROOT_IMAGE_DIR; relative names that are not found next to the JSONL are looked up
    there.
    """

    roots: tuple[str, ...] = ()
    url_allow: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS
    extra_root: str | None = field(default_factory=lambda: os.environ.get(ROOT_VARIABLE) or None)

    def resolve(self, image: str, jsonl_folder: str | Path) -> Path:
        """The real path of `image`, inside the allowed folders; relative names start at the JSONL's folder.

        Raises DataError, naming the key to change, for anything else: a path that leaves the roots (by `..`, as an
        absolute path or through a symbolic link), a URL, a UNC path, a NUL byte, a file that is not there.
        """
        return Path(self._real(image, str(jsonl_folder)))

    def _real(self, image: str, jsonl_folder: str) -> str:
        self._refuse_by_name(image)
        if _is_web(image):
            what = "is a URL: there is no file of it"
            raise DataError(Problem(shown(image, 200), what, "it is fetched when it is used"))
        allowed = [_real_folder(folder) for folder in self._folders(jsonl_folder)]
        try:
            real = self._candidate(image, jsonl_folder)
            if not any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in allowed):
                raise _refusal(image, f"lies outside {', '.join(allowed)}", "custom.image_roots")
            if not stat.S_ISREG(Path(real).stat().st_mode):
                raise FileNotFoundError
        except FileNotFoundError:
            raise DataError(Problem(shown_path(image), NO_SUCH_FILE, f"looked at {shown_path(real)}")) from None
        except (OSError, ValueError) as error:  # too long, a loop of links, no permission
            raise DataError(Problem(shown(image), f"cannot be opened: {error}")) from error
        return real

    def reference(self, image: str, jsonl_folder: str | Path) -> str:
        """What `load_image` takes: the resolved path, or a data URL within its cap as it is.

        A URL of an allowed host is fetched, and becomes a data URL.
        """
        if _is_web(image):
            from plumbline.data.fetch import fetch_picture

            content = fetch_picture(image, self.url_allow)
            return f"data:image/unknown;base64,{base64.b64encode(content).decode()}"
        if not is_data_url(image):
            return self._real(image, str(jsonl_folder))
        if len(image) > MAX_DATA_URL_BYTES:
            raise DataError(Problem(shown(image, 30), f"data URL longer than {MAX_DATA_URL_BYTES} bytes"))
        return image

    def check_name(self, image: str, jsonl_folder: str | Path) -> None:
        """DataError when the name alone shows that `resolve` would refuse it; no file is touched."""
        self._refuse_by_name(image)
        if _is_web(image) or (not self.roots and ".." not in image and not image.startswith("/")):
            return
        folders = self._folders(jsonl_folder)
        starts = [str(jsonl_folder), *([self.extra_root] if self.extra_root else [])]
        for start in starts:
            name = Path(os.path.normpath(Path(start).absolute() / image))
            if any(name.is_relative_to(os.path.normpath(Path(folder).absolute())) for folder in folders):
                return
        raise _refusal(image, f"lies outside {', '.join(folders)}", "custom.image_roots")

    def _folders(self, jsonl_folder: str | Path) -> tuple[str, ...]:
        return self.roots or (str(jsonl_folder), *([self.extra_root] if self.extra_root else []))

    def _candidate(self, image: str, jsonl_folder: str) -> str:
        local = _real_path(jsonl_folder, image)
        if self.extra_root and not Path(local).exists():
            return _real_path(self.extra_root, image)
        return local

    def _refuse_by_name(self, image: str) -> None:
        if "\0" in image or not image.strip():
            raise DataError(Problem(shown(image), "is not a path: empty, or with a NUL byte"))
        if image.startswith(("\\\\", "//")):
            raise _refusal(image, "is a network (UNC) path", "custom.image_roots")
        if not _SCHEME.match(image):
            return
        if _is_web(image):
            from plumbline.data.fetch import check_url

            check_url(image, self.url_allow)
            return
        raise _refusal(image, "is neither a path nor an http(s) URL", "custom.image_roots")


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    """Folders are resolved once per process; the pictures in them, which may be links of their own, every time."""
    return os.path.realpath(folder)


def _real_path(folder: str, image: str) -> str:
    """The real path of a picture named from a folder."""
    named = Path(folder, image)
    inside = Path(_real_folder(str(named.parent)), named.name)
    return os.path.realpath(inside) if named.name in ("", "..") or inside.is_symlink() else str(inside)


def is_data_url(image: str) -> bool:
    """Whether the picture travels inside the text."""
    return image.startswith("data:")


def _is_web(image: str) -> bool:
    """Whether the name is meant as an http(s) URL, well-formed or not."""
    return image[:8].lower().startswith(("http://", "https://"))


def _refusal(image: str, what: str, key: str) -> DataError:
    return DataError(Problem(shown(image, 200), what, f"list what may be opened under `{key}`"))


def load_image(image: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture as 8-bit RGB with its EXIF orientation applied; `image` is a path or a data URL.

    16-bit grey is scaled to 8 bits, transparency is laid over white, CMYK and palettes are converted, of an animation
    the first frame is taken. Raises DataError naming the file: not a picture, truncated, or more than `max_pixels`
    (read from the header, before decoding).
    """
    from PIL import Image

    with _opened(image, max_pixels) as picture:
        turn = _orientation(picture)
        picture.seek(0)
        picture.load()
        upright = picture.transpose(Image.Transpose(_TRANSPOSE[turn])) if turn in _TRANSPOSE else picture
        return _as_rgb(upright, image)


def image_size(image: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) in pixels after EXIF orientation, from the header alone; DataError as in `load_image`."""
    with _opened(image, max_pixels) as picture:
        width, height = picture.size
        return (height, width) if _orientation(picture) in (5, 6, 7, 8) else (width, height)


def png_data_url(data: bytes) -> str:
    """Bytes of a picture in any accepted format as a PNG data URL."""
    with _opened(f"data:image/png;base64,{base64.b64encode(data).decode()}", MAX_PIXELS) as picture:
        if picture.format == "PNG":
            encoded = data
        else:
            stream = io.BytesIO()
            _as_rgb(picture, "bytes").save(stream, "PNG")
            encoded = stream.getvalue()
    return f"data:image/png;base64,{base64.b64encode(encoded).decode()}"


_TRANSPOSE = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF orientation -> PIL.Image.Transpose."""


@contextmanager
def _opened(image: str | Path, max_pixels: int) -> Iterator[Image.Image]:
    """The picture with only its header read; every failure inside the block becomes a DataError."""
    import struct

    from PIL import Image

    _silence_pillow()
    name = shown(image, 30) if isinstance(image, str) and is_data_url(image) else shown_path(image)
    try:
        with Image.open(_source(image), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                what = f"{width} x {height} pixels are more than the {max_pixels:,} allowed"
                raise DataError(Problem(name, what, "scale it down, or keep it out of the data"))
            yield picture
    except Image.DecompressionBombError as error:
        raise DataError(Problem(name, f"too many pixels to be decoded: {error}")) from error
    except Image.UnidentifiedImageError as error:
        raise DataError(Problem(name, f"is not a picture of {', '.join(FORMATS)}")) from error
    except (*_HARMLESS, struct.error) as error:
        raise DataError(Problem(name, f"cannot be decoded: {error}", "the file is damaged or truncated")) from error


@cache
def _silence_pillow() -> None:
    """Pillow warns about size and about damage; here our own limit and errors speak."""
    import warnings

    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def _source(image: str | Path) -> str | Path | io.BytesIO:
    if not (isinstance(image, str) and is_data_url(image)):
        return image
    header = _DATA_URL.match(image)
    if header is None:
        raise ValueError("a data URL must start with data:image/...;base64,")
    if len(image) > MAX_DATA_URL_BYTES:
        raise ValueError(f"longer than {MAX_DATA_URL_BYTES} bytes")
    try:
        return io.BytesIO(base64.b64decode(image[header.end() :], validate=True))
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation 1..8 from the header; 1 where there is none.

    A PNG is not decoded for it: an EXIF chunk behind the pixels is ignored, by both `image_size` and
    `load_image`. Pillow itself applies a TIFF's orientation, to its size as well as to its pixels.
    """
    from PIL import ExifTags, Image

    if picture.format == "TIFF":
        return 1
    orientation = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in _TRANSPOSE else 1


def _as_rgb(picture: Image.Image, image: str | Path) -> Image.Image:
    from PIL import Image

    if picture.mode.startswith(("I", "F")):
        return _from_deep_grey(picture, image).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _from_deep_grey(picture: Image.Image, image: str | Path) -> Image.Image:
    """16-bit grey scaled so that 65535 is white; deeper or fractional pixels have no agreed white and are refused."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(picture)
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
        what = f"pixels of mode {picture.mode} are neither 8 nor 16 bits"
        raise DataError(Problem(shown_path(image), what, "save it as an 8-bit or 16-bit picture"))
    return Image.fromarray(((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
