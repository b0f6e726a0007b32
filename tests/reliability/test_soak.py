"""Everything at once, for long."""

import os
import random
import threading
import time
from pathlib import Path

import pytest

from postrider.selftest.fake import FakeMessenger
from postrider.selftest.load import Load
from postrider.selftest.run import Mood
from tests.conftest import wait_until
from tests.reliability.rig import Rig, children, memory_mb, open_files

RATE = 50
LASTS_S = float(os.environ.get("SOAK_S", "1800"))
"""Of the long form."""
GROWS = 1.05
LEAKS = 10
"""Open files that may be more at the end than after the warm-up: connections come and go."""


def processes_in(folder: Path) -> int:
    """How many processes work in `folder`."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += (process / "cwd").readlink() == folder
        except OSError:  # it ended, or is none of ours
            continue
    return found


@pytest.mark.minutes
@pytest.mark.dice
def test_a_soak_with_random_faults_loses_nothing_and_leaks_nothing(
    rig: Rig, messenger: FakeMessenger, long: bool
) -> None:
    """50 deliveries a second for 15 s (long: 30 minutes, or SOAK_S seconds) while workers and Redis are killed, the
    messengers refuse connections, and answer late, badly, with 429 or not at all.

    Lost 0, silent doubles 0. Of the API's processes and one worker, which live all the time: memory grows by 5 % at
    most after the warm-up (a quarter of the time; the short form only prints it), and no connection, file or process
    is left over.
    """
    seconds = LASTS_S if long else 15.0
    mood = Mood(rig.dice.randrange(10**9))
    messenger.script = mood
    lives, *mortal = rig.start(workers=3, api=True)
    (api,) = rig.fleet.named("api")
    (server,) = rig.fleet.named("redis")
    watched = [lives.pid, *children(api.pid)]
    processes = processes_in(rig.fleet.folder)
    dice = random.Random(rig.dice.random())
    load = Load(rig.fleet, rig.dice)
    posting = threading.Thread(target=load.run, args=(int(RATE * seconds / 2), seconds))
    warm_at = time.monotonic() + seconds / 4
    memory, files = [0.0], 0
    posting.start()
    while posting.is_alive():
        time.sleep(dice.uniform(1, 6 if not long else 15))
        fault = dice.choice(("worker", "worker", "redis", "messenger"))
        if fault == "messenger":
            messenger.shut()
            time.sleep(dice.uniform(0.5, 3))
            messenger.open()
        else:
            rig.fleet.kill(server if fault == "redis" else dice.choice(mortal))
        if not files and time.monotonic() > warm_at:
            memory, files = [memory_mb(pid) for pid in watched], open_files(watched)
    posting.join()
    rig.posts = load.posts
    balance = rig.settle()
    rig.fleet.wait_ready()
    after = [memory_mb(pid) for pid in watched]
    print(
        f"memory of {watched}: {memory} -> {after} MB; open files {files} -> {open_files(watched)}"
    )
    assert balance.ok
    assert {lives.pid, *children(api.pid)} == set(watched)
    assert processes_in(rig.fleet.folder) == processes
    # What is kept alive for the next send closes after a while.
    wait_until(lambda: open_files(watched) <= files + LEAKS, 30, "no more open than before")
    if long:
        assert sum(after) <= GROWS * sum(memory)
