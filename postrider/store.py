"""The store: what is kept in Redis, and the only way to it. Keys and formats stand in `lua/README.md`.

Every change is one Lua script, so that it happens whole or not at all. Redis TIME is the one clock.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any, Literal

import redis

from postrider import link, records
from postrider.errors import (
    FileGone,
    IllegalTransition,
    InvalidRequest,
    TooManyRequests,
    Unavailable,
)
from postrider.fsync import Fsync, Written
from postrider.model import (
    BUCKET,
    COUNTED,
    LETTERS,
    Attempt,
    Claim,
    Delivery,
    Message,
    NewMessage,
    Recipient,
    State,
    Verdict,
)
from postrider.owned import Owned, Row, row_of
from postrider.room import Room, size_of
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.settings import Durability
from postrider.vault import KEYLESS, Vault

CHUNK = 1_000
"""Deliveries that one script call touches at most: Redis answers nobody else meanwhile."""
RECORDED = 500
"""The same for those that are recorded, which cost more with callbacks."""
FORGOTTEN = 250
"""The same for those that are forgotten, which costs most, and which nobody waits for."""
REMOVALS = 200
"""How often one sweep removes so many that were never accepted: about a second."""
WAITING_AGAIN_S = 10
"""When a client that has too much waiting may try again: nobody knows when one of them ends."""
COMMIT_WITHIN_S = 10.0
"""A message that is not committed by then never will be."""
WAKE = "pr:wake"
"""Channel on which a due time (s) is told to sleeping workers."""


def _lists(*states: State) -> tuple[str, ...]:
    return tuple(f"pr:in:{state}" for state in states)


# Where deliveries stand; those being sent have leases.
ARMED = _lists(State.SCHEDULED, State.RETRYING, State.UNKNOWN)
WAITING = (*ARMED, *_lists(State.PAUSED))
HELD = ("pr:in:held",)
ENDED_WELL = (State.SENT, State.DELIVERED, State.READ)
ENDED_ILL = (State.FAILED, State.EXPIRED, State.SUPPRESSED)
FINISHED = _lists(*ENDED_WELL)
FAILED = _lists(*ENDED_ILL)  # what was cancelled did not fail

Listed = tuple[Delivery, Message]
_WRITE, _COMMIT, _ARM, _OCCURRENCE = 1, 2, 4, 8  # the phases of accept.lua


@contextmanager
def _committing() -> Iterator[None]:
    """Around the commit: when Redis goes away in it, nobody can say whether the message was accepted."""
    try:
        yield
    except link.NOT_DONE:
        raise
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise Unavailable(
            "Redis went away while the message was accepted; it may or may not be",
            accepted_unknown=True,
        ) from error


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list: how many there are in all, and the cursor of the next page or None."""

    rows: Sequence[Listed]
    total: int
    next: str | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a worker got: its claims, Redis's time, in how many seconds to look again (None: nothing is known to come).

    `more`: something could go if it had a place.
    """

    claims: Sequence[Claim]
    at: datetime
    next_look_in_s: float | None
    more: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """How many deliveries stand where. `held`: unknown with no try left; `late`: waiting though long due."""

    waiting: int
    sending: int
    held: int
    finished: int
    failed: int
    late: int


def _told(verdicts: Iterable[Verdict]) -> list[str | bytes]:
    """`verdicts` as record.lua takes them."""
    args: list[str | bytes] = []
    for v in verdicts:
        args += (
            v.claim.job_id,
            LETTERS[v.state],
            "" if v.due_in_s is None else records.seconds(v.due_in_s),
            "1" if v.counts else "0",
            v.attempt.reason if v.attempt else "",
            records.attempt_line(v),
            v.moved_to or "",
            v.signal,
            "" if v.pause_s is None else records.seconds(v.pause_s),
            "" if v.deaths is None else str(v.deaths),
            v.mark,
            "1" if v.dead else "0",
        )
    return args


def accepted(message_id: str, new: NewMessage, now: datetime) -> Message:
    """`new` as it is when it is accepted at `now`; due when the first of its deliveries is."""
    own = [to.send_at for to in new.recipients if to.send_at]
    if len(own) < len(new.recipients):
        own.append(new.send_at or now)
    return Message(
        id=message_id,
        body=new.body,
        accepted_at=now,
        due_at=min(own),
        timed=new.send_at is not None or len(own) > 1,
        total=len(new.recipients),
        template=new.template,
        terms=new.terms,
        owner=new.owner,
        reference=new.reference,
        tags=new.tags,
        files=new.files,
        format=new.format,
        heading=new.heading,
    )


def _dues(new: NewMessage, now: datetime) -> Iterator[str]:
    """When each delivery is due."""
    for to in new.recipients:
        yield records.seconds((to.send_at or new.send_at or now).timestamp())


def _demand_ok(told: str) -> None:
    """Raises what accept.lua's answer means, unless that is `ok`."""
    if told == "ok":
        return
    if told == "gone":
        raise FileGone
    if told == "over":
        raise IllegalTransition("its schedule has this message, or no longer plans it")
    over, _, most = told.partition(" ")
    if over == "recipients":
        raise InvalidRequest("recipients", f"are more than the {most} that this client may name")
    if over == "waiting":
        raise TooManyRequests(
            f"over this client's limit of {most} waiting deliveries", retry_after_s=WAITING_AGAIN_S
        )
    raise Unavailable("Redis was too slow to take it; nothing was accepted")


