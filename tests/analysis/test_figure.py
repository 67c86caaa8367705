"""The figure for a paper, in each of its formats."""

import re
from pathlib import Path

import pytest

from moco.__main__ import main

pytest.importorskip("matplotlib")
BEGINNINGS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.mark.parametrize("ending", BEGINNINGS)
def test_the_figure(places: dict[str, Path], tmp_path: Path, ending: str) -> None:
    for name in ("three", "grid"):
        out = tmp_path / f"{name}.{ending}"
        assert main(["plot", "--runs-dir", str(places[name]), "-o", str(out)]) == 0
        assert out.read_bytes().startswith(BEGINNINGS[ending])
    if ending == "svg":  # in the names of axes: of its panel and of the heat map
        assert (tmp_path / "grid.svg").read_text().count("<!-- temperature -->") == 2


def plotted(places: dict[str, Path], tmp_path: Path, *names: str) -> dict[str, str]:
    """The figures of these places as SVG."""
    texts = {}
    for name in names:
        out = tmp_path / f"{name}.svg"
        assert main(["plot", "--runs-dir", str(places[name]), "-o", str(out)]) == 0
        texts[name] = out.read_text()
    return texts


def test_seeds_have_a_band_and_the_legend_is_in_the_order_of_values(places: dict[str, Path], tmp_path: Path) -> None:
    texts = plotted(places, tmp_path, "grid", "three")
    assert texts["grid"].count('id="FillBetweenPolyCollection_') == 8 and "FillBetween" not in texts["three"]
    named = re.findall(r"<!-- temperature=0.1 m=(\d+) -->", texts["grid"])
    assert named == ["512", "4096", "32768"]


def test_a_random_search_of_a_thousand(places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "many.svg"
    assert main(["plot", "--runs-dir", str(places["many"]), "-o", str(out)]) == 0
    assert {f"<!-- {name} -->" for name in ("temperature", "optimizer.lr", "epoch")} <= set(
        line.strip() for line in out.read_text().splitlines()
    )


def test_paused_curves_are_marked_and_their_values_are_not_coloured(places: dict[str, Path], tmp_path: Path) -> None:
    texts = plotted(places, tmp_path, "grid", "halved")
    assert "<!-- paused here -->" in texts["halved"] and "paused" not in texts["grid"]
    assert texts["halved"].count("<!-- at epoch 10 -->") == 5 and texts["halved"].count("<!-- at epoch 30 -->") == 2
    assert "at epoch" not in texts["grid"]


def test_what_cannot_be_drawn_is_one_line(places: dict[str, Path], finish, tmp_path: Path, capsys) -> None:
    finish(epochs=3)
    for runs_dir, out, message in (
        (places["three"], "r.docx", "r.docx should end in one of ."),
        (places["three"], "no/such/folder/r.png", "no/such/folder/r.png cannot be written"),
        (tmp_path / "runs", "r.png", "none of these runs has been evaluated yet: there is nothing to plot"),
    ):
        assert main(["plot", "--runs-dir", str(runs_dir), "-o", str(tmp_path / out)]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line and not (tmp_path / out).exists()
