"""A stand-in for the W&B server: keeps what real clients upload, by run. `refuse` makes it turn every run away."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, dict[str, Any]] = {}
        self.refuse: set[str] = set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that ended in the middle is nothing to tell."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def history(self, run_id: str) -> list[dict[str, Any]]:
        """The rows of the run, without wandb's own times."""
        rows = [json.loads(row) for row in self.runs[run_id]["history"]]
        return [{k: v for k, v in row.items() if k not in ("_timestamp", "_runtime")} for row in rows]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer({})

    def do_PUT(self) -> None:
        self.body()
        self.answer({})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/graphql":
            asked = json.loads(body)
            answer = self.graphql(asked["query"], asked.get("variables") or {})
            self.answer(answer, 400 if "errors" in answer else 200)
            return
        if self.path.endswith("/file_stream"):
            run, files = self.server.runs[self.path.split("/")[4]], json.loads(body).get("files", {})
            if "wandb-history.jsonl" in files:
                chunk = files["wandb-history.jsonl"]
                run["history"][chunk["offset"] :] = chunk["content"]
            if "wandb-summary.json" in files:
                run["summary"] = json.loads(files["wandb-summary.json"]["content"][0])
        self.answer({})

    def graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": "E", "name": "me"}
        if "mutation UpsertBucket" in query:
            if given["name"] in self.server.refuse:
                return {"errors": [{"message": "permission denied"}]}
            run = self.server.runs.setdefault(given["name"], {"history": []})
            run |= {key: value for key, value in given.items() if value is not None}
            bucket = {
                "id": "R",
                "name": given["name"],
                "displayName": run["displayName"],
                "config": run["config"],
                "project": {"id": "P", "name": run["project"], "entity": entity},
            }
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "RunResumeStatus" in query:
            there = self.server.runs.get(given["name"])
            model = {"id": "P", "name": given["project"], "entity": entity}
            return {"data": {"model": {**model, "bucket": _bucket(given["name"], there) if there else None}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.address}/files/{name}"} for name in given["files"]]
            return {"data": {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": files}}}
        if "viewer" in query.lower():
            viewer = {"id": "V", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
            return {"data": {"viewer": viewer}}
        return {"data": {}}

    def body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def answer(self, content: dict[str, Any], code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _bucket(name: str, run: dict[str, Any]) -> dict[str, Any]:
    """What a client that goes on with a run is told of it."""
    return {
        "id": "R",
        "name": name,
        "displayName": run["displayName"],
        "summaryMetrics": json.dumps(run.get("summary", {})),
        "logLineCount": 0,
        "historyLineCount": len(run["history"]),
        "eventsLineCount": 0,
        "historyTail": json.dumps(run["history"][-1:]),
        "eventsTail": "[]",
        "config": run["config"],
        "tags": run.get("tags") or [],
        "notes": None,
        "wandbConfig": json.dumps({"t": {}}),
    }


@contextmanager
def wandb_server() -> Iterator[Server]:
    server = Server()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
