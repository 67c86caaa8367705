"""Who goes on in a halved sweep, read off the folders of its runs; and what is started, promoted and told of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from folders import write_paused, write_run, write_sweep

from moco.config.schema import Config
from moco.errors import UserError
from moco.launch import budget, local, plan
from moco.launch.halving import Halving, Race, Rungs
from moco.launch.job import Task
from moco.launch.local import LocalLauncher
from moco.launch.options import LocalOptions
from moco.runs.identity import folder_name
from moco.runs.run import Run
from moco.runs.state import State
from moco.runs.sweep import Sweep

Tiny = Callable[..., Config]
HALVING = Halving(3, 1)  # one rung, at epoch 3 of 9


@pytest.fixture
def at(tmp_path: Path, tiny: Tiny) -> Callable[..., Task]:
    """at(0.1, seed=1, knn=50.0) -> a task that is paused at the rung with this score; without one it has not begun."""

    def made(temperature: float, seed: int = 0, knn: float | None = None, *words: str) -> Task:
        config = tiny("moco", "epochs=9", f"temperature={temperature}", f"seed={seed}", *words)
        if knn is not None:
            write_paused(tmp_path, config, 3, knn)
        return Task(Run(tmp_path / folder_name(config)), config, (), f"{temperature}", halving=HALVING)

    return made


def sweep_of(tmp_path: Path, tasks: Sequence[Task]) -> Sweep:
    write_sweep(tmp_path, "s", [task.run.folder for task in tasks])
    return Sweep(tmp_path, "s")


def names(tasks: Sequence[Task]) -> set[str]:
    return {task.label for task in tasks}


def test_one_of_three_goes_on_and_each_is_told_why(at: Callable[..., Task]) -> None:
    tasks = [at(0.1, knn=50.0), at(0.2, knn=60.0), at(0.3, knn=55.0)]
    race = Race([task.run for task in tasks], HALVING)
    verdicts = [race.verdict(task.run) for task in tasks]
    assert [(v.goes_on, v.reached) for v in verdicts] == [(False, 1), (True, 1), (False, 1)]
    assert [v.why for v in verdicts] == [f"rank {i} of the 3 that are here, of 3" for i in (3, 1, 2)]
    assert all(task.run.state() == State.PAUSED for task in tasks)
    assert [task.value() for task in tasks] == [50.0, 60.0, 55.0]  # what a sweeper gets of a paused point


def test_seeds_are_ranked_by_their_mean_and_go_on_together(at: Callable[..., Task]) -> None:
    """The luckiest seed of all is of a configuration that is second on average."""
    lucky, steady, weak = ([at(t, i, knn) for i, knn in enumerate(scores)] for t, scores in SEEDS.items())
    everyone = [*lucky, *steady, *weak]
    race = Race([task.run for task in everyone], HALVING)
    assert [race.verdict(task.run).goes_on for task in everyone] == [False] * 3 + [True] * 3 + [False] * 3


SEEDS = {0.1: (70.0, 50.0, 50.0), 0.2: (60.0, 58.0, 59.0), 0.3: (20.0, 20.0, 20.0)}


def test_a_configuration_waits_for_its_last_seed(at: Callable[..., Task]) -> None:
    here, there = at(0.1, 0, 90.0), at(0.1, 1)
    others = [at(t, seed, 10 / t) for t in (0.2, 0.3) for seed in (0, 1)]
    there.freeze()
    race = Race([task.run for task in (here, there, *others)], HALVING)
    assert race.verdict(here.run).why == "waits for its other seeds: 1 of 2 are here"
    assert not race.verdict(here.run).goes_on and race.verdict(there.run).goes_on
    gone = Race([task.run for task in (here, there, *others)], HALVING, gone=[there.run.folder])
    assert gone.verdict(others[0].run).goes_on  # who has ended short of the rung counts as last


def test_failures_count_as_last_and_what_cannot_be_read_holds_nobody_up(
    tmp_path: Path, tiny: Tiny, at: Callable[..., Task]
) -> None:
    failed, first, second = at(0.1, 0, 90.0), at(0.2, 0, 20.0), at(0.3, 0, 10.0)
    failed.run.fail(UserError("the loss became infinite"))
    broken = at(0.4, 0, 99.0)
    (broken.run.folder / "config.json").write_text("{")
    nothing = Run(tmp_path / "moco-small-digits-removed")
    race = Race([*(task.run for task in (failed, first, second, broken)), nothing], HALVING)
    assert [race.verdict(task.run).goes_on for task in (failed, first, second)] == [False, True, False]
    assert race.verdict(failed.run).why == "a seed of its configuration has failed"
    not_a_number = at(0.5, 0, float("nan"))
    race = Race([task.run for task in (not_a_number, first, second)], HALVING)
    assert [race.verdict(task.run).goes_on for task in (not_a_number, first, second)] == [False, True, False]


def test_points_are_ranked_among_those_of_their_own_images(at: Callable[..., Task]) -> None:
    test_set = [at(t, 0, 90.0 + i) for i, t in enumerate((0.1, 0.2, 0.3))]
    held_out = [at(t, 0, 50.0 + i, "data.validation=0.5") for i, t in enumerate((0.1, 0.2, 0.3))]
    race = Race([task.run for task in (*test_set, *held_out)], HALVING)
    assert [race.verdict(task.run).goes_on for task in (*test_set, *held_out)] == [False, False, True] * 2


def test_a_plan_takes_up_the_best_of_the_paused_first_and_keeps_seeds_together(
    tmp_path: Path, tiny: Tiny, at: Callable[..., Task]
) -> None:
    paused = [at(0.1, knn=50.0), at(0.2, knn=60.0), at(0.3, knn=55.0)]
    fresh = [at(t, seed) for seed in (0, 1) for t in (0.4, 0.5)]
    tasks = [*fresh, *paused]
    sweep = sweep_of(tmp_path, tasks)
    start, waiting, left, *_ = plan.plan(tasks, False, sweep)
    assert (start[0].label, start[0].passed) == ("0.2", 1) and not waiting and names(left) == {"0.1", "0.3"}
    assert [task.passed for task in start[1:]] == [0] * 4
    assert start[1].label == start[2].label != start[3].label == start[4].label
    to_the_end = budget.halved(tasks, HALVING, resume_paused=True)
    start, _, left, *_ = plan.plan(to_the_end, False, sweep)
    assert len(start) == 7 and not left
    assert {task.label: task.halving for task in start} == {
        **dict.fromkeys(("0.1", "0.2", "0.3"), None),
        **dict.fromkeys(("0.4", "0.5"), HALVING),
    }
    again = plan.plan(tasks, True, sweep)
    assert len(again.start) == 7 and not again.paused  # rerun=true does all again


def test_a_free_slot_takes_up_the_best_of_the_paused_while_others_run(
    tmp_path: Path, at: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of six to arrive goes on by itself, so the job that ended before it came knew of five."""
    paused = [at(temperature, knn=knn) for temperature, knn in ((0.1, 50.0), (0.2, 60.0), (0.3, 55.0), (0.4, 54.0))]
    running = [at(0.5, knn=70.0), at(0.6)]
    launcher = LocalLauncher(LocalOptions(devices="cpu", jobs_per_device=2), sweep_of(tmp_path, [*paused, *running]))
    launcher.begin([], [], paused)
    launcher.tasks, launcher.running = running, [object(), object()]  # type: ignore[list-item]
    launcher.free.clear()
    assert not launcher._has_more()  # no slot is free, so what is decided later is decided by more
    del launcher.running[1:]
    launcher.free.append(launcher.slots[0])
    assert not launcher._has_more() and names(launcher.paused) == {"0.1", "0.2", "0.3", "0.4"}
    write_paused(tmp_path, running[1].config, 3, 40.0)  # the sixth
    assert not launcher._has_more()  # it has just looked
    monkeypatch.setattr(local, "RANK_EVERY", 0)
    assert launcher._has_more() and names(launcher.pending) == {"0.2"}
    launcher.free.append(launcher.slots[1])
    assert launcher._has_more() and len(launcher.pending) == 1  # those go first


