"""Hosts whose clocks disagree: a library under our processes shifts what they are told of the time."""

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from postrider.selftest.balance import share
from postrider.selftest.load import Load
from tests.reliability.clock import Clock
from tests.reliability.rig import Rig

HOUR = 3600


def test_a_process_believes_its_clock_and_keeps_its_pace(library: Path, tmp_path: Path) -> None:
    """The shift itself is looked at: else the tests below would pass on true clocks."""
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time(), time.monotonic())"],
        env=Clock(library, tmp_path / "clock", HOUR).env,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split()
    assert float(told[0]) == pytest.approx(time.time() + HOUR, abs=10)
    assert float(told[1]) == pytest.approx(time.monotonic(), abs=10)


@pytest.mark.dice
@pytest.mark.parametrize(
    ("api", "workers"),
    [
        pytest.param(-HOUR, (0, +HOUR), id="1 h wrong", marks=pytest.mark.minutes),
        pytest.param(+300, (-300, +300), id="5 min apart"),
    ],
)
def test_no_clock_but_redis_counts(
    rig: Rig, long: bool, library: Path, tmp_path: Path, api: int, workers: tuple[int, ...]
) -> None:
    """The API's and the workers' hosts have wrong clocks; 100 messages (long: 3,000) through the API.

    Early 0, twice 0, lost 0; lateness p99 at most 1 s, as with true clocks.
    """
    rig.fleet.start("api", **Clock(library, tmp_path / "clock-api", api).env)
    for n, seconds in enumerate(workers):
        rig.fleet.start("worker", **Clock(library, tmp_path / f"clock-{n}", seconds).env)
    rig.fleet.wait_ready()
    load = Load(rig.fleet, rig.dice)
    load.run(*((3_000, 120) if long else (100, 3)))
    rig.posts = load.posts
    balance = rig.settle()
    assert balance.ok
    assert balance.doubles == 0
    assert balance.columns["sent"] == balance.accepted >= len(load.posts)
    assert share(balance.lateness_s, 0.99) <= 1


@pytest.mark.minutes
@pytest.mark.dice
def test_a_clock_that_jumps_moves_nothing(
    rig: Rig, long: bool, library: Path, tmp_path: Path
) -> None:
    """One of two workers' clocks jumps an hour ahead, an hour behind and back, again and again while 300 (long: 6,000)
    fall due.

    Early 0, twice 0, lost 0; lateness p99 at most 1 s.
    """
    clock = Clock(library, tmp_path / "clock")
    rig.fleet.start("worker", **clock.env)
    rig.start(workers=1)
    total, seconds = (6_000, 120) if long else (300, 5)
    load = threading.Thread(target=rig.spread, args=(total, seconds))
    load.start()
    dice = random.Random(rig.dice.random())
    while load.is_alive():
        time.sleep(0.5)
        clock.set(dice.choice((-HOUR, 0, HOUR)))
    balance = rig.settle()
    assert balance.ok
    assert balance.doubles == 0
    assert balance.columns["sent"] == total
    assert share(balance.lateness_s, 0.99) <= 1
