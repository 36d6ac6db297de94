"""The command line: one verb per command; heavy imports happen inside the verb that needs them."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from plumbline import __version__

app = App(
    name="plumbline",
    help="Fine-tune Qwen3-VL from YAML, keep it true to its base, and use what was trained.",
    version=__version__,
)
config_app = App(name="config", help="Show, compare, check and document configurations.")
data_app = App(name="data", help="Check, measure and convert JSONL data.")
stage_b_app = App(name="stage-b", help="Verdicts for groups of photos: run, edit the guidance, calibrate.")
app.command(config_app)
app.command(data_app)
app.command(stage_b_app)

BaseConfig = Annotated[
    Path | None,
    Parameter(name=("--base_config", "--base-config"), help="A file below everything that FILE says and extends."),
]
AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object.")]


app.register_install_completion_command()

Kind = Annotated[
    Literal["train", "stage-b", "missions"] | None,
    Parameter(help="What FILE configures; recognised by its content without it."),
]


@config_app.command(name="check")
def config_check(file: Path, *, base_config: BaseConfig = None, kind: Kind = None, as_json: AsJson = False) -> int:
    """Judge each key of FILE by itself: names, types, ranges. Exit 0 or 2.

    Example: `plumbline config check my.yaml --base_config configs/base.yaml`
    """
    from plumbline.stage_b import config_verbs as stage_b_verbs
    from plumbline.train import config_verbs

    if (found := kind or stage_b_verbs.recognised(file) or "train") != "train":
        return stage_b_verbs.check(file, found, as_json=as_json)
    return config_verbs.check(file, base_config, as_json)


@config_app.command(name="show")
def config_show(file: Path, *, base_config: BaseConfig = None, kind: Kind = None, as_json: AsJson = False) -> int:
    """Print what FILE results in, each value with the place it comes from.

    Example: `plumbline config show configs/stage_3_gkd.yaml`
    """
    from plumbline.stage_b import config_verbs as stage_b_verbs
    from plumbline.train import config_verbs

    if (found := kind or stage_b_verbs.recognised(file) or "train") != "train":
        return stage_b_verbs.show(file, found, as_json=as_json)
    return config_verbs.show(file, base_config, as_json)


@config_app.command(name="new")
def config_new(
    name: Annotated[str | None, Parameter(help="A recipe; without it they are listed.")] = None,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), help="NAME.yaml without it.")] = None,
    overwrite: Annotated[bool, Parameter(negative=(), help="Replace a file that is there.")] = False,
) -> int:
    """Write a recipe that ships as one file of your own.

    Example: `plumbline config new stage_3_gkd_forward_only -o my.yaml`
    """
    from plumbline.train import config_verbs

    return config_verbs.new(name, output, overwrite=overwrite)


@config_app.command(name="migrate")
def config_migrate(
    old: Path,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), help="Standard output without it.")] = None,
    overwrite: Annotated[bool, Parameter(negative=(), help="Replace a file that is there.")] = False,
) -> int:
    """Rewrite an earlier configuration in today's names, comments kept; what a person must decide is printed.

    Exit 0, or 3 where something is left to decide.

    Example: `plumbline config migrate old.yaml --output new.yaml`
    """
    from plumbline.stage_b import config_verbs as stage_b_verbs
    from plumbline.train import config_verbs

    return config_verbs.migrate(old, output, stage_b_verbs.problems_of, overwrite=overwrite)


@config_app.command(name="diff")
def config_diff(first: Path, second: Path, *, as_json: AsJson = False) -> int:
    """Print the keys in which two resolved configurations differ.

    Example: `plumbline config diff configs/stage_2_llm_lora.yaml configs/stage_2_llm_lora_gkd.yaml`
    """
    from plumbline.train import config_verbs

    return config_verbs.diff(first, second, as_json)


@config_app.command(name="schema")
def config_schema(*, kind: Annotated[Literal["train", "stage-b"], Parameter(help="Of which run.")] = "train") -> int:
    """Print the JSON Schema (draft 2020-12) of a run's YAML, for editors.

    Example: `plumbline config schema > plumbline.schema.json`
    """
    from plumbline.stage_b import config_verbs as stage_b_verbs
    from plumbline.train import config_verbs

    return config_verbs.schema() if kind == "train" else stage_b_verbs.schema()


@config_app.command(name="reference")
def config_reference(
    *, stage_b: Annotated[bool, Parameter(negative=(), help="Of a Stage-B run instead of a training run.")] = False
) -> int:
    """Print the reference page of every key.

    Example: `plumbline config reference > docs/CONFIG.md`
    """
    if stage_b:
        from plumbline.stage_b.reference import reference_page
    else:
        from plumbline.train.reference import reference_page
    print(reference_page(), end="")
    return 0


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
        Literal["coco", "lvis", "labelme", "label-studio", "cvat", "yolo", "yolo-obb"] | None,
        Parameter(name="--from", help="Format of SOURCE; without it SOURCE is JSONL of the contract."),
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
    """Convert other tools' annotations to JSONL, or JSONL to COCO, and tell what was lost. Exit 0, or 3 with losses.

    Example: `plumbline data convert instances.json --from coco --images photos --output train.jsonl`
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


