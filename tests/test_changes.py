"""Stopping, moving and sending again, on a real Redis: what is found afterwards, and that nothing stopped is ever claimed."""

import random
import threading
import time
from datetime import datetime, timedelta

import pytest
import redis

from postrider.changes import Changes
from postrider.errors import InvalidRequest
from postrider.finding import Finder, Wanted
from postrider.model import (
    MOVES,
    Attempt,
    Claim,
    Message,
    NewMessage,
    Recipient,
    State,
    Terms,
    Verdict,
    new_message_id,
)
from postrider.store import Page, Store
from tests.conftest import wait_until

SPECS = {
    name: {
        "free": 1000,
        "interval": 0,
        "burst": 1,
        "gap": 0,
        "cap": 0,
        "offset": 0,
        "call": 1,
        "paces": [],
    }
    for name in ("sandbox", "telegram")
}
TTL = {"finished_ttl_s": 60, "failed_ttl_s": 60, "refused_s": 1.0}
WAITING = {State.SCHEDULED, State.RETRYING, State.UNKNOWN, State.PAUSED}


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client)


@pytest.fixture
def changes(client: redis.Redis) -> Changes:
    return Changes(client)


@pytest.fixture
def finder(client: redis.Redis) -> Finder:
    return Finder(client)


def post(store: Store, count: int = 1, in_s: float | None = None, **more: object) -> Message:
    now = store.now()
    recipients = tuple(Recipient(str(n), "telegram" if n % 2 else "sandbox") for n in range(count))
    at = None if in_s is None else now + timedelta(seconds=in_s)
    return store.accept(new_message_id(now), NewMessage("Hi", recipients, at, **more), now)


def claim(store: Store) -> list[Claim]:
    return list(store.claim("w", str(random.random()), SPECS, 15).claims)


def end(store: Store, claims: list[Claim], state: State, due_in_s: float | None = None) -> None:
    attempts = (Attempt(c.at, c.at, "sent", provider_id="7") for c in claims)
    store.record(
        "w", [Verdict(c, state, a, due_in_s) for c, a in zip(claims, attempts, strict=True)], **TTL
    )


def counts(finder: Finder, message: Message) -> dict[State, int]:
    found = finder.message(message.id, None)
    assert found is not None
    assert sum(found.counts.values()) == message.total
    return found.counts


@pytest.mark.parametrize("count", [3, 250, 2500])
def test_a_cancelled_message_is_never_sent(
    store: Store, changes: Changes, finder: Finder, client: redis.Redis, count: int
) -> None:
    message = post(store, count, in_s=0.05)
    done = changes.message("cancel", message.id)
    assert done.changed == {State.SCHEDULED: count}
    assert done.unchanged == {}
    assert counts(finder, message) == {State.CANCELLED: count}
    time.sleep(0.1)
    assert claim(store) == []
    assert client.keys("rq:job:*") == []
    assert client.zcard("pr:in:cancelled") == count


def test_what_is_being_sent_or_gone_stays_and_the_answer_says_so(
    store: Store, changes: Changes, finder: Finder
) -> None:
    message = post(store, 3)
    claims = claim(store)
    end(store, claims[:1], State.SENT)
    end(store, claims[1:2], State.RETRYING, 60)
    done = changes.message("cancel", message.id)
    assert done.changed == {State.RETRYING: 1}
    assert done.unchanged == {State.SENT: 1, State.SENDING: 1}
    end(store, claims[2:], State.SENT)
    assert counts(finder, message) == {State.SENT: 2, State.CANCELLED: 1}


def test_a_paused_one_waits_until_it_is_resumed(
    store: Store, changes: Changes, finder: Finder
) -> None:
    message = post(store, 2, in_s=0.05)
    assert changes.message("pause", message.id).total == 2
    time.sleep(0.1)
    assert claim(store) == []
    assert store.rescue(0.0) == 0
    assert counts(finder, message) == {State.PAUSED: 2}
    assert changes.message("resume", message.id).total == 2
    wait_until(lambda: len(claim(store)) == 2, 2)


def test_a_moved_one_goes_at_its_new_time(store: Store, changes: Changes, finder: Finder) -> None:
    message = post(store, 2, in_s=3600)
    at = store.now() + timedelta(seconds=0.2)
    assert changes.message("move", message.id, at).total == 2
    assert claim(store) == []
    found, _ = finder.deliveries(Wanted(message=message.id), 10)
    assert [row.at for row in found] == [at, at]
    assert found[0].message.due_at == at
    wait_until(lambda: len(claim(store)) == 2, 2)


def bodies(page: Page) -> dict[str, tuple[str, datetime]]:
    """Recipient -> the text and time that the list shows."""
    return {d.recipient.uuid: (m.body, m.due_at) for d, m in page.rows}


