"""The report in a real browser."""

import base64
import itertools
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsers import prefer
from folders import point, write_paused, write_run

from moco.__main__ import main
from moco.analysis import charts as limits
from moco.analysis import courses, report
from moco.runs.run import Run

plotly = pytest.importorskip("plotly")
TEMPERATURES, QUEUES = (0.07, 0.1, 0.2), (512, 4096, 32768)
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")


@pytest.fixture(scope="module")
def pages(places: dict[str, Path]) -> dict[str, Path]:
    for name, runs_dir in places.items():
        report.write(runs_dir, ["both"] if name == "grid" else [], runs_dir.with_suffix(".html"))
    return {name: runs_dir.with_suffix(".html") for name, runs_dir in places.items()}


@pytest.fixture
def visit(browser: Any, pages: dict[str, Path]) -> Callable[..., Any]:
    """visit("grid", width=390, scheme="dark") -> the browser with that page, what it logged before forgotten."""

    def load(name: str, width: int = 1280, scheme: str = "light") -> Any:
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        prefer(browser, scheme)
        browser.get("about:blank")
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(pages[name].as_uri())
        return browser

    return load


NEGATIVES = "negatives (m)"


def table(browser: Any) -> list[dict[str, str]]:
    """The rows that the page shows, by the columns' names."""
    names, rows = browser.execute_script(
        "const texts = (row) => [...row.cells].map((cell) => cell.textContent);"
        "const table = document.getElementById('table');"
        "return [texts(table.tHead.rows[0]), [...table.tBodies[0].rows].map(texts)]"
    )
    return [dict(zip(names, row)) for row in rows]


def charts(browser: Any) -> dict[str, Any]:
    """What plotly drew, by the charts' titles: its traces as it holds them."""
    found = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map((box) => [box.ariaLabel, JSON.stringify(box.data)])"
    )
    return {title: json.loads(data) for title, data in found}


def click(browser: Any, head: str) -> str:
    """Clicks a column's head; returns how the column is sorted then."""
    return browser.execute_script(
        "const th = [...document.querySelectorAll('#table th')].find((th) => th.textContent === arguments[0]);"
        "th.querySelector('button').click(); return th.ariaSort",
        head,
    )


def write_filter(browser: Any, words: str) -> None:
    browser.execute_script(
        "const box = document.getElementById('filter'); box.value = arguments[0]; box.dispatchEvent(new Event('input'))",
        words,
    )


def on_disk(runs_dir: Path) -> dict[tuple[float, int | None], list[dict[str, Any]]]:
    """The results of each point of the grid."""
    found: dict[tuple[float, int | None], list[dict[str, Any]]] = {}
    for path in sorted(runs_dir.glob("*/result.json")):
        if path.with_name("config.json").read_text() != "{":
            config = Run(path.parent).config
            found.setdefault((config.temperature, config.m), []).append(json.loads(path.read_text()))
    return found


def mean(results: list[dict[str, Any]], key: str) -> str:
    values = [result[key] for result in results]
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


@pytest.mark.parametrize(
    "name, width, scheme", list(itertools.product(("three", "grid", "halved", "many"), WIDTHS, SCHEMES))
)
def test_it_opens_whole_without_errors_or_requests(visit, pages, name: str, width: int, scheme: str) -> None:
    browser = visit(name, width, scheme)
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert errors == []
    assert pages[name].as_uri() in urls and all(u.startswith(("data:", "blob:")) for u in urls - {pages[name].as_uri()})
    overflow, drawn, boxes = browser.execute_script(
        "return [document.documentElement.scrollWidth - innerWidth, document.querySelectorAll('.plot .main-svg').length,"
        " document.querySelectorAll('.plot').length]"
    )
    assert overflow <= 0 and boxes >= 3 and drawn >= boxes


@pytest.mark.parametrize("name", ["three", "grid", "many"])
def test_everything_is_in_the_file_and_plotly_once(pages, name: str) -> None:
    from plotly.offline import get_plotlyjs

    text = pages[name].read_text()
    own = text.replace(get_plotlyjs(), "", 1)
    assert len(own) == len(text) - len(get_plotlyjs()) and get_plotlyjs()[:300] not in own
    assert "http://" not in own and "https://" not in own and " src=" not in own


