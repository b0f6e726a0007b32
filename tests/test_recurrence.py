"""When again: cron lines and rules in a time zone, over changes of clocks, and never for long. No clock but the argument."""

import gc
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postrider.errors import InvalidRequest
from postrider.recurrence import CPU_S, Recurrence, next_after, parse, upcoming

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
REQUEST_CPU_S = 0.2


@contextmanager
def within_a_request() -> Iterator[None]:
    """What happens within takes no more of the processor than a request may."""
    gc.disable()  # what the other tests have left is looked through at no request's expense
    try:
        started = time.thread_time()
        yield
        assert time.thread_time() - started <= REQUEST_CPU_S, f"{CPU_S} s for each part"
    finally:
        gc.enable()


CHANGES = [
    # zone, day, local time, the moment in UTC that is meant
    ("Europe/Berlin", "2027-03-28", "02:30", "2027-03-28 01:00"),
    ("Europe/Berlin", "2027-10-31", "02:30", "2027-10-31 00:30"),
    ("Europe/Berlin", "2028-03-26", "02:30", "2028-03-26 01:00"),
    ("Europe/Berlin", "2028-10-29", "02:30", "2028-10-29 00:30"),
    ("America/New_York", "2027-03-14", "02:30", "2027-03-14 07:00"),
    ("America/New_York", "2027-11-07", "01:30", "2027-11-07 05:30"),
    ("America/New_York", "2028-03-12", "02:30", "2028-03-12 07:00"),
    ("America/New_York", "2028-11-05", "01:30", "2028-11-05 05:30"),
    ("Australia/Lord_Howe", "2027-10-03", "02:15", "2027-10-02 15:30"),
    ("Australia/Lord_Howe", "2027-04-04", "01:45", "2027-04-03 14:45"),
    ("Australia/Lord_Howe", "2028-10-01", "02:15", "2028-09-30 15:30"),
    ("Australia/Lord_Howe", "2028-04-02", "01:45", "2028-04-01 14:45"),
    ("America/Santiago", "2027-09-05", "00:30", "2027-09-05 04:00"),
    ("America/Santiago", "2027-04-03", "23:30", "2027-04-04 02:30"),
    ("America/Santiago", "2028-09-03", "00:30", "2028-09-03 04:00"),
    ("America/Santiago", "2028-04-01", "23:30", "2028-04-02 02:30"),
    ("Pacific/Auckland", "2027-09-26", "02:30", "2027-09-25 14:00"),
    ("Pacific/Auckland", "2027-04-04", "02:30", "2027-04-03 13:30"),
    ("Pacific/Auckland", "2028-09-24", "02:30", "2028-09-23 14:00"),
    ("Pacific/Auckland", "2028-04-02", "02:30", "2028-04-01 13:30"),
    ("America/Havana", "2027-03-14", "00:30", "2027-03-14 05:00"),
    ("America/Havana", "2027-11-07", "00:30", "2027-11-07 04:30"),
    ("America/Havana", "2028-03-12", "00:30", "2028-03-12 05:00"),
    ("America/Havana", "2028-11-05", "00:30", "2028-11-05 04:30"),
]
ZONES = sorted({zone for zone, *_ in CHANGES})


def daily(hour: int, minute: int) -> list[dict[str, Any]]:
    """The same recurrence in both languages."""
    return [
        {"cron": f"{minute} {hour} * * *"},
        {"rrule": f"FREQ=DAILY;BYHOUR={hour};BYMINUTE={minute}"},
    ]


def read(repeat: dict[str, Any], zone: str = "Europe/Berlin", start: Any = None) -> Recurrence:
    return parse(repeat, ZoneInfo(zone), start, NOW)


def locals_of(repeat: dict[str, Any], n: int = 10, **more: Any) -> list[str]:
    return [f"{o.local:%Y-%m-%d %H:%M}" for o in upcoming(read(repeat, **more), NOW, n)]


# -- changes of clocks


