"""python -m moco show: what the page says is what the checkpoint gives; it opens in a real browser, and is safe."""

import itertools
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from browsers import prefer
from commands import call
from common import METHODS, TINY, checked
from folders import write_run
from PIL import Image

from moco.analysis import learnt as seen
from moco.analysis import show_charts, thumbnails, views
from moco.analysis.learnt import Learnt, learnt
from moco.analysis.show import write
from moco.config.schema import Config
from moco.evaluation.features import Labelled
from moco.runs.identity import folder_name
from moco.runs.run import Run
from moco.runs.state import State
from moco.training.pretrain import train

pytest.importorskip("plotly")
CLASSES = ["<b>cat&amp;", "<script>alert(1)<", "dog' \" %"]  # no / in a folder's name
EVIL = "</script><script>document.title='broken'</script><img src=http://example.com/x.png>"


def run_of(config: Config) -> Run:
    return Run(Path(config.runs_dir) / folder_name(config))


def images(folder: Path, n: int, level: int, side: int = 8) -> None:
    """Images whose brightness is about `level`."""
    folder.mkdir(parents=True)
    for i in range(n):
        noise = np.random.default_rng(i + level).integers(-40, 40, (side, side, 3))
        Image.fromarray((level + noise).astype(np.uint8)).save(folder / f"{i}.png")


