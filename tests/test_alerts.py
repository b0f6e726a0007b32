"""What operators are told: once, and again when it is over; by a place on loopback that takes what Apprise sends."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis

from messengers.base import Retry
from postrider import alerts, verdicts
from postrider.alerts import Alerts
from postrider.errors import Misconfigured
from postrider.link import connect
from postrider.model import NewMessage, Recipient
from postrider.service import Service
from postrider.settings import Settings
from tests.conftest import Start, wait_until
from tests.fake import FakeMessenger, says

ACCOUNT = "telegram"


class Place:
    """Takes alerts, unless `status` says otherwise."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.status = 200
        place = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if place.status == 200:
                    place.said.append(body["message"])
                self.send_response(place.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = (
            f"json://planted-user:planted-pass@127.0.0.1:{self.server.server_port}/planted-path"
        )


@pytest.fixture
def place() -> Iterator[Place]:
    found = Place()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.server.shutdown()
    thread.join(10)
    found.server.server_close()


@pytest.fixture
def told(place: Place, env: dict[str, str], client: redis.Redis) -> Alerts:
    env["ALERT_URLS"] = place.url
    return Alerts(client, Settings.from_env(env, None))


def refuse(client: redis.Redis, why: str = "Unauthorized") -> None:
    until = str(time.time() + 600)
    client.hset(f"pr:account:{ACCOUNT}", mapping={"until": until, "kind": "x", "why": why})


def due_again(client: redis.Redis) -> None:
    """As if the wait before the next try were over."""
    for entry in client.zrange("pr:alerts", 0, -1):
        client.zadd("pr:alerts", {entry: 0})


def test_an_alert_is_told_once_an_hour(told: Alerts, place: Place, client: redis.Redis) -> None:
    assert told.alert("session", "shop", "shop was logged out")
    assert not told.alert("session", "shop", "shop was logged out")
    assert told.alert("session", "club", "club was logged out")
    told.tell()
    told.tell()
    assert sorted(place.said) == ["club was logged out", "shop was logged out"]
    assert 0 < client.ttl("pr:alert:session shop") <= alerts.AGAIN_S


def test_only_one_of_many_processes_raises_it(
    told: Alerts, redis_url: str, env: dict[str, str]
) -> None:
    raised: list[bool] = []

    def raise_it() -> None:
        with connect(redis_url) as own:
            raised.append(Alerts(own, Settings.from_env(env, None)).alert("k", "x", "text"))

    threads = [threading.Thread(target=raise_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(raised) == [False] * 7 + [True]


def test_a_refused_account_is_told_and_so_is_its_return(
    told: Alerts, place: Place, client: redis.Redis
) -> None:
    told.watch([ACCOUNT])
    refuse(client)
    for _ in range(3):
        told.watch([ACCOUNT])
    client.hset(f"pr:account:{ACCOUNT}", "kind", "a")  # not refused any more, and not open either
    told.watch([ACCOUNT])
    client.delete(f"pr:account:{ACCOUNT}")
    for _ in range(3):
        told.watch([ACCOUNT])
    told.tell()
    assert place.said == [
        "telegram is refused, and its deliveries wait: Unauthorized",
        "telegram goes again",
    ]


def test_a_return_is_told_to_nobody_who_was_not_told_of_the_refusal(
    told: Alerts, client: redis.Redis
) -> None:
    client.hset(f"pr:account:{ACCOUNT}", mapping={"until": "1", "kind": "a", "why": "429"})
    told.watch([ACCOUNT])
    client.delete(f"pr:account:{ACCOUNT}")
    told.watch([ACCOUNT])
    assert client.zcard("pr:alerts") == 0


def test_a_place_that_does_not_take_it_is_tried_again_and_the_other_is_not(
    told: Alerts, place: Place, client: redis.Redis, env: dict[str, str]
) -> None:
    env["ALERT_URLS"] = f"{place.url} json://127.0.0.1:1/"
    told = Alerts(client, Settings.from_env(env, None))
    told.alert("k", "x", "text")
    told.tell()
    assert place.said == ["text"]
    assert client.zcard("pr:alerts") == 1
    told.tell()  # not due
    due_again(client)
    told.tell()
    assert place.said == ["text"]
    ((_, due),) = client.zrange("pr:alerts", 0, -1, withscores=True)
    assert due - time.time() > alerts.RETRY_S[0] / 2


def test_one_that_nobody_takes_for_a_day_is_dropped(
    told: Alerts, place: Place, client: redis.Redis
) -> None:
    place.status = 500
    client.zadd("pr:alerts", {f"0 {time.time() - alerts.GIVE_UP_S - 60:.6f} old": 0})
    told.tell()
    assert client.zcard("pr:alerts") == 0
    assert place.said == []


def test_a_place_that_hangs_is_left_in_time(
    told: Alerts, client: redis.Redis, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "TELL_S", 0.5)
    with redis_port() as port:
        env["ALERT_URLS"] = f"json://127.0.0.1:{port}/?rto=3"
        told = Alerts(client, Settings.from_env(env, None))
        told.alert("k", "x", "text")
        began = time.monotonic()
        told.tell()
        assert time.monotonic() - began < 2.5
    assert client.zcard("pr:alerts") == 1


class redis_port:  # noqa: N801 - reads as what it gives
    """A port that takes connections and never answers."""

    def __enter__(self) -> int:
        import socket  # noqa: PLC0415

        self.door = socket.create_server(("127.0.0.1", 0))
        return int(self.door.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self.door.close()


def test_without_a_place_nothing_is_kept(client: redis.Redis, settings: Settings) -> None:
    none = Alerts(client, settings)
    refuse(client)
    none.watch([ACCOUNT])
    assert not none.alert("k", "x", "text")
    assert not list(client.scan_iter("pr:alert*"))


def test_no_secret_is_kept_or_told(
    told: Alerts, place: Place, client: redis.Redis, env: dict[str, str]
) -> None:
    told.alert("k", "x", f"{env['TELEGRAM_BOT_TOKEN']} at {place.url}")
    kept = b"".join(client.zrange("pr:alerts", 0, -1))
    assert b"planted" not in kept
    told.tell()
    assert "planted" not in place.said[0]


@pytest.mark.parametrize("urls", ["planted", "json://h planted", "json:planted"])
def test_what_is_no_url_is_refused_and_not_shown(urls: str) -> None:
    with pytest.raises(Misconfigured, match=r"^ALERT_URLS: number \d is no URL") as caught:
        Settings.from_env({"ALERT_URLS": urls}, None)
    assert "planted" not in str(caught.value)


def test_a_token_that_a_messenger_refuses_is_told_by_the_worker(
    place: Place,
    env: dict[str, str],
    service: Service,
    messenger: FakeMessenger,
    start: Start,
    client: redis.Redis,
    tmp_path: Path,
) -> None:
    messenger.script = lambda _: says(401, ok=False, error_code=401, description="Unauthorized")
    start("postrider", "worker", ALERT_URLS=place.url, RETRY_INTERVAL="0.5")
    service.accept(NewMessage("planted body", (Recipient("42", "telegram"),)))
    wait_until(lambda: place.said, 20, "an alert")
    assert place.said == ["telegram is refused, and its deliveries wait: Unauthorized"]
    messenger.script = lambda _: None
    wait_until(lambda: len(place.said) == 2, 20, "its end")
    assert place.said[1] == "telegram goes again"
    assert client.zcard("pr:in:sent") == 1
    assert "planted" not in (tmp_path / "processes.log").read_text()


def test_a_refusal_is_told_from_being_asked_to_wait(service: Service) -> None:
    service.accept(NewMessage("Hi", (Recipient("42", "telegram"),)))
    (claim,) = service.sender.claim("w", 1).claims
    asked = verdicts.verdict(claim, Retry("429", pauses="account"), service.settings)
    refused = verdicts.verdict(
        claim, Retry("401", pauses="account", refused=True), service.settings
    )
    assert (asked.kind, refused.kind) == ("rate_limited", "account_refused")
    assert (asked.signal, refused.signal) == ("a", "x")
