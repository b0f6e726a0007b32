"""A messenger that says: not so fast."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from postrider.selftest.balance import read
from postrider.selftest.fake import Answer, Call, FakeMessenger, says
from postrider.selftest.load import Recipients
from tests.conftest import wait_until
from tests.reliability.rig import Rig

IN_FLIGHT_S = 1.0
"""After the first 429, calls that had left before it was heard may still come."""


def in_parameters(wait_s: int) -> Answer:
    parameters = {"retry_after": wait_s}
    why = f"Too Many Requests: retry after {wait_s}"
    return says(429, ok=False, error_code=429, description=why, parameters=parameters)


def in_seconds(wait_s: int) -> Answer:
    return Answer(429, b"{}", {"Retry-After": str(wait_s)})


def as_a_date(wait_s: int) -> Answer:
    # Whole seconds: rounded up, or it would name an earlier moment than is meant.
    at = datetime.now(UTC) + timedelta(seconds=wait_s + 1)
    return Answer(429, b"{}", {"Retry-After": format_datetime(at, usegmt=True)})


FORMS: dict[str, tuple[str, Callable[[int], Answer]]] = {
    "Telegram's parameters": ("telegram", in_parameters),
    "Retry-After in seconds": ("whatsapp", in_seconds),
    "Retry-After as a date": ("viber", as_a_date),
}
forms = pytest.mark.parametrize(("service", "flood"), FORMS.values(), ids=FORMS)


@pytest.mark.minutes
@forms
def test_a_flood_pauses_the_whole_account_with_one_probe_a_pause(
    rig: Rig, messenger: FakeMessenger, long: bool, service: str, flood: Callable[[int], Answer]
) -> None:
    """429 to everything for two pauses of 4 s (long: 30 s) while 200 (long: 2,000) are due.

    At most one probe per pause; lost 0; failed 0, though a try each would be gone after the first second.
    """
    wait_s, total = (30, 2_000) if long else (4, 200)
    started: list[float] = []

    def script(call: Call) -> Answer | None:
        started.append(call.at)
        return flood(wait_s) if call.at < started[0] + 2 * wait_s else None

    messenger.script = script
    rig.start(workers=2)
    rig.spread(total, 1.0, source=Recipients(service))
    balance = rig.settle()
    first = started[0]
    probes = [
        sum(
            first + max(IN_FLIGHT_S, nth * wait_s) <= at < first + (nth + 1) * wait_s
            for at in started
        )
        for nth in range(2)
    ]
    print(f"{len(started)} calls; probes in each pause: {probes}")
    assert balance.ok
    assert balance.columns["sent"] == total
    assert max(probes) <= 1


@pytest.mark.minutes
@forms
def test_a_long_pause_is_kept_and_shown(
    rig: Rig, messenger: FakeMessenger, service: str, flood: Callable[[int], Answer]
) -> None:
    """429 with a wait of 10,072 s: no further call in the next 5 s (long or not), and all 100 wait, none of them failed."""
    messenger.script = lambda _: flood(10_072)
    rig.start(workers=2)
    rig.spread(100, 0.5, source=Recipients(service))
    wait_until(lambda: messenger.calls, 15, "the first call")
    time.sleep(IN_FLIGHT_S)
    heard = len(messenger.calls)
    time.sleep(5)  # what is looked at is that nothing happens
    found = read(rig.store)
    print(f"{heard} calls before the pause was known, {len(messenger.calls) - heard} after")
    assert len(messenger.calls) == heard
    assert (len(found.waiting), len(found.ended)) == (100, 0)
    assert all(each.attempts == 0 for each in found.waiting)
