"""When: reading moments, gaps and folds, waits between tries. No clock but the argument."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postrider.timing import (
    MAX_WAIT_S,
    backoff_s,
    in_zone,
    moment_of,
    parse_moment,
    utc_and_local,
    zone_named,
)

BERLIN = ZoneInfo("Europe/Berlin")


def test_local_time_is_read_in_the_zone() -> None:
    assert parse_moment("2030-07-05 13:48:00", BERLIN) == datetime(2030, 7, 5, 11, 48, tzinfo=UTC)


def test_an_offset_beats_the_zone() -> None:
    moment = parse_moment("2030-07-05T13:48:00.25-03:00", BERLIN)
    assert moment == datetime(2030, 7, 5, 16, 48, 0, 250_000, tzinfo=UTC)


def test_z_means_utc() -> None:
    assert parse_moment("2030-07-05T13:48:00Z", BERLIN) == datetime(2030, 7, 5, 13, 48, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "local", "says"),
    [
        ("Europe/Berlin", "2027-03-28 02:30:00", "does not exist"),
        ("Europe/Berlin", "2027-10-31 02:30:00", "happens twice"),
        ("America/New_York", "2028-03-12 02:30:00", "does not exist"),
        ("America/New_York", "2028-11-05 01:30:00", "happens twice"),
        ("Australia/Lord_Howe", "2027-10-03 02:15:00", "does not exist"),
        ("Australia/Lord_Howe", "2027-04-04 01:45:00", "happens twice"),
        ("America/Santiago", "2027-09-05 00:30:00", "does not exist"),
        ("America/Santiago", "2027-04-03 23:30:00", "happens twice"),
        ("Africa/Casablanca", "2027-02-07 02:30:00", "happens twice"),
        ("Pacific/Auckland", "2028-09-24 02:30:00", "does not exist"),
    ],
)
def test_a_local_time_that_the_clocks_skip_or_repeat_is_refused(
    zone: str, local: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        parse_moment(local, ZoneInfo(zone))


def test_the_refusal_of_a_fold_names_both_offsets_and_each_is_then_taken() -> None:
    with pytest.raises(ValueError, match=r"add an offset: \+02:00 or \+01:00"):
        parse_moment("2027-10-31 02:30:00", BERLIN)
    first = parse_moment("2027-10-31T02:30:00+02:00", BERLIN)
    second = parse_moment("2027-10-31T02:30:00+01:00", BERLIN)
    assert second - first == timedelta(hours=1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "2030-10-05",
        "2030-10-05 13:48",
        "05.10.2030 13:48:00",
        "2030-13-05 13:48:00",
        "2030-02-30 13:48:00",
        "2030-10-05 24:01:00",
        "2030-10-05 13:48:61",
        "2030-10-05T13:48:00+99:00",
        "2030-10-05T13:48:00+0200",
        "2030-10-05 13:48:00 UTC",
        "２０３０-10-05 13:48:00",  # noqa: RUF001
        "2030-10-05 13:48:00\n",
        "99999-10-05 13:48:00",
        "9999-12-31T23:59:59-23:00",
        "0001-01-01T00:00:00+23:00",
        "0000-01-01 00:00:00",
        "1e9",
        "1900000000",
    ],
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its words differ
        parse_moment(text, BERLIN)


def test_lists_show_the_time_in_the_zone() -> None:
    assert (
        in_zone(datetime(2030, 7, 5, 11, 48, 0, 999, tzinfo=UTC), BERLIN) == "2030-07-05 13:48:00"
    )


def test_backoff_doubles_up_to_an_hour() -> None:
    calm = random.Random(1)
    waits = [backoff_s(n, 10, calm) for n in range(1, 13)]
    for n, wait in enumerate(waits, 1):
        whole = min(10 * 2 ** (n - 1), MAX_WAIT_S)
        assert 0.75 * whole <= wait <= whole


@given(tries=st.integers(1, 10**9), interval=st.floats(0.001, 10**6))
def test_backoff_never_waits_longer_than_the_cap(tries: int, interval: float) -> None:
    assert 0 <= backoff_s(tries, interval) <= MAX_WAIT_S


NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)


def test_a_moment_is_a_time_in_the_zone_or_so_many_seconds_from_now() -> None:
    assert moment_of(NOW, None, None, BERLIN) is None
    assert moment_of(NOW, None, 90.5, BERLIN) == NOW + timedelta(seconds=90.5)
    tokyo = ZoneInfo("Asia/Tokyo")
    at = [moment_of(NOW, "2030-07-05 09:00:00", None, zone) for zone in (BERLIN, tokyo)]
    assert at == [datetime(2030, 7, 5, hour, tzinfo=UTC) for hour in (7, 0)]


@pytest.mark.parametrize(
    ("send_at", "send_in_s"),
    [
        ("2030-07-05 09:00:00", 5),
        (None, -1),
        (None, float("inf")),
        (None, float("nan")),
        (None, 1e300),
        (None, 1e12),
        ("2027-03-28 02:30:00", None),
    ],
)
def test_what_names_no_moment_or_two_is_refused(
    send_at: str | None, send_in_s: float | None
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its words differ
        moment_of(NOW, send_at, send_in_s, BERLIN)


@pytest.mark.parametrize(
    "name", ["Mars/Olympus", "", "../../etc/passwd", "Europe", "x" * 9_999, "a\0b"]
)
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no IANA zone"):
        zone_named(name)


def test_a_moment_is_shown_in_utc_and_as_the_clocks_there_show_it() -> None:
    assert utc_and_local(datetime(2030, 7, 5, 11, 48, tzinfo=UTC), BERLIN) == {
        "utc": "2030-07-05T11:48:00Z",
        "local": "2030-07-05T13:48:00+02:00",
    }
