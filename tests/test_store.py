"""The store: all or nothing, claims under a lease, late comers, pages, RQ's own data. Against a real Redis."""

import locale
import time
from datetime import UTC, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import redis
from rq import Queue
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq_scheduler import Scheduler

from messengers.base import Template
from postrider import queue
from postrider.errors import InvalidRequest, Unavailable
from postrider.limits import Limits
from postrider.link import connect
from postrider.model import (
    LETTERS,
    MOVES,
    Attempt,
    Claim,
    Message,
    NewMessage,
    Recipient,
    State,
    Verdict,
    new_message_id,
)
from postrider.store import COMMIT_WITHIN_S, ENDED_ILL, ENDED_WELL, Claimed, Counts, Store
from tests.conftest import redis_with, wait_until

WORKER = "w1"
TTL = {"finished_ttl_s": 600, "failed_ttl_s": 600, "refused_s": 1}


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client)


def post(
    store: Store,
    count: int = 1,
    *,
    in_s: float | None = None,
    priority: str = "normal",
    body: str = "Hi",
) -> Message:
    now = store.now()
    send_at = None if in_s is None else now + timedelta(seconds=in_s)
    recipients = tuple(Recipient(f"user {n}", "sandbox") for n in range(count))
    new = NewMessage(body, recipients, send_at, priority=priority)  # type: ignore[arg-type]
    return store.accept(new_message_id(now), new, now)


def specs(free: int, **limits: Any) -> dict[str, Any]:
    """Three accounts, with these limits each."""
    spec = Limits(**limits).spec(free, 0)
    return dict.fromkeys(("sandbox", "telegram", "viber"), spec)


def claimed(store: Store, most: int = 1, worker: str = WORKER, lease_s: float = 30) -> Claimed:
    return store.claim(worker, token_hex(8), specs(most), lease_s)


def claim(store: Store, most: int = 1, lease_s: float = 30) -> list[Claim]:
    return list(claimed(store, most, lease_s=lease_s).claims)


def ends(
    claim: Claim, state: State, due_in_s: float | None = None, *, counts: bool = False
) -> Verdict:
    attempt = Attempt(claim.at, claim.at, state.value, "because", "id-1")
    return Verdict(claim, state, attempt, due_in_s, counts)


def states(store: Store) -> list[tuple[str, str]]:
    rows = [*store.scheduled(1000).rows, *store.finished(1000).rows]
    return [(delivery.recipient.uuid, delivery.state.value) for delivery, _ in rows]


# -- accepting


def test_an_accepted_message_is_read_back_as_it_was_sent(store: Store) -> None:
    now = store.now()
    template = Template("hello", "en_US", ({"type": "body"},))
    recipients = (Recipient("a b\nc", "sandbox"), Recipient("@x", "telegram", "shop"))
    sent = store.accept(
        new_message_id(now),
        NewMessage("Grüße 👋🏽\r\n", recipients, now + timedelta(hours=1), template),
        now,
    )
    rows = store.scheduled(10).rows
    assert [message for _, message in rows] == [sent, sent]
    assert tuple(delivery.recipient for delivery, _ in rows) == recipients


@pytest.mark.parametrize("count", [1, 100, 101, 999, 1000, 1001, 2500])
def test_every_recipient_waits_once_whatever_the_number(
    store: Store, client: redis.Redis, count: int
) -> None:
    message = post(store, count, in_s=60)
    assert store.scheduled(1).total == count
    assert client.zcard("rq:scheduler:scheduled_jobs") == count
    assert client.exists("pr:accepting") == 0
    assert client.hget(f"pr:m:{message.id}", "left") == str(count).encode()


def test_the_body_is_stored_once(store: Store, client: redis.Redis) -> None:
    post(store, 1000, in_s=60, body="a long body " * 100)
    dumps = b"".join(client.dump(key) or b"" for key in client.scan_iter())
    assert dumps.count(b"a long body a long body") <= 100  # one value, itself repetitive
    assert len(client.keys("pr:m:*")) == 1


