"""The balance: what was accepted in a span of time is what has ended, each way, and what is still on its way.

What was accepted and what has ended is counted by the scripts that do it, in the same step, by hour of acceptance; it stays
counted when the deliveries are forgotten. What has not ended is counted where it stands, at the moment of asking. So the two
sides come from different books, and a delivery that is lost, or counted twice, shows.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis

from postrider.model import STATES, State, first_message_id
from postrider.scripts import Scripts, unavailable_when_redis_is

HOUR_S = 3600
SCAN = 2_000
FIELDS = {
    State.SENT: "sent",
    State.DELIVERED: "sent",
    State.READ: "sent",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.EXPIRED: "expired",
    State.SUPPRESSED: "suppressed",
    State.UNKNOWN: "unknown",
}
"""What a state counts as; any other as waiting."""


@dataclass(frozen=True, slots=True)
class Balance:
    """Deliveries that were accepted in whole hours from `start` up to `end`; None for no bound."""

    start: datetime | None
    end: datetime | None
    accepted: int
    sent: int
    failed: int
    cancelled: int
    expired: int
    suppressed: int
    unknown: int
    waiting: int

    @property
    def difference(self) -> int:
        """Accepted, and nowhere: 0, or something is wrong. What moves while it is counted may show for a moment."""
        found = self.sent + self.failed + self.cancelled + self.expired + self.suppressed
        return self.accepted - found - self.unknown - self.waiting


class Ledger:
    """The balance of one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def balance(self, start: datetime | None = None, end: datetime | None = None) -> Balance:
        """Over the hours that begin in the span from `start` up to `end`, both rounded down to the hour."""
        start, end = (at and at.replace(minute=0, second=0, microsecond=0) for at in (start, end))
        client: Any = self.redis
        counts: Counter[str] = Counter()
        first, last = (None if at is None else int(at.timestamp()) // HOUR_S for at in (start, end))
        for name, n in client.hscan_iter("pr:ledger", count=1_000):
            hour, _, what = name.decode().partition(":")
            if (first is None or int(hour) >= first) and (last is None or int(hour) < last):
                counts["accepted" if what == "a" else FIELDS[STATES[what]]] += int(n)
        counts.update(self._under_way(start, end))
        names = ("accepted", *dict.fromkeys(FIELDS.values()), "waiting")
        return Balance(start, end, **{name: counts[name] for name in names})

    def _under_way(self, start: datetime | None, end: datetime | None) -> Counter[str]:
        """How many wait, are being sent or are unknown, looked at one by one unless everything is asked for."""
        low = "" if start is None else first_message_id(start)
        high = "" if end is None else first_message_id(end)
        counts: Counter[str] = Counter()
        cursor: list[Any] = [0, "0"]
        while cursor:
            waiting, unknown, *cursor = self.scripts.run("under_way", low, high, *cursor, SCAN)
            counts["waiting"] += int(waiting)
            counts["unknown"] += int(unknown)
        return counts
