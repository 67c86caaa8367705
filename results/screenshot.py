"""What a command shows in a terminal after some seconds, as an SVG: python results/screenshot.py OUT.svg SECONDS COMMAND ...

The terminal is as large as this one, or as the variables COLUMNS and LINES say. Understood are text, colours and what
rich's live displays write to draw in place.
"""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import sys
import termios
import time

from rich.console import Console
from rich.text import Text

GRACE = 5.0  # seconds between Ctrl-C and the end
CONTROLS = re.compile(r"(\033\[\d*A|\033\[2K|\033\[\?25[hl]|\r|\n)")


def written(command: list[str], seconds: float, width: int, height: int) -> str:
    """What the command writes into a pseudo-terminal in that time; it gets Ctrl-C in the end."""
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a job in the background inherits as ignored
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        os.execvpe(command[0], command, {**os.environ, "TERM": "xterm-256color"})
    found = _read(terminal, seconds)
    os.kill(child, signal.SIGINT)
    _read(terminal, GRACE)  # or it would wait for somebody to read what it writes at its end
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return found.decode(errors="replace")


def _read(terminal: int, seconds: float) -> bytes:
    """What comes in that time, or until the end."""
    found, deadline = b"", time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            try:
                found += os.read(terminal, 65536)
            except OSError:  # it has ended
                break
    return found


def screen(text: str) -> list[str]:
    """The lines on the terminal once all of the text has been written, with their colours."""
    lines, row = [""], 0
    for part in CONTROLS.split(text):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and CONTROLS.fullmatch(part):
            row = max(0, row - int(part[2:-1] or 1))
        elif part == "\033[2K":
            lines[row] = ""
        elif not CONTROLS.fullmatch(part):
            lines[row] += part
    return lines


if __name__ == "__main__":
    out, seconds, *command = sys.argv[1:]
    width, height = shutil.get_terminal_size((110, 40))
    lines = screen(written(command, float(seconds), width, height))
    shown = Text.from_ansi("\n".join(lines).strip("\n"))
    console = Console(record=True, width=max(map(len, shown.plain.splitlines())), file=open(os.devnull, "w"))
    console.print(shown)
    console.save_svg(out, title="$ " + " ".join(command).replace(sys.executable, "python"))
