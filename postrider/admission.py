"""Who a credential belongs to: the user of the settings, a user, or a key; or nobody. Knows no HTTP.

A credential that passed is remembered for `REMEMBERED_S`, under an HMAC whose key this process alone has: a password's hash
is slow on purpose, and is not worked out for every request. What is remembered of keys and users counts only while they
are as they were: a number in Redis changes with each change of any of them, and is read when it was read more than
`FRESH_S` ago. A read per request would cost every request a round trip; being told by pub/sub would miss what is said
while a connection is down.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from postrider import credentials
from postrider.clients import Clients, Known
from postrider.errors import TooManyRequests, Unavailable
from postrider.logins import Logins
from postrider.model import Client
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.settings import Settings

REMEMBERED_S = 300.0
FRESH_S = 0.5
USED_S = 60.0
"""Between two notes of when a client was last there."""
MOST_REMEMBERED = 10_000
LONGEST = 4_096
"""Characters of a secret: more is nobody's, and hashing it would be work."""


@dataclass(frozen=True, slots=True)
class Basic:
    """A name and a password."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Key:
    """An API key."""

    key: str


Credential = Basic | Key


@dataclass(slots=True)
class _Passed:
    """A credential that was right. `listed`: whose, unless it is the user of the settings."""

    until: float
    listed: Known | None
    generation: int
    used_at: float


class Admission:
    """Lets clients in, in one process. `clock`: monotonic seconds."""

    def __init__(
        self,
        settings: Settings,
        clients: Clients,
        logins: Logins,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        password = settings.api_password.get_secret_value() if settings.api_password else ""
        self._name, self._password = settings.api_user, password
        self._owner = Client("", settings.api_user, "admin")
        self._clients, self._logins, self._clock = clients, logins, clock
        self._scripts = Scripts(clients.redis)
        self._pepper = secrets.token_bytes(32)
        self._passed: dict[bytes, _Passed] = {}
        self._generation, self._read_at = 0, float("-inf")
        self._under_way: dict[bytes, threading.Lock] = {}
        self._lock = threading.Lock()

    def admit(self, credential: Credential, address: str) -> Client | None:
        """Whose `credential` this is; None: nobody's.

        Raises TooManyTries when too many were wrong, Unavailable when it takes Redis to know.
        """
        name = self._name_of(credential)
        if (found := self._recall(name)) is not None:
            return found
        # Many requests that begin with the same password are one try: the others wait for what it gives.
        with self._alone(name):
            if (found := self._recall(name)) is not None:
                return found
            return self._verify(credential, name, address)

    def demand_pace(self, client: Client) -> None:
        """Takes one request off the client's rate. Raises TooManyRequests."""
        rate = client.quota.rate
        if rate is not None and (wait := self._take_token(client.id, rate)):
            raise TooManyRequests(
                f"over this client's limit of {rate:g} requests per second",
                retry_after_s=max(1, round(float(wait) + 0.5)),
            )

    @unavailable_when_redis_is
    def _take_token(self, id_: str, rate: float) -> bytes:
        wait: bytes = self._scripts.run("rate", id_, rate)
        return wait

    # -- what is remembered

    def _name_of(self, credential: Credential) -> bytes:
        match credential:
            case Key(key):
                parts = ["key", key]
            case Basic(user, password):
                parts = ["basic", user, password]
        text = "\0".join(f"{len(part)}:{part}" for part in parts)
        return hmac.digest(self._pepper, text.encode("utf-8", "surrogatepass"), hashlib.sha256)

    def _recall(self, name: bytes) -> Client | None:
        now = self._clock()
        passed = self._passed.get(name)
        if passed is None or now >= passed.until:
            return None
        if passed.listed is None:
            return self._owner
        generation = self._fresh_generation(now)
        if passed.generation != generation:
            listed = self._clients.find(passed.listed.id)
            if listed is None or listed.disabled_at or listed.secret != passed.listed.secret:
                self._passed.pop(name, None)
                return None
            passed.listed, passed.generation = listed, generation
        self._note_use(passed, now)
        return passed.listed.client

    def _fresh_generation(self, now: float) -> int:
        if now - self._read_at >= FRESH_S:
            self._generation, self._read_at = self._clients.generation(), now
        return self._generation

    def _remember(self, name: bytes, listed: Known | None, generation: int) -> None:
        now = self._clock()
        passed = _Passed(now + REMEMBERED_S, listed, generation, float("-inf"))
        with self._lock:
            self._passed.pop(name, None)
            while len(self._passed) >= MOST_REMEMBERED:
                self._passed.pop(next(iter(self._passed)))
            self._passed[name] = passed
        if listed:
            self._note_use(passed, now)

    def _note_use(self, passed: _Passed, now: float) -> None:
        if passed.listed and now - passed.used_at >= USED_S:
            passed.used_at = now
            with suppress(Unavailable):  # Redis is full: it is not worth a refusal
                self._clients.note_use(passed.listed.id)

    @contextmanager
    def _alone(self, name: bytes) -> Iterator[None]:
        with self._lock:
            if len(self._under_way) >= MOST_REMEMBERED:
                self._under_way.clear()
            lock = self._under_way.setdefault(name, threading.Lock())
        with lock:
            try:
                yield
            finally:
                with self._lock:
                    self._under_way.pop(name, None)

    # -- what is worked out

    def _verify(self, credential: Credential, name: bytes, address: str) -> Client | None:
        match credential:
            case Key(key):
                return self._verify_key(key, name, address)
            case Basic(user, password):
                return self._verify_password(user, password, name, address)

    def _verify_key(self, key: str, name: bytes, address: str) -> Client | None:
        generation = self._clients.generation()
        listed = self._clients.of_key(key) if len(key) <= LONGEST else None
        right = listed is not None and credentials.key_fits(key, listed.secret)
        if listed is None or not right or listed.disabled_at:
            self._logins.take(address, None)
            return None
        self._remember(name, listed, generation)
        return listed.client

    def _verify_password(
        self, user: str, password: str, name: bytes, address: str
    ) -> Client | None:
        one = self._logins.take(address, user)
        if len(user) > LONGEST or len(password) > LONGEST:
            return None
        # Both are compared whatever the first says: the time taken tells nothing.
        same_user = credentials.same(user, self._name)
        same_password = credentials.same(password, self._password)
        if same_user and same_password:
            self._logins.passed(one)
            self._remember(name, None, 0)
            return self._owner
        # Whatever is wrong, name or password, the same work follows.
        generation = self._clients.generation()
        id_, secret = self._clients.password_of(user)
        if not credentials.password_fits(password, secret):
            return None
        listed = self._clients.find(id_)
        if listed is None or listed.disabled_at or listed.secret != secret:
            return None
        self._logins.passed(one)
        self._remember(name, listed, generation)
        return listed.client
