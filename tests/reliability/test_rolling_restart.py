"""Restart and upgrade under load."""

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter

import pytest

from postrider.selftest.fake import FakeMessenger
from postrider.selftest.load import Load
from tests.conftest import wait_until
from tests.reliability.rig import Rig, children
from tests.reliability.test_worker_kills import takes_its_time

DUE_IN_S = 2.0
"""How far ahead each message is due."""


def renew(pid: int) -> None:
    """SIGHUP, and the wait until every process of this gunicorn is a new one."""
    old = set(children(pid))
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: len(set(children(pid)) - old) >= len(old), 30, "new processes")
    wait_until(lambda: not old & set(children(pid)), 40, "the end of the old ones")


@pytest.mark.minutes
@pytest.mark.dice
def test_a_rolling_restart_is_noticed_by_nobody(
    rig: Rig, messenger: FakeMessenger, long: bool
) -> None:
    """Workers are replaced one after the other (SIGTERM), the API's processes by SIGHUP, twice (long: 30 times) while 20
    messages a second are posted.

    Lost 0, silent doubles 0 and, as no worker is killed, no doubles at all; no POST is answered with a 5xx. A 400 may be:
    while new processes start, a POST can wait until its time is over, and is then posted anew. Of POSTs
    without any answer there is one for each renewal at most; on a machine without other work there was none.
    """
    rounds = 30 if long else 2
    messenger.script = takes_its_time(random.Random(rig.dice.random()))
    rig.start(workers=2, api=True)
    (api,) = rig.fleet.named("api")
    load = Load(rig.fleet, rig.dice)
    over = threading.Event()

    def client() -> None:
        started = time.monotonic()
        for n in itertools.count():
            if over.wait(max(0.0, started + n / 20 - time.monotonic())):
                return
            load.post(load.message(2, time.time() + DUE_IN_S))

    posting = threading.Thread(target=client)
    posting.start()
    for _ in range(rounds):
        rig.fleet.start("worker")
        rig.fleet.wait_ready()
        old = rig.fleet.named("worker")[0]
        rig.fleet.end(old)
        assert old.process.returncode == 0
        renew(api.pid)
    over.set()
    posting.join()
    rig.posts = load.posts
    balance = rig.settle()
    answers = Counter(load.statuses)
    print(f"answers {dict(answers)}, without an answer {balance.in_doubt}")
    assert balance.ok
    assert balance.doubles == 0
    assert balance.columns["sent"] == balance.accepted
    assert answers.keys() <= {200, 400}
    assert answers[200] == len(load.posts) - balance.in_doubt
    assert balance.in_doubt <= rounds