def trained(root: Path, *words: str) -> Run:
    """A run on the images under that folder."""
    tiny = [word for word in TINY if not word.startswith(("data", "batch_size"))]
    config = checked(
        f"runs_dir={root.parent}/runs",
        *METHODS["simclr"],
        *tiny,
        "data=image_folder",
        f"data.root={root}",
        "batch_size=16",
        "linear_eval=true",
        "probe=cached",
        "probe.epochs=1",
        *words,
    )
    train(config)
    return run_of(config)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that is done and linearly evaluated; names, log and provenance hold markup."""
    root = tmp_path_factory.mktemp("pets") / "pets"
    for part, n in (("train", 12), ("test", 9)):
        for name, level in zip(CLASSES, (120, 128, 134)):
            images(root / part / name, n, level)
    run = trained(root, "augment.blur=0.5", "data.name='<b>pets<b>'")
    (log := run.folder / "log.txt").write_text(f"first\n{EVIL}\nlast line\n")
    run.note_job("1", log, "local", "sweep")
    path = run.folder / "provenance.json"
    [attempt] = json.loads(path.read_text())
    path.write_text(json.dumps([attempt, attempt | {"host": EVIL}]))
    return run


@pytest.fixture(scope="module")
def page(pets: Run) -> Path:
    out = pets.folder.with_suffix(".html")
    write(pets, out, device="cpu")
    return out


@pytest.fixture(scope="module")
def of_pets(pets: Run) -> Learnt:
    return learnt(pets, None, "cpu")


def content(page: Path) -> dict[str, Any]:
    text = page.read_text()
    return json.loads(text.partition('<script id="data" type="application/json">')[2].partition("</script>")[0])


# What is computed


def test_knn_is_that_of_training_and_the_matrix_adds_up(pets: Run, of_pets: Learnt, page: Path) -> None:
    result = pets.result
    assert result and of_pets.top1 == pytest.approx(result["knn/top1"]) and of_pets.epoch == 2
    assert 0 < of_pets.top1 < 100  # so that something is right and something wrong
    counts = of_pets.confusion()
    assert counts.sum(1).tolist() == [9, 9, 9] and 100 * int(counts.trace()) / 27 == pytest.approx(of_pets.top1)
    [matrix] = [chart for chart in content(page)["charts"] if chart["title"] == "What kNN confuses"]
    assert matrix["data"][0]["text"] == counts.tolist()
    assert matrix["data"][0]["x"][0] == "&lt;b&gt;cat&amp;amp;"  # plotly takes names for markup
    off = counts.clone().fill_diagonal_(0)
    assert sum(one.number for one in show_charts.mistakes(of_pets)) == int(off.sum())


def test_neighbours_are_the_nearest_by_cosine(of_pets: Learnt) -> None:
    found = of_pets.neighbours()
    bank, test = (torch.nn.functional.normalize(x.x.double(), dim=1) for x in (of_pets.bank, of_pets.test))
    expected = (test[found.images] @ bank.T).sort(1, descending=True)
    assert found.images.shape == (seen.TESTED,) and len(set(found.images.tolist())) == seen.TESTED
    torch.testing.assert_close(found.similarity.double(), expected.values[:, : seen.NEAREST], atol=1e-5, rtol=0)
    exact = (test[found.images].unsqueeze(1) * bank[found.rows]).sum(2)
    torch.testing.assert_close(found.similarity.double(), exact, atol=1e-5, rtol=0)


def test_the_map_is_the_same_each_time_and_bears_features_that_are_all_alike(of_pets: Learnt) -> None:
    one, other = of_pets.map(), of_pets.map()
    assert np.array_equal(one.places, other.places) and len(one.places) == 27 == len(set(one.images.tolist()))
    alike = Labelled(torch.ones(30, 8), of_pets.test.labels[:1].expand(30))
    flat = Learnt(
        of_pets.parts, 1, of_pets.bank_images, of_pets.bank, of_pets.test_images[:1].expand(30, -1, -1, -1), alike, None
    )
    assert np.isfinite(flat.map().places).all()


def test_a_sheet_holds_each_image_in_its_tile() -> None:
    levels = torch.arange(7, dtype=torch.uint8) * 30
    sheet = thumbnails.sheet(levels.view(-1, 1, 1, 1).expand(-1, 3, 8, 8))
    assert (sheet["columns"], sheet["rows"]) == (3, 3) and sheet["url"].startswith("data:image/jpeg;base64,")
    import base64
    import io

    picture = Image.open(io.BytesIO(base64.b64decode(sheet["url"].partition(",")[2])))
    tile = sheet["tile"]
    for i, level in enumerate(levels.tolist()):
        at = tile * (i % 3), tile * (i // 3)
        for x, y in ((0, 0), (tile - 1, tile - 1), (tile // 2, 5)):
            assert abs(picture.getpixel((at[0] + x, at[1] + y))[0] - level) <= 3


def test_many_classes_have_no_matrix_and_hues_of_their_own(of_pets: Learnt) -> None:
    assert show_charts.colour(9, 10) == "--c9" and len({show_charts.colour(c, 100) for c in range(100)}) > 90
    many = [f"class {c}" for c in range(show_charts.MATRIX + 1)]
    parts: Any = SimpleNamespace(data=SimpleNamespace(classes=many))
    x, labels = of_pets.test.x[:5], torch.tensor([3, 3, 3, 100, 7])
    odd = Learnt(
        parts, 1, of_pets.bank_images, of_pets.bank, of_pets.test_images[:5], Labelled(x, labels), labels.roll(1)
    )
    assert show_charts.confusion(odd, "images") is None
    found = [(one.label, one.taken, one.number, one.of) for one in show_charts.mistakes(odd)]
    assert found[0] == ("class 7", "class 100", 1, 1) and ("class 3", "class 7", 1, 3) in found and len(found) == 3
    drawn, points, shown = show_charts.on_map(odd, "images")
    assert not any(trace["showlegend"] for trace in drawn["data"]) and len(points) == len(shown) == 5
    assert re.fullmatch(r"hsl\(\d+,60%,\d+%\)", show_charts.colour(70, 100))


# The page


def test_everything_is_in_the_file_as_text(page: Path) -> None:
    text = page.read_text()
    assert EVIL not in text and "<b>cat" not in text and "<script>alert" not in text and len(text) < 5_000_000
    assert 'src="http' not in text and "src=http" not in text.replace("&lt;img src=http", "").replace(
        "\\u003cimg src=http", ""
    )
    assert text.count("<script") == 3 and len(re.findall(r'<img src="data:image/', text)) == len(
        re.findall("<img ", text)
    )


def visit(browser: Any, page: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    prefer(browser, scheme)
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    until(lambda: browser.execute_script("return document.querySelectorAll('#map .main-svg').length"))


def until(there: Callable[[], Any]) -> Any:
    """What the function gives as soon as it gives something."""
    end = time.monotonic() + 60
    while not (found := there()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("width, scheme", list(itertools.product((1280, 390), ("light", "dark"))))
def test_it_opens_whole_without_errors_or_requests(browser: Any, page: Path, width: int, scheme: str) -> None:
    visit(browser, page, width, scheme)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert page.as_uri() in urls and all(u.startswith(("data:", "blob:")) for u in urls - {page.as_uri()})
    overflow, drawn, broken, title = browser.execute_script(
        "return [document.documentElement.scrollWidth - innerWidth, document.querySelectorAll('.plot .main-svg').length,"
        " [...document.images].filter((image) => !image.complete || !image.naturalWidth).length, document.title]"
    )
    assert overflow <= 0 and drawn >= 4 and broken == 0 and title == page.stem


def test_what_it_shows(browser: Any, page: Path, pets: Run, of_pets: Learnt) -> None:
    visit(browser, page, 1280, "light")
    text = browser.execute_script("return document.body.innerText")
    result = pets.result
    assert (
        result
        and f"kNN top-1 is {result['knn/top1']:.2f} % after 2 of 2 epochs, on 27 test images of 3 classes." in text
    )
    assert f"Linear evaluation on cached features: {result['linear_cached/top1']:.2f} %" in text
    assert EVIL in text and "last line" in text and "1 earlier attempt" in text and "augment.blur=0.5" in text
    assert {"kNN top-1 over the epochs", "Training loss over the epochs"} <= {
        c["title"] for c in content(page)["charts"]
    }
    boxes, side = browser.execute_script(
        "const tile = document.querySelector('#views .tile');"
        "return [[...tile.querySelectorAll('i')].map((i) => [i.offsetWidth, i.offsetHeight]), tile.querySelector('img').width]"
    )
    crops = [view.drawn.crop for view in views.rows(of_pets.parts)[0].views if view.drawn]
    expected = [pytest.approx([side * wide / 8, side * high / 8], abs=1) for _, _, high, wide in crops]
    assert boxes == expected
    rows, names = browser.execute_script(
        "const rows = [...document.querySelectorAll('#neighbours tbody tr')];"
        "return [rows.map((row) => [...row.cells].map((cell) => cell.innerText.trim().split(/\\n/))),"
        " [...document.querySelectorAll('#map .legend li')].map((li) => li.textContent)]"
    )
    assert names == CLASSES and len(rows) == seen.TESTED
    found = of_pets.neighbours()
    for cells, i, near, similarity in zip(rows, found.images.tolist(), found.rows.tolist(), found.similarity.tolist()):
        label, taken = CLASSES[int(of_pets.test.labels[i])], CLASSES[int(of_pets.predicted[i])]
        assert cells[0] == [label, "✓ right" if label == taken else f"✗ says {taken}"]
        for cell, row, value in zip(cells[1:], near, similarity):
            other = CLASSES[int(of_pets.bank.labels[row])]
            assert cell == [f"{'✓' if other == label else '✗'} {other}", f"{value:.2f}"]


def test_hovering_shows_the_image(browser: Any, page: Path) -> None:
    visit(browser, page, 1280, "light")
    data = content(page)
    assert browser.execute_script("return document.getElementById('tip').hidden")
    x, y, i = browser.execute_script(
        "const box = document.querySelector('#map .plot'); box.scrollIntoView({ block: 'center' });"
        "const trace = box._fullData[0], drag = box.querySelector('.nsewdrag').getBoundingClientRect();"
        "const { xaxis, yaxis } = box._fullLayout;"
        "return [drag.left + xaxis.l2p(trace.x[2]), drag.top + yaxis.l2p(trace.y[2]), trace.customdata[2]]"
    )

    def hovered() -> Any:
        for shift in (3, 0):  # plotly hovers where the mouse moves
            browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x + shift, "y": y})
        return browser.execute_script(
            "const tip = document.getElementById('tip'); if (tip.hidden) return null;"
            "const box = tip.getBoundingClientRect(), style = getComputedStyle(tip.firstElementChild);"
            "return [tip.innerText, style.backgroundImage.slice(0, 22), style.backgroundPosition, box.right, box.bottom]"
        )

    said, image, place, right, bottom = until(hovered)
    point = data["points"][i]
    assert said == (
        point["label"] if point["taken"] == point["label"] else f"{point['label']}, taken for {point['taken']}"
    )
    row, column = divmod(i, data["sheet"]["columns"])
    assert image.startswith('url("data:image/') and place.replace("-0px", "0px") == f"{-96 * column}px {-96 * row}px"
    assert right <= 1280 and bottom <= 800


# Other runs


def test_a_run_that_is_not_done_is_shown_as_far_as_it_is(pets: Run, tmp_path: Path, capsys) -> None:
    run = Run(tmp_path / "copy" / pets.folder.name)
    run.folder.parent.mkdir()
    run.folder.mkdir()
    for name in ("config.json", "data.json", "checkpoint.pt", "metrics.jsonl"):
        (run.folder / name).write_bytes((pets.folder / name).read_bytes())
    content = torch.load(run.checkpoint, weights_only=True)
    content["step"] = 3  # of two in an epoch
    torch.save(content, run.checkpoint)
    assert write(run, tmp_path / "a.html", device="cpu")[0].startswith("kNN top-1 is ")
    text = (tmp_path / "a.html").read_text()
    assert f"{State.PENDING}, epoch 1.5 of 2" in text and "after 1.5 of 2 epochs" in text
    assert "There is no log" in text and "has no provenance.json" in text
    err = capsys.readouterr().err
    assert "features of 36 training images and 27 test images" in err and "t-SNE" in err


def test_without_labels_nothing_is_right_or_wrong(tmp_path: Path) -> None:
    images(tmp_path / "flat" / "train", 32, 128)
    run = trained(tmp_path / "flat", "linear_eval=false")
    [said] = write(run, tmp_path / "a.html", device="cpu")
    assert said.startswith("Without labels there is no accuracy") and "32 training images" in said
    text, data = (tmp_path / "a.html").read_text(), content(tmp_path / "a.html")
    assert "✓" not in text and "✗" not in text and "kNN confuses" not in text
    assert {point["label"] for point in data["points"]} == {""} and len(data["points"]) == 32
    found = learnt(run, None, "cpu").neighbours()
    assert all(i not in near for i, near in zip(found.images.tolist(), found.rows.tolist()))


@pytest.mark.parametrize("gone", ["checkpoint", "images", "plotly"])
def test_what_is_missing_is_one_line_with_its_remedy(
    gone: str, pets: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path(str(pets.config.data.root))
    words = ["show", pets.id, "--runs-dir", str(pets.folder.parent), "device=cpu"]
    if gone == "checkpoint":
        folder = write_run(tmp_path / "runs", pets.config)
        words[3], remedy = (
            str(folder.parent),
            "done and has no checkpoint.pt, which holds what it has learnt: train it anew with rerun=true",
        )
    elif gone == "images":
        root.rename(tmp_path / "moved")
        remedy = f"{root}, where the images of {pets.folder} should be, is not there: give data.root=<where they are>"
    else:
        monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
        remedy = "show needs plotly and jinja2: pip install plotly jinja2"
    assert call(words) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and line.endswith(remedy) and not (tmp_path / "show.html").exists()
    if gone == "images":
        assert call([*words, "data.root=moved"]) == 0 and (tmp_path / "show.html").exists()
        assert "show.html shows the run" in capsys.readouterr().out
        (tmp_path / "moved").rename(root)