def test_times_keep_their_microseconds(store: Store) -> None:
    now = store.now()
    at = now.replace(microsecond=123_457) + timedelta(hours=1)
    store.accept(new_message_id(now), NewMessage("x", (Recipient("1", "sandbox"),), at), now)
    assert store.scheduled(1).rows[0][1].due_at == at


def test_what_was_written_but_not_committed_is_removed(store: Store, client: redis.Redis) -> None:
    now = store.now()
    mid = new_message_id(now)
    overdue = f"{now.timestamp() - 1:.6f}"
    records = ["sd sandbox 1"] * 1500
    client.hset(f"pr:m:{mid}", mapping={"total": 1500, "due": overdue, "body": "x"})
    client.zadd("pr:accepting", {mid: float(overdue)})
    for n in range(1500):
        client.hset(f"pr:d:{mid}:{n // 100}", str(n), records[n])
        client.set(f"rq:job:{mid}-{n}", "x")
    for _ in range(3):
        store.finish_accepting()
    assert [k for k in client.scan_iter() if mid.encode() in k] == []
    assert store.scheduled(1).total == 0


def test_what_is_removed_keeps_nothing_that_was_accepted_waiting(
    store: Store, client: redis.Redis
) -> None:
    """30 messages of which a hundredth was written before whoever accepted them died, and one that is only to be armed."""
    accept = store.scripts.run
    later = f"{store.now().timestamp() + 10:.6f}"
    for n in range(30):
        fields = ("total", "100000", "due", later, "services", "sandbox", "armed", "0")
        mid = f"{n:021}"
        accept("accept", 1, mid, later, later, 0, 1000, 8, *fields, *["sd sandbox 1"] * 1000)
        client.zadd("pr:accepting", {mid: 1.0})
    message = post(store, 1500, in_s=60)
    client.delete("pr:in:scheduled", "rq:scheduler:scheduled_jobs")
    client.hset(f"pr:m:{message.id}", "armed", 0)
    client.zadd("pr:accepting", {message.id: 2.0})
    store.finish_accepting()
    assert client.zcard("rq:scheduler:scheduled_jobs") == 1500
    assert [key for key in client.scan_iter() if b"0" * 19 in key] == []


def test_what_was_committed_but_not_armed_is_rolled_forward(
    store: Store, client: redis.Redis
) -> None:
    message = post(store, 2500, in_s=60)
    # as a process leaves it that dies after the first part was armed
    for n in range(1000, 2500):
        client.zrem("pr:in:scheduled", f"{message.id}-{n}")
        client.zrem("rq:scheduler:scheduled_jobs", f"{message.id}-{n}")
    client.hset(f"pr:m:{message.id}", "armed", 1000)
    client.zadd("pr:accepting", {message.id: 1.0})
    store.finish_accepting()
    assert store.scheduled(1).total == 2500
    assert client.zcard("rq:scheduler:scheduled_jobs") == 2500
    assert client.exists("pr:accepting") == 0


def test_a_commit_after_its_deadline_is_refused_and_leaves_nothing(
    store: Store, client: redis.Redis
) -> None:
    long_ago = store.now() - timedelta(seconds=COMMIT_WITHIN_S + 1)
    with pytest.raises(Unavailable, match="nothing was accepted"):
        store.accept(
            new_message_id(long_ago), NewMessage("x", (Recipient("1", "sandbox"),)), long_ago
        )
    assert client.keys() == []


def test_redis_away_is_unavailable_not_a_stack_trace(tmp_path: object) -> None:
    store = Store(connect(f"unix://{tmp_path}/none.sock"))
    with pytest.raises(Unavailable):
        store.now()


def test_redis_full_is_unavailable_and_nothing_is_half_done(
    store: Store, client: redis.Redis
) -> None:
    post(store, 1)
    keys = sorted(client.scan_iter())
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(Unavailable):
            post(store, 10, in_s=5)
    finally:
        client.config_set("maxmemory", 0)
    assert sorted(client.scan_iter()) == keys


