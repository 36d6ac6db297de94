"""An adapter merged into its base: one self-contained model folder, proven equal to base plus adapter.

The merge itself runs in float32, whatever the base is stored in; the result is rounded once, when it is written.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import DamagedFileError, Problem, UserError
from plumbline.model.checkpoints import CARD_FILE, drafted, locate
from plumbline.model.inspect import module_of
from plumbline.model.loading import attach_adapter, base_of, load_model, load_processor
from plumbline.storage.objects import read_json_object

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4
EMBEDDINGS = {"lm_head", "model.language_model.embed_tokens"}
PROBE_ROWS = 32  # positions at the end of the probe whose logits are compared
DTYPES = ("float32", "bfloat16", "float16")
# Copied from the base byte for byte: tokenizer, chat template, image and video processor, generation defaults.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
)
UPSTREAM_FILE = "args.json"  # where ms-swift looks for what a folder's configuration lacks


@dataclass(frozen=True)
class MergeReport:
    """What was merged. max_abs_logit_diff: largest difference of a logit between merged model and base plus adapter,
    in float32, on a probe with a picture, before `alpha` moved it towards the base; None when it was not measured.
    """

    output: Path
    base: Path
    adapter: Path
    peft_type: str
    alpha: float
    dtype: str
    files: int
    size: int
    tied_embeddings: bool
    max_abs_logit_diff: float | None
    seconds: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {name: str(getattr(self, name)) for name in ("output", "base", "adapter")}


def merge(
    adapter: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    alpha: float = 1.0,
    max_shard_size: str = "5GB",
    dtype: str | None = None,
    verify: bool = True,
    overwrite: bool = False,
) -> MergeReport:
    """Merge an adapter (a run, checkpoint or adapter folder) into its base and write `output`, whole or not at all.

    base: folder of the base model; None takes the one that the adapter names. alpha: share of the way from the base's
    weights to the merged ones (Wortsman et al. 2022, arXiv 2109.01903). dtype: of the files; None is the base's.
    Raises UserError for folders that cannot be used, DamagedFileError when the merged model does not give the logits
    of base plus adapter within 1e-4 or when the files do not hold what was merged.
    """
    begun = time.perf_counter()
    if not 0 <= alpha <= 1:
        raise UserError(Problem("--alpha", f"{alpha:g} is not between 0 (the base) and 1 (the merged model)"))
    located = locate(adapter)
    if located.kind != "adapter":
        raise UserError(Problem(str(adapter), "is a whole model already", "name a checkpoint of an adapter run"))
    base_folder = locate(base).folder if base is not None else base_of(located.folder)
    stored = dtype or stored_dtype(base_folder)
    if stored not in DTYPES:
        raise UserError(Problem("--dtype", f"{stored!r} is none of {', '.join(DTYPES)}"))
    with drafted(output, overwrite) as draft:
        network, difference = merged_network(base_folder, located.folder, verify)
        if alpha != 1:
            interpolate(network, base_folder, alpha)
        write_model(network, draft, stored, max_shard_size)
        copy_companions(base_folder, located.folder, draft)
        check_files(network, draft)
        files = sorted(draft.glob("*.safetensors"))
        size = sum(path.stat().st_size for path in files)
    return MergeReport(
        output=Path(output),
        base=base_folder,
        adapter=located.folder,
        peft_type=str(read_json_object(located.folder / "adapter_config.json").get("peft_type")),
        alpha=alpha,
        dtype=stored,
        files=len(files),
        size=size,
        tied_embeddings=bool(network.config.tie_word_embeddings),
        max_abs_logit_diff=difference,
        seconds=time.perf_counter() - begun,
        notes=located.notes,
    )


def stored_dtype(folder: Path) -> str:
    """The dtype that a model's configuration names (two spellings are in use)."""
    config = read_json_object(folder / "config.json")
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def merged_network(base: Path, adapter: Path, verify: bool) -> tuple[Any, float | None]:
    """The merged network in float32, and how far its logits are from base plus adapter."""
    # In float32 an 8 B model fills a graphics card: merging and its proof run on the processor.
    wrapped = attach_adapter(load_model(base, dtype="float32", device="cpu"), adapter).eval()
    is_tied = bool(wrapped.config.tie_word_embeddings)
    probe = probe_inputs(base, wrapped) if verify else None
    wanted = probe_logits(wrapped, probe) if probe is not None else None
    if is_tied and changes_embeddings(adapter):
        del wrapped
        wrapped = attach_adapter(untied(load_model(base, dtype="float32", device="cpu")), adapter).eval()
    merged = unloaded(wrapped, adapter)
    settle_embeddings(merged, is_tied)
    if wanted is None:
        return merged, None
    difference = float((probe_logits(merged, probe) - wanted).abs().max())
    if not difference <= TOLERANCE:
        what = f"the merged logits differ from base plus adapter by {difference:.2e}, more than {TOLERANCE:.0e}"
        raise DamagedFileError(Problem(str(adapter), what, "nothing was written; is the base the one of the training?"))
    return merged, difference


