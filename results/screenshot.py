"""What a command shows in a terminal after some seconds, as an SVG: python results/screenshot.py OUT.svg SECONDS COMMAND ...

Needs rich (pip install rich). Of a screen that is redrawn the last whole one counts.
"""

import os
import pty
import select
import signal
import sys
import time

from rich.console import Console
from rich.text import Text

CLEAR = "\033[H\033[2J"


def screen(command: list[str], seconds: float) -> str:
    """The last screen of the command in a pseudo-terminal; it gets Ctrl-C in the end."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)
    shown, deadline = b"", time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # it has ended
                break
    os.kill(child, signal.SIGINT)
    os.waitpid(child, 0)
    return shown.decode().split(CLEAR)[-1].replace("\r\n", "\n").strip("\n")


if __name__ == "__main__":
    out, seconds, *command = sys.argv[1:]
    text = Text.from_ansi(screen(command, float(seconds)))
    width = max(len(line) for line in text.plain.splitlines())
    console = Console(record=True, width=width, file=open(os.devnull, "w"))
    console.print(text)
    console.save_svg(out, title="$ " + " ".join(command).replace(sys.executable, "python"))
