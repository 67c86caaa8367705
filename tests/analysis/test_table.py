"""The table from run folders written by hand."""

import csv
import io
import json
import re
import statistics
from pathlib import Path

import pytest
import yaml
from folders import write_sweep

from moco.__main__ import main
from moco.analysis import records as results
from moco.analysis import table as tables
from moco.errors import UserError
from moco.runs.run import Run, all_runs, flatten

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
def rows(tmp_path: Path):
    return lambda: tables.table(all_runs(tmp_path / "runs"))


def one(value: float) -> dict:
    return {"mean": value, "std": None, "n": 1}


def test_a_run_is_a_row_with_the_seeds_columns(finish, rows):
    folder = finish("method=npid", top1=55.5)
    assert rows() == [
        {
            "Protocol": "kNN",
            "Method": "npid",
            "Model": "resnet18",
            "Data": "cifar10",
            "Params": "24.62 M",
            "FLOPs": "1.3 G",
            "Feature Dim": 128,
            "m": 4096,
            "Momentum": 0.5,
            "Batch": 128,
            "Epochs": 200,
            "tau": 0.1,
            "K": 200,
            "Top-1": one(55.5),
            "Top-5": one(95.5),
            "Best": one(56.5),
            "path": folder.name,
        }
    ]
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


def test_seeds_that_were_probed_differently_are_pointed_out(finish, rows, capsys):
    for seed, epochs in ((0, 100), (1, 10)):
        path = finish(f"seed={seed}", linear=60.0 + seed) / "result.json"
        result = json.loads(path.read_text())
        result["probes"]["augmented"] |= {"epochs": epochs, "lr": 1e-3, "seed": seed}
        path.write_text(json.dumps(result))
    assert rows()[1]["Top-1"]["mean"] == 60.5
    [line] = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("warning: one row of Linear mixes probes: ") and "epochs=100" in line and "epochs=10 " in line
    )
    assert "lr=" not in line and "seed=" not in line


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


# Choosing rows and columns


@pytest.fixture
def grid(finish, tmp_path: Path):
    """grid(where=..., sort=..., columns=...) -> the table of MoCo at two temperatures and two m, and SimCLR."""
    for i, (t, m) in enumerate([(0.1, 512), (0.1, 4096), (0.2, 512), (0.2, 4096)]):
        finish(f"temperature={t}", f"m={m}", top1=50.0 + i, linear=70.0 - i)
    finish("method=simclr", "batch_size=64", top1=40.0)
    return lambda **options: tables.table(all_runs(tmp_path / "runs"), **options)


def firsts(rows: list[dict], protocol: str = "kNN") -> list[float]:
    return [row["Top-1"]["mean"] for row in rows if row["Protocol"] == protocol]


@pytest.mark.parametrize(
    "where, means",
    [
        ("m>=1024", [51, 53]),
        ("m < 1024 and tau=0.1", [50]),
        ("temperature==0.10", [50, 51]),
        ("method=simclr", [40]),
        ("method.name!=simclr and Top-1>50", [51, 52, 53]),
        ("m=null", [40]),
        ("optimizer.lr<=0.06", [40, 50, 51, 52, 53]),
        ("Protocol=kNN and Best>=53.5", [53]),
        ("FLOPs>2", []),
        ("", [40, 50, 51, 52, 53]),
    ],
)
def test_where_keeps_the_configurations_that_pass(grid, where: str, means: list[float]):
    assert sorted(firsts(grid(where=where))) == means


def test_sort(grid):
    assert firsts(grid(sort="Top-1", where="Protocol=kNN")) == [53, 52, 51, 50, 40]
    assert firsts(grid(sort="-top-1", where="Protocol=kNN")) == [40, 50, 51, 52, 53]
    assert firsts(grid(sort="m", where="Protocol=kNN and tau=0.1")) == [50, 51]
    assert firsts(grid(sort="-m", where="Protocol=kNN and tau=0.1")) == [51, 50]
    for sort in ("m", "-m"):  # SimCLR has no m: last either way
        assert grid(sort=sort)[-1]["Method"] == "simclr"
    assert [row["Method"] for row in grid(sort="Method")] == ["moco"] * 8 + ["simclr"]


def test_columns_in_the_order_asked_for_and_any_setting_among_them(grid):
    [row] = grid(columns=["Top-1", "tau", "optimizer.weight_decay"], where="m=512 and tau=0.2 and Protocol=Linear")
    assert list(row.items()) == [("Top-1", one(68.0)), ("tau", 0.2), ("optimizer.weight_decay", 0.0005)]