@app.command
def train(
    config: Annotated[Path, Parameter(help="The run's YAML; --config FILE does as well.")],
    *,
    base_config: BaseConfig = None,
    gpus: Annotated[str | None, Parameter(help="Devices such as 0,1: one process each.")] = None,
    resume: Annotated[bool, Parameter(help="Go on where an interrupted run in output_dir stopped.")] = True,
    extend: Annotated[
        bool,
        Parameter(negative=(), help="Train a run on, by more max_steps or num_train_epochs than it was made with."),
    ] = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Check everything, load no weights, write nothing.")] = False,
    build_teacher_cache: Annotated[
        bool, Parameter(negative=(), help="Fill rlhf.teacher_cache with the teacher's rows, then stop.")
    ] = False,
    debug: Annotated[bool, Parameter(negative=(), help="More log lines, upstream's included.")] = False,
    as_json: AsJson = False,
) -> int:
    """Fine-tune from YAML: SFT, or distillation where the YAML has an rlhf block.

    Example: `plumbline train configs/tiny/smoke.yaml`
    """
    from plumbline.report.run import write_run_report
    from plumbline.train.launch import TrainOptions
    from plumbline.train.run import run_training

    outcome = run_training(
        config, TrainOptions(base_config, debug, dry_run, gpus, resume, as_json, build_teacher_cache, extend)
    )
    if outcome.folder is not None:
        page = write_run_report(outcome.folder)
        print(f"report: {page}", file=sys.stderr)
    return outcome.exit_code


