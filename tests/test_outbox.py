"""Events and callbacks in Redis: told with the move itself, claimed by one, never lost, listed by owner."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import redis

from postrider import outbox as outbox_module
from postrider.callbacks import GIVEN_UP_S, Result
from postrider.errors import IllegalTransition, InvalidRequest, NotFound
from postrider.limits import Limits
from postrider.model import (
    Attempt,
    Claim,
    NewMessage,
    Recipient,
    State,
    Verdict,
    new_message_id,
)
from postrider.outbox import Callback, Claimed, Outbox
from postrider.store import ENDED_WELL, Store

URL = "https://crm.example/hook"
TTL = {"finished_ttl_s": 600, "failed_ttl_s": 600, "refused_s": 1}
SPECS = {"sandbox": Limits(rate=0, recipient_rate=0).spec(1_000, 0)}


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client)


@pytest.fixture
def outbox(client: redis.Redis) -> Outbox:
    return Outbox(client)


def accept(store: Store, count: int = 1, *, told: bool = True, **more: Any) -> str:
    now = store.now()
    recipients = tuple(Recipient(f"user {n}", "sandbox") for n in range(count))
    more.setdefault("callback_url", URL if told else None)
    return store.accept(
        new_message_id(now), NewMessage("Hi", recipients, **more), now, told=told
    ).id


def claims(store: Store) -> list[Claim]:
    found = store.claim("w1", new_message_id(store.now()), SPECS, 30).claims
    return sorted(found, key=lambda claim: int(claim.delivery_id.partition("-")[2]))


def end(
    store: Store,
    claim: Claim,
    state: State = State.SENT,
    reason: str = "",
    due: float | None = None,
) -> None:
    outcome = "sent" if state is State.SENT else "rejected"
    attempt = Attempt(claim.at, claim.at, outcome, reason, "77" if state is State.SENT else "")
    store.record("w1", [Verdict(claim, state, attempt, due, counts=state is not State.SENT)], **TTL)


def lines(client: redis.Redis) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.lrange("pr:outbox", 0, -1)]


def take(outbox: Outbox, places: int = 50, **more: Any) -> list[Claimed]:
    settings = {"per_host": 50, "busy": {}, "lease_s": 60.0, "webhook_url": None} | more
    return outbox.claim(places, **settings)[0]


def told(outbox: Outbox, count: int = 1, url: str = URL, owner: str = "") -> list[Claimed]:
    """That many callbacks, claimed."""
    for n in range(count):
        outbox.tell("message.received", {"n": n}, now(outbox), url=url, owner=owner)
    return take(outbox, 1_000, per_host=1_000)


def now(outbox: Outbox) -> Any:
    return Store(outbox.redis).now()


def record(outbox: Outbox, claimed: Sequence[Claimed], result: Result) -> list[bool]:
    return outbox.record([(one, result, one.at) for one in claimed])


def ids(outbox: Outbox, state: Any, owner: str | None = None) -> list[str]:
    return [c.id for c in outbox.page(state, owner, 1_000)[0]]


def make_due(client: redis.Redis) -> None:
    """As if all waits were over."""
    for key in client.keys("pr:cb:due:*"):
        for id_ in client.zrange(key, 0, -1):
            client.zadd(key, {id_: 1})
        client.zadd("pr:cb:hosts", {key.decode().removeprefix("pr:cb:due:"): 1})


DEAD = Result("dead", 500, "no")
AGAIN = Result("waiting", 503, "busy", wait_s=100)


# --- what is told


def test_a_delivery_without_callbacks_tells_nothing(store: Store, client: redis.Redis) -> None:
    mid = accept(store, told=False)
    end(store, claims(store)[0])
    assert lines(client) == []
    assert client.hget(f"pr:d:{mid}:0", "0") == b"td sandbox user 0"
    assert not client.hexists(f"pr:m:{mid}", "told")


@pytest.mark.parametrize(
    ("state", "event"),
    [(State.SENT, "sent"), (State.FAILED, "failed"), (State.UNKNOWN, "unknown")],
)
def test_an_end_is_told_with_the_move_itself(
    store: Store, client: redis.Redis, state: State, event: str
) -> None:
    mid = accept(store)
    end(store, claims(store)[0], state, "why")
    (line,) = lines(client)
    assert (line["id"], line["type"], line["url"]) == (f"{mid}_000001", f"delivery.{event}", URL)
    assert line["data"] == {
        "id": f"{mid}-0",
        "message": mid,
        "uuid": "user 0",
        "account": "sandbox",
        "state": event,
        "reason": "why",
        "provider_id": "77" if state is State.SENT else "",
        "attempts": 1,
        "sequence": 1,
    }


def test_a_retry_is_not_told(store: Store, client: redis.Redis) -> None:
    accept(store)
    end(store, claims(store)[0], State.RETRYING, "later", due=0.0)
    assert lines(client) == []
    end(store, claims(store)[0])
    assert [line["type"] for line in lines(client)] == ["delivery.sent"]


def test_one_who_comes_late_tells_nothing(store: Store, client: redis.Redis) -> None:
    accept(store)
    (claim,) = claims(store)
    for _ in range(3):
        end(store, claim)
    assert len(lines(client)) == 1


def test_the_events_of_a_message_are_numbered(store: Store, client: redis.Redis) -> None:
    accept(store, 250)
    for claim in claims(store):
        end(store, claim)
    assert [line["data"]["sequence"] for line in lines(client)] == list(range(1, 251))


def test_a_purge_takes_no_event_away(store: Store, outbox: Outbox, client: redis.Redis) -> None:
    mid = accept(store)
    client.hset(f"pr:m:{mid}", mapping={"owner": "k1", "reference": "order 7"})
    end(store, claims(store)[0])
    assert store.purge(ENDED_WELL) == 1
    assert client.exists(f"pr:m:{mid}") == 0
    (claimed,) = take(outbox)
    callback = outbox.find(claimed.id, "k1")
    assert (callback.url, callback.data["reference"]) == (URL, "order 7")


@pytest.mark.parametrize(("count", "task"), [(1, "{mid}"), (2, "{mid}-0")])
def test_the_older_form_is_told_once_at_the_end(
    store: Store, outbox: Outbox, client: redis.Redis, count: int, task: str
) -> None:
    mid = accept(store, count, callback_format="task")
    first = claims(store)[0]
    end(store, first, State.UNKNOWN)
    end(store, first)  # a late yes settles it
    assert [line.get("task") for line in lines(client)] == [None, task.format(mid=mid)]
    assert [json.loads(one.line)["type"] for one in take(outbox)] == ["delivery.sent"]


def test_webhook_url_gets_every_event_besides(store: Store, outbox: Outbox) -> None:
    accept(store, callback_format="task")
    accept(store, callback_url=None)
    for claim in claims(store):
        end(store, claim)
    found = take(outbox, webhook_url="https://all.example/")
    assert sorted((one.host, one.is_copy) for one in found) == [
        ("all.example", True),
        ("all.example", True),
        ("crm.example", False),
    ]


def test_one_address_is_not_told_twice(store: Store, outbox: Outbox) -> None:
    accept(store)
    end(store, claims(store)[0])
    assert len(take(outbox, webhook_url=URL)) == 1


def test_what_is_no_event_is_dropped(outbox: Outbox, client: redis.Redis) -> None:
    junk = ["", "{", "[]", "1", '{"id": 1}', '{"id": "a", "type": "b"}', "\xff"]
    client.rpush("pr:outbox", *junk)
    assert take(outbox, webhook_url=URL) == []
    assert lines(client) == []


# --- claiming


def test_what_is_claimed_is_claimed_by_one(outbox: Outbox) -> None:
    first = told(outbox, 7)
    assert len(first) == 7
    assert take(outbox) == []


def test_what_a_dead_courier_held_is_due_again_under_the_same_id(
    outbox: Outbox, client: redis.Redis
) -> None:
    (first,) = told(outbox)
    make_due(client)  # its lease has run out
    (second,) = take(outbox)
    assert (second.id, second.tries) == (first.id, 0)
    assert second.claim != first.claim
    assert record(outbox, [first], AGAIN) == [False]
    assert record(outbox, [second], AGAIN) == [True]
    assert outbox.find(first.id, None).tries == 1


def test_a_late_yes_ends_it_all_the_same(outbox: Outbox, client: redis.Redis) -> None:
    (first,) = told(outbox)
    make_due(client)
    take(outbox)
    assert record(outbox, [first], Result("done", 204)) == [True]
    make_due(client)
    assert take(outbox) == []


def test_it_waits_as_long_as_it_was_told(outbox: Outbox) -> None:
    claimed = told(outbox)
    record(outbox, claimed, AGAIN)
    found, wait_s = outbox.claim(5, per_host=5, busy={}, lease_s=9, webhook_url=None)
    assert found == []
    assert wait_s is not None
    assert 99 < wait_s <= 100


def test_a_host_has_few_places_and_leaves_the_others_to_others(outbox: Outbox) -> None:
    for host in ("a", "b"):
        for n in range(100):
            outbox.tell("test", {"n": n}, now(outbox), url=f"https://{host}.example/")
    hosts = [one.host for one in take(outbox, 50, per_host=10)]
    assert (hosts.count("a.example"), hosts.count("b.example")) == (10, 10)
    busy = {"a.example": 10, "b.example": 4}
    hosts = [one.host for one in take(outbox, 50, per_host=10, busy=busy)]
    assert (hosts.count("a.example"), hosts.count("b.example")) == (0, 6)


def test_a_host_that_does_not_answer_has_one_place_until_it_does(
    outbox: Outbox, client: redis.Redis
) -> None:
    claimed = told(outbox, 30)
    silent = Result("waiting", None, "no answer in time", answered=False)
    record(outbox, claimed, silent)
    make_due(client)
    (one,) = take(outbox, per_host=10)
    record(outbox, [one], AGAIN)
    assert len(take(outbox, per_host=10)) == 10


def test_a_host_that_does_not_answer_is_left_alone_longer_and_longer(
    outbox: Outbox, client: redis.Redis
) -> None:
    silent = Result("waiting", None, "could not connect", answered=False)
    told(outbox, 20)
    waits = []
    for _ in range(10):
        make_due(client)
        (one,) = take(outbox, places=1)
        record(outbox, [one], silent)
        waits.append(client.zscore("pr:cb:hosts", "crm.example") - now(outbox).timestamp())
    assert waits[:6] == sorted(waits[:6])
    assert 0.05 < waits[0] <= 0.1
    assert 4.9 < waits[-1] <= 5


def test_behind_a_host_that_never_answers_nothing_waits_for_ever(
    outbox: Outbox, client: redis.Redis
) -> None:
    claimed = told(outbox, 30)
    record(outbox, claimed, Result("waiting", None, "could not connect", answered=False))
    long_ago = now(outbox).timestamp() - GIVEN_UP_S - 1
    for one in claimed:
        client.hset(f"pr:c:{one.id}", "since", long_ago)
    make_due(client)
    for _ in range(3):
        assert take(outbox) == []
    found, total, _ = outbox.page("dead", None, 10)
    assert (total, found[0].reason) == (30, "its address has not answered for too long")
    assert client.hlen("pr:cb:fails") == 0


def test_410_turns_off_that_address_and_no_other(outbox: Outbox) -> None:
    here, there = told(outbox, 1, URL), told(outbox, 1, URL + "/other")
    record(outbox, here, Result("dead", 410, "gone", off=True))
    assert record(outbox, there, Result("done", 204)) == [True]
    assert told(outbox, 3, URL) == []
    assert len(told(outbox, 2, URL + "/other")) == 2
    found, total, _ = outbox.page("dead", None, 10)
    assert total == 4
    assert found[0].reason == "its address is turned off: it answered 410"


# --- lists, owners, replays


def test_each_owner_sees_its_own_and_an_admin_all(outbox: Outbox) -> None:
    claimed = [*told(outbox, 2, owner="a"), *told(outbox, 3, owner="b")]
    record(outbox, claimed[:1], DEAD)
    record(outbox, claimed[2:3], DEAD)
    assert ids(outbox, "dead", "a") == [claimed[0].id]
    assert ids(outbox, "dead", "b") == [claimed[2].id]
    assert set(ids(outbox, "dead")) == {claimed[2].id, claimed[0].id}
    assert outbox.find(claimed[0].id, "a").state == "dead"
    for owner in ("b", ""):
        with pytest.raises(NotFound):
            outbox.find(claimed[0].id, owner)
        with pytest.raises(NotFound):
            outbox.replay(claimed[0].id, owner)
    assert outbox.replay_dead("b") == (1, 0)
    assert ids(outbox, "dead") == [claimed[0].id]


def test_pages_hold_each_once_newest_first(outbox: Outbox) -> None:
    made = [one.id for one in told(outbox, 25)]
    seen: list[Callback] = []
    cursor = None
    while True:
        found, total, cursor = outbox.page("waiting", None, 10, cursor)
        assert total == 25
        seen += found
        if cursor is None:
            break
    assert [c.id for c in seen] == sorted(made, reverse=True)


@pytest.mark.parametrize("cursor", ["false", "x y", "\0", "é", ""])
def test_a_cursor_that_nobody_gave_is_refused(outbox: Outbox, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        outbox.page("dead", None, 10, cursor)


@pytest.mark.parametrize("result", [DEAD, Result("done", 204)])
def test_what_has_ended_can_be_replayed_from_the_beginning(outbox: Outbox, result: Result) -> None:
    claimed = told(outbox)
    with pytest.raises(IllegalTransition):
        outbox.replay(claimed[0].id, None)
    record(outbox, claimed, result)
    replayed = outbox.replay(claimed[0].id, None)
    assert (replayed.state, replayed.tries) == ("waiting", 0)
    (again,) = take(outbox)
    assert (again.id, again.line) == (claimed[0].id, claimed[0].line)


def test_a_replay_turns_its_address_on_again(outbox: Outbox) -> None:
    claimed = told(outbox)
    record(outbox, claimed, Result("dead", 410, "gone", off=True))
    outbox.replay(claimed[0].id, None)
    assert len(told(outbox, 2)) == 3


def test_all_dead_ones_are_replayed_in_bounded_parts(outbox: Outbox) -> None:
    record(outbox, told(outbox, 150), DEAD)
    assert outbox.replay_dead(None, 100) == (100, 50)
    assert outbox.replay_dead(None, 100) == (50, 0)
    assert outbox.replay_dead(None, 100) == (0, 0)
    assert len(take(outbox, 1_000, per_host=1_000)) == 150


# --- forgetting


def test_done_ones_are_forgotten_after_a_day_and_dead_ones_after_thirty(
    outbox: Outbox, client: redis.Redis
) -> None:
    first, second, third = told(outbox, 3, owner="a")
    record(outbox, [first], Result("done", 204))
    record(outbox, [second], DEAD)
    for state, one, days in (("done", first, 1), ("dead", second, 30)):
        for hours, left in ((-1, 1), (1, 0)):
            ended_at = now(outbox) - timedelta(days=days, hours=hours)
            client.zadd(f"pr:cb:ended:{state}", {one.id: ended_at.timestamp()})
            outbox.forget()
            assert client.exists(f"pr:c:{one.id}") == left
    assert ids(outbox, "waiting", "a") == [third.id]
    assert ids(outbox, "done", "a") == ids(outbox, "dead", "a") == []
    left = {key.decode() for key in client.keys("pr:c*")}
    assert left == {
        *(f"pr:c:{third.id}", "pr:cb:hosts", "pr:cb:due:crm.example"),
        *("pr:cb:waiting", "pr:cb:waiting:a"),
    }


def test_of_too_many_the_oldest_are_forgotten(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "KEPT", {"done": 10, "dead": 20})
    claimed = told(outbox, 60)
    record(outbox, claimed[:30], Result("done", 204))
    record(outbox, claimed[30:], DEAD)
    assert outbox.forget() == 30
    assert len(ids(outbox, "done")) == 10
    assert len(ids(outbox, "dead")) == 20
