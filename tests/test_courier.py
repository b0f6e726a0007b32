"""The courier against real receivers: down, slow, gone, redirecting; killed in between; several at once. And the engine's side."""

import json
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import standardwebhooks

from postrider import callbacks, courier
from postrider import outbox as outbox_module
from postrider.courier import Courier
from postrider.errors import InvalidRequest, NotFound
from postrider.link import connect
from postrider.model import NewMessage, Recipient
from postrider.outbox import Outbox
from postrider.outward import Outward
from postrider.selftest.fleet import free_port
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from tests.conftest import Start, ended, redis_with, wait_until
from tests.receiver import Receiver, Says
from tests.test_callbacks import SECRET
from tests.test_outbox import ids, make_due

TICK_S = 0.03


@pytest.fixture
def env(env: dict[str, str]) -> dict[str, str]:
    return env | {"WEBHOOK_SECRET": SECRET, "CALLBACK_ALLOW_PRIVATE": "127.0.0.0/8, localhost"}


@pytest.fixture
def outbox(client: redis.Redis) -> Outbox:
    return Outbox(client)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


Couriers = Callable[..., Courier]


@pytest.fixture
def couriers(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Couriers]:
    """Starts couriers in this process, with short waits between tries."""
    monkeypatch.setattr(callbacks, "SCHEDULE_S", (TICK_S,) * 9)
    monkeypatch.setattr(outbox_module, "LEFT_ALONE_S", TICK_S)
    started: list[tuple[Courier, threading.Thread]] = []

    def start(whole_s: float = 10.0, **changed: Any) -> Courier:
        own = settings.model_copy(update=changed)
        found = Courier(client, own, Outward(own.guard, whole_s=whole_s))
        thread = threading.Thread(target=found.work)
        thread.start()
        started.append((found, thread))
        return found

    yield start
    for found, _ in started:
        found.stop()
    for _, thread in started:
        thread.join(20)
        assert not thread.is_alive()


def tell(outbox: Outbox, url: str, count: int = 1) -> list[str]:
    at = Store(outbox.redis).now()
    return [outbox.tell("message.received", {"n": n}, at, url=url) for n in range(count)]


def seen(outbox: Outbox, id_: str) -> tuple[str, int]:
    """Its state, and how often it was tried; it may not be there yet."""
    try:
        found = outbox.find(id_, None)
    except NotFound:
        return "told", 0
    return found.state, found.tries


def post(service: Service, url: str | None, *uuids: str, **more: Any) -> str:
    to = tuple(Recipient(uuid, "sandbox") for uuid in uuids)
    return service.accept(NewMessage("Hi", to, callback_url=url, **more))[0].id


# --- the whole way


def test_what_becomes_of_a_delivery_is_posted_signed_and_soon(
    service: Service, worker: object, couriers: Couriers, receiver: Receiver
) -> None:
    couriers()
    started = time.time()
    mid = post(service, f"{receiver.url}/hook", "ana", "blocked")
    wait_until(lambda: len(receiver.calls) == 2, what="two callbacks")
    assert max(got.at for got in receiver.calls) - started < 3
    for got in receiver.calls:
        told = standardwebhooks.Webhook(SECRET).verify(got.body, got.headers)
        assert told == got.json
        assert got.headers["content-type"] == "application/json"
    by_uuid = {got.json["data"]["uuid"]: got.json for got in receiver.calls}
    assert by_uuid["ana"]["type"] == "delivery.sent"
    assert by_uuid["ana"]["data"]["id"] == f"{mid}-0"
    assert by_uuid["blocked"]["type"] == "delivery.failed"
    assert by_uuid["blocked"]["data"]["reason"]
    assert {told["data"]["sequence"] for told in by_uuid.values()} == {1, 2}


def test_the_older_form_and_webhook_url_get_theirs(
    service: Service, worker: object, couriers: Couriers, receiver: Receiver
) -> None:
    couriers(webhook_url=f"{receiver.url}/all")
    one = post(service, f"{receiver.url}/task", "ana", callback_format="task")
    two = post(service, f"{receiver.url}/task", "ben", "blocked", callback_format="task")
    wait_until(lambda: len(receiver.calls) == 6, what="six callbacks")
    tasks = [got.json for got in receiver.calls if got.path == "/task"]
    assert sorted(tasks, key=str) == sorted(
        [
            {"task_id": one, "result": True},
            {"task_id": f"{two}-0", "result": True},
            {"task_id": f"{two}-1", "result": False},
        ],
        key=str,
    )
    events = Counter(got.json["type"] for got in receiver.calls if got.path == "/all")
    assert events == {"delivery.sent": 2, "delivery.failed": 1}


