"""Whoever receives callbacks is down, slow, gone, or elsewhere: sends go on as fast, and every event is delivered or listed."""

import statistics
import time
from collections.abc import Iterator

import pytest

from postrider.model import NewMessage, Recipient
from postrider.selftest.fake import yes
from postrider.selftest.fleet import free_port
from tests.conftest import wait_until
from tests.receiver import Receiver, Says
from tests.reliability.rig import Rig
from tests.test_callbacks import SECRET

KEEPS, KEEPS_IN_SHORT = 0.95, 0.75
ANSWERS_AFTER_S = 0.05
"""Long enough that a rate is the worker's places divided by it, not the machine's speed."""
AWAY = {
    "hangs": Says(after_s=60),
    "answers 503 after a second": Says(503, after_s=1),
    "is gone (410)": Says(410),
    "redirects inward": Says(302, {"Location": "http://127.0.0.1:9/"}),
}


@pytest.fixture
def fleet_env(fleet_env: dict[str, str]) -> dict[str, str]:
    return fleet_env | {
        "WORKER_CONCURRENCY": "20",
        "WEBHOOK_SECRET": SECRET,
        "CALLBACK_ALLOW_PRIVATE": "127.0.0.0/8",
    }


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found
        found.script = lambda _: Says()


def rate(rig: Rig, total: int, url: str | None) -> float:
    """Telegram deliveries a second, when `total` are due at once, of which callbacks tell `url`."""
    before = len(rig.messenger.calls)
    for first in range(0, total, 1_000):
        recipients = tuple(Recipient(str(first + n + 1), "telegram") for n in range(1_000))
        rig.service.accept(NewMessage("Hello", recipients, callback_url=url))
    wait_until(lambda: len(rig.messenger.calls) > before, 15, "the first")
    started = time.monotonic()
    wait_until(lambda: len(rig.messenger.calls) - before >= total, 120, "all of them")
    return total / (time.monotonic() - started)


@pytest.mark.minutes
def test_sends_are_not_slowed_while_receivers_are_away(
    rig: Rig, receiver: Receiver, long: bool
) -> None:
    """Sends a second without callbacks, and of messages whose receiver is away in one of five ways: 1,000 (long: 3 times 5,000) each."""
    total, runs = (5_000, 3) if long else (1_000, 1)
    rig.messenger.script = lambda call: yes(call, 1, ANSWERS_AFTER_S)
    rig.start(workers=1)
    rig.fleet.start("courier")
    rate(rig, 1_000, None)
    found: dict[str, list[float]] = {}
    expected = 0
    for _ in range(runs):
        found.setdefault("tells nobody", []).append(rate(rig, total, None))
        for how, says in AWAY.items():
            receiver.script = lambda _, says=says: says
            found.setdefault(how, []).append(rate(rig, total, f"{receiver.url}/{len(found)}"))
            expected += total
        nobody = f"http://127.0.0.1:{free_port()}/"
        found.setdefault("refuses", []).append(rate(rig, total, nobody))
        expected += total
    per_s = {how: statistics.median(rates) for how, rates in found.items()}
    base = per_s.pop("tells nobody")
    print(f"\nwithout callbacks {base:.0f}/s;", end=" ")
    print(", ".join(f"receiver {how}: {its / base:.0%}" for how, its in per_s.items()))

    lists = {state: f"pr:cb:{state}" for state in ("waiting", "done", "dead")}

    def listed() -> dict[str, int]:
        found = {state: rig.redis.zcard(key) for state, key in lists.items()}
        return found | {"not looked at": rig.redis.llen("pr:outbox")}

    wait_until(lambda: sum(listed().values()) >= expected, 60, "every event")
    print(f"{expected} events: {listed()}")
    assert sum(listed().values()) == expected
    assert min(per_s.values()) >= (KEEPS if long else KEEPS_IN_SHORT) * base
