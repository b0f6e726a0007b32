"""How Redis is reached: a URL becomes a client that fails fast. Every client of ours is opened here.

Nothing is sent twice behind our back, and no wait is without limit. While Redis hangs one thread asks whether it is back,
and everybody else is told no at once: else each caller would wait, and behind them the queue.
"""

import asyncio
import ipaddress
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from postrider import sentinel

OLDEST = (7, 0)
"""The oldest Redis that has all we call."""
WAITAOF_SINCE = (7, 2)
ANSWER_WITHIN_S = 2.0
SLOW_S = 0.5
"""A call that failed after longer than this made somebody wait: Redis hangs, or the way to it."""


class NotAsked(redis.ConnectionError):
    """Redis did not answer somebody else just now, so it was not asked: nothing has been sent."""


NOT_DONE = (
    NotAsked,
    redis.AuthenticationError,
    redis.exceptions.BusyLoadingError,
    redis.sentinel.MasterNotFoundError,
)
"""Connection errors after which it is certain that a command was not carried out."""

# -- clients


def connect(
    url: str, *, answer_within_s: float = ANSWER_WITHIN_S, decode: bool = False
) -> redis.Redis:
    """A client that fails fast. `decode`: it answers in str instead of bytes."""
    settings: dict[str, Any] = {
        "socket_timeout": answer_within_s,
        "socket_connect_timeout": answer_within_s,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "decode_responses": decode,
    }
    if _is_sentinel(url):
        return Client.from_pool(sentinel.pool(url, **settings))
    return Client.from_url(url, **settings)


async def connect_async(url: str) -> redis.asyncio.Redis:
    """A client for asyncio. It stays with the master that it found: open another when it fails."""
    if _is_sentinel(url):
        url = await asyncio.to_thread(sentinel.master_url, url)
    return redis.asyncio.Redis.from_url(
        url,
        socket_timeout=ANSWER_WITHIN_S,
        socket_connect_timeout=ANSWER_WITHIN_S,
        retry=AsyncRetry(NoBackoff(), 0),
    )


class _Hang:
    """Whether Redis hangs. While it does, one thread asks, and nobody else waits."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._hangs = False

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Around each call. Raises NotAsked."""
        if self._hangs:
            raise NotAsked("Redis hangs")
        started = time.monotonic()
        try:
            yield
        except redis.exceptions.BusyLoadingError:  # late, but an answer
            raise
        except (redis.ConnectionError, redis.TimeoutError):
            if time.monotonic() - started >= SLOW_S:
                self._begin()
            raise

    def _begin(self) -> None:
        with self._lock:
            if self._hangs:
                return
            self._hangs = True
        threading.Thread(target=self._until_it_answers, name="is-redis-back", daemon=True).start()

    def _until_it_answers(self) -> None:
        while True:
            started = time.monotonic()
            with suppress(redis.RedisError, OSError):
                self._ask()
                break
            if time.monotonic() - started < SLOW_S:  # it refuses us, and does so at once
                break
        self._hangs = False


class Client(redis.Redis):
    """redis-py's client, except that it does not queue up behind a Redis that hangs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._hang = _Hang(lambda: self._call("PING"))
        super().__init__(*args, **kwargs)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command, or NotAsked."""
        try:
            with self._hang.watch():
                return self._call(*args, **options)
        except redis.ResponseError as error:
            self._leave_one_that_is_no_master(error)
            raise

    def _call(self, *args: Any, **options: Any) -> Any:
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> "_Pipeline":
        """A pipeline, watched like a single command."""
        pipeline = _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.hang = self._hang
        return pipeline

    def _leave_one_that_is_no_master(self, error: redis.ResponseError) -> None:
        """Lets go of who was the master, so that the next call asks the Sentinels."""
        if isinstance(error, redis.ReadOnlyError) or str(error).startswith("NOREPLICAS"):
            self.connection_pool.disconnect(inuse_connections=False)


class _Pipeline(redis.client.Pipeline):
    hang: _Hang

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        with self.hang.watch():
            return super().execute(raise_on_error)


# -- what a URL says


def can_be_read(url: str) -> bool:
    """Whether `connect` takes it. Never raises: redis-py's words may hold a part of the password."""
    try:
        if _is_sentinel(url):
            settings = sentinel.SentinelUrl.read(url)
            url = settings.at("master", sentinel.PORT)
        pool = redis.ConnectionPool.from_url(url)
        pool.connection_class(**pool.connection_kwargs)  # which connects to nothing yet
        parts = urlsplit(url)
    except (ValueError, TypeError, redis.RedisError):
        return False
    # A # or / cuts a password short, and what is left may pass for a host and port.
    return parts.scheme == "unix" or "@" not in parts.path + parts.query + parts.fragment


def place(url: str) -> str:
    """The address without its password."""
    if _is_sentinel(url):
        parts = sentinel.SentinelUrl.read(url)
        return ",".join(f"{host}:{port}" for host, port in parts.hosts) + f"/{parts.service}"
    split = urlsplit(url)
    return split.path if split.scheme == "unix" else split.netloc.rpartition("@")[2]


def open_to_others(url: str) -> str:
    """The host that takes anyone who reaches it: another machine, and no password. '' for none."""
    if _is_sentinel(url):
        parts = sentinel.SentinelUrl.read(url)
        hosts = [host for host, _ in parts.hosts]
        password = parts.settings().get("password")
    else:
        split = urlsplit(url)
        hosts = [] if split.scheme == "unix" else [split.hostname or "localhost"]
        password = parse_url(url).get("password")  # type: ignore[no-untyped-call]
    return "" if password else next((host for host in hosts if not _is_local(host)), "")


def finds_its_master(url: str) -> bool:
    """Whether Sentinels say where Redis is."""
    return _is_sentinel(url)


def _is_sentinel(url: str) -> bool:
    return url.partition("://")[0] in {"redis+sentinel", "rediss+sentinel"}


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


# -- what Redis says


def numbers(version: str) -> tuple[int, ...]:
    """`7.2.4` -> (7, 2)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def why_unavailable(error: redis.RedisError) -> str | None:
    """In words: why Redis cannot do what it was asked to, though it could at another time. None: it never will."""
    match error:
        case redis.BusyLoadingError():
            return "Redis still reads its file"
        case redis.AuthenticationError():
            return "Redis refuses our password"
        case redis.ConnectionError() | redis.TimeoutError():
            return "Redis does not answer; try again"
        case redis.exceptions.OutOfMemoryError() | redis.ReadOnlyError():
            return f"Redis takes no writes: {str(error)[:100]}"
        case redis.ResponseError() if str(error).startswith(("BUSY", "MISCONF", "NOREPLICAS")):
            return f"Redis takes no writes: {str(error)[:100]}"
        case redis.exceptions.MasterDownError():
            return "Redis has lost its master"
    return None