def test_webhook_url_at_acceptance_marks_deliveries(
    settings: Settings, client: redis.Redis, service: Service
) -> None:
    all_ = settings.model_copy(update={"webhook_url": "https://all.example/"})
    marked = post(Service(Store(client), all_, open_accounts(all_)), None, "ana")
    unmarked = post(service, None, "ana")
    assert client.hget(f"pr:d:{marked}:0", "0") == b"sd@ sandbox ana"
    assert client.hget(f"pr:d:{unmarked}:0", "0") == b"sd sandbox ana"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://10.0.0.1/", "not public"),
        ("https://metadata.internal/", "not public"),
        ("file:///etc/passwd", "write it as https://"),
        ("https://a:b@crm.example/", "user name"),
        ("", "write it as"),
    ],
)
def test_a_callback_url_that_may_not_be_called_is_refused_at_once(
    service: Service, url: str, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refused:
        post(service, url, "ana")
    assert refused.value.field == "callback_url"


def test_what_cannot_be_signed_or_posted_is_refused(
    settings: Settings, client: redis.Redis
) -> None:
    unsigned = settings.model_copy(update={"webhook_secret": None})
    service = Service(Store(client), unsigned, open_accounts(unsigned))
    with pytest.raises(InvalidRequest, match="WEBHOOK_SECRET"):
        post(service, "https://crm.example/", "ana")
    with pytest.raises(InvalidRequest, match="there is none"):
        post(service, None, "ana", callback_format="task")


# --- receivers that are not well


def test_one_that_is_down_gets_every_event_once_it_is_back(
    couriers: Couriers, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "TRIES", 1_000)
    monkeypatch.setattr(callbacks, "SCHEDULE_S", (TICK_S,) * 1_000)
    port = free_port()
    made = tell(outbox, f"http://127.0.0.1:{port}/x", 30)
    couriers()
    wait_until(lambda: seen(outbox, made[0])[1] > 2, what="tries")
    assert outbox.find(made[0], None).reason == "could not connect"
    with Receiver() as receiver:
        # The same events, as if it had come back at its old address.
        for id_ in made:
            outbox.redis.hset(f"pr:c:{id_}", "url", f"{receiver.url}/x")
        wait_until(lambda: len(ids(outbox, "done")) == 30, what="all of them")
        assert {got.id for got in receiver.calls} == set(made)


def test_one_that_never_comes_back_is_listed_as_dead_and_replayed(
    couriers: Couriers, outbox: Outbox, receiver: Receiver
) -> None:
    receiver.script = lambda _: Says(500, body=b"broken")
    made = tell(outbox, receiver.url, 5)
    couriers()
    wait_until(lambda: outbox.page("dead", None, 10)[1] == 5, what="five dead ones")
    assert Counter(got.id for got in receiver.calls) == dict.fromkeys(made, 10)
    dead = outbox.find(made[0], None)
    assert (dead.tries, dead.status, dead.reason) == (10, 500, "broken")
    receiver.script = lambda _: Says(200)
    assert outbox.replay_dead(None) == (5, 0)
    wait_until(lambda: len(ids(outbox, "done")) == 5, what="five done ones")


def test_410_is_asked_once_and_never_again(
    couriers: Couriers, outbox: Outbox, receiver: Receiver
) -> None:
    receiver.script = lambda _: Says(410)
    couriers()
    tell(outbox, receiver.url)
    wait_until(lambda: outbox.page("dead", None, 10)[1] == 1)
    tell(outbox, receiver.url, 5)
    wait_until(lambda: outbox.page("dead", None, 10)[1] == 6)
    assert len(receiver.calls) == 1


def test_a_redirect_inward_fails_and_is_not_followed(
    couriers: Couriers, outbox: Outbox, receiver: Receiver
) -> None:
    with Receiver() as inner:
        receiver.script = lambda _: Says(307, {"Location": inner.url})
        (made,) = tell(outbox, receiver.url)
        couriers()
        wait_until(lambda: seen(outbox, made)[0] == "dead")
        assert "redirects" in outbox.find(made, None).reason
        assert (len(receiver.calls), len(inner.calls)) == (10, 0)


def test_an_address_that_has_become_private_is_not_called(
    couriers: Couriers, outbox: Outbox, receiver: Receiver
) -> None:
    (made,) = tell(outbox, receiver.url)
    couriers(callback_allow_private="off")
    wait_until(lambda: seen(outbox, made)[0] == "dead")
    assert receiver.calls == []
    assert "not public" in outbox.find(made, None).reason


def test_one_that_hangs_takes_no_place_from_another(
    couriers: Couriers, outbox: Outbox, receiver: Receiver
) -> None:
    with Receiver() as hangs:
        hangs.script = lambda _: Says(after_s=1.5)
        tell(outbox, hangs.url, 500)
        couriers(whole_s=1.0)
        wait_until(lambda: hangs.now == courier.PER_HOST, what="its places taken")
        started = time.monotonic()
        tell(outbox, receiver.url, 100)
        wait_until(lambda: len(receiver.calls) == 100, what="the others'")
        assert time.monotonic() - started < 3
        assert hangs.most == courier.PER_HOST
        assert receiver.most > 1


def test_a_wait_that_it_names_is_kept(
    couriers: Couriers, outbox: Outbox, receiver: Receiver
) -> None:
    receiver.script = lambda _: Says(503, {"Retry-After": "1"}) if not receiver.calls else Says()
    tell(outbox, receiver.url)
    couriers()
    wait_until(lambda: len(receiver.calls) == 2)
    first, second = receiver.calls
    assert second.at - first.at >= 1


# --- couriers that come and go


def test_several_share_the_work_and_double_nothing(
    couriers: Couriers, outbox: Outbox, receiver: Receiver
) -> None:
    for _ in range(3):
        couriers()
    made = tell(outbox, receiver.url, 400)
    wait_until(lambda: len(ids(outbox, "done")) == 400)
    assert Counter(got.id for got in receiver.calls) == dict.fromkeys(made, 1)


def test_killed_at_any_moment_none_loses_an_event(
    start: Start, outbox: Outbox, client: redis.Redis, receiver: Receiver
) -> None:
    receiver.script = lambda _: Says(after_s=0.01)
    made = set(tell(outbox, receiver.url, 1_500))
    for kill in range(4):
        seen = len(receiver.calls)
        process = start("postrider", "courier")
        enough = seen + 50 + 40 * kill
        wait_until(lambda enough=enough: len(receiver.calls) > enough, 15, "callbacks")
        process.send_signal(signal.SIGKILL)
        process.wait()
        make_due(client)  # the leases it left run out
    start("postrider", "courier")
    wait_until(lambda: outbox.page("done", None, 1)[1] == 1_500, 20, "all of them")
    times = Counter(got.id for got in receiver.calls)
    assert set(times) == made
    assert sum(times.values()) - 1_500 <= 4 * courier.PLACES  # what was under way at a kill


def test_a_stop_ends_what_is_under_way_and_begins_nothing(
    start: Start, outbox: Outbox, receiver: Receiver
) -> None:
    receiver.script = lambda _: Says(after_s=0.5)
    tell(outbox, receiver.url, 100)
    process = start("postrider", "courier")
    wait_until(lambda: receiver.now == courier.PER_HOST, 15, "its places taken")
    process.terminate()
    assert process.wait(courier.DRAIN_S - 2) == 0  # else it ran into its limit
    assert outbox.page("done", None, 1)[1] == len(receiver.calls) < 100
    assert outbox.page("waiting", None, 1)[1] == 100 - len(receiver.calls)


def test_it_goes_on_when_redis_is_back(
    start: Start, env: dict[str, str], tmp_path: Path, receiver: Receiver
) -> None:
    flags = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
    with redis_with(tmp_path, *flags) as url:
        process = start("postrider", "courier", REDIS_URL=url)
        with connect(url) as own:
            tell(Outbox(own), receiver.url)
            wait_until(lambda: len(receiver.calls) == 1, 15)
    with redis_with(tmp_path, *flags) as url, connect(url) as own:
        wait_until(own.ping)
        tell(Outbox(own), receiver.url)
        wait_until(lambda: len(receiver.calls) == 2, 10)
        assert process.poll() is None
        process.terminate()
        assert process.wait(courier.DRAIN_S - 2) == 0


def test_no_secret_is_in_what_it_logs(
    start: Start, outbox: Outbox, client: redis.Redis, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.script = lambda _: Says(410, body=b"planted-answer")
    process = start("postrider", "courier")
    tell(outbox, f"{receiver.url}/planted-path?token=planted-token")
    tell(outbox, f"http://127.0.0.1:{free_port()}/planted-path")
    tell(outbox, "http://10.0.0.1/planted-path")
    client.rpush(
        "pr:outbox",
        json.dumps(
            {"id": "b" * 21, "type": "delivery.x", "data": {"planted": 1}, "url": receiver.url}
        ),
    )
    wait_until(lambda: outbox.page("dead", None, 1)[1] == 1, 15)
    wait_until(lambda: outbox.page("waiting", None, 9)[1] == 3)
    process.terminate()
    assert ended(process) == 0
    logged = (tmp_path / "processes.log").read_text()
    assert "is dead after 1 tries" in logged
    assert "planted" not in logged
    assert SECRET.removeprefix("whsec_") not in logged


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"WEBHOOK_SECRET": ""}, "WEBHOOK_SECRET is not set"),
        ({"WEBHOOK_SECRET": "whsec_AAAA"}, "24 to 64 random bytes"),
        ({"WEBHOOK_SECRET": "", "WEBHOOK_URL": "https://a.example"}, "WEBHOOK_URL: needs"),
        ({"WEBHOOK_URL": "http://10.0.0.1/x"}, "WEBHOOK_URL: names an address"),
        ({"CALLBACK_ALLOW_PRIVATE": "perhaps maybe"}, "CALLBACK_ALLOW_PRIVATE: 'perhaps maybe'"),
    ],
)
def test_it_refuses_settings_that_cannot_be_kept(
    start: Start, tmp_path: Path, changed: dict[str, str], words: str
) -> None:
    assert start("postrider", "courier", **changed).wait(15) == 2
    assert re.search(re.escape(words), (tmp_path / "processes.log").read_text())
