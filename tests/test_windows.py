"""Windows: when a delivery may go. No clock but the argument."""

import json
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from postrider.errors import InvalidRequest
from postrider.windows import Window, WindowIn, read

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago"]
ZONES += ["Pacific/Auckland", "America/Havana", "Africa/Casablanca", "Pacific/Apia", "UTC"]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(**fields: object) -> Window:
    return Window.asked(WindowIn.model_validate(fields))


@pytest.mark.parametrize(
    ("fields", "now", "opens"),
    [
        ({"from": "09:00", "to": "20:00"}, "2026-11-23 12:00", "2026-11-23 12:00"),
        ({"from": "09:00", "to": "20:00"}, "2026-11-23 07:59:59", "2026-11-23 08:00"),
        ({"from": "09:00", "to": "20:00"}, "2026-11-23 08:00", "2026-11-23 08:00"),
        ({"from": "09:00", "to": "20:00"}, "2026-11-23 19:00", "2026-11-24 08:00"),  # closed
        ({"from": "09:00", "to": "20:00", "days": [1]}, "2026-11-24 10:00", "2026-11-30 08:00"),
        # over midnight: the day is the one on which it opens
        ({"from": "22:00", "to": "06:00", "days": [1]}, "2026-11-24 03:00", "2026-11-24 03:00"),
        ({"from": "22:00", "to": "06:00", "days": [1]}, "2026-11-23 03:00", "2026-11-23 21:00"),
        ({"from": "22:00", "to": "24:00"}, "2026-11-23 22:59:59", "2026-11-23 22:59:59"),
        ({"from": "22:00", "to": "24:00"}, "2026-11-23 23:00", "2026-11-24 21:00"),
        # whole days
        ({"from": "00:00", "to": "24:00", "days": [6, 7]}, "2026-11-23 12:00", "2026-11-27 23:00"),
        ({"from": "00:00", "to": "24:00", "days": [6, 7]}, "2026-11-29 22:59", "2026-11-29 22:59"),
        # its own zone
        (
            {"from": "09:00", "to": "20:00", "timezone": "Asia/Tokyo"},
            "2026-11-23 12:00",
            "2026-11-24 00:00",
        ),
        # the clocks skip the opening, then the whole window, and set back over the opening
        ({"from": "02:30", "to": "05:00"}, "2027-03-28 00:00", "2027-03-28 01:00"),
        ({"from": "02:10", "to": "02:50"}, "2027-03-28 00:00", "2027-03-29 00:10"),
        ({"from": "02:10", "to": "02:50", "days": [7]}, "2027-03-28 00:00", "2027-04-04 00:10"),
        ({"from": "02:10", "to": "02:50"}, "2027-10-31 00:00", "2027-10-31 00:10"),
        ({"from": "02:10", "to": "02:50"}, "2027-10-31 00:55", "2027-10-31 01:10"),
    ],
)
def test_when_it_opens(fields: dict[str, object], now: str, opens: str) -> None:
    assert window(**fields).opens_at(utc(now), BERLIN) == utc(opens)


WINDOWS = st.builds(
    Window,
    st.times().map(lambda t: t.replace(second=0, microsecond=0)),
    st.times().map(lambda t: t.replace(second=0, microsecond=0)),
    st.frozensets(st.integers(1, 7), min_size=1),
    st.none() | st.sampled_from(ZONES),
).filter(lambda w: w.opens != w.closes)
MOMENTS = st.datetimes(datetime(2011, 12, 1), datetime(2037, 1, 1)).map(  # noqa: DTZ001
    lambda t: t.replace(tzinfo=UTC)
)


@given(it=WINDOWS, now=MOMENTS, zone=st.sampled_from(ZONES).map(ZoneInfo))
@settings(max_examples=500, deadline=None)
def test_it_opens_at_a_moment_inside_and_never_before_now(
    it: Window, now: datetime, zone: ZoneInfo
) -> None:
    opens = it.opens_at(now, zone)
    shown = opens.astimezone(ZoneInfo(it.zone) if it.zone else zone)
    at, day = shown.time(), shown.isoweekday()
    yesterday = (shown - timedelta(days=1)).isoweekday()
    if it.opens < it.closes:
        assert it.opens <= at < it.closes
        assert day in it.days
    else:
        assert (at >= it.opens and day in it.days) or (at < it.closes and yesterday in it.days)
    assert opens >= now
    assert it.opens_at(opens, zone) == opens


@given(it=WINDOWS, now=MOMENTS)
@settings(max_examples=200, deadline=None)
def test_nothing_between_now_and_then_was_inside(it: Window, now: datetime) -> None:
    utc_zone = ZoneInfo("UTC")
    plain = Window(it.opens, it.closes, it.days)
    opens = plain.opens_at(now, utc_zone)
    probe = now
    while probe < opens:
        assert not plain.shows(probe)
        probe += timedelta(minutes=13)


@given(it=WINDOWS)
def test_a_window_is_the_same_after_it_was_stored(it: Window) -> None:
    assert read(json.dumps(it.to_fields())) == it


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"from": "09:00", "to": "09:00"}, "window"),
        ({"from": "00:00", "to": "00:00"}, "window"),
        ({"from": "09:00", "to": "20:00", "timezone": "Mars/Olympus"}, "window.timezone"),
        ({"from": "09:00", "to": "20:00", "timezone": "../etc"}, "window.timezone"),
        ({"from": "09:00", "to": "20:00", "timezone": "x" * 9_999}, "window.timezone"),
    ],
)
def test_what_never_opens_or_never_closes_is_refused(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        window(**fields)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "fields",
    [
        {"from": "9:00", "to": "20:00"},
        {"from": "24:00", "to": "20:00"},
        {"from": "09:00", "to": "25:00"},
        {"from": "09:00"},
        {"from": "09:00", "to": "20:00", "days": []},
        {"from": "09:00", "to": "20:00", "days": [0]},
        {"from": "09:00", "to": "20:00", "days": ["1"]},
        {"from": "09:00", "to": "20:00", "day": [1]},
    ],
)
def test_what_is_no_window_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WindowIn.model_validate(fields)


def test_a_whole_day_is_written_as_it_was_given() -> None:
    whole = Window(time(0), time(0))
    assert whole.to_fields() == {"from": "00:00", "to": "24:00"}
