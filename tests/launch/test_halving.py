"""Successive halving as a pure function: against a slow reference, over random scores and orders of arrival."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.launch.budget import Cost, cost
from moco.launch.halving import LAST, Halving, going_on, scores_at, synchronous

ETAS = st.integers(2, 4)
SCORES = st.one_of(st.floats(0, 100), st.sampled_from([10.0, 50.0, LAST]))  # ties and failures among them


@st.composite
def boards(draw: st.DrawFn, rungs: int = 3) -> dict[str, list[float]]:
    """The scores of some configurations at the rungs that each has reached; one that failed has them all."""
    number = draw(st.integers(1, 12))
    found = {}
    for i in range(number):
        scores = draw(st.lists(SCORES, max_size=rungs))
        found[f"c{i:02d}"] = [LAST] * rungs if LAST in scores else scores
    return found


def reference(board: dict[str, list[float]], eta: int, rung: int) -> set[str]:
    """The same by counting, for each configuration, how many are before it."""

    def before(one: str, other: str, at: int) -> bool:
        a, b = board[one][at], board[other][at]
        return a > b or (a == b and one < other)

    def leads(name: str, others: set[str], at: int, number: int) -> bool:
        return board[name][at] != LAST and sum(before(other, name, at) for other in others) < number

    there = {name for name in board if len(board[name]) > rung}
    found = {name for name in there if leads(name, there, rung, len(there) // eta)}
    left = set(board)
    for at in range(rung + 1):
        if not all(len(board[name]) > at for name in left):
            return found
        left = {name for name in left if leads(name, left, at, max(1, len(left) // eta))}
    return found | left


@given(boards(), ETAS, st.integers(0, 2), st.randoms())
def test_the_decision_is_that_of_the_slow_reference_in_whatever_order_it_is_told(
    board: dict[str, list[float]], eta: int, rung: int, random: random.Random
) -> None:
    decided = going_on(board, eta, rung)
    assert decided == reference(board, eta, rung)
    assert decided == going_on(board, eta, rung)
    names = list(board)
    random.shuffle(names)
    assert going_on({name: board[name] for name in names}, eta, rung) == decided
    assert all(len(board[name]) > rung and board[name][rung] > LAST for name in decided)


@dataclass
class Sweep:
    """Configurations on their way through the rungs, moved on in some order, as jobs and launchers do it.

    Attributes:
        scores: of each configuration at each rung.
        running: those that train towards their next rung; paused: those that wait at their last one.
    """

    scores: dict[str, list[float]]
    halving: Halving
    fresh: list[str] = field(init=False)
    board: dict[str, list[float]] = field(init=False)
    running: list[str] = field(default_factory=list)
    paused: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    spans: dict[str, int] = field(default_factory=dict)  # how many spans between rungs each has been given

    def __post_init__(self) -> None:
        self.fresh = list(self.scores)
        self.board = {name: [] for name in self.scores}

    def start(self, name: str) -> None:
        self.running.append(name)
        self.spans[name] = self.spans.get(name, 0) + 1

    def promotable(self) -> list[str]:
        at = {name: len(self.board[name]) - 1 for name in self.paused}
        return [name for name, rung in at.items() if name in going_on(self.board, self.halving.eta, rung)]

    def arrive(self, name: str) -> None:
        self.running.remove(name)
        rung = len(self.board[name])
        if rung == self.halving.rungs:
            self.done.append(name)
            return
        self.board[name].append(self.scores[name][rung])
        if name in going_on(self.board, self.halving.eta, rung):
            self.start(name)
        else:
            self.paused.append(name)

    def run(self, random: random.Random) -> None:
        """Whatever comes next comes in random order, until nothing is left to do."""
        while moves := [
            *((self.arrive, name) for name in self.running),
            *((self._begin, name) for name in self.fresh),
            *((self._take_up, name) for name in self.promotable()),
        ]:
            move, name = random.choice(moves)
            move(name)

    def _begin(self, name: str) -> None:
        self.fresh.remove(name)
        self.start(name)

    def _take_up(self, name: str) -> None:
        self.paused.remove(name)
        self.start(name)


def finished_synchronously(scores: dict[str, list[float]], halving: Halving) -> set[str]:
    """What textbook successive halving finishes: sort, keep one of eta and at least one, repeat."""
    left = sorted(scores)
    for rung in range(halving.rungs):
        ranking = sorted(left, key=lambda name: -scores[name][rung])  # stable, so ties go by name
        left = sorted(ranking[: max(1, len(left) // halving.eta)])
    return set(left)


@settings(deadline=None)
@given(
    st.integers(2, 30).flatmap(
        lambda n: st.lists(st.lists(st.floats(0, 100), min_size=3, max_size=3), min_size=n, max_size=n)
    ),
    ETAS,
    st.integers(1, 3),
    st.randoms(),
)
def test_whatever_the_order_all_is_finished_that_synchronous_halving_finishes_within_the_announced_cost(
    scores: Sequence[list[float]], eta: int, rungs: int, random: random.Random
) -> None:
    halving = Halving(eta, rungs)
    sweep = Sweep({f"c{i:02d}": row for i, row in enumerate(scores)}, halving)
    sweep.run(random)
    assert finished_synchronously(sweep.scores, halving) <= set(sweep.done)
    assert not sweep.fresh and not sweep.running and len(sweep.done) + len(sweep.paused) == len(scores)
    at = [0, *halving.epochs(100), 100]
    trained = sum(at[spans] for spans in sweep.spans.values())
    expected = cost([[100]] * len(scores), halving)
    assert expected.least <= trained <= expected.most <= expected.grid == 100 * len(scores)


def test_the_worst_order_costs_what_was_announced_at_most_and_the_best_what_was_announced_at_least() -> None:
    halving = Halving(3, 2)
    for rising, bound in ((True, "most"), (False, "least")):
        names = [f"c{i:02d}" for i in range(27)]
        sweep = Sweep({name: [float(i if rising else -i)] * 3 for i, name in enumerate(names)}, halving)
        for name in names:  # one after the other, each as far as it goes
            sweep._begin(name)
            while sweep.running or (waiting := sweep.promotable()):
                if sweep.running:
                    sweep.arrive(sweep.running[0])
                else:
                    sweep._take_up(waiting[0])
        at = [0, *halving.epochs(9), 9]
        assert sum(at[spans] for spans in sweep.spans.values()) == getattr(cost([[9]] * 27, halving), bound)


def test_a_grid_of_27_points_and_two_rungs_costs_26_percent_at_least() -> None:
    assert cost([[9]] * 27, Halving(3, 2)) == Cost(least=63, most=215, grid=243)
    assert str(cost([[9]] * 27, Halving(3, 2))) == "63 to 215 epochs of the grid's 243 (26 % to 88 %)"
    closed_form = (1 + 2 * (1 - 1 / 3)) / 3**2  # (1 + s (1 - 1 / eta)) / eta ** s
    assert math.isclose(63 / 243, closed_form)
    assert cost([[9, 9, 9]] * 27, Halving(3, 2)).least == 3 * 63  # seeds rise together


def test_points_that_are_left_alone_at_the_end_are_the_weakest_and_one_of_few_goes_on() -> None:
    assert going_on({"a": [1.0], "b": [2.0]}, 3, 0) == {"b"}  # all are here
    assert going_on({"a": [1.0], "b": []}, 3, 0) == set()
    assert going_on({"a": [LAST], "b": [LAST]}, 3, 0) == set()
    assert synchronous({"a": [1.0], "b": [2.0, 5.0], "c": [0.0]}, 3, 1) == {"b"}
    stays = {"a": [3.0, 1.0], "b": [2.0], "c": [1.0], "d": []}
    assert synchronous(stays, 2, 1) == synchronous(stays, 2, 1, ["b"]) == set()  # d has not arrived
    assert synchronous(stays, 2, 1, ["b", "d"]) == going_on(stays, 2, 1, ["b", "d"]) == {"a"}


def test_a_score_is_that_of_the_first_evaluation_from_the_rung_on() -> None:
    lines = [{"epoch": e, "knn/top1": 10.0 * e} for e in (2, 4, 6)]
    assert scores_at([{"epoch": 1}, *lines], [1, 3, 6]) == [20.0, 40.0, 60.0]
    assert scores_at(lines, [5, 7]) == [60.0]
    assert scores_at([{"epoch": 6, "linear/top1": 70.0}], [5]) == []


@pytest.mark.parametrize(
    ("eta", "rungs", "total", "epochs"), [(3, 2, 200, [22, 66]), (3, 2, 9, [1, 3]), (4, 1, 30, [7])]
)
def test_rungs_are_shares_of_the_epochs(eta: int, rungs: int, total: int, epochs: list[int]) -> None:
    assert Halving(eta, rungs).epochs(total) == epochs
