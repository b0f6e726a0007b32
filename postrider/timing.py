"""'When?': moments read from a client's words, and the waits between tries. Pure functions of `now`."""

import math
import random
import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

MAX_WAIT_S = 3600.0
"""No wait of our own choosing is longer."""
LOCAL = re.compile(r"\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?", re.ASCII)
WITH_OFFSET = re.compile(LOCAL.pattern + r"(?:Z|[+-]\d{2}:\d{2})", re.ASCII)


def parse_moment(text: str, zone: ZoneInfo) -> datetime:
    """The moment, aware UTC, that `text` names: local time in `zone`, or ISO 8601 with an offset.

    Raises ValueError, in words for the client: wrong format, no such day, or a local time that the clocks skip or
    repeat.
    """
    if WITH_OFFSET.fullmatch(text):
        return _to_utc(datetime.fromisoformat(text))
    if not LOCAL.fullmatch(text):
        raise ValueError(
            "write it as YYYY-MM-DD HH:MM:SS, or as ISO 8601 with an offset, for example 2030-10-05T13:48:00+02:00"
        )
    return _to_utc(_the_only(datetime.fromisoformat(text), zone))


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999") from None


def _the_only(local: datetime, zone: ZoneInfo) -> datetime:
    """`local` in `zone`; refused when the clocks there skip or repeat it (PEP 495: both folds tell)."""
    first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    exists = _to_utc(first).astimezone(zone).replace(tzinfo=None) == local
    what = "happens twice" if exists else "does not exist"
    offsets = " or ".join(f"{t:%z}"[:3] + ":" + f"{t:%z}"[3:5] for t in (first, second))
    raise ValueError(
        f"{local.isoformat(' ')} {what} in {zone.key}, where the clocks change; add an offset: {offsets}"
    )


def in_zone(moment: datetime, zone: ZoneInfo) -> str:
    """`moment` as the lists show it: `YYYY-MM-DD HH:MM:SS` in `zone`."""
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M:%S}"


def backoff_s(tries: int, interval_s: float, rng: random.Random | None = None) -> float:
    """Seconds to wait after `tries` failed tries (1 or more): doubling from `interval_s`, at most an hour.

    Up to a quarter is taken off at random, so that what failed together does not come back together.
    """
    wait_s = min(interval_s * math.pow(2, min(tries, 30) - 1), MAX_WAIT_S)
    return wait_s * (1 - (rng or random).uniform(0, 0.25))
