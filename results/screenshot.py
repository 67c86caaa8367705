"""What a command shows in a terminal after some seconds, as an SVG: python results/screenshot.py OUT.svg SECONDS COMMAND ...

Of a screen that is redrawn in place the last whole one counts.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 110, 40
ERASED = re.compile(r"(?:\r?\x1b\[2K(?:\x1b\[1A)?)+")  # what rich writes before it draws anew
CURSOR = re.compile(r"\x1b\[\?25[lh]")


def screen(command: list[str], seconds: float) -> str:
    """The last screen of the command in a pseudo-terminal; it gets Ctrl-C in the end."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    shown, deadline = b"", time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # it has ended
                break
    os.kill(child, signal.SIGINT)
    os.waitpid(child, 0)
    frames = ERASED.split(CURSOR.sub("", shown.decode(errors="replace")))
    return next(frame for frame in reversed(frames) if frame.strip()).replace("\r\n", "\n").strip("\n")


if __name__ == "__main__":
    out, seconds, *command = sys.argv[1:]
    text = Text.from_ansi(screen(command, float(seconds)))
    width = max(len(line) for line in text.plain.splitlines())
    console = Console(record=True, width=width, file=open(os.devnull, "w"))
    console.print(text)
    console.save_svg(out, title="$ " + " ".join(command).replace(sys.executable, "python"))
