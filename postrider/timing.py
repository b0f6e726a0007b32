"""'When?': moments read from a client's words, clocks that change, and the waits between tries. Pure functions of `now`."""

import math
import random
import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MAX_WAIT_S = 3600.0
"""No wait of our own choosing is longer."""
LOCAL = re.compile(r"\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?", re.ASCII)
WITH_OFFSET = re.compile(LOCAL.pattern + r"(?:Z|[+-]\d{2}:\d{2})", re.ASCII)


def zone_named(name: str) -> ZoneInfo:
    """The IANA zone of this name. Raises ValueError, in words for the client."""
    try:
        return ZoneInfo(name)
    except (
        ZoneInfoNotFoundError,
        ValueError,
        OSError,
    ):  # OSError: a folder, or a name too long for one
        raise ValueError(f"{name[:60]!r} is no IANA zone; one is Europe/Berlin") from None


def moment_of(
    now: datetime, send_at: str | None, send_in_s: float | None, zone: ZoneInfo
) -> datetime | None:
    """The moment, aware UTC, that a client means: at `send_at`, or `send_in_s` seconds from `now`; None: at once.

    `zone` is the recipient's if it has one of its own, else the message's, else the service's: a local `send_at` is read
    in it. Raises ValueError, in words for the client.
    """
    if send_in_s is None:
        return None if send_at is None else parse_moment(send_at, zone)
    if send_at is not None:
        raise ValueError("give either send_at or send_in_s")
    if not 0 <= send_in_s < math.inf:
        raise ValueError("send_in_s is a number of seconds, 0 or more")
    try:
        return now + timedelta(seconds=send_in_s)
    except OverflowError:
        raise ValueError("send_in_s leads behind the year 9999") from None


def parse_moment(text: str, zone: ZoneInfo) -> datetime:
    """The moment, aware UTC, that `text` names: local time in `zone`, or ISO 8601 with an offset.

    Raises ValueError, in words for the client: wrong format, no such day, or a local time that the clocks skip or
    repeat.
    """
    if WITH_OFFSET.fullmatch(text):
        try:
            return _to_utc(datetime.fromisoformat(text))
        except ValueError as error:
            if "timedelta" in str(error):
                raise ValueError("its offset must be less than 24 hours") from None
            raise
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


def first_valid(local: datetime, zone: ZoneInfo) -> datetime:
    """The moment, aware UTC, at which the clocks in `zone` first show `local`, or first show a later time.

    A time that they repeat happens at the first of the two; one that they skip, at the moment of the skip.
    """
    first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    before, after = first.utcoffset() or timedelta(), second.utcoffset() or timedelta()
    if before >= after:  # all but a skip, PEP 495
        return _to_utc(first)
    low, high = _to_utc(second), _to_utc(first)  # the clocks change between them
    while high - low > timedelta(seconds=1):
        middle = (low + (high - low) / 2).replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


def utc_and_local(moment: datetime, zone: ZoneInfo) -> dict[str, str]:
    """`moment` both ways, as answers show it: ISO 8601 in UTC and with the offset of `zone`."""
    utc = moment.astimezone(UTC)
    return {
        "utc": utc.isoformat().replace("+00:00", "Z"),
        "local": moment.astimezone(zone).isoformat(),
    }


def in_zone(moment: datetime, zone: ZoneInfo) -> str:
    """`moment` as the lists show it: `YYYY-MM-DD HH:MM:SS` in `zone`."""
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M:%S}"


def backoff_s(tries: int, interval_s: float, rng: random.Random | None = None) -> float:
    """Seconds to wait after `tries` failed tries (1 or more): doubling from `interval_s`, at most an hour.

    Up to a quarter is taken off at random, so that what failed together does not come back together.
    """
    wait_s = min(interval_s * math.pow(2, min(tries, 30) - 1), MAX_WAIT_S)
    return wait_s * (1 - (rng or random).uniform(0, 0.25))