def test_numbers_are_those_on_disk(visit, places) -> None:
    rows = [row for row in table(visit("grid")) if row["seeds"] == "3"]
    disk = on_disk(places["grid"])
    assert len(rows) == len(disk) == 9
    for row in rows:
        results = disk[float(row["temperature"]), int(row[NEGATIVES])]
        assert row["kNN top-1"] == mean(results, "knn/top1") and row["Linear top-1"] == mean(results, "linear/top1")
        seconds = statistics.fmean(result["seconds"] for result in results)
        speed = statistics.fmean(result["steps"] * 512 / result["seconds"] for result in results)
        assert (row["minutes"], row["images/s"]) == (f"{seconds / 60:.1f}", f"{speed:.0f}")


def test_charts_show_the_numbers_on_disk(visit, places) -> None:
    browser, disk = visit("grid"), on_disk(places["grid"])
    values = {key: [result["knn/top1"] for result in results] for key, results in disk.items()}
    drawn = charts(browser)
    [grid] = drawn["kNN top-1 by temperature and m"]
    assert grid["x"] == [str(t) for t in TEMPERATURES] and grid["y"] == [str(m) for m in QUEUES]
    assert grid["z"] == [[pytest.approx(statistics.fmean(values[t, m])) for t in TEMPERATURES] for m in QUEUES]
    lines = {trace["name"]: trace for trace in drawn["kNN top-1 against temperature"]}
    assert set(lines) == {f"m={m}" for m in QUEUES}
    for m in QUEUES:
        assert lines[f"m={m}"]["x"] == list(TEMPERATURES)
        assert lines[f"m={m}"]["y"] == [pytest.approx(statistics.fmean(values[t, m])) for t in TEMPERATURES]
        bars = [pytest.approx(statistics.stdev(values[t, m])) for t in TEMPERATURES]
        assert lines[f"m={m}"]["error_y"]["array"] == bars
    [points] = drawn["kNN top-1 against minutes"]
    assert len(points["x"]) == 9 and max(points["y"]) == pytest.approx(max(map(statistics.fmean, values.values())))


def test_curves_are_means_with_a_band_and_a_switch_adds_the_seeds(visit, places) -> None:
    browser, disk = visit("grid"), on_disk(places["grid"])
    values = {key: [result["knn/top1"] for result in results] for key, results in disk.items()}
    best = sorted(values, key=lambda key: statistics.fmean(values[key]))[-limits.BEST :]
    traces = charts(browser)["kNN top-1 over the epochs"]
    lines = {trace["name"]: trace for trace in traces if trace.get("name")}
    assert list(lines) == [f"temperature=0.1 m={m}" for m in QUEUES] + [n for n in lines if "=0.1" not in n]
    assert set(lines) == {f"temperature={t} m={m}" for t, m in best}
    bands = {trace["fillcolor"][:7]: trace for trace in traces if trace.get("fill")}
    for t, m in best:
        line = lines[f"temperature={t} m={m}"]
        assert line["y"][-1] == pytest.approx(statistics.fmean(values[t, m]), abs=1e-3)
        band = bands[line["line"]["color"]]["y"]
        high, low = band[len(line["y"]) - 1], band[len(line["y"])]
        assert (high - low) / 2 == pytest.approx(statistics.stdev(values[t, m]), abs=2e-3)
    browser.execute_script("document.getElementById('singles').click()")
    ends = {trace["y"][-1] for trace in charts(browser)["kNN top-1 over the epochs"] if trace.get("name")}
    assert {float(f"{value:.5g}") for key in best for value in values[key]} <= ends


def test_epochs_are_whole_on_the_axis(visit) -> None:
    for name in ("three", "halved"):
        ticks = visit(name).execute_script(
            "return [...document.querySelector('.plot').querySelectorAll('.xtick text')].map((tick) => tick.textContent)"
        )
        assert len(ticks) > 2 and all(tick.isdigit() for tick in ticks) and len(set(ticks)) == len(ticks)


def test_the_answer_stands_on_top(visit, places) -> None:
    browser, disk = visit("grid"), on_disk(places["grid"])
    first = browser.execute_script("return document.querySelector('.answer p').textContent")
    top = max(disk, key=lambda key: statistics.fmean(result["knn/top1"] for result in disk[key]))
    assert first.startswith(
        f"The best of 9 configurations may be one of 3, which seeds do not tell apart: temperature={top[0]} m={top[1]} "
        f"with the highest mean ({mean(disk[top], 'knn/top1')} %"
    )
    close = [f"temperature={key[0]} m={key[1]}" for key in disk if key[0] == top[0] and key != top]
    assert all(name in first for name in close)
    assert table(browser)[0][NEGATIVES] == str(top[1])


