"""The resumable runner on recorded replies: one row per item, whatever happens in between."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import DataError, Problem, UserError
from plumbline.infer.config import ConfigError, Sampling, read_shard
from plumbline.infer.engine import Reply, Request, request_id
from plumbline.infer.replay import ReplayEngine
from plumbline.infer.runner import RunOptions, RunReport, run_work, shard_path
from plumbline.storage.locks import locked
from plumbline.storage.rows import read_rows


@dataclass(frozen=True)
class Thing:
    key: str
    text: str = "?"


class Notes:
    """Asks about texts; one that is called `broken` cannot be asked about."""

    def ask(self, item: Thing) -> Request:
        if item.text == "broken":
            raise DataError(Problem(item.key, "cannot be opened"))
        return Request(item.key, (), "", item.text)

    def row(self, item: Thing, request: Request | None, reply: Reply) -> Mapping[str, Any]:
        return {"key": item.key, "status": f"error:{reply.error}" if reply.error else "ok", "text": reply.text}


class Scripted:
    """Replies by a function, counts what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, []
        self.identity = "scripted"

    def stream(self, requests: Sequence[Request]) -> Iterator[Reply]:
        for request in requests:
            self.asked.append(request.key)
            yield self.answer(request)


def things(count: int) -> list[Thing]:
    return [Thing(f"图{number}", f"问{number}") for number in range(count)]


def said(request: Request) -> Reply:
    return Reply(request.key, f"答{request.user}")


def run(items: Sequence[Thing], engine: Any, output: Path, progress: Any = None, **options: Any) -> RunReport:
    return run_work(
        items,
        Notes(),
        lambda: engine,
        RunOptions(output, **options),
        {"model": "m"},
        progress=progress or (lambda count: None),
    )


def texts(path: Path) -> dict[str, str]:
    rows = list(read_rows(path))
    assert len({row["key"] for row in rows}) == len(rows), "one row per key"
    return {row["key"]: row["text"] for row in rows}


def test_every_item_has_its_row_and_a_second_run_asks_nothing(tmp_path: Path) -> None:
    engine, output = Scripted(said), tmp_path / "rows.jsonl"
    report = run(things(70), engine, output, window=32)
    assert texts(output) == {f"图{n}": f"答问{n}" for n in range(70)}
    assert (report.written, report.exit_code, len(engine.asked)) == (70, 0, 70)
    again = run_work(things(70), Notes(), lambda: pytest.fail("asked"), RunOptions(output), {"model": "m"})
    assert (again.written, again.statuses, again.exit_code) == (0, {"ok": 70}, 0)


