"""The API killed in the middle of a POST: all of a message is stored, or nothing."""

import itertools
import os
import signal
import threading
import time
from collections import Counter

import pytest

from postrider.errors import Unavailable
from postrider.selftest.balance import read, weigh
from postrider.selftest.load import Load
from tests.conftest import wait_until
from tests.reliability.rig import Rig, children


@pytest.mark.minutes
@pytest.mark.dice
def test_no_message_is_stored_in_part(rig: Rig, long: bool) -> None:
    """kill -9 of the API, all of it or one of its processes, 4 times (long: 60) while three clients post 1,000 and 2,500
    recipients at a time.

    Stored in part 0; what a client was told is accepted is there, whole; no record is left that no list shows.
    """
    kills = 60 if long else 4
    rig.start(api=True)
    load = Load(rig.fleet, rig.dice)
    over = threading.Event()
    sizes = itertools.cycle((1_000, 1_000, 2_500))
    lock = threading.Lock()

    def client() -> None:
        while not over.is_set():
            with lock:
                message = load.message(next(sizes), time.time() + 3600)
            load.post(message)

    clients = [threading.Thread(target=client) for _ in range(3)]
    for each in clients:
        each.start()
    (api,) = rig.fleet.named("api")
    for _ in range(kills):
        answered = len(load.statuses)
        wait_until(lambda seen=answered: len(load.statuses) > seen, 30, "an answer")
        time.sleep(rig.dice.uniform(0, 0.3))
        if rig.dice.random() < 0.5 and (ours := children(api.pid)):
            os.kill(rig.dice.choice(ours), signal.SIGKILL)
        else:
            rig.fleet.kill(api)
    over.set()
    for each in clients:
        each.join()

    def nothing_is_half_way() -> bool:
        try:
            rig.service.sweep()
        except Unavailable:
            return False
        return not rig.redis.exists("pr:accepting")

    wait_until(nothing_is_half_way, 30, "every acceptance ended, one way or the other")
    stored = Counter(each.id.partition("-")[0] for each in read(rig.store).waiting)
    told = Counter(post.accepted for post in load.posts)
    print(f"posts {len(load.posts)}: {dict(told)}; stored {len(stored)}")
    records = {key.decode().split(":")[2] for key in rig.redis.scan_iter("pr:d:*")}
    assert records == set(stored)
    assert set(stored.values()) <= {1_000, 2_500}
    assert weigh(load.posts, read(rig.store), (), ()).holds
    assert told["yes"] <= len(stored) <= told["yes"] + told["nobody knows"]
    assert told["yes"] >= kills
