"""Connections that clients keep: who answers on them, and how they are shared out."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from postrider.patience import LINGER_S
from postrider.selftest.fleet import free_port
from tests.conftest import Api, Start, connected_to, ended, wait_until

ASK = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture
def serve(start: Start) -> Callable[[int], tuple[Api, subprocess.Popen[bytes]]]:
    """Starts the API with so many processes."""

    def run(processes: int) -> tuple[Api, subprocess.Popen[bytes]]:
        bind = f"127.0.0.1:{free_port()}"
        process = start("postrider", "api", BIND=bind, API_PROCESSES=str(processes))
        api = Api(f"http://{bind}")

        def answers() -> bool:
            with suppress(OSError):
                return api.get("/healthz").status_code == 200
            return False

        wait_until(answers, 30, "the API")
        api.close()
        return api, process

    return run


@contextmanager
def kept(url: str) -> Iterator[socket.socket]:
    with connected_to(url) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def answers_in(connection: socket.socket, number: int) -> None:
    """Reads so many answers, no more and no less."""
    got = b""
    while got.count(b"HTTP/1.1 200 OK") < number or not got.endswith(b"}\n"):
        more = connection.recv(65536)
        assert more, got
        got += more
    assert got.count(b"HTTP/1.1 200 OK") == number


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that answer: the children of the one that was started."""
    told = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in told.split()]


def sockets_of(pid: int) -> int:
    links = Path(f"/proc/{pid}/fd").iterdir()
    found = 0
    for link in links:
        with suppress(OSError):
            found += "socket:" in str(link.readlink())
    return found


def test_each_request_of_a_connection_is_answered_however_soon_the_next_one_follows(
    serve: Callable[[int], tuple[Api, subprocess.Popen[bytes]]],
) -> None:
    api, _ = serve(1)
    with kept(api.url) as connection:
        for pause_s in (0, 0, LINGER_S / 2, 2 * LINGER_S, 0, LINGER_S):
            time.sleep(pause_s)
            connection.sendall(ASK)
            answers_in(connection, 1)
        connection.sendall(ASK * 3)  # at once
        answers_in(connection, 3)
        connection.sendall(ASK[:20])  # in two parts
        time.sleep(LINGER_S)
        connection.sendall(ASK[20:])
        answers_in(connection, 1)


def test_an_end_is_not_put_off_by_connections_that_are_kept(
    serve: Callable[[int], tuple[Api, subprocess.Popen[bytes]]],
) -> None:
    api, process = serve(1)
    with kept(api.url) as connection:
        connection.sendall(ASK)
        answers_in(connection, 1)
        process.terminate()
        assert ended(process) == 0
        assert connection.recv(1) == b""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc")
def test_connections_that_are_kept_are_shared_out(
    serve: Callable[[int], tuple[Api, subprocess.Popen[bytes]]],
) -> None:
    api, process = serve(2)
    wait_until(lambda: len(workers(process)) == 2)
    first, second = workers(process)
    with ExitStack() as stack:

        def open_and_count() -> tuple[int, int]:
            before = sockets_of(first), sockets_of(second)
            for _ in range(12):
                connection = stack.enter_context(kept(api.url))
                connection.sendall(ASK)
                answers_in(connection, 1)
            return sockets_of(first) - before[0], sockets_of(second) - before[1]

        wait_until(lambda: min(open_and_count()) >= 3)  # one of them may have been up later


@pytest.mark.parametrize("size", [1_000, 40_000, 100_000])
def test_who_sends_a_body_that_nobody_reads_can_ask_again(
    serve: Callable[[int], tuple[Api, subprocess.Popen[bytes]]], size: int
) -> None:
    """A connection goes on, or its end is announced: a request that follows is not sent in vain."""
    api, _ = serve(1)
    with api:
        for _ in range(20):
            assert api.post("/get_scheduled", json={"text": "x" * size}).status_code == 405
            assert api.get("/healthz").status_code == 200


def test_nobody_waits_for_clients_that_do_not_hang_up(
    serve: Callable[[int], tuple[Api, subprocess.Popen[bytes]]],
) -> None:
    """20 that have asked for the end of their connection, have their answer, and stay."""
    api, _ = serve(1)
    with ExitStack() as stack:
        for _ in range(20):
            stayer = stack.enter_context(kept(api.url))
            stayer.sendall(ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            answers_in(stayer, 1)
            began = time.monotonic()
            assert stack.enter_context(Api(api.url)).get("/healthz").status_code == 200
            assert time.monotonic() - began < 1
