"""One file's tree in canonical form: today's names, every key in its home section.

Done per file, before files are merged, so that `tuner.train_type` in one file overrides `tuner.tuner_type` in the file
that it extends, and `data.dataloader_num_workers` overrides `training.dataloader_num_workers`.
"""

from __future__ import annotations

from dataclasses import fields

from plumbline.config.tree import Entry, ListNode, MapNode, Node, Scalar, plain
from plumbline.config.types import show
from plumbline.config.upstream import SECTIONS, home, table
from plumbline.errors import Problem
from plumbline.storage.text import printable
from plumbline.train.sections import RlhfConfig

OWN_RLHF = tuple(item.name for item in fields(RlhfConfig))
RENAMED = {  # 3.x and earlier -> today
    "train_type": "tuner_type",
    "sft_type": "tuner_type",
    "evaluation_strategy": "eval_strategy",
    "save_safetensors": "safe_serialization",
    "metric": "eval_metric",
    "dtype": "torch_dtype",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "lora_target_modules": "target_modules",
    "lora_modules_to_save": "modules_to_save",
    "max_new_tokens": "max_completion_length",
}
GONE = (
    "overwrite_output_dir",
    "include_tokens_per_second",
    "include_inputs_for_metrics",
    "half_precision_backend",
    "fp16_backend",
    "fp16_opt_level",
    "jit_mode_eval",
    "use_ipex",
    "use_mps_device",
    "past_index",
    "tpu_num_cores",
    "tpu_metrics_debug",
    "torchdynamo",
    "ray_scope",
    "mp_parameters",
    "packing_cache",
)

WORDS = {  # what people write for it -> what to write
    "min_lr": "write `lr_scheduler_kwargs: {min_lr: ...}` under `training`",
    "lr": "write `learning_rate`",
    "epochs": "write `num_train_epochs`",
    "batch_size": "write `per_device_train_batch_size`",
    "lora_r": "write `lora_rank`",
    "fusion_config": "write the sources under `custom.fusion`",
}
_NESTED = (("custom", "augmentation"), ("custom", "visual_kd"))  # sections: empty, they say nothing


class Canonical:
    """Call it with a file's tree; `notes` collects what was translated."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def __call__(self, tree: MapNode, problems: list[Problem]) -> MapNode:
        placing = _Placing(self.notes, problems)
        unfit = {}  # what should be a mapping and is not stays as it is, to be reported
        for section, entry in tree.entries.items():
            entry = _deepspeed(entry) if section == "deepspeed" else entry
            if isinstance(entry.node, MapNode):
                placing.section(section, entry.node)
            elif plain(entry.node) is not None or section == "global_max_length":  # an empty section says nothing
                unfit[section] = entry
        origins = {name: entry.origin for name, entry in tree.entries.items()}
        placed = {
            name: Entry(origin, MapNode(keys, origin))
            for name, keys in placing.keys.items()
            for origin in [origins.get(name, tree.origin)]
        }
        return MapNode(placed | unfit, tree.origin)


class _Placing:
    """The sections of one file while its keys are being put into them."""

    def __init__(self, notes: list[str], problems: list[Problem]):
        self.keys: dict[str, dict[str, Entry]] = {}
        self._notes = notes
        self._problems = problems

    def section(self, name: str, node: MapNode) -> None:
        """Place every key of a section as it was written."""
        self.keys.setdefault(name, {})
        for key, entry in node.entries.items():
            if name in (*SECTIONS, "rlhf"):
                self._pass_through(name, key, entry)
            elif not (plain(entry.node) is None and (name, key) in _NESTED):
                self._put(name, key, _own(name, key, entry))

    def _pass_through(self, section: str, key: str, entry: Entry) -> None:
        """Put a pass-through key where it belongs; unknown keys stay, to be reported where they are."""
        if key in GONE:
            self._note(entry, f"`{key}` has no effect any more")
            return
        if key in RENAMED and (section == "rlhf" or key not in table()):
            self._note(entry, f"`{key}` is called `{RENAMED[key]}` today and is read as such")
            key = RENAMED[key]
        if key == "dataset":
            self._note(entry, "`dataset` is not used: records come from `custom.train_jsonl`")
        node = _deepspeed(entry).node
        if key == "deepspeed" and isinstance(node, MapNode):
            self.section("deepspeed", node)
        else:
            self._put(_target(section, key), key, entry)

    def _put(self, section: str, key: str, entry: Entry) -> None:
        """Add a key to its section; a second, different value for it is a problem."""
        first = self.keys.setdefault(section, {}).setdefault(key, entry)
        if first is entry or plain(first.node) == plain(entry.node):
            return
        name = f"{section}.{printable(key, limit=80)}"
        what = f"`{name}` is {show(entry.node)} here and {show(first.node)} at {first.origin}"
        self._problems.append(Problem(str(entry.origin), what, "keep one of them"))

    def _note(self, entry: Entry, text: str) -> None:
        self._notes.append(f"{entry.origin}: {text}")


def _target(section: str, key: str) -> str:
    """The section in which a key is kept."""
    if key == "strict":
        return "custom"
    if key not in table() or key in OWN_RLHF or key == "resume_from_checkpoint":
        return section
    return home(key)


def _own(section: str, key: str, entry: Entry) -> Entry:
    """Short forms of Plumbline's own keys."""
    if (section, key) == ("custom", "fusion") and isinstance(entry.node, ListNode):
        node = entry.node
        return Entry(entry.origin, MapNode({"sources": Entry(entry.origin, node)}, node.origin))
    return entry


def _deepspeed(entry: Entry) -> Entry:
    """`deepspeed: zero2`, the upstream's spelling, as `{enabled: true, config: zero2}`."""
    node = entry.node
    if not (isinstance(node, Scalar) and isinstance(node.value, str)):
        return entry
    on: Node = Scalar(True, node.origin)
    return Entry(
        entry.origin,
        MapNode({"enabled": Entry(entry.origin, on), "config": Entry(entry.origin, node)}, node.origin),
    )
