"""What one can ask about an everyday scene, in Chinese and English, with the true answer; and questions without one.

An answer follows from the plan of the scene, so that the accuracy of a model's answers can be counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from numpy.random import Generator

from plumbline.demo.everyday import COLOURS, KINDS, EverydayScene, Thing

_NUMBERS_ZH = ("零", "一", "两", "三", "四", "五", "六", "七", "八")
_NUMBERS_EN = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
_ROWS_ZH, _COLUMNS_ZH = ("上", "中", "下"), ("左", "中", "右")
_ROWS_EN, _COLUMNS_EN = ("upper", "middle", "lower"), ("left", "centre", "right")


@dataclass(frozen=True)
class Exchange:
    """A question and its answer."""

    question: str
    answer: str


def place_of(scene: EverydayScene, thing: Thing, english: bool) -> str:
    """Where a thing's middle lies, such as `左上方` or `upper left`."""
    left, top, right, bottom = thing.shape.bounds()
    column, row = int(1.5 * (left + right) / scene.width), int(1.5 * (top + bottom) / scene.height)
    if english:
        return "centre" if (row, column) == (1, 1) else f"{_ROWS_EN[row]} {_COLUMNS_EN[column]}"
    if column == 1:
        return "中间" if row == 1 else f"{_ROWS_ZH[row]}方"
    return f"{_COLUMNS_ZH[column]}侧" if row == 1 else f"{_COLUMNS_ZH[column]}{_ROWS_ZH[row]}方"


def named(thing: Thing, english: bool) -> str:
    """A thing with its colour, such as `红色圆形` or `red circle`."""
    colour, _ = COLOURS[thing.colour]
    return f"{colour} {KINDS[thing.kind]}" if english else thing.colour + thing.kind


def _in_order(scene: EverydayScene) -> list[Thing]:
    return sorted(scene.things, key=lambda thing: (thing.shape.bounds()[1], thing.shape.bounds()[0]))


def _area(thing: Thing) -> float:
    left, top, right, bottom = thing.shape.bounds()
    return (right - left) * (bottom - top)


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


# -- questions about a scene -----------------------------------------------------------------------------------------


def describe_zh(scene: EverydayScene) -> str:
    """One sentence about the whole scene."""
    things = "，".join(f"{place_of(scene, thing, False)}有{named(thing, False)}" for thing in _in_order(scene))
    return f"{'室外' if scene.outdoors else '室内'}场景，{things or '没有物体'}。"


def describe_en(scene: EverydayScene) -> str:
    """One sentence about the whole scene."""
    things = " and ".join(
        f"{_article(named(thing, True))} at the {place_of(scene, thing, True)}" for thing in _in_order(scene)
    )
    return f"An {'outdoor' if scene.outdoors else 'indoor'} scene with {things or 'nothing in it'}."


def _list_zh(scene: EverydayScene) -> str:
    return _some_zh(_in_order(scene))


def _list_en(scene: EverydayScene) -> str:
    return _some_en(_in_order(scene))


def _colours_zh(scene: EverydayScene) -> str:
    return "、".join(dict.fromkeys(thing.colour for thing in _in_order(scene))) + "。"


def _colours_en(scene: EverydayScene) -> str:
    names = dict.fromkeys(COLOURS[thing.colour][0] for thing in _in_order(scene))
    return ", ".join(names).capitalize() + "."


def _texts(scene: EverydayScene) -> list[str]:
    return [thing.text for thing in _in_order(scene) if thing.text]


def _text_zh(scene: EverydayScene) -> str:
    return f"有，写的是{'、'.join(_texts(scene))}。" if _texts(scene) else "没有文字。"


def _text_en(scene: EverydayScene) -> str:
    return f"Yes, it says {', '.join(_texts(scene))}." if _texts(scene) else "There is no text."


def _has(*kinds: str) -> Callable[[EverydayScene], bool]:
    return lambda scene: any(thing.kind in kinds for thing in scene.things)


def _yes_zh(test: Callable[[EverydayScene], bool]) -> Callable[[EverydayScene], str]:
    return lambda scene: "有。" if test(scene) else "没有。"


