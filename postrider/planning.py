"""What schedules do: the message of the next occurrence is always accepted ahead, so that the engine sends it on time.

Once its moment is past, whichever process sweeps first plans the next one. Each step is small, leaves behind what the next
one needs, and may be done by any process, twice, or half: the plan names its message's id, and a message is accepted only
while its schedule plans it and has not accepted it (`lua/accept.lua`). Hence one message for each occurrence.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from messengers.base import Template
from postrider import records
from postrider.checks import Checks
from postrider.errors import (
    IllegalTransition,
    InvalidRequest,
    NotFound,
    PostriderError,
    Unavailable,
    Unreadable,
)
from postrider.fetching import Fetching
from postrider.files import Files, Stored
from postrider.model import Attachment, Client, NewMessage, Recipient, Terms, new_message_id
from postrider.recurrence import Occurrence, Recurrence, next_after, parse, upcoming
from postrider.schedules import Missed, Schedule, Schedules
from postrider.timing import first_valid
from postrider.windows import Window

log = logging.getLogger("postrider.schedules")

DATES = 10
"""Occurrences that an answer shows."""
LATE = timedelta(seconds=60)
"""An occurrence that is planned later than this behind its time was missed; sooner, the sweep is just behind."""
TROUBLE = timedelta(seconds=60)
"""Until a message that was refused is tried again."""
HOLD_S = 15.0
"""Seconds for which one sweep has a schedule to itself; only a saving, others would do no harm."""
SWEEP_S = 2.0
"""Seconds that one sweep takes at most."""
SWEEP_CPU_S = 1.0
"""Of CPU for one date: what was accepted is not refused for a slow moment."""
MOST = 50
STEPS = 100
"""Steps with one schedule in one go: `all` after a long outage goes on with the next sweep."""
RECHECKED, RECHECK_S = 500, 0.5
"""Schedules read at once, and seconds of one sweep, to work out local times anew."""


class Engine(Protocol):
    """What a schedule needs of the service."""

    checks: Checks
    fetching: Fetching
    files: Files

    def with_files(self, new: NewMessage) -> NewMessage:
        """`new` with the files that it names. Raises InvalidRequest."""

    def stop(self, message_id: str) -> int:
        """Stops what has not gone of a message; how many deliveries had. Doing it twice is no harm."""

    def accept_occurrence(self, new: NewMessage, message_id: str, schedule: str) -> None:
        """Accepts it under this id while `schedule` plans it. Raises IllegalTransition when it no longer does."""


def draft(body: Mapping[str, Any], owner: str, send_at: datetime) -> NewMessage:
    """The message that a stored body describes."""
    template = body.get("template")
    return NewMessage(
        body=body.get("body", ""),
        recipients=tuple(
            Recipient(r["uuid"], r["service"], r.get("account", body.get("account", "default")))
            for r in body["recipients"]
        ),
        owner=owner,
        priority=body.get("priority", "normal"),
        reference=body.get("reference") or "",
        tags=tuple(dict.fromkeys(body.get("tags", ()))),
        terms=Terms(
            late_s=body.get("late_s"),
            on_unknown=body.get("on_unknown"),
            window=Window.from_fields(body["window"]) if body.get("window") else None,
            check_first=body.get("check_first", False),
        ),
        format=body.get("format", "plain"),
        heading=records.heading(body["mail"]) if body.get("mail") else None,
        callback_url=body.get("callback_url"),
        callback_format=body.get("callback_format", "event"),
        send_at=send_at,
        template=Template(
            template["name"], template["language"], tuple(template.get("components") or ())
        )
        if template
        else None,
        attachments=_attachments(body),
    )


def _attachments(body: Mapping[str, Any]) -> tuple[Attachment, ...]:
    return tuple(
        Attachment(**{name: value for name, value in told.items() if value is not None})
        for told in body.get("attachments", ())
    )


def _told(asked: Attachment) -> dict[str, Any]:
    return {name: value for name, value in asdict(asked).items() if value}


class Planner:
    """Makes, changes and carries on schedules. `stop` stops what has not gone of a message, and counts what has."""

    def __init__(
        self,
        schedules: Schedules,
        engine: Engine,
        clock: Callable[[], datetime],
        keep_s: float,
        stop: Callable[[str], int] | None = None,
    ) -> None:
        self.schedules = schedules
        self.engine = engine
        self.clock = clock
        self.keep_s = keep_s
        self.stop = stop or engine.stop
        self._rechecked = False
        self._recheck_behind: str | None = None

    # -- asked by clients

    def create(
        self,
        owner: str,
        body: dict[str, Any],
        repeat: Mapping[str, Any],
        zone: ZoneInfo,
        *,
        start: datetime | None = None,
        missed: Missed = "skip",
    ) -> Schedule:
        """Takes a schedule, and accepts its first message. `body`: the message's fields, valid in form.

        What is behind URLs is fetched this once. Raises InvalidRequest, TooManyRequests, Unavailable; then there is no
        schedule.
        """
        now = self.clock()
        if start and start <= now:
            raise InvalidRequest("send_at", "Date must be in a future!", alone=True)
        recurrence = parse(repeat, zone, start, now)
        new = Schedule(new_message_id(now), owner, recurrence, missed, "active", now, now)
        new = _plan(new, next_after(recurrence, now), now)
        fetched: list[Stored] = []
        if asked := _attachments(body):
            asked, fetched = self.engine.fetching.fetch_all(asked, owner, self.clock)
            body = {**body, "attachments": [_told(one) for one in asked]}
        try:
            self._check(new, body, now)
            self.schedules.put(new, now, body)
        except PostriderError:
            self.engine.files.forget([stored.file.id for stored in fetched], now)
            raise
        self._look_if_redis_is_there(new.id)
        return self.schedules.get(new.id) or new

    def get(self, client: Client, id_: str) -> Schedule:
        """It, if `client` may see it. Raises NotFound."""
        found = self.schedules.get(id_)
        if found is None or found.state in {"deleted", "gone"} or not client.sees(found.owner):
            raise NotFound("no such schedule")
        return found

    def page(self, client: Client, limit: int, behind: str | None) -> list[Schedule]:
        """What `client` sees, newest first."""
        return self.schedules.page(None if client.role == "admin" else client.id, limit, behind)

    def body(self, schedule: Schedule) -> dict[str, Any]:
        """Its message, as the client gave it."""
        return self.schedules.body(schedule.id)

    def notices(self, schedule: Schedule, body: Mapping[str, Any]) -> list[str]:
        """What a client should know of how the files of its message go."""
        if not body.get("attachments"):
            return []
        try:
            new = self.engine.with_files(draft(body, schedule.owner, self.clock()))
        except InvalidRequest:  # one of them is gone: its trouble says so
            return []
        return self.engine.checks.notices(new.files, new.recipients)

    def dates(self, schedule: Schedule, n: int = DATES) -> list[Occurrence]:
        """The next occurrences: what is planned, and what follows."""
        if schedule.next is None:
            return []
        most = n if schedule.left is None else min(n, schedule.left)
        return [
            schedule.next,
            *upcoming(schedule.recurrence, schedule.next.at, max(0, most - 1)),
        ][:most]

    def change(
        self,
        client: Client,
        id_: str,
        *,
        pause: bool | None = None,
        recurrence: Callable[[Recurrence, datetime], Recurrence] | None = None,
        missed: Missed | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Schedule:
        """Pauses or resumes it, or gives it another recurrence (made from the one it has) or other fields of its message.

        Raises NotFound, IllegalTransition for one that has ended, InvalidRequest, Unavailable.
        """
        for old, now in self._settled(client, id_):
            if old.state == "ended":
                raise IllegalTransition("it has ended")
            new = replace(old, changed_at=now, missed=missed or old.missed)
            if recurrence:
                new = replace(new, recurrence=recurrence(old.recurrence, now))
            whole = None if body is None else {**self.schedules.body(id_), **body}
            rests = old.state == "paused" if pause is None else pause
            if rests:
                new = _unplanned(replace(new, state="paused"))
            elif old.state == "paused" or recurrence or whole is not None:
                planned = next_after(new.recurrence, now)
                new = _plan(replace(_unplanned(new), state="active"), planned, now)
                again = bool(planned and old.next and planned.local == old.next.local)
                new = replace(new, again=again and bool(new.drop))
            if whole is not None or recurrence:
                self._check(new, self.schedules.body(id_) if whole is None else whole, now)
            if self.schedules.put(new, self._look_at(new, now), whole):
                self._look_if_redis_is_there(id_)
                return self.get(client, id_)
        raise Unavailable("others change this schedule at the same time")

    def delete(self, client: Client, id_: str) -> None:
        """Removes it, and stops its next message as far as it has not gone. Raises NotFound, Unavailable."""
        for old, now in self._settled(client, id_):
            if self.schedules.put(replace(_unplanned(old), state="deleted"), now):
                self._look_if_redis_is_there(id_)
                return
        raise Unavailable("others change this schedule at the same time")

    def _settled(self, client: Client, id_: str) -> Iterator[tuple[Schedule, datetime]]:
        """It, again and again, with nothing left to be stopped: a change may itself leave something."""
        for _ in range(10):
            found = self.get(client, id_)
            if found.drop:
                self.look(id_)
                found = self.get(client, id_)
            if not found.drop:
                yield found, self.clock()

    def _check(self, schedule: Schedule, body: Mapping[str, Any], now: datetime) -> None:
        at = schedule.next.at if schedule.next else now + LATE
        new = self.engine.with_files(draft(body, schedule.owner, at))
        self.engine.checks.times(self.engine.checks.message(new), now)

    def _look_if_redis_is_there(self, id_: str) -> None:
        """What was asked for is on record; when this fails, the next sweep does it."""
        try:
            self.look(id_)
        except Unavailable as error:
            log.warning("schedule %s waits for the next sweep: %s", id_, error)

    # -- carried on by any process

    def sweep(self) -> None:
        """Carries on every schedule whose time has come; at most for SWEEP_S seconds."""
        until = time.monotonic() + SWEEP_S
        self._recheck()
        while time.monotonic() < until and (ids := self.schedules.due(self.clock(), MOST, HOLD_S)):
            for id_ in ids:
                self.look(id_, held=True)

    def look(self, id_: str, *, held: bool = False) -> None:
        """Does what is to be done for this schedule now. `held`: it was taken out of the order in which they are looked at."""
        for _ in range(STEPS):
            found = self.schedules.get(id_)
            if found is None:
                return
            now = self.clock()
            if not self._step(found, now):
                if held:
                    self.schedules.put(found, self._look_at(found, now))
                return
            held = False

    def _step(self, s: Schedule, now: datetime) -> bool:
        """One step; False when there is nothing to do, or not before the moment that stands there."""
        if s.drop:
            self._put(self._settle(s, now), now)
            return True
        if s.state == "deleted" or (s.state == "ended" and self._look_at(s, now) == now):
            self._put(replace(s, state="gone"), now)
            return False
        if s.state != "active" or s.next is None:
            return False
        if s.ready:
            if s.next.at > now:
                return False
            self._put(self._go_on(s, s.next.at, now), now)
            return True
        if s.missed == "skip" and now - s.next.at > LATE:
            self._put(self._go_on(s, s.next.at, now), now)
            return True
        return self._accept(s, s.next.at, now)

    def _accept(self, s: Schedule, at: datetime, now: datetime) -> bool:
        try:
            self.engine.accept_occurrence(
                draft(self.schedules.body(s.id), s.owner, at), s.message, s.id
            )
        except IllegalTransition:
            return True  # somebody else accepted it, or the plan has changed
        except (InvalidRequest, Unreadable) as error:
            log.warning("schedule %s: its message is refused: %s", s.id, error)
            self.schedules.put(replace(s, trouble=str(error)[:500]), now + TROUBLE)
            return False
        return True

    def _settle(self, s: Schedule, now: datetime) -> Schedule:
        """`s`, with what was to be stopped stopped; what had gone already counts, and is not made again."""
        if not self.stop(s.drop):
            return replace(s, drop="", again=False, made=s.made - 1)
        kept = replace(s, drop="", again=False)
        if kept.state != "active" or kept.next is None:
            return kept
        return self._go_on(kept, kept.next.at, now) if s.again else _plan(kept, kept.next, now)

    def _go_on(self, s: Schedule, behind: datetime, now: datetime) -> Schedule:
        """`s` with the occurrence planned that follows `behind`; of those that were missed, as many as its client wants."""
        try:
            found = next_after(s.recurrence, behind, SWEEP_CPU_S)
            if found and now - found.at > LATE and not self._makes_missed(s, found.at):
                found = next_after(s.recurrence, now, SWEEP_CPU_S)
        except InvalidRequest as error:
            return replace(_plan(s, None, now), trouble=str(error))
        return _plan(s, found, now)

    def _makes_missed(self, s: Schedule, missed_at: datetime) -> bool:
        """Whether one is made for the occurrence missed then.

        `once`: not when the message that stood ready was itself late until then, for that one stands for all of them.
        """
        if s.missed == "once":
            return self.schedules.began_before(s.message, missed_at)
        return s.missed == "all"

    def _put(self, s: Schedule, now: datetime) -> None:
        """Writes it; when somebody else was first, what they wrote counts."""
        self.schedules.put(s, self._look_at(s, now))

    def _look_at(self, s: Schedule, now: datetime) -> datetime | None:
        if s.drop or s.state == "deleted":
            return now
        if s.state == "ended":
            return max(now, s.changed_at + timedelta(seconds=self.keep_s))
        if s.state != "active" or s.next is None:
            return None
        return s.next.at if s.ready else now

    def _recheck(self) -> None:
        """Works out each planned local time anew, once after a process starts: its time zones may be newer.

        One that lies elsewhere now is moved: its message is stopped and another one accepted.
        """
        until = time.monotonic() + RECHECK_S
        while not self._rechecked and time.monotonic() < until:
            found = self.schedules.page(None, RECHECKED, self._recheck_behind)
            for s in found:
                self._move_with_its_zone(s, self.clock())
            self._recheck_behind = found[-1].id if found else None
            self._rechecked = not found

    def _move_with_its_zone(self, s: Schedule, now: datetime) -> None:
        if s.state != "active" or s.next is None or s.drop or s.next.at - now <= LATE:
            return
        at = first_valid(s.next.local, ZoneInfo(s.recurrence.zone))
        if at != s.next.at:
            log.warning("schedule %s: %s moves from %s to %s", s.id, s.next.local, s.next.at, at)
            moved = _plan(_unplanned(s), Occurrence(at, s.next.local), now)
            self._put(replace(moved, again=bool(moved.drop)), now)
            self.look(s.id)


def _unplanned(s: Schedule) -> Schedule:
    """`s` with nothing planned, and what stood ready to be stopped."""
    return replace(s, next=None, message="", ready=False, drop=s.message if s.ready else "")


def _plan(s: Schedule, occurrence: Occurrence | None, now: datetime) -> Schedule:
    """`s` with this one planned under an id of its own; ended when there is none, or `count` is used up."""
    count = s.recurrence.count
    made = s.made - (1 if s.drop else 0)
    if occurrence is None or (count is not None and made >= count):
        return replace(s, state="ended", next=None, message="", ready=False, changed_at=now)
    message = new_message_id(now)
    return replace(s, next=occurrence, message=message, ready=False, trouble="")
