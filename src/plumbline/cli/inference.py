"""Using a model: captions, summaries, and a look at the server that makes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from plumbline.cli.app import AsJson, app

Shard = Annotated[
    str | None,
    Parameter(help="Only the I-th of N parts of the input, as I/N; without it finished parts are taken over."),
]
MaxErrorRate = Annotated[
    float | None, Parameter(help="Stop (exit 5) when a larger share has no reply, measured from 20 rows on.")
]
Replies = Annotated[
    Path | None, Parameter(help="Keep replies in this file by what they depend on; the same question is sent once.")
]
Servers = Annotated[
    tuple[str, ...],
    Parameter(name="--server", negative=(), help="OpenAI-compatible server that answers; may be repeated."),
]
UrlHosts = Annotated[
    tuple[str, ...],
    Parameter(negative=(), help="Host (or host:port) from which a JSONL's pictures are fetched; may be repeated."),
]
EngineName = Annotated[
    Literal["transformers", "vllm"], Parameter(help="What runs the weights; vllm needs the extra of that name.")
]
Dtype = Annotated[str, Parameter(help="Of the weights: auto, bfloat16, float16 or float32.")]
AttnImpl = Annotated[str | None, Parameter(help="Attention of transformers: sdpa, eager or flash_attention_2.")]
MaxModelLen = Annotated[int | None, Parameter(help="Tokens of prompt and reply that vllm makes room for.")]
ServedModel = Annotated[str | None, Parameter(help="The model's name on the servers, where they have several.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Answering:
    """Who answers and how: what `infer` and `stage-a` have in common."""

    adapter: Path | None = None
    temperature: float = 0.0
    top_p: float = 0.9
    engine: EngineName = "transformers"
    dtype: Dtype = "auto"
    attn_impl: AttnImpl = None
    max_model_len: MaxModelLen = None
    resume: bool = True
    image_root: tuple[str, ...] = ()
    image_url_allow: UrlHosts = ()
    shard: Shard = None
    max_error_rate: MaxErrorRate = None
    replies: Replies = None
    server: Servers = ()
    served_model: ServedModel = None

    def settings(self, max_new_tokens: int) -> dict[str, Any]:
        """The fields that the settings of both verbs share."""
        from plumbline.infer.config import Sampling, read_shard

        return {
            "adapter": self.adapter,
            "sampling": Sampling(max_new_tokens, self.temperature, self.top_p),
            "engine": self.engine,
            "dtype": self.dtype,
            "attn_impl": self.attn_impl,
            "max_model_len": self.max_model_len,
            "resume": self.resume,
            "image_roots": self.image_root,
            "image_url_allow": self.image_url_allow,
            "shard": None if self.shard is None else read_shard(self.shard),
            "max_error_rate": self.max_error_rate,
            "replies": self.replies,
            "servers": self.server,
            "served_model": self.served_model,
        }


IN_PROCESS = Answering()


@app.command(name="infer")
def infer(
    *,
    model: Path,
    source: Annotated[Path, Parameter(name="--input", help="A JSONL of records, a folder of pictures, or a picture.")],
    output: Annotated[Path, Parameter(help="JSONL of the rows; without it one picture is described here.")] = Path("-"),
    draw: Annotated[Path | None, Parameter(help="Save each picture with its objects into this folder.")] = None,
    mode: Annotated[str | None, Parameter(help="dense or summary; as trained when left out.")] = None,
    emit_norm: Annotated[str | None, Parameter(help="Only where the model has no plumbline.json.")] = None,
    batch_size: int = 1,
    max_new_tokens: int = 2048,
    limit: int | None = None,
    prompt: Annotated[
        str | None, Parameter(help="Ask this instead of the trained question; a JSONL of chats brings its own.")
    ] = None,
    system: Annotated[str | None, Parameter(help="System text of that question.")] = None,
    images_per_prompt: Annotated[int, Parameter(help="Pictures in one question, for models trained so.")] = 1,
    guided: Annotated[bool, Parameter(negative=(), help="Servers bind dense replies to their JSON schema.")] = False,
    answering: Answering = IN_PROCESS,
    as_json: AsJson = False,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Describe pictures: one row of JSON per picture, appended as it is made.

    Example: `plumbline infer --model output/merged --input photos/ --output captions.jsonl --draw overlays/`, or
    `plumbline infer --model output/merged --input photo.jpg` to read one reply as it is written.

    A question: `plumbline infer --model Qwen3-VL-4B-Instruct --input photo.jpg --prompt "What is not in the picture?"`
    """
    from plumbline.infer import verbs
    from plumbline.infer.config import InferSettings
    from plumbline.report.overlay import draw_objects

    settings = InferSettings(
        model=model,
        input=source,
        output=output,
        batch_size=batch_size,
        mode=mode,
        emit_norm=emit_norm,
        limit=limit,
        guided=guided,
        prompt=prompt,
        system=system,
        images_per_prompt=images_per_prompt,
        **answering.settings(max_new_tokens),
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
    batch_size: int = 8,
    max_new_tokens: int = 512,
    groups: Annotated[int | None, Parameter(help="So many tickets per mission, drawn by --seed.")] = None,
    seed: int = 0,
    runner: Annotated[
        Literal["local", "ray"], Parameter(help="In this process, or on a cluster (extra `ray`).")
    ] = "local",
    workers: Annotated[int | None, Parameter(help="Processes of the ray runner; else one per GPU.")] = None,
    answering: Answering = IN_PROCESS,
    as_json: AsJson = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Count tickets and tokens, load nothing.")] = False,
) -> int:
    """Summarise every picture in one line, gathered per ticket.

    Example: `plumbline stage-a --model output/merged --input tickets/ --output output/stage_a --mission 挡风板安装检查`
    """
    from plumbline.stage_a import verbs
    from plumbline.stage_a.config import StageASettings

    settings = StageASettings(
        model=model,
        input=source,
        output=output,
        missions=mission,
        prompts=prompts,
        batch_size=batch_size,
        runner=runner,
        workers=workers,
        groups=groups,
        seed=seed,
        **answering.settings(max_new_tokens),
    )
    return verbs.stage_a(settings, as_json=as_json, dry_run=dry_run)
