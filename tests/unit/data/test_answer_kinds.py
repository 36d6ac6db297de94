from plumbline.data.answer_kinds import COORDINATES as C
from plumbline.data.answer_kinds import DESCRIPTIONS as D
from plumbline.data.answer_kinds import STRUCTURE as S
from plumbline.data.answer_kinds import byte_kinds, token_kinds


def marked(text: str) -> str:
    """One letter per byte."""
    return "".join("scd"[kind] for kind in byte_kinds(text.encode()))


def test_a_dense_answer():
    text = '{"object_1": {"line_points": 2, "line": [1, 22], "desc": "a[1] \\"b\\": 3"}}'
    told = marked(text)
    assert len(told) == len(text)
    inside = {"c": "", "d": "", "s": ""}
    for letter, kind in zip(text, told, strict=True):
        inside[kind] += letter
    assert inside["c"] == "122"
    assert inside["d"] == 'a[1] \\"b\\": 3'
    assert '"line_points": 2' in inside["s"]


def test_other_answers_are_descriptions():
    assert marked("无关图片") == "d" * 12
    assert marked("") == ""


def test_an_answer_that_is_cut_off():
    assert marked('{"object_1": {"desc": "ab') == "s" * 25


def test_tokens_take_the_first_kind_that_says_something():
    pieces = [b'{"o": {"bbox_2d": [', b"1", b"0", b", 7", '], "desc": "标'.encode(), "签".encode(), b'"}}', b""]
    assert token_kinds(pieces) == [S, C, C, C, D, D, S, S]


def test_a_token_that_ends_inside_a_character():
    whole = '{"o": {"desc": "签"}}'.encode()
    cut = whole.index("签".encode()) + 1
    assert token_kinds([whole[:cut], whole[cut:]]) == [D, D]
