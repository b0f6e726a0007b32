"""The books agree, whatever was done: any order of accepting, claiming, recording, changing, hearing, forgetting, sweeping."""

import random
from collections import Counter
from typing import Any

import pytest
import redis

from messengers.inward import Receipt
from postrider import verdicts
from postrider.changes import Changes
from postrider.finding import Finder
from postrider.ledger import Ledger
from postrider.model import (
    BUCKET,
    LETTERS,
    STATES,
    Attempt,
    Claim,
    NewMessage,
    Recipient,
    State,
    Verdict,
    new_message_id,
)
from postrider.receipts import Receipts
from postrider.records import account_key, mark
from postrider.settings import Settings
from postrider.store import ENDED_ILL, ENDED_WELL, Store
from tests.conftest import leases_run_out
from tests.test_changes import SPECS, TTL

OWNERS = ("", "k1", "k2")
SCHEDULE = "rq:scheduler:scheduled_jobs"
QUEUES = ("rq:queue:high", "rq:queue:default", "rq:queue:low")
STOPPED = {State.PAUSED, State.CANCELLED}
WAITS = {State.SCHEDULED, State.RETRYING, State.UNKNOWN}


class Life:
    """A run of random operations on one Redis."""

    def __init__(self, client: redis.Redis, settings: Settings, dice: random.Random) -> None:
        self.redis: Any = client
        self.dice, self.settings = dice, settings
        self.store, self.changes = Store(client), Changes(client)
        self.receipts = Receipts(client)
        self.claims: list[Claim] = []
        """Held, or lost to the sweep since."""
        self.totals: dict[str, int] = {}
        self.done: list[str] = []
        for owner in OWNERS[1:]:
            client.hset(f"pr:client:{owner}", "waiting", 100_000)

    # -- what can be done

    def accept(self) -> None:
        now = self.store.now()
        count = self.dice.choice((1, 2, 3, 100, 101, 250))
        tos = tuple(
            Recipient(str(n), self.dice.choice(("telegram", "sandbox"))) for n in range(count)
        )
        new = NewMessage(
            "Hi",
            tos,
            owner=self.dice.choice(OWNERS),
            priority=self.dice.choice(("high", "normal", "low")),
        )
        self.totals[self.store.accept(new_message_id(now), new, now).id] = count

    def claim(self) -> None:
        nonce = str(self.dice.random())
        self.claims += self.store.claim(
            "w", nonce, SPECS, 60, alone=self.dice.random() < 0.5
        ).claims

    def record(self) -> None:
        """Some of what is held, and some that was lost long ago; in one batch."""
        some = self.dice.sample(self.claims, self.dice.randint(0, len(self.claims)))
        ended = [self._ends(claim) for claim in some]
        ended += [self._ends(c) for c in some if self.dice.random() < 0.1]
        self.store.record("w", ended, **TTL)
        self.claims = [c for c in self.claims if c not in some or self.dice.random() < 0.1]

    def _ends(self, claim: Claim) -> Verdict:
        state, due = self.dice.choice(
            (
                (State.SENT, None), (State.SENT, None), (State.FAILED, None), (State.EXPIRED, None),
                (State.SUPPRESSED, None), (State.UNKNOWN, None), (State.UNKNOWN, 0.0), (State.RETRYING, 0.0),
                (State.RETRYING, 60.0), (State.SCHEDULED, 0.0),
            )
        )  # fmt: skip
        tried = Attempt(claim.at, claim.at, "sent" if state is State.SENT else "unclear")
        account = account_key(claim.recipient.service, claim.recipient.account)
        marked = mark(account, claim.delivery_id) if state is State.SENT else b""
        return Verdict(claim, state, tried, due, counts=self.dice.random() < 0.5, mark=marked)

    def change_message(self) -> None:
        what = self.dice.choice(("cancel", "pause", "pause", "resume", "resume", "move", "expire"))
        if not self.totals:
            return
        mid = self.dice.choice(list(self.totals))
        due = self.store.now() if what == "move" else None
        if self.dice.random() < 0.3:  # who asked for it dies on the way
            due_s = "" if due is None else str(due.timestamp())
            self.changes.scripts.run("change", what, due_s, mid, 0, self.dice.randint(1, 150))
            self.redis.zadd("pr:changing", {mid: 1}, xx=True)
        else:
            self.changes.message(what, mid, due)

    def change_some(self) -> None:
        what = self.dice.choice(("cancel", "pause", "resume", "move", "retry", "retry"))
        ids = self._some(40)
        self.changes.deliveries(what, ids, self.store.now() if what == "move" else None)

    def hear(self) -> None:
        said = [
            Receipt(id_, self.dice.choice(("sent", "delivered", "read", "failed")), key=key)  # type: ignore[arg-type]
            for id_ in self._some(60)
            for key in (self.dice.choice(("", id_)),)
        ]
        for account in ("telegram", "sandbox"):
            self.receipts.take(account, said, finished_ttl_s=60, failed_ttl_s=60)

    def purge(self) -> None:
        if self.dice.random() < 0.3:
            states = (*ENDED_WELL, *ENDED_ILL, State.CANCELLED)
            self.store.purge(self.dice.sample(states, 2))

    def lose(self) -> None:
        """Workers die: leases run out, and the sweep finds them."""
        held = self.redis.zrange("pr:leases", 0, -1)
        leases_run_out(self.redis, self.dice.sample(held, min(len(held), 30)))
        found = self.store.overdue(60)
        grace_s = self.dice.choice((0.0, 0.0, 60.0))
        died = [verdicts.died(c, self.settings, grace_s=grace_s) for c in found]
        self.store.record("sweep", died, **TTL)

    def sweep(self) -> None:
        self.changes.sweep(self.store.now())
        self.store.rescue(0.0, 1_000)

    def rescue(self) -> None:
        """All of it: a call goes on where the last one stopped, so two that find nothing have seen everything."""
        nothing = 0
        while nothing < 2:
            nothing = 0 if self.store.rescue(-3600.0, 10_000) else nothing + 1

    def empty_a_queue(self) -> None:
        """A stock worker popped it and died."""
        if self.dice.random() < 0.2:
            self.redis.delete(self.dice.choice(QUEUES))

    def stop(self) -> None:
        name = self.dice.choice(("account telegram", "client k1", "all"))
        if not self.changes.go_on(name) and self.dice.random() < 0.3:
            self.changes.stop(name, "tests", self.store.now())

    def _some(self, most: int) -> list[str]:
        found = []
        for _ in range(self.dice.randint(1, most) if self.totals else 0):
            mid = self.dice.choice(list(self.totals))
            found.append(f"{mid}-{self.dice.randrange(self.totals[mid])}")
        return list(dict.fromkeys(found))

    def do(self, steps: int) -> None:
        does = (
            self.accept, self.claim, self.claim, self.claim, self.record, self.record, self.record,
            self.change_message, self.change_some, self.hear, self.purge, self.lose, self.sweep,
            self.empty_a_queue, self.stop,
        )  # fmt: skip
        for _ in range(steps):
            act = self.dice.choice(does)
            self.done.append(act.__name__)
            act()


