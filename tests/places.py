"""Services of every kind that are none: an HTTP server on loopback that keeps what comes, and answers as told."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Call:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Status = Callable[[Call], int]
"""What to answer; 0: cut the connection; a negative number: say nothing for so many seconds."""


class Places:
    """The server, in threads. `status` may be set at any time."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.status: Status = lambda _: 200
        self.answer = b"{}"
        self.location = ""

    def __enter__(self) -> Self:
        places = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                super().handle_one_request()
                self.close_connection = True

            def take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                call = Call(self.command, self.path, headers, body)
                places.calls.append(call)
                status = places.status(call)
                if status < 0:
                    time.sleep(-status)
                if status <= 0:
                    return
                self.send_response(status)
                if places.location:
                    self.send_header("Location", places.location)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(places.answer)))
                self.end_headers()
                self.wfile.write(places.answer)

            do_GET = do_POST = do_PUT = take  # noqa: N815 - the base class looks for these names

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.place = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