# -- claiming


def test_nothing_is_claimed_before_its_time(store: Store) -> None:
    post(store, 1, in_s=0.15)
    early = claimed(store, 10)
    assert early.claims == []
    assert early.next_look_in_s == pytest.approx(0.15, abs=0.1)
    wait_until(lambda: claim(store), 2)


def test_only_one_of_two_workers_takes_a_delivery(store: Store) -> None:
    post(store, 50)
    first, second = claim(store, 30), list(claimed(store, 30, "w2").claims)
    assert len(first) == 30
    assert len(second) == 20
    assert not {c.job_id for c in first} & {c.job_id for c in second}


def test_a_claim_of_any_size_is_taken_in_parts(store: Store) -> None:
    post(store, 2500)
    assert [len(claim(store, 100_000)) for _ in range(4)] == [1000, 1000, 500, 0]


def test_a_claim_says_all_that_sending_needs(store: Store) -> None:
    message = post(store, 1, body="Hello")
    (mine,) = claim(store)
    assert mine.message == message
    assert mine.recipient == Recipient("user 0", "sandbox")
    assert (mine.delivery_id, mine.alarm, mine.attempts, mine.to) == (
        f"{message.id}-0",
        0,
        0,
        "user 0",
    )


def test_priorities_are_served_by_weight_and_low_never_starves(store: Store) -> None:
    for priority in ("low", "normal", "high"):
        post(store, 100, priority=priority, body=priority)
    got = [c.message.body for c in claim(store, 100)]
    assert [got.count(p) for p in ("high", "normal", "low")] == [60, 30, 10]


def test_what_a_busy_priority_leaves_goes_to_the_next(store: Store) -> None:
    post(store, 5, priority="high")
    post(store, 50, priority="low")
    assert len(claim(store, 30)) == 30


def test_due_work_over_the_batch_waits_in_rqs_queue_and_is_claimed_from_there(
    store: Store, client: redis.Redis
) -> None:
    post(store, 50)
    claim(store, 10)
    assert client.llen("rq:queue:default") == 40
    assert len(claim(store, 100)) == 40
    assert client.llen("rq:queue:default") == 0


def test_a_claim_moves_the_record_only_along_the_table(store: Store) -> None:
    post(store, 1)
    claim(store)
    assert State.SENDING in MOVES[State.SCHEDULED]
    assert store.scheduled(1).total == 0
    assert claim(store) == []


@pytest.mark.parametrize(
    "job_id", ["x", "a-b", "-", "0-0", "é" * 21 + "-0", "A" * 21 + "-0", "A" * 21 + "-0-99999999"]
)
def test_a_job_that_nobody_accepted_is_dropped_with_its_record(
    store: Store, client: redis.Redis, job_id: str
) -> None:
    client.hset(f"rq:job:{job_id}", "data", "os.system")
    client.zadd("rq:scheduler:scheduled_jobs", {job_id: 1.0})
    client.rpush("rq:queue:default", job_id)
    assert claim(store, 10) == []
    assert client.keys("rq:job:*") == []
    assert client.zcard("rq:scheduler:scheduled_jobs") == 0


# -- recording


def test_a_sent_delivery_is_finished_for_us_and_for_rq(store: Store, client: redis.Redis) -> None:
    post(store, 1)
    (mine,) = claim(store)
    assert StartedJobRegistry("default", connection=client).get_job_ids() == [mine.job_id]
    assert store.record(WORKER, [ends(mine, State.SENT)], **TTL) == [True]
    assert states(store) == [("user 0", "sent")]
    assert FinishedJobRegistry("default", connection=client).get_job_ids() == [mine.job_id]
    assert StartedJobRegistry("default", connection=client).get_job_ids() == []
    assert Job.fetch(mine.job_id, client).get_status() == "finished"
    assert client.zcard("pr:leases") == 0