def _yes_en(test: Callable[[EverydayScene], bool]) -> Callable[[EverydayScene], str]:
    return lambda scene: "Yes." if test(scene) else "No."


def _largest(scene: EverydayScene) -> list[Thing]:
    return sorted(scene.things, key=_area)[-1:]


def _within(scene: EverydayScene, *, left: bool = False, corner: tuple[int, int] | None = None) -> list[Thing]:
    found = []
    for thing in _in_order(scene):
        low_x, low_y, high_x, high_y = thing.shape.bounds()
        x, y = (low_x + high_x) / 2 / scene.width, (low_y + high_y) / 2 / scene.height
        if (left and x < 0.5) or (corner is not None and (int(2 * x), int(2 * y)) == corner):
            found.append(thing)
    return found


def _some_zh(things: Sequence[Thing]) -> str:
    return ("、".join(named(thing, False) for thing in things) or "没有物体") + "。"


def _some_en(things: Sequence[Thing]) -> str:
    return (", ".join(named(thing, True) for thing in things).capitalize() or "Nothing") + "."


def _missing(scene: EverydayScene) -> str:
    present = {thing.kind for thing in scene.things}
    return next(kind for kind in ("杯子", "树", "圆形", "房子", "线条") if kind not in present)


_no: Callable[[EverydayScene], bool] = lambda scene: False  # noqa: E731

GENERAL: dict[str, Callable[[EverydayScene], str]] = {
    "这张图片里有什么?": _list_zh,
    "请用一段话描述这张图片。": describe_zh,
    "用一句话概括这张图片。": describe_zh,
    "图片里最显眼的物体是什么?": lambda scene: _some_zh(_largest(scene)),
    "图片里哪个物体最大?": lambda scene: _some_zh(_largest(scene)),
    "图片里哪个物体离镜头最近?": lambda scene: _some_zh(_largest(scene)),
    "图片的主要颜色有哪些?": _colours_zh,
    "图片里有多少种颜色?": lambda scene: _NUMBERS_ZH[len({thing.colour for thing in scene.things})] + "种。",
    "图片是在室内还是室外拍摄的?": lambda scene: "室外。" if scene.outdoors else "室内。",
    "图片里有人吗?": _yes_zh(_no),
    "图片里有几个物体?": lambda scene: _NUMBERS_ZH[len(scene.things)] + "个。",
    "图片里有文字吗?如果有,写的是什么?": _text_zh,
    "图片的背景是什么?": lambda scene: "天空和地面。" if scene.outdoors else "墙壁和地板。",
    "图片左边有什么?": lambda scene: _some_zh(_within(scene, left=True)),
    "图片右上角有什么?": lambda scene: _some_zh(_within(scene, corner=(1, 0))),
    "图片里没有什么?": lambda scene: f"没有{_missing(scene)}。",
    "这张照片可能是在什么时候拍的?": lambda scene: "白天。" if scene.outdoors else "看不出来。",
    "图片里的光线怎么样?": lambda scene: "光线充足。" if scene.outdoors else "光线柔和。",
    "图片清晰吗?": lambda scene: "清晰。",
    "图片里有动物吗?": _yes_zh(_no),
    "图片里有植物吗?": _yes_zh(_has("树")),
    "图片里有车吗?": _yes_zh(_no),
    "给这张图片起一个标题。": lambda scene: (
        named(_largest(scene)[0], False) if scene.things else ("天空" if scene.outdoors else "墙壁")
    ),
    "图片里有食物吗?": _yes_zh(_no),
    "What is in this picture?": _list_en,
    "Describe this picture in one paragraph.": describe_en,
    "Summarise this picture in one sentence.": describe_en,
    "What is the most noticeable object?": lambda scene: _some_en(_largest(scene)),
    "Which object is the largest?": lambda scene: _some_en(_largest(scene)),
    "Which object is the closest to the camera?": lambda scene: _some_en(_largest(scene)),
    "What are the main colours?": _colours_en,
    "Was this taken indoors or outdoors?": lambda scene: "Outdoors." if scene.outdoors else "Indoors.",
    "Are there any people?": _yes_en(_no),
    "How many objects can you see?": lambda scene: _NUMBERS_EN[len(scene.things)].capitalize() + ".",
    "Is there any text? If so, what does it say?": _text_en,
    "What is in the background?": lambda scene: "Sky and ground." if scene.outdoors else "A wall and a floor.",
    "What is on the left side?": lambda scene: _some_en(_within(scene, left=True)),
    "What is in the lower right corner?": lambda scene: _some_en(_within(scene, corner=(1, 1))),
    "What is not in the picture?": lambda scene: f"There is no {KINDS[_missing(scene)]}.",
    "What time of day could it be?": lambda scene: "Day." if scene.outdoors else "It is hard to say.",
    "What is the lighting like?": lambda scene: "Bright." if scene.outdoors else "Soft.",
    "Is the picture sharp?": lambda scene: "Yes.",
    "Are there any animals?": _yes_en(_no),
    "Are there any plants?": _yes_en(_has("树")),
    "Is there a vehicle? Answer yes or no.": _yes_en(_no),
    "Is there any food? Answer yes or no.": _yes_en(_no),
    "List everything you can see, separated by commas.": _list_en,
    "Give this picture a title.": lambda scene: (
        named(_largest(scene)[0], True).capitalize() if scene.things else ("Sky" if scene.outdoors else "A wall")
    ),
}
"""Question -> its answer for a scene."""


