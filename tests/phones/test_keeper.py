"""Keepers: who looks after sessions, one at a time, whoever of them dies."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis

from postrider.keeper import Keeper
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from tests import conftest
from tests.conftest import Start, wait_until
from tests.phones.rig import USER, Rig
from tests.sidecar import Sidecar


@contextmanager
def at_work(service: Service, lease_s: float = 60) -> Iterator[Keeper]:
    """A keeper in a thread."""
    keeper = Keeper(service, look_s=0.02, lease_s=lease_s)
    thread = threading.Thread(target=keeper.work)
    thread.start()
    try:
        yield keeper
    finally:
        keeper.stop()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def another(env: dict[str, str], client: redis.Redis) -> Callable[[], Service]:
    """Services over the same Redis, as of other processes."""

    def made() -> Service:
        settings = Settings.from_env(env, None)
        return Service(Store(client), settings, open_accounts(settings))

    return made


def test_a_keeper_sees_a_session_through(rig: Rig, another: Callable[[], Service]) -> None:
    with at_work(another()):
        rig.phones.add(USER, "shop")
        wait_until(lambda: rig.session().state == "scan", 10)
        rig.sidecar.scan("shop")
        rig.phones.heard("shop")
        wait_until(lambda: rig.session().state == "linked", 10)
        rig.sidecar.drop("shop")
        rig.phones.heard("shop")
        wait_until(lambda: rig.session().tries == 1 and rig.session().state == "linked", 15)


def test_a_session_that_nobody_made_is_made_by_a_keeper(
    rig: Rig, another: Callable[[], Service]
) -> None:
    sessions = rig.phones.sessions
    assert sessions.add("shop", "", rig.phones.now())  # and whoever added it has died
    assert sessions.take_due(10, 60) == []
    sessions.look_in("shop", 0)
    with at_work(another()):
        wait_until(lambda: rig.sidecar.status("shop") != "", 10)


def _restarts(rig: Rig) -> list[str]:
    return [r["path"] for r in rig.sidecar.requests if r["path"].endswith("/restart")]


def test_two_keepers_do_each_thing_once(rig: Rig, another: Callable[[], Service]) -> None:
    with at_work(another()), at_work(another()):
        for n in range(6):
            rig.phones.add(USER, f"s{n}")
        wait_until(lambda: {rig.session(f"s{n}").state for n in range(6)} == {"scan"}, 15)
        for n in range(6):
            rig.sidecar.scan(f"s{n}", f"37529000000{n}")
            rig.phones.heard(f"s{n}")
        wait_until(lambda: {rig.session(f"s{n}").state for n in range(6)} == {"linked"}, 15)
        for n in range(6):
            rig.sidecar.drop(f"s{n}", away=True)
            for _ in range(5):
                rig.phones.heard(f"s{n}")
        wait_until(lambda: {rig.session(f"s{n}").state for n in range(6)} == {"dropped"}, 15)
        wait_until(lambda: len(_restarts(rig)) >= 6)
    assert sorted(_restarts(rig)) == [f"/api/sessions/s{n}/restart" for n in range(6)]
    assert len([t for t in rig.told() if "has dropped" in t]) == 6


def test_what_a_dead_keeper_was_looking_at_is_looked_at_by_another(
    rig: Rig, another: Callable[[], Service]
) -> None:
    rig.linked()
    rig.sidecar.drop("shop", away=True)
    rig.phones.heard("shop")
    assert rig.phones.sessions.take_due(1, 0.3) == ["shop"]  # and then it dies
    assert rig.phones.sessions.take_due(1, 60) == []
    with at_work(another()):
        wait_until(lambda: rig.session().state == "dropped", 10)


def test_a_sidecar_that_hangs_with_one_session_holds_up_no_other(
    rig: Rig, another: Callable[[], Service]
) -> None:
    rig.linked("slow", "375290000001")
    rig.linked("quick", "375290000002")
    rig.sidecar.spoil("slow", "GET /api/sessions/slow", session="slow", value=3)
    for name in ("slow", "quick"):
        rig.sidecar.drop(name, away=True)
        rig.phones.heard(name)
    with at_work(another()):
        wait_until(lambda: rig.session("quick").state == "dropped", 2.5)
        assert rig.session("slow").state == "linked"
    rig.sidecar.heal()


def test_a_keeper_that_is_killed_leaves_nothing_undone(
    rig: Rig, start: Start, sidecar: Sidecar
) -> None:
    sidecar.reset(scale=0.5)
    rig.phones.add(USER, "shop")
    sidecar.spoil("slow", "GET /api/sessions/shop", value=2, times=1)
    first = start("postrider", "keeper")
    wait_until(
        lambda: any(r["headers"].get("User-Agent") == "postrider" for r in sidecar.requests[2:]),
        20,
        "a look",
    )
    first.kill()
    start("postrider", "keeper")
    rig.phones.heard("shop")  # as its webhook does with each code
    wait_until(lambda: rig.session().state == "scan", 20)
    assert len([r for r in sidecar.requests if r["path"] == "/api/sessions"]) == 1


def test_a_keeper_that_is_told_to_stop_waits_for_no_sidecar(
    rig: Rig, start: Start, sidecar: Sidecar
) -> None:
    rig.linked()
    sidecar.spoil("slow", "GET /api/sessions/shop", value=9)
    seen = len(sidecar.requests)
    keeper = start("postrider", "keeper")
    rig.phones.heard("shop")
    wait_until(lambda: len(sidecar.requests) > seen, 20, "a look")
    keeper.terminate()
    assert keeper.wait(4 * conftest.patience) == 0
