"""Choosing rows and columns of the table."""

from collections.abc import Callable
from pathlib import Path

import pytest
from folders import write_paused

from moco.__main__ import main
from moco.analysis.selection import select
from moco.analysis.statistics import Score
from moco.analysis.table import Row, lines
from moco.errors import UserError
from moco.runs.listing import all_runs


@pytest.fixture
def grid(finish, tmp_path: Path) -> Callable[..., list[Row]]:
    """grid(where=..., sort=..., columns=...) -> the table of MoCo at two temperatures and two m, and SimCLR."""
    for i, (t, m) in enumerate([(0.1, 512), (0.1, 4096), (0.2, 512), (0.2, 4096)]):
        finish(f"temperature={t}", f"m={m}", top1=50.0 + i, linear=70.0 - i)
    finish("method=simclr", "batch_size=64", top1=40.0)
    found = lines(all_runs(tmp_path / "runs"))
    return lambda **options: select(found, **options)


def one(value: float) -> Score:
    return Score(value, None, 1)


def firsts(rows: list[Row], protocol: str = "kNN") -> list[float]:
    return [row["Top-1"].mean for row in rows if row["Protocol"] == protocol]


@pytest.mark.parametrize(
    "where, means",
    [
        ("m>=1024", [51, 53]),
        ("m < 1024 and temperature=0.1", [50]),
        ("temperature==0.10", [50, 51]),
        ("method=simclr", [40]),
        ("method.name!=simclr and Top-1>50", [51, 52, 53]),
        ("m=null", [40]),
        ("optimizer.lr<=0.06", [40, 50, 51, 52, 53]),
        ("Protocol=kNN and Best>=53.5", [53]),
        ("Multiply-adds>2e9", []),
        ("multiply-adds>1.2 G and multiply-adds<1.3G", [40, 50, 51, 52, 53]),
        ("Params>24M and m=512", [50, 52]),
        ("m=512 and temperature=0.1 or temperature=0.2 and m>=1024", [50, 53]),
        ("method=simclr or m=4096 and Protocol=kNN", [40, 51, 53]),
        ("", [40, 50, 51, 52, 53]),
    ],
)
def test_where_keeps_the_configurations_that_pass(grid, where: str, means: list[float]):
    assert sorted(firsts(grid(where=where))) == means


def test_sort(grid):
    assert firsts(grid(sort="Top-1", where="Protocol=kNN")) == [53, 52, 51, 50, 40]
    assert firsts(grid(sort="-top-1", where="Protocol=kNN")) == [40, 50, 51, 52, 53]
    assert firsts(grid(sort="m", where="Protocol=kNN and temperature=0.1")) == [50, 51]
    assert firsts(grid(sort="-m", where="Protocol=kNN and temperature=0.1")) == [51, 50]
    for sort in ("m", "-m"):  # SimCLR has no m: last either way
        assert grid(sort=sort)[-1]["Method"] == "simclr"
    assert [row["Method"] for row in grid(sort="Method")] == ["moco"] * 8 + ["simclr"]


def test_columns_in_the_order_asked_for_and_any_setting_among_them(grid):
    [row] = grid(
        columns=["Top-1", "temperature", "optimizer.weight_decay"],
        where="m=512 and temperature=0.2 and Protocol=Linear",
    )
    assert list(row.items()) == [("Top-1", one(68.0)), ("temperature", 0.2), ("optimizer.weight_decay", 0.0005)]


def test_a_column_has_the_tables_name_and_a_setting_the_name_that_was_typed(grid):
    rows = grid(
        columns=["top-1", "params", "method", "temperature"], where="m=512 and temperature=0.2 and Protocol=kNN"
    )
    assert rows == [{"Top-1": one(52.0), "Params": 24_615_616, "method": "moco", "temperature": 0.2}]


def test_rows_that_none_passes(grid):
    assert grid(where="m>1e9", sort="Top-1", columns=["temperature"]) == []


