"""A replay against the rules of real halving, against bounds, by hand, and as people read it."""

import itertools
import json
import math
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from commands import call
from common import ROOT, python
from folders import point, write_paused, write_run, write_sweep
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import spearmanr

from moco.analysis.replay import Replay, agreements, arrive, replay, wait
from moco.analysis.replay_grid import Curve, Grid, Point, grids, possible
from moco.analysis.replay_view import look, show
from moco.analysis.statistics import rank_correlation
from moco.config.schema import Config
from moco.errors import UserError
from moco.launch.budget import cost
from moco.launch.halving import Halving, Race, going_on
from moco.protocols import KNN
from moco.runs.run import Run
from moco.runs.sweep import select

HALVING = Halving(3, 2)
# Nine configurations by temperature: kNN at epochs 1, 3 and 9. The best at the end is second at epoch 3.
NINE = [(50, 58, 70), (52, 57, 72), (51, 55, 69)] + [(40 - i, 50, 60 + i) for i in range(6)]


def curve(scores: Sequence[float], seed: int = 0, failed: bool = False, seconds: float | None = 10) -> Curve:
    """A run with that kNN at each epoch."""
    lines = [
        {"epoch": i, "train/loss": 1.0, KNN.top1: score} | ({} if seconds is None else {"seconds": seconds * i})
        for i, score in enumerate(scores, 1)
    ]
    return Curve(str(seed), len(scores), lines, failed)


def nine(first: float, third: float, last: float) -> list[float]:
    """A curve of nine epochs through these three."""
    return [first, (first + third) / 2, third, *(third + (last - third) * i / 6 for i in range(1, 7))]


def grid(curves: Sequence[Sequence[Curve]]) -> Grid:
    """The seeds' curves of each configuration."""
    return Grid("digits", False, [Point(f"run-{i:02}", f"m={i}", seeds) for i, seeds in enumerate(curves)])


