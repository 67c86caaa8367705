"""Several processes and one new folder of images: one decodes, the others wait, and all hear a signal at once."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from common import ENVIRONMENT, METHODS, ROOT, TINY
from PIL import Image

from moco import io
from moco.data import load_image_folder, packing, place
from moco.data.decode import read_image
from moco.runs.lease import Stopped
from moco.training.signals import Signals

N = 40
# Writes the name of each file that it decodes, and goes on once the file "go" is there.
DECODER = """
import sys, time
from pathlib import Path
from moco import io
from moco.data import load_image_folder, packing
io.LOCK_TOLD = 0.0
read = packing.read_image
def slowly(path, size):
    with open("decoded", "a") as file:
        file.write(Path(path).name + "\\n")
    while not Path("go").exists():
        time.sleep(0.01)
    return read(path, size)
packing.read_image = slowly
print(load_image_folder("root", None).fingerprint())
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for i in range(N):
        path = tmp_path / "root" / ("train" if i else "test") / "a" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "root"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start("-c", code) -> a process in tmp_path; none outlives the test."""
    environment = {**ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    with contextlib.ExitStack() as processes:

        def begin(*words: str) -> "subprocess.Popen[str]":
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.enter_context(process)
            processes.callback(process.kill)
            return process

        yield begin


def said(process: "subprocess.Popen[str]") -> str:
    """The next line on stderr."""
    assert process.stderr
    return process.stderr.readline()


def test_one_decodes_and_the_others_wait(root: Path, tmp_path: Path, start: Start) -> None:
    first = start("-c", DECODER)
    assert said(first) == f"decoding {N} of {N} images\n"
    others = [start("-c", DECODER) for _ in range(2)]
    for other in others:
        line = said(other)
        assert line.startswith(f"waits for process {first.pid} on ") and line.endswith(f"packs the images of {root}\n")
    training = start(str(ROOT / "train.py"), *METHODS["simclr"], *TINY[2:], "data=image_folder", "data.root=root")
    while not (line := said(training)).startswith("waits for process"):
        assert line, "it did not wait"
    training.send_signal(signal.SIGTERM)
    assert training.wait(60) == 75
    assert "SIGTERM: stops before the first step" in training.communicate()[1] and not (tmp_path / "runs").exists()
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=120) for process in (first, *others)]
    assert len({out for out, _ in outputs}) == 1 and outputs[0][0], outputs
    assert sorted((tmp_path / "decoded").read_text().split()) == [f"{i:02d}.png" for i in range(N)]


def test_who_gives_no_sign_of_life_is_not_waited_for(
    root: Path, start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = start("-c", DECODER)
    assert said(first).startswith("decoding")
    first.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(place, "SILENCE", 0.1)
    monkeypatch.setattr(io, "LOCK_TOLD", 0.0)
    assert len(load_image_folder(str(root), None).train_images) == N - 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("waits for process") and lines[1] == f"decoding {N} of {N} images"


def test_a_holder_that_gives_signs_of_life_is_waited_for(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs come twenty times as often as they must; and ten times the patience passes."""
    code = "import sys, time\nfrom pathlib import Path\nfrom moco import io\nio.BEAT = 0.05\n"
    code += "with io.locked(Path('lock'), silence=1.0):\n    print('held', flush=True)\n    time.sleep(60)"
    holder = start("-c", code)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    seen = set[int]()

    def look() -> None:
        seen.add((tmp_path / "lock").stat().st_mtime_ns)
        if len(seen) == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), io.locked(tmp_path / "lock", look, silence=5.0):
        pytest.fail("went on beside the holder")


# Packs root/ as one kind or the other, and is killed when it is about to decode 30.png and 20 images are written.
KILLED = """
import os, signal, sys
from moco.data import load_image_folder, pack, packing
def until(read):
    def stopped(path, size):
        if path.endswith("30.png"):
            while os.path.getsize(f"root/.moco/.6-{sys.argv[1]}.pack.rows") < 20 * pack.RECORD.itemsize:
                pass
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, size)
    return stopped
packing.read_image, packing.read_small = until(packing.read_image), until(packing.read_small)
load_image_folder("root", 6, sys.argv[1])
"""


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_a_kill_loses_nothing_that_is_packed(
    kind: Literal["raw", "jpeg"], root: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start("-c", KILLED, kind).wait(60) == -signal.SIGKILL
    names: list[str] = []
    for word in ("read_image", "read_small"):
        read = getattr(packing, word)
        monkeypatch.setattr(
            packing, word, lambda path, size, read=read: names.append(Path(path).name) or read(path, size)
        )
    load_image_folder(str(root), 6, kind)
    assert "30.png" in names and len(names) <= N - 20
    [whole] = (root / ".moco").glob("*.pack")
    assert [*(root / ".moco").glob(".*")] == [root / ".moco" / f".{whole.name}.lock"]
    content = whole.read_bytes()
    whole.unlink()
    load_image_folder(str(root), 6, kind)
    assert whole.read_bytes() == content  # of one that was never killed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_decoding_and_what_is_decoded_is_kept(
    number: signal.Signals, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[str] = []
    with Signals() as signals, monkeypatch.context() as patch:

        def until(path: str, size: int | None) -> object:
            if path.endswith("20.png"):
                os.kill(os.getpid(), number)
                while signals.received is None:
                    pass
                raise packing.Unreadable("too late")
            before.append(Path(path).name)
            return read_image(path, size)

        patch.setattr(packing, "read_image", until)
        with pytest.raises(Stopped, match=number.name), signals.preparing():
            load_image_folder(str(root), None)
    after: list[str] = []
    monkeypatch.setattr(
        packing, "read_image", lambda path, size: after.append(Path(path).name) or read_image(path, size)
    )
    assert len(load_image_folder(str(root), None).train_images) == N - 1
    assert len(before) >= 19 and not set(before) & set(after) and "20.png" in after
