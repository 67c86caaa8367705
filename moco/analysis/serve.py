"""python -m moco report --serve: the report on this machine's 127.0.0.1, with what happens now above it.

Reads the disk and writes nothing. A page gets what has changed as server-sent events; as long as none is open, nobody looks.
Every address holds a token, and the Host header must name this machine, so that no other page of a browser gets an answer.
"""

import getpass
import gzip
import hmac
import json
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from moco.analysis.board import Board, log_end
from moco.analysis.feed import Feed, Reports
from moco.analysis.page import template
from moco.analysis.repeat import resuming
from moco.errors import UserError
from moco.runs import clock
from moco.runs.run import Run
from moco.runs.sweep import select

HERE = ("127.0.0.1", "localhost", "::1")  # what a browser may call this machine, through a tunnel too
IDLE = 60.0  # seconds after which a connection that says nothing or takes nothing is closed
LINES = 60  # of a log's end
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; "
    "frame-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
FRAMED = "frame-ancestors 'self'"


class Server(ThreadingHTTPServer):
    """The server of one board."""

    daemon_threads = True

    def __init__(self, runs_dir: Path | str, names: Sequence[str], port: int):
        """Raises:
        UserError: plotly or jinja2 is not installed, a name is unknown, there are no runs, or the port is taken.
        """
        self.page, plotly = template("serve.html.j2", "--serve")
        self.plotly = gzip.compress(plotly.encode(), 5)
        framed, _ = template("serve_report.html.j2", "--serve")
        select(runs_dir, names)
        self.runs_dir, self.names = runs_dir, [*names]
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"port {port} cannot be had ({reason}): give another, or leave --port out") from error
        self.token = secrets.token_urlsafe(24)
        self.reports = Reports(runs_dir, names, framed)
        self.feed = Feed(Board(runs_dir, names))
        self.composing = threading.Lock()  # Hydra composes one thing at a time

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/?token={self.token}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A page that has gone is no error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "moco", ""
    timeout = IDLE

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        given = {key: values[-1] for key, values in parse_qs(address.query).items()}
        if not self._is_here() or not hmac.compare_digest(given.get("token", "").encode(), self.server.token.encode()):
            self._text("403: this page opens with the whole address that --serve has printed\n", HTTPStatus.FORBIDDEN)
        elif answer := self.ANSWERS.get(address.path):
            answer(self, given)
        else:
            self._text("404: there is no such page\n", HTTPStatus.NOT_FOUND)

    def _is_here(self) -> bool:
        """Whether the browser means this machine: a foreign name that leads here is another site's trick."""
        try:
            return urlsplit(f"//{self.headers.get('Host', '')}").hostname in HERE
        except ValueError:
            return False

    def _page(self, given: dict[str, str]) -> None:
        nonce = secrets.token_urlsafe(16)
        names = self.server.names
        title = ", ".join(names) or f"All runs in {Path(self.server.runs_dir).absolute().name}"
        page = self.server.page.render(title=title, token=self.server.token, nonce=nonce, host=socket.gethostname())
        self._send(gzip.compress(page.encode(errors="replace")), "text/html", POLICY.format(nonce=nonce))

    def _plotly(self, given: dict[str, str]) -> None:
        self._send(self.server.plotly, "text/javascript", kept="private, max-age=86400")

    def _report(self, given: dict[str, str]) -> None:
        script = f"plotly.js?token={self.server.token}"
        try:
            page = self.server.reports.get(self.server.feed, script)
        except Exception as error:  # one bad folder must not take the rest of the page away
            self._text(f"The report cannot be made ({type(error).__name__}: {error})", HTTPStatus.INTERNAL_SERVER_ERROR)
            raise
        self._send(page, "text/html", FRAMED)

    def _log(self, given: dict[str, str]) -> None:
        if run := self._named(given):
            self._text("\n".join(log_end(run, LINES)) or "It has no log yet.")

    def _command(self, given: dict[str, str]) -> None:
        if run := self._named(given):
            try:
                with self.server.composing:
                    self._text(_command(run, self.server.runs_dir))
            except UserError as error:
                self._text(str(error), HTTPStatus.CONFLICT)

    def _named(self, given: dict[str, str]) -> Run | None:
        """The run that is asked for; says so where there is none."""
        run = self.server.feed.run(given.get("run", ""))
        if run is None:
            self._text("404: there is no such run\n", HTTPStatus.NOT_FOUND)
        return run

    def _events(self, given: dict[str, str]) -> None:
        """What changes, until the page is closed or the server ends."""
        feed, version, last = self.server.feed, 0, self.headers.get("Last-Event-ID", "")
        if last.isdecimal():
            version = int(last)
        self.close_connection = True
        self._head(HTTPStatus.OK, "text/event-stream", "no-store", {"Connection": "close"})
        with feed.reading():
            while not feed.over:
                message = feed.since(version)
                if message is None:
                    self.wfile.write(b": there\n\n")
                    continue
                version = int(str(message["version"]))
                self.wfile.write(f"id: {version}\ndata: {json.dumps(message)}\n\n".encode())
                self.wfile.flush()

    def _text(self, text: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(gzip.compress(text.encode(errors="replace")), "text/plain", status=status)

    def _send(
        self,
        content: bytes,
        kind: str,
        policy: str = "default-src 'none'",
        kept: str = "no-store",
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        """Sends what is zipped."""
        if "gzip" not in self.headers.get("Accept-Encoding", ""):
            content, zipped = gzip.decompress(content), dict[str, str]()
        else:
            zipped = {"Content-Encoding": "gzip"}
        more = {"Content-Length": str(len(content)), "Content-Security-Policy": policy, **zipped}
        self._head(status, f"{kind}; charset=utf-8", kept, more)
        self.wfile.write(content)

    def _head(self, status: HTTPStatus, kind: str, kept: str, more: dict[str, str]) -> None:
        self.send_response(status)
        always = {
            "Content-Type": kind,
            "Cache-Control": kept,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in {**always, **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: addresses hold the token."""

    ANSWERS: ClassVar[dict[str, Callable[["Handler", dict[str, str]], None]]] = {
        "/": _page,
        "/plotly.js": _plotly,
        "/report": _report,
        "/log": _log,
        "/command": _command,
        "/events": _events,
    }


@cache
def _command(run: Run, runs_dir: Path | str) -> str:
    """The command that goes on with a run: its configuration is frozen, so it stays the same."""
    return resuming(run, runs_dir)


def serve(runs_dir: Path | str, names: Sequence[str], port: int = 0) -> None:
    """Serves the page until Ctrl-C; port 0: a free one.

    Raises:
        UserError: as Server.
    """
    with clock.looking_only():
        _serve(runs_dir, names, port)


def _serve(runs_dir: Path | str, names: Sequence[str], port: int) -> None:
    server = Server(runs_dir, names, port)
    port = server.server_port
    tunnel = f"ssh -N -L {port}:127.0.0.1:{port} {getpass.getuser()}@{socket.gethostname()}"
    lines = (
        server.address,
        f"from another machine, the same address after  {tunnel}",
        "Ctrl-C ends it; runs do not mind",
    )
    try:
        print("\n".join(lines), flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nended", file=sys.stderr)
    finally:
        server.feed.end()
        server.server_close()
