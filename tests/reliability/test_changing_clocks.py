"""Messages that repeat, on the days on which clocks change: real workers live through them, a jump from one to the next."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.conftest import wait_until
from tests.reliability.clock import Clock
from tests.reliability.rig import Rig
from tests.test_recurrence import CHANGES

DAY = timedelta(days=1)
AHEAD_S = 4
"""Seconds before an occurrence to which the clock jumps."""
LATE_S = 30
"""After so many a message that a jump left behind is not sent: nobody lived through its moment."""


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def occurrences(day: str, at: str, zone: str, meant: str) -> list[datetime]:
    """The day before, the day itself, the day after."""
    wall = datetime.fromisoformat(f"{day} {at}")
    before, after = ((wall + n * DAY).replace(tzinfo=ZoneInfo(zone)) for n in (-1, 1))
    return [before.astimezone(UTC), moment(meant), after.astimezone(UTC)]


def daily(schedules: Sequence[tuple[str, str]], at: datetime) -> Iterator[int]:
    """Those of (zone, local time) that are due at that moment, by the zone's own clock."""
    for n, (zone, local) in enumerate(schedules):
        there = at.astimezone(ZoneInfo(zone))
        if f"{there:%H:%M}" == local and there.fold == 0:
            yield n


@pytest.fixture
def clock(library: Path, tmp_path: Path) -> Clock:
    return Clock(library, tmp_path / "clock")


@pytest.fixture
def fleet_env(fleet_env: dict[str, str], clock: Clock) -> dict[str, str]:
    """One clock for all of them, Redis too: a day passes when we say so."""
    return {**fleet_env, **clock.env, "DURABILITY": "none"}


@pytest.mark.minutes
def test_each_occurrence_is_sent_once_at_its_local_hour_whichever_way_clocks_change(
    request: pytest.FixtureRequest, clock: Clock, long: bool
) -> None:
    """Clocks forward and back in one zone (long: in six), 2027: the day before, the day itself, and the day after.

    Two workers, each ended or killed and started again between any two days.
    """
    rows = [row for row in CHANGES if row[1].startswith("2027")]
    rows = rows if long else rows[:2]
    schedules = list(dict.fromkeys((zone, local) for zone, _, local, _ in rows))
    visits = sorted(
        (at, schedules.index((zone, local)))
        for zone, day, local, meant in rows
        for at in occurrences(day, local, zone, meant)
    )
    # Somebody else's moment may be one of theirs, too, on an ordinary day.
    expected = Counter({*visits, *((at, n) for at, _ in visits for n in daily(schedules, at))})
    shift_s = 0.0

    def jump(to: datetime) -> None:
        nonlocal shift_s
        shift_s = int(to.timestamp() - time.time())
        clock.set(int(shift_s))

    jump(visits[0][0] - DAY / 2)
    rig: Rig = request.getfixturevalue("rig")
    workers = rig.start(workers=2)
    for n, (zone, local) in enumerate(schedules):
        body = {
            "body": f"daily at {local}",
            "recipients": [{"uuid": str(10**7 + n), "service": "telegram"}],
            "late_s": LATE_S,
        }
        hour, minute = local.split(":")
        repeat = {"cron": f"{int(minute)} {int(hour)} * * *"}
        rig.service.schedules.create("", body, repeat, ZoneInfo(zone))
    sent: list[tuple[datetime, int]] = []
    for count, (at, _) in enumerate(visits):
        jump(at - timedelta(seconds=AHEAD_S))
        seen = len(rig.messenger.calls)
        wait_until(lambda seen=seen: len(rig.messenger.calls) > seen, AHEAD_S + 10, f"{at}")
        time.sleep(0.3)  # for one too many
        for call in rig.messenger.calls[seen:]:
            came_at = datetime.fromtimestamp(call.at + shift_s, UTC)
            off = [abs((came_at - planned).total_seconds()) for planned, _ in visits]
            nearest = visits[off.index(min(off))][0]
            assert 0 <= (came_at - nearest).total_seconds() < 3, (came_at, nearest)
            sent.append((nearest, int(call.to) - 10**7))
        if count % 2:
            rig.fleet.kill(workers[0])
        else:
            rig.fleet.end(workers[1])
            workers[1] = rig.fleet.start("worker")
        rig.fleet.wait_ready()
    print(
        f"\n{len(visits)} occurrences of {len(schedules)} schedules in {len({zone for zone, _ in schedules})} zones: {len(sent)} sent"
    )
    assert Counter(sent) == expected