@pytest.mark.parametrize(("zone", "day", "local", "meant"), CHANGES)
@pytest.mark.parametrize("language", [0, 1])
def test_a_time_that_the_clocks_skip_or_repeat_happens_once(
    zone: str, day: str, local: str, meant: str, language: int
) -> None:
    hour, minute = map(int, local.split(":"))
    recurrence = read(daily(hour, minute)[language], zone)
    noon_before = datetime.fromisoformat(f"{day} {local}:00").replace(
        tzinfo=ZoneInfo(zone)
    ) - timedelta(hours=20)
    first, second = upcoming(recurrence, noon_before, 2)
    assert first.at == datetime.fromisoformat(f"{meant}:00+00:00")
    assert first.local == datetime.fromisoformat(f"{day} {local}")
    assert (second.at - first.at) >= timedelta(hours=22.5)
    assert second.at.astimezone(ZoneInfo(zone)).strftime("%H:%M") == local


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(("hour", "minute"), [(2, 30), (0, 30), (1, 45), (2, 15), (9, 0), (23, 30)])
@pytest.mark.parametrize("language", [0, 1])
def test_three_years_of_days_have_one_each_at_the_right_local_hour(
    zone: str, hour: int, minute: int, language: int
) -> None:
    days = 3 * 365
    found = upcoming(read(daily(hour, minute)[language], zone), NOW, days, cpu_s=10)
    first = found[0].local.date()
    assert [o.local.date() for o in found] == [first + timedelta(days=n) for n in range(days)]
    assert all(a.at < b.at for a, b in itertools.pairwise(found))
    off = [o for o in found if o.at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) != o.local]
    for moved in off:  # only what the clocks skip is shown otherwise, and then at the skip itself
        here = moved.at.astimezone(ZoneInfo(zone))
        before = (moved.at - timedelta(seconds=1)).astimezone(ZoneInfo(zone))
        assert here.utcoffset() != before.utcoffset()
        assert before.replace(tzinfo=None) < moved.local < here.replace(tzinfo=None)
    assert len(off) <= 3


def test_occurrences_that_a_skip_moves_onto_one_moment_are_one() -> None:
    before = datetime(2027, 3, 28, 0, 15, tzinfo=UTC)
    found = [o.at for o in upcoming(read({"cron": "*/30 * * * *"}), before, 3)]
    assert found == [before.replace(hour=h, minute=m) for h, m in [(0, 30), (1, 0), (1, 30)]]


def test_the_second_time_the_clocks_show_it_counts_for_nothing() -> None:
    inside = datetime(2027, 10, 31, 1, 10, tzinfo=UTC)  # 02:10, the second one
    assert next_after(read({"cron": "*/30 2 * * *"}), inside).at == datetime(  # type: ignore[union-attr]
        2027, 11, 1, 1, 0, tzinfo=UTC
    )


@given(
    after=st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001
    zone=st.sampled_from(ZONES),
    repeat=st.sampled_from(
        [
            *daily(2, 30),
            {"cron": "*/7 * * * *"},
            {"cron": "15 1,2 * * 0"},
            {"rrule": "FREQ=HOURLY;INTERVAL=5"},
            {"rrule": "FREQ=WEEKLY;INTERVAL=2;BYDAY=SU,MO;BYHOUR=2"},
            {"rrule": "FREQ=MONTHLY;BYDAY=-1SU;BYHOUR=1,2"},
        ]
    ),
)
@settings(deadline=None)
def test_going_on_from_each_gives_the_same_as_all_at_once(
    after: datetime, zone: str, repeat: dict[str, Any]
) -> None:
    recurrence, at = read(repeat, zone), after.replace(tzinfo=UTC)
    together = upcoming(recurrence, at, 5)
    alone = []
    for _ in range(5):
        found = next_after(recurrence, at)
        assert found
        assert found.at > at
        alone.append(found)
        at = found.at
    assert alone == together


# -- rules


