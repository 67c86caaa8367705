"""The table from run folders written by hand."""

import csv
import io
import json
import re
import statistics
from pathlib import Path

import pytest
import yaml
from folders import write_run

from moco import tables
from moco.config import UserError
from moco.runs import Run, all_runs

FIXED = [
    "Protocol",
    "Method",
    "Model",
    "Data",
    "Params",
    "FLOPs",
    "Feature Dim",
    "m",
    "Momentum",
    "Batch",
    "Epochs",
    "tau",
    "K",
]


@pytest.fixture
def finish(checked, tmp_path: Path):
    """finish("seed=1", ..., top1=50.0, linear=60.0) -> the folder of a run that ended so."""

    return lambda *overrides, **scores: write_run(tmp_path / "runs", checked(*overrides), **scores)


@pytest.fixture
def rows(tmp_path: Path):
    return lambda: tables.table(all_runs(tmp_path / "runs"))


def one(value: float) -> dict:
    return {"mean": value, "std": None, "n": 1}


def test_a_run_is_a_row_with_the_seeds_columns(finish, rows):
    folder = finish("method=npid", top1=55.5)
    assert rows() == [
        {
            "Protocol": "kNN", "Method": "npid", "Model": "resnet18", "Data": "cifar10", "Params": "24.62 M",
            "FLOPs": "1.3 G", "Feature Dim": 128, "m": 4096, "Momentum": 0.5, "Batch": 128, "Epochs": 200, "tau": 0.1,
            "K": 200, "Top-1": one(55.5), "Top-5": one(95.5), "Best": one(56.5), "path": folder.name,
        }
    ]  # fmt: skip
    assert list(rows()[0]) == [*FIXED, "Top-1", "Top-5", "Best", "path"]


def test_linear_rows_follow_with_backbone_and_classifier(finish, rows):
    finish(top1=50.0, linear=61.0, linear_cached=60.0)
    found = rows()
    assert [row["Protocol"] for row in found] == ["kNN", "Linear", "Linear (cached)"]
    assert [row["Params"] for row in found] == ["24.62 M", "23.52 M", "23.52 M"]
    assert [row["Top-1"] for row in found] == [one(50.0), one(61.0), one(60.0)]
    assert [row["Best"] for row in found] == [one(51.0), None, None]


def test_seeds_fold_into_mean_deviation_and_count(finish, rows):
    values = [50.0, 53.0, 51.5]
    folders = [finish(f"seed={seed}", top1=value) for seed, value in enumerate(values)]
    finish("temperature=0.3", "seed=1", top1=9.0)
    folded = next(row for row in rows() if row["tau"] == 0.1)
    assert len(rows()) == 2 and "seed" not in folded
    assert folded["Top-1"] == {"mean": statistics.fmean(values), "std": pytest.approx(1.5), "n": 3}
    assert folded["Best"]["mean"] == pytest.approx(52.5)
    assert sorted(folded["path"].split()) == sorted(folder.name for folder in folders)
    assert tables.cell(folded["Top-1"]) == "51.50 ± 1.50 (n=3)"


def test_a_linear_row_counts_the_seeds_that_have_one(finish):
    bare, *probed = finish("seed=0"), finish("seed=1", linear=60.0), finish("seed=2", linear=62.0)
    [knn, linear] = tables.table([Run(folder) for folder in (bare, *probed)])
    assert knn["Top-1"]["n"] == 3 and linear["Top-1"]["n"] == 2 and linear["Top-1"]["mean"] == 61.0
    assert linear["Params"] == "23.52 M"  # although the first seed has no classifier
    assert sorted(linear["path"].split()) == sorted(folder.name for folder in probed)


def test_the_published_row_stands_beside_ours(finish, rows):
    finish("recipe=simclr_seed", top1=88.0, linear=91.0, linear_cached=90.0)
    found = rows()
    assert [row["Protocol"] for row in found] == [
        "kNN",
        "kNN, published",
        "Linear",
        "Linear, published",
        "Linear (cached)",
    ]
    assert (found[1]["Top-1"], found[1]["Top-5"], found[1]["path"]) == (one(89.1), one(99.6), "leftthomas/SimCLR")
    assert (found[3]["Top-1"], found[3]["Top-5"]) == (one(92.0), one(99.8))
    assert found[1]["Method"] is None and list(found[1]) == list(found[0])


def test_the_published_row_stands_once_beside_all_that_was_varied_around_its_recipe(finish, rows):
    finish("recipe=simclr_seed")
    finish("recipe=simclr_seed", "temperature=0.3")
    assert sorted(row["Protocol"] for row in rows()) == ["kNN", "kNN", "kNN, published"]


def test_a_published_row_without_top5_and_with_a_note(finish):
    # The same settings with and without the recipe's name: one configuration with two seeds.
    folders = finish("seed=0"), finish("recipe=moco_cifar", "seed=1")
    [ours, published] = tables.table([Run(folder) for folder in folders])
    assert ours["Top-1"]["n"] == 2 and published["Top-1"] == one(82.6) and published["Top-5"] is None
    assert published["path"].endswith("200 epochs (kNN on the 128-d output (knn_head/top1))")


def test_other_settings_get_a_column_where_they_vary(finish, rows):
    finish("augment.gray=0.1", "device=cpu")
    assert set(rows()[0]) == {*FIXED, "Top-1", "Top-5", "Best", "path"}
    finish("augment.gray=0.2", "optimizer.lr=0.03", "tracker=none", "data.root=/elsewhere")
    found = rows()
    assert set(found[0]) == {*FIXED, "augment.gray", "optimizer.lr", "Top-1", "Top-5", "Best", "path"}
    assert sorted((row["augment.gray"], row["optimizer.lr"]) for row in found) == [(0.1, 0.06), (0.2, 0.03)]


