"""What we tell others, and when again: an event's body, its signature, what an answer means. Pure functions.

Signed and retried as https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md says.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

from standardwebhooks import Webhook

from messengers.base import NoReply, Reply
from messengers.reading import words

State = Literal["waiting", "done", "dead"]

SCHEDULE_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds before the second try, the third, ...: ten tries in a little over 75 hours, as the specification suggests."""
TRIES = len(SCHEDULE_S) + 1
JITTER = 0.1
LONGEST_WAIT_S = 86_400.0
"""Of those that a receiver names."""
GIVEN_UP_S = sum(SCHEDULE_S) * (1 + JITTER)
"""Seconds after which one waits no longer behind others, at a host that answers none of them."""
TASK_ENDED = "task.ended"
"""The type of an event that tells what came of a task: see `tasks.py`."""
SAID = 200
"""Characters of an answer that are kept when it is no yes."""
_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `data` is what is told of it; `task` what its older form is called by, if it has one."""

    id: str
    type: str
    at: datetime
    data: Mapping[str, Any] = field(repr=False)
    task: str | None = None

    @classmethod
    def read(cls, line: bytes) -> Self:
        """The event that a line of the outbox tells of."""
        told = json.loads(line)
        data = told["data"]
        if told["type"].startswith("delivery."):
            data = _delivery(data)
        at = datetime.fromtimestamp(float(told["at"]), UTC)
        return cls(told["id"], told["type"], at, data, told.get("task"))

    def body(self) -> bytes:
        """What is posted: the same bytes on every try."""
        at = self.at.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return _as_json({"type": self.type, "timestamp": at, "data": self.data}).encode()

    def task_body(self) -> bytes:
        """The older form: whether it was sent, or what came of a task that sends nothing."""
        result = self.type == "delivery.sent"
        if self.type == TASK_ENDED:
            result = self.data["result"]
        return _as_json({"task_id": self.task, "result": result}).encode()


def _delivery(told: Mapping[str, Any]) -> dict[str, Any]:
    """A delivery's data in an order of its own; Lua keeps none."""
    service, _, account = told["account"].partition("/")
    return {
        "id": told["id"],
        "message": told["message"],
        "uuid": told["uuid"],
        "service": service,
        "account": account or "default",
        "state": told["state"],
        "reason": told["reason"],
        "provider_id": told["provider_id"],
        "reference": told.get("reference"),
        "attempts": told["attempts"],
        "sequence": told["sequence"],
    }


def headers(secrets: Sequence[str], id_: str, body: bytes, now: datetime) -> dict[str, str]:
    """What goes out with `body`: its id, the same on every try, the moment of this try, and each secret's signature of all three."""
    signatures = (Webhook(secret).sign(id_, now, body.decode()) for secret in secrets)
    return {
        "Content-Type": "application/json",
        "webhook-id": id_,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


@dataclass(frozen=True, slots=True)
class Result:
    """What becomes of a callback after a try.

    `wait_s`: seconds until the next one, where it waits. `answered`: somebody spoke to us at all. `off`: no more of them to
    that address. `status` is None without an answer; `reason` is empty after a yes.
    """

    state: State
    status: int | None = None
    reason: str = ""
    wait_s: float = 0.0
    answered: bool = True
    off: bool = False


def result(answer: Reply | NoReply, tries: int, rng: random.Random | None = None) -> Result:
    """What `answer` means after `tries` tries before it. Total: any status with any body gives one.

    2xx is a yes, 410 turns the address off; anything else, redirects too, is tried again while tries are left.
    """
    if isinstance(answer, NoReply):
        return _again(tries, Result("waiting", None, answer.reason, answered=False), None, rng)
    if 200 <= answer.status <= 299:
        return Result("done", answer.status)
    if answer.status == 410:
        reason = "it is gone: no more callbacks go there, until one is replayed"
        return Result("dead", 410, reason, off=True)
    if 300 <= answer.status <= 399:
        reason = "it redirects, which is not followed: name the address itself"
    else:
        reason = words(answer.body[: 4 * SAID].decode(errors="replace"))[:SAID]
        reason = reason or "it said nothing more"
    return _again(tries, Result("waiting", answer.status, reason), answer.retry_after_s(), rng)


def _again(tries: int, failed: Result, named_s: float | None, rng: random.Random | None) -> Result:
    if tries + 1 >= TRIES:
        return Result("dead", failed.status, failed.reason, answered=failed.answered)
    wait_s = SCHEDULE_S[tries] * (rng or random).uniform(1 - JITTER, 1 + JITTER)
    if named_s is not None:
        wait_s = max(wait_s, min(named_s, LONGEST_WAIT_S))
    return Result("waiting", failed.status, failed.reason, wait_s, failed.answered)