def random_exchange(scene: EverydayScene, draw: Generator) -> Exchange:
    """A question about one kind, colour or place of the scene, or one of `GENERAL`."""
    if draw.random() < 0.45:
        question = str(draw.choice(list(GENERAL)))
        return Exchange(question, GENERAL[question](scene))
    forms = (_is_there, _how_many, _which_colour, _where)
    return forms[draw.integers(len(forms))](scene, draw)


def _is_there(scene: EverydayScene, draw: Generator) -> Exchange:
    kinds = list(KINDS) if not scene.things or draw.random() < 0.5 else [thing.kind for thing in scene.things]
    kind = str(draw.choice(kinds))
    found = _has(kind)(scene)
    if draw.random() < 0.5:
        return Exchange(f"图中有{kind}吗?", "有。" if found else "没有。")
    return Exchange(f"Is there {_article(KINDS[kind])}?", "Yes." if found else "No.")


def _how_many(scene: EverydayScene, draw: Generator) -> Exchange:
    kinds = list(KINDS) if not scene.things or draw.random() < 0.3 else [thing.kind for thing in scene.things]
    kind = str(draw.choice(kinds))
    count = Counter(thing.kind for thing in scene.things)[kind]
    if draw.random() < 0.5:
        return Exchange(f"图中有几个{kind}?", _NUMBERS_ZH[count] + "个。")
    return Exchange(f"How many {KINDS[kind]} objects are there?", _NUMBERS_EN[count].capitalize() + ".")


def _single(scene: EverydayScene) -> list[Thing]:
    counts = Counter(thing.kind for thing in scene.things)
    return [thing for thing in scene.things if counts[thing.kind] == 1]


def _which_colour(scene: EverydayScene, draw: Generator) -> Exchange:
    if not (things := _single(scene)):
        return _is_there(scene, draw)
    thing = things[draw.integers(len(things))]
    if draw.random() < 0.5:
        return Exchange(f"{thing.kind}是什么颜色?", thing.colour + "。")
    return Exchange(f"What colour is the {KINDS[thing.kind]}?", COLOURS[thing.colour][0].capitalize() + ".")


def _where(scene: EverydayScene, draw: Generator) -> Exchange:
    if not (things := _single(scene)):
        return _is_there(scene, draw)
    thing = things[draw.integers(len(things))]
    if draw.random() < 0.5:
        return Exchange(f"{thing.kind}在哪里?", f"在{place_of(scene, thing, False)}。")
    return Exchange(f"Where is the {KINDS[thing.kind]}?", f"At the {place_of(scene, thing, True)}.")


# -- questions without a picture -------------------------------------------------------------------------------------


@cache
def text_exchanges() -> tuple[Exchange, ...]:
    """The questions of `text_questions.tsv` with their answers."""
    text = (resources.files("plumbline.demo") / "text_questions.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return tuple(Exchange(question, answer) for question, answer in rows)