def test_another_choice_of_a_group_is_named_and_its_own_settings_are_not(finish, rows):
    finish()
    finish("optimizer=adam")
    finish("method=simclr", "batch_size=64")
    found = rows()
    assert set(found[0]) - {*FIXED, "Top-1", "Top-5", "Best", "path"} == {"augment.name", "optimizer.name"}
    assert {row["optimizer.name"] for row in found} == {"sgd", "adam"}
    assert next(row for row in found if row["Method"] == "simclr")["m"] is None


def test_the_methods_copies_of_root_keys_are_no_columns(finish, rows):
    finish("temperature=0.1")
    finish("temperature=0.2")
    assert set(rows()[0]) == {*FIXED, "Top-1", "Top-5", "Best", "path"}
    assert sorted(row["tau"] for row in rows()) == [0.1, 0.2]


# What lies beside finished runs


def test_what_is_not_finished_is_no_row(finish, rows, tmp_path: Path, capsys):
    (finish("seed=1") / "result.json").unlink()
    finish("seed=2", epochs=20)
    (tmp_path / "runs" / "sweeps" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "notes.txt").write_text("")
    finish("seed=3")
    [row] = rows()
    assert row["Top-1"]["n"] == 1 and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("config.yaml", "{unbalanced: [", "cannot be read"),
        ("config.yaml", "just words", "holds no configuration"),
        ("config.yaml", "method: moco\nseed: 1\n", "lacks method.name, model.name, data.name"),
        ("config.yaml", "\xff\xfe", "cannot be read"),
        ("config.yaml", "", "holds no configuration"),
        ("config.yaml", "- 1\n- 2\n", "holds no configuration"),
        ("config.yaml", "1: {2: 3}\n", "lacks method.name"),
        ("result.json", '{"knn/top1": 50.', "cannot be read"),
        ("result.json", "[]", "lacks a result"),
        ("result.json", "17", "lacks a result"),
        (
            "result.json",
            '{"knn/top1": "many", "knn/top5": NaN, "params": 1, "multiply_adds": 1}',
            "lacks knn/top1, knn/top5",
        ),
        ("result.json", '{"loss": 1}', "lacks knn/top1, params, multiply_adds"),
    ],
)
def test_a_damaged_or_foreign_folder_is_named_and_left_out(finish, rows, capsys, name: str, content: str, said: str):
    finish("seed=1", top1=60.0)
    (finish("seed=2") / name).write_bytes(content.encode("latin-1"))
    [row] = rows()
    assert row["Top-1"] == one(60.0)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: left out of the table: ") and said in line


def test_no_runs():
    assert tables.table([]) == []
    assert tables.render([], "markdown").splitlines() == [
        "| Protocol | Top-1 | Top-5 | path |",
        "| --- | --- | --- | --- |",
    ]
    assert tables.render([], "json") == "[]"


# Formats


@pytest.fixture
def shown(finish, rows):
    """Two seeds, a published row, and a data set's name that every format has to escape."""
    for seed in (0, 1):
        finish("recipe=simclr_seed", f"seed={seed}", top1=88.0 + seed)
    finish("data.name='a|b_c%&#^~$,\"d\"'")
    return rows()


def test_markdown(shown):
    lines = tables.render(shown, "markdown").splitlines()
    table = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert len(lines) == 5 and {len(cells) for cells in table} == {len(shown[0])}
    assert [cell.strip() for cell in table[0]] == list(shown[0]) and set(map(str.strip, table[1])) == {"---"}
    assert "88.50 ± 0.71 (n=2)" in lines[2] + lines[3] + lines[4] and "| 89.10 | 99.60 |" in "".join(lines)
    assert r"a\|b_c%&#^~$" in "".join(lines) and "None" not in "".join(lines)


def test_csv_reads_back(shown):
    table = list(csv.reader(io.StringIO(tables.render(shown, "csv"))))
    assert table == [list(shown[0]), *([tables.cell(value) for value in row.values()] for row in shown)]
    assert any('a|b_c%&#^~$,"d"' in row for row in table)


def test_json_reads_back(shown):
    assert json.loads(tables.render(shown, "json")) == shown


def test_latex_is_a_table_without_stray_characters(shown):
    text = tables.render(shown, "latex")
    lines = text.splitlines()
    width = len(shown[0])
    assert lines[0] == r"\begin{tabular}{" + "l" * width + "}" and lines[-1] == r"\end{tabular}"
    assert [lines[1], lines[3], lines[-2]] == [r"\toprule", r"\midrule", r"\bottomrule"]
    cells = [lines[2], *lines[4:-2]]
    assert len(cells) == 1 + len(shown) and r"$\tau$" in lines[2]
    for line in cells:
        assert line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == width - 1
        bare = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}|\$\\(pm|tau)\$|\\\\$|&", "", line)
        assert not re.search(r"[%$#_{}~^\\]", bare), bare
    assert r"a|b\_c\%\&\#\textasciicircum{}\textasciitilde{}\$" in text and r"88.50 $\pm$ 0.71 (n=2)" in text


def test_an_unknown_format_lists_the_known(shown):
    with pytest.raises(UserError, match="format html is unknown: give one of markdown, csv, latex, json"):
        tables.render(shown, "html")


def test_running_and_failed_folders_are_no_rows(checked, tmp_path: Path):
    run = Run(tmp_path / "runs" / "moco-x-y-abcdefghij")
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(yaml.safe_dump(checked()))
    with run.claim():
        assert tables.table([run]) == []
    run.fail(RuntimeError("no"))
    assert tables.table([run]) == []
