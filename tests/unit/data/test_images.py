"""Which pictures may be opened, and what becomes of the odd ones."""

from __future__ import annotations

import base64
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plumbline.data.images import ImagePolicy, image_size, load_image, png_data_url
from plumbline.errors import DataError

# 60 x 40 with a different colour in each corner, so that every turn shows.
SCENE = np.zeros((40, 60, 3), dtype=np.uint8)
SCENE[:20, :30], SCENE[:20, 30:], SCENE[20:, :30], SCENE[20:, 30:] = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)
UPRIGHT = {
    1: SCENE,
    2: SCENE[:, ::-1],
    3: SCENE[::-1, ::-1],
    4: SCENE[::-1],
    5: SCENE.transpose(1, 0, 2),
    6: np.rot90(SCENE, -1),
    7: SCENE[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(SCENE, 1),
}


@pytest.fixture
def scene() -> Image.Image:
    return Image.fromarray(SCENE)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_size_and_pixels_alike(tmp_path, scene, orientation, suffix) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"x.{suffix}"
    scene.save(path, exif=exif, quality=95)
    picture = load_image(path)
    expected = UPRIGHT[orientation]
    assert picture.size == image_size(path) == expected.shape[1::-1]
    rows, columns = (expected.shape[0] // 4, -5), (expected.shape[1] // 4, -5)
    corners = np.ix_(rows, columns)
    assert np.abs(np.asarray(picture)[corners].astype(int) - expected[corners]).max() < 40


def test_an_orientation_behind_a_png_s_pixels_is_ignored_by_size_and_load_alike(tmp_path, scene) -> None:
    exif = Image.Exif()
    exif[274] = 6
    stream = io.BytesIO()
    scene.save(stream, "PNG", exif=exif)
    data = stream.getvalue()
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + struct.unpack(">I", data[start : start + 4])[0]]
    path = tmp_path / "late.png"
    path.write_bytes(data.replace(chunk, b"")[:-12] + chunk + data[-12:])
    assert image_size(path) == load_image(path).size == (60, 40)


def save(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path) -> None:
    ramp = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    picture = load_image(save(Image.fromarray(ramp), tmp_path / "deep.png"))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparency_is_laid_over_white(tmp_path) -> None:
    pixels = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], dtype=np.uint8)
    rgba = Image.fromarray(pixels)
    for path in (save(rgba, tmp_path / "a.png"), save(rgba.convert("P"), tmp_path / "p.gif", transparency=0)):
        assert load_image(path).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(tmp_path / "a.png").getpixel((1, 0)) == (10, 20, 30)
    assert load_image(save(rgba.convert("LA"), tmp_path / "la.png")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("CMYK", "jpg"), ("L", "jpg"), ("P", "png"), ("1", "bmp"), ("CMYK", "tiff")]
)
def test_other_modes_become_rgb(tmp_path, scene, mode, suffix) -> None:
    picture = load_image(save(scene.convert(mode), tmp_path / f"x.{suffix}"))
    assert (picture.mode, picture.size) == ("RGB", (60, 40))
    if mode in ("CMYK", "P"):
        assert np.abs(np.asarray(picture)[5, 5].astype(int) - (200, 0, 0)).max() < 40


def test_of_an_animation_the_first_frame_is_taken(tmp_path, scene) -> None:
    path = save(scene, tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (60, 40), "white")])
    assert load_image(path).getpixel((5, 5)) == (200, 0, 0)


def test_the_suffix_does_not_matter(tmp_path, scene) -> None:
    assert load_image(save(scene, tmp_path / "x.jpg", format="PNG")).size == (60, 40)


def test_float_pixels_are_refused(tmp_path) -> None:
    path = save(Image.fromarray(np.ones((4, 4), dtype=np.float32)), tmp_path / "f.tiff")
    with pytest.raises(DataError, match="neither 8 nor 16 bits"):
        load_image(path)


def broken_files(folder: Path, scene: Image.Image) -> dict[str, bytes]:
    stream = io.BytesIO()
    scene.save(stream, "JPEG")
    jpeg = stream.getvalue()
    stream = io.BytesIO()
    scene.save(stream, "PNG")
    png = stream.getvalue()
    return {
        "empty.jpg": b"",
        "text.jpg": b"hello",
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half.png": png[: len(png) // 2],
        "header.png": png[:24],
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }


def test_damaged_pictures_are_named(tmp_path, scene) -> None:
    for name, data in broken_files(tmp_path, scene).items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name):
            load_image(tmp_path / name)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11_000, 50_000])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path, side) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side, side))
    for open_it in (load_image, image_size):
        with pytest.raises(DataError, match="pixels"):
            open_it(path)


def test_the_pixel_limit_is_an_argument(tmp_path, scene) -> None:
    path = save(scene, tmp_path / "x.png")
    assert load_image(path, max_pixels=2400).size == (60, 40)
    with pytest.raises(DataError, match="60 x 40 pixels are more than the 2,399 allowed"):
        load_image(path, max_pixels=2399)


