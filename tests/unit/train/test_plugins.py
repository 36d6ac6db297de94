"""`custom.plugins`: a user's own operations, and plugins that cannot be imported."""

import pytest

from plumbline.augment.ops import COLOUR, NAMES, OPERATIONS, register
from plumbline.errors import ConfigError
from plumbline.train.config import check_file, load_run

SEPIA = '''
from dataclasses import dataclass

import numpy as np

from plumbline.augment.ops import register


@register("{name}")
@dataclass(frozen=True, kw_only=True)
class Sepia:
    """Turn colours to brown."""

    strength: float = 0.5
    """How far."""
    prob: float = 1.0
    """Chance that it acts."""

    def draw(self, rng):
        return (self.strength,)

    def apply(self, image, values):
        return (image * (1 - values[0]) + np.array([112, 66, 20]) * values[0]).astype(np.uint8)
'''
RUN = "model: {{model: m}}\ncustom:\n  train_jsonl: t.jsonl\n  plugins: [{plugin}]\n  augmentation: {{ops: [{ops}]}}\n"


@pytest.fixture
def run(tmp_path):
    """Writes a plugin and a run that names it; returns the run's file."""

    def write(plugin: str, ops: str = "", text: str = ""):
        (tmp_path / "mine.py").write_text(text or SEPIA.format(name=plugin), encoding="utf-8")
        file = tmp_path / "run.yaml"
        file.write_text(RUN.format(plugin=tmp_path / "mine.py", ops=ops), encoding="utf-8")
        return file

    yield write
    for name in [name for name in OPERATIONS if name.startswith("sepia")]:
        NAMES.pop(OPERATIONS.pop(name))
        COLOUR.pop(name)


def test_an_operation_of_a_plugin_is_configured_like_any_other(run):
    file = run("sepia", "{name: sepia, params: {strength: 0.25}}")
    (operation,) = load_run(file).run.custom.augmentation.ops
    assert (type(operation).__name__, operation.strength) == ("Sepia", 0.25)
    (operation,) = load_run(file).run.custom.augmentation.ops
    assert operation.strength == 0.25, "imported once, read twice"


def test_parameters_of_a_plugin_are_checked_too(run):
    (problem,) = check_file(run("sepia_two", "{name: sepia_two, params: {strenght: 0.25}}")).problems
    assert "did you mean `strength`?" in str(problem)


def test_a_plugin_that_fails_is_named_with_its_line(run):
    (problem,) = check_file(run("x", text="import os\n\n\nraise RuntimeError('no licence')\n")).problems
    assert "RuntimeError: no licence (line 4 of" in str(problem) and "custom.plugins" in problem.where


@pytest.mark.parametrize("name", ["nowhere.py", "not_a_module_of_anybody"])
def test_a_plugin_that_is_not_there(tmp_path, name):
    file = tmp_path / "run.yaml"
    file.write_text(RUN.format(plugin=name, ops=""), encoding="utf-8")
    with pytest.raises(ConfigError, match=name):
        load_run(file)


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="'rotate' already"):
        register("rotate")(object)
