"""Redis gone at the worst moment: between us and it stands a line that can be cut on a word."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from werkzeug.test import TestResponse

from postrider.service import Service
from postrider.settings import Settings
from postrider.web import create_app
from tests.conftest import PASSWORD, wait_until


class Line:
    """Carries bytes between a client and Redis, and hangs up when it hears `cut_on`: before or after Redis hears it."""

    def __init__(self, redis_path: str, path: Path) -> None:
        self.cut_on = b""
        self.redis_hears_it = True
        self._redis_path = redis_path
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._redis_path)
                threading.Thread(
                    target=self._carry, args=(client, there, True), daemon=True
                ).start()
                threading.Thread(
                    target=self._carry, args=(there, client, False), daemon=True
                ).start()

    def _carry(self, source: socket.socket, sink: socket.socket, to_redis: bool) -> None:
        with contextlib.suppress(OSError), source, sink:
            while data := source.recv(1 << 20):
                cut = to_redis and self.cut_on and self.cut_on in data
                if cut and self.redis_hears_it:
                    source.shutdown(socket.SHUT_RDWR)
                if not cut or self.redis_hears_it:
                    sink.sendall(data)
                if cut:
                    sink.shutdown(socket.SHUT_WR)
                    return


@pytest.fixture
def line(redis_url: str, client: redis.Redis, tmp_path: Path) -> Iterator[Line]:
    found = Line(redis_url.removeprefix("unix://"), tmp_path / "line")
    yield found
    found.close()


def post(env: dict[str, str], tmp_path: Path, body: str, recipients: int = 1) -> TestResponse:
    settings = Settings.from_env(env | {"REDIS_URL": f"unix://{tmp_path}/line"}, None)
    to = [{"uuid": str(n), "service": "sandbox"} for n in range(recipients)]
    api = create_app(settings, sweeps=False).test_client()
    message = {"body": body, "send_at": "2030-10-05 13:48:00", "recipients": to}
    return api.post("/send_message", json=message, auth=("postrider", PASSWORD))


def test_gone_at_the_commit_nobody_can_say_and_the_answer_says_so(
    env: dict[str, str], line: Line, service: Service, tmp_path: Path
) -> None:
    assert post(env, tmp_path, "an earlier one, so that Redis knows the script").status_code == 200
    line.cut_on = b"the words of this message"
    reply = post(env, tmp_path, "the words of this message")
    assert reply.status_code == 503
    assert reply.json["accepted"] == "unknown"
    assert reply.headers["Retry-After"] == "1"
    wait_until(lambda: service.scheduled(1, None).total == 2, what="it was: Redis had heard it")


def test_gone_before_the_commit_nothing_is_accepted(
    env: dict[str, str], line: Line, service: Service, client: redis.Redis, tmp_path: Path
) -> None:
    line.cut_on = b"the words of this message"
    line.redis_hears_it = False
    reply = post(env, tmp_path, "the words of this message", recipients=2500)
    assert reply.status_code == 503
    assert "accepted" not in reply.json
    assert not list(client.scan_iter("pr:m:*"))
    assert service.scheduled(1, None).total == 0


def test_gone_after_the_commit_it_is_accepted_and_armed_by_the_sweep(
    env: dict[str, str], line: Line, service: Service, client: redis.Redis, tmp_path: Path
) -> None:
    line.cut_on = b"$1\r\n4\r\n"  # the phase that arms
    line.redis_hears_it = False
    assert post(env, tmp_path, "Hello", recipients=2500).status_code == 200
    assert service.scheduled(1, None).total == 0
    ((mid, _),) = client.zrange("pr:accepting", 0, 0, withscores=True)
    client.zadd("pr:accepting", {mid: 1.0})  # as if its time were over
    service.sweep()
    assert service.scheduled(1, None).total == 2500
