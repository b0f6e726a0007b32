"""A linked phone's whole story, by real processes: API, worker, keeper, and a sidecar with a phone that is none."""

import socket
from collections import Counter
from collections.abc import Iterator

import pytest
import redis
import requests

from tests.conftest import Api, Start, wait_until
from tests.phones.rig import USER, Rig
from tests.sidecar import Sidecar


@pytest.fixture
def env(env: dict[str, str]) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        env["BIND"] = f"127.0.0.1:{free.getsockname()[1]}"
    env |= {"API_PROCESSES": "1", "WHATSAPP_WEB_GAP": "0.01-0.05"}
    return env


@pytest.fixture
def live(env: dict[str, str], start: Start, client: redis.Redis) -> Iterator[Api]:
    """All of them, ready."""
    with Api(f"http://{env['BIND']}") as found:
        for name in ("api", "worker", "keeper"):
            start("postrider", name)
        wait_until(lambda: is_ready(found) and client.scard("rq:workers"), 30, "ready")
        yield found


def is_ready(live: Api) -> bool:
    try:
        return live.get("/readyz").status_code == 200
    except requests.ConnectionError:
        return False


def post(live: Api, first: int, count: int) -> None:
    to = [
        {"uuid": f"37529{n:07d}", "service": "whatsapp-web", "account": "shop"}
        for n in range(first, first + count)
    ]
    for one in to:
        message = {"body": f"to {one['uuid']}", "recipients": [one]}
        assert live.post("/api/v1/messages", json=message).status_code == 201


def ended(live: Api) -> int:
    return int(live.get("/get_finished?limit=1").json()["total"])


def story(rig: Rig, live: Api, sidecar: Sidecar, count: int) -> None:
    """Link, send, drop in the middle, unlink, relink, log out: nothing is lost or doubled."""
    rig.phones.add(USER, "shop")
    wait_until(lambda: rig.session().state == "scan", 15)
    post(live, 0, count // 2)
    assert sidecar.messages == []  # which wait for the phone
    sidecar.scan("shop")
    wait_until(lambda: len(sidecar.messages) >= count // 4, 40)
    sidecar.drop("shop", away=True)
    post(live, count // 2, count - count // 2)
    wait_until(lambda: rig.session().state == "dropped", 15)
    at_drop = len(sidecar.messages)
    assert at_drop < count
    sidecar.come_back("shop")
    wait_until(lambda: len(sidecar.messages) >= count * 3 // 4, 60)
    sidecar.unlink("shop")
    wait_until(lambda: rig.session().state == "scan", 40)
    sidecar.scan("shop")
    wait_until(lambda: ended(live) == count, 60)
    assert Counter(m["text"] for m in sidecar.messages) == {
        f"to 37529{n:07d}": 1 for n in range(count)
    }
    totals = live.get("/api/v1/deliveries?limit=500").json()["deliveries"]
    assert {d["attempts"] if isinstance(d["attempts"], int) else 0 for d in totals} == {0}
    rig.phones.logout(USER, "shop")
    wait_until(lambda: sidecar.sessions["shop"]["number"] == "", 10)
    post(live, count, 1)
    wait_until(lambda: sidecar.status("shop") == "STOPPED", 15)
    assert len(sidecar.messages) == count
    assert rig.session().state == "unlinked"
    rig.phones.delete(USER, "shop")
    assert sidecar.sessions == {}


def test_a_phone_is_linked_sends_drops_is_unlinked_and_logged_out_and_nothing_is_lost_or_doubled(
    env: dict[str, str], rig: Rig, live: Api, sidecar: Sidecar, long: bool
) -> None:
    story(rig, live, sidecar, 400 if long else 100)
