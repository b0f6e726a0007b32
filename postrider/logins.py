"""Guessing is slow: so many tries a minute for an address, and for an account, counted by all processes together in Redis.

Only passwords need it. A right key is let in whatever came from its address before: nobody guesses 256 bits.

A stranger who knows a user's name must not lock the user out. So an account's own count takes in only tries from addresses
where that account has not come in within `KNOWN_FOR_S`; at those it knows, the address's count alone slows down.
"""

import hashlib
import ipaddress
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import redis

from postrider.errors import TooManyRequests, Unavailable
from postrider.scripts import Scripts, unavailable_when_redis_is

TRIES, SPAN_S = 10, 60
"""So many tries in any so many seconds."""
KNOWN_FOR_S = 30 * 86_400


class TooManyTries(TooManyRequests):
    """Over the limit. `first`: the first such answer to this address within the span."""

    def __init__(self, wait_s: float, *, first: bool) -> None:
        self.first = first
        super().__init__(
            "too many failed logins; try again later", retry_after_s=max(1, ceil(wait_s))
        )


@dataclass(frozen=True, slots=True)
class Try:
    """One try that is counted until it is given back. `name` is '' when Redis could not count it."""

    address: str
    account: str
    name: str


class Logins:
    """The tries in one Redis. `clock`: monotonic seconds, for those that Redis cannot count."""

    def __init__(self, client: redis.Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._scripts = Scripts(client)
        self._clock = clock
        self._lock = threading.Lock()
        self._uncounted: deque[float] = deque()

    def take(self, address: str, user: str | None) -> Try:
        """Takes a try for `user` (None: a key) from `address`. Raises TooManyTries."""
        account = _account(user)
        found = Try(_network(address), account, secrets.token_hex(8))
        try:
            wait, first = self._count(found)
        except Unavailable:
            # Full or away; whoever may purge must get in, and whoever guesses must not get in faster.
            self._count_here()
            return Try(found.address, account, "")
        if wait:
            raise TooManyTries(float(wait), first=bool(first))
        return found

    @unavailable_when_redis_is
    def _count(self, one: Try) -> tuple[bytes, int]:
        wait, first = self._scripts.run(
            "login_try", one.address, one.account, one.name, TRIES, SPAN_S
        )
        return wait, first

    def _count_here(self) -> None:
        now = self._clock()
        with self._lock:
            while self._uncounted and self._uncounted[0] <= now - SPAN_S:
                self._uncounted.popleft()
            if len(self._uncounted) >= TRIES:
                raise TooManyTries(self._uncounted[0] + SPAN_S - now, first=False)
            self._uncounted.append(now)

    def passed(self, one: Try) -> None:
        """Gives a try back that was right."""
        if not one.name:
            with self._lock:
                if self._uncounted:
                    self._uncounted.pop()
            return
        try:
            self._give_back(one)
        except Unavailable:
            return  # it runs out by itself

    @unavailable_when_redis_is
    def _give_back(self, one: Try) -> None:
        self._scripts.run("login_passed", one.address, one.account, one.name, KNOWN_FOR_S)


def _account(user: str | None) -> str:
    """A short name for what may be a long one; '' for a key."""
    if user is None:
        return ""
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _network(address: str) -> str:
    """What one person has: an IPv4 address, or a /64 of IPv6."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip), 64), strict=False).network_address)
    return str(ip)
