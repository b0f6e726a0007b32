"""What happened, in numbers: gathered in memory, and added to one Redis hash that all processes share.

`flush` is called once a second: a process that is killed takes the last second's numbers with it. No address, no text and
no id is ever a label, so the hash stays as small as the set of accounts and routes.
"""

import json
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from postrider.model import Claim, Verdict
from postrider.scripts import unavailable_when_redis_is

KEY = "pr:metrics"
FLUSH_S = 1.0
"""Seconds between two flushes."""
SUM = "sum"

Number = int | float
Field = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that is counted; with `buckets` (upper bounds), a histogram."""

    name: str
    says: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


LATENESS = Metric(
    "postrider_lateness_seconds",
    "Seconds between the moment a delivery was due and its first request leaving; only deliveries that no rate, pause"
    " or recipient's turn kept waiting",
    ("messenger",),
    (
        *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1, 0.25, 0.5),
        *(1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
    ),
)
WAITS = Metric(
    "postrider_rate_waits",
    "Deliveries that left after their account's rate or pause, or their recipient's turn, had kept them waiting",
    ("messenger", "account"),
)
WAITED_S = Metric(
    "postrider_rate_wait_seconds", "Seconds that those were late", ("messenger", "account")
)
ATTEMPTS = Metric(
    "postrider_attempts", "Tries at a delivery, by how they ended", ("messenger", "account", "kind")
)
OUTCOMES = Metric(
    "postrider_outcomes",
    "Deliveries that came to an end, by state and kind of reason; unknown: on hold",
    ("messenger", "account", "state", "kind"),
)
MESSAGES = Metric("postrider_accepted_messages", "Messages accepted")
DELIVERIES = Metric("postrider_accepted_deliveries", "Deliveries accepted", ("messenger",))
REQUESTS = Metric(
    "postrider_http_requests", "Requests answered by the API", ("method", "route", "status")
)
LATENCY = Metric(
    "postrider_http_request_seconds",
    "Seconds that the API took to answer",
    ("method", "route"),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
METRICS = (
    *(LATENESS, WAITS, WAITED_S, ATTEMPTS, OUTCOMES),
    *(MESSAGES, DELIVERIES, REQUESTS, LATENCY),
)


class Counts:
    """The numbers of this process that Redis has not got yet. May be used by many threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._lock = threading.Lock()
        self._numbers: dict[Field, Number] = {}

    def add(self, metric: Metric, *labels: str, by: Number = 1) -> None:
        """Adds to a counter."""
        self._add([((metric.name, *labels), by)])

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Adds a value to a histogram."""
        key = (metric.name, *labels)
        self._add([((*key, bisect_left(metric.buckets, value)), 1), ((*key, SUM), value)])

    def _add(self, found: Iterable[tuple[Field, Number]]) -> None:
        with self._lock:
            numbers = self._numbers
            for key, by in found:
                numbers[key] = numbers.get(key, 0) + by

    # -- what a worker counts: a batch at a time, as it costs each delivery

    def left(self, at: float, begun: Sequence[tuple[Sequence[Claim], float]]) -> None:
        """Counts how late requests left. `begun`: what went out by one call, and how long (s) after `at` it did."""
        buckets, message, due = LATENESS.buckets, None, 0.0
        late: dict[str, list[float]] = {}  # messenger -> number by bucket, and the sum
        found: dict[Field, Number] = {}
        for claims, after_s in begun:
            claim, number = claims[0], len(claims)
            if claim.message is not message:
                message = claim.message
                due = message.due_at.timestamp()
            late_s = at + after_s - due
            if claim.held_at >= due or claim.how == "probe":
                to = (claim.recipient.service, claim.recipient.account)
                found[WAITS.name, *to] = found.get((WAITS.name, *to), 0) + number
                found[WAITED_S.name, *to] = found.get((WAITED_S.name, *to), 0.0) + late_s * number
            elif claim.job_id.count("-") == 1:  # its first alarm
                row = late.get(claim.recipient.service)
                if row is None:
                    row = late[claim.recipient.service] = [0] * (len(buckets) + 1) + [0.0]
                row[bisect_left(buckets, late_s)] += number
                row[-1] += late_s * number
        for service, row in late.items():
            found[LATENESS.name, service, SUM] = row.pop()
            found |= {(LATENESS.name, service, n): many for n, many in enumerate(row) if many}
        self._add(found.items())

    def ended(self, verdicts: Sequence[Verdict], moved: Sequence[bool]) -> None:
        """Counts how attempts ended, and the deliveries that ended with them."""
        found: dict[tuple[str, str, str], int] = {}
        ends: dict[tuple[str, str, str, str], int] = {}
        for v, ours in zip(verdicts, moved, strict=True):
            if v.kind:
                to = v.claim.recipient
                key = (to.service, to.account, v.kind)
                found[key] = found.get(key, 0) + 1
                if ours and v.due_in_s is None:
                    end = (to.service, to.account, v.state, v.kind)
                    ends[end] = ends.get(end, 0) + 1
        self._add(((ATTEMPTS.name, *labels), number) for labels, number in found.items())
        self._add(((OUTCOMES.name, *labels), number) for labels, number in ends.items())

    # -- giving them away

    def flush(self) -> None:
        """Adds them to what all processes have counted; while Redis is away they are kept, whatever their number."""
        with self._lock:
            taken, self._numbers = self._numbers, {}
        if not taken:
            return
        pipe: Any = self._redis.pipeline(transaction=True)
        for key, by in taken.items():
            add = pipe.hincrbyfloat if isinstance(by, float) else pipe.hincrby
            add(KEY, json.dumps(key), by)
        try:
            pipe.execute()
        except (
            redis.RedisError
        ):  # it may have counted them, and lost the answer: numbers are no books
            self._add(taken.items())

    def flush_for_ever(self) -> None:
        """The same each `FLUSH_S`, for a thread of its own."""
        while True:
            time.sleep(FLUSH_S)
            self.flush()


@unavailable_when_redis_is
def totals(client: redis.Redis) -> Iterator[tuple[Field, float]]:
    """What all processes have counted: name and labels (and a histogram's bucket, or `SUM`), number."""
    hash_: Any = client.hgetall(KEY)
    return ((tuple(json.loads(key)), float(value)) for key, value in hash_.items())