def test_a_refused_delivery_is_failed_with_the_reason(store: Store, client: redis.Redis) -> None:
    post(store, 1)
    (mine,) = claim(store)
    store.record(WORKER, [ends(mine, State.FAILED, counts=True)], **TTL)
    assert states(store) == [("user 0", "failed")]
    job_ids = FailedJobRegistry("default", connection=client).get_job_ids()
    assert job_ids == [mine.job_id]
    assert client.hget(f"rq:job:{mine.job_id}", "exc_info") == b"because"


def test_a_retry_waits_and_is_then_claimed_again_under_a_new_alarm(
    store: Store, client: redis.Redis
) -> None:
    post(store, 1)
    (mine,) = claim(store)
    store.record(WORKER, [ends(mine, State.RETRYING, 0.1, counts=True)], **TTL)
    assert states(store) == [("user 0", "retrying")]
    assert claim(store) == []
    wait_until(lambda: client.zcount("rq:scheduler:scheduled_jobs", 0, time.time()))
    (again,) = claim(store)
    assert (again.delivery_id, again.alarm, again.attempts) == (mine.delivery_id, 1, 1)
    assert client.exists(f"rq:job:{mine.job_id}") == 0


def test_handing_back_costs_no_attempt(store: Store) -> None:
    post(store, 1)
    (mine,) = claim(store)
    store.record(WORKER, [Verdict(mine, State.SCHEDULED, due_in_s=0.0)], **TTL)
    (again,) = claim(store)
    assert again.attempts == 0


def test_who_comes_after_the_lease_changes_nothing(store: Store) -> None:
    post(store, 1)
    (mine,) = claim(store, lease_s=0.01)
    store.record(WORKER, [ends(mine, State.RETRYING, 0.0, counts=True)], **TTL)
    (theirs,) = claim(store)
    assert store.record("w2", [ends(mine, State.FAILED)], **TTL) == [False]
    assert store.record("w2", [ends(theirs, State.SENT)], **TTL) == [True]
    assert states(store) == [("user 0", "sent")]


def test_a_late_yes_settles_what_became_unknown_meanwhile(store: Store) -> None:
    post(store, 1)
    (mine,) = claim(store)
    store.record("sweep", [ends(mine, State.UNKNOWN, 60.0, counts=True)], **TTL)
    assert store.record(WORKER, [ends(mine, State.SENT)], **TTL) == [True]
    assert states(store) == [("user 0", "sent")]
    assert claim(store) == []


def test_unknown_without_a_try_left_is_held_and_shown(store: Store) -> None:
    post(store, 1)
    (mine,) = claim(store)
    store.record(WORKER, [ends(mine, State.UNKNOWN, counts=True)], **TTL)
    assert states(store) == [("user 0", "unknown")]
    store.purge(ENDED_WELL)
    store.purge(ENDED_ILL)
    assert states(store) == [("user 0", "unknown")]


def test_attempts_are_kept_a_line_each_within_bounds(store: Store, client: redis.Redis) -> None:
    message = post(store, 1)
    for _ in range(150):
        (mine,) = claim(store)
        store.record(WORKER, [ends(mine, State.RETRYING, 0.0)], **TTL)
    lines = client.hget(f"pr:a:{message.id}:0", "0")
    assert lines is not None
    assert 2 < lines.count(b"\n") < 150
    assert len(lines) <= 8000


def test_attempts_are_read_back_oldest_first_for_any_number_of_deliveries(store: Store) -> None:
    mid = post(store, 1001).id
    ids = [f"{mid}-{n}" for n in range(1001)]
    for _ in range(2):
        store.record(WORKER, [ends(c, State.RETRYING, 0.0) for c in claim(store, 1000)], **TTL)
    found = store.attempts([*ids, "2" * 21 + "-0"])
    assert list(found) == [*ids, "2" * 21 + "-0"]
    assert sorted(len(tries) for tries in found.values()) == [0, 1, 1, *[2] * 999]
    first, second = found[ids[1]]
    assert (first.outcome, first.reason, first.provider_id) == ("retrying", "because", "id-1")
    assert first.started_at < second.started_at