def test_a_published_row_stays_below_ours_when_sorted(finish, tmp_path: Path):
    finish("recipe=simclr_seed", top1=60.0)
    finish("recipe=simclr_seed", "temperature=0.3", top1=95.0)
    rows = tables.table(all_runs(tmp_path / "runs"), sort="Top-1", columns=["Top-1", "tau"])
    assert rows == [
        {"Top-1": one(95.0), "tau": 0.3},
        {"Top-1": one(89.1), "tau": None},
        {"Top-1": one(60.0), "tau": 0.5},
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"where": "temprature>1"}, "there is no column temprature: did you mean temperature?"),
        ({"sort": "nothing.here"}, "there are Protocol, Method, Model, Data"),
        ({"columns": ["Top-1", "Top-9"]}, "there is no column Top-9: did you mean Top-"),
        ({"where": "m"}, "--where m is no comparison: write one like m>=1024"),
        ({"where": "m>=512 and __import__('os')"}, "is no comparison"),
        ({"where": "method>3 and m>moco"}, "m>moco compares words by size: use = or !="),
    ],
)
def test_what_is_unknown_is_one_line_with_the_known(grid, options: dict, message: str):
    with pytest.raises(UserError) as error:
        grid(**options)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


def test_parquet_reads_back(finish, tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    for seed in (0, 1):
        finish("recipe=simclr_seed", f"seed={seed}", top1=88.0 + seed)
    finish("augment.crop=[0.5,1]", top1=30.0)
    tables.write_parquet(tables.table(all_runs(tmp_path / "runs")), tmp_path / "t.parquet")
    frame = pandas.read_parquet(tmp_path / "t.parquet").set_index(["Protocol", "tau"])
    assert frame.loc[("kNN", 0.5), ["Top-1 mean", "Top-1 n"]].tolist() == [88.5, 2]
    assert frame.loc[("kNN", 0.5), "Top-1 std"] == pytest.approx(0.5**0.5)
    assert frame.loc[("kNN", 0.1), "Top-1 mean"] == 30.0 and pandas.isna(frame.loc[("kNN", 0.1), "Top-1 std"])
    assert "Top-1" not in frame.columns and frame["Top-1 mean"].max() == 89.1
    tables.write_parquet([], tmp_path / "empty.parquet")
    assert len(pandas.read_parquet(tmp_path / "empty.parquet")) == 0


def test_the_command(grid, tmp_path: Path, capsys):
    words = ["table", "--runs-dir", str(tmp_path / "runs"), "--where", "Protocol=kNN and m>=512", "--columns", "m, tau"]
    assert main([*words, "--latex", "--sort", "-m"]) == 0
    assert capsys.readouterr().out.splitlines()[4:6] == [r"4096 & 0.1 \\", r"4096 & 0.2 \\"]
    assert main([*words, "--format", "csv", "--out", str(tmp_path / "t.csv")]) == 0
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == "m,tau" and capsys.readouterr().out == ""
    for more in (["--format", "parquet"], ["--out", str(tmp_path / "no" / "t.md")], ["--where", "x=1"]):
        assert main([*words, *more]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")


def test_what_varies_and_what_follows_from_a_name():
    def flat(method: str, t: float, **more: float) -> dict:
        return {"method.name": method, "momentum": {"moco": 0.99, "npid": 0.5}[method], "temperature": t, **more}

    flats = [flat(method, t) for method in ("moco", "npid") for t in (0.1, 0.2)]
    assert results.varying(flats) == ["method.name", "momentum", "temperature"]
    assert results.swept(flats) == ["method.name", "temperature"]
    assert results.swept([flat("moco", 0.1, m=1), flat("moco", 0.1, m=2)]) == ["m"]
    search = [flat("moco", t, m=m) for t, m in ((0.1, 1), (0.2, 2), (0.3, 3))]
    assert results.swept(search) == ["temperature", "m"]  # a number fixes no other setting
    names = [{"optimizer.name": o, "schedule.name": s} for o, s in (("sgd", "cosine"), ("adam", "step"))]
    assert results.swept(names) == ["optimizer.name"]


# For other tools


def test_load_is_a_row_a_run_in_whatever_state(finish, checked, tmp_path: Path):
    pytest.importorskip("pandas")
    done = finish("seed=0", "temperature=0.2", top1=55.0, linear=66.0, seconds=100.0)
    half = finish("seed=1", epochs=7)
    failed = finish("seed=2", epochs=1, error="RuntimeError: no")
    damaged = finish("seed=3")
    (damaged / "config.yaml").write_text("{")
    write_sweep(tmp_path / "runs", "first", [done, half, tmp_path / "runs" / "moco-x-y-absentabse"])
    write_sweep(tmp_path / "runs", "second", [done])
    frame = results.load(tmp_path / "runs").set_index("id")
    row = frame.loc[done.name.rpartition("-")[2]]
    assert (row["state"], row["sweeps"], row["temperature"], row["method.name"]) == (
        "done",
        ["first", "second"],
        0.2,
        "moco",
    )
    assert (row["knn/top1"], row["linear/top1"], row["seconds"]) == (55.0, 66.0, 100.0)
    assert row["images_per_second"] == 390 * 200 * 512 / 100.0 and row["folder"] == str(done)
    row = frame.loc[half.name.rpartition("-")[2]]
    lines = [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines()]
    assert row["train/loss"] == lines[-1]["train/loss"] and row["knn/top1"] == lines[4]["knn/top1"]
    assert frame.loc[failed.name.rpartition("-")[2], "state"] == "failed"
    row = frame.loc[damaged.name.rpartition("-")[2]]
    assert row["state"] == "damaged" and "cannot be read" in row["problem"]
    assert results.load(tmp_path / "runs", ["first"])["state"].tolist() == ["done", "pending", "missing"]
    with pytest.raises(UserError, match="there is no run third"):
        results.load(tmp_path / "runs", ["third"])


# Reading many configurations


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb:\n  c: x\n  d:\n  - 0.2\n  - 1.0\n",
        "a:\n- 1\nb: {c: 1,\n d: 2}\n",
        "a: &x 1\nb: *x\n",
        "a:\n  b: |\n    hi\n    c: 3\n  d: >\n   folded\n\n   more\n",
        "a:\n  words in\n  a row\nb: 1\n",
        "a: 1\na: 2\n",
        "# first\na: 1 # one\n# d\nb:\n  # e\n  c: 1\n",
        "a:\n  1: 2\n  b: 3\n",
        "yes: no\n",
        "a: 1\n? b\n: c\n",
        "",
        'a:\n  b: "q\n\n    r"\n',
        "a:\r\n  b: 1\r\n",
        "- 1\n- 2\n",
        "words\n",
        "a: 0.05\nb:\n  c: -1.50\n  d: 1.5e3\n",
        "a: 010.5\nb: 1_0.5\nc: .5\nd: 0.1 # x\n",
        "%YAML 1.1\n---\na: 1\n",
    ],
)
def test_a_configuration_read_by_sections_is_the_one_read_whole(text: str, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(text)
    whole = yaml.safe_load(text)
    for _ in range(2):  # the second time out of memory
        if isinstance(whole, dict):
            assert repr(Run(tmp_path).config) == repr(whole)
            config = Run(tmp_path).flat_config
            assert repr(config) == repr(flatten(whole))
            config.clear()
        else:
            with pytest.raises(UserError, match="holds no configuration"):
                _ = Run(tmp_path).flat_config


@pytest.mark.parametrize(
    "text", ["a: 1\n---\nb: 2\n", "a: 1\nb\n", 'a: "x\nb: y"\nc', "a:\n  b: 1\n c: 2\n", "x: y: z\n"]
)
def test_what_is_no_yaml_as_a_whole_is_none_by_sections(text: str, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(text)
    with pytest.raises(UserError, match="cannot be read"):
        _ = Run(tmp_path).flat_config


def test_status_shows_what_other_readers_wrote(finish, tmp_path: Path, capsys):
    finish("seed=0")
    for i, (name, content) in enumerate(
        [
            ("claim.json", "[1]"),
            ("claim.json", '{"machine": 3}'),
            ("job.json", "17"),
            ("metrics.jsonl", "7\nnull\n{"),
            ("metrics.jsonl", "\xff\x00"),
            ("config.yaml", "\xff"),
            ("result.json", ""),
            ("error.txt", "\xff"),
        ]
    ):
        folder = finish(f"seed={i + 1}", epochs=3)
        (folder / name).write_bytes(content.encode("latin-1"))
    assert main(["status", "--runs-dir", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert (
        all(folder.name.rpartition("-")[2] in out for folder in (tmp_path / "runs").iterdir())
        and "cannot be read" in out
    )
