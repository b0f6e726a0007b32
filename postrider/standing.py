"""How each account stands: open, or paused until when and why; how many wait for it. `lua/_accounts.lua` keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import redis

from postrider import records
from postrider.model import QUEUES, Signal
from postrider.scripts import unavailable_when_redis_is

Kind = Literal["broken", "asked", "refused"]
KINDS: dict[str, Kind] = {
    Signal.FAILS.value: "broken",
    Signal.PAUSES.value: "asked",
    Signal.REFUSED.value: "refused",
}
"""Signal that made a pause -> what it is called: the messenger does not answer, asks us to wait, refuses the account."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing goes before `until`, but one then finds out. `why`: what the messenger said."""

    until: datetime
    kind: Kind
    why: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How one account stands. `waiting`: deliveries that are due and wait for it."""

    pause: Pause | None
    waiting: int


@unavailable_when_redis_is
def standings(client: redis.Redis, accounts: Sequence[str]) -> dict[str, Standing]:
    """Account, as `records.account_key` writes it -> how it stands."""
    pipe: Any = client.pipeline(transaction=False)
    for account in accounts:
        pipe.hmget(f"pr:account:{account}", "until", "kind", "why")
        pipe.hget("pr:queued", account)
        for queue in QUEUES.values():
            pipe.zcard(f"pr:line:{queue[0]} {account}")
    answers = iter(pipe.execute())
    found = {}
    for account in accounts:
        (until, kind, why), queued, *lines = (next(answers) for _ in range(2 + len(QUEUES)))
        pause = None
        if until:
            called = KINDS.get((kind or b"").decode(), "asked")
            pause = Pause(records.moment(until), called, (why or b"").decode())
        # Stock workers take from the queues without counting.
        found[account] = Standing(pause, max(0, int(queued or 0)) + sum(lines))
    return found


@unavailable_when_redis_is
def chores(client: redis.Redis) -> dict[str, int]:
    """What the sweep finds to do: claims whose lease is over, messages on their way in, deliveries that go alone."""
    redis_: Any = client
    now, micros = redis_.time()
    pipe: Any = client.pipeline(transaction=False)
    pipe.zcount("pr:leases", "-inf", records.seconds(now + micros / 1e6))
    pipe.zcard("pr:accepting")
    pipe.zcard("pr:alone")
    return dict(zip(("leases_over", "half_accepted", "alone"), pipe.execute(), strict=True))
