"""Tasks: what a linked phone is asked to do besides sending: check a number, log in, log out. Each ends once, and its end is told.

Redis
  pr:task:<task>        hash    queue, kind, session, owner, to (a number), url, made (s), tries, begun, claim (who works on
                                it: a word of its own each time)
  pr:work:<queue>       zset    task -> since when it stands there (s): one at a time is worked on, in that order
  pr:work:due           zset    queue -> when its first is worked on (s), or until when the one under way is its keeper's
  pr:work:until         zset    task -> when it is given up (s)
  pr:work:of            hash    owner -> how many of its tasks have not ended

A queue is a session's, one for what asks the phone and one for what links it: its name holds a space, as no session's does.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import redis

from postrider import records
from postrider.errors import TooManyRequests
from postrider.model import new_message_id
from postrider.scripts import Scripts, unavailable_when_redis_is

Kind = Literal["check", "login", "logout"]
Result = bool | str

KEPT_S = 86_400.0
"""Seconds after which a task is given up: its result is then false."""
MOST = 100_000
MOST_OF_ONE = 10_000
"""Tasks that wait at most, of everybody and of one client."""
GIVEN_UP_AT_ONCE = 100
_QUEUES: dict[Kind, str] = {"check": "asks", "login": "links", "logout": "links"}


@dataclass(frozen=True, slots=True)
class Task:
    """A task that is ours to do, until its lease runs out. `begun`: somebody has tried before what can be done but once."""

    id: str
    claim: str
    kind: Kind
    session: str
    owner: str
    to: str
    made_at: datetime
    tries: int
    begun: bool


class Tasks:
    """The tasks in one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def put(
        self, kind: Kind, session: str, owner: str, *, url: str, now: datetime, to: str = ""
    ) -> str:
        """Keeps a new one, whose end is told to `url`; gives its id. Raises TooManyRequests."""
        id_ = new_message_id(now)
        queue = f"{session} {_QUEUES[kind]}"
        told = self.scripts.run(
            "task_put", id_, queue, kind, session, owner, to, url, KEPT_S, MOST, MOST_OF_ONE
        )
        if told != b"ok":
            of = "everybody's" if told == b"full" else "this client's"
            raise TooManyRequests(f"too many of {of} tasks wait", retry_after_s=60)
        return id_

    @unavailable_when_redis_is
    def take(self, most: int, lease_s: float) -> list[Task]:
        """Those to be worked on now, one of a queue, each given to one caller; and gives up those whose time is past."""
        claim = secrets.token_hex(8)
        rows = self.scripts.run("task_take", most, lease_s, claim, GIVEN_UP_AT_ONCE)
        return [_task(row, claim) for row in rows]

    @unavailable_when_redis_is
    def begin(self, task: Task) -> bool:
        """Writes down that it is about to be done; False when it is ours no longer."""
        return bool(self.scripts.run("task_begin", task.id, task.claim))

    @unavailable_when_redis_is
    def end(self, task: Task, result: Result, lease_s: float) -> Task | None:
        """Ends it, and has it told; gives the next one of its queue, if that is ours to do, too."""
        row = self.scripts.run("task_end", task.id, task.claim, json.dumps(result), lease_s)
        return _task(row, task.claim) if row else None

    @unavailable_when_redis_is
    def wait(self, task: Task, seconds: float, *, tried: bool = True, behind: bool = False) -> bool:
        """Has it wait, and its queue with it. `behind`: others of its queue go first then. False when it is ours no longer."""
        args = (records.seconds(seconds), "1" if tried else "", "1" if behind else "")
        return bool(self.scripts.run("task_wait", task.id, task.claim, *args))


def _task(row: Sequence[Any], claim: str) -> Task:
    id_, _queue, kind, session, owner, to, made, tries, begun = row
    return Task(
        id=id_.decode(),
        claim=claim,
        kind=kind.decode(),
        session=session.decode(),
        owner=owner.decode(),
        to=to.decode(),
        made_at=records.moment(made),
        tries=int(tries),
        begun=begun is not None,
    )
