"""What README and docs/ say: each command runs, links lead somewhere, and tables leave nothing out.

Commands stand in blocks marked sh, one per line, and in code within the text that begins with python, moco, pip or make.
Trainings are composed and checked by a dry run, the first sweep is trained. What takes a download, a GPU or a login is in
docs_not_run.txt, with the reason.
"""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from commands import QUICK, call
from common import ROOT, checked, python
from folders import write_run, write_sweep

from moco.analysis.table import ACCURACIES, EPOCH, MULTIPLY_ADDS, PARAMS, SETTINGS
from moco.config.places import CONF
from moco.launch.options import LocalOptions, SlurmOptions
from moco.models import SmallResNet
from moco.protocols import MEASURES
from moco.runs.run import Run
from moco.runs.state import State

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "results").rglob("README.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python3?|moco|pip|make) [^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Command(NamedTuple):
    page: str
    text: str


def blocks(page: Path, language: str) -> list[str]:
    """The page's blocks of that language."""
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


def commands(page: Path) -> Iterator[Command]:
    """Every command of the page, without its comment; what && joins, one by one."""
    lines = [line for block in blocks(page, "sh") for line in re.sub(r" \\\n\s*", " ", block).splitlines()]
    lines += INLINE.findall(BLOCK.sub("", page.read_text()))
    for line in lines:
        yield from (Command(page.name, part.strip()) for part in re.split(r"\s#", line)[0].split(" && "))


ALL = [command for page in PAGES for command in commands(page)]
NOT_RUN = [
    line.rpartition(" | ")[::2]
    for line in (ROOT / "tests/docs_not_run.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def names(listed: str, command: str) -> bool:
    """Whether a line of docs_not_run.txt names the command."""
    return command.startswith(listed.removesuffix("...")) if listed.endswith("...") else command == listed


RUN = list(
    {c.text: c for c in ALL if c.text and not any(names(listed, c.text) for listed, _ in NOT_RUN)}.values()
)  # each once


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a checkout, with a finished sweep of six runs on digits, of which the first has a network and a log."""
    cwd = tmp_path_factory.mktemp("user")
    for name in ("conf", "sweeps", "results"):
        (cwd / name).symlink_to(ROOT / name)
    points = [(temperature, seed) for temperature in (0.1, 0.2, 0.5) for seed in (0, 1)]
    words = [*(word for word in QUICK if word != "tracker=none"), "epochs=9", "model.widths=[8,16]"]
    runs = [
        write_run(
            cwd / "runs",
            checked(*words, f"temperature={t}", f"seed={s}"),
            50 + 10 * t + s,
            measures=dict.fromkeys(MEASURES, t + s),
        )
        for t, s in points
    ]
    for name in ("temperature", "seed+temperature"):
        write_sweep(cwd / "runs", name, runs)
    network = SmallResNet([8, 16], stem_stride=1).state_dict()
    torch.save({"method": {f"encoder.{name}": value for name, value in network.items()}}, runs[0] / "checkpoint.pt")
    (cwd / "log.txt").write_text("a line\n")
    Run(runs[0]).note_job("1", cwd / "log.txt", "local", "temperature")
    (cwd / "notes.md").write_text("<!-- table -->\n<!-- /table -->\n")
    return cwd


def words_of(text: str, user: Path) -> list[str]:
    """The words of `moco` that say what this command says, with names of the user's runs for those in brackets."""
    finished = next(user.glob("runs/*/checkpoint.pt")).parent.name
    for name, value in {"<sweep>": "temperature", "<id>": finished, "<folder>": str(user), " ...": ""}.items():
        text = text.replace(name, value)
    first, *words = shlex.split(text)
    if first == "moco":
        return words
    if words[:2] == ["-m", "moco"]:
        return words[2:]
    return [{"train.py": "train", "linear_eval.py": "linear-eval"}[words[0]], *words[1:]]


@pytest.mark.parametrize("command", RUN, ids=lambda command: f"{command.page}: {command.text}")
def test_a_command_runs(
    command: Command, user: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = words_of(command.text, user)
    monkeypatch.chdir(user)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr("moco.launch.plan.refuse_absent", lambda devices: None)  # this machine may have no GPU
    if words[0] in ("train", "linear-eval") and not {"--help", "--cfg"} & {*words}:
        words.append("hydra.launcher.dry_run=true")
    code = call(words)
    out, err = capfd.readouterr()
    assert code in (0, None) and "error" not in err, f"{words}\n{out}{err}"


def test_what_is_not_run_is_on_a_page_and_has_a_reason() -> None:
    assert len(RUN) > 60 and all(why for _, why in NOT_RUN)
    for listed, _ in NOT_RUN:
        assert any(names(listed, command.text) for command in ALL), f"no page has {listed}: take it off the list"


def test_every_block_says_what_it_holds() -> None:
    for page in PAGES:
        assert {name for name, _ in BLOCK.findall(page.read_text())} <= {"sh", "text", "python", "yaml"}, page
        plain = BLOCK.sub("", page.read_text())
        assert "```" not in plain and not re.search(r"^    \S", plain, re.MULTILINE), f"{page}: mark the block"


def test_the_first_sweep(tmp_path: Path) -> None:
    """README's sweep and its report as processes, one epoch per point."""
    section = README.read_text().partition("## Your first sweep")[2].partition("\n## ")[0]
    lines = [c.text for c in RUN if c.page == README.name and c.text in section and "seed=" not in c.text]
    trained, reported, *_ = lines
    assert trained.startswith("python train.py -m ") and reported.startswith("python -m moco report")
    done = python(str(ROOT / "train.py"), *shlex.split(trained)[2:], "epochs=1", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count("done  temperature=") == 4, done.stderr
    answer = python(*shlex.split(reported)[1:], cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert answer.returncode == 0 and "is the highest of 4 configurations" in answer.stdout, answer.stderr
    assert "temperature=0.05" in (tmp_path / "report.html").read_text()


def test_tab_completion(tmp_path: Path) -> None:
    line = "python train.py recipe="
    typed = {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    answer = python(str(ROOT / "train.py"), "-sc", "query=bash", cwd=tmp_path, **typed)
    assert "recipe=quickstart" in answer.stdout.split(), answer.stderr
    script = python(str(ROOT / "train.py"), "-sc", "install=bash", cwd=tmp_path)
    assert "hydra_bash_completion" in script.stdout and not script.stderr


def test_python_on_the_pages(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user)
    [code] = blocks(ROOT / "docs/results.md", "python")  # that of extend.md is run by test_extend.py
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {})
    assert out.getvalue().count("done") == 6


def anchors(page: Path) -> set[str]:
    """The anchors that a forge gives to the page's headings."""
    heads = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.replace("`", "").lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(BLOCK.sub("", page.read_text())):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / name)) if name else page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"


def test_readme_is_short_and_leads_to_each_page() -> None:
    text = README.read_text()
    assert len(text.splitlines()) < 120
    assert all(f"](docs/{page.name})" in text for page in PAGES[1:])


def first_cells(page: str) -> list[str]:
    """What stands in the first column of the page's tables."""
    return re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / page).read_text(), re.MULTILINE)


def test_each_column_of_the_table_is_explained() -> None:
    explained = {name for cell in first_cells("results.md") for name in cell.split(", ")}
    assert {"Protocol", *SETTINGS.values(), PARAMS, MULTIPLY_ADDS, EPOCH, *ACCURACIES, "path"} <= explained


def test_each_state_and_option_is_explained() -> None:
    explained = {name for cell in first_cells("troubleshooting.md") for name in cell.split(", ")}
    assert {*map(str, State)} <= explained
    text = (ROOT / "docs/sweep.md").read_text() + (ROOT / "docs/slurm.md").read_text()
    options = {field.name for kind in (LocalOptions, SlurmOptions) for field in dataclasses.fields(kind)}
    assert not {name for name in options if not re.search(rf"`(hydra\.launcher\.)?{name}\b", text)}


@pytest.mark.parametrize("file", sorted((CONF / "recipe").glob("*.yaml")), ids=lambda file: file.stem)
def test_each_recipe_stands_beside_its_published_numbers(file: Path) -> None:
    recipe = yaml.safe_load(file.read_text())["recipe"]
    page = (ROOT / "docs/reproduce.md").read_text()
    [row] = re.findall(rf"^\| `python train.py recipe={file.stem}(?: .*)?` \|(.*)\|$", page, re.MULTILINE)
    for protocol in ("knn", "linear"):
        if reported := recipe.get(protocol):
            assert " / ".join(str(score) for score in reported if score is not None) in row