def _listed(
    rows: Iterable[Row], texts: Sequence[Any], vault: Vault, *, waits: bool
) -> list[Listed]:
    """Rows with their messages, as a script gives them: each as its delivery has it, or had it when it went."""
    messages, listed = records.messages(texts, vault), list[Listed]()
    for at, id_, raw, *went_with in rows:
        message = messages[id_.partition("-")[0]]
        if waits and at != message.due_at.timestamp():
            message = replace(message, due_at=records.moment(at))
        elif went_with:
            message = records.as_it_went(message, *went_with, vault=vault)
        listed.append((records.delivery(id_, raw), message))
    return listed


class Store:
    """The records, indexes and claims in one Redis. `durability`: how safe what is accepted is, as the setting says."""

    def __init__(self, client: redis.Redis, *, durability: Durability = "none") -> None:
        self.redis = client
        self.scripts = Scripts(client)
        self.room = Room(client)
        self.vault: Vault = KEYLESS
        """What reads and writes texts; the service's, once it is made over this store."""
        self._commit: Callable[..., Any] = {
            "always": Fsync(client).command,
            "everysec": Written(client).command,
            "none": client.execute_command,
        }[durability]

    @unavailable_when_redis_is
    def now(self) -> datetime:
        """Redis's time."""
        return records.moment_of(self.redis)

    # -- accepting

    @unavailable_when_redis_is
    def accept(
        self,
        message_id: str,
        new: NewMessage,
        now: datetime,
        receivers: int | None = None,
        *,
        schedule: str | None = None,
        told: bool = False,
    ) -> Message:
        """Stores `new` with all its deliveries, or nothing. `receivers`: how many of them one call can reach. `told`: callbacks
        tell what becomes of it.

        `schedule` makes it, and plans it under this id: IllegalTransition when it has it already, or no longer does.
        Raises Unavailable, with `accepted_unknown` when Redis went away at the commit; what is over a limit of its owner,
        InvalidRequest or TooManyRequests.
        """
        message = accepted(message_id, new, now)
        if new.terms.zoned:
            self._keep_zones(message_id, new.recipients)
        deadline = records.seconds(now.timestamp() + COMMIT_WITHIN_S)
        due = records.seconds(message.due_at.timestamp())
        marks = ("#" if message.total > COUNTED else "") + ("@" if told else "")
        written = [records.record(to, new.priority, marks) for to in new.recipients]
        if own_dues := any(to.send_at for to in new.recipients):
            written = list(map(" ".join, zip(_dues(new, now), written, strict=True)))

        def step(phases: int, first: int, count: int, *more: str | float | bytes) -> None:
            command = self._commit if phases & _COMMIT else self.redis.execute_command
            words = (phases, message_id, deadline, due, first, count, *more)
            if schedule:
                words = (phases | _OCCURRENCE, *words[1:], schedule)
            _demand_ok(self.scripts.run_by(command, "accept", *words).decode())

        further = {
            "services": " ".join(sorted({to.service for to in new.recipients})),
            "dues": "1" if own_dues else "",
            "receivers": "" if receivers is None else str(receivers),
            "schedule": schedule or "",
            "callback_url": new.callback_url or "",
            "callback_format": new.callback_format if new.callback_url else "",
        }
        fields = records.message_fields(message, further, self.vault)
        texts = records.size(fields) + sum(len(text.encode()) for text in written)
        self.room.demand(size_of(texts, message.total, told=told))
        if message.total <= CHUNK:
            with _committing():
                step(_WRITE | _COMMIT | _ARM, 0, message.total, len(fields), *fields, *written)
            return message
        fields += ["armed", "0"]
        for first in range(0, message.total, CHUNK):
            part = written[first : first + CHUNK]
            self.room.demand()  # others may have taken it meanwhile
            step(_WRITE, first, len(part), len(fields), *fields, *part)
            fields = []
        with _committing():
            step(_COMMIT, 0, 0, 0)
        with suppress(redis.RedisError):  # it is accepted; the sweep arms what is left
            self.arm(message_id, 0, message.total, due)
        return message

    def _keep_zones(self, message_id: str, recipients: Sequence[Recipient]) -> None:
        """Writes down where the window is meant for each that has a zone of its own; for good once it is committed."""
        client: Any = self.redis
        zones = {str(n): to.zone for n, to in enumerate(recipients) if to.zone}
        key, indexes = f"pr:z:{message_id}", list(zones)
        for first in range(0, len(indexes), CHUNK):
            client.hset(key, mapping={n: zones[n] for n in indexes[first : first + CHUNK]})
        client.expire(key, 3600)

    def _with_zones(self, claims: list[Claim]) -> list[Claim]:
        """`claims`, each with its recipient's own zone where that counts."""
        zoned = [n for n, claim in enumerate(claims) if claim.message.terms.zoned]
        if zoned:
            pipe: Any = self.redis.pipeline(transaction=False)
            for n in zoned:
                mid, _, index = claims[n].delivery_id.partition("-")
                pipe.hget(f"pr:z:{mid}", index)
            for n, zone in zip(zoned, pipe.execute(), strict=True):
                claims[n] = replace(claims[n], zone=zone.decode() if zone else None)
        return claims

    def arm(self, message_id: str, first: int, total: int, due: str) -> None:
        """Puts a committed message's deliveries from `first` on into the schedule; doing it twice is no harm."""
        for start in range(first, total, CHUNK):
            count = min(CHUNK, total - start)
            self.scripts.run("accept", _ARM, message_id, "0", due, start, count, 0)

    # -- claiming and recording

    @unavailable_when_redis_is
    def claim(
        self,
        worker: str,
        nonce: str,
        specs: Mapping[str, Any],
        lease_s: float,
        *,
        busy: int = 0,
        alone: bool = True,
    ) -> Claimed:
        """What is due and may go now, up to `CHUNK` deliveries, under a lease.

        `specs`: account -> Limits.spec; what belongs to others waits. `worker` is its name in RQ's books, which show it
        as busy while it has claims, or `busy` older ones. `alone`: whether one may be given that goes by itself.
        """
        now, next_look, more, rows, messages = self.scripts.run(
            "claim",
            *(worker, nonce, lease_s, CHUNK, busy, int(alone)),
            random.random(),  # noqa: S311 - a gap between messages, no secret
            json.dumps(specs),
        )
        wait_s = float(next_look) - float(now) if next_look else None
        claims = self._with_zones(list(records.claims(now, rows, messages, self.vault)))
        return Claimed(claims, records.moment(now), wait_s, bool(more))

    @unavailable_when_redis_is
    def claim_one(self, job_id: str, specs: Mapping[str, Any], lease_s: float) -> Claim | None:
        """The claim of one job that a stock worker runs; None when there is nothing to do, or not yet."""
        chance = random.random()  # noqa: S311 - a gap between messages, no secret
        now, rows, messages = self.scripts.run(
            "claim_one", job_id, lease_s, chance, json.dumps(specs)
        )
        return next(
            iter(self._with_zones(list(records.claims(now, rows, messages, self.vault)))), None
        )

    @unavailable_when_redis_is
    def renew(self, job_ids: Iterable[str], lease_s: float) -> None:
        """Holds on to claims that are still at work."""
        until = self.now().timestamp() + lease_s
        client: Any = self.redis
        jobs = list(job_ids)
        for first in range(0, len(jobs), CHUNK):
            client.zadd("pr:leases", dict.fromkeys(jobs[first : first + CHUNK], until), xx=True)

    @unavailable_when_redis_is
    def record(
        self,
        worker: str,
        verdicts: Sequence[Verdict],
        *,
        finished_ttl_s: int,
        failed_ttl_s: int,
        refused_s: float,
        worked_s: float = 0.0,
    ) -> list[bool]:
        """Moves each claim where its verdict says; False for one that came too late.

        `worker` keeps RQ's books for it; '' when a stock worker does so itself. `refused_s`: how long an account first
        waits that was refused without a wait being named.
        """
        moved: list[bool] = []
        for first in range(0, len(verdicts), RECORDED):
            args = _told(verdicts[first : first + RECORDED])
            ttls = (finished_ttl_s, failed_ttl_s)
            moved += map(
                bool, self.scripts.run("record", worker, *ttls, worked_s, refused_s, *args)
            )
            worked_s = 0.0
        return moved

    # -- sweeping

    @unavailable_when_redis_is
    def overdue(self, lease_s: float, most: int = RECORDED) -> list[Claim]:
        """Claims whose lease ran out; another sweep is not given the same ones for 5 s.

        None for `lease_s` seconds after a time in which nobody swept: Redis was away, and no worker could renew.
        """
        now, rows, messages = self.scripts.run("overdue", most, 5, 3 * 5, lease_s)
        return list(records.claims(now, rows, messages, self.vault))

    @unavailable_when_redis_is
    def rescue(self, late_s: float, most: int = 100) -> int:
        """Arms what should have left `late_s` ago and no list would send; how many."""
        return int(self.scripts.run("rescue", late_s, most, CHUNK))

    @unavailable_when_redis_is
    def release(self, unserved_s: float) -> None:
        """Gives what waits in our lines to RQ's queues, when no worker of ours has claimed for so long."""
        while self.scripts.run("release", unserved_s, CHUNK):
            pass

    @unavailable_when_redis_is
    def finish_accepting(self, most: int = 100) -> None:
        """Ends what a dead API process left half way: committed is armed, the rest removed, a great deal in several sweeps."""
        for _ in range(REMOVALS):
            committed, left = self.scripts.run("unfinished", most, FORGOTTEN, COMMIT_WITHIN_S)
            for mid, first, total, due in committed:
                self.arm(mid.decode(), int(first), int(total), due.decode())
            if not left:
                break

    @unavailable_when_redis_is
    def purge(
        self, states: Iterable[State], before: datetime | None = None, within_s: float = math.inf
    ) -> int:
        """Forgets what ended before then (None: all of it), in chunks, as far as it comes in that time; how many."""
        bound = records.seconds(before.timestamp()) if before else "+inf"
        until, forgotten = time.monotonic() + within_s, 0
        for state in states:
            while count := int(self.scripts.run("purge", f"pr:in:{state}", bound, FORGOTTEN)):
                forgotten += count
                if time.monotonic() > until:
                    return forgotten
        return forgotten

    # -- lists

    @unavailable_when_redis_is
    def counts(self, late_s: float = 0.0) -> Counts:
        """How many deliveries stand where; `late` counts those that were due more than `late_s` ago."""
        late_before = self.now().timestamp() - late_s
        pipe: Any = self.redis.pipeline(transaction=False)
        groups = (WAITING, ("pr:leases",), HELD, FINISHED, FAILED)
        for keys in groups:
            for key in keys:
                pipe.zcard(key)
        for key in ARMED:
            pipe.zcount(key, "-inf", f"({records.seconds(late_before)}")
        found = iter(pipe.execute())
        return Counts(*(sum(islice(found, len(keys))) for keys in (*groups, ARMED)))

    @unavailable_when_redis_is
    def scheduled(self, limit: int, cursor: str | None = None, owner: str | None = None) -> Page:
        """What waits, soonest first; of one owner, or of all."""
        return self._page(WAITING, "up", limit, cursor, owner)

    @unavailable_when_redis_is
    def finished(self, limit: int, cursor: str | None = None, owner: str | None = None) -> Page:
        """What ended, newest first, and what is unknown with no try left; of one owner, or of all."""
        return self._page((*FINISHED, *FAILED, *HELD), "down", limit, cursor, owner)

    def _page(
        self,
        lists: Sequence[str],
        order: Literal["up", "down"],
        limit: int,
        cursor: str | None,
        owner: str | None,
    ) -> Page:
        at, behind = records.read_cursor(cursor)
        if owner is not None:
            owned = Owned(self.scripts, owner)
            own, end = owned.page(lists, order, limit, at, behind)
            last = records.cursor(*end) if end else None
            theirs = _listed(own, owned.messages, self.vault, waits=order == "up")
            return Page(theirs, owned.total(lists), last)
        total = 0
        texts: list[Any] = []
        found: list[Row] = []
        for key in lists:
            count, rows, told, *_ = self.scripts.run("page", key, order, limit + 1, at, behind, "")
            total += count
            texts += told
            found += (row_of(row) for row in rows)
        found.sort(key=lambda row: row[:2], reverse=order == "down")
        shown = found[:limit]
        last = records.cursor(*shown[-1][:2]) if len(found) > limit else None
        return Page(_listed(shown, texts, self.vault, waits=order == "up"), total, last)

    @unavailable_when_redis_is
    def owners(self, mids: Sequence[str]) -> list[str | None]:
        """Whose each of these messages is; None for one that is not there."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for mid in mids:
            pipe.hmget(f"pr:m:{mid}", "total", "owner")
        return [(owner or b"").decode() if total else None for total, owner in pipe.execute()]

    @unavailable_when_redis_is
    def attempts(self, ids: Sequence[str]) -> dict[str, list[Attempt]]:
        """What was tried for each of these deliveries, in the order in which it was recorded."""
        client: Any = self.redis
        found: dict[str, list[Attempt]] = {}
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            pipe = client.pipeline(transaction=False)
            for mid, _, index in (id_.partition("-") for id_ in chunk):
                pipe.hget(f"pr:a:{mid}:{int(index) // BUCKET}", index)
            found.update(zip(chunk, map(records.attempts, pipe.execute()), strict=True))
        return found
