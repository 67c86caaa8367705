"""Tables in terminals of several widths: nothing runs over, no number is cut, what matters stays."""

import io
import random
from pathlib import Path

import pytest
from folders import write_paused
from rich.console import Console

from moco.analysis.selection import select
from moco.analysis.table import lines
from moco.analysis.table_view import drawn
from moco.runs.listing import all_runs
from moco.terminal import GAP, HYPHENS, Column, draw, fit

WIDTHS = (60, 80, 120, 160, 200)
IDS = Column("id", ["abcdefghij", "klmnopqrst"])
NUMBERS = Column("kNN", ["81.25", "9.50"], right=True)
SETTINGS = Column("settings", ["temperature=0.07 m=65536", "optimizer.weight_decay=0.0005"], words=True)
MINOR = Column("job", ["1234567", "1234568"], rank=2, minor=True)
USEFUL = Column("left", ["2h05m", ""], rank=1, right=True)


def shown(renderables, width: int) -> list[str]:
    """The lines that a terminal of that width shows, without colours."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(*renderables, sep="\n")
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_with_room_every_text_is_on_one_line() -> None:
    found = fit([IDS, MINOR, NUMBERS, USEFUL, SETTINGS], 80)
    assert found.widths == [10, 7, 5, 5, 29] and found.dropped == []


def test_columns_go_by_rank_and_minor_ones_before_settings_fold() -> None:
    columns = [IDS, MINOR, NUMBERS, USEFUL, SETTINGS]
    assert fit(columns, 63).dropped == ["job"]  # with it 64 columns would be needed
    for width in range(45, 55):
        found = fit(columns, width)
        assert sum(found.widths) + GAP * (len(found.widths) - 1) <= width or "left" in found.dropped
        assert found.dropped[0] == "job" and not {"id", "kNN", "settings"} & set(found.dropped)


def test_a_minor_column_stays_where_settings_fold_without_it_too() -> None:
    long = Column("settings", ["a=1 " * 30 + "b=2"], words=True)
    found = fit([Column("id", ["abcdefghij"]), Column("job", ["1234567"], rank=1, minor=True), long], 80)
    assert found.dropped == [] and found.widths == [10, 7, 80 - 10 - 7 - 2 * GAP]


def test_where_not_even_the_rest_has_room_words_give_way_and_numbers_do_not() -> None:
    table, note = draw([IDS, NUMBERS, SETTINGS], 36)
    assert note == ""
    text = shown([table], 36)
    assert all(len(line) <= 36 for line in text)
    for number in ("81.25", "9.50", "0.07", "65536", "0.0005"):
        assert any(number in line for line in text)


def test_heads_stand_in_several_lines_before_they_widen_a_column() -> None:
    columns = [Column("optimizer.weight_decay", ["0.0005"]), Column("Feature Dim", ["128"]), Column("Top-1", ["5"])]
    table, _ = draw(columns, 26)
    head = "".join(shown([table], 26)[:-1])
    assert all(part in head for part in ("optimizer.", "weight_", "decay", "Feature", "Dim", "Top-1"))
    assert fit(columns, 60).widths == [22, 11, 5]


def test_a_note_names_what_has_no_room() -> None:
    assert draw([IDS, MINOR, NUMBERS, SETTINGS], 50)[1] == "Not shown in 50 columns: job"


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_of_any_shape_fit_with_all_their_numbers(width: int) -> None:
    draws = random.Random(width)
    for _ in range(200):
        rows = draws.randint(1, 5)
        numbers = [
            Column(f"n{i}", [f"{draws.uniform(0, 10 ** draws.randint(0, 5)):.4f}" for _ in range(rows)], i, right=True)
            for i in range(draws.randint(1, 20))
        ]
        words = Column("words", [f"key={i} " * draws.randint(0, 9) for i in range(rows)], words=True)
        columns = draws.sample([*numbers, words], len(numbers) + 1)
        table, note = draw(columns, width)
        text = shown([table], width)
        assert all(len(line) <= width for line in text) and "…" not in "".join(text)
        found = {word for line in text for word in line.split()}
        kept = {column.name for column in fit(columns, width).columns}
        assert {"n0", "words"} <= kept
        assert all(set(column.cells) <= found for column in numbers if column.name in kept)
        assert all(column.name in kept or column.name in note for column in columns)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_result_table_fits_and_says_what_it_leaves_out(finish, tmp_path: Path, width: int) -> None:
    for seed in (0, 1):
        finish("recipe=simclr_leftthomas", f"seed={seed}", top1=88.0 + seed, linear=91.0 + seed)
    finish("recipe=moco_cifar", "m=65536", top1=80.0, linear=85.0)
    rows = select(lines(all_runs(tmp_path / "runs")))
    text = shown(drawn(rows, width), width)
    table, _, notes = "\n".join(text).partition("\n\n")
    assert all(len(line) <= width for line in text)
    for whole in ("88.50 ± 0.71 (n=2)", "80.00", "89.10", "65536", "moco", "simclr", "kNN, published"):
        assert whole in table
    said = " ".join(notes.split())
    for head in rows[0]:
        head = "id" if head == "path" else head
        parts = HYPHENS.get(head, head.replace(".", ". ").replace("-", "- ").replace("_", "_ ").split())
        in_table = head in table or all(part in table for part in parts)
        assert in_table or f"{head}=" in said or head in said.partition(f"Not shown in {width} columns: ")[2]
    assert width >= 160 or "Neighbours=200" in said.partition("The same in all rows: ")[2]


def test_a_wide_terminal_shows_all_of_the_table(finish, tmp_path: Path) -> None:
    folder = finish()
    rows = select(lines(all_runs(tmp_path / "runs")))
    text = shown(drawn(rows, 250), 250)
    assert len(text) == 1 + len(rows) and folder.name in text[-1] and text[0].split()[0] == "Protocol"


def test_an_empty_table_has_its_heads() -> None:
    assert shown(drawn([], 80), 80)[0].split() == ["Protocol", "Top-1", "Top-5", "path"]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_epoch_of_paused_rows_stays_beside_their_accuracy(finish, checked, tmp_path: Path, width: int) -> None:
    finish("recipe=moco_cifar", "epochs=90", top1=80.0, linear=85.0)
    write_paused(tmp_path / "runs", checked("recipe=moco_cifar", "epochs=90", "m=65536"), 30, 90.0)
    table = "\n".join(shown(drawn(select(lines(all_runs(tmp_path / "runs"), paused=True)), width), width))
    assert {"Epoch", "Top-1"} <= set(table.split()) and "90 of 90" in table and "30 of 90" in table