def test_new_items_are_added_and_gone_ones_are_not_counted(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    run(things(5), Scripted(said), output)
    report = run([*things(8)[2:]], Scripted(said), output)
    assert (report.written, report.statuses) == (3, {"ok": 6}) and len(texts(output)) == 8


def test_an_item_that_fails_costs_itself_and_is_asked_again_next_time(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    items = [*things(3), Thing("x", "broken")]
    bad = Scripted(lambda r: Reply(r.key, error="memory", detail="too large") if r.key == "图1" else said(r))
    report = run(items, bad, output)
    assert report.statuses == {"ok": 2, "error:memory": 1, "error:image": 1} and report.exit_code == 3
    assert bad.asked == ["图0", "图1", "图2"], "what will not pass is not asked twice"
    quarantine = output.with_name("rows.jsonl.quarantine.jsonl")
    assert {row["key"] for row in read_rows(quarantine)} == {"图1", "x"}
    good = Scripted(said)
    report = run([*items[:3], Thing("x", "mended")], good, output)
    assert sorted(good.asked) == ["x", "图1"] and report.exit_code == 0
    assert not quarantine.exists() and len(texts(output)) == 4


def test_what_may_pass_is_asked_again_before_it_is_given_up(tmp_path: Path) -> None:
    tries: dict[str, int] = {}

    def moody(request: Request) -> Reply:
        tries[request.key] = tries.get(request.key, 0) + 1
        if request.key == "图2" or tries[request.key] == 1:
            return Reply(request.key, error="timeout", detail="no answer", is_transient=True)
        return said(request)

    report = run(things(4), Scripted(moody), tmp_path / "rows.jsonl", tries=3)
    assert report.statuses == {"ok": 3, "error:timeout": 1} and tries == {"图0": 2, "图1": 2, "图2": 3, "图3": 2}


def test_too_many_errors_end_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    down = Scripted(lambda r: Reply(r.key, error="unreachable"))
    report = run(things(500), down, output, max_error_rate=0.1)
    assert (report.over_budget, report.exit_code, report.written) == (True, 5, 20)
    report = run(things(500), Scripted(said), output, max_error_rate=0.1)
    assert report.exit_code == 0 and len(texts(output)) == 500


def test_an_interrupt_falls_between_rows(tmp_path: Path) -> None:
    output, seen = tmp_path / "rows.jsonl", []

    def stop(count: int) -> None:
        seen.append(count)
        if len(seen) == 7:
            raise KeyboardInterrupt

    report = run(things(40), Scripted(said), output, progress=stop, window=4)
    assert (report.interrupted, report.exit_code, report.written) == (True, 130, 7) and len(texts(output)) == 7
    assert run(things(40), Scripted(said), output).written == 33


def test_shards_are_parts_and_the_whole_takes_them_over(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    first, third = Scripted(said), Scripted(said)
    run(things(10), first, output, shard=(1, 3))
    run(things(10), third, output, shard=(3, 3))
    assert first.asked == ["图0", "图3", "图6", "图9"] and third.asked == ["图2", "图5", "图8"]
    assert not output.exists() and len(texts(shard_path(output, 1, 3))) == 4
    rest = Scripted(said)
    report = run(things(10), rest, output)
    assert rest.asked == ["图1", "图4", "图7"] and len(texts(output)) == 10
    assert [note.split(" ")[0] for note in report.warnings] == ["4", "3"]
    assert run(things(10), Scripted(said), output).warnings == []


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/2", "1/2/3", "/"])
def test_a_part_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a part"):
        read_shard(text)
    assert read_shard("2/4") == (2, 4)


def test_rows_of_another_making_are_neither_continued_nor_replaced(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    run(things(2), Scripted(said), output)
    options = RunOptions(output)
    with pytest.raises(UserError, match="made with another model"):
        run_work(things(2), Notes(), lambda: Scripted(said), options, {"model": "other"})
    fresh = replace(options, resume=False)
    assert run_work(things(3), Notes(), lambda: Scripted(said), fresh, {"model": "other"}).written == 3
    mine = tmp_path / "thesis.jsonl"
    mine.write_text("my thesis")
    with pytest.raises(UserError, match="records what made it"):
        run(things(2), Scripted(said), mine, resume=False)
    assert mine.read_text() == "my thesis"


def test_the_same_question_is_asked_once(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "replies.sqlite"
    engine = Scripted(said)
    run(things(5), engine, tmp_path / "one.jsonl", replies=cache)
    same = [Thing(f"again{n}", f"问{n}") for n in range(6)]
    report = run(same, engine, tmp_path / "two.jsonl", replies=cache)
    assert (report.cached, engine.asked[5:]) == (5, ["again5"])
    assert texts(tmp_path / "two.jsonl") == {f"again{n}": f"答问{n}" for n in range(6)}
    engine.identity = "another model"
    assert run(same, engine, tmp_path / "three.jsonl", replies=cache).cached == 0
    (tmp_path / "text.sqlite").write_text("this is not a database, but long enough to be looked at" * 20)
    with pytest.raises(UserError, match="is no file of replies"):
        run(same, engine, tmp_path / "four.jsonl", replies=tmp_path / "text.sqlite")


def test_a_question_is_told_by_all_that_its_answer_depends_on() -> None:
    import numpy as np
    from PIL import Image

    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    asked = Request("k", (picture,), "s", "u")
    one_bit = pixels.copy()
    one_bit[3, 5, 2] = 1
    others = [
        replace(asked, system="S"),
        replace(asked, user="U"),
        replace(asked, images=()),
        replace(asked, images=(picture, picture)),
        replace(asked, images=(Image.fromarray(one_bit),)),
        replace(asked, images=(Image.fromarray(pixels.reshape(6, 4, 3)),)),
        replace(asked, sampling=Sampling(temperature=0.5)),
        replace(asked, sampling=Sampling(seed=1)),
        replace(asked, schema={"type": "object"}),
    ]
    ids = [request_id("m", asked), request_id("n", asked), *(request_id("m", other) for other in others)]
    assert len(set(ids)) == len(ids) and request_id("m", replace(asked, key="other")) == ids[0]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    with locked(output), pytest.raises(UserError, match="is being written by process"):
        run(things(2), Scripted(said), output)
    assert run(things(2), Scripted(said), output).written == 2


def test_recorded_replies_are_replayed(tmp_path: Path) -> None:
    source = tmp_path / "old.jsonl"
    rows = [{"key": "图0", "status": "ok", "text": "旧"}, {"key": "图1", "status": "error:image", "text": ""}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run(things(2), ReplayEngine.of_rows(source), tmp_path / "rows.jsonl")
    assert report.statuses == {"ok": 1, "error:replay": 1} and texts(tmp_path / "rows.jsonl")["图0"] == "旧"
