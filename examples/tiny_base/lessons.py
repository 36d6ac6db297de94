"""What the small base learns from: one lesson is a chat about a scene, or short questions without a picture.

Lessons are numbered; a number always gives the same lesson. A scene also brings dense targets: for each visual token
the thing that covers it, the thing's number in the answer, and its coordinates there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from plumbline.data.answer import encode_answer
from plumbline.data.messages import NOTHING
from plumbline.data.prompts import default_prompts
from plumbline.demo.everyday import COLOURS, KINDS, EverydayScene, everyday_record, plan_everyday, render_everyday
from plumbline.demo.everyday_talk import Exchange, random_exchange, text_exchanges
from plumbline.demo.scenes import outline
from plumbline.geometry.order import order_objects

Sizes = Sequence[tuple[int, int]]
CELL = 32  # pixels of a picture's side behind one visual token
NUMBERS = 10  # of an object's coordinates that have dense targets
SHAPES = ("bbox_2d", "quad", "poly", "line")
_RASTER = 4  # pixels of a picture's side behind one pixel of the map of things
_DEFAULT = default_prompts()
DENSE_PROMPTS = (
    ("只输出一行JSON。", "描述图片中的物体。", 0.3),
    ("", "请描述图片中的所有物体。", 0.2),
    ("只输出一行JSON。", "请描述图片中的所有物体。", 0.3),
    ("Answer with one line of JSON.", "Describe every object.", 0.1),
    ("", "Locate every object and answer in JSON.", 0.1),
)
SUMMARY_PROMPTS = (
    ("只输出一行摘要。", "概括图片中的物体。", 0.3),
    ("", "请用一行文字总结图片内容。", 0.3),
    ("只输出一行摘要。", "概括图片中的物体。只写看得见的物体及数量。", 0.2),
    ("", "Count the objects by kind, in one line.", 0.2),
)
"""(system, user, share) of each task."""
LONG_DENSE = (_DEFAULT.system_dense, _DEFAULT.user_dense)
LONG_SUMMARY = (_DEFAULT.system_summary, _DEFAULT.user_summary)


@dataclass(frozen=True)
class DenseTargets:
    """Targets of the visual tokens of one picture, in their order; -1 where a token has none.

    kind, colour, shape, rank: [N]; numbers: [N, NUMBERS], the first coordinates of the answer, 0 to 1000;
    mask: [N, 64], whether a thing covers each part of 4 x 4 pixels.
    """

    kind: NDArray[np.int64]
    colour: NDArray[np.int64]
    shape: NDArray[np.int64]
    rank: NDArray[np.int64]
    numbers: NDArray[np.int64]
    mask: NDArray[np.float32]


@dataclass(frozen=True)
class Lesson:
    """A chat: system text, exchanges, and the picture [height, width, 3] with its targets, or neither."""

    system: str
    exchanges: tuple[Exchange, ...]
    picture: NDArray[np.uint8] | None = None
    targets: DenseTargets | None = None


SMALL = ((128, 128), (160, 128), (128, 160), (192, 128), (128, 192), (160, 160))
"""Pictures that cost a third: most of what the eyes learn does not need large ones."""


def small_lesson(seed: int, number: int) -> Lesson:
    """A small picture with its dense targets, and nothing to say about it."""
    scene, draw = plan_everyday(seed, number, SMALL), np.random.default_rng([seed, number, 4])
    return _about(scene, draw, "", [])


def caption_lesson(seed: int, number: int, sizes: Sizes, is_long: bool) -> Lesson:
    """Every object with its geometry; is_long: after the prompts that ship with the project."""
    scene, draw = plan_everyday(seed, number, sizes), np.random.default_rng([seed, number, 1])
    system, user = LONG_DENSE if is_long else _prompt(DENSE_PROMPTS, draw)
    return _about(scene, draw, system, [Exchange(user, dense_answer(scene))])


def talk_lesson(seed: int, number: int, sizes: Sizes, is_long: bool) -> Lesson:
    """A summary, or three questions about the scene."""
    scene, draw = plan_everyday(seed, number, sizes), np.random.default_rng([seed, number, 2])
    if is_long or draw.random() < 0.4:
        system, user = LONG_SUMMARY if is_long else _prompt(SUMMARY_PROMPTS, draw)
        return _about(scene, draw, system, [Exchange(user, str(everyday_record(scene, "").summary))])
    return _about(scene, draw, "", [random_exchange(scene, draw) for _ in range(3)])


def text_lesson(seed: int, number: int, words: Sequence[str]) -> Lesson:
    """Three questions without a picture: facts, sums, words to repeat."""
    draw = np.random.default_rng([seed, number, 3])
    return Lesson("", tuple(_text_exchange(draw, words) for _ in range(3)))


def dense_answer(scene: EverydayScene) -> str:
    """The answer to a dense prompt, in coordinates of 0 to 1000."""
    return encode_answer(scene.objects, scene.width, scene.height) if scene.things else NOTHING


def dense_targets(scene: EverydayScene) -> DenseTargets:
    """Targets for the visual tokens of a scene's picture."""
    rows, columns = scene.height // CELL, scene.width // CELL
    cells, mask = _owners(scene)
    owner = cells.reshape(-1)
    count = rows * columns
    kind, colour, shape, rank = (np.full(count, -1) for _ in range(4))
    numbers = np.full((count, NUMBERS), -1)
    answer = json.loads(dense_answer(scene))
    order = order_objects([thing.shape for thing in scene.things])
    for position, index in enumerate(order):
        thing, mine = scene.things[index], owner == index
        values = np.array(answer[f"object_{position + 1}"][thing.shape.kind][:NUMBERS])
        kind[mine], colour[mine] = list(KINDS).index(thing.kind), list(COLOURS).index(thing.colour)
        shape[mine], rank[mine] = SHAPES.index(thing.shape.kind), position
        numbers[mine, : len(values)] = values
    return DenseTargets(kind, colour, shape, rank, numbers, mask.reshape(count, -1))


