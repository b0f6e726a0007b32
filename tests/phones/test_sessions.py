"""Sessions as they are kept: added once, changed by one at a time, paged, looked at when they are due."""

from datetime import UTC, datetime
from threading import Thread

import pytest
import redis

from postrider import sessions as module
from postrider.errors import InvalidRequest
from postrider.sessions import MOST, Session, Sessions
from tests.conftest import wait_until

NOW = datetime(2030, 1, 1, 12, 30, 0, 250_000, tzinfo=UTC)


@pytest.fixture
def sessions(client: redis.Redis) -> Sessions:
    return Sessions(client)


def add(
    sessions: Sessions, name: str = "shop", owner: str = "", *, shared: bool = False
) -> Session:
    found = sessions.add(name, owner, NOW, shared=shared)
    assert found is not None
    return found


def test_what_is_added_is_found_as_it_was(sessions: Sessions) -> None:
    mine, theirs = add(sessions, "shop", shared=True), add(sessions, "shop", "k1")
    assert (mine.id, theirs.id) == ("shop", "shop_k1")
    assert sessions.get("shop") == mine
    assert sessions.get("shop_k1") == theirs
    assert sessions.every() == [mine, theirs]
    assert sessions.get("other") is None
    assert sessions.get("../x") is None


def test_a_name_is_there_once(sessions: Sessions) -> None:
    add(sessions)
    assert sessions.add("shop", "", NOW) is None


@pytest.mark.parametrize("name", ["", "-a", "a_b", "a b", "a" * 33, "ü", "a\n", "a/b"])
def test_a_name_is_plain(sessions: Sessions, name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        sessions.add(name, "", NOW)


def test_there_are_not_too_many(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST == 1000
    monkeypatch.setattr(module, "MOST", 2)
    add(sessions, "a")
    add(sessions, "b")
    with pytest.raises(InvalidRequest, match="2 sessions already"):
        sessions.add("c", "", NOW)


def test_a_change_holds_and_only_the_first_of_two(sessions: Sessions) -> None:
    read = add(sessions)
    changed = sessions.change(read, state="linked", linked_at=NOW, number="123", wanted=False)
    assert changed is not None
    assert (changed.state, changed.v) == ("linked", 1)
    assert sessions.get("shop") == changed
    assert sessions.change(read, state="dropped") is None
    assert sessions.get("shop") == changed


def test_a_change_of_nothing_writes_nothing(sessions: Sessions) -> None:
    read, turn = add(sessions), sessions.turn()
    assert sessions.change(read, state="starting") is read
    assert sessions.turn() == turn


def test_of_many_who_change_at_once_one_does(sessions: Sessions) -> None:
    read = add(sessions)
    done: list[Session | None] = []
    threads = [
        Thread(target=lambda n=n: done.append(sessions.change(read, tries=n + 1))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(done) == 8
    (winner,) = [one for one in done if one]
    assert sessions.get("shop") == winner


def test_the_turn_tells_of_each_change(sessions: Sessions) -> None:
    turns = [sessions.turn()]
    read = add(sessions)
    turns.append(sessions.turn())
    changed = sessions.change(read, tries=1)
    turns.append(sessions.turn())
    assert changed is not None
    sessions.delete(changed)
    turns.append(sessions.turn())
    assert len(set(turns)) == 4


def test_what_is_deleted_leaves_nothing(sessions: Sessions, client: redis.Redis) -> None:
    read = add(sessions, "shop", "k1")
    sessions.look_now(read.id)
    assert sessions.delete(read)
    assert not sessions.delete(read)
    assert sessions.change(read, tries=1) is None
    sessions.look_now(read.id)
    assert [key for key in client.keys("pr:session*") if key != b"pr:sessions:turn"] == []


def test_pages_hold_each_once_also_while_others_come(sessions: Sessions) -> None:
    for n in range(5):
        add(sessions, f"s{n}", "k1")
        add(sessions, f"s{n}")
    seen, cursor = [], None
    while True:
        page, cursor = sessions.page(None, 3, cursor)
        seen += [one.id for one in page]
        if cursor is None:
            break
        sessions.add("a0", "", NOW)  # before those that were seen
    assert seen == sorted(f"s{n}{of}" for n in range(5) for of in ("", "_k1"))
    own, more = sessions.page("k1", 5)
    assert [one.id for one in own] == [f"s{n}_k1" for n in range(5)]
    assert more is None
    with pytest.raises(InvalidRequest, match="cursor"):
        sessions.page(None, 3, "[a")


def test_who_is_due_is_given_to_one(sessions: Sessions) -> None:
    add(sessions, "a")
    add(sessions, "b")
    assert sessions.take_due(10, 60) == []  # whoever adds one makes it first
    sessions.look_now("a")
    sessions.look_now("b")
    first, second = sessions.take_due(1, 60), sessions.take_due(10, 60)
    assert sorted(first + second) == ["a", "b"]
    assert sessions.take_due(10, 60) == []


def test_what_is_not_settled_within_its_lease_is_given_to_another(sessions: Sessions) -> None:
    add(sessions)
    sessions.look_now("shop")
    assert sessions.take_due(1, 0.1) == ["shop"]
    wait_until(lambda: sessions.take_due(1, 60) == ["shop"], 5)


def test_who_is_asked_for_while_it_is_looked_at_is_looked_at_again(sessions: Sessions) -> None:
    add(sessions)
    sessions.look_now("shop")
    assert sessions.take_due(1, 60) == ["shop"]
    sessions.look_now("shop")
    sessions.look_in("shop", 600)  # what the first look found out is older than that
    assert sessions.take_due(1, 60) == ["shop"]
    sessions.look_in("shop", 600)
    assert sessions.take_due(1, 60) == []


def test_who_rests_is_looked_at_when_it_is_asked_for(
    sessions: Sessions, client: redis.Redis
) -> None:
    add(sessions)
    sessions.look_now("shop")
    sessions.take_due(1, 0.01)
    sessions.look_in("shop", None)
    assert client.zcard("pr:sessions:due") == 0
    sessions.look_now("shop")
    assert sessions.take_due(1, 60) == ["shop"]


def test_a_pause_ends_when_the_phone_is_there_unless_whatsapp_refuses_it(
    sessions: Sessions, client: redis.Redis
) -> None:
    key = "pr:account:whatsapp-web/shop"
    client.hset(key, mapping={"until": "9999999999", "kind": "a", "why": "x", "next": "1"})
    sessions.goes("whatsapp-web/shop")
    assert client.hgetall(key) == {b"next": b"1"}
    client.hset(key, mapping={"until": "9999999999", "kind": "x", "why": "463"})
    sessions.goes("whatsapp-web/shop")
    assert client.hget(key, "kind") == b"x"
