"""Verdicts for groups of photos, and the page on which a person decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from plumbline.cli.app import AsJson, app, stage_b_app

Missions = Annotated[tuple[str, ...], Parameter(name="--mission", negative=(), help="Only this one; may be repeated.")]
RunOrConfig = Annotated[Path, Parameter(help="A configuration, or the folder of a run.")]
OneMission = Annotated[str | None, Parameter(name="--mission", help="Needed where the tickets have several.")]


@stage_b_app.command(name="run")
def stage_b_run(
    config: Path,
    *,
    missions: Missions = (),
    resume: bool = True,
    log_level: Annotated[Literal["warning", "info", "debug"], Parameter(help="What is logged as it goes.")] = "warning",
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
    missions_file: Annotated[Path | None, Parameter(help="File with each mission's focus.")] = None,
    overwrite: Annotated[bool, Parameter(negative=(), help="Replace files that are there.")] = False,
) -> int:
    """Make guidance files of today from one of an earlier version ({mission: {experiences: {G0: text}}}).

    Example: `plumbline stage-b import-guidance old/guidance.json --output guidance/`
    """
    from plumbline.stage_b import verbs

    return verbs.import_guidance(source, output, mission, missions_file, overwrite=overwrite)


@stage_b_app.command(name="effects")
def stage_b_effects(config: RunOrConfig, *, mission: OneMission = None, as_json: AsJson = False) -> int:
    """Measure what each rule does: the propose tickets are scored with all rules and with all but one.

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
    """Score recorded rollouts with the weights and the policy of CONFIG; no model is called.

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


@stage_b_app.command(name="judge")
def stage_b_judge(
    files: list[Path],
    /,
    *,
    run: Annotated[Path, Parameter(help="Whose guidance and certificate judge: its folder, or its configuration.")],
    mission: OneMission = None,
    name: Annotated[str | None, Parameter(help="Folder for the new tickets, next to the run's.")] = None,
    audit: Annotated[float, Parameter(help="Share of automatic passes that a person checks.")] = 0.05,
    seed: Annotated[int, Parameter(help="Of the draw of these checks.")] = 0,
    as_json: AsJson = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Count questions and tokens, load nothing.")] = False,
) -> int:
    """Judge new tickets without labels (Stage-A files): automatic passes under the bound, the rest for a person.

    Nothing passes by itself (exit 4) without a certificate that holds, and where the tickets are unlike those of the
    calibration.

    Example: `plumbline stage-b judge stage_a/挡风板安装检查_stage_a.jsonl --run output/stage_b/挡风板安装检查/default`
    """
    from plumbline.stage_b import verbs

    options = verbs.JudgeOptions(name, mission, audit, seed)
    return verbs.judge(files, run, options, as_json=as_json, dry_run=dry_run)


@stage_b_app.command(name="test")
def stage_b_test(config: RunOrConfig, *, mission: OneMission = None, as_json: AsJson = False) -> int:
    """Print the figures of the sealed test; every look is counted.

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
