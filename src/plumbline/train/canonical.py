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
        placed: dict[str, dict[str, Entry]] = {}
        origins = {name: entry.origin for name, entry in tree.entries.items()}
        out: dict[str, Entry] = {}
        for section, entry in tree.entries.items():
            if isinstance(entry.node, Scalar) and entry.node.value is None and section != "global_max_length":
                continue  # an empty section says nothing
            if section == "deepspeed":
                entry = _deepspeed(entry)
            if not isinstance(entry.node, MapNode):
                out[section] = entry
                continue
            keys = placed.setdefault(section, {})
            passes = section in (*SECTIONS, "rlhf")
            for key, item in entry.node.entries.items():
                if passes:
                    self._place(section, key, item, placed, problems)
                elif not (plain(item.node) is None and (section, key) in _NESTED):
                    _put(keys, section, key, _own(section, key, item), problems)
        for section, keys in placed.items():
            origin = origins.get(section) or next(iter(keys.values())).origin
            out[section] = Entry(origin, MapNode(keys, origin))
        return MapNode(out, tree.origin)

    def _place(
        self, section: str, key: str, entry: Entry, placed: dict[str, dict[str, Entry]], problems: list[Problem]
    ) -> None:
        """Put a pass-through key where it belongs; unknown keys stay, to be reported where they are."""
        if key in GONE:
            self._note(entry, f"`{key}` has no effect any more")
            return
        key = self._today(section, key, entry)
        if key == "deepspeed" and isinstance(entry.node, Scalar):
            target, keys = "deepspeed", _deepspeed(entry).node
            if isinstance(keys, MapNode):
                for name, item in keys.entries.items():
                    _put(placed.setdefault(target, {}), target, name, item, problems)
                return
        target = self._target(section, key)
        _put(placed.setdefault(target, {}), target, key, entry, problems)

    def _today(self, section: str, key: str, entry: Entry) -> str:
        if key in RENAMED and not (key in table() and section != "rlhf"):
            self._note(entry, f"`{key}` is called `{RENAMED[key]}` today and is read as such")
            key = RENAMED[key]
        if key == "dataset":
            self._note(entry, "`dataset` is not used: records come from `custom.train_jsonl`")
        return key

    def _target(self, section: str, key: str) -> str:
        if key == "strict":
            return "custom"
        if key not in table() or key in OWN_RLHF or key == "resume_from_checkpoint":
            return section
        return home(key)

    def _note(self, entry: Entry, text: str) -> None:
        self.notes.append(f"{entry.origin}: {text}")


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


def _put(keys: dict[str, Entry], section: str, key: str, entry: Entry, problems: list[Problem]) -> None:
    """Add a key to its section; a second, different value for it is a problem."""
    first = keys.setdefault(key, entry)
    if first is entry or plain(first.node) == plain(entry.node):
        return
    what = f"`{section}.{key}` is {show(entry.node)} here and {show(first.node)} at {first.origin}"
    problems.append(Problem(str(entry.origin), what, "keep one of them"))
