"""One mission of a configuration: its data, its run folder, and how to open either."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from plumbline.config.shipped import or_shipped
from plumbline.errors import ConfigError, DamagedFileError, DataError, Problem, UserError
from plumbline.infer.runner import Answered, RunOptions
from plumbline.infer.verbs import safe_name
from plumbline.stage_b.config import LoadedStageB, MissionEntry, OutputConfig, StageBConfig, load_stage_b, read_missions
from plumbline.stage_b.engine import who_answers, window_of
from plumbline.stage_b.guidance import FILE, Guidance, read_guidance, start
from plumbline.stage_b.mission_data import MissionData
from plumbline.stage_b.mission_store import RESOLVED, SPLITS, MissionStore
from plumbline.stage_b.new_tickets import NewTickets, read_new_tickets
from plumbline.stage_b.rollout import candidates_of, prompts_hash
from plumbline.stage_b.split_store import SplitStore
from plumbline.stage_b.tickets import Tickets, read_tickets
from plumbline.storage.objects import JsonObject


@dataclass(frozen=True)
class MissionRun:
    """A mission under a configuration. new: of tickets without labels, the run whose guidance judges them."""

    config: StageBConfig
    data: MissionData
    new: NewTickets | None = None

    @property
    def store(self) -> MissionStore:
        output = self.config.output
        folder = Path(output.root) / safe_name(self.data.mission) / output.run
        return MissionStore(folder, self.config.guidance.retention)

    @property
    def identity(self) -> JsonObject:
        """What makes trajectories comparable; each row holds its guidance's hash besides."""
        config = self.config
        return {
            **who_answers(config.engine),
            "sampler": [asdict(way) for way in candidates_of(config.sampler, config.seed, 1)],
            "prompts": prompts_hash(),
            "weights": asdict(config.judge.weights),
            "items": list(self.data.items),
            "tickets": self.data.digest(),
        }

    @property
    def split_store(self) -> SplitStore:
        return SplitStore(self.store.folder / SPLITS, self.data.tickets, self.config.seed, self.config.splits)

    def of_split(self, split: str) -> Tickets:
        """The tickets of one split; the splits are drawn where there are none yet."""
        return self.data.of_split(split, self.split_store.read())

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

    def first_guidance(self) -> Guidance:
        """What guidance begins with: the file that the configuration names, or the focus alone."""
        path = self.config.guidance.path
        if path is None:
            return start(self.data.mission, self.data.focus)
        try:
            found = read_guidance(Path(path))
        except DamagedFileError as error:  # the user's file, not one that a run wrote
            raise DataError(error.problems) from error
        if found.mission != self.data.mission:
            what = f"is the guidance of {found.mission!r}, not of {self.data.mission!r}"
            raise UserError(Problem(path, what, "leave guidance.path out, or run one mission at a time"))
        return found


def plan_missions(config: StageBConfig, only: Sequence[str] = (), new: NewTickets | None = None) -> list[MissionRun]:
    """A run per mission of the Stage-A files. Raises UserError; touches no file of the run.

    new: the tickets are new ones, without labels.
    """
    tickets = read_tickets(config.stage_a_paths, labelled=new is None)
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
    return [MissionRun(config, MissionData(name, entry.focus, own, entry.items), new) for name, entry, own in runs]


def open_mission(path: Path, mission: str | None) -> tuple[MissionRun, LoadedStageB]:
    """The run of one mission, by a configuration or by its folder.

    Raises UserError where a configuration has several missions and none is named.
    """
    if path.is_dir():
        return _open_folder(path)
    loaded = load_stage_b(path)
    runs = plan_missions(loaded.run, () if mission is None else (mission,))
    if len(runs) > 1:
        names = ", ".join(run.data.mission for run in runs)
        raise ConfigError(Problem("--mission", f"is needed: there are {len(runs)} missions", f"choose one of {names}"))
    return runs[0], loaded


def _open_folder(folder: Path) -> tuple[MissionRun, LoadedStageB]:
    """A run folder under the configuration that it was made with, wherever it lies now."""
    if not (folder / RESOLVED).is_file() or not (folder / FILE).is_file():
        what = f"is no run: there is no {RESOLVED} and {FILE} in it"
        raise UserError(Problem(str(folder), what, "name <output.root>/<mission>/<run>, or a configuration"))
    loaded, at = load_stage_b(folder / RESOLVED), folder.resolve()
    config = replace(loaded.run, output=OutputConfig(root=str(at.parents[1]), run=at.name))
    (run,) = plan_missions(config, (read_guidance(folder / FILE).mission,), read_new_tickets(at))
    if run.store.folder != at:
        raise UserError(Problem(str(folder), f"is the run of {run.data.mission}, in a folder of another name"))
    return run, replace(loaded, run=config)