def test_data_urls(scene) -> None:
    stream = io.BytesIO()
    scene.save(stream, "JPEG")
    url = png_data_url(stream.getvalue())
    assert url.startswith("data:image/png;base64,iVBOR")
    assert load_image(url).size == image_size(url) == (60, 40)
    assert ImagePolicy().reference(url, ".") == url
    png = base64.b64decode(url.partition(",")[2])
    assert png_data_url(png) == url
    for bad in ("data:text/html;base64,AAAA", "data:image/png;base64,@@@", "data:image/png;base64,", "data:,x"):
        with pytest.raises(DataError):
            load_image(bad)
    with pytest.raises(DataError, match="longer than"):
        ImagePolicy().reference("data:image/png;base64," + "A" * 40_000_000, ".")


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """data/ beside secret/, with links that stay inside and links that do not."""
    monkeypatch.delenv("ROOT_IMAGE_DIR", raising=False)
    for name in ("data/in/a.jpg", "secret/s.jpg", "data2/t.jpg", "other/o.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "data/inside.jpg").symlink_to(tmp_path / "data/in/a.jpg")
    (tmp_path / "data/escape.jpg").symlink_to(tmp_path / "secret/s.jpg")
    (tmp_path / "data/folder").symlink_to(tmp_path / "secret")
    (tmp_path / "data/loop.jpg").symlink_to(tmp_path / "data/loop.jpg")
    return tmp_path


def test_paths_inside_the_root_are_resolved(tree) -> None:
    target = Path(os.path.realpath(tree / "data/in/a.jpg"))
    for image in ("in/a.jpg", "./in/../in/a.jpg", "inside.jpg", str(tree / "data/in/a.jpg")):
        assert ImagePolicy().resolve(image, tree / "data") == target


@pytest.mark.parametrize(
    ("image", "key"),
    [
        ("../secret/s.jpg", "custom.image_roots"),
        ("in/../../secret/s.jpg", "custom.image_roots"),
        ("../data2/t.jpg", "custom.image_roots"),  # a name that only begins like the root's
        ("{tree}/secret/s.jpg", "custom.image_roots"),
        ("escape.jpg", "custom.image_roots"),
        ("folder/s.jpg", "custom.image_roots"),
        ("/etc/passwd", "custom.image_roots"),
        ("//server/share/x.jpg", "custom.image_roots"),
        ("\\\\server\\share\\x.jpg", "custom.image_roots"),
        ("C:\\x.jpg", "custom.image_roots"),
        ("file:///etc/passwd", "custom.image_roots"),
        ("FILE:/etc/passwd", "custom.image_roots"),
        ("ftp://host/x.jpg", "custom.image_roots"),
        ("http://127.0.0.1/x.jpg", "custom.image_url_allow"),
        ("HTTPS://host.example/x.jpg", "custom.image_url_allow"),
        ("http://good.example@evil.example/x.jpg", "custom.image_url_allow"),
    ],
)
def test_everything_else_is_refused_with_the_key(tree, image, key) -> None:
    policy = ImagePolicy(url_allow=("good.example",))
    with pytest.raises(DataError, match=key):
        policy.resolve(image.format(tree=tree), tree / "data")


@pytest.mark.parametrize("image", ["gone.jpg", "in", "loop.jpg", "x" * 5000, "a\0b.jpg", "", " "])
def test_what_is_no_file_is_named(tree, image) -> None:
    with pytest.raises(DataError):
        ImagePolicy().resolve(image, tree / "data")


def test_an_allowed_url_passes_by_name_and_is_no_file(tree) -> None:
    policy = ImagePolicy(url_allow=("Good.example",))
    policy.check_name("https://good.example/x.jpg", tree)
    with pytest.raises(DataError, match="is a URL: there is no file"):
        policy.resolve("https://good.example/x.jpg", tree)


def test_given_roots_replace_the_default_ones(tree) -> None:
    policy = ImagePolicy(roots=(str(tree / "other"),))
    assert policy.resolve("../other/o.jpg", tree / "data").name == "o.jpg"
    with pytest.raises(DataError, match="lies outside"):
        policy.resolve("in/a.jpg", tree / "data")
    policy.check_name("../other/o.jpg", tree / "data")
    with pytest.raises(DataError, match="lies outside"):
        policy.check_name("in/a.jpg", tree / "data")


def test_root_image_dir_is_a_second_place(tree, monkeypatch) -> None:
    monkeypatch.setenv("ROOT_IMAGE_DIR", str(tree / "other"))
    policy = ImagePolicy()
    assert policy.resolve("o.jpg", tree / "data").name == "o.jpg"
    assert policy.resolve("in/a.jpg", tree / "data").name == "a.jpg"
    with pytest.raises(DataError, match="lies outside"):
        policy.resolve("../secret/s.jpg", tree / "data")
    policy.check_name("o.jpg", tree / "data")
