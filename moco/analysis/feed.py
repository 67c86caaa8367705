"""What the live page follows: a board that a thread keeps up to date, and the report below it."""

import gzip
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from moco.analysis.board import Board, Message, Stamp, stamped
from moco.analysis.records import Entry, look
from moco.analysis.report import page_content
from moco.errors import UserError
from moco.runs.run import Run
from moco.runs.state import State
from moco.runs.sweep import select

if TYPE_CHECKING:
    import jinja2

LOOK = 2.0  # seconds between looks at the disk, at least
RENEW = 5.0  # seconds between reports, at least
SHARE = 4  # and so many times as long as a look or a report takes
BEAT = 15.0  # seconds of silence after which a page is told that somebody is there


class Feed:
    """A board that a thread keeps up to date as long as pages follow it."""

    def __init__(self, board: Board):
        self.board, self.report, self.over = board, 0, False
        self.cost = 0.0  # seconds that the last report took
        self._readers, self._told, self._since = 0, "", float("-inf")
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Counts a page as long as it follows."""
        with self._news:
            self._readers += 1
            self._news.notify_all()
        try:
            yield
        finally:
            with self._news:
                self._readers -= 1

    def since(self, version: int, seconds: float = BEAT) -> Message | None:
        """What is new since that version, as soon as there is anything; None after so many seconds without."""
        with self._news:
            self._news.wait_for(lambda: self.over or self.board.version > version, seconds)
            if self.over or self.board.version <= version:
                return None
            return {**self.board.since(version), "report": self.report}

    def run(self, name: str) -> Run | None:
        """The run of that folder, if it is one of those that are shown."""
        with self._news:
            seen = self.board.seen.get(name)
            return seen.run if seen else None

    def end(self) -> None:
        with self._news:
            self.over = True
            self._news.notify_all()

    def _look(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self.over or self._readers)
                if self.over:
                    return
                began = time.monotonic()
                if self._looked() | self._renewed(began):
                    self._news.notify_all()
            time.sleep(max(LOOK, SHARE * (time.monotonic() - began)))

    def _looked(self) -> bool:
        try:
            return self.board.look()
        except (UserError, OSError) as error:  # of folders that have gone since; what was seen stays
            return self.board.tell(str(error))

    def _renewed(self, now: float) -> bool:
        """Whether another report is due: a run's state or result is another one, and the last one was not just now."""
        told = repr([(name, one.row.get("state"), one.stamp[4:5]) for name, one in self.board.seen.items()])
        if told == self._told or now - self._since < max(RENEW, SHARE * self.cost):
            return False
        self._told, self._since, self.report = told, now, self.report + 1
        self.board.version += 1
        return True


class Reports:
    """The report as a page, made anew where it is asked for and runs have changed; what has not is not read again."""

    def __init__(self, runs_dir: Path | str, names: Sequence[str], page: "jinja2.Template"):
        self.runs_dir, self.names, self.page = runs_dir, names, page
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[Stamp, Entry, State]] = {}
        self._made: tuple[int, bytes] | None = None

    def get(self, feed: Feed, script: str) -> bytes:
        """The page of the feed's report of now, zipped; script: the address of plotly's."""
        with self._lock:
            number, began = feed.report, time.monotonic()
            if self._made is None or self._made[0] != number:
                self._made = number, gzip.compress(self._render(script).encode(errors="replace"), 5)
                feed.cost = time.monotonic() - began
            return self._made[1]

    def _render(self, script: str) -> str:
        try:
            runs = select(self.runs_dir, self.names)
        except UserError:
            runs = [entry.run for _, entry, _ in self._known.values()]
        stamps = {run.folder: stamped(run) for run in runs}
        known = {f: k for f, k in self._known.items() if k[0] == stamps.get(f) and k[2].is_finished}
        fresh = [run for run in runs if run.folder not in known]
        known |= {run.folder: (stamps[run.folder], entry, state) for run, entry, state in zip(fresh, *look(fresh))}
        self._known = {run.folder: known[run.folder] for run in runs}
        entries, states = [entry for _, entry, _ in self._known.values()], [state for *_, state in self._known.values()]
        content = page_content(self.runs_dir, self.names, entries, states)
        return self.page.render(script=script, **content.values)
