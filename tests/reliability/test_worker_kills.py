"""Workers killed at any moment."""

import random
import threading

import pytest

from postrider.selftest.fake import Answer, Call, FakeMessenger, yes
from tests.reliability.rig import Rig


def takes_its_time(dice: random.Random, most_s: float = 0.4):
    """A messenger that answers well, later or sooner: so that a kill finds sends under way."""

    def script(call: Call) -> Answer:
        return yes(call, dice.randrange(10**9), dice.uniform(0, most_s))

    return script


@pytest.mark.dice
def test_random_workers_killed_lose_nothing_and_double_nothing_in_silence(
    rig: Rig, messenger: FakeMessenger, long: bool
) -> None:
    """kill -9 of random workers: 10 over 500 sends; long: 200 over 10,000.

    Lost 0, silent doubles 0, doubles on record at most what was in flight at the kills, what a killed one held picked
    up within 60 s, and nobody innocent failed.
    """
    total, kills, seconds, workers = (10_000, 200, 240, 5) if long else (500, 10, 6, 3)
    messenger.script = takes_its_time(random.Random(rig.dice.random()))
    pool = rig.start(workers=workers)
    load = threading.Thread(target=rig.spread, args=(total, seconds))
    load.start()
    rig.kill_at_random(pool, kills, seconds)
    load.join()
    balance = rig.settle()
    assert balance.ok
    assert balance.accepted == balance.columns["sent"] == total
    assert len(rig.fleet.kills) == kills
    assert balance.doubles <= sum(len(kill.held) for kill in rig.fleet.kills)
    assert not balance.orphans_s or balance.orphans_s[-1] <= 60
    assert balance.failures == {}
