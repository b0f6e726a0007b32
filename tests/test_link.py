"""How Redis is reached: what a URL says, and that nobody queues up behind a Redis that hangs."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from postrider import link
from postrider.sentinel import Sentinels, SentinelUrl
from tests.conftest import wait_until
from tests.reliability.redis.conftest import Server

URL = "rediss+sentinel://u:p%2Fw@h1:1,[::1]:2,10.0.0.1/my-service.1/3?sentinel_password=s%26t&ssl_ca_certs=/ca"


def test_a_sentinel_url_is_read_in_its_parts() -> None:
    url = SentinelUrl.read(URL)
    assert url.hosts == (("h1", 1), ("::1", 2), ("10.0.0.1", 26379))
    assert (url.service, url.tls) == ("my-service.1", True)
    assert url.sentinel_login == {"password": "s&t"}
    settings = {"username": "u", "password": "p/w", "db": 3, "ssl_ca_certs": "/ca"}
    assert url.settings() == settings
    assert url.at("::1", 6379) == "rediss://u:p%2Fw@[::1]:6379/3?ssl_ca_certs=%2Fca"
    assert "p%2Fw" not in repr(url)
    assert "s&t" not in repr(url)


@pytest.mark.parametrize(
    ("url", "place", "open_to_others"),
    [
        ("redis://u:p@h:1/2", "h:1", ""),
        ("redis://h:1", "h:1", "h"),
        ("redis://localhost", "localhost", ""),
        ("redis://h?password=p", "h", ""),
        ("unix:///run/s.sock", "/run/s.sock", ""),
        (URL, "h1:1,::1:2,10.0.0.1:26379/my-service.1", ""),
        ("redis+sentinel://127.0.0.1,h2:5/s", "127.0.0.1:26379,h2:5/s", "h2"),
        ("redis+sentinel://127.0.0.1/s", "127.0.0.1:26379/s", ""),
    ],
)
def test_a_place_is_named_without_its_password(url: str, place: str, open_to_others: str) -> None:
    assert link.place(url) == place
    assert link.open_to_others(url) == open_to_others


def test_no_sentinel_at_all_is_said_with_each_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    url = SentinelUrl.read(f"redis+sentinel://127.0.0.1:{free},127.0.0.1:{free}/s")
    with pytest.raises(redis.ConnectionError, match=r"no Sentinel names a master: .*refused.*, .*"):
        Sentinels(url).discover_master("s")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path / "redis").start()
    yield found
    found.end()


def hang(server: Server, client: redis.Redis) -> None:
    """Freezes it, and lets one call find that out."""
    server.hang()
    with pytest.raises(redis.TimeoutError):
        client.ping()


def test_behind_one_that_waits_nobody_else_does(server: Server) -> None:
    with link.connect(server.url, answer_within_s=1) as client:
        assert client.ping()
        hang(server, client)
        started = time.monotonic()
        for call in (client.ping, client.pipeline().ping().execute):
            with pytest.raises(link.NotAsked):
                call()
        assert time.monotonic() - started < 0.5
        server.go_on()
        wait_until(lambda: answers(client))


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_while_it_hangs_one_thread_asks(server: Server) -> None:
    before = threading.active_count()
    with link.connect(server.url, answer_within_s=1) as client:
        client.ping()
        server.hang()
        crowd = [threading.Thread(target=answers, args=[client]) for _ in range(20)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join(30)
        assert [t.name for t in threading.enumerate()].count("is-redis-back") == 1
        server.go_on()
        wait_until(lambda: answers(client))
    wait_until(lambda: threading.active_count() <= before)


def test_one_that_was_killed_while_it_hung_is_refused_at_once_and_found_again(
    server: Server,
) -> None:
    with link.connect(server.url, answer_within_s=1) as client:
        client.ping()
        hang(server, client)
        assert server.process
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        wait_until(lambda: not client._hang._hangs)  # noqa: SLF001 - else it would only seem so
        server.start()
        assert client.ping()


def test_a_quick_refusal_keeps_nobody_from_asking(server: Server) -> None:
    with link.connect(server.url) as client:
        client.ping()
        server.kill()
        with pytest.raises(redis.ConnectionError) as refused:
            client.ping()
        assert not isinstance(refused.value, link.NotAsked)
        server.start()
        assert client.ping()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (redis.exceptions.BusyLoadingError("x"), "Redis still reads its file"),
        (redis.AuthenticationError("x"), "Redis refuses our password"),
        (link.NotAsked("x"), "Redis does not answer; try again"),
        (redis.TimeoutError("x"), "Redis does not answer; try again"),
        (redis.ReadOnlyError("read only"), "Redis takes no writes: read only"),
        (
            redis.ResponseError("MISCONF Errors writing"),
            "Redis takes no writes: MISCONF Errors writing",
        ),
        (redis.exceptions.MasterDownError("x"), "Redis has lost its master"),
        (redis.ResponseError("ERR wrong"), None),
        (redis.exceptions.NoPermissionError("x"), None),
    ],
)
def test_what_may_pass_is_said_in_words(error: redis.RedisError, says: str | None) -> None:
    assert link.why_unavailable(error) == says