def test_a_moved_address_is_remembered_for_the_next_message(store: Store) -> None:
    post(store, 1)
    (mine,) = claim(store)
    store.record(WORKER, [Verdict(mine, State.RETRYING, due_in_s=0.0, moved_to="-100")], **TTL)
    assert claim(store)[0].to == "-100"
    post(store, 1)
    assert claim(store)[0].to == "-100"


# -- sweeping


def sweep_now(client: redis.Redis) -> None:
    """Makes the last sweep a recent one: Redis was not away."""
    client.set("pr:swept", time.time())


def test_a_lease_that_ran_out_is_found_once(store: Store, client: redis.Redis) -> None:
    post(store, 3)
    claim(store, 3, lease_s=0.01)
    sweep_now(client)
    wait_until(lambda: client.zcount("pr:leases", 0, time.time()) == 3)
    assert len(store.overdue(15)) == 3
    assert store.overdue(15) == []


def test_a_renewed_lease_is_left_alone(store: Store, client: redis.Redis) -> None:
    post(store, 1)
    (mine,) = claim(store, lease_s=0.01)
    store.renew([mine.job_id, "not-ours"], 60)
    sweep_now(client)
    assert store.overdue(15) == []
    assert client.zcard("pr:leases") == 1


def test_after_redis_was_away_live_workers_get_time_to_renew(
    store: Store, client: redis.Redis
) -> None:
    post(store, 1)
    claim(store, lease_s=0.01)
    client.set("pr:swept", time.time() - 60)
    assert store.overdue(0.2) == []
    wait_until(lambda: store.overdue(0.2), 2)


def let_rqscheduler_queue(client: redis.Redis, count: int) -> None:
    """Runs rq-scheduler until it has queued them: it knows whole seconds only."""

    def queued() -> bool:
        Scheduler(connection=client).enqueue_jobs()
        return client.llen("rq:queue:default") == count

    wait_until(queued, 3)


def test_what_a_stock_worker_popped_and_lost_is_armed_anew(
    store: Store, client: redis.Redis
) -> None:
    post(store, 2)
    let_rqscheduler_queue(client, 2)
    client.lpop("rq:queue:default")
    wait_until(lambda: store.rescue(0.05) == 1, 2)
    assert len(claim(store, 10)) == 2


def test_what_still_stands_in_a_queue_is_not_armed_anew(store: Store, client: redis.Redis) -> None:
    post(store, 2)
    let_rqscheduler_queue(client, 2)
    assert store.rescue(0.0) == 0


def test_purging_forgets_everything_about_what_ended_and_nothing_else(
    store: Store, client: redis.Redis
) -> None:
    post(store, 1500)
    waiting = post(store, 1, in_s=60)
    while claims := claim(store, 1000):
        store.record(
            WORKER,
            [ends(c, State.SENT if c.job_id[-1] != "7" else State.FAILED) for c in claims],
            **TTL,
        )
    a_chunk = store.purge(ENDED_WELL, within_s=0)
    assert 0 < a_chunk < 1350
    assert a_chunk + store.purge(ENDED_WELL) == 1350
    assert store.purge(ENDED_ILL) == 150
    left = {
        k
        for k in client.scan_iter()
        if not k.startswith((b"rq:w", b"pr:turn", b"pr:served", b"pr:claimed", b"pr:ledger"))
    }
    ours = f"{waiting.id}".encode()
    assert {k for k in left if ours not in k and not k.startswith(b"pr:to:b:")} == {
        b"rq:scheduler:scheduled_jobs",
        b"pr:in:scheduled",
        b"pr:messages",
        b"pr:messages:s:sandbox",
    }
    found_by = [k for k in left if k.startswith((b"pr:to:b:", b"pr:messages"))]
    assert [client.zcard(k) for k in found_by] == [1] * 3
    assert store.scheduled(1).total == 1


