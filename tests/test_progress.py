"""The bar of a training in a real terminal, and the lines elsewhere."""

import re
from pathlib import Path

import pytest
from common import METHODS, TINY
from terminals import plain, terminal

from moco.progress import Progress, _fitting

BAR = """
from moco.progress import Progress
bar = Progress("training", 39000, 100)
bar.update(1234, epoch=7, kNN=48.33, best=50.125, loss=6.54321, **{"images/s": 1234.5})
bar.line("epoch 6/200  loss 6.6000")
bar.bar.refresh()
"""


@pytest.mark.parametrize(
    ("width", "numbers"),
    [
        (60, "epoch 7"),
        (76, "epoch 7  kNN 48.33"),  # room for longer times left, too
        (90, "epoch 7  kNN 48.33  best 50.12"),
        (200, "epoch 7  kNN 48.33  best 50.12  loss 6.543  images/s 1234"),
    ],
)
def test_the_first_numbers_have_room_beside_the_bar(width: int, numbers: str) -> None:
    seen = plain(terminal(["-c", BAR], width, 24))
    [*_, last] = [line for line in re.split(r"[\r\n]+", seen) if "1234/39000" in line]
    assert re.fullmatch(rf"training \S+ +1234/39000 \d+s left {re.escape(numbers)} *", last), seen
    assert max(map(len, re.split(r"[\r\n]+", seen))) <= width and "epoch 6/200  loss 6.6000" in seen


def test_no_number_is_cut() -> None:
    assert [_fitting(["kNN 48.33", "best 50"], room) for room in (8, 9, 17, 18)] == [
        "",
        *["kNN 48.33"] * 2,
        "kNN 48.33  best 50",
    ]


def test_elsewhere_there_are_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moco.progress.PLAIN_EVERY", 0.0)
    bar = Progress("training", 10)
    bar.update(5, epoch=1, kNN=48.33, best=50.125)
    bar.close()
    assert re.fullmatch(r"training  5/10  epoch 1  kNN 48.33  best 50.12  0s left\n", capsys.readouterr().err)


def test_a_training_tells_its_last_and_best_accuracy(tmp_path: Path) -> None:
    words = [*METHODS["moco"], *TINY, "epochs=3"]
    script = "import sys, moco.training.trainer as t; t.SHOW_EVERY = 0; from moco.entry import train; train()"
    seen = plain(terminal(["-c", script, *words], 120, 24, cwd=tmp_path))
    assert re.search(r"\d+s left epoch 3  kNN \d+(\.\d+)?  best \d+(\.\d+)?  loss", seen), seen
