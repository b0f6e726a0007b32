"""Who receives callbacks and notifications, on loopback: keeps what came as it came, and answers as a test says."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Got:
    """One call."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    method: str = "POST"

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Says:
    """An answer, given after a while; `cut`: none, but the end of the connection."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    after_s: float = 0.0
    cut: bool = False


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error of ours."""


class Receiver:
    """Use as a context manager; `script` may be set at any time."""

    def __init__(self) -> None:
        self.calls: list[Got] = []
        self.script: Callable[[Got], Says] = lambda _: Says()
        self.lock = threading.Lock()
        self.now = 0
        self.most = 0
        """How many calls were under way at once, at most."""

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                with outer.lock:
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                got = Got(self.path, headers, body, time.time(), self.command)
                says = outer.script(got)
                with outer.lock:
                    outer.calls.append(got)
                time.sleep(says.after_s)
                with outer.lock:
                    outer.now -= 1
                if says.cut:
                    self.close_connection = True
                    return
                self.send_response(says.status)
                for name, value in says.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(says.body)))
                self.end_headers()
                self.wfile.write(says.body)

            do_GET = do_PUT = do_POST  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.place}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