def test_purging_before_a_moment_spares_what_is_younger(store: Store) -> None:
    post(store, 2)
    store.record(WORKER, [ends(claim(store)[0], State.SENT)], **TTL)
    between = store.now()
    store.record(WORKER, [ends(claim(store)[0], State.SENT)], **TTL)
    assert store.purge(ENDED_WELL, between) == 1
    assert len(states(store)) == 1


# -- lists


def walk(store: Store, which: str, limit: int) -> list[str]:
    ids: list[str] = []
    cursor = None
    while True:
        page = getattr(store, which)(limit, cursor)
        ids += [delivery.id for delivery, _ in page.rows]
        cursor = page.next
        if cursor is None:
            return ids


@pytest.mark.parametrize("limit", [1, 7, 100, 250, 1000])
def test_pages_of_what_waits_show_each_once_soonest_first(store: Store, limit: int) -> None:
    late = post(store, 120, in_s=60)
    soon = post(store, 130, in_s=30)
    ids = walk(store, "scheduled", limit)
    assert len(ids) == len(set(ids)) == 250
    assert {i.partition("-")[0] for i in ids[:130]} == {soon.id}
    assert {i.partition("-")[0] for i in ids[130:]} == {late.id}


def test_pages_of_what_ended_merge_all_kinds_newest_first(store: Store) -> None:
    post(store, 60)
    kinds = [State.SENT, State.FAILED, State.UNKNOWN]
    order = []
    for n in range(60):
        (mine,) = claim(store)
        store.record(WORKER, [ends(mine, kinds[n % 3])], **TTL)
        order.append(mine.delivery_id)
    assert walk(store, "finished", 7) == order[::-1]


def test_deliveries_are_counted_where_they_stand(store: Store, client: redis.Redis) -> None:
    post(store, 6)
    post(store, 2, in_s=60)
    sent, failed, unknown, *_ = claim(store, 4)
    ended = [
        ends(sent, State.SENT),
        ends(failed, State.FAILED),
        ends(unknown, State.UNKNOWN, counts=True),
    ]
    store.record(WORKER, ended, **TTL)
    where = {"waiting": 4, "sending": 1, "held": 1, "finished": 1, "failed": 1}
    assert store.counts(late_s=30) == Counts(**where, late=0)
    assert store.counts() == Counts(**where, late=2)
    assert sum(queue.lengths(client).values()) == 2


def test_a_cursor_whose_own_entry_is_gone_still_goes_on_in_its_place(store: Store) -> None:
    post(store, 30, in_s=0.2)
    page = store.scheduled(10)
    wait_until(lambda: len(claim(store, 10)) == 10, 2)
    rest = store.scheduled(100, page.next)
    seen = {d.id for d, _ in page.rows} | {d.id for d, _ in rest.rows}
    waiting = {d.id for d, _ in store.scheduled(100).rows}
    assert waiting <= seen


@pytest.mark.parametrize("cursor", ["x", "!!!", "AAAA", "MTIz", "é", "a" * 5000])
def test_a_cursor_that_we_did_not_give_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        store.scheduled(10, cursor)


# -- RQ's own data


def test_stock_tools_read_what_waits(store: Store, client: redis.Redis) -> None:
    message = post(store, 3, in_s=60)
    jobs = list(Scheduler(connection=client).get_jobs(with_times=True))
    assert [job.id for job, _ in jobs] == [f"{message.id}-{n}" for n in range(3)]
    for job, at in jobs:
        assert (job.func_name, job.args, job.kwargs) == (queue.DELIVER, (job.id,), {})
        assert at.replace(tzinfo=UTC) == message.due_at
        assert abs(job.created_at - message.accepted_at) < timedelta(seconds=2)
        assert (job.origin, job.get_status()) == ("default", "scheduled")


def test_payloads_hold_ids_only(store: Store, client: redis.Redis) -> None:
    post(store, 1, in_s=60, body="a very private word")
    for key in client.keys("rq:*"):
        assert b"private" not in (client.dump(key) or b"")
        assert b"user 0" not in (client.dump(key) or b"")