def test_what_has_gone_keeps_its_text_and_its_time(store: Store, changes: Changes) -> None:
    message = post(store, 4)
    due = message.due_at
    gone, on_its_way, comes_back, waits = sorted(claim(store), key=lambda c: c.recipient.uuid)
    end(store, [gone], State.SENT)
    end(store, [waits], State.RETRYING, 60)
    assert changes.rewrite(message.id, "Second").changed == {State.RETRYING: 1}
    end(store, [on_its_way], State.SENT)
    end(store, [comes_back], State.RETRYING, 0)
    (again,) = claim(store)
    assert again.message.body == "Second"
    end(store, [again], State.SENT)
    tomorrow = store.now() + timedelta(days=1)
    assert changes.message("move", message.id, tomorrow).total == 1
    assert changes.rewrite(message.id, "Third").total == 1
    assert bodies(store.finished(10)) == {
        "0": ("Hi", due),
        "1": ("Hi", due),
        "2": ("Second", due),
    }
    assert bodies(store.scheduled(10)) == {"3": ("Third", tomorrow)}


def test_where_nothing_waits_nothing_is_rewritten_or_moved(store: Store, changes: Changes) -> None:
    message = post(store, 2)
    end(store, claim(store), State.SENT)
    shown = store.finished(10)
    assert changes.rewrite(message.id, "Other").unchanged == {State.SENT: 2}
    assert changes.message("move", message.id, store.now() + timedelta(days=1)).total == 0
    assert store.finished(10) == shown
    assert changes.rewrite("nobody", "Other").changed == {}


def test_a_text_is_changed_20_times_once_a_part_of_it_went(store: Store, changes: Changes) -> None:
    message = post(store, 2)
    for n in range(30):
        changes.rewrite(message.id, f"Before {n}")
    sent, waits = claim(store)
    end(store, [waits], State.RETRYING, 60)
    end(store, [sent], State.SENT)
    for n in range(20):
        changes.rewrite(message.id, f"After {n}")
    with pytest.raises(InvalidRequest, match=r"^body: was changed too often"):
        changes.rewrite(message.id, "Once more")


def test_the_list_shows_when_each_will_go(store: Store) -> None:
    now = store.now()
    late = Recipient("2", "sandbox", send_at=now + timedelta(days=2))
    soon = now + timedelta(days=1)
    store.accept(
        new_message_id(now), NewMessage("Hi", (Recipient("1", "sandbox"), late), soon), now
    )
    assert [m.due_at for _, m in store.scheduled(10).rows] == [soon, late.send_at]


def test_a_paused_one_that_is_moved_stays_paused(store: Store, changes: Changes) -> None:
    message = post(store, 1, in_s=3600)
    changes.message("pause", message.id)
    changes.message("move", message.id, store.now())
    assert claim(store) == []
    changes.message("resume", message.id)
    assert len(claim(store)) == 1


@pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED, State.SUPPRESSED, State.UNKNOWN])
def test_one_that_ended_is_sent_again_when_asked(
    store: Store, changes: Changes, finder: Finder, state: State
) -> None:
    message = post(store)
    end(store, claim(store), state)
    assert counts(finder, message) == {state: 1}
    done = changes.deliveries("retry", [f"{message.id}-0"])
    assert done.changed == {state: 1}
    (again,) = claim(store)
    assert again.attempts == 0
    end(store, [again], State.SENT)
    assert counts(finder, message) == {State.SENT: 1}


def test_what_was_sent_is_not_sent_again(store: Store, changes: Changes) -> None:
    message = post(store)
    end(store, claim(store), State.SENT)
    assert changes.deliveries("retry", [f"{message.id}-0"]).unchanged == {State.SENT: 1}
    assert claim(store) == []


@pytest.mark.parametrize("what", ["cancel", "pause", "resume", "move", "expire", "retry"])
@pytest.mark.parametrize(
    "state", [s for s in State if s not in {State.SENDING, State.DELIVERED, State.READ}]
)
def test_a_change_keeps_to_the_table_of_moves(
    store: Store, changes: Changes, finder: Finder, client: redis.Redis, what: str, state: State
) -> None:
    message = post(store, 1, in_s=60 if state in {State.SCHEDULED, State.PAUSED} else None)
    if state is State.PAUSED:
        changes.message("pause", message.id)
    elif state is State.CANCELLED:
        changes.message("cancel", message.id)
    elif state is not State.SCHEDULED:
        end(store, claim(store), state, 60 if state is State.RETRYING else None)
    done = changes.message(what, message.id)  # type: ignore[arg-type]
    (after,) = counts(finder, message)
    if done.total:
        assert after is state or after in MOVES[state]
    else:
        assert after is state
    keys = [k.decode() for k in client.keys("pr:in:*") if client.zcard(k)]
    assert keys == [f"pr:in:{after if after is not State.UNKNOWN or done.total else 'held'}"]