@app.command(name="merge")
def merge(
    *,
    adapter: Path,
    output: Path,
    base: Path | None = None,
    alpha: Annotated[
        list[float] | None,
        Parameter(negative=(), help="Share of the way from base to merged weights; several make a folder each."),
    ] = None,
    max_shard_size: str = "5GB",
    dtype: str | None = None,
    verify: bool = True,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> int:
    """Merge an adapter into its base model: one folder, proven equal to base plus adapter.

    Example: `plumbline merge --adapter output/run/checkpoint-100 --output output/merged`

    A sweep: `plumbline merge --adapter output/run --output output/sweep --alpha 0.3 --alpha 0.5 --alpha 0.7`
    """
    from plumbline.model.verbs import merge_verb

    return merge_verb(adapter, output, base, alpha or [1.0], max_shard_size, dtype, verify, overwrite, as_json)


@app.command(name="quantize")
def quantize(
    *,
    model: Path,
    output: Path,
    method: Annotated[str, Parameter(help="bnb4, bnb8 (extra `quantize`), or fp8 (a GPU).")] = "bnb4",
    overwrite: bool = False,
    as_json: AsJson = False,
) -> int:
    """Write a base or merged model in fewer bits, its card with it.

    Example: `plumbline quantize --model output/merged --output output/merged-4bit`
    """
    from plumbline.model.verbs import quantize_verb

    return quantize_verb(model, output, method, overwrite, as_json)


@app.command(name="inspect-lora")
def inspect_lora(checkpoint: Path, *, as_json: AsJson = False) -> int:
    """Show what is in an adapter: counts and norms per language model, vision encoder and aligner.

    Example: `plumbline inspect-lora output/run/checkpoint-100`
    """
    from plumbline.model.verbs import inspect_verb

    return inspect_verb(checkpoint, as_json)


Shard = Annotated[
    str | None,
    Parameter(help="Only the I-th of N parts of the input, as I/N; without it finished parts are taken over."),
]
MaxErrorRate = Annotated[
    float | None, Parameter(help="Stop (exit 5) when a larger share has no reply, judged from 20 rows on.")
]
Replies = Annotated[
    Path | None, Parameter(help="Keep replies in this file by what they depend on; the same question is asked once.")
]
Servers = Annotated[
    tuple[str, ...],
    Parameter(name="--server", negative=(), help="OpenAI-compatible server that answers; may be repeated."),
]
UrlHosts = Annotated[
    tuple[str, ...],
    Parameter(negative=(), help="Host (or host:port) from which a JSONL's pictures are fetched; may be repeated."),
]
EngineName = Annotated[str, Parameter(help="transformers, or vllm (to be installed with the extra of that name).")]
Dtype = Annotated[str, Parameter(help="Of the weights: auto, bfloat16, float16 or float32.")]
AttnImpl = Annotated[str | None, Parameter(help="Attention of transformers: sdpa, eager or flash_attention_2.")]
MaxModelLen = Annotated[int | None, Parameter(help="Tokens of prompt and reply that vllm makes room for.")]
ServedModel = Annotated[str | None, Parameter(help="The model's name on the servers, where they have several.")]


@app.command(name="infer")
def infer(
    *,
    model: Path,
    source: Annotated[Path, Parameter(name="--input", help="A JSONL of records, a folder of pictures, or a picture.")],
    output: Annotated[Path, Parameter(help="JSONL of the rows; without it one picture is described here.")] = Path("-"),
    adapter: Path | None = None,
    draw: Annotated[Path | None, Parameter(help="Save each picture with its objects into this folder.")] = None,
    mode: Annotated[str | None, Parameter(help="dense or summary; as trained when left out.")] = None,
    emit_norm: Annotated[str | None, Parameter(help="Only where the model has no plumbline.json.")] = None,
    batch_size: int = 1,
    max_new_tokens: int = 2048,
    temperature: float = 0.0,
    top_p: float = 0.9,
    limit: int | None = None,
    engine: EngineName = "transformers",
    dtype: Dtype = "auto",
    attn_impl: AttnImpl = None,
    max_model_len: MaxModelLen = None,
    resume: bool = True,
    image_root: tuple[str, ...] = (),
    image_url_allow: UrlHosts = (),
    shard: Shard = None,
    max_error_rate: MaxErrorRate = None,
    replies: Replies = None,
    server: Servers = (),
    served_model: ServedModel = None,
    guided: Annotated[bool, Parameter(negative=(), help="Servers bind dense replies to their JSON schema.")] = False,
    as_json: AsJson = False,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Describe pictures: one row of JSON per picture, appended as it is made.

    Example: `plumbline infer --model output/merged --input photos/ --output captions.jsonl --draw overlays/`, or
    `plumbline infer --model output/merged --input photo.jpg` to read one reply as it is written.
    """
    from plumbline.infer import verbs
    from plumbline.infer.config import InferSettings, Sampling, read_shard
    from plumbline.report.overlay import draw_objects

    settings = InferSettings(
        model=model,
        input=source,
        output=output,
        adapter=adapter,
        sampling=Sampling(max_new_tokens, temperature, top_p),
        batch_size=batch_size,
        engine=engine,
        dtype=dtype,
        attn_impl=attn_impl,
        max_model_len=max_model_len,
        resume=resume,
        image_roots=image_root,
        image_url_allow=image_url_allow,
        shard=None if shard is None else read_shard(shard),
        max_error_rate=max_error_rate,
        replies=replies,
        servers=server,
        served_model=served_model,
        mode=mode,
        emit_norm=emit_norm,
        limit=limit,
        guided=guided,
    )
    return verbs.infer(settings, draw, draw_objects, as_json, dry_run)


@app.command
def doctor(
    *,
    server: Annotated[str, Parameter(help="OpenAI-compatible server to look at.")],
    served_model: ServedModel = None,
    as_json: AsJson = False,
) -> int:
    """Check a server: its models, limits, whether it sees pictures, and whether it says the same twice.

    Example: `plumbline doctor --server http://localhost:8000`
    """
    from plumbline.infer import doctor as checks

    return checks.doctor(server, served_model, as_json=as_json)


@app.command(name="stage-a")
def stage_a(
    *,
    model: Path,
    source: Annotated[Path, Parameter(name="--input", help="Root of missions, a mission, a folder, or a JSONL.")],
    output: Annotated[Path, Parameter(help="Folder; or a file that ends in .jsonl.")],
    mission: Annotated[tuple[str, ...], Parameter(negative=(), help="Only this mission; may be repeated.")] = (),
    prompts: Annotated[Path, Parameter(help="One text per mission.")] = Path("configs/prompts"),
    adapter: Path | None = None,
    batch_size: int = 8,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 0.9,
    groups: Annotated[int | None, Parameter(help="So many tickets per mission, drawn by --seed.")] = None,
    seed: int = 0,
    engine: EngineName = "transformers",
    dtype: Dtype = "auto",
    attn_impl: AttnImpl = None,
    max_model_len: MaxModelLen = None,
    runner: Annotated[str, Parameter(help="local, or ray: on a cluster (extra `ray`).")] = "local",
    workers: Annotated[int | None, Parameter(help="Processes of the ray runner; else one per GPU.")] = None,
    resume: bool = True,
    image_root: tuple[str, ...] = (),
    image_url_allow: UrlHosts = (),
    shard: Shard = None,
    max_error_rate: MaxErrorRate = None,
    replies: Replies = None,
    server: Servers = (),
    served_model: ServedModel = None,
    as_json: AsJson = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Count tickets and tokens, load nothing.")] = False,
) -> int:
    """Summarise every picture in one line, gathered per ticket.

    Example: `plumbline stage-a --model output/merged --input tickets/ --output output/stage_a --mission 挡风板安装检查`
    """
    from plumbline.infer.config import Sampling, read_shard
    from plumbline.stage_a import verbs
    from plumbline.stage_a.config import StageASettings

    settings = StageASettings(
        model=model,
        input=source,
        output=output,
        missions=mission,
        prompts=prompts,
        adapter=adapter,
        sampling=Sampling(max_new_tokens, temperature, top_p),
        batch_size=batch_size,
        engine=engine,
        dtype=dtype,
        attn_impl=attn_impl,
        max_model_len=max_model_len,
        runner=runner,
        workers=workers,
        groups=groups,
        seed=seed,
        resume=resume,
        image_roots=image_root,
        image_url_allow=image_url_allow,
        shard=None if shard is None else read_shard(shard),
        max_error_rate=max_error_rate,
        replies=replies,
        servers=server,
        served_model=served_model,
    )
    return verbs.stage_a(settings, as_json=as_json, dry_run=dry_run)


Missions = Annotated[tuple[str, ...], Parameter(name="--mission", negative=(), help="Only this one; may be repeated.")]
RunOrConfig = Annotated[Path, Parameter(help="A configuration, or the folder of a run.")]
OneMission = Annotated[str | None, Parameter(name="--mission", help="Needed where the tickets have several.")]


@stage_b_app.command(name="run")
def stage_b_run(
    config: Path,
    *,
    missions: Missions = (),
    resume: bool = True,
    log_level: Annotated[Literal["warning", "info", "debug"], Parameter(help="What is told as it goes.")] = "warning",
    as_json: AsJson = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Count questions and tokens, load nothing.")] = False,
) -> int:
    """Read tickets, roll out, judge, select, reflect: epoch by epoch, a run folder per mission.

    Example: `plumbline stage-b run configs/stage_b_training_free.yaml --log-level debug`
    """
    import logging

    from plumbline.stage_b import verbs

    logging.basicConfig(level=log_level.upper(), format="%(levelname)s: %(message)s")
    return verbs.run(config, missions, resume=resume, as_json=as_json, dry_run=dry_run)


@stage_b_app.command(name="edit")
def stage_b_edit(
    config: RunOrConfig,
    *,
    mission: OneMission = None,
    add: Annotated[str | None, Parameter(help="A new rule.")] = None,
    rewrite: Annotated[str | None, Parameter(help="The new text of the rule --rule.")] = None,
    merge_into: Annotated[str | None, Parameter(help="One rule in the place of those named with --rule.")] = None,
    retire: Annotated[bool, Parameter(negative=(), help="Take the rule --rule away.")] = False,
    rule: Annotated[tuple[str, ...], Parameter(negative=(), help="Id of a rule, such as R3; may be repeated.")] = (),
    evidence: Annotated[tuple[str, ...], Parameter(negative=(), help="Ticket or image id; may be repeated.")] = (),
    as_json: AsJson = False,
) -> int:
    """Bring an edit of the guidance before the gate. Exit 4 where it is not accepted.

    Example: `plumbline stage-b edit stage_b.yaml --mission 挡风板安装检查 --add "挡风板方向无法判断时不通过"`
    """
    from plumbline.stage_b import verbs
    from plumbline.stage_b.guidance import edit_of

    change = edit_of(add=add, rewrite=rewrite, merge=merge_into, retire=retire, targets=rule, evidence=evidence)
    return verbs.edit(config, mission, change, as_json=as_json)


@stage_b_app.command(name="import-guidance")
def stage_b_import_guidance(
    source: Path,
    *,
    output: Annotated[Path, Parameter(help="Folder for a guidance file per mission; name one in `guidance.path`.")],
    mission: OneMission = None,
    missions_file: Annotated[Path | None, Parameter(help="Where each mission's focus stands.")] = None,
    overwrite: Annotated[bool, Parameter(negative=(), help="Replace files that are there.")] = False,
) -> int:
    """Make guidance files of today from one of an earlier version ({mission: {experiences: {G0: text}}}).

    Example: `plumbline stage-b import-guidance old/guidance.json --output guidance/`
    """
    from plumbline.stage_b import verbs

    return verbs.import_guidance(source, output, mission, missions_file, overwrite=overwrite)


@stage_b_app.command(name="effects")
def stage_b_effects(config: RunOrConfig, *, mission: OneMission = None, as_json: AsJson = False) -> int:
    """Measure what each rule does: the propose tickets are judged with all rules and with all but one.

    Example: `plumbline stage-b effects stage_b.yaml --mission 挡风板安装检查`
    """
    from plumbline.stage_b import verbs

    return verbs.effects(config, mission, as_json=as_json)


@stage_b_app.command(name="rollback")
def stage_b_rollback(config: RunOrConfig, step: int, *, mission: OneMission = None, as_json: AsJson = False) -> int:
    """Make a kept step of the guidance current again, as a new step.

    Example: `plumbline stage-b rollback stage_b.yaml 3 --mission 挡风板安装检查`
    """
    from plumbline.stage_b import verbs

    return verbs.rollback(config, mission, step, as_json=as_json)


@stage_b_app.command(name="rejudge")
def stage_b_rejudge(config: Path, *, missions: Missions = (), as_json: AsJson = False) -> int:
    """Score recorded rollouts with the weights and the policy of CONFIG; nothing is asked.

    Example: `plumbline stage-b rejudge stage_b.yaml`
    """
    from plumbline.stage_b import verbs

    return verbs.rejudge(config, missions, as_json=as_json)


@stage_b_app.command(name="calibrate")
def stage_b_calibrate(
    config: RunOrConfig,
    *,
    mission: OneMission = None,
    max_false_pass: Annotated[float, Parameter(help="Share of automatic passes that may be fails.")] = 0.01,
    confidence: Annotated[float, Parameter(help="Chance that the bound holds.")] = 0.95,
    as_json: AsJson = False,
) -> int:
    """Choose the threshold from which a pass needs no person. Exit 4 where none can be certified.

    Example: `plumbline stage-b calibrate stage_b.yaml --mission 挡风板安装检查 --max-false-pass 0.01`
    """
    from plumbline.stage_b import verbs

    return verbs.calibrate(config, mission, max_false_pass, confidence, as_json=as_json)


@stage_b_app.command(name="test")
def stage_b_test(config: RunOrConfig, *, mission: OneMission = None, as_json: AsJson = False) -> int:
    """Tell the figures of the sealed test; every look is counted.

    Example: `plumbline stage-b test stage_b.yaml --mission 挡风板安装检查`
    """
    from plumbline.stage_b import verbs

    return verbs.sealed_test(config, mission, as_json=as_json)


@stage_b_app.command(name="report")
def stage_b_report(
    config: RunOrConfig,
    *,
    mission: OneMission = None,
    output: Annotated[Path | None, Parameter(help="File; `report.html` in the run folder without it.")] = None,
) -> int:
    """Write figures, review queue, label suspects and guidance history as one static page per mission.

    Example: `plumbline stage-b report stage_b.yaml`
    """
    from plumbline.report import stage_b_verbs

    return stage_b_verbs.report(config, mission, output)


@app.command
def review(
    config: RunOrConfig,
    *,
    mission: OneMission = None,
    image_root: Annotated[
        Path | None, Parameter(help="Folder that stage-a read; without it no photo is shown.")
    ] = None,
    captions: Annotated[Path | None, Parameter(help="JSONL of `plumbline infer`: its objects are drawn.")] = None,
    port: Annotated[int, Parameter(help="On 127.0.0.1; 0 for any that is free.")] = 0,
) -> int:
    """Serve the page on which a person works through the tickets that wait for one. Ctrl-C ends it.

    Example: `plumbline review output/stage_b/挡风板安装检查/default --image-root tickets/`
    """
    from plumbline.report import stage_b_verbs

    return stage_b_verbs.review(config, mission, image_root, captions, port)


@app.command
def demo(
    *,
    output: Path = Path("output/demo"),
    prepare_only: Annotated[bool, Parameter(negative=(), help="Make the tiny model and the data, then stop.")] = False,
    steps: Annotated[int | None, Parameter(help="Steps of fine-tuning; the distillation takes a tenth of it.")] = None,
) -> int:
    """Run the whole road on a tiny model in minutes: check, train, distil, merge, describe, report.

    Example: `plumbline demo --output output/demo`
    """
    from plumbline.demo.run import DemoOptions, run_demo

    return run_demo(DemoOptions(output, prepare_only, steps))


def main() -> None:
    """Run the command line; user errors print one clean message, bugs keep their traceback."""
    from plumbline.errors import EXIT_INTERRUPTED, UserError, disk_error

    try:
        code = app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if (refused := disk_error(error)) is None:
            raise
        print(f"error: {refused}", file=sys.stderr)
        code = refused.exit_code
    sys.exit(code if isinstance(code, int) else 0)
