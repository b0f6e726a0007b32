"""A delivery that kills whoever sends it."""

import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Self

import pytest

from postrider import queue
from postrider.link import connect
from postrider.model import NewMessage, Recipient, State
from postrider.selftest.balance import read, share
from postrider.selftest.fake import FakeMessenger
from postrider.selftest.fleet import Fleet
from postrider.service import Service
from tests.conftest import ROOT, wait_until
from tests.reliability.poisoned_worker import DEADLY, Poison
from tests.reliability.rig import Rig

ALONE = 3
BACK_WITHIN_S = 5
SPARED_WITHIN_S, IN_FLIGHT_WITHIN_S = 5, 60
GIVEN_UP_WITHIN_S = 180.0
X = (Recipient("x", "poison"),)


@pytest.fixture
def tries(tmp_path: Path) -> Path:
    """Where each try of the deadly messenger is told beforehand: when, by which process, what."""
    return tmp_path / "tries"


@pytest.fixture
def poisoned(rig: Rig, tries: Path) -> Rig:
    """The rig with two workers that know the deadly messenger, as its service does."""
    known = {**rig.service.accounts, ("poison", "default"): Poison(tries)}
    rig.service = Service(rig.store, rig.fleet.settings, known)
    env = {"POISON_LOG": str(tries), "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        rig.fleet.start("worker", sys.executable, "-m", "tests.reliability.poisoned_worker", **env)
    rig.fleet.wait_ready()
    return rig


class Pool(threading.Thread):
    """Watches a fleet's workers: how long each was away once its process had died. A context manager."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(daemon=True)
        self.workers = fleet.named("worker")
        self.redis_address = fleet.settings.redis_address
        self.over = threading.Event()
        self.away_s: list[float] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        pids = [worker.pid for worker in self.workers]
        died: dict[int, float] = {}
        with connect(self.redis_address) as client:
            while not self.over.wait(0.02):
                for n, worker in enumerate(self.workers):
                    if worker.pid != pids[n] or worker.process.poll() is not None:
                        died.setdefault(n, time.monotonic())
                    if n in died and worker.pid in queue.at_work(client).keys() - {pids[n]}:
                        self.away_s.append(time.monotonic() - died.pop(n))
                        pids[n] = worker.pid


def test_the_deadly_messenger_sends_all_else(poisoned: Rig, tries: Path) -> None:
    """Else the test below might see a messenger that never works, and not one that kills."""
    poisoned.service.accept(NewMessage("harmless", X))
    wait_until(lambda: [d.state for d in read(poisoned.store).ended] == [State.SENT], 15)
    assert len(tries.read_text().splitlines()) == 1


@pytest.mark.minutes
def test_a_memory_hog_costs_its_own_tries_and_no_worker(
    poisoned: Rig, messenger: FakeMessenger
) -> None:
    """One delivery whose adapter asks for more memory than a worker may have, amid 100 others over 5 s.

    Its try ends with an internal error; no worker dies, and all others are sent.
    """
    rig = poisoned
    workers = [worker.pid for worker in rig.fleet.named("worker")]
    hog = f"{rig.service.accept(NewMessage('eat_memory', X))[0].id}-0"
    rig.spread(100, 5.0)
    wait_until(lambda: rig.store.attempts([hog])[hog], 30, "a try")
    assert rig.store.attempts([hog])[hog][0].reason == "internal error"
    wait_until(lambda: len(messenger.calls) == 100, 60, "all others sent")
    assert [worker.pid for worker in rig.fleet.named("worker")] == workers


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The short form has one way to die; tests/test_worker.py has the others in small."""
    if "how" in metafunc.fixturenames:
        long = metafunc.config.getoption("--long", default=False)
        ends = [how for how in DEADLY if how != "eat_memory"]
        metafunc.parametrize("how", ends if long else ["exit_at_once"])


@pytest.mark.minutes
def test_poison_is_tried_alone_three_times_and_given_up_and_harms_nobody(
    poisoned: Rig, messenger: FakeMessenger, tries: Path, long: bool, how: str
) -> None:
    """One delivery whose adapter exits, crashes, loops, or loops and lets no other thread of its process run; 100 (long: 1,000) others fall due around it, over 5 s (long: 60 s).

    Tried alone 3 times, then failed as crashed_worker; the pool whole again within 5 s of each death; all others sent,
    those not in flight at a death within 5 s (p99), the rest within 60 s.
    """
    rig = poisoned
    total, seconds = (1_000, 60.0) if long else (100, 5.0)
    load = threading.Thread(target=rig.spread, args=(total, seconds))

    def states() -> dict[str, State]:
        found = read(rig.store)
        return {each.id: each.state for each in (*found.ended, *found.waiting)}

    with Pool(rig.fleet) as pool:
        load.start()
        wait_until(lambda: messenger.calls, 15, "the first of the others")
        bad = f"{rig.service.accept(NewMessage(how, X))[0].id}-0"
        load.join()
        wait_until(lambda: states().get(bad) is State.FAILED, GIVEN_UP_WITHIN_S, "given up")
        wait_until(lambda: Counter(states().values())[State.SENT] == total, 90, "all others sent")
        told = [line.split() for line in tries.read_text().splitlines()]
        wait_until(lambda: len(pool.away_s) >= len(told), 15, "the pool whole again")
    last = rig.store.attempts([bad])[bad][-1]
    hit = sum(len(attempts) > 1 for attempts in rig.store.attempts(rig.ids).values())
    late = rig.balance().lateness_s
    spared = late[: len(late) - hit]
    print(f"{how}: tried {len(told)} times; away after each death: {pool.away_s} s")
    print(f"others in flight at a death: {hit}; the rest p99 {share(spared, 0.99):.2f} s late")
    assert ALONE <= len(told) <= ALONE + 1  # the first time others may have been in flight
    assert len({pid for _, pid, _ in told}) == len(told)
    assert "crashed_worker" in {last.outcome, last.reason}
    assert max(pool.away_s) <= BACK_WITHIN_S
    assert share(spared, 0.99) <= SPARED_WITHIN_S
    assert late[-1] <= IN_FLIGHT_WITHIN_S
