"""Labels that look wrong, ranked; and the simulation that they are found in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plumbline.stage_b.simulation import RULE, SimulatedModel, simulate_tickets, simulate_votes, simulated_requests
from plumbline.stage_b.suspects import Suspect, Voted, find_suspects
from plumbline.stage_b.verdict import PASS, read_verdict


def test_a_confident_contradiction_is_a_suspect_and_the_clearest_comes_first() -> None:
    tickets = [
        Voted("a", "pass", 0.9),
        Voted("b", "pass", 0.05),
        Voted("c", "fail", 0.1),
        Voted("d", "fail", 1.0),
        Voted("e", "pass", 0.48),
        Voted("f", "fail", 0.2),
    ]
    assert find_suspects(tickets) == [Suspect("d", "fail", "pass", 1.0), Suspect("b", "pass", "fail", 0.95)]


def test_a_model_that_is_never_sure_is_measured_by_itself() -> None:
    unsure = [Voted(f"p{number}", "pass", 0.6) for number in range(9)] + [Voted("f", "fail", 0.58)]
    assert [suspect.key for suspect in find_suspects(unsure)] == ["f"]
    sure = [Voted(f"p{number}", "pass", 1.0) for number in range(9)] + [Voted("f", "fail", 0.58)]
    assert find_suspects(sure) == []


def test_nothing_is_suspected_of_nothing() -> None:
    assert find_suspects([]) == []
    assert find_suspects([Voted("a", "pass", 0.4)])[0].suggested == "fail"


@given(st.lists(st.tuples(st.sampled_from(["pass", "fail"]), st.floats(0, 1)), max_size=30))
def test_every_suspect_contradicts_its_label(drawn: list[tuple[str, float]]) -> None:
    tickets = {str(number): Voted(str(number), *each) for number, each in enumerate(drawn)}
    found = find_suspects(list(tickets.values()))
    assert len({suspect.key for suspect in found}) == len(found)
    for suspect in found:
        assert suspect.label == tickets[suspect.key].label != suspect.suggested
        assert 0.5 < suspect.confidence <= 1


def test_the_simulation_is_keyed_and_as_noisy_as_it_says() -> None:
    made = simulate_tickets(400, seed=3, label_noise=0.1)
    assert made[7] == simulate_tickets(8, seed=3, label_noise=0.1)[7], "a ticket depends on its number alone"
    assert 20 <= sum(each.ticket.label != each.truth for each in made) <= 60
    assert 150 <= sum(each.truth == "fail" for each in made) <= 250
    requests = simulated_requests(made[0].ticket, 3)
    model = SimulatedModel(seed=1)
    forwards, backwards = list(model.stream(requests)), list(model.stream(requests[::-1]))
    assert forwards == backwards[::-1]
    assert model.identity != SimulatedModel(seed=2).identity


def test_the_simulated_model_errs_on_hard_tickets_and_learns_the_rule() -> None:
    passes = [each for each in simulate_tickets(600, seed=0) if each.truth == "pass"]

    def right(hard: bool, rules: tuple[str, ...]) -> float:
        mine = [each for each in passes if each.is_hard == hard]
        return sum(each.verdict == PASS for each in simulate_votes(mine, SimulatedModel(), 3, rules)) / len(mine)

    assert right(False, ()) > 0.9
    assert right(True, ()) < 0.6 < 0.85 < right(True, (RULE,))


def test_some_simulated_replies_cannot_be_read() -> None:
    requests = [each for made in simulate_tickets(100, seed=5) for each in simulated_requests(made.ticket, 4)]
    read = [read_verdict(reply.text).format_ok for reply in SimulatedModel(malformed=0.1).stream(requests)]
    assert 0.02 < read.count(False) / len(read) < 0.2
