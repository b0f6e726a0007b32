"""Whether Redis has room for one more message: the last part of its memory is the workers' reserve.

Beyond FULL of maxmemory nothing is accepted, while claiming, sending and recording go on in what is left. A delivery
takes more once it is sent than while it waits, so what waits already is counted with that.
"""

import threading
import time
from dataclasses import dataclass
from typing import Any

import redis

from postrider.errors import Unavailable

FULL = 0.85
"""Of maxmemory: from here on nothing is accepted."""
FULL_ONCE_SENT = 0.90
"""The same for what will be used when all that waits is sent; the rest is for what is tried again and again."""
GROWS = 620
"""Bytes by which a delivery grows until it is sent: its attempt, RQ's books, and larger tables. 420 in a large message, 590 alone."""
MESSAGE, DELIVERY = 1_300, 850
"""Bytes that a message and each of its deliveries take beside their texts. Measured, rounded up."""
EVENT = 2_500
"""Bytes that what is told of a delivery takes while nobody takes its callbacks: sent, delivered and read. Rounded up."""
LARGE = 64 * 1024
"""A message that takes more does not rely on what was seen a moment ago."""
FRESH_S = 0.25
RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class Memory:
    """What Redis uses, may use (0: all there is), and how many deliveries wait in it."""

    used: int
    limit: int
    waiting: int

    @classmethod
    def of(cls, client: redis.Redis) -> "Memory":
        """As it is now."""
        pipe: Any = client.pipeline(transaction=False)
        memory, waiting = pipe.info("memory").zcard("pr:in:scheduled").execute()
        return cls(
            memory["used_memory"] - memory.get("mem_not_counted_for_evict", 0),
            memory["maxmemory"],
            waiting,
        )

    @property
    def once_sent(self) -> int:
        """Bytes used when all that waits is sent."""
        return self.used + self.waiting * GROWS

    @property
    def left(self) -> float:
        """Bytes that may be taken; negative when Redis is full."""
        if not self.limit:
            return float("inf")
        return min(FULL * self.limit - self.used, FULL_ONCE_SENT * self.limit - self.once_sent)

    def __str__(self) -> str:
        now, later = self.used / self.limit, self.once_sent / self.limit
        return f"{now:.0%} of its memory is used, {later:.0%} once all that waits is sent"


class Room:
    """Asks Redis a few times a second, however many messages come."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._lock = threading.Lock()
        self._fresh_until = 0.0
        self._memory = Memory(0, 0, 0)
        self._taken = 0
        """Bytes promised to messages since `_memory` was read."""

    def demand(self, size: int = 0) -> None:
        """Raises Unavailable when a message of that many bytes would leave too little for the workers."""
        if size >= LARGE or time.monotonic() > self._fresh_until:
            memory = Memory.of(self._redis)
            with self._lock:
                self._memory, self._taken = memory, 0
                self._fresh_until = time.monotonic() + FRESH_S
        with self._lock:
            left = self._memory.left - self._taken
            if left > size:
                self._taken += size
                return
        what = "nothing is accepted" if left <= 0 else "this message is too large to be accepted"
        raise Unavailable(
            f"Redis is full, {self._memory}: {what} until there is room",
            retry_after_s=RETRY_AFTER_S,
        )


def size_of(texts: int, count: int, *, told: bool = False) -> int:
    """Bytes that a message takes: `texts` of its own and its recipients' words, `count` deliveries, until they are sent.

    `told`: with the callbacks that tell of them.
    """
    return MESSAGE + texts + count * (DELIVERY + GROWS + (EVENT if told else 0))
