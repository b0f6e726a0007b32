"""A script is run, and its answer given, once what it wrote is safe: on disk, or at least in the kernel's hands.

How Redis is asked to say so is settled once; that it did say so is looked at each time, so that a failover to another
version, or other settings there, never passes for a yes.
"""

import re
import time
from contextlib import suppress
from typing import Any

import redis

from postrider import link
from postrider.errors import Unavailable

LOOK_S = 0.005
WAIT_MS = 1_500
"""For the fsync itself. Less than a client waits; under `appendfsync everysec` it takes up to 1 s."""
WRITTEN_WITHIN_S = 2.5
"""Redis postpones a write for up to 2 s while an fsync takes long."""


_ASK = "INFO persistence"
"""In one word: redis-py then gives the text as it is. Two of its lines are looked at for every message, and it has thirty."""
_BOTH = (b"aof_pending_bio_fsync", b"aof_buffer_length")


class _WaitAof:
    """Since 7.2. On the connection that wrote: on another it would answer at once."""

    def ask(self, pipe: Any) -> None:
        pipe.waitaof(1, 0, WAIT_MS)

    def is_yes(self, told: object) -> bool:
        match told:
            case [int(fsynced), *_]:
                return fsynced == 1
        return False


class _AppendFsync:
    """Before 7.2. With `always` Redis answers nobody before it has written and fsynced."""

    def ask(self, pipe: Any) -> None:
        pipe.config_get("appendfsync")

    def is_yes(self, told: object) -> bool:
        if isinstance(
            told, redis.ResponseError
        ):  # CONFIG is forbidden; a warning at the start said so
            return True
        return told == {"appendfsync": "always"}


class Written:
    """Commands whose effects outlive Redis when they are answered: it has written them to its file.

    Under `appendfsync everysec` it answers without having written, for up to 2 s, while an fsync takes long; killed then, it
    would lose what it had confirmed. https://github.com/redis/redis/blob/7.0/src/aof.c (flushAppendOnlyFile)
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def command(self, *words: Any) -> Any:
        """The command's own answer. Raises its errors, and Unavailable when it is not written in time."""
        client: Any = self._redis
        pipe = client.pipeline(transaction=False)
        pipe.execute_command(*words)
        pipe.execute_command(_ASK)
        answer, told = pipe.execute(raise_on_error=False)
        if isinstance(answer, Exception):
            raise answer
        give_up_at = time.monotonic() + WRITTEN_WITHIN_S
        while _held_back(told):
            if time.monotonic() > give_up_at:
                raise Unavailable(
                    "Redis did not write the message in time; it may or may not be accepted",
                    accepted_unknown=True,
                )
            time.sleep(LOOK_S)
            told = client.execute_command(_ASK)
        return answer


def _held_back(told: object) -> bool:
    """Whether `INFO persistence` says that something waits for an fsync before it is written.

    With no fsync under way Redis writes before it gives the answer that says so.
    """
    if not isinstance(told, bytes):
        return False
    fsyncs, unwritten = (re.search(rb"\n%s:[1-9]" % name, told) for name in _BOTH)
    return fsyncs is not None and unwritten is not None


class Fsync:
    """Commands whose effects are on disk when they are answered."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._question: _WaitAof | _AppendFsync | None = None

    def command(self, *words: Any) -> Any:
        """The command's own answer. Raises its errors, and Unavailable when nobody says that it is on disk."""
        question = self._question or self._settle()
        pipe: Any = self._redis.pipeline(transaction=False)
        pipe.execute_command(*words)
        question.ask(pipe)
        answer, told = pipe.execute(raise_on_error=False)
        if isinstance(answer, Exception):
            raise answer
        if question.is_yes(told):
            self._question = question
            return answer
        self._question = None
        raise Unavailable(
            "Redis did not say in time that the message is on disk; it may or may not be accepted",
            accepted_unknown=True,
        )

    def _settle(self) -> _WaitAof | _AppendFsync:
        client: Any = self._redis
        version = str(client.info("server")["redis_version"])
        if link.numbers(version) >= link.WAITAOF_SINCE:
            return _WaitAof()
        found = _AppendFsync()
        with suppress(redis.ResponseError):
            if not found.is_yes(client.config_get("appendfsync")):
                raise Unavailable(
                    f"Redis {version} cannot say when a message is on disk; nothing was accepted"
                )
        return found
