"""'When again?': a cron line or an RFC 5545 rule in a time zone, and the moments it names. Pure functions of `now`.

What is promised is the local time. croniter and dateutil are therefore asked for local times without a zone, and the zone
is applied here: given one, croniter skips or repeats times around a change of clocks
(https://github.com/pallets-eco/croniter/issues/258, .../25), and dateutil names times that no clock shows
(https://github.com/dateutil/dateutil/issues/102). A local time that the clocks skip moves to the moment of the skip; of one
that they repeat the first counts; several that come to lie on one moment are one.

Nothing here can be made to run for long: texts are short, each occurrence lies at most HORIZON behind the one before, and
what takes more CPU than it is given is refused.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter

from postrider.errors import InvalidRequest
from postrider.rules import Rule, TooLong, Watch, parse_rule
from postrider.timing import LOCAL, WITH_OFFSET, first_valid

CPU_S = 0.05
"""Of CPU that working out a client's dates may take."""
HORIZON_YEARS = 10
HORIZON = timedelta(days=366 * HORIZON_YEARS)
"""What does not come again within this does not come again."""
MAX_CRON, MAX_COUNT = 256, 1_000_000
_EDGE = timedelta(microseconds=1)

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_NUMBER = r"(?:\d{1,2}|[a-z]{3})"
_PART = rf"(?:\*|{_NUMBER}(?:-{_NUMBER})?)(?:/\d{{1,2}})?"
_FIELD = re.compile(
    rf"(?:{_PART}|l|{_NUMBER}#[1-5]|l[0-7])(?:,(?:{_PART}|{_NUMBER}#[1-5]|l[0-7]))*", re.ASCII
)
_RANGE_OF_ONE = re.compile(rf"({_NUMBER})-\1(?![a-z\d])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Recurrence:
    """When a message repeats: a cron line or a rule, the local times between `start` and `until` that it names in `zone`.

    `start` and `until` are local, without a zone, and belong to it. `count`: of messages, at most.
    """

    zone: str
    start: datetime
    cron: str | None = None
    rule: Rule | None = None
    until: datetime | None = None
    count: int | None = None

    def to_fields(self) -> dict[str, Any]:
        """As JSON, for the record of a schedule."""
        return {
            "zone": self.zone,
            "start": self.start.isoformat(),
            "cron": self.cron,
            "rrule": self.rule.text if self.rule else None,
            "until": self.until.isoformat() if self.until else None,
            "count": self.count,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "Recurrence":
        """What `to_fields` told of."""
        return cls(
            zone=fields["zone"],
            start=datetime.fromisoformat(fields["start"]),
            cron=fields["cron"],
            rule=parse_rule(fields["rrule"])[0] if fields["rrule"] else None,
            until=datetime.fromisoformat(fields["until"]) if fields["until"] else None,
            count=fields["count"],
        )


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One of the moments: `at` is aware UTC; `local` the time without a zone that was asked for, which the clocks may skip."""

    at: datetime
    local: datetime


def parse(
    repeat: Mapping[str, Any], zone: ZoneInfo, start: datetime | None, now: datetime
) -> Recurrence:
    """The recurrence that a client's `repeat` describes: `cron` or `rrule`, `until`, `count`.

    `start` (aware UTC; None: now) is where it begins: the first occurrence is then or later. Raises InvalidRequest, also
    for one that never comes or takes too long to work out.
    """
    cron, text = repeat.get("cron"), repeat.get("rrule")
    if (cron is None) == (text is None):
        raise InvalidRequest("repeat", "give either cron or rrule")
    local = (start or now.replace(second=0)).astimezone(zone).replace(tzinfo=None, microsecond=0)
    until, count = _until(repeat.get("until"), zone), repeat.get("count")
    if count is not None and not 1 <= count <= MAX_COUNT:
        raise InvalidRequest("repeat.count", f"is from 1 to {MAX_COUNT}")
    if text is None:
        found = Recurrence(zone.key, local, cron=_cron(str(cron)), until=until, count=count)
    else:
        try:
            rule, rule_until, rule_count = parse_rule(text)
        except ValueError as error:
            raise InvalidRequest("repeat.rrule", str(error)) from None
        if (until and rule_until) or (count and rule_count):
            raise InvalidRequest("repeat", "names its end twice: beside rrule and in it")
        if rule_until and rule_until.tzinfo:
            rule_until = rule_until.astimezone(zone).replace(tzinfo=None)
        found = Recurrence(
            zone.key, local, rule=rule, until=until or rule_until, count=count or rule_count
        )
    if next_after(found, now) is None:
        field = "repeat.until" if found.until else f"repeat.{'rrule' if text else 'cron'}"
        raise InvalidRequest(field, f"leaves no moment from now on, within {HORIZON_YEARS} years")
    return found


def _until(text: str | None, zone: ZoneInfo) -> datetime | None:
    """The last local time that counts: a day as a whole, a local time, or ISO 8601 with an offset."""
    if text is None:
        return None
    day = _DAY.fullmatch(text)
    if day or LOCAL.fullmatch(text) or WITH_OFFSET.fullmatch(text):
        with suppress(ValueError, OverflowError):
            until = datetime.fromisoformat(text)
            if day:
                return until + timedelta(days=1) - _EDGE
            return until.astimezone(zone).replace(tzinfo=None) if until.tzinfo else until
    raise InvalidRequest(
        "repeat.until",
        "write it as YYYY-MM-DD, as YYYY-MM-DD HH:MM:SS, or as ISO 8601 with an offset",
    )


def _cron(text: str) -> str:
    """`text`, if it is a cron line of ours. Raises InvalidRequest."""
    fields = text[: MAX_CRON + 1].lower().split(" ")
    if len(text) > MAX_CRON:
        raise InvalidRequest("repeat.cron", f"is longer than {MAX_CRON} characters")
    if len(fields) != 5:
        raise InvalidRequest(
            "repeat.cron", "has five fields, one space between: minute hour day month weekday"
        )
    for field in fields:
        if not _FIELD.fullmatch(field):
            raise InvalidRequest("repeat.cron", f"{field[:40]!r} is no field of it")
        if one := _RANGE_OF_ONE.search(field):  # which croniter takes for all there are
            raise InvalidRequest("repeat.cron", f"write {one[1]} instead of {one[0]}")
    line = " ".join(fields)
    try:
        croniter(line, datetime(2000, 1, 1))  # noqa: DTZ001 - local, see above
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise InvalidRequest("repeat.cron", f"cannot be read: {error}") from None
    return line


def next_after(recurrence: Recurrence, after: datetime, cpu_s: float = CPU_S) -> Occurrence | None:
    """The first occurrence later than `after` (aware UTC); None when there is none. Raises InvalidRequest."""
    return next(iter(upcoming(recurrence, after, 1, cpu_s)), None)


def upcoming(
    recurrence: Recurrence, after: datetime, n: int, cpu_s: float = CPU_S
) -> list[Occurrence]:
    """The first `n` occurrences later than `after` (aware UTC); fewer when it ends, or when more would take too long.

    Raises InvalidRequest when not even the first can be worked out in `cpu_s` seconds of CPU. `count` is the caller's: only
    it knows how many there have been.
    """
    zone = ZoneInfo(recurrence.zone)
    found: list[Occurrence] = []
    last = after
    watch = Watch(cpu_s)
    try:
        for local in _locals(recurrence, after.astimezone(zone).replace(tzinfo=None), watch):
            watch.check()
            if recurrence.until and local > recurrence.until:
                break
            at = first_valid(local, zone)
            if at - last > HORIZON and at.replace(tzinfo=None) - recurrence.start > HORIZON:
                break
            if at > last:
                found.append(Occurrence(at, local))
                last = at
            if len(found) >= n:
                break
    except TooLong:
        if not found:
            field = "rrule" if recurrence.rule else "cron"
            raise InvalidRequest(
                f"repeat.{field}",
                "never comes, or takes too long to work out; say it in larger steps",
            ) from None
    except OverflowError:  # behind the year 9999
        pass
    return found


def _locals(recurrence: Recurrence, after: datetime, watch: Watch) -> Iterator[datetime]:
    """The local times that it names from its start on, later than `after`."""
    after = max(after, recurrence.start - _EDGE)
    if recurrence.rule:
        return recurrence.rule.after(recurrence.start, after, watch)
    return _cron_times(recurrence.cron or "", after)


def _cron_times(line: str, after: datetime) -> Iterator[datetime]:
    try:
        yield from croniter(
            line, after, datetime, max_years_between_matches=HORIZON_YEARS
        ).all_next()
    except (ValueError, OverflowError):
        return  # it does not come again
