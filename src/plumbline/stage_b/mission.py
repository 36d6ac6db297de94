"""The run folder of one mission: which tickets, which split each is in, which guidance each epoch had."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from plumbline.config.recipes import or_shipped
from plumbline.data.keyed import keyed_generator
from plumbline.errors import ConfigError, DamagedFileError, DataError, Problem, UserError
from plumbline.infer.verbs import safe_name
from plumbline.infer.work import Answered, RunOptions
from plumbline.stage_b.config import LoadedStageB, MissionEntry, OutputConfig, StageBConfig, load_stage_b, read_missions
from plumbline.stage_b.engine import who_answers, window_of
from plumbline.stage_b.guidance import FILE, Guidance, GuidanceStore, read_guidance, start
from plumbline.stage_b.rollout import candidates_of, prompts_hash
from plumbline.stage_b.split_file import SplitFile
from plumbline.stage_b.splits import tiny_classes
from plumbline.stage_b.tickets import LABELS, Tickets, read_tickets
from plumbline.storage.files import write_atomically, write_lines
from plumbline.storage.objects import read_json_object
from plumbline.storage.rows import read_rows

TRAJECTORIES = "trajectories.jsonl"
SELECTIONS = "selections.jsonl"
RESOLVED = "resolved.yaml"
STATE = "state.json"
SPLITS = "splits.json"
EDITS = "edits.jsonl"
CERTIFICATE = "certificate.json"
GATE = "gate"
LOOKS = CALIBRATIONS, TEST_USES = "calibrations", "test_uses"
"""Counts in the state: looks at labels that each make the next one worth a little less."""


@dataclass(frozen=True)
class MissionRun:
    """One mission of a configuration. tickets: all of them, in the order of the input. items: kinds of things that
    count for it, where its file names them."""

    config: StageBConfig
    mission: str
    focus: str
    tickets: Tickets
    items: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        output = self.config.output
        return Path(output.root) / safe_name(self.mission) / output.run

    @property
    def trajectories(self) -> Path:
        return self.folder / TRAJECTORIES

    @property
    def store(self) -> GuidanceStore:
        """The guidance; the steps that epochs were made with stay, since their rollouts are judged with them."""
        in_use = frozenset(self.read_state()["epochs"].values())
        return GuidanceStore(self.folder, self.config.guidance.retention, in_use)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes trajectories comparable; the guidance stands in each row."""
        config = self.config
        digest = hashlib.sha256()
        for head in self.tickets.heads():
            digest.update(f"{head.key}\n{head.content.hex()}\n".encode())
        return {
            **who_answers(config.engine),
            "sampler": [asdict(way) for way in candidates_of(config.sampler, config.seed, 1)],
            "prompts": prompts_hash(),
            "weights": asdict(config.judge.weights),
            "items": list(self.items),
            "tickets": digest.hexdigest()[:16],
        }

    def run_options(
        self, output: Path, *, resume: bool, most: int | None, ends: Callable[[Answered], bool] | None = None
    ) -> RunOptions:
        config = self.config
        return RunOptions(
            output,
            resume,
            window=window_of(config.engine),
            max_error_rate=config.runner.max_error_rate,
            replies=None if config.engine.cache is None else Path(config.engine.cache),
            most=most,
            ends=ends,
        )

    def shuffled(self, epoch: int) -> Tickets:
        """The tickets in the order of an epoch."""
        return self.tickets.at(
            keyed_generator(self.config.seed, epoch, 0, "stage-b tickets").permutation(len(self.tickets))
        )

    def uncited(self, evidence: Iterable[str]) -> list[str]:
        """What of an edit's evidence names no ticket: neither its group id nor its key, nor one and `/image_n`."""
        names = {name for head in self.tickets.heads() for name in (head.group_id, head.key)}
        return [each for each in evidence if each not in names and each.rpartition("/image_")[0] not in names]

    def first_guidance(self) -> Guidance:
        """What guidance begins with: the file that the configuration names, or the focus alone."""
        path = self.config.guidance.path
        if path is None:
            return start(self.mission, self.focus)
        try:
            found = read_guidance(Path(path))
        except DamagedFileError as error:  # the user's file, not one that a run wrote
            raise DataError(error.problems) from error
        if found.mission != self.mission:
            what = f"is the guidance of {found.mission!r}, not of {self.mission!r}"
            raise UserError(Problem(path, what, "leave guidance.path out, or run one mission at a time"))
        return found

    # ------------------------------------------------------------------------------------------------------- state
    def read_state(self) -> dict[str, Any]:
        """Epoch -> guidance step; what has been reflected on; what the verdicts were made of; how often labels were
        looked at."""
        path = self.folder / STATE
        if not path.exists():
            return {"epochs": {}, "reflected": [], **dict.fromkeys(LOOKS, 0)}
        state = read_json_object(path)
        if not isinstance(state.get("epochs"), dict) or not isinstance(state.get("reflected"), list):
            raise DamagedFileError(Problem(str(path), "is no state of a run", "start anew with --no-resume"))
        return state

    def count_look(self, name: str) -> int:
        """Add one to a count of LOOKS; returns it."""
        state = self.read_state()
        looked = int(state.get(name, 0)) + 1
        self.write_state(state | {name: looked})
        return looked

    def write_state(self, state: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / STATE, json.dumps(state, ensure_ascii=False, indent=1) + "\n")

    @property
    def split_file(self) -> SplitFile:
        return SplitFile(self.folder / SPLITS, self.tickets, self.config.seed, self.config.splits)

    def splits(self) -> dict[str, str]:
        """Ticket -> its split, drawn once and kept."""
        return self.split_file.read()

    def notes(self) -> list[str]:
        """What to know before the run: labels that too few tickets carry."""
        count = Counter(head.label for head in self.tickets.heads())
        return tiny_classes({label: count[label] for label in LABELS}, self.config.splits.shares)

    def of_split(self, split: str) -> Tickets:
        """The tickets of one split, in the order of the input."""
        of = self.splits()
        return self.tickets.at(place for place, head in enumerate(self.tickets.heads()) if of.get(head.key) == split)

    # ------------------------------------------------------------------------------------------------------- results
    def selections(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(ticket, selection), epoch after epoch: the last one of a ticket is its newest."""
        path = self.folder / SELECTIONS
        return ((row["key"].rpartition("/e")[0], row) for row in (read_rows(path) if path.exists() else ()))

    def latest_selections(self, tickets: Tickets) -> dict[str, dict[str, Any]]:
        """Ticket -> its selection of the last epoch that has one."""
        wanted = {head.key for head in tickets.heads()}
        return {key: row for key, row in self.selections() if key in wanted}

    def edits(self) -> list[dict[str, Any]]:
        """Every edit that was tried, with what came of it."""
        path = self.folder / EDITS
        return list(read_rows(path)) if path.exists() else []

    def keep_edit(self, row: Mapping[str, Any]) -> None:
        """Add a row to the edits that were tried."""
        rows: Iterable[Mapping[str, Any]] = [*self.edits(), row]
        write_lines(self.folder / EDITS, (json.dumps(entry, ensure_ascii=False) for entry in rows))


def plan_missions(config: StageBConfig, only: Sequence[str] = ()) -> list[MissionRun]:
    """A run per mission of the Stage-A files. Raises UserError; touches no file of the run."""
    tickets = read_tickets(config.stage_a_paths)
    places: dict[str, list[int]] = {}
    for place, head in enumerate(tickets.heads()):
        places.setdefault(head.mission, []).append(place)
    if unknown := [name for name in only if name not in places]:
        what = f"no ticket of {', '.join(unknown)}"
        raise ConfigError(Problem("--mission", what, f"there are {', '.join(places) or 'none'}"))
    missions = [name for name in places if not only or name in only]
    if not missions:
        raise UserError(Problem(", ".join(config.stage_a_paths), "there is no ticket in it", "run stage-a first"))
    described = read_missions(or_shipped(Path(config.missions_file), Path(StageBConfig.missions_file)))
    if config.guidance.path is None and (missing := [name for name in missions if name not in described]):
        what = f"there is no focus for {', '.join(missions if not described else missing)}"
        raise ConfigError(Problem(config.missions_file, what, f"it has {', '.join(described)}"))
    if config.guidance.path is not None and len(missions) > 1:
        what = f"is one guidance, and there are {len(missions)} missions"
        raise ConfigError(Problem("guidance.path", what, "choose one with --mission"))
    limit, unknown_mission = config.runner.limit, MissionEntry("")
    runs = [(name, described.get(name, unknown_mission), tickets.at(places[name][:limit])) for name in missions]
    return [MissionRun(config, name, entry.focus, own, entry.items) for name, entry, own in runs]


def open_mission(path: Path, mission: str | None) -> tuple[MissionRun, LoadedStageB]:
    """The run of one mission, by a configuration or by its folder.

    Raises UserError where a configuration has several missions and none is named.
    """
    if path.is_dir():
        return _open_folder(path)
    loaded = load_stage_b(path)
    runs = plan_missions(loaded.run, () if mission is None else (mission,))
    if len(runs) > 1:
        names = ", ".join(run.mission for run in runs)
        raise ConfigError(Problem("--mission", f"is needed: there are {len(runs)} missions", f"choose one of {names}"))
    return runs[0], loaded


def _open_folder(folder: Path) -> tuple[MissionRun, LoadedStageB]:
    """A run folder under the configuration that it was made with, wherever it lies now."""
    if not (folder / RESOLVED).is_file() or not (folder / FILE).is_file():
        what = f"is no run: there is no {RESOLVED} and {FILE} in it"
        raise UserError(Problem(str(folder), what, "name <output.root>/<mission>/<run>, or a configuration"))
    loaded, at = load_stage_b(folder / RESOLVED), folder.resolve()
    config = replace(loaded.run, output=OutputConfig(root=str(at.parents[1]), run=at.name))
    (run,) = plan_missions(config, (read_guidance(folder / FILE).mission,))
    if run.folder != at:
        raise UserError(Problem(str(folder), f"is the run of {run.mission}, in a folder of another name"))
    return run, replace(loaded, run=config)