def test_jobs_of_each_priority_wait_in_the_queue_of_that_name(
    store: Store, client: redis.Redis
) -> None:
    for priority in ("high", "normal", "low"):
        post(store, 2, priority=priority)
    claimed(store, 0)
    assert {q.name: q.count for q in Queue.all(client)} == {}
    queue.prepare(client)
    assert {q.name: q.count for q in Queue.all(client)} == {"high": 2, "default": 2, "low": 2}


def test_lua_and_python_spell_states_alike() -> None:
    letters = {
        state: LETTERS[state]
        for state in (State.SCHEDULED, State.RETRYING, State.UNKNOWN, State.SENDING)
    }
    assert letters == {
        State.SCHEDULED: "s",
        State.RETRYING: "r",
        State.UNKNOWN: "u",
        State.SENDING: "g",
    }
    assert (LETTERS[State.SENT], LETTERS[State.FAILED]) == ("t", "f")


# -- what breaks in the field


def test_a_late_yes_settles_even_what_is_on_hold(store: Store, client: redis.Redis) -> None:
    post(store, 1)
    (mine,) = claim(store)
    store.record("sweep", [ends(mine, State.UNKNOWN, counts=True)], **TTL)
    assert store.record(WORKER, [ends(mine, State.SENT)], **TTL) == [True]
    assert states(store) == [("user 0", "sent")]
    assert FailedJobRegistry("default", connection=client).get_job_ids() == []


def test_a_full_redis_refuses_claims_and_still_forgets(store: Store, client: redis.Redis) -> None:
    post(store, 2)
    store.record(WORKER, [ends(claim(store)[0], State.SENT)], **TTL)
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(Unavailable):
            claim(store)
        assert store.purge(ENDED_WELL) == 1
    finally:
        client.config_set("maxmemory", 0)
    assert len(claim(store)) == 1


SORTS_A_BEFORE_B = "en_US.UTF-8"


def test_pages_do_not_follow_the_locale_that_redis_runs_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", SORTS_A_BEFORE_B)
    try:
        locale.setlocale(locale.LC_COLLATE, SORTS_A_BEFORE_B)
    except locale.Error:
        pytest.skip(f"needs the locale {SORTS_A_BEFORE_B}")
    finally:
        locale.setlocale(locale.LC_COLLATE, "C")
    with redis_with(tmp_path) as url, connect(url) as client:
        store = Store(client)
        at = store.now() + timedelta(hours=1)
        for _ in range(60):
            now = store.now()
            new = NewMessage("x", (Recipient("1", "sandbox"),), at)
            store.accept(new_message_id(now), new, now)
        assert len(set(walk(store, "scheduled", 7))) == len(walk(store, "scheduled", 7)) == 60


def test_stale_entries_in_a_queue_are_dropped_in_bounded_parts(
    store: Store, client: redis.Redis
) -> None:
    client.rpush("rq:queue:default", *("A" * 21 + f"-{n}" for n in range(5000)))
    post(store, 1)
    assert claimed(store, 10).claims == []
    assert client.llen("rq:queue:default") >= 3900
    wait_until(lambda: claim(store), 5)


def test_a_rescued_delivery_leaves_no_old_job_behind(store: Store, client: redis.Redis) -> None:
    post(store, 1)
    client.delete("rq:scheduler:scheduled_jobs")
    wait_until(lambda: store.rescue(0.0), 2)
    assert len(client.keys("rq:job:*")) == 1
    store.record(WORKER, [ends(claim(store)[0], State.SENT)], **TTL)
    store.purge(ENDED_WELL)
    assert client.keys("rq:job:*") == []


def test_a_dead_worker_is_no_worker(client: redis.Redis) -> None:
    registration = queue.Registration(client)
    with registration.alive():
        assert queue.any_worker(client)
        client.delete(f"rq:worker:{registration.name}")
        assert not queue.any_worker(client)
        assert client.scard("rq:workers") == 0
