"""Variables of W&B's: they count where the configuration says nothing, and nonsense is refused before anything starts."""

from pathlib import Path

import pytest
from common import METHODS, ROOT, TINY, checked, python

from moco.config.schema import Tracking
from moco.errors import UserError
from moco.tracking.environment import check_environment, effective
from moco.tracking.tracker import Tracker, open_tracker

WANDB = Tracking(name="wandb")


@pytest.mark.parametrize(
    ("environ", "key", "value"),
    [
        ({"WANDB_MODE": "online"}, "mode", "online"),
        ({"WANDB_MODE": "dryrun"}, "mode", "offline"),
        ({"WANDB_MODE": "disabled"}, "name", "none"),
        ({"WANDB_DISABLED": "true"}, "name", "none"),
        ({"WANDB_DISABLED": "false", "WANDB_MODE": "online"}, "mode", "online"),
        ({"WANDB_PROJECT": "theirs"}, "project", "theirs"),
        ({"WANDB_PROJECT": ""}, "project", "moco"),
        ({"WANDB_ENTITY": "team"}, "entity", "team"),
        ({"WANDB_RUN_GROUP": "g"}, "group", "g"),
        ({"WANDB_TAGS": "a, b,"}, "tags", ["a", "b"]),
    ],
)
def test_the_environment_speaks_where_the_configuration_says_nothing(
    environ: dict[str, str], key: str, value: object
) -> None:
    assert getattr(effective(WANDB, environ), key) == value
    typed = Tracking(name="wandb", mode="online", project="mine", entity="me", group="g0", tags=["t"])
    assert effective(typed, environ) == typed
    none = Tracking(name="none")
    assert effective(none, environ) == none


def test_what_is_typed_counts_also_where_it_says_what_would_be_so_anyway() -> None:
    untouched = checked("tracker=wandb").tracker
    default = effective(untouched, {})
    assert (default.mode, default.project, default.entity, default.tags) == ("offline", "moco", None, None)
    environ = {"WANDB_MODE": "online", "WANDB_PROJECT": "theirs", "WANDB_TAGS": "a"}
    assert effective(untouched, environ) == WANDB.model_copy(
        update={"mode": "online", "project": "theirs", "tags": ["a"]}
    )
    typed = checked("tracker=wandb", "tracker.mode=offline", "tracker.project=moco", "tracker.tags=[]").tracker
    assert effective(typed, {**environ, "WANDB_DISABLED": "true"}) == typed


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("WANDB_MODE", "sometimes", "WANDB_MODE=sometimes is not one of online, offline, disabled"),
        ("WANDB_DISABLED", "perhaps", "WANDB_DISABLED=perhaps is neither true nor false"),
        ("WANDB_PROJECT", "a/b", "tracker.project=a/b is refused by W&B"),
        ("WANDB_PROJECT", "x" * 129, "at most 128 characters"),
        ("WANDB_TAGS", "x" * 65, "a tag of 65 characters"),
        ("WANDB_RESUME", "perhaps", "WANDB_RESUME=perhaps is refused by wandb"),
        ("WANDB_SILENT", "nonsense", "WANDB_SILENT=nonsense is refused by wandb"),
    ],
)
def test_what_wandb_refuses_is_refused_before_a_sweep_starts(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError) as refused:
        check_environment(WANDB)
    assert said in str(refused.value) and len(str(refused.value).splitlines()) == 1
    check_environment(Tracking(name="none"))


def test_refused_for_all_points_in_one_line_and_nothing_written(tmp_path: Path) -> None:
    words = [*METHODS["simclr"], *TINY, "tracker=wandb", "seed=0,1"]
    answer = python(str(ROOT / "train.py"), "-m", *words, cwd=tmp_path, WANDB_SILENT="nonsense")
    assert answer.returncode == 1 and len(answer.stderr.splitlines()) == 1, answer.stderr
    assert answer.stderr.startswith("error: WANDB_SILENT=nonsense is refused by wandb")
    single = python(str(ROOT / "train.py"), *words[:-1], cwd=tmp_path, WANDB_RESUME="perhaps")
    assert single.returncode == 1 and single.stderr.startswith("error: WANDB_RESUME=perhaps"), single.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("tracker.project=a/b", "tracker.project=a/b is refused by W&B"),
        (f"tracker.project={'x' * 129}", "at most 128 characters"),
        (f"tracker.tags=[{'x' * 65}]", "a tag of 65 characters"),
        ("tracker.tags=['']", "a tag of 0 characters"),
    ],
)
def test_the_configuration_is_held_to_the_same(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        checked("tracker=wandb", word)


def test_a_tracker_that_the_environment_turns_off_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moco.runs.lease import BY_HAND
    from moco.runs.run import Run

    monkeypatch.setenv("WANDB_DISABLED", "true")
    tracker = open_tracker(WANDB, Run(tmp_path / "a-b-c"), checked("tracker=wandb"), "train", BY_HAND)
    assert type(tracker) is Tracker