@pytest.mark.parametrize(
    ("repeat", "first"),
    [
        ({"cron": "0 9 * * 1-5"}, ["2026-11-23 09:00", "2026-11-24 09:00"]),
        ({"cron": "0 9 L * *"}, ["2026-11-30 09:00", "2026-12-31 09:00"]),
        ({"cron": "0 9 * * MON#1"}, ["2026-12-07 09:00", "2027-01-04 09:00"]),
        ({"cron": "0 0 29 2 *"}, ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ({"rrule": "FREQ=DAILY"}, ["2026-11-22 11:00", "2026-11-23 11:00"]),
        ({"rrule": "RRULE:FREQ=WEEKLY;BYDAY=MO"}, ["2026-11-23 11:00", "2026-11-30 11:00"]),
        ({"rrule": "freq=monthly;byday=-1fr"}, ["2026-11-27 11:00", "2026-12-25 11:00"]),
        ({"rrule": "FREQ=MONTHLY;BYMONTHDAY=31"}, ["2026-12-31 11:00", "2027-01-31 11:00"]),
        ({"rrule": "FREQ=YEARLY;INTERVAL=2"}, ["2028-11-21 11:00", "2030-11-21 11:00"]),
        ({"rrule": "FREQ=MINUTELY;INTERVAL=90"}, ["2026-11-21 12:30", "2026-11-21 14:00"]),
        (
            {"rrule": "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1"},
            ["2026-11-30 11:00", "2026-12-31 11:00"],
        ),
    ],
)
def test_what_a_recurrence_names(repeat: dict[str, Any], first: list[str]) -> None:
    assert locals_of(repeat, 2) == first


def test_the_first_is_at_the_start_or_later() -> None:
    start = datetime(2027, 1, 4, 8, 30, tzinfo=UTC)
    assert locals_of({"rrule": "FREQ=WEEKLY"}, 2, start=start) == [
        "2027-01-04 09:30",
        "2027-01-11 09:30",
    ]
    assert locals_of({"cron": "30 9 * * *"}, 1, start=start) == ["2027-01-04 09:30"]


@pytest.mark.parametrize(
    ("until", "last"),
    [
        ("2026-11-23", "2026-11-23 11:00"),
        ("2026-11-23 10:59:59", "2026-11-22 11:00"),
        ("2026-11-23T11:00:00+01:00", "2026-11-23 11:00"),
        ("2026-11-23T09:59:00Z", "2026-11-22 11:00"),
    ],
)
def test_until_is_the_last_time_that_counts(until: str, last: str) -> None:
    assert locals_of({"rrule": "FREQ=DAILY", "until": until})[-1] == last


def test_a_rule_may_name_its_own_end() -> None:
    assert locals_of({"rrule": "FREQ=DAILY;UNTIL=20261124T095900Z"})[-1] == "2026-11-23 11:00"
    assert locals_of({"rrule": "FREQ=DAILY;UNTIL=20261124"})[-1] == "2026-11-24 11:00"
    assert read({"rrule": "FREQ=DAILY;COUNT=3"}).count == 3


@pytest.mark.parametrize("years", [0, 1, 7, 15])
@pytest.mark.parametrize(
    ("rule", "phase"),
    [
        ("FREQ=MINUTELY;INTERVAL=7", timedelta(minutes=7)),
        ("FREQ=HOURLY;INTERVAL=5;BYMINUTE=3,33", timedelta(hours=5)),
        ("FREQ=DAILY;INTERVAL=3", None),
        ("FREQ=WEEKLY;INTERVAL=3;WKST=SU;BYDAY=SU,TU", None),
        ("FREQ=MONTHLY;INTERVAL=5;BYMONTHDAY=31,-3", None),
        ("FREQ=YEARLY;INTERVAL=4;BYMONTH=2;BYMONTHDAY=29", None),
    ],
)
def test_a_rule_keeps_its_phase_however_long_ago_it_began(
    rule: str, phase: timedelta | None, years: int
) -> None:
    """Against dateutil, which goes through all of it; UTC has no changes of clocks.

    Where it would take it minutes, it begins later by as many whole phases as there are until a day before.
    """
    from dateutil.rrule import rrulestr  # noqa: PLC0415 - the oracle of this one test

    start = datetime(2024, 2, 29, 9, 7)  # noqa: DTZ001
    after = start + timedelta(days=365.25 * years, minutes=1)
    begins = start
    if phase and years:
        begins += (after - timedelta(days=1) - start) // phase * phase
    recurrence = Recurrence.from_fields(
        {"zone": "UTC", "start": start.isoformat(), "cron": None, "rrule": rule, "until": None}
        | {"count": None}
    )
    assert next_after(recurrence, after.replace(tzinfo=UTC)).local == rrulestr(  # type: ignore[union-attr]
        rule, dtstart=begins
    ).after(after)


def test_a_recurrence_is_the_same_after_it_was_stored() -> None:
    for repeat in ({"cron": "0 9 * * *", "count": 4}, {"rrule": "FREQ=DAILY;UNTIL=20301231"}):
        recurrence = read(repeat)
        fields = json.loads(json.dumps(recurrence.to_fields()))
        assert Recurrence.from_fields(fields) == recurrence


# -- refused, and never for long

HOURS = ",".join(map(str, range(24)))
POSITIONS = ",".join(map(str, range(1, 367)))


UNREASONABLE: list[tuple[dict[str, Any], str, str]] = [
    ({}, "repeat", "either cron or rrule"),
    ({"cron": "0 9 * * *", "rrule": "FREQ=DAILY"}, "repeat", "either cron or rrule"),
    ({"cron": "* * * * * *"}, "repeat.cron", "five fields"),
    ({"cron": "* * * *"}, "repeat.cron", "five fields"),
    ({"cron": "@daily"}, "repeat.cron", "five fields"),
    ({"cron": "0  9 * * *"}, "repeat.cron", "five fields"),
    ({"cron": "60 * * * *"}, "repeat.cron", "out of range"),
    ({"cron": "* 24 * * *"}, "repeat.cron", "out of range"),
    ({"cron": "*/0 * * * *"}, "repeat.cron", "cannot be read"),
    ({"cron": "R R * * *"}, "repeat.cron", "no field"),
    ({"cron": "H H * * *"}, "repeat.cron", "no field"),
    ({"cron": "0 9-9 * * *"}, "repeat.cron", "write 9 instead"),
    ({"cron": "٣ 9 * * *"}, "repeat.cron", "no field"),
    ({"cron": "0 9 32 * *"}, "repeat.cron", "out of range"),
    ({"cron": "0 0 31 2 *"}, "repeat.cron", "no moment from now on, within 10 years"),
    ({"cron": "1," * 10_000}, "repeat.cron", "longer than"),
    ({"cron": "9" * 300}, "repeat.cron", "longer than"),
    ({"cron": "0 9 * * *", "count": 0}, "repeat.count", "from 1"),
    ({"cron": "0 9 * * *", "until": "soon"}, "repeat.until", "YYYY-MM-DD"),
    ({"cron": "0 9 * * *", "until": "2026-02-30"}, "repeat.until", "YYYY-MM-DD"),
    ({"cron": "0 9 * * *", "until": "2026-11-01"}, "repeat.until", "no moment"),
    ({"rrule": "FREQ=SECONDLY"}, "repeat.rrule", "FREQ is one of"),
    ({"rrule": "FREQ=SECONDLY;COUNT=3155760000"}, "repeat.rrule", "COUNT|FREQ"),
    ({"rrule": "FREQ=MINUTELY;BYSECOND=0,30"}, "repeat.rrule", "less than a minute"),
    ({"rrule": "BYDAY=MO"}, "repeat.rrule", "FREQ is one of"),
    ({"rrule": "FREQ"}, "repeat.rrule", "NAME=VALUE"),
    ({"rrule": "FREQ=DAILY;FREQ=DAILY"}, "repeat.rrule", "twice"),
    ({"rrule": "FREQ=DAILY;INTERVAL=0"}, "repeat.rrule", "INTERVAL is from 1"),
    ({"rrule": "FREQ=DAILY;INTERVAL=-1"}, "repeat.rrule", "INTERVAL is from 1"),
    ({"rrule": "FREQ=DAILY;BYHOUR=24"}, "repeat.rrule", "BYHOUR is from 0 to 23"),
    ({"rrule": "FREQ=DAILY;BYMONTHDAY=0"}, "repeat.rrule", "is not 0"),
    ({"rrule": "FREQ=DAILY;BYEASTER=1"}, "repeat.rrule", "no part of a rule"),
    ({"rrule": "FREQ=DAILY;__CLASS__=1"}, "repeat.rrule", "no part of a rule"),
    ({"rrule": "FREQ=DAILY;BYDAY=2MO"}, "repeat.rrule", "needs FREQ=MONTHLY"),
    ({"rrule": "FREQ=MONTHLY;BYDAY=6MO"}, "repeat.rrule", "at most 5"),
    ({"rrule": "FREQ=MONTHLY;BYDAY=MO,1TU"}, "repeat.rrule", "with and without a number"),
    ({"rrule": "FREQ=MONTHLY;BYWEEKNO=3"}, "repeat.rrule", "does not go with"),
    ({"rrule": "FREQ=DAILY;BYSETPOS=1"}, "repeat.rrule", "there is none"),
    ({"rrule": "FREQ=DAILY;UNTIL=20270101;COUNT=2"}, "repeat.rrule", "UNTIL and COUNT"),
    ({"rrule": "FREQ=DAILY;COUNT=2", "count": 2}, "repeat", "twice"),
    ({"rrule": "FREQ=DAILY;UNTIL=20270230"}, "repeat.rrule", "no such day"),
    ({"rrule": "DTSTART:20270101T000000\nRRULE:FREQ=DAILY"}, "repeat.rrule", "send_at"),
    ({"rrule": "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=31"}, "repeat.rrule", "never comes"),
    ({"rrule": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=31"}, "repeat.rrule", "never comes"),
    ({"rrule": "FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=31"}, "repeat.rrule", "never comes"),
    ({"rrule": "FREQ=MINUTELY;BYMONTH=2;BYMONTHDAY=31"}, "repeat.rrule", "never comes"),
    ({"rrule": "FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=31"}, "repeat.rrule", "never comes"),
    ({"rrule": "FREQ=WEEKLY;BYMONTH=2;BYSETPOS=300"}, "repeat.rrule", "never comes"),
    ({"rrule": "FREQ=DAILY;BYSETPOS=300;BYHOUR=1,2"}, "repeat.rrule", "never comes"),
    ({"rrule": "FREQ=MINUTELY;BYSETPOS=2;BYHOUR=3"}, "repeat.rrule", "never comes"),
    ({"rrule": "FREQ=YEARLY;BYDAY=MO;BYSETPOS=" + POSITIONS[:400]}, "repeat.rrule", "BYSETPOS"),
    ({"rrule": f"FREQ=DAILY;BYHOUR={HOURS};BYMINUTE=0,1,2,3,4"}, "repeat.rrule", "times of a"),
    ({"rrule": "FREQ=DAILY;BYMONTHDAY=" + "1," * 100_000}, "repeat.rrule", "longer than"),
]


@pytest.mark.parametrize(("repeat", "field", "says"), UNREASONABLE)
def test_what_cannot_be_worked_out_is_refused_in_words(
    repeat: dict[str, Any], field: str, says: str
) -> None:
    with within_a_request(), pytest.raises(InvalidRequest, match=says) as refused:
        read(repeat)
    assert refused.value.field == field


HEAVY = [
    {"rrule": "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=29"},
    {"rrule": "FREQ=MINUTELY;BYHOUR=3;BYMONTH=2;BYMONTHDAY=29"},
    {"rrule": "FREQ=MINUTELY;INTERVAL=1439;BYMINUTE=7;BYHOUR=3;BYMONTH=2"},
    {"rrule": f"FREQ=YEARLY;BYDAY=MO,TU,WE,TH,FR,SA,SU;BYHOUR={HOURS};BYMINUTE=0,15,30,45"},
    {
        "rrule": f"FREQ=YEARLY;BYDAY=MO,TU,WE,TH,FR,SA,SU;BYHOUR={HOURS};BYMINUTE=0,15,30,45;"
        f"BYSETPOS={','.join(str(-n) for n in range(336, 367))}"
    },
    {"rrule": "FREQ=YEARLY;BYWEEKNO=53;BYDAY=MO;BYMONTH=1;INTERVAL=3"},
    {"cron": "* * 31 2,4,6,9,11 0#5,1#5,2#5,3#5,4#5,5#5,6#5"},
    {"cron": ",".join(map(str, range(60))) + " * 29 2 1#5"},
]


@pytest.mark.parametrize("repeat", HEAVY, ids=str)
def test_the_heaviest_take_no_longer_than_a_request_may(repeat: dict[str, Any]) -> None:
    with within_a_request(), suppress(InvalidRequest):
        upcoming(read(repeat), NOW, 10)


_NAMES = ["FREQ", "INTERVAL", "BYMONTH", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYDAY", "WKST"]
_NAMES += ["BYHOUR", "BYMINUTE", "BYSECOND", "BYSETPOS", "COUNT", "UNTIL"]
_VALUES = ["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "MO", "-1FR", "5SU,-53TU"]
_VALUES += ["0", "1", "-1", "2,29", "30", "53", "59", "365", "-366", "366", "999999", "20301231"]
RULES = st.lists(st.tuples(st.sampled_from(_NAMES), st.sampled_from(_VALUES)), min_size=1).map(
    lambda pairs: ";".join(f"{name}={value}" for name, value in dict(pairs).items())
)
CRONS = st.lists(
    st.text("0123456789*/,-lL#MONjan", min_size=1, max_size=6), min_size=5, max_size=5
).map(" ".join)


@given(
    repeat=st.one_of(
        st.builds(lambda text: {"rrule": text}, RULES | st.text(max_size=60)),
        st.builds(lambda text: {"cron": text}, CRONS | st.text(max_size=60)),
    ),
    year=st.integers(2026, 2035),
)
@settings(max_examples=300, deadline=None)
def test_any_input_is_taken_or_refused_in_time(repeat: dict[str, Any], year: int) -> None:
    start = datetime.combine(date(year, 12, 31), datetime.min.time(), UTC)
    found = []
    with within_a_request(), suppress(InvalidRequest):
        found = upcoming(parse(repeat, BERLIN, start, NOW), NOW, 10)
    assert all(b.at - a.at >= timedelta(minutes=1) for a, b in itertools.pairwise(found))
