"""Reading: any bytes give a record or findings, and what is written is read back."""

from __future__ import annotations

import json
import string
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plumbline.data.content import check_content
from plumbline.data.contract import _check_object, are_plain_objects, build_record, find_breaches
from plumbline.data.findings import Findings
from plumbline.data.read import Line, collect_findings, parse_line, read_records, write_records
from plumbline.data.record import DataObject, Record, record_to_mapping
from plumbline.geometry import KINDS, shape_from_flat

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
keys = st.one_of(
    st.sampled_from([*KINDS, "desc", "line_points", "images", "objects", "width", "height", "summary", "messages"]),
    st.text(string.ascii_lowercase, max_size=3),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(keys, inner, max_size=5)),
    max_leaves=15,
)
numbers = st.one_of(
    st.integers(-5, 120), st.floats(-5, 120), st.sampled_from([True, "1", None, 1e999, 10**400, [1, 2]])
)
near_objects = st.fixed_dictionaries(
    {"desc": st.one_of(texts, st.just(" "), st.just("\ud800"), st.integers())},
    optional={kind: st.one_of(st.lists(numbers, max_size=9), st.integers()) for kind in KINDS},
)
near_records = st.fixed_dictionaries(
    {},
    optional={
        "images": st.one_of(st.lists(st.one_of(texts, st.just({"bytes": "QQ=="}), st.integers()), max_size=2), scalars),
        "width": st.one_of(st.integers(-1, 100), scalars),
        "height": st.one_of(st.integers(-1, 100), scalars),
        "objects": st.one_of(st.lists(st.one_of(near_objects, values), max_size=4), scalars),
        "summary": scalars,
        "metadata": values,
        "messages": st.one_of(
            st.lists(
                st.fixed_dictionaries(
                    {"role": st.sampled_from(["user", "assistant", "system", "x"])},
                    optional={"content": st.one_of(scalars, st.lists(values, max_size=2))},
                ),
                max_size=3,
            ),
            scalars,
        ),
        "schema": scalars,
    },
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Records that keep the contract."""
    if draw(st.booleans()):
        turns = [{"role": role, "content": draw(texts)} for role in ("user", "assistant")]
        return Record(messages=tuple(turns))
    shapes = [
        shape_from_flat(kind, draw(st.lists(st.floats(-1e6, 1e6), min_size=count, max_size=count)))
        for kind, count in draw(st.lists(st.sampled_from(list(zip(KINDS, (4, 8, 6, 4), strict=True))), max_size=4))
    ]
    return Record(
        images=("图/a b.jpg",),
        width=draw(st.integers(1, 10_000)),
        height=draw(st.integers(1, 10_000)),
        objects=tuple(DataObject(draw(texts), shape) for shape in shapes),
        summary=draw(st.none() | texts),
        metadata=draw(st.dictionaries(texts, st.integers() | texts, max_size=2)),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(records(), max_size=4))
def test_what_is_written_is_read_back(tmp_path: Path, items: list[Record]) -> None:
    path = tmp_path / "data.jsonl"
    assert write_records(path, items) == len(items)
    back = list(read_records(path))
    assert [record_to_mapping(record) for record in back] == [record_to_mapping(record) for record in items]
    assert [record.objects for record in back] == [record.objects for record in items]
    assert [record.line for record in back] == list(range(1, len(items) + 1))


@given(st.one_of(st.binary(), st.text().map(str.encode), values.map(lambda v: json.dumps(v).encode())))
def test_any_bytes_give_a_value_or_a_finding(data: bytes) -> None:
    raw, found = parse_line(Line(1, 0, data, True), "f")
    assert found or raw == json.loads(data)
    collect_findings(Line(1, 0, data, False), "f")


@given(st.one_of(near_records, values))
def test_rules_never_fail_and_a_record_without_breaches_can_be_built(raw) -> None:
    found = Findings("f", 1)
    find_breaches(raw, found)
    if not isinstance(raw, dict):
        assert found
        return
    if not found and all(isinstance(image, str) for image in raw.get("images") or ()):
        build_record(raw, "f", 1)
    check_content(raw, found)


@given(st.lists(st.one_of(near_objects, values), max_size=3))
def test_the_short_road_accepts_nothing_that_the_long_one_refuses(objects) -> None:
    found = Findings("f", 1)
    for item in objects:
        if isinstance(item, dict):
            _check_object(item, "o", found)
    if are_plain_objects(objects):
        assert not found


@given(st.dictionaries(st.sampled_from(["a", "b", 'c": ', "images"]), values, min_size=1))
def test_a_repeated_key_is_always_found(raw) -> None:
    body = json.dumps(raw)
    _, found = parse_line(Line(1, 0, body.encode(), True), "f")
    assert "duplicate-key" not in {finding.code for finding in found}
    twice = f"{{{body[1:-1]}, {json.dumps(next(iter(raw)))}  : 1}}"
    _, found = parse_line(Line(1, 0, twice.encode(), True), "f")
    assert found
    assert {finding.code for finding in found} <= {"duplicate-key", "not-json"}
