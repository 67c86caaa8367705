"""The picture of a terminal: what is redrawn stands in it once."""

import os
import re
import sys
from pathlib import Path

from common import ROOT, python

SCRIPT = ROOT / "results" / "screenshot.py"


def texts(svg: Path) -> str:
    """The picture's text without its title; pieces of different colours are joined."""
    found = re.findall(r'<text class="[^"]*-r\d+" x="\d[^>]*>(.*?)</text>', svg.read_text())
    return "".join(found).replace("&#160;", " ")


def test_of_a_display_that_is_drawn_in_place_the_last_state_is_kept(tmp_path: Path) -> None:
    code = (
        "import time; from rich.console import Console; from rich.live import Live\n"
        "with Live(console=Console(), auto_refresh=False, transient=True) as live:\n"
        "    for i in range(1000):\n"
        "        live.update(f'count {i // 3}\\nsecond line of {i}\\nthird', refresh=True); time.sleep(0.01)\n"
    )
    shown = python(
        str(SCRIPT), "out.svg", "2", sys.executable, "-c", code, cwd=tmp_path, **{**os.environ, "COLUMNS": "60"}
    )
    assert shown.returncode == 0, shown.stderr
    text = texts(tmp_path / "out.svg")
    assert len(re.findall(r"count \d+", text)) == 1 and text.count("third") == 1
    assert int(re.findall(r"second line of (\d+)", text)[0]) > 3


def test_lines_that_stay_are_kept(tmp_path: Path) -> None:
    code = "from rich.console import Console; [Console().print(f'[red]line {i}[/]') for i in range(3)]"
    shown = python(str(SCRIPT), "out.svg", "30", sys.executable, "-c", code, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert re.findall(r"line \d", texts(tmp_path / "out.svg")) == ["line 0", "line 1", "line 2"]
