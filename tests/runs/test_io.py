"""Small files and locks."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from common import ROOT

from moco import io
from moco.errors import UserError


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_in_one_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    line = f"{tmp_path}/lock cannot be locked \\({os.strerror(number)}\\): give a runs_dir on a file system with locks"
    for _ in range(2):  # the first try must not leave a file behind that stands in for the lock
        with pytest.raises(UserError, match=f"^{line}"), io.locked(tmp_path / "lock"):
            pytest.fail("went on unlocked")


def test_a_lock_excludes_others_and_ends_with_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import sys, time, pathlib\nfrom moco.io import locked\n"
    code += "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with monkeypatch.context() as patch:
            patch.setattr(io, "LOCK_SECONDS", 1.0)
            patch.setattr(io, "LOCK_TOLD", 0.1)
            who = f"process {holder.pid} on {socket.gethostname()}"
            os.kill(holder.pid, signal.SIGSTOP)  # a stopped holder keeps it, as a host does that has left
            with pytest.raises(UserError, match=f"lock has been locked by {who} for 1 s: end it"), io.locked(path):
                pytest.fail("went on beside the holder")
            assert capsys.readouterr().err == f"waits for {path}, which {who} has locked\n"
    finally:
        holder.kill()
        holder.communicate()
    for _ in range(2):
        with io.locked(path):
            assert path.exists()