def interpolate(network: Any, base: Path, alpha: float) -> None:
    """Move every weight of a merged network back towards the base's: base + alpha * (merged - base)."""
    import torch

    origin = load_model(base, dtype="float32", device="cpu")
    own = dict(origin.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.lerp(own[name], parameter, alpha))


def unloaded(wrapped: Any, adapter: Path) -> Any:
    """PEFT's merge, which refuses NaN and Inf."""
    try:
        return wrapped.merge_and_unload(safe_merge=True).eval()
    except ValueError as error:
        raise DamagedFileError(Problem(str(adapter), f"cannot be merged: {error}", "use another checkpoint")) from error


def changes_embeddings(adapter: Path) -> bool:
    """Whether the adapter holds anything for one of the two modules that a base may tie."""
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        return any(module_of(name) in EMBEDDINGS for name in file.keys())  # noqa: SIM118  # a file is no dict


def untied(network: Any) -> Any:
    """The network with weights of its own for `lm_head`: merging into one tied module would change the other."""
    import torch

    network.lm_head.weight = torch.nn.Parameter(network.lm_head.weight.detach().clone(), requires_grad=False)
    network.config.tie_word_embeddings = network.config.text_config.tie_word_embeddings = False
    return network


def settle_embeddings(network: Any, base_ties: bool) -> None:
    """Keep `lm_head` and the embeddings tied where the base ties them and they are still equal; else say so."""
    import torch

    embeddings = network.get_input_embeddings()
    tied = base_ties and torch.equal(network.lm_head.weight, embeddings.weight)
    if tied:
        network.lm_head.weight = embeddings.weight
    network.config.tie_word_embeddings = network.config.text_config.tie_word_embeddings = tied


def probe_inputs(base: Path, network: Any) -> Any:
    """Model inputs of one question about a made picture of colour ramps."""
    import numpy as np
    from PIL import Image

    rows, columns = np.mgrid[0:128, 0:192]
    ramps = np.stack([columns * 255 // 191, rows * 255 // 127, (rows + columns) * 255 // 318], axis=-1)
    processor = load_processor(base)
    content = [{"type": "image", "image": ""}, {"type": "text", "text": "请描述图片中的所有物体 [0, 250, 500, 1000]"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    image = Image.fromarray(ramps.astype(np.uint8))
    return processor(text=[text], images=[image], return_tensors="pt").to(network.device)


def probe_logits(network: Any, probe: Any) -> torch.Tensor:
    """Logits of the last positions, [1, PROBE_ROWS, vocabulary]."""
    import torch

    with torch.inference_mode():
        return network(**probe, logits_to_keep=PROBE_ROWS, use_cache=False).logits.float()


def write_model(network: Any, folder: Path, dtype: str, max_shard_size: str) -> None:
    """Write weights and configuration; the card of shards is written by transformers when there is more than one."""
    import torch

    network.to(getattr(torch, dtype))
    try:
        network.save_pretrained(folder, max_shard_size=max_shard_size)
    except ValueError as error:  # not a size such as 5GB
        raise UserError(Problem("--max-shard-size", f"{max_shard_size!r}: {error}", "write it like 5GB")) from error


def copy_companions(base: Path, adapter: Path, folder: Path) -> None:
    """What a model folder needs besides its weights."""
    for source, names in ((base, COMPANIONS), (adapter, (CARD_FILE,))):
        for name in names:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    # Several of ms-swift's model types share this architecture: without a word it refuses to choose.
    words = {
        "swift_version": version("ms-swift"),
        "model_type": "qwen3_vl",
        "template": "qwen3_vl",
        "tuner_type": "full",
    }
    (folder / UPSTREAM_FILE).write_text(json.dumps(words, indent=2) + "\n", encoding="utf-8")


def check_files(network: Any, folder: Path) -> None:
    """Raise DamagedFileError unless the files hold every tensor of the network, bit for bit, and nothing else."""
    import torch
    from safetensors import safe_open

    wanted = {name: value.cpu() for name, value in network.state_dict().items()}
    if network.config.tie_word_embeddings:
        wanted.pop("lm_head.weight")
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # a file is no dict
                if name not in wanted or not torch.equal(file.get_tensor(name), wanted.pop(name)):
                    raise DamagedFileError(Problem(str(path), f"{name} is not what was merged"))
    if wanted:
        raise DamagedFileError(Problem(str(folder), f"{sorted(wanted)[0]} and {len(wanted) - 1} more were not written"))
