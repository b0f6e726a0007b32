"""Recurrence rules of RFC 5545 (RRULE): read strictly, expanded by dateutil in local time, never for long."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from dateutil import rrule

MAX_TEXT = 500
MAX_POSITIONS = 31
"""Values of BYSETPOS: each costs a pass over its whole period."""
MAX_TIMES = 96
"""Times of one day in a rule of days or longer: every quarter of an hour. More have FREQ=HOURLY or MINUTELY."""

FREE_STEPS = 50

FREQUENCIES: Mapping[str, Literal[0, 1, 2, 3, 4, 5]] = {
    "YEARLY": rrule.YEARLY,
    "MONTHLY": rrule.MONTHLY,
    "WEEKLY": rrule.WEEKLY,
    "DAILY": rrule.DAILY,
    "HOURLY": rrule.HOURLY,
    "MINUTELY": rrule.MINUTELY,
}
DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_LISTS = {
    # name -> dateutil's name, least, most, whether also negative
    "BYMONTH": ("bymonth", 1, 12, False),
    "BYMONTHDAY": ("bymonthday", 1, 31, True),
    "BYYEARDAY": ("byyearday", 1, 366, True),
    "BYWEEKNO": ("byweekno", 1, 53, True),
    "BYSETPOS": ("bysetpos", 1, 366, True),
    "BYHOUR": ("byhour", 0, 23, False),
    "BYMINUTE": ("byminute", 0, 59, False),
    "BYSECOND": ("bysecond", 0, 59, False),
}
_ALLOWED = {
    # RFC 5545, 3.3.10: which of these a frequency may have
    "BYWEEKNO": {"YEARLY"},
    "BYYEARDAY": {"YEARLY", "HOURLY", "MINUTELY"},
    "BYMONTHDAY": {"YEARLY", "MONTHLY", "DAILY", "HOURLY", "MINUTELY"},
}
_DAY = re.compile(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)", re.ASCII)
_INT = re.compile(r"[+-]?\d{1,6}", re.ASCII)
_UNTIL = re.compile(r"\d{8}(T\d{6}Z?)?", re.ASCII)


class TooLong(Exception):
    """It took more CPU than it was given."""


class Watch:
    """Raises TooLong once the CPU time is used up.

    The first FREE_STEPS, of which none takes a millisecond, are free: a pause of the garbage collector refuses nobody.
    """

    def __init__(self, cpu_s: float) -> None:
        self._until = time.thread_time() + cpu_s
        self._steps = 0

    def check(self) -> None:
        """Counts a step; nothing more while there is time left."""
        self._steps += 1
        if self._steps > FREE_STEPS and time.thread_time() > self._until:
            raise TooLong


class _Stride(int):
    """An interval that looks at the clock with every step.

    dateutil looks for a rule's next date up to the year 9999, and can be told neither to stop nor when. But each of its
    steps takes the interval along.
    """

    watch: Watch

    def __radd__(self, other: int) -> int:
        self.watch.check()
        return other + int(self)

    def __mul__(self, other: int) -> int:
        self.watch.check()
        return int(self) * other


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule without its end. `parts` is as dateutil takes them."""

    text: str
    frequency: str
    interval: int
    parts: dict[str, Any]

    def after(self, start: datetime, after: datetime, watch: Watch) -> Iterator[datetime]:
        """The local times later than `after` of this rule with its phase from `start`. Raises TooLong."""
        stride = _Stride(self.interval)
        stride.watch = watch
        parts = _with_defaults(self.frequency, self.parts, start)
        begin = self._skip_to(start, after)
        try:
            for found in rrule.rrule(
                FREQUENCIES[self.frequency], dtstart=begin, interval=stride, **parts
            ):
                watch.check()
                if found > after:
                    yield found
        except (ValueError, IndexError):
            return  # dateutil's way to say that there is none

    def _skip_to(self, start: datetime, after: datetime) -> datetime:
        """The beginning of one of the rule's own periods, shortly before `after`: what lies before need not be gone through."""
        match self.frequency:
            case "YEARLY":
                years = self._whole(after.year - start.year)
                return datetime(start.year + years, 1, 1)  # noqa: DTZ001 - local
            case "MONTHLY":
                months = start.year * 12 + start.month - 1
                months += self._whole(after.year * 12 + after.month - 1 - months)
                return datetime(months // 12, months % 12 + 1, 1)  # noqa: DTZ001 - local
            case "WEEKLY":
                week_start = self.parts.get("wkst", 0)
                begin = _midnight(start) - timedelta(days=(start.weekday() - week_start) % 7)
                return begin + timedelta(weeks=self._whole((after - begin).days // 7))
            case "DAILY":
                begin = _midnight(start)
                return begin + timedelta(days=self._whole((after - begin).days))
            case "HOURLY":
                begin = start.replace(minute=0, second=0)
                return begin + timedelta(hours=self._whole((after - begin) // timedelta(hours=1)))
            case _:
                begin = start.replace(second=0)
                return begin + timedelta(
                    minutes=self._whole((after - begin) // timedelta(minutes=1))
                )

    def _whole(self, periods: int) -> int:
        return max(0, periods // self.interval * self.interval)


def _midnight(local: datetime) -> datetime:
    return local.replace(hour=0, minute=0, second=0)


def _with_defaults(frequency: str, parts: dict[str, Any], start: datetime) -> dict[str, Any]:
    """`parts` and what RFC 5545 takes from the start for those that are missing."""
    full = dict(parts)
    if not full.keys() & {"byweekno", "byyearday", "bymonthday", "byweekday"}:
        if frequency == "YEARLY":
            full.setdefault("bymonth", [start.month])
        if frequency in {"YEARLY", "MONTHLY"}:
            full["bymonthday"] = [start.day]
        if frequency == "WEEKLY":
            full["byweekday"] = [rrule.weekday(start.weekday())]
    if frequency not in {"HOURLY", "MINUTELY"}:
        full.setdefault("byhour", [start.hour])
    if frequency != "MINUTELY":
        full.setdefault("byminute", [start.minute])
    full.setdefault("bysecond", [start.second])
    return full


def parse_rule(text: str) -> tuple[Rule, datetime | None, int | None]:
    """The rule, its UNTIL (without a zone: local; a day: its end) and its COUNT. Raises ValueError, in words for the client."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"is longer than {MAX_TEXT} characters")
    values: dict[str, str] = {}
    given = text.upper().removeprefix("RRULE:")
    if given.startswith(("DTSTART", "EXDATE", "RDATE")) or "\n" in given:
        raise ValueError("is one RRULE only; its start is send_at, its zone timezone")
    for pair in given.split(";"):
        name, is_there, value = pair.partition("=")
        if not is_there or not value:
            raise ValueError(f"{pair[:40]!r} is not NAME=VALUE")
        if name in values:
            raise ValueError(f"has {name[:40]} twice")
        values[name] = value
    until, count = values.pop("UNTIL", None), values.pop("COUNT", None)
    if until and count:
        raise ValueError("has UNTIL and COUNT; one of them is the end")
    kept = ";".join(f"{name}={value}" for name, value in values.items())
    frequency = values.pop("FREQ", "")
    if frequency not in FREQUENCIES:
        raise ValueError(f"FREQ is one of {', '.join(FREQUENCIES)}; {frequency[:40]!r} is not")
    interval = _number("INTERVAL", values.pop("INTERVAL", "1"), 1, 999_999)
    parts = _parts(frequency, values)
    return (
        Rule(kept, frequency, interval, parts),
        _rule_until(until) if until else None,
        _number("COUNT", count, 1, 999_999) if count else None,
    )


def _parts(frequency: str, values: dict[str, str]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name, value in values.items():
        if frequency not in _ALLOWED.get(name, {frequency}):
            raise ValueError(f"{name} does not go with FREQ={frequency}")
        if name == "WKST" and value in DAYS:
            parts["wkst"] = DAYS.index(value)
        elif name == "BYDAY":
            parts["byweekday"] = _days(frequency, values)
        elif name in _LISTS:
            key, least, most, negative = _LISTS[name]
            parts[key] = _numbers(name, value, least, most, negative=negative)
        else:
            raise ValueError(f"{name[:40]!r} is no part of a rule here")
    if len(parts.get("bysecond", ())) > 1:
        raise ValueError("leaves less than a minute between occurrences")
    if len(parts.get("bysetpos", ())) > MAX_POSITIONS:
        raise ValueError(f"BYSETPOS has more than {MAX_POSITIONS} values")
    if "bysetpos" in parts and len(parts.keys() - {"bysetpos", "wkst"}) == 0:
        raise ValueError("BYSETPOS picks out of what another BY... part names; there is none")
    times = len(parts.get("byhour", " ")) * len(parts.get("byminute", " "))
    if frequency not in {"HOURLY", "MINUTELY"} and times > MAX_TIMES:
        raise ValueError(
            f"names more than {MAX_TIMES} times of a day; take FREQ=HOURLY or MINUTELY"
        )
    return parts


def _number(name: str, text: str, least: int, most: int) -> int:
    if not _INT.fullmatch(text) or not least <= int(text) <= most:
        raise ValueError(f"{name} is from {least} to {most}")
    return int(text)


def _numbers(name: str, text: str, least: int, most: int, *, negative: bool) -> list[int]:
    found = []
    for part in text.split(","):
        value = _number(name, part, -most if negative else least, most)
        if abs(value) < least:
            raise ValueError(f"{name} is not 0")
        found.append(value)
    return sorted(set(found))


def _days(frequency: str, values: dict[str, str]) -> list[Any]:
    """BYDAY: `MO`, or `-1FR`, the last Friday of the month, or of the year."""
    most = 53 if frequency == "YEARLY" and "BYMONTH" not in values else 5
    found = set()
    for part in values["BYDAY"].split(","):
        read = _DAY.fullmatch(part)
        if not read:
            raise ValueError(f"{part[:40]!r} is no day of BYDAY")
        nth = int(read[1]) if read[1] else None
        if nth is not None:
            if frequency not in {"YEARLY", "MONTHLY"} or "BYWEEKNO" in values:
                raise ValueError(f"{part} needs FREQ=MONTHLY or YEARLY, without BYWEEKNO")
            if not 1 <= abs(nth) <= most:
                raise ValueError(f"{part}: there are at most {most}")
        found.add((DAYS.index(read[2]), nth))
    if len({nth is None for _, nth in found}) > 1:  # dateutil takes those that are both
        raise ValueError("BYDAY has days with and without a number")
    return [rrule.weekday(day, nth) for day, nth in sorted(found, key=str)]


def _rule_until(text: str) -> datetime:
    if not _UNTIL.fullmatch(text):
        raise ValueError("UNTIL is YYYYMMDD, YYYYMMDDTHHMMSS or YYYYMMDDTHHMMSSZ")
    try:
        day = datetime.strptime(text[:8], "%Y%m%d")  # noqa: DTZ007 - local
        if len(text) == 8:
            return day + timedelta(days=1) - timedelta(microseconds=1)
        until = datetime.strptime(text[:15], "%Y%m%dT%H%M%S")  # noqa: DTZ007 - local
    except (ValueError, OverflowError):
        raise ValueError("UNTIL is no such day or time") from None
    return until.replace(tzinfo=UTC) if text.endswith("Z") else until
