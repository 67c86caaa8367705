"""Output that cannot be written is dropped: no output is worth a training."""

import contextlib
import errno
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # the reader or the terminal has gone, and will not come back


class _Forgiving(io.FileIO):
    """A descriptor whose writes never fail."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in GONE:  # for processes of ours too, which SIGPIPE would kill
                with contextlib.suppress(OSError):
                    _open_null(self.fileno())
            return memoryview(data).nbytes


def forgive() -> None:
    """Makes stdout and stderr of this process such that nothing raises there.

    A closed pipe or terminal, a full disk and characters that the encoding lacks are let pass. A descriptor that was
    closed is opened on /dev/null, since the next file to be opened would take its number, and with it what is printed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _open_null(number)
    sys.stdout, sys.stderr = _stream(sys.stdout, 1), _stream(sys.stderr, 2)


def stand(folder: Path) -> None:
    """Goes to that folder where the working directory has been deleted: libraries ask for it that need none."""
    try:
        os.getcwd()
    except FileNotFoundError:
        os.chdir(folder)


def _stream(before: TextIO | None, number: int) -> TextIO:
    """The same stream in a form that never raises; what somebody else has put in its place stays."""
    encoding, by_line = "utf-8", number == 2
    if before is not None:
        if not isinstance(before, io.TextIOWrapper) or isinstance(getattr(before.buffer, "raw", None), _Forgiving):
            return before
        try:
            if before.fileno() != number:
                return before
            before.flush()
        except OSError:
            pass
        encoding, by_line = before.encoding, before.line_buffering or before.write_through
    buffer = io.BufferedWriter(_Forgiving(number, "w", closefd=False))
    return io.TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace", line_buffering=by_line)


def _open_null(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
