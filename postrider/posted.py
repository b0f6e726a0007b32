"""Where the QR code of a session is shown just now: ids and times, never a code.

Redis
  pr:session:code:<session>   hash  digest (of the newest code), n (which one it is since the linking began), ends (s), shown (what
                                    its message says, where that is no code any more), channel and ts (that message),
                                    `file <id>` -> n (pictures that are still there); kept for a day
  pr:session:codes            zset  session -> when all that is looked at (s)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import redis

from postrider import records
from postrider.scripts import Scripts, unavailable_when_redis_is

FIRST_S, NEXT_S, MOST = 60.0, 20.0, 6
"""Seconds that the first code of a linking lives, and each further one; and how many there are.

https://github.com/tulir/whatsmeow/blob/main/qrchan.go
"""
KEPT_S = 86_400
"""Seconds for which a Slack that is away is asked to delete what it shows."""
_FILE = "file "


@dataclass(frozen=True, slots=True)
class Posted:
    """What shows the codes of one session. `files`: id of a picture -> which code it is."""

    n: int
    digest: str = ""
    ends_at: datetime | None = None
    shown: str = ""
    channel: str = ""
    ts: str = ""
    files: Mapping[str, int] = field(default_factory=dict)


class Posts:
    """All of it, in one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def next(
        self, session: str, digest: str, lives_s: float | None, after_s: float
    ) -> tuple[int, datetime] | None:
        """Which code of its linking this is, and when it ends; None for one that is known, and for any behind the last.

        `after_s`: how long after its end it is looked at.
        """
        lives = "" if lives_s is None else lives_s
        limits = (MOST, FIRST_S, NEXT_S, lives, after_s, KEPT_S)
        n, ends = self.scripts.run("code_next", session, digest, *limits)
        return (n, records.moment(ends)) if n else None

    @unavailable_when_redis_is
    def get(self, session: str) -> Posted | None:
        """What shows its codes."""
        client: Any = self.redis
        told = client.hgetall(f"pr:session:code:{session}")
        text = {name.decode(): value.decode() for name, value in told.items()}
        if "n" not in text:
            return None
        return Posted(
            n=int(text["n"]),
            digest=text.get("digest", ""),
            ends_at=records.moment(float(text["ends"])) if "ends" in text else None,
            shown=text.get("shown", ""),
            channel=text.get("channel", ""),
            ts=text.get("ts", ""),
            files={
                name.removeprefix(_FILE): int(n)
                for name, n in text.items()
                if name.startswith(_FILE)
            },
        )

    @unavailable_when_redis_is
    def says(self, session: str, n: int, channel: str, ts: str, shown: str = "") -> bool:
        """Writes down its message, and what that says instead of code `n`; False when that is no longer the newest."""
        fields = ("channel", channel, "ts", ts, "shown", shown)
        return bool(self.scripts.run("code_posted", session, n, *fields))

    @unavailable_when_redis_is
    def shows(self, session: str, n: int, file: str) -> bool:
        """Writes down that a picture shows code `n`; False when that is no longer the newest."""
        return bool(self.scripts.run("code_posted", session, n, _FILE + file, n))

    @unavailable_when_redis_is
    def hides(self, session: str, n: int, file: str) -> bool:
        """Writes down that a picture is gone; `n`: which code is the newest."""
        return bool(self.scripts.run("code_posted", session, n, _FILE + file, ""))

    @unavailable_when_redis_is
    def end(self, session: str, n: int) -> bool:
        """Forgets all of it; False when there is a newer code than `n`."""
        return bool(self.scripts.run("code_end", session, n))

    # -- when it is looked at

    @unavailable_when_redis_is
    def look_in(self, session: str, seconds: float, *, also_without: bool = False) -> None:
        """Has it looked at in so many seconds, if there is anything; `also_without`: in any case."""
        self.scripts.run("code_due", session, seconds, KEPT_S if also_without else "")

    @unavailable_when_redis_is
    def take_due(self, most: int, lease_s: float) -> list[str]:
        """Sessions to be looked at now, each given to one caller; to another when that has not settled it within the lease."""
        return [id_.decode() for id_ in self.scripts.run("codes_take", most, lease_s)]