def test_the_published_row_stands_below_ours_whatever_it_is_sorted_by(visit) -> None:
    browser = visit("grid")
    for head in ("kNN top-1", NEGATIVES, NEGATIVES, "temperature"):
        rows = table(browser)
        [at] = [i for i, row in enumerate(rows) if row["temperature"] == "published"]
        assert rows[at]["kNN top-1"] == "82.60" and "MoCo CIFAR-10 notebook" in rows[at]["runs"]
        assert (rows[at - 1]["temperature"], rows[at - 1][NEGATIVES]) == ("0.1", "4096")  # as the recipe has them
        click(browser, head)


def test_settings_and_knn_stay_in_sight_and_no_number_is_cut(visit) -> None:
    """Also on a telephone, where settings are one column, and with more settings than a page is wide."""
    for name, width, folds in (("grid", 1280, False), ("grid", 390, True), ("many", 390, True)):
        browser = visit(name, width)
        heads, seen, cut, hidden, shadow = browser.execute_script(
            "const box = document.querySelector('#table').parentElement, table = document.getElementById('table');"
            "table.rows[1].scrollIntoView({ block: 'center' }); box.scrollLeft = 1e6;"
            "const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);"
            "const until = heads.indexOf('kNN top-1'), row = table.tBodies[0].rows[0];"
            "const edge = box.getBoundingClientRect();"
            "const seen = [...row.cells].slice(0, until + 1).every((cell) => {"
            "  const at = cell.getBoundingClientRect(); return at.left >= edge.left - 1 && at.right <= edge.right + 1 &&"
            "    cell.contains(document.elementFromPoint((at.left + at.right) / 2, (at.top + at.bottom) / 2)) });"
            "const cut = [...table.querySelectorAll('td.right')].filter((cell) => cell.scrollWidth > cell.clientWidth).length;"
            "const hint = box.nextElementSibling;"
            "return [heads, seen, cut, hint.hidden, hint.classList.contains('hint')]"
        )
        assert heads[0] == ("settings" if folds else "temperature") and seen and cut == 0, (name, width)
        assert not (hidden and folds) and shadow
    assert "temperature=" in table(browser)[0]["settings"] and "optimizer.lr=" in table(browser)[0]["settings"]


