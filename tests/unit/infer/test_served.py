"""The engine over servers on loopback that misbehave: every request has its reply, in bounded tries."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from PIL import Image

from plumbline.batch.lengths import PixelLimits
from plumbline.data.images import load_image
from plumbline.errors import ConfigError, UserError
from plumbline.infer.config import Sampling
from plumbline.infer.engine import Request
from plumbline.infer.served import OpenAIEngine
from serving import Answering, completion


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plumbline.model.server._FIRST_WAIT", 0.01)


def questions(count: int, **more: Any) -> list[Request]:
    return [Request(f"k{n}", (), "系统", f"问{n}", Sampling(9), **more) for n in range(count)]


def test_requests_are_spread_over_servers_and_come_back_under_their_keys() -> None:
    with Answering() as one, Answering() as two:
        engine = OpenAIEngine([one.url, f"{two.url}/v1"])
        replies = {reply.key: reply for reply in engine.stream(questions(40))}
        assert {key: reply.text for key, reply in replies.items()} == {f"k{n}": f"答问{n}" for n in range(40)}
        assert one.asked and two.asked and len(one.asked) + len(two.asked) == 40
        assert engine.identity == "served tiny None" and all(reply.is_finished for reply in replies.values())


def test_the_body_is_what_servers_take() -> None:
    with Answering() as server:
        engine = OpenAIEngine([server.url], most_at_once=1)
        picture = Image.new("RGB", (4, 3), "red")
        schema = {"type": "object"}
        sampling = Sampling(7, 0.5, 0.8, seed=3, stop=("。",))
        list(engine.stream([Request("a", (picture,), "s", "u", sampling, schema), Request("b", (), "", "u")]))
        first, second = server.asked
        assert first["messages"][0] == {"role": "system", "content": "s"}
        kinds = [part["type"] for part in first["messages"][1]["content"]]
        assert kinds == ["image_url", "text"]
        assert first["messages"][1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
        assert (first["max_tokens"], first["temperature"], first["top_p"], first["seed"]) == (7, 0.5, 0.8, 3)
        assert first["stop"] == ["。"] and first["response_format"]["json_schema"]["schema"] == schema
        assert [message["role"] for message in second["messages"]] == ["user"]
        assert not {"top_p", "seed", "stop", "response_format"} & second.keys()


def test_pictures_arrive_on_the_grid_of_training() -> None:
    with Answering() as server:
        engine = OpenAIEngine([server.url], limits=PixelLimits(16, 2, 4096, 65536))
        thin = Request("thin", (Image.new("RGB", (6400, 10)),), "", "u")
        replies = {
            reply.key: reply for reply in engine.stream([Request("a", (Image.new("RGB", (400, 300)),), "", "u"), thin])
        }
        sent = load_image(server.asked[0]["messages"][0]["content"][0]["image_url"]["url"])
        assert sent.size == (288, 192) and replies["a"].error == ""
        assert replies["thin"].error == "image" and len(server.asked) == 1


@pytest.mark.parametrize("trouble", [429, 500, 503, "reset", "half", "slow"])
def test_a_server_in_trouble_for_a_while_loses_nothing(trouble: Any) -> None:
    with Answering(trouble=trouble, for_first=5) as server:
        engine = OpenAIEngine([server.url], timeout=0.3, tries=8)
        replies = list(engine.stream(questions(12)))
        assert sorted(reply.key for reply in replies) == sorted(f"k{n}" for n in range(12))
        assert all(not reply.error for reply in replies)


def test_where_one_server_fails_another_answers_and_none_is_an_error_reply() -> None:
    with Answering(trouble=500, for_first=10**6) as broken, Answering() as good:
        engine = OpenAIEngine([broken.url, good.url], tries=2)
        assert all(not reply.error for reply in engine.stream(questions(10)))
        engine = OpenAIEngine([broken.url], tries=2)
        broken.asked.clear()
        replies = list(engine.stream(questions(3)))
        assert {reply.error for reply in replies} == {"http_500"} and all(reply.is_transient for reply in replies)
        assert len(broken.asked) == 6, "bounded tries"
    with Answering(trouble=400, for_first=10**6) as strict:
        (reply,) = OpenAIEngine([strict.url]).stream(questions(1))
        assert (reply.error, reply.is_transient, len(strict.asked)) == ("http_400", False, 1)


def test_what_a_server_bears_is_found_out() -> None:
    """A server that takes six at a time and refuses the rest: nothing is lost, and most of its places are used."""
    with Answering(most=6, takes=0.02) as server:
        engine = OpenAIEngine([server.url], tries=50)
        replies = list(engine.stream(questions(150)))
        assert all(not reply.error for reply in replies)
        assert 4 <= server.peak <= 7 or server.refused, (server.peak, server.refused)
        assert server.refused < 150 and 1 <= engine.at_once[server.url] <= 64


def test_few_at_a_time_where_that_is_asked() -> None:
    with Answering(takes=0.02) as server:
        list(OpenAIEngine([server.url], most_at_once=2).stream(questions(10)))
        assert server.peak <= 2


def test_odd_answers_are_said() -> None:
    odd = [
        {"choices": [{"message": {"content": None}}]},
        {"choices": [{}]},
        {"choices": [{"message": {"content": "cut"}, "finish_reason": "length"}], "usage": {"completion_tokens": 9}},
    ]
    with Answering(answers=odd) as server:
        replies = sorted(OpenAIEngine([server.url], most_at_once=1).stream(questions(3)), key=lambda reply: reply.key)
        assert [reply.error for reply in replies] == ["damaged", "damaged", ""]
        assert (replies[2].text, replies[2].tokens, replies[2].is_finished) == ("cut", 9, False)


def test_the_model_must_be_there() -> None:
    with Answering(names=("a", "b")) as server:
        with pytest.raises(UserError, match=r"several models\n.*a, b"):
            OpenAIEngine([server.url])
        with pytest.raises(UserError, match="has no model 'c'"):
            OpenAIEngine([server.url], "c")
        assert OpenAIEngine([server.url], "b").model == "b"
    with pytest.raises(ConfigError, match="no address"):
        OpenAIEngine([])


def test_leaving_early_stops_what_is_waiting() -> None:
    with Answering(takes=0.05) as server:
        stream = OpenAIEngine([server.url], most_at_once=1).stream(questions(50))
        next(stream)
        stream.close()
        time.sleep(0.2)
        assert len(server.asked) < 10 and threading.active_count() < 200
        assert completion("x")["choices"][0]["message"]["content"] == "x"