def _owners(scene: EverydayScene) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each visual token [rows, columns] the index of the smallest thing that covers some of it, -1: none.

    And whether any thing covers each of its parts, [rows, columns, 64].
    """
    high, wide, side = scene.height // _RASTER, scene.width // _RASTER, CELL // _RASTER
    found = np.full((scene.height // CELL, scene.width // CELL), -1)
    covered = np.zeros((*found.shape, side, side), np.uint8)
    sizes = [np.prod(np.subtract(thing.shape.bounds()[2:], thing.shape.bounds()[:2])) for thing in scene.things]
    for index in np.argsort(sizes)[::-1]:  # the smallest last
        mask = np.zeros((high, wide), np.uint8)
        points = np.floor(outline(scene.things[index].shape) / _RASTER).astype(np.int32)
        if scene.things[index].shape.kind == "line":
            cv2.polylines(mask, [points], False, 1)
        else:
            cv2.fillPoly(mask, [points], 1)
        parts = mask.reshape(found.shape[0], side, found.shape[1], side).swapaxes(1, 2)
        found[parts.sum(axis=(2, 3)) >= 4] = index
        covered |= parts
    return found, covered.reshape(*found.shape, -1).astype(np.float32)


def _about(scene: EverydayScene, draw: Generator, system: str, exchanges: Sequence[Exchange]) -> Lesson:
    picture = render_everyday(scene).astype(np.float32)
    picture = (picture - 128) * draw.uniform(0.8, 1.15) + 128 + draw.uniform(-20, 20)
    picture += draw.normal(0, draw.uniform(0, 6), picture.shape)
    return Lesson(system, tuple(exchanges), np.clip(picture, 0, 255).astype(np.uint8), dense_targets(scene))


def _prompt(choices: Sequence[tuple[str, str, float]], draw: Generator) -> tuple[str, str]:
    system, user, _ = choices[draw.choice(len(choices), p=[share for *_, share in choices])]
    return system, user


def _text_exchange(draw: Generator, words: Sequence[str]) -> Exchange:
    kind = draw.random()
    if kind < 0.55:
        facts = text_exchanges()
        return facts[draw.integers(len(facts))]
    if kind < 0.7:
        first, second = (int(value) for value in draw.integers(1, 21, 2))
        if draw.random() < 0.5:
            return Exchange(f"{first}加{second}等于多少?", f"{first + second}。")
        return Exchange(f"What is {first} plus {second}?", f"{first + second}.")
    chosen = " ".join(words[index] for index in draw.integers(0, len(words), 4))
    return Exchange(f"{'复述' if draw.random() < 0.5 else 'Repeat'}: {chosen}", chosen)