def records_of(client: Any, mid: str, total: int) -> dict[str, str]:
    """The message's deliveries and their records, as they stand there."""
    found = {}
    for n in range((total + BUCKET - 1) // BUCKET):
        for index, raw in client.hgetall(f"pr:d:{mid}:{n}").items():
            found[f"{mid}-{index.decode()}"] = raw.decode()
    return found


def lists_with(client: Any) -> dict[str, list[str]]:
    """Delivery -> the lists of states in which it stands."""
    names = {LETTERS[s]: f"pr:in:{s}" for s in State if s is not State.SENDING}
    found: dict[str, list[str]] = {}
    for letter, key in (*names.items(), ("u", "pr:in:held")):
        for id_ in client.zrange(key, 0, -1):
            found.setdefault(id_.decode(), []).append(letter)
    for job in client.zrange("pr:leases", 0, -1):
        found.setdefault("-".join(job.decode().split("-")[:2]), []).append(LETTERS[State.SENDING])
    return found


def queued(client: Any) -> set[str]:
    """The jobs in RQ's queues."""
    return {job.decode() for key in QUEUES for job in client.lrange(key, 0, -1)}


def armed(client: Any) -> set[str]:
    """Every other job that something would still send, if its record let it."""
    found = set(client.zrange(SCHEDULE, 0, -1)) | set(client.zrange("pr:alone", 0, -1))
    for pattern in ("pr:line:*", "pr:stopped:*"):
        for key in client.scan_iter(pattern):
            found |= set(client.zrange(key, 0, -1))
    return {job.decode() for job in found}


def parts(raw: str) -> tuple[State, int]:
    """State and alarm of a record."""
    words = raw.split(" ")
    return STATES[raw[0]], int(words[1]) if words[1].isdigit() else 0


def check(client: redis.Redis, life: Life) -> None:
    life.rescue()
    finder, stand, jobs = Finder(client), lists_with(client), armed(client)
    queues = queued(client)
    waiting: Counter[str] = Counter()
    known = set()
    for mid, total in life.totals.items():
        there = records_of(client, mid, total)
        known |= set(there)
        summary = finder.message(mid, None)
        if not there:
            assert summary is None
            continue
        assert summary
        assert sum(summary.counts.values()) == total
        assert min(summary.counts.values()) > 0
        seen = Counter(STATES[raw[0]] for raw in there.values())
        gone = dict(summary.counts)
        for state, n in seen.items():
            gone[state] = gone.get(state, 0) - n
        # What was forgotten counts as it was, and nothing is forgotten that has not ended.
        assert sum(gone.values()) == total - len(there)
        assert all(n == 0 or (n > 0 and state not in WAITS) for state, n in gone.items()), gone
        assert gone.get(State.SENDING, 0) == gone.get(State.PAUSED, 0) == 0
        for id_, raw in there.items():
            state, alarm = parts(raw)
            assert stand.get(id_) == [raw[0]], (id_, raw, stand.get(id_))
            job = f"{id_}-{alarm}" if alarm else id_
            assert state in WAITS or job not in jobs, (id_, raw)
            assert state not in STOPPED or job not in queues, (id_, raw)
            held = client.zscore("pr:in:held", id_) is not None
            assert state not in WAITS or held or job in jobs | queues, (id_, raw)
            owner = summary.message.owner
            if "*" in raw.split(" ")[0]:
                waiting[owner] += 1
    assert set(stand) <= known
    assert Ledger(client).balance().difference == 0
    quotas = {o: int(client.get(f"pr:waits:{o}") or 0) for o in OWNERS[1:]}
    assert quotas == {o: waiting[o] for o in OWNERS[1:]}


@pytest.mark.parametrize("seed", range(30))
def test_the_books_agree_whatever_was_done(
    client: redis.Redis, settings: Settings, seed: int
) -> None:
    life = Life(client, settings, random.Random(seed))
    for _ in range(4):
        life.do(12)
        try:
            check(client, life)
        except AssertionError:
            pytest.fail(f"after {life.done}", pytrace=True)
