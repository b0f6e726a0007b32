"""Who schedules: every worker does, so none may be missed, and none may act on what it no longer holds."""

import random
import threading
import time

import pytest

from postrider.selftest.balance import share
from postrider.selftest.fake import FakeMessenger
from postrider.sender import LEASE_S
from tests.conftest import wait_until
from tests.reliability.rig import Rig
from tests.reliability.test_worker_kills import takes_its_time


@pytest.mark.minutes
@pytest.mark.dice
def test_a_scheduler_killed_again_and_again_makes_nothing_late(rig: Rig, long: bool) -> None:
    """kill -9 of one of three workers every 2 s while 400 fall due in 8 s; long: every 20 s, 10,000 in 5 minutes.

    Lateness p99 at most 5 s and never over 20 s; lost 0.
    """
    total, seconds, every_s = (10_000, 300, 20.0) if long else (400, 8, 2.0)
    pool = rig.start(workers=3)
    load = threading.Thread(target=rig.spread, args=(total, seconds))
    load.start()
    for _ in range(int(seconds / every_s)):
        time.sleep(every_s)
        rig.fleet.kill(rig.dice.choice(pool))
    load.join()
    balance = rig.settle()
    assert balance.ok
    assert balance.columns["sent"] == total
    assert share(balance.lateness_s, 0.99) <= 5
    assert balance.lateness_s[-1] <= 20


@pytest.mark.dice
@pytest.mark.parametrize(
    ("workers", "frozen_s"),
    [
        pytest.param(2, 3, id="one of two"),
        pytest.param(5, 22, id="one of five", marks=pytest.mark.minutes),
    ],
)
def test_one_frozen_and_woken_sends_nothing_twice_in_silence(
    rig: Rig, messenger: FakeMessenger, long: bool, workers: int, frozen_s: float
) -> None:
    """SIGSTOP to one of two workers for 3 s, of five for 22 s, which its lease (15 s) does not outlast; long: both 90 s,
    over 10,000.

    Sent twice without a record 0, lost 0; on record at most what the frozen one had under way.
    """
    if long:
        frozen_s = 90
    total = 10_000 if long else 400
    messenger.script = takes_its_time(random.Random(rig.dice.random()), 1 if long else 3)
    pool = rig.start(workers=workers)
    load = threading.Thread(target=rig.spread, args=(total, frozen_s + 2))
    load.start()
    frozen = rig.dice.choice(pool)
    wait_until(lambda: len(rig.fleet.held_by(frozen.pid)) > 2, 15, "sends under way")
    with rig.frozen(frozen):
        held = rig.fleet.held_by(frozen.pid)
        time.sleep(frozen_s)
    load.join()
    balance = rig.settle()
    assert balance.ok
    assert balance.columns["sent"] == total
    print(f"held by the frozen one: {len(held)}")
    assert balance.doubles <= (len(held) if frozen_s > LEASE_S else 0)