def test_values_are_taken_back_as_the_table_shows_them_and_as_they_are_typed(finish, tmp_path: Path):
    for words in (["method.symmetric=true"], [], ["augment.crop=[0.5,1]"]):
        finish(*words)
    found = lines(all_runs(tmp_path / "runs"))
    for where in ("method.symmetric=True", "method.symmetric=true", "augment.crop=[0.5,1]", "augment.crop=[0.5,1.0]"):
        assert len(select(found, where=where)) == 1
    assert len(select(found, where="method.symmetric!=True")) == 2


def test_equal_scores_on_two_data_sets_are_two_rows(finish, tmp_path: Path):
    finish("seed=0", top1=50.0, linear_cached=10.0, **{"cifar100/linear_cached": 10.0})
    rows = select(lines(all_runs(tmp_path / "runs")))
    assert [row["Protocol"] for row in rows] == ["kNN", "Linear (cached)", "Linear (cached)"]


def test_a_published_row_stays_below_ours_when_sorted(finish, tmp_path: Path):
    finish("recipe=simclr_leftthomas", top1=60.0)
    finish("recipe=simclr_leftthomas", "temperature=0.3", top1=95.0)
    rows = select(lines(all_runs(tmp_path / "runs")), sort="Top-1", columns=["Top-1", "temperature"])
    assert rows == [
        {"Top-1": one(95.0), "temperature": 0.3},
        {"Top-1": one(60.0), "temperature": 0.5},
        {"Top-1": one(89.1), "temperature": None},
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"where": "temprature>1"}, "there is no column temprature: did you mean temperature?"),
        ({"sort": "nothing.here"}, "there are Protocol, Method, Model, Data"),
        ({"columns": ["Top-1", "Top-9"]}, "there is no column Top-9: did you mean Top-"),
        ({"where": "m"}, "--where m is not a comparison: write one like m>=1024"),
        ({"where": "m>=512 and __import__('os')"}, "is not a comparison"),
        ({"where": "m=abc"}, "--where m=abc compares numbers with a word"),
        ({"where": "temperature=0.1 or"}, "temperature=0.1 or is not a comparison"),
        ({"where": "method>3 and m>moco"}, "m>moco compares words by size: use = or !="),
    ],
)
def test_what_is_unknown_is_one_line_with_the_known(grid, options: dict, message: str):
    with pytest.raises(UserError) as error:
        grid(**options)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


def test_the_command(grid, tmp_path: Path, capsys):
    words = [
        "table",
        "--runs-dir",
        str(tmp_path / "runs"),
        "--where",
        "Protocol=kNN and m>=512",
        "--columns",
        "m, temperature",
    ]
    assert main([*words, "--latex", "--sort", "-m"]) == 0
    assert capsys.readouterr().out.splitlines()[4:6] == [r"4096 & 0.1 \\", r"4096 & 0.2 \\"]
    assert main([*words, "--format", "csv", "--out", str(tmp_path / "t.csv")]) == 0
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == "m,temperature" and capsys.readouterr().out == ""
    for more in (["--format", "parquet"], ["--out", str(tmp_path / "no" / "t.md")], ["--where", "x=1"]):
        assert main([*words, *more]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")


def test_the_command_shows_paused_runs_when_asked(grid, checked, tmp_path: Path, capsys):
    write_paused(tmp_path / "runs", checked("temperature=0.3"), 20, 99.0)
    words = ["table", "--runs-dir", str(tmp_path / "runs"), "--format", "csv", "--columns", "temperature,Top-1"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "99.00" not in shown.out and shown.err == "1 of 6 runs is paused at a rung; --paused shows it\n"
    assert main([*words, "--paused", "--sort", "Top-1"]) == 0
    shown = capsys.readouterr()
    assert (
        shown.out.splitlines()[0] == "temperature,Top-1,Epoch"
    )  # which a value that is not final is not shown without
    assert shown.out.splitlines()[-1] == "0.3,99.00,20" and shown.err == ""
    assert main([*words[:-1], "temperature,knn/top1", "--paused", "--sort", "knn/top1"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "temperature,knn/top1,Epoch" and rows[0].startswith("0.2,53") and rows[-1].startswith("0.3,99")
    assert main([*words[:-1], "temperature", "--paused"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "temperature"
