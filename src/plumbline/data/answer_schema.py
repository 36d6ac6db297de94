"""JSON Schema of an answer, for servers that bind what a model writes."""

from __future__ import annotations

from plumbline.data.answer_form import PLAIN_FORM, AnswerForm
from plumbline.geometry.shapes import SHAPES
from plumbline.storage.objects import JsonObject

_MOST = {"none": None, "norm100": 100, "norm1000": 1000}
_LONGEST = 4096


def dense_schema(emit_norm: str, form: AnswerForm = PLAIN_FORM) -> JsonObject:
    """An answer of objects: `object_1`, `object_2`, ... with one geometry and a description each.

    An answer without objects says that there is none. Coordinates are whole numbers within the scale of `emit_norm`.
    That the numbers have no gap and no object repeats is checked by the parser.
    """
    most = _MOST[emit_norm]
    number: JsonObject = {"type": "integer", "minimum": 0} | ({} if most is None else {"maximum": most})
    kinds = []
    for kind, shape in SHAPES.items():
        least = 2 * shape.least
        longest = least if shape.most == shape.least else _LONGEST
        numbers = {"type": "array", "items": number, "minItems": least, "maxItems": longest}
        if form.points == "pairs":
            pair = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
            numbers = {"type": "array", "items": pair, "minItems": least // 2, "maxItems": longest // 2}
        fields: JsonObject = {kind: numbers, "desc": {"type": "string", "minLength": 1}}
        if kind == "line":
            fields = {"line_points": {"type": "integer", "minimum": shape.least}, **fields}
        if form.key_order == "desc_first":
            fields = {"desc": fields["desc"], **fields}
        required = [name for name in fields if name != "line_points"]
        kinds.append({"type": "object", "properties": fields, "required": required, "additionalProperties": False})
    return {
        "type": "object",
        "patternProperties": {"^object_[1-9][0-9]{0,3}$": {"anyOf": kinds}},
        "additionalProperties": False,
    }
