"""Verbs of data."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from plumbline.cli.app import AsJson, BaseConfig, data_app

ImageRoots = Annotated[
    list[Path] | None, Parameter(name="--image-root", negative=(), help="As `custom.image_roots`; may be repeated.")
]
Limit = Annotated[int | None, Parameter(help="Only the first N records of each file.")]


@data_app.command(name="check")
def data_check(
    files: list[Path],
    /,
    *,
    images: Annotated[bool, Parameter(negative=(), help="Also decode every picture and compare its size.")] = False,
    image_root: ImageRoots = None,
    limit: Limit = None,
    max_report: Annotated[int | None, Parameter(help="Findings listed; by default 100, with --json all.")] = None,
    html: Annotated[Path | None, Parameter(help="Also write a page: the findings over their pictures.")] = None,
    as_json: AsJson = False,
) -> int:
    """List everything that is wrong with the records of FILES. Exit 0, or 3 with findings.

    Example: `plumbline data check train.jsonl val.jsonl --images --html findings.html`
    """
    from plumbline.data import verbs

    gallery = None
    if html is not None:
        from plumbline.report.gallery import write_gallery

        gallery = partial(write_gallery, html)
    options = verbs.options_of(images, image_root or [], limit)
    code = verbs.check(files, options, max_report=max_report, gallery=gallery, as_json=as_json)
    if html is not None:
        print(f"page: {html}", file=sys.stderr)
    return code


@data_app.command(name="stats")
def data_stats(
    file: Path, *, top: Annotated[int, Parameter(help="Classes and sizes shown.")] = 20, as_json: AsJson = False
) -> int:
    """Count what FILE holds: objects per kind and class, sizes, summaries.

    Example: `plumbline data stats train.jsonl`
    """
    from plumbline.data import verbs

    return verbs.stats(file, top=top, as_json=as_json)


@data_app.command(name="split")
def data_split(
    file: Path,
    /,
    *,
    train: Annotated[str, Parameter(help="Name of the part to train on, next to FILE.")] = "train.jsonl",
    val: Annotated[str, Parameter(help="Name of the part to validate with.")] = "val.jsonl",
    test: Annotated[str, Parameter(help="Name of the part to test with, where it has a share.")] = "test.jsonl",
    val_share: Annotated[float, Parameter(help="Its part of the records.")] = 0.1,
    test_share: Annotated[float, Parameter(help="Its part of the records; 0 writes none.")] = 0.0,
    group: Annotated[
        str | None, Parameter(help="`folder`, or a key of `metadata`: records that agree in it stay together.")
    ] = None,
    no_near: Annotated[
        bool, Parameter(negative=(), help="Open no picture: near-duplicates may then fall into two parts.")
    ] = False,
    image_root: ImageRoots = None,
    seed: int = 0,
    overwrite: Annotated[bool, Parameter(negative=(), help="Replace parts that are there already.")] = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Only say what would become of FILE.")] = False,
    as_json: AsJson = False,
) -> int:
    """Share FILE out for training and validation: no picture, near-duplicate or group is in two parts.

    Each part gets its share of every class as nearly as whole groups allow. Lines are copied as they are.

    Example: `plumbline data split all.jsonl --group folder --val-share 0.1`
    """
    from plumbline.data import verbs
    from plumbline.data.images import ImagePolicy
    from plumbline.data.split import SplitSettings

    shares = {file.parent / train: 1 - val_share - test_share, file.parent / val: val_share}
    shares |= {file.parent / test: test_share} if test_share else {}
    policy = ImagePolicy(roots=tuple(map(str, image_root or [])))
    settings = SplitSettings(file, shares, group, not no_near, policy, seed)
    return verbs.split(settings, overwrite=overwrite, dry_run=dry_run, as_json=as_json)


@data_app.command(name="sample")
def data_sample(
    file: Path,
    /,
    *,
    count: Annotated[int, Parameter(name=("--count", "-n"), help="Records to draw.")],
    output: Annotated[Path, Parameter(help="File to write, next to FILE.")],
    seed: int = 0,
    overwrite: Annotated[bool, Parameter(negative=(), help="Replace an output that is there already.")] = False,
    as_json: AsJson = False,
) -> int:
    """Draw records of FILE at random, each class with its share. Lines are copied as they are.

    Example: `plumbline data sample train.jsonl -n 200 --output small.jsonl`
    """
    from plumbline.data import verbs

    return verbs.sample(file, count, output, seed, overwrite=overwrite, as_json=as_json)


@data_app.command(name="merge")
def data_merge(
    files: list[Path],
    /,
    *,
    output: Annotated[Path, Parameter(help="File to write, in a folder above all pictures.")],
    image_root: Annotated[
        list[Path] | None, Parameter(negative=(), help="A folder that pictures may lie in as well; may be repeated.")
    ] = None,
    overwrite: Annotated[bool, Parameter(negative=(), help="Replace an output that is there already.")] = False,
    as_json: AsJson = False,
) -> int:
    """Write the records of FILES into one, pictures named from there. Refused when two annotate a picture differently.

    Example: `plumbline data merge site_a/train.jsonl site_b/train.jsonl --output train.jsonl`
    """
    from plumbline.data import verbs

    return verbs.merge(files, output, image_root or [], overwrite=overwrite, as_json=as_json)


@data_app.command(name="preview")
def data_preview(
    config: Path,
    *,
    output: Path = Path("output/preview"),
    limit: Annotated[int, Parameter(help="Samples shown.")] = 8,
    epoch: int = 0,
    base_config: BaseConfig = None,
    as_json: AsJson = False,
) -> int:
    """Draw samples of a run before and after augmentation: a page, a picture, and the numeric check of its geometry.

    Example: `plumbline data preview configs/my_run.yaml --output output/preview`
    """
    from plumbline.report.preview import preview

    return preview(config, base_config, output, limit, epoch, as_json=as_json)


@data_app.command(name="convert")
def data_convert(
    source: Path,
    /,
    *,
    output: Annotated[Path, Parameter(help="File to write.")],
    from_: Annotated[
        Literal["coco", "lvis", "labelme", "label-studio", "cvat", "yolo", "yolo-obb", "captions"] | None,
        Parameter(
            name="--from", help="Format of SOURCE (captions: what `infer` wrote); without it JSONL of the contract."
        ),
    ] = None,
    to: Annotated[Literal["jsonl", "coco"], Parameter(help="Format of the output.")] = "jsonl",
    images: Annotated[Path | None, Parameter(help="Folder of the pictures: they must be there.")] = None,
    classes: Annotated[Path | None, Parameter(help="YOLO: data.yaml or a text file with one name per line.")] = None,
    boxes: Annotated[bool, Parameter(negative=(), help="Write quads and outlines as upright boxes.")] = False,
    overwrite: Annotated[bool, Parameter(negative=(), help="Replace an output that is there already.")] = False,
    keep_empty: Annotated[
        bool, Parameter(negative=(), help="Pictures without objects become records with `objects: []`.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Convert other tools' annotations to JSONL, or JSONL to COCO, and report what was lost. Exit 0, or 3 with losses.

    Example: `plumbline data convert instances.json --from coco --images photos --output train.jsonl`

    Drafts to correct in a tool that reads COCO: `plumbline data convert captions.jsonl --from captions --images photos
    --output drafts.jsonl`, then `plumbline data convert drafts.jsonl --to coco --output drafts.json`
    """
    from plumbline.data.convert import verbs

    options = verbs.ConvertOptions(images, classes, boxes, overwrite, keep_empty)
    return verbs.convert(source, from_, to, output, options, as_json=as_json)


@data_app.command(name="lengths")
def data_lengths(
    file: Path,
    *,
    model: Annotated[Path, Parameter(help="Checkpoint folder: its tokenizer and image processor are used.")],
    mode: Literal["dense", "summary"] = "dense",
    emit_norm: Annotated[
        Literal["none", "norm100", "norm1000"], Parameter(name=("--emit-norm", "--emit_norm"))
    ] = "norm1000",
    max_length: Annotated[int, Parameter(help="Longer samples are counted.")] = 4096,
    max_pixels: Annotated[int | None, Parameter(help="As `template.max_pixels`.")] = None,
    image_root: ImageRoots = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> int:
    """Measure the exact token length of every sample of FILE without decoding a picture. Exit 0, or 3 when too long.

    Example: `plumbline data lengths train.jsonl --model Qwen3-VL-4B-Instruct --max-length 4096`
    """
    from plumbline.batch import measure

    settings = measure.settings_of(mode, emit_norm, image_root or [], limit)
    return measure.lengths(file, model, settings, max_length=max_length, max_pixels=max_pixels, as_json=as_json)
