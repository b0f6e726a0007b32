"""Uploads that hardly come on: they may, and others are served meanwhile."""

import base64
import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import requests

from postrider.patience import THREADS, UPLOADS
from postrider.selftest.fleet import free_port
from tests.conftest import PASSWORD, Api, Start, wait_until

FILES = {"f": ("a.txt", b"Hello")}
LOGIN = base64.b64encode(f"postrider:{PASSWORD}".encode()).decode()


@pytest.fixture
def live(start: Start) -> Api:
    """An API of one process."""
    bind = f"127.0.0.1:{free_port()}"
    start("postrider", "api", BIND=bind, API_PROCESSES="1")
    api = Api(f"http://{bind}")

    def answers() -> bool:
        try:
            return api.get("/healthz").status_code == 200
        except requests.ConnectionError:
            return False

    wait_until(answers, 30, "the API")
    return api


@pytest.fixture
def begin(live: Api) -> Callable[[str], socket.socket]:
    """Sends the beginning of an upload, and no more."""

    def run(path: str) -> socket.socket:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {LOGIN}\r\nContent-Length: 100000\r\n"
            'Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-Disposition: form-data; name="a"; '
            'filename="a.png"\r\n\r\nx'
        )
        host, _, port = live.url.removeprefix("http://").partition(":")
        connection = socket.create_connection((host, int(port)), 10)
        connection.sendall(head.encode())
        return connection

    return run


def test_slow_uploads_leave_threads_for_others(
    live: Api, begin: Callable[[str], socket.socket]
) -> None:
    """As many as there are threads, by both interfaces: half of them are refused, and nobody waits for the others."""
    with ExitStack() as stack:
        slow = [
            stack.enter_context(begin("/api/v1/files" if n % 2 else "/data"))
            for n in range(THREADS)
        ]
        refused: dict[socket.socket, bytes] = {}
        for connection in slow:
            connection.settimeout(0.01)

        def look() -> bool:
            for connection in set(slow) - refused.keys():
                try:
                    refused[connection] = connection.recv(4096)
                except TimeoutError:
                    continue
            return len(refused) == THREADS - UPLOADS

        wait_until(look, 20, "half of them refused")
        for connection, answer in refused.items():
            connection.settimeout(10)
            while not answer.endswith(b"}\n"):
                more = connection.recv(4096)
                assert more, answer
                answer += more  # noqa: PLW2901 - it comes in parts
            assert answer.startswith(b"HTTP/1.1 503 "), answer
            assert b"\r\nRetry-After: 5\r\n" in answer
            assert b"too many files are being uploaded" in answer
        assert live.get("/api/v1/me", timeout=5).status_code == 200
    # Those who went away have made room.
    wait_until(lambda: live.post("/data", files=FILES).status_code == 200, 10, "room for more")