def test_many_points_have_numbers_and_a_key_on_paper(visit) -> None:
    browser = visit("grid")
    [points] = charts(browser)["kNN top-1 against minutes"]
    assert points["text"] == [str(i) for i in range(1, 10)]
    look = (
        "const key = document.querySelector('.key');"
        "return [getComputedStyle(key).display, [...key.children].map((one) => one.textContent)]"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown, names = browser.execute_script(look)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert shown == "block" and names == points["customdata"]
    assert "kNN top-1 against speed" not in charts(browser)  # it says the same
    assert "kNN top-1 against minutes" not in charts(visit("halved"))  # all take the same time


def test_sorting(visit) -> None:
    browser = visit("grid")
    column = lambda head: [row[head] for row in table(browser) if row["temperature"] != "published"]  # noqa: E731
    assert click(browser, "kNN top-1") == "descending"
    shown = [float(text.split()[0]) for text in column("kNN top-1") if text]
    assert shown == sorted(shown, reverse=True) and column("kNN top-1")[-2:] == ["", ""]
    assert click(browser, "kNN top-1") == "ascending"
    assert [float(text.split()[0]) for text in column("kNN top-1")[:9]] == shown[::-1]
    assert column("kNN top-1")[-2:] == ["", ""]  # what has no value stays last
    assert click(browser, NEGATIVES) == "ascending"
    assert [int(m) for m in column(NEGATIVES)] == sorted(
        int(m) for m in column(NEGATIVES)
    )  # as numbers: 512 before 4096


def test_filtering(visit) -> None:
    browser = visit("grid")
    count = lambda: browser.execute_script("return document.getElementById('count').textContent")  # noqa: E731
    assert count() == "11 configurations"
    write_filter(browser, "m=4096 temperature=0.1")  # the recipe: the published row stands below it, and stays there
    [ours, published] = table(browser)
    assert (ours["temperature"], ours[NEGATIVES], published["temperature"]) == ("0.1", "4096", "published")
    assert count() == "1 of 11 configurations"
    write_filter(browser, "FAILED")
    assert [row["temperature"] for row in table(browser)] == ["0.6"]
    write_filter(browser, "nothing of the kind")
    assert table(browser) == []
    write_filter(browser, "")
    assert count() == "11 configurations"


def test_a_thousand_configurations_come_in_pages(visit) -> None:
    browser = visit("many")
    shown = lambda: sum(row["temperature"] != "published" for row in table(browser))  # noqa: E731
    assert shown() == 50
    browser.execute_script("document.getElementById('more').click()")
    assert shown() == 100
    grey, *colours = charts(browser)["kNN top-1 over the epochs"]
    assert len(colours) == limits.BEST and grey["y"].count(None) <= courses.GREY
    assert {"All settings together", "kNN top-1 against optimizer.lr"} <= set(charts(browser))


def test_charts_follow_the_scheme_at_load_and_on_change(visit) -> None:
    browser = visit("grid", scheme="light")
    look = (
        "const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();"
        "const box = document.querySelector('.plot');"
        "return [css('--ink'), css('--card'), box.layout.font.color, box.layout.paper_bgcolor, box.data.at(-1).line.color]"
    )
    ink, card, font, paper, light = browser.execute_script(look)
    assert (font, paper) == (ink, card)
    prefer(browser, "dark")
    for _ in range(100):  # charts are drawn anew after the page has changed
        ink, card, font, paper, dark = browser.execute_script(look)
        if font == ink:
            break
        time.sleep(0.1)
    assert (font, paper) == (ink, card) and dark != light


def test_the_charts_metric_can_be_chosen(visit) -> None:
    browser = visit("grid")
    assert "kNN top-1 against m" in charts(browser) and "Linear top-1 against m" not in charts(browser)
    browser.execute_script(
        "const box = document.getElementById('metric'); box.value = 'Linear top-1'; box.dispatchEvent(new Event('change'))"
    )
    assert "kNN top-1 against m" not in charts(browser) and "Linear top-1 against m" in charts(browser)
    assert "kNN top-1 over the epochs" in charts(browser)


def test_what_is_read_on_it_has_contrast(visit) -> None:
    """At least 4.5 to 1 (WCAG AA) for text and 3 to 1 for lines, in both schemes."""
    for scheme in SCHEMES:
        names = ["--card", "--page", "--ink", "--soft", *(f"--c{i}" for i in range(limits.LINES))]
        browser = visit("three", scheme=scheme)
        style = "return arguments[0].map((n) => getComputedStyle(document.documentElement).getPropertyValue(n).trim())"
        colours = dict(zip(names, browser.execute_script(style, names)))
        for name in names[2:]:
            for ground in names[:2]:
                assert contrast(colours[name], colours[ground]) >= (4.5 if name in ("--ink", "--soft") else 3), (
                    scheme,
                    name,
                )


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_what_went_wrong_is_listed_as_text(visit, places) -> None:
    browser = visit("grid")
    text = browser.execute_script("return document.body.innerText")
    assert "RuntimeError: <b>no</b>" in text and "cannot be read" in text and "moco-x-y-absentabse" in text
    assert "1 pending" in text and "1 failed" in text and "1 damaged" in text and "1 missing" in text


MARKUP = "<img src=x onerror=document.title='bad'>"
HOSTILE = f"{MARKUP}</script><script>document.title='bad'</script><a href='javascript:1'>&amp;{{{{7*7}}}}"


def test_what_run_folders_hold_is_shown_as_text(visit, pages, base, tmp_path: Path) -> None:
    """Markup in settings, errors, folders' names, provenance and the reasons of paused runs."""
    runs_dir = tmp_path / "runs"
    cfg = base("recipe=moco_cifar", "epochs=10")
    for i, (t, text) in enumerate(itertools.product((0.1, 0.2, 0.4), ("plain", "hostile", "bold"))):
        run = write_run(
            runs_dir, point(cfg, {"temperature": t, "model.name": text}), top1=50.0 + i, seconds=100.0 * (i + 1)
        )
        attempt = [{"commit": MARKUP, "cpu": MARKUP, "packages": {"torch": MARKUP}}]
        (run / "provenance.json").write_text(json.dumps(attempt))
    write_run(
        runs_dir, point(cfg, {"temperature": 0.8, "model.name": "hostile"}), epochs=2, error=f"Error: {HOSTILE}\n"
    )
    write_paused(runs_dir, point(cfg, {"temperature": 0.9}), 5, why=HOSTILE)
    for path in runs_dir.glob("*/config.json"):  # as no command of ours would write it
        frozen = json.loads(path.read_text())
        frozen["model"]["name"] = {"hostile": HOSTILE, "bold": "x<b>y</b>"}.get(frozen["model"]["name"], "plain")
        path.write_text(json.dumps(frozen))
    (runs_dir / f"moco-{MARKUP}-x-abcdefghij").mkdir()
    (runs_dir / f"moco-{MARKUP}-x-abcdefghij" / "config.json").write_text("{")
    pages["hostile"] = tmp_path / "hostile.html"
    report.write(runs_dir, [], pages["hostile"])
    browser = visit("hostile")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    title, added, text, drawn = browser.execute_script(
        "return [document.title, document.querySelectorAll('main img, main script, main a[href^=javascript], .plot a').length,"
        " document.body.innerText, [...document.querySelectorAll('.plot .main-svg')].map((svg) => svg.textContent).join(' ')]"
    )
    assert title == "All runs in runs" and added == 0
    assert f"Error: {HOSTILE}" in text and f"model={HOSTILE}" in text and MARKUP in drawn
    assert "x<b>y</b>" in drawn and len(table(browser)) == 11
    csv = browser.execute_script("return document.querySelector('a[download]').href").partition("base64,")[2]
    assert HOSTILE in base64.b64decode(csv).decode() and base64.b64decode(csv).decode().count("\n") == 12


# Paused runs


def test_values_of_paused_runs_are_grey_and_below_all_final_ones(visit) -> None:
    browser = visit("halved")
    rows = table(browser)
    finals, paused = rows[:2], rows[2:]
    assert [row["state"] for row in rows] == ["", "", *["2 paused"] * 7] and all(row["seeds"] == "2" for row in rows)
    shown = [re.fullmatch(r"(\d+\.\d\d) ± \d\.\d\d at epoch (\d+)", row["kNN top-1"]) for row in paused]
    assert [int(match[2]) for match in shown if match] == [30] * 2 + [10] * 5
    values = [float(match[1]) for match in shown if match]
    assert values[:2] == sorted(values[:2], reverse=True) and values[2:] == sorted(values[2:], reverse=True)
    assert values[0] > float(finals[0]["kNN top-1"].split()[0])  # and yet not first
    for _ in range(2):  # nor is it when the column is sorted, either way
        click(browser, "kNN top-1")
        assert [row["state"] for row in table(browser)] == [row["state"] for row in rows]
    colours, bold = browser.execute_script(
        "const found = (selector, look) => [...document.querySelectorAll(selector)].map(look);"
        "return [found('#table td.rung', (td) => getComputedStyle(td).color), found('#table tr.best', (tr) => tr.innerText)]"
    )
    assert len(colours) == 7 and len(set(colours)) == 1
    [best] = bold
    assert "at epoch" not in best and finals[0]["kNN top-1"] in best


def test_curves_of_paused_runs_end_with_a_circle_that_the_legend_explains(visit) -> None:
    browser = visit("halved")
    for title in ("kNN top-1 over the epochs", "Training loss over the epochs"):
        traces = charts(browser)[title]
        circles = [trace for trace in traces if trace.get("marker", {}).get("symbol") == "circle-open"]
        assert sorted(x for trace in circles for x in trace["x"]) == [10] * 5 + [30] * 2  # one for both seeds
        drawn = [trace for trace in traces if trace.get("name") and trace not in circles]
        assert sorted({trace["x"][-1] for trace in drawn}) == [30, 90]
        assert all((trace["x"][-1], trace["y"][-1]) in ends(circles) for trace in drawn if trace["x"][-1] == 30)
    legends = browser.execute_script(
        "return [...document.querySelectorAll('.legend li.paused')].map((li) => li.textContent)"
    )
    assert legends == ["paused here", "paused here"]


def ends(traces: list[dict[str, Any]]) -> set[tuple[float, float]]:
    return {point for trace in traces for point in zip(trace["x"], trace["y"])}


def test_the_heat_map_colours_final_values_alone(visit) -> None:
    final, paused = charts(visit("halved"))["kNN top-1 by temperature and m"]
    assert (
        sum(value is not None for row in final["z"] for value in row) == 2
        and final["colorscale"] != paused["colorscale"]
    )
    texts = [text for row in paused["text"] for text in row if text]
    assert (
        len(texts) == 7
        and sorted(text.partition("<br>")[2] for text in texts) == ["at epoch 10"] * 5 + ["at epoch 30"] * 2
    )
    assert all(
        (z is None) != (text == "") for row, words in zip(final["z"], paused["text"]) for z, text in zip(row, words)
    )
    assert len({colour for _, colour in paused["colorscale"]}) == 1


def test_the_cost_and_the_paused_runs_are_told_and_nothing_is_called_missing(visit, places) -> None:
    browser = visit("halved")
    text = browser.execute_script("return document.body.innerText")
    trained, grid = 4 * 90 + 4 * 30 + 10 * 10, 18 * 90
    assert (
        f"All runs together have trained {trained} of the grid's {grid} epochs ({100 * trained / grid:.0f} %)." in text
    )
    assert "14 of 18 runs are paused at epochs 10 to 30" in text and "18 runs: 14 paused, 4 done" in text
    assert "Runs without a result" not in text and "not included" not in text and "failed" not in text
    rows = browser.execute_script(
        "return [...document.querySelectorAll('[aria-label=\"Paused runs\"] tbody tr')].map((tr) => tr.innerText)"
    )
    assert len(rows) == 14 and rows[0].startswith("30 of 90") and "rung 2 of 2: rank " in rows[0]
    assert "Paused runs" not in visit("grid").execute_script("return document.body.innerText")


def test_a_sweep_of_which_none_has_finished(places, tmp_path: Path) -> None:
    paused = [path.parent.name for path in places["halved"].glob("*/lease.json")]
    said = report.write(places["halved"], paused, tmp_path / "r.html")
    assert said[0] == "No run has finished yet." and said[1].startswith("14 of 14 runs are paused")


# Without a browser


def test_only_what_varies_is_a_column_and_the_rest_is_one_line(pages) -> None:
    text = pages["grid"].read_text()
    data = json.loads(text.partition('<script id="data" type="application/json">')[2].partition("</script>")[0])
    heads = [head["name"] for head in data["table"]["heads"]]
    numbers = [
        "kNN top-1",
        "kNN top-5",
        "Linear top-1",
        "Linear top-5",
        "seeds",
        "minutes",
        "images/s",
        "state",
        "runs",
    ]
    assert heads == ["temperature", "m", *numbers]
    line = text.partition("All runs share ")[2].partition("</details>")[0]
    assert "batch_size=512" in line and not re.search(r"\b(temperature|m|seed)=", line.replace("knn_temperature=", ""))


def test_folders_without_runs_are_named(places, tmp_path: Path) -> None:
    assert any("photos" in sentence for sentence in report.write(places["grid"], [], tmp_path / "report.html"))


def test_one_run_and_none_finished(finish, tmp_path: Path) -> None:
    folder = finish(epochs=3)
    assert report.write(tmp_path / "runs", [], tmp_path / "a.html")[0] == "No run has finished yet."
    report.write(tmp_path / "runs", [folder.name], tmp_path / "b.html")
    (folder / "config.json").write_text("{")
    assert report.write(tmp_path / "runs", [], tmp_path / "c.html")[0] == "No run has finished yet."
    assert "cannot be read" in (tmp_path / "c.html").read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        (["report", "nosuch"], "there is no run nosuch"),
        (["report", "-o", "no/such/folder/r.html"], "no/such/folder/r.html cannot be written"),
        (["report", "--runs-dir", "nothing"], "there are no runs in nothing"),
    ],
)
def test_mistakes_are_one_line(places, words: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, *([] if "--runs-dir" in words else ["--runs-dir", str(places["three"])])]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line and list(tmp_path.glob("r.*")) == []


def test_without_plotly_it_says_what_to_install(places, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    assert main(["report", "--runs-dir", str(places["three"]), "-o", str(tmp_path / "r.html")]) == 1
    assert capsys.readouterr().err == "error: report needs plotly and jinja2: pip install plotly jinja2\n"
