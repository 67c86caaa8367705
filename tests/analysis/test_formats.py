"""The table as text and as files, read back."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
from folders import write_paused

from moco.analysis.formats import KEYS, MARKS, cell, render, rewrite_block, write_parquet
from moco.analysis.selection import select
from moco.analysis.statistics import Score
from moco.analysis.table import lines
from moco.errors import UserError
from moco.runs.listing import all_runs


@pytest.fixture
def shown(finish, tmp_path: Path):
    """Two seeds, a published row, and a data set's name that every format has to escape."""
    for seed in (0, 1):
        finish("recipe=simclr_leftthomas", f"seed={seed}", top1=88.0 + seed)
    finish("data.name='a|b_c%&#^~$,\"d\"'")
    return select(lines(all_runs(tmp_path / "runs")))


def test_markdown(shown):
    text = render(shown, "markdown")
    table = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines()]
    assert len(table) == 5 and {len(cells) for cells in table} == {len(shown[0])}
    assert [head.strip() for head in table[0]] == list(shown[0]) and set(map(str.strip, table[1])) == {"---"}
    assert "88.50 ± 0.71 (n=2)" in text and "| 89.10 | 99.60 |" in text
    assert "| 24.62 M | 1.3 G |" in text and r"a\|b_c%&#^~$" in text and "None" not in text


def test_large_counts_have_units_for_people_and_none_for_programs(shown):
    assert (cell("Params", 24_615_616), cell("Multiply-adds", 1_298_923_520)) == ("24.62 M", "1.3 G")
    assert (cell("Negatives", 65536), cell("Params", None), cell("Temperature", 0.1)) == ("65536", "", "0.1")
    assert (
        cell("Top-1", Score(51.5, 1.5, 3)) == "51.50 ± 1.50 (n=3)" and cell("augment.crop", [0.2, 1.0]) == "[0.2, 1.0]"
    )
    assert "24.62 M" in render(shown, "latex")
    for form in ("csv", "json"):
        assert "24615616" in render(shown, form) and "1298923520" in render(shown, form)


def test_csv_reads_back(shown):
    table = list(csv.reader(io.StringIO(render(shown, "csv"))))
    assert table[0] == [KEYS.get(head, head) for head in shown[0]] and len(table) == 1 + len(shown)
    for row, read in zip(shown, table[1:]):
        for value, text in zip(row.values(), read):
            assert text == ("" if value is None else value.with_count() if isinstance(value, Score) else str(value))
    assert any('a|b_c%&#^~$,"d"' in row for row in table)


def test_json_reads_back(shown):
    apart = lambda value: dataclasses.asdict(value) if isinstance(value, Score) else value  # noqa: E731
    assert json.loads(render(shown, "json")) == [
        {KEYS.get(name, name): apart(value) for name, value in row.items()} for row in shown
    ]
    assert {"mean": 88.5, "std": pytest.approx(0.5**0.5), "n": 2} in [
        row["Top-1"] for row in json.loads(render(shown, "json"))
    ]


def test_latex_is_a_table_without_stray_characters(shown):
    text = render(shown, "latex")
    first, top, head, middle, *body, bottom, last = text.splitlines()
    width = len(shown[0])
    assert first == r"\begin{tabular}{" + "l" * width + "}" and last == r"\end{tabular}"
    assert [top, middle, bottom] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert len(body) == len(shown) and "Temperature" in head
    for line in [head, *body]:
        assert line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == width - 1
        bare = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}|\$\\pm\$|\\\\$|&", "", line)
        assert not re.search(r"[%$#_{}~^\\]", bare), bare
    assert r"a|b\_c\%\&\#\textasciicircum{}\textasciitilde{}\$" in text and r"88.50 $\pm$ 0.71 (n=2)" in text


def test_an_unknown_format_lists_the_known(shown):
    with pytest.raises(UserError, match="format html is unknown: give one of markdown, csv, latex, json"):
        render(shown, "html")


