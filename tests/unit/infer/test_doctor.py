"""What is told about a server before work is given to it."""

import json

import pytest

from plumbline.data.answer_schema import dense_schema
from plumbline.infer.doctor import doctor, examine
from serving import Answering, completion


def states(url, model=None):
    return {finding.name: finding.state for finding in examine(url, model)}


def test_a_server_that_works(capsys):
    answers = [completion("红"), completion("蓝"), completion("红")]
    with Answering(answers=answers) as server:
        assert states(server.url) == {"models": "ok", "pictures": "ok", "determinism": "ok"}
        kinds = [part["type"] for part in server.asked[0]["messages"][-1]["content"]]
        assert kinds == ["image_url", "text"] and server.asked[0]["temperature"] == 0
        assert doctor(server.url, None, as_json=True) == 0
        told = json.loads(capsys.readouterr().out)
        assert [check["name"] for check in told["checks"]] == ["models", "pictures", "determinism"]


def test_a_server_that_sees_nothing_says_other_things_or_is_not_there(capsys):
    with Answering(answers=[completion("a"), completion("a"), completion("b")]) as server:
        assert states(server.url) == {"models": "ok", "pictures": "info", "determinism": "failed"}
    with Answering(trouble=400, for_first=9) as server:
        assert states(server.url) == {"models": "ok", "pictures": "failed"}
        assert doctor(server.url, None, as_json=False) == 1
        assert "http_400" in capsys.readouterr().out
    with Answering(names=("a", "b")) as server:
        assert states(server.url) == {"models": "ok", "model": "failed"}
        url = server.url
    assert states(url) == {"models": "failed"}


@pytest.mark.parametrize(("norm", "most"), [("none", None), ("norm100", 100), ("norm1000", 1000)])
def test_the_schema_of_an_answer(norm, most):
    schema = dense_schema(norm)
    (pattern,) = schema["patternProperties"]
    assert pattern == "^object_[1-9][0-9]{0,3}$" and schema["additionalProperties"] is False
    kinds = {
        next(name for name in kind["required"] if name != "desc"): kind
        for kind in schema["patternProperties"][pattern]["anyOf"]
    }
    assert list(kinds) == ["bbox_2d", "quad", "poly", "line"]
    lengths = {
        name: (kind["properties"][name]["minItems"], kind["properties"][name]["maxItems"])
        for name, kind in kinds.items()
    }
    assert lengths == {"bbox_2d": (4, 4), "quad": (8, 8), "poly": (6, 4096), "line": (4, 4096)}
    assert kinds["quad"]["properties"]["quad"]["items"].get("maximum") == most
    assert "line_points" in kinds["line"]["properties"]