def test_each_race_for_a_delivery_is_won_by_one(
    store: Store, changes: Changes, client: redis.Redis
) -> None:
    """Cancelled or claimed, never both; the short form of 10,000."""
    messages = [post(store, 50) for _ in range(40)]
    claimed: set[str] = set()

    def work() -> None:
        while claims := claim(store):
            claimed.update(c.delivery_id for c in claims)

    stopped = 0
    worker = threading.Thread(target=work)
    worker.start()
    for message in reversed(messages):
        stopped += changes.message("cancel", message.id).total
    worker.join()
    claimed.update(c.delivery_id for c in claim(store))
    cancelled = {id_.decode() for id_ in client.zrange("pr:in:cancelled", 0, -1)}
    assert len(cancelled) == stopped
    assert not cancelled & claimed
    assert len(cancelled | claimed) == 2000


def test_a_change_that_was_left_half_way_is_ended_by_the_sweep(
    store: Store, changes: Changes, finder: Finder, client: redis.Redis
) -> None:
    message = post(store, 2500, in_s=60)
    changes.scripts.run("change", "cancel", "", message.id, 0, 1000)
    assert counts(finder, message) == {State.CANCELLED: 1000, State.SCHEDULED: 1500}
    changes.sweep(store.now() + timedelta(seconds=60))
    assert counts(finder, message) == {State.CANCELLED: 2500}
    assert client.exists("pr:changing") == 0


def test_cancelled_while_it_is_still_being_armed_stays_cancelled(
    store: Store, changes: Changes, client: redis.Redis
) -> None:
    message = post(store, 2500, in_s=60)
    for n in range(1000, 2500):
        client.zrem("pr:in:scheduled", f"{message.id}-{n}")
        client.zrem("rq:scheduler:scheduled_jobs", f"{message.id}-{n}")
    client.hset(f"pr:m:{message.id}", "armed", 1000)
    client.zadd("pr:accepting", {message.id: 1.0})
    assert changes.message("cancel", message.id).total == 2500
    store.finish_accepting()
    assert client.zcard("pr:in:scheduled") == client.zcard("rq:scheduler:scheduled_jobs") == 0


def test_what_expires_is_never_sent(store: Store, changes: Changes, finder: Finder) -> None:
    terms = Terms(expires_at=store.now() + timedelta(seconds=30))
    message = post(store, 2, in_s=60, terms=terms)
    changes.sweep(store.now())
    assert counts(finder, message) == {State.SCHEDULED: 2}
    changes.sweep(store.now() + timedelta(seconds=31))
    assert counts(finder, message) == {State.EXPIRED: 2}


@pytest.mark.parametrize("name", ["all", "service telegram", "account telegram", "client k1"])
def test_what_is_stopped_waits_and_goes_on(store: Store, changes: Changes, name: str) -> None:
    post(store, 4, owner="k1")
    changes.stop(name, "admin", store.now())
    assert name in changes.stops()
    went = claim(store)
    assert {c.recipient.service for c in went} == ({"sandbox"} if "telegram" in name else set())
    assert claim(store) == []
    assert changes.go_on(name)
    assert not changes.go_on(name)
    wait_until(lambda: went.extend(claim(store)) or len(went) == 4, 2)


def test_stopping_one_client_stops_no_other(store: Store, changes: Changes) -> None:
    post(store, 2, owner="k1")
    other = post(store, 2, owner="k2")
    changes.stop("client k1", "admin", store.now())
    assert {c.message.id for c in claim(store) + claim(store)} == {other.id}


def test_the_ledger_counts_every_end_once(
    store: Store, changes: Changes, client: redis.Redis
) -> None:
    message = post(store, 250)
    claims = claim(store)
    end(store, claims[:100], State.SENT)
    end(store, claims[100:120], State.FAILED)
    end(store, claims[120:130], State.RETRYING, 60)
    changes.deliveries("retry", [claims[100].delivery_id])
    changes.message("cancel", message.id)
    hour = int(message.accepted_at.timestamp() // 3600)
    ledger = {k.decode(): int(v) for k, v in client.hgetall("pr:ledger").items()}
    assert ledger == {f"{hour}:a": 250, f"{hour}:t": 100, f"{hour}:f": 19, f"{hour}:c": 11}


def test_a_change_that_was_left_half_way_is_ended_before_the_next_begins(
    store: Store, changes: Changes, finder: Finder
) -> None:
    message = post(store, 2_500, in_s=3600)
    changes.scripts.run("change", "cancel", "", message.id, 0, 1_000)  # and its caller dies
    assert changes.message("pause", message.id).changed == {}
    assert counts(finder, message) == {State.CANCELLED: 2_500}


def test_a_late_yes_beside_what_put_it_on_hold_leaves_it_in_one_list(
    store: Store, client: redis.Redis
) -> None:
    post(store)
    (first,) = claim(store)
    end(store, [first], State.UNKNOWN, 0.0)
    (second,) = claim(store)
    tried = Attempt(first.at, first.at, "sent", provider_id="7")
    both = [Verdict(second, State.UNKNOWN, tried), Verdict(first, State.SENT, tried)]
    assert store.record("w", both, **TTL) == [True, True]
    assert client.zcard("pr:in:held") == 0
    assert client.zcard("pr:in:sent") == 1
