"""The control of a run's drift, by itself."""

from plumbline.train.drift import MOST_FACTOR, DriftControl


def test_the_factor_doubles_above_the_budget_and_comes_back_below_half_of_it():
    control = DriftControl(0.1, "raise_weight")
    seen = [control.assess({"eval/drift/a": value}, 1)["eval/anchor_factor"] for value in (0.2, 0.3, 0.08, 0.04, 0.01)]
    assert seen == [2.0, 4.0, 4.0, 2.0, 1.0]
    for _ in range(9):
        control.assess({"eval/drift/a": 9.0}, 1)
    assert control.factor == MOST_FACTOR


def test_the_largest_drift_counts_and_nothing_is_made_of_nothing():
    control = DriftControl(0.1)
    assert control.assess({"eval/loss": 3.0}, 1) == {}
    found = control.assess({"eval/drift/a": 0.01, "eval/drift/b": 0.2}, 1)
    assert found["eval/drift"] == 0.2 and control.is_exceeded(found) and control.factor == 1.0
    assert not control.is_exceeded({})


def test_a_continued_run_takes_the_factor_from_its_log():
    control = DriftControl(0.1, "raise_weight")
    control.restore([{"eval/anchor_factor": 2.0}, {"loss": 1.0}, {"eval/anchor_factor": 8.0}])
    assert control.factor == 8.0
    control.restore([])
    assert control.factor == 8.0
