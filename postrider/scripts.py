"""The Lua scripts in one Redis: each change is one of them, so that it happens whole or not at all."""

import functools
import hashlib
from collections.abc import Callable
from importlib import resources
from typing import Any, ParamSpec, TypeVar

import redis

from postrider import link
from postrider.errors import Unavailable

SHARED = (
    "lib",
    "records",
    "lists",
    "events",
    "suppressions",
    "files",
    "sending",
    "earlier",
    "stops",
    "accounts",
)
"""What stands before each script, in this order: each builds on those before it."""
P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def _texts() -> dict[str, tuple[str, str]]:
    """Name of a script -> its SHA-1, and its text behind what all share. Read once a process."""
    folder = resources.files("postrider") / "lua"
    more = {name: (folder / f"_{name}.lua").read_text() for name in ("callbacks", "task")}
    shared = "".join((folder / f"_{name}.lua").read_text() for name in SHARED)
    texts = {
        path.name.removesuffix(".lua"): shared
        + more.get(path.name.partition("_")[0], "")
        + path.read_text()
        for path in folder.iterdir()
        if path.name.endswith(".lua") and not path.name.startswith("_")
    }
    return {
        name: (hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), text)
        for name, text in texts.items()
    }


class Scripts:
    """What runs `lua/*.lua` in one Redis, by the file's name."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def run(self, script: str, *args: str | float | bytes) -> Any:
        """The script's answer."""
        return self.run_by(self._redis.execute_command, script, *args)

    def run_by(self, command: Callable[..., Any], script: str, *args: str | float | bytes) -> Any:
        """The same, sent by `command`: one that waits until what was written is safe."""
        sha, text = _texts()[script]
        try:
            return command("EVALSHA", sha, 0, *args)
        except redis.exceptions.NoScriptError:
            return command("EVAL", text, 0, *args)


def unavailable_when_redis_is(method: Callable[P, R]) -> Callable[P, R]:
    """Redis away, full, read-only or too slow: `Unavailable`, whatever redis-py calls it."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except redis.RedisError as error:
            if (why := link.why_unavailable(error)) is None:
                raise
            raise Unavailable(why) from error

    return wrapped
