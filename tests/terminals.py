"""Commands in a real terminal, a pseudo-terminal of a given size."""

import contextlib
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

from common import ENVIRONMENT, ROOT


class Terminal:
    """The terminal of a command that runs."""

    def __init__(self, master: int):
        self.master, self.seen = master, b""

    def wait(self, wanted: str, seconds: float = 300) -> str:
        """What has been written, once this text has come."""
        deadline = time.monotonic() + seconds
        while wanted not in plain(self.seen.decode(errors="replace")) and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # it has ended
                self.seen += os.read(self.master, 65536) if select.select([self.master], [], [], 1)[0] else b""
        text = self.seen.decode(errors="replace")
        assert wanted in plain(text), text
        return text

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)


def plain(text: str) -> str:
    """The text without colours and movements of the cursor."""
    return re.sub(r"\033\[[\d;?]*[A-Za-z]", "", text)


def terminal(
    command: list[str],
    width: int,
    height: int,
    talk: Callable[[Terminal], None] = lambda screen: None,
    code: int = 0,
    cwd: Path | None = None,
    **environment: str,
) -> str:
    """What a python command wrote into a terminal of that size; it ends with this code.

    Args:
        talk: talks with it meanwhile.
    """
    child, master = pty.fork()
    if child == 0:
        ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        if cwd:
            os.chdir(cwd)
        # Without the COLUMNS that readline has set behind Python's back, which would count more than the terminal's size.
        known = {key: value for key, value in ENVIRONMENT.items() if key not in ("COLUMNS", "LINES")}
        env = {**known, "TERM": "xterm", "PYTHONPATH": str(ROOT), **environment}
        os.execve(sys.executable, [sys.executable, *command], env)
    screen = Terminal(master)
    talk(screen)
    with contextlib.suppress(OSError):  # it has ended
        while chunk := os.read(master, 65536):
            screen.seen += chunk
    seen = screen.seen.decode(errors="replace")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code, seen
    return seen
