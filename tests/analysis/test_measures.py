"""How measures without labels rank runs, and where they are shown."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from common import METHODS
from scipy.stats import spearmanr

from moco.__main__ import main
from moco.analysis.dashboard import specification
from moco.analysis.measures import Relation, compare, of_report
from moco.analysis.records import look
from moco.analysis.selection import select
from moco.analysis.statistics import Score
from moco.analysis.table import lines
from moco.protocols import MEASURES
from moco.runs.listing import all_runs

RANKME = "repr/rankme"


@pytest.fixture
def runs_dir(finish: Callable[..., Path], tmp_path: Path) -> Path:
    """Three temperatures by two m by two seeds: RankMe falls with accuracy over the temperatures and rises with it within."""
    for i, temperature in enumerate((0.1, 0.2, 0.4)):
        for j, m in enumerate((512, 4096)):
            for seed in (0, 1):
                within = 2 * j + seed
                finish(
                    f"temperature={temperature}",
                    f"m={m}",
                    f"seed={seed}",
                    top1=50 + 10 * i + within,
                    linear=60 + 10 * i + within,
                    measures={RANKME: 90 - 20 * i + within, "repr/alignment": 0.5 - 0.1 * i - 0.01 * within},
                )
    return tmp_path / "runs"


def relations(runs_dir: Path) -> dict[tuple[str, str], Relation]:
    [found] = compare(look(all_runs(runs_dir))[0])
    return {(one.measure.key, one.protocol.prefix): one for one in found.relations}


def test_correlations_over_all_runs_and_among_those_that_share_a_setting(runs_dir: Path) -> None:
    found = relations(runs_dir)
    assert set(found) == {(key, prefix) for key in (RANKME, "repr/alignment") for prefix in ("knn", "linear")}
    results = [run.result or {} for run in all_runs(runs_dir)]
    for (key, prefix), one in found.items():
        expected = spearmanr(*([result[name] for result in results] for name in (key, f"{prefix}/top1"))).statistic
        assert one.number == 12 and one.over == pytest.approx(expected)
    # 1 - 6 sum(d^2) / (n^3 - n): of the ranks of 12 runs eight differ by 8, of those of 6 with the same m four by 4.
    assert found[RANKME, "knn"].over == pytest.approx(-113 / 143)
    assert found[RANKME, "knn"].within == {"temperature": pytest.approx(1), "m": pytest.approx(-29 / 35)}
    assert found["repr/alignment", "knn"].over == pytest.approx(-1)


def test_what_would_be_chosen_and_what_that_costs(runs_dir: Path) -> None:
    found = relations(runs_dir)
    rank, align = found[RANKME, "linear"], found["repr/alignment", "linear"]
    assert rank.picked.label == "temperature=0.1 m=4096" and rank.below == pytest.approx(20)
    assert align.picked.label == "temperature=0.4 m=4096" and align.below == 0  # lower is better
    [one] = compare(look(all_runs(runs_dir))[0])
    assert one.where == "moco on cifar10" and one.at_random == {"knn": pytest.approx(11), "linear": pytest.approx(11)}


def test_runs_from_before_there_were_measures_are_left_out_of_them_alone(
    finish: Callable[..., Path], tmp_path: Path
) -> None:
    for i, measures in enumerate([{RANKME: 20.0}, {RANKME: 10.0}, {RANKME: 30.0}, {}, {}]):
        finish(f"temperature={0.1 + i / 10}", top1=50 - i, measures={**measures, "train/loss": float(i)})
    found = relations(tmp_path / "runs")
    assert {key: one.number for key, one in found.items()} == {(RANKME, "knn"): 3, ("train/loss", "knn"): 5}
    assert found["train/loss", "knn"].over == pytest.approx(-1) and found["train/loss", "knn"].below == 0
    assert found[RANKME, "knn"].over == pytest.approx(-0.5)
    # What was measured nowhere has a row for the loss alone, and none in the report.
    assert of_report(look(all_runs(tmp_path / "runs"))[0])
    old = [
        entry for entry in look(all_runs(tmp_path / "runs"))[0] if entry.result and RANKME not in entry.result.metrics
    ]
    assert compare(old) == [] and of_report(old) == []


def test_methods_are_apart(finish: Callable[..., Path], tmp_path: Path) -> None:
    for method in ("moco", "simclr"):
        for temperature in (0.1, 0.2, 0.4):
            measures = {RANKME: 10 * temperature}
            finish(*METHODS[method], f"temperature={temperature}", top1=50 + temperature, measures=measures)
    found = compare(look(all_runs(tmp_path / "runs"))[0])
    assert [one.where for one in found] == ["moco on cifar10", "simclr on cifar10"]
    assert all(
        relation.over == pytest.approx(1) and relation.number == 3 for one in found for relation in one.relations
    )


def test_shares_of_held_out_images_are_apart_and_chance_is_told_where_a_measure_is(
    finish: Callable[..., Path], tmp_path: Path
) -> None:
    for share in (0.1, 0.2):
        for i, temperature in enumerate((0.1, 0.2, 0.4)):
            linear = {"linear/top1": 60.0, "linear/top5": 90.0} if (share, i) == (0.1, 0) else {}
            measures = {RANKME: 10 * temperature, **linear}
            finish(f"data.validation={share}", f"temperature={temperature}", top1=50 + i, measures=measures)
    found = compare(look(all_runs(tmp_path / "runs"))[0])
    where = "moco on cifar10, held-out training images"
    assert [one.where for one in found] == [f"{where} (data.validation={share})" for share in (0.1, 0.2)]
    assert [dict(one.at_random) for one in found] == [{"knn": pytest.approx(1)}] * 2


def test_the_command_has_tables_and_words_or_numbers(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measures", "--runs-dir", str(runs_dir)]) == 0
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if re.match(r"kNN +RankMe ", line)]
    assert line.split() == "kNN RankMe higher 12 -0.79 1.00 -0.83 temperature=0.1 m=4096 20.00".split()
    assert "Chosen at random, a configuration is on average 11.00 points of kNN, 11.00 points of Linear below" in out
    assert main(["measures", "--runs-dir", str(runs_dir), "--format", "csv"]) == 0
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert head.startswith("runs of,accuracy,measure,better,runs,Spearman,within temperature,within m,picks")
    assert first.startswith("moco on cifar10,kNN,RankMe,higher,12,-0.7902,1.0,-0.8286,")


def test_the_table_has_columns_of_metrics(runs_dir: Path) -> None:
    found = lines(all_runs(runs_dir))
    kept = select(found, "repr/rankme>60 and Protocol=kNN", RANKME, ["temperature", RANKME])
    assert [(row["temperature"], row[RANKME].mean) for row in kept] == [
        (0.2, 70.5),
        (0.2, 72.5),
        (0.1, 90.5),
        (0.1, 92.5),
    ]
    assert isinstance(kept[0][RANKME], Score) and kept[0][RANKME].n == 2


def test_report_and_workspace_show_them(runs_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    assert main(["report", "--runs-dir", str(runs_dir), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    section = page.partition('aria-label="Without labels"')[2].partition("</section>")[0]
    assert "moco on cifar10" in section and section.count("<tr>") == 5 and "<td>RankMe</td>" in section
    assert "RankMe of the backbone over the epochs" in page and MEASURES[RANKME].title in page
    panels = {one.name: one.panels for one in specification(all_runs(runs_dir)).sections}["Without labels"]
    assert [panel.metrics for panel in panels] == [[RANKME], ["repr/alignment"]]