def test_a_paused_point_that_another_launcher_has_taken_up_is_not_taken_up_twice(
    tmp_path: Path, at: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in another process counts, also while that alone is waited for."""
    paused = [at(temperature, knn=knn) for temperature, knn in ((0.1, 50.0), (0.2, 60.0), (0.3, 55.0))]
    elsewhere = at(0.4)
    launcher = LocalLauncher(LocalOptions(devices="cpu", jobs_per_device=2), sweep_of(tmp_path, [*paused, elsewhere]))
    launcher.begin([], [elsewhere], paused)
    monkeypatch.setattr(local, "RANK_EVERY", 0)
    states = {paused[1].run.folder: State.RUNNING}
    real = Task.state
    monkeypatch.setattr(Task, "state", lambda task: states.get(task.run.folder) or real(task))
    assert launcher._has_more() and names(launcher.waiting) == {"0.4", "0.2"}
    assert not launcher.pending and names(launcher.paused) == {"0.1", "0.3"}
    launcher.waiting.clear()
    states[paused[2].run.folder] = State.DONE
    assert launcher.finish()[paused[2].run.folder] == State.DONE


def test_a_job_asks_at_the_rungs_that_are_not_decided_yet(tmp_path: Path, at: Callable[..., Task]) -> None:
    tasks = [at(0.1, knn=50.0), at(0.2, knn=60.0), at(0.3, knn=55.0)]
    sweep = sweep_of(tmp_path, tasks)
    first, second = (Rungs(task.run, sweep, HALVING, 9) for task in tasks[:2])
    assert first.epochs == [3] and first.pause(2) is None
    assert first.pause(3) == "paused at epoch 3, rung 1 of 1: rank 3 of the 3 that are here, of 3"
    assert second.pause(3) is None
    assert Rungs(tasks[0].run, sweep, HALVING, 9, passed=1).pause(3) is None


def test_what_nobody_asks_for_any_more_is_not_waited_for(tmp_path: Path, at: Callable[..., Task]) -> None:
    """A third seed and a fourth temperature that a later launch leaves out: whether they failed or never began."""
    tasks = [at(t, seed, 60 - 10 * t) for t in (0.1, 0.2, 0.3) for seed in (0, 1)]
    dropped = [*(at(t, 2) for t in (0.1, 0.2, 0.3)), at(0.4)]
    for task in dropped:
        task.freeze()
    dropped[0].run.fail(UserError("the loss became infinite"))
    everyone, best = [*tasks, *dropped], tasks[0].run
    sweep = sweep_of(tmp_path, everyone)
    assert not budget.promoted(tasks, sweep, everyone)
    start, _, left, _, left_out = plan.plan(tasks, False, sweep)
    assert [task.label for task in start] == ["0.1", "0.1"] and names(left) == {"0.2", "0.3"}
    assert {*left_out} == {task.run.folder.name for task in dropped}
    assert Rungs(best, sweep, HALVING, 9).pause(3)
    sweep.record([task.run.folder.name for task in tasks], left_out)
    assert Rungs(best, sweep, HALVING, 9).pause(3) is None
    assert not plan.plan(everyone, False, sweep).left_out  # asked for again


def test_what_it_has_cost_and_will_cost(tmp_path: Path, tiny: Tiny, at: Callable[..., Task]) -> None:
    tasks = [at(0.1, knn=50.0), at(0.2, knn=60.0), at(0.3)]
    write_run(tmp_path, tiny("moco", "epochs=9", "temperature=0.4"))
    runs = [*(task.run for task in tasks), Run(tmp_path / folder_name(tiny("moco", "epochs=9", "temperature=0.4")))]
    tasks[2].freeze()
    assert str(budget.spent(runs)) == "15 of the grid's 36 epochs (42 %)"
    rungs, cost = budget.expected([*tasks, at(0.1, 0, None, "data.validation=0.5")], HALVING)
    assert rungs == "rungs at epoch 3 of 9: the best 1/3 go on, the others are paused"
    assert cost == "the sweep takes 24 to 24 epochs of the grid's 36 (67 % to 67 %)"  # each set of images has a best


def test_what_is_said_of_a_halving_that_can_be_done_all_the_same(at: Callable[..., Task]) -> None:
    tasks = [at(0.1), at(0.1, 0, None, "epochs=18"), at(0.1, 0, None, "data.validation=0.5")]
    by_test_set, epochs, images = budget.warnings(tasks)
    assert "kNN on the test set" in by_test_set and "data.validation=0.1" in by_test_set
    assert "epochs vary" in epochs and "its own data" in images
    assert budget.warnings(tasks[2:]) == []