def test_parquet_reads_back(finish, tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    for seed in (0, 1):
        finish("recipe=simclr_leftthomas", f"seed={seed}", top1=88.0 + seed)
    finish("augment.crop=[0.5,1]", top1=30.0)
    write_parquet(select(lines(all_runs(tmp_path / "runs"))), tmp_path / "t.parquet")
    frame = pandas.read_parquet(tmp_path / "t.parquet").set_index(["Protocol", "temperature"])
    assert frame.loc[("kNN", 0.5), ["Top-1 mean", "Top-1 n"]].tolist() == [88.5, 2]
    assert frame.loc[("kNN", 0.5), "Top-1 std"] == pytest.approx(0.5**0.5)
    assert frame.loc[("kNN", 0.1), "Top-1 mean"] == 30.0 and pandas.isna(frame.loc[("kNN", 0.1), "Top-1 std"])
    assert frame["Params"].dropna().unique().tolist() == [24_615_616]
    assert "Top-1" not in frame.columns and frame["Top-1 mean"].max() == 89.1
    write_parquet([], tmp_path / "empty.parquet")
    assert len(pandas.read_parquet(tmp_path / "empty.parquet")) == 0


def test_scores_under_a_metrics_own_name_have_columns_of_their_own_in_parquet(finish, tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    for seed in range(2):
        finish(f"seed={seed}", top1=50.0 + seed, linear=60.0)
    rows = select(lines(all_runs(tmp_path / "runs")), columns=["Protocol", "knn/top1"])
    write_parquet(rows, tmp_path / "t.parquet")
    frame = pandas.read_parquet(tmp_path / "t.parquet")
    assert [*frame.columns] == ["Protocol", "knn/top1 mean", "knn/top1 std", "knn/top1 n"]
    assert frame["knn/top1 mean"][0] == 50.5


def test_an_empty_table():
    assert render([], "markdown").splitlines() == ["| Protocol | Top-1 | Top-5 | path |", "| --- | --- | --- | --- |"]
    assert render([], "json") == "[]"


def test_a_block_of_a_page_is_rewritten_and_a_page_without_one_is_refused(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"above\n{MARKS[0]}\nold\n{MARKS[1]}\nbelow\n")
    rewrite_block(page, "| new |")
    assert page.read_text() == f"above\n{MARKS[0]}\n| new |\n{MARKS[1]}\nbelow\n"
    page.write_text(f"{MARKS[0]} alone")
    with pytest.raises(UserError, match="has no <!-- table --> followed by <!-- /table -->: write both"):
        rewrite_block(page, "| new |")
    with pytest.raises(UserError, match="cannot be read"):
        rewrite_block(tmp_path / "absent.md", "| new |")
    page.write_bytes("Müller <!-- table --><!-- /table -->".encode("latin-1"))
    with pytest.raises(UserError, match="page.md is not UTF-8"):
        rewrite_block(page, "| new |")


@pytest.fixture
def halved(finish, checked, tmp_path: Path):
    """A finished row and a paused one, the epoch beside the epochs."""
    finish("epochs=90", "temperature=0.2", top1=50.0)
    write_paused(tmp_path / "runs", checked("epochs=90", "temperature=0.1"), 30, 40.0)
    return select(
        lines(all_runs(tmp_path / "runs"), paused=True), columns=["temperature", "Epochs", "Epoch", "Top-1", "Best"]
    )


def test_the_epoch_of_paused_rows_has_words_for_people_and_a_number_for_programs(halved, tmp_path: Path):
    assert render(halved, "markdown").splitlines()[2:] == [
        "| 0.2 | 90 | 90 of 90 | 50.00 | 51.00 |",
        "| 0.1 | 90 | 30 of 90 | 40.00 |  |",
    ]
    assert r"0.1 & 90 & 30 of 90 & 40.00 &  \\" in render(halved, "latex").splitlines()
    assert list(csv.reader(io.StringIO(render(halved, "csv"))))[1:] == [
        ["0.2", "90", "90", "50.00", "51.00"],
        ["0.1", "90", "30", "40.00", ""],
    ]
    read = json.loads(render(halved, "json"))
    assert [(row["Epoch"], row["Top-1"]["mean"], row["Best"] is None) for row in read] == [
        (90, 50.0, False),
        (30, 40.0, True),
    ]
    pandas = pytest.importorskip("pandas")
    write_parquet(halved, tmp_path / "t.parquet")
    frame = pandas.read_parquet(tmp_path / "t.parquet")
    assert frame["Epoch"].tolist() == [90, 30] and frame["Top-1 mean"].tolist() == [50.0, 40.0]