def write_curve(folder: Path, scores: dict[int, float], epochs: int, seconds: float = 10) -> None:
    lines: list[dict[str, float]] = [
        {"epoch": i, "step": i, "train/loss": 1.0, "seconds": seconds * i}
        | ({KNN.top1: scores[i]} if i in scores else {})
        for i in range(1, epochs + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def sweep(tmp_path: Path, base: Callable[..., Config]) -> Callable[..., list[Run]]:
    """sweep(*words, curves=...) -> the runs of a sweep in tmp_path/runs, one per curve, by temperature."""

    def write(
        *words: str,
        curves: Sequence[Sequence[float]] = tuple(nine(*one) for one in NINE),
        seed: int = 0,
        every: int = 1,
    ) -> list[Run]:
        folders, cfg = [], base("data=digits", "model=small", f"epochs={len(curves[0])}", *words)
        for i, scores in enumerate(curves):
            folder = write_run(tmp_path / "runs", point(cfg, {"temperature": 0.1 + i / 100, "seed": seed}), scores[-1])
            kept = {e: s for e, s in enumerate(scores, 1) if e % every == 0 or e == len(scores)}
            write_curve(folder, kept, len(scores))
            folders.append(folder)
        return [Run(folder) for folder in folders]

    return write


def told(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[str, str]:
    assert call(["replay", *words, "--runs-dir", str(folder / "runs")]) == 0
    out, err = capsys.readouterr()
    return out, err


def test_nine_configurations_by_hand() -> None:
    one = replay(grid([[curve(nine(*scores))] for scores in NINE]), HALVING)
    waiting = one.waiting
    # Three of nine go on from epoch 1, one of these from epoch 3: 9 * 1 + 3 * 2 + 1 * 6 epochs of ten seconds each.
    assert waiting.spent == (21, 210) and one.grid.whole == (81, 810) and one.share(waiting) == 100 * 21 / 81
    assert waiting.passed == {f"run-{i:02}": (2, 1, 1, 0, 0, 0, 0, 0, 0)[i] for i in range(9)}
    assert waiting.finished == 1 and waiting.best.label == "m=0" and waiting.regret == pytest.approx(72 - 70)
    assert len(one.orders) == 200
    assert one.keeps_best == 100 * statistics.fmean(order.regret == 0 for order in one.orders)
    assert one.shares[0] == one.share(waiting) and 0 < one.keeps_best < 100
    assert one.shares[-1] > 40  # who is among the best of the first few goes on, too


def test_seeds_are_ranked_by_their_mean_and_what_failed_is_last() -> None:
    lucky, steady = [nine(90, 90, 10), nine(10, 10, 10)], [nine(60, 60, 40), nine(60, 60, 42)]
    curves = [[curve(one, seed) for seed, one in enumerate(pair)] for pair in (lucky, steady, lucky)]
    one = replay(grid(curves), Halving(3, 1))
    assert one.waiting.best.label == "m=1" and one.grid.best.final == 41 and one.waiting.regret == 0
    assert one.waiting.spent.epochs == 6 * 3 + 2 * 6
    broken = [curve(nine(99, 99, 99), 0), curve(nine(99, 99, 99)[:2], 1, failed=True)]
    broken[1] = Curve("1", 9, broken[1].lines, True)
    one = replay(grid([*curves, broken]), Halving(3, 1))
    assert one.waiting.best.label == "m=1" and one.waiting.passed["run-03"] == 0 and one.grid.best.label == "m=1"
    assert one.waiting.spent.epochs == 6 * 3 + 2 * 6 + 3 + 2  # the seed that failed after two epochs cost these
    assert one.grid.whole.epochs == 7 * 9 + 2


def test_seconds_are_unknown_where_a_run_lacks_them() -> None:
    one = replay(grid([[curve(nine(*NINE[0]))], [curve(nine(*NINE[1]), seconds=None)]]), HALVING)
    assert one.waiting.spent.seconds is None and one.waiting.spent.epochs > 0


scores = st.floats(0, 100).map(lambda x: round(x))  # equal ones among them


@st.composite
def some_grids(draw: st.DrawFn, failing: bool = True) -> Grid:
    """Up to ten configurations of 16 epochs with one or two seeds each."""
    number, seeds = draw(st.integers(2, 10)), draw(st.integers(1, 2))
    curves = []
    for i in range(number):
        failed = failing and i > 0 and draw(st.integers(0, 4)) == 0
        runs = [curve(draw(st.lists(scores, min_size=16, max_size=16)), seed) for seed in range(seeds)]
        if failed:
            runs[0] = Curve("0", 16, runs[0].lines[: draw(st.integers(0, 16))], True)
        curves.append(runs)
    return grid(curves)


halvings = st.sampled_from([Halving(2, 1), Halving(2, 2), Halving(2, 4), Halving(3, 1), Halving(3, 2), Halving(4, 2)])


@given(some_grids(), halvings)
@settings(max_examples=60, deadline=None)
def test_no_order_finishes_less_or_costs_less_than_where_all_wait(made: Grid, halving: Halving) -> None:
    one = replay(made, halving)
    finished = {name for name, passed in one.waiting.passed.items() if passed == halving.rungs}
    for order in one.orders:
        assert finished <= {name for name, passed in order.passed.items() if passed == halving.rungs}
        assert all(order.passed[name] >= passed for name, passed in one.waiting.passed.items())
        assert 0 <= order.regret <= one.waiting.regret and order.spent.epochs >= one.waiting.spent.epochs
        assert order.spent.epochs <= made.whole.epochs and not order.best.failed
    assert replay(made, halving) == one


@given(some_grids(failing=False), halvings)
@settings(max_examples=60, deadline=None)
def test_costs_are_within_what_a_dry_run_announces(made: Grid, halving: Halving) -> None:
    one = replay(made, halving)
    announced = cost([[c.epochs for c in p.curves] for p in made.points], halving)
    assert one.waiting.spent.epochs == announced.least and one.grid.whole.epochs == announced.grid
    assert all(order.spent.epochs <= announced.most for order in one.orders)


@given(some_grids(), halvings, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_at_the_end_nobody_waits_who_may_go_on(made: Grid, halving: Halving, seed: int) -> None:
    board = made.board(halving)
    passed = arrive(board, halving, random.Random(seed))
    seen = {name: board[name][: passed[name] + 1] for name in board}
    for name, rung in passed.items():
        assert rung == halving.rungs or name not in going_on(seen, halving.eta, rung)


def test_the_same_go_on_as_in_a_sweep_that_is_halved(sweep: Callable[..., list[Run]]) -> None:
    """Rung by rung on the disk, by what each job would be told there."""
    draw = random.Random(1)
    curves = [[[draw.uniform(0, 99) for _ in range(9)] for _ in range(7)] for _ in range(3)]
    runs = [run for seed in range(3) for run in sweep(curves=curves[seed], seed=seed)]
    (made,), notes = grids(runs)
    expected = wait(made.board(HALVING), HALVING)
    whole = {run: (run.folder / "metrics.jsonl").read_text().splitlines(keepends=True) for run in runs}
    left, passed = list(runs), dict.fromkeys([run.folder.name for run in runs], 0)
    for run in runs:
        (run.folder / "result.json").unlink()
    for epoch in HALVING.epochs(9):
        for run in runs:
            reached = whole[run][:epoch] if run in left else whole[run][: HALVING.epochs(9)[passed[run.folder.name]]]
            (run.folder / "metrics.jsonl").write_text("".join(reached))
        left = [run for run in left if Race(runs, HALVING).verdict(run).goes_on]
        for run in left:
            passed[run.folder.name] += 1
    assert not notes and len(left) == 3 and {name: passed[name] for name in expected} == expected
    # ... and the other seeds of each configuration with it
    assert sum(map(bool, passed.values())) == 3 * sum(map(bool, expected.values())) == 6


def test_rank_correlation_is_that_of_scipy_and_absent_where_it_says_nothing() -> None:
    pairs = [(1.0, 3.0), (2.0, 1.0), (3.0, 2.0), (4.0, 8.0)]
    assert rank_correlation(pairs) == pytest.approx(0.4) == spearmanr(*zip(*pairs)).statistic
    assert rank_correlation([(x, -y) for x, y in zip((1, 2, 3), (1, 2, 3))]) == pytest.approx(-1)
    assert rank_correlation(pairs[:2]) is None and rank_correlation([(1, x) for x in (1, 2, 3)]) is None


def test_ranks_by_epoch() -> None:
    made = grid([[curve(nine(*scores))] for scores in NINE])
    found = agreements(made, [HALVING, Halving(2, 1)])
    assert [one.epoch for one in found] == [str(i) for i in range(1, 9)]
    assert {one.epoch: one.rung_of for one in found if one.rung_of} == {"1": [3], "3": [3], "4": [2]}
    pairs = [(first, last) for first, _, last in NINE]
    assert found[0].spearman == pytest.approx(spearmanr(*zip(*pairs)).statistic) and found[0].number == 9
    lines = [
        {k: v for k, v in line.items() if line["epoch"] not in (3, 5) or k != KNN.top1}
        for line in curve(nine(*NINE[0])).lines
    ]
    made = grid([[Curve("0", 9, lines, False)], *([curve(nine(*scores))] for scores in NINE[1:])])
    numbers = {one.epoch: one.number for one in agreements(made, [HALVING])}
    assert numbers == {**{str(i): 9 for i in range(1, 9)}, "5": 8}  # at a rung the next one stands in
    long = grid([[curve([i + e / 100 for e in range(200)])] for i in range(4)])
    found = agreements(long, [Halving(3, 2)])
    assert len(found) <= 14 and {"22", "66"} <= {one.epoch for one in found} and found[-1].epoch == "199"
    assert all(one.spearman == pytest.approx(1) for one in found)


def test_what_is_told_of_one_halving(
    sweep: Callable[..., list[Run]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = sweep("data.validation=0.2")
    write_sweep(tmp_path / "runs", "nine", [run.folder for run in runs])
    out, err = told(capsys, tmp_path, "nine", "--halving", "3", "--rungs", "2")
    assert not err and "9 configurations on digits, held-out training images, one seed each: 81 epochs, 13m30s" in out
    lines = out.splitlines()
    at = lines.index("Where all wait at each rung for the last one:")
    assert lines[at + 1].split() == "halving rungs at epoch epochs share time finished best kept regret".split()
    assert lines[at + 2].split() == "3 2 1, 3 21 26 % 3m30s 1 no 2.00".split()
    kept = [line.split() for line in lines if line.startswith("temperature=")]
    assert kept[0] == ["temperature=0.1", "50.00", "58.00", "70.00", "9"]
    assert (
        kept[1] == ["temperature=0.11", "52.00", "57.00", "72.00", "3"] and [row[-1] for row in kept[3:]] == ["1"] * 6
    )
    assert "No: the best of the grid, temperature=0.11, is paused at epoch 3, where it has rank 2 of 3." in out
    assert "The best by halving, temperature=0.1, is 2.00 points below it: 70.00 instead of 72.00." in out
    assert "With one seed each, a difference of that size may be chance." in out and "test set" not in out
    assert "It takes 26 % of the grid's epochs where all wait, and 26 to " in out


def test_what_is_told_of_several_halvings(
    sweep: Callable[..., list[Run]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep()
    out, err = told(capsys, tmp_path, "--halving", "3,2,4")
    assert err == "epochs=9 leaves no epoch before a rung, so there is no replay of halving=4 rungs=2\n"
    assert (
        "Yes, with 4 of these 5: the best of the grid, temperature=0.11, is trained to the end in whatever order" in out
    )
    assert "The cheapest is halving=4 rungs=1, which takes 40 % of the grid's epochs" in out
    assert "kNN was measured on the test set" in out and "how far halving trains" not in out
    rows = json.loads(told(capsys, tmp_path, "--format", "json")[0])
    assert [(row["halving"], row["rungs"]) for row in rows] == [(2, 1), (2, 2), (3, 1), (3, 2), (4, 1)]
    assert {row["best kept"] for row in rows if row["regret"] == 0} == {"yes"}
    one = replay(grids(select(tmp_path / "runs"))[0][0], HALVING)
    assert rows[3]["epochs"] == 21 and rows[3]["seconds"] == 210 and rows[3]["share"] == round(100 * 21 / 81, 2)
    assert rows[3]["best kept in"] == one.keeps_best and rows[3]["highest share"] == round(one.shares[-1], 2)
    markdown = told(capsys, tmp_path, "--format", "markdown")[0].splitlines()
    assert len(markdown) == 2 + len(rows) and markdown[0].startswith("| data | halving | rungs | at epoch | epochs |")


def test_where_no_halving_keeps_the_best_and_where_one_does(sweep: Callable[..., list[Run]]) -> None:
    late = [nine(50, 60, 61), nine(49, 59, 60), nine(48, 58, 59), nine(10, 10, 90)]
    text = words(sweep(curves=late), [Halving(2, 1), Halving(3, 1)])
    assert "No: where all wait, none of these trains the best of the grid, temperature=0.13, to the end." in text
    assert "The least regret, 29.00 points, is that of halving=3 rungs=1" in text
    assert "Yes: the best by halving, temperature=0.1, is the best of the grid of 3" in words(
        sweep("model=resnet18", curves=late[:3]), [HALVING]
    )


def words(runs: Sequence[Run], halvings: Sequence[Halving]) -> str:
    return "\n".join(line for block in look(runs, halvings).blocks for line in block.lines)


def test_seeds_say_whether_regret_is_chance(sweep: Callable[..., list[Run]]) -> None:
    curves = [nine(50, 60, 61), nine(40, 50, 61.5)]
    runs = [
        run
        for seed, shift in enumerate((0, 3, -3))
        for run in sweep(curves=[[s + shift * (1 - 2 * i) for s in one] for i, one in enumerate(curves)], seed=seed)
    ]
    text = words(runs, [HALVING])
    assert "3 seeds each" in text and "is 0.50 points below it" in text and "Seeds do not tell the two apart." in text
    clear = [
        run
        for seed, shift in enumerate((0, 0.1, -0.2))
        for run in sweep("model=resnet18", curves=[nine(50, 60, 61), nine(40, 50, 70 + shift)], seed=seed)
    ]
    assert "Seeds tell the two apart." in words(clear, [HALVING])


def test_what_is_left_out_is_said(
    sweep: Callable[..., list[Run]], tmp_path: Path, base: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = sweep()
    cfg = base("data=digits", "model=small", "epochs=9")
    write_run(tmp_path / "runs", point(cfg, {"temperature": 0.5}), epochs=4)
    write_paused(tmp_path / "runs", point(cfg, {"temperature": 0.6}), 3)
    failed = write_run(tmp_path / "runs", point(cfg, {"temperature": 0.7}), epochs=2, error="no")
    write_curve(failed, {1: 99.0, 2: 99.0}, 2)
    without = write_run(tmp_path / "runs", point(cfg, {"temperature": 0.8}))
    write_curve(without, {}, 9)
    damaged = write_run(tmp_path / "runs", point(cfg, {"temperature": 0.9}))
    (damaged / "config.json").write_text("{")
    out, err = told(capsys, tmp_path, "--halving", "3", "--rungs", "2")
    lines = err.splitlines()
    assert len(lines) == 5 and all(
        line.startswith(("left out", "paused points", "1 of 10 runs failed")) for line in lines
    )
    assert f"left out, as metrics.jsonl lacks kNN of the last epoch: {Run(without).id}" in lines
    assert {"left out: 1 pending, 1 paused", "left out: 1 paused, 1 pending"} & {
        line.partition(" (python")[0] for line in lines
    }
    assert "10 configurations" in out and "failed" in next(
        x for x in out.splitlines() if x.startswith("temperature=0.7")
    )
    assert runs and "Yes" not in out


def test_evaluations_that_are_not_at_a_rung_are_named(
    sweep: Callable[..., list[Run]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runs = sweep(every=2)
    text = words(runs, [HALVING])
    assert (
        "9 of 9 configurations lack kNN at a rung (eval_every), and their next one stands in: epoch 2 for 1, epoch 4 for 3."
        in text
    )
    (made,), _ = grids(runs)
    board = made.board(HALVING)
    assert all(board[run.folder.name] == [run.metrics()[1][KNN.top1], run.metrics()[3][KNN.top1]] for run in runs)
    seldom = sweep("model=resnet18", every=9)
    with pytest.raises(
        UserError, match=r"9 of 9 configurations have no kNN between a rung and the last epoch"
    ) as caught:
        look(seldom, [HALVING])
    assert "\n" not in str(caught.value)
    chosen, said = possible(made, [HALVING, Halving(3, 3)])
    assert chosen == [HALVING] and said == [
        "epochs=9 leaves no epoch before a rung, so there is no replay of halving=3 rungs=3"
    ]


def test_other_images_and_other_numbers_of_epochs(sweep: Callable[..., list[Run]], tmp_path: Path) -> None:
    both = [*sweep(curves=[nine(*one) for one in NINE[:4]]), *sweep("data.validation=0.2", curves=[nine(*NINE[0])] * 2)]
    found, notes = grids(both)
    assert [len(made.points) for made in found] == [4, 2] and not notes
    assert [made.where for made in found] == ["digits", "digits, held-out training images"]
    found, notes = grids(both[:5])
    assert len(found) == 1 and len(notes) == 1 and "nothing else has finished on digits, held-out" in notes[0]
    mixed = [*sweep("model=resnet18"), *sweep("model=resnet18", curves=[list(range(1, 19))] * 2)]
    shown = look(mixed, [HALVING])
    text = "\n".join(line for block in shown.blocks for line in block.lines)
    assert shown.rows[0]["at epoch"] == "1/9, 1/3" and "rungs are shares of each one's own" in text
    assert shown.rows[0]["epochs"] == 9 * 1 + 2 * 2 + 3 * 2 + 6  # the two longer ones rank last
    (made,), _ = grids(mixed)
    assert [one.epoch for one in agreements(made, [HALVING])] == ["1/9", "1/3"]
    assert all(len(column.cells) == 11 for column in shown.blocks[3].columns)


def test_nothing_to_compare_is_one_line(
    sweep: Callable[..., list[Run]], tmp_path: Path, base: Callable[..., Config]
) -> None:
    runs = sweep()
    with pytest.raises(UserError, match=r"there are no two that have finished \(1 done\): name a sweep over more$"):
        grids(runs[:1])
    paused = write_paused(tmp_path / "other", base("data=digits", "epochs=9", "seed=1"), 3)
    with pytest.raises(UserError, match=r"\(1 done, 1 paused\).*, or train the paused points on"):
        grids([runs[0], Run(paused)])
    unfinished = write_run(tmp_path / "other", base("data=digits", "epochs=9"), epochs=4)
    with pytest.raises(UserError, match=r"none of these runs has finished with a kNN \(1 pending\)"):
        grids([Run(unfinished)])


def test_a_score_that_is_not_a_number_counts_as_a_failure(sweep: Callable[..., list[Run]]) -> None:
    runs = sweep(curves=[[math.nan, *nine(*NINE[0])[1:]], nine(*NINE[1]), nine(*NINE[2])])
    (made,), notes = grids(runs)
    assert notes == ["1 of 3 runs failed: their configurations count as last"] and made.best.label == "temperature=0.11"


def test_tables_fit_a_terminal(sweep: Callable[..., list[Run]], capsys: pytest.CaptureFixture[str]) -> None:
    blocks = look(sweep(), [HALVING]).blocks
    show(blocks, Console(width=60))
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if not line or line[-1] not in ".:"]
    assert max(map(len, tables)) <= 60 and "Not shown in 60 columns: epochs, time" in lines
    assert any(line.split() == ["trained"] for line in lines)  # above "to": heads of several words are stacked
    assert any(line.split() == "configuration epoch 1 epoch 3 epoch 9 to".split() for line in lines)


def test_it_loads_no_torch(sweep: Callable[..., list[Run]], tmp_path: Path) -> None:
    sweep()
    answer = python("-X", "importtime", "-m", "moco", "replay", cwd=tmp_path, PYTHONPATH=str(ROOT))
    loaded = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert answer.returncode == 0 and "Spearman" in answer.stdout, answer.stderr
    assert "scipy.stats" in loaded and not loaded & {"torch", "torchvision", "wandb", "pandas", "hydra"}


def test_many_configurations_take_fewer_orders() -> None:
    made = grid([[curve([i % 17, i % 19, i % 23, i])] for i in range(300)])
    one: Replay = replay(made, Halving(2, 1))
    assert len(one.orders) == 22 and one.waiting.finished == 150
    assert {*itertools.chain(*(order.passed for order in one.orders))} == {*one.waiting.passed}
