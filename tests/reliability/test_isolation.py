"""A messenger that hangs takes nothing from the others."""

import time
from collections.abc import Iterator

import pytest

from postrider.selftest.fake import Answer, FakeMessenger, yes
from postrider.selftest.load import Recipients
from tests.conftest import wait_until
from tests.reliability.rig import Rig

KEEPS = 0.9
ANSWERS_AFTER_S = 0.05
"""Long enough that a rate is the worker's places divided by it, not the machine's speed."""


@pytest.fixture
def fleet_env(fleet_env: dict[str, str]) -> dict[str, str]:
    return fleet_env | {"WORKER_CONCURRENCY": "20"}


@pytest.fixture
def hanging() -> Iterator[FakeMessenger]:
    """Viber, on a server of its own, that takes every request and never answers."""
    with FakeMessenger() as fake:
        fake.script = lambda _: Answer(after_s=600)
        yield fake


def rate(rig: Rig, messenger: FakeMessenger, total: int) -> float:
    """Telegram deliveries a second, when `total` are due at once."""
    before = len(messenger.calls)
    for _ in range(total // 1_000):
        rig.post(rig.recipients.take(1_000))
    wait_until(lambda: len(messenger.calls) > before, 15, "the first")
    started = time.monotonic()
    wait_until(lambda: len(messenger.calls) - before >= total, 120, "all of them")
    return total / (time.monotonic() - started)


@pytest.mark.minutes
def test_a_hanging_messenger_leaves_the_others_their_rate(
    rig: Rig, messenger: FakeMessenger, hanging: FakeMessenger, long: bool
) -> None:
    """How many a second leave on Telegram, alone and while 200 deliveries hang on Viber: 1,000 (long: 10,000) each.

    With Viber hanging at least 90 % of the rate without.
    """
    total = 10_000 if long else 1_000
    messenger.script = lambda call: yes(call, 1, ANSWERS_AFTER_S)
    rig.fleet.start("worker", VIBER_API_URL=hanging.url)
    rig.fleet.wait_ready()
    base = rate(rig, messenger, total)
    rig.spread(200, 0.1, source=Recipients("viber"))
    wait_until(lambda: hanging.calls, 15, "the first that hangs")
    beside = rate(rig, messenger, total)
    hanging.shut()
    print(f"alone {base:.0f}/s, beside one that hangs {beside:.0f}/s: {beside / base:.0%}")
    assert beside >= KEEPS * base
