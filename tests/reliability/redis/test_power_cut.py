"""The machine loses power: of the file there is left what had been fsynced, or a tail that stops amid a command.

A library loaded into Redis notes how long the file was at each fsync; the cut is kill -9, and the file cut to that length.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from postrider import embedded
from postrider.link import connect
from postrider.settings import Settings
from tests.conftest import Api, Start, wait_until
from tests.fake import FakeMessenger
from tests.reliability.redis.conftest import (
    GENEROUS_S,
    Load,
    Run,
    Serve,
    Server,
    match,
    newer_server,
)

LATER = {"send_at": "2030-10-05 13:48:00"}
SLOW_DISK_S = 1.0
"""Redis asks for an fsync each second; it has it when the disk has done it."""


@pytest.fixture(scope="session")
def notes_fsyncs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Redis whose fsyncs are noted."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("synced") / "synced.so"
    source = Path(__file__).with_name("synced.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}


def cut_power(server: Server) -> int:
    """Ends Redis and takes away what no fsync has covered; gives how many bytes that was."""
    server.kill()
    synced: dict[Path, int] = {}
    for line in (server.folder / "synced").read_text().splitlines():
        size, _, path = line.partition(" ")
        synced[Path(path)] = max(int(size), synced.get(Path(path), 0))
    gone = 0
    for file in server.folder.glob("appendonlydir/*.aof"):
        kept = synced.get(file, 0)
        gone += file.stat().st_size - kept
        os.truncate(file, kept)
    return gone


@pytest.mark.parametrize(
    ("newer", "appendfsync"),
    [
        (False, "always"),
        pytest.param(True, "always", marks=pytest.mark.minutes),
        pytest.param(True, "everysec", marks=pytest.mark.minutes),
    ],
)
def test_with_always_a_power_cut_loses_nothing_acknowledged(
    newer: bool,
    appendfsync: str,
    serve: Serve,
    run: Run,
    start: Start,
    live: Api,
    env: dict[str, str],
    notes_fsyncs: dict[str, str],
    messenger: FakeMessenger,
    long: bool,
) -> None:
    """DURABILITY=always; the power is cut under load, 10 times (short: 2), each time right after a 200.

    Figure: acknowledged and lost 0, with appendfsync always and, on a Redis that knows WAITAOF, with everysec.
    """
    more: dict[str, Any] = {"program": newer_server()} if newer else {}
    flags = ("--appendonly", "yes", "--appendfsync", appendfsync)
    server = serve(*flags, environ=notes_fsyncs, **more).start()
    env |= {"REDIS_URL": server.url, "DURABILITY": "always"}
    run("api")
    gone = []
    large = Load(live, recipients=1200)
    posts = []
    with Load(live, clients=8) as load:
        for _ in range(10 if long else 2):
            load.wait_for_accepted(8)
            posts.append(large.post(live))
            gone.append(cut_power(server))
            assert posts[-1].accepted
            server.start()
    posts += load.posts
    start("postrider", "worker")
    with connect(server.url) as client:
        found = match(posts, messenger, client, 3 * GENEROUS_S)
    print(found, "; bytes cut off:", gone)
    assert (found.lost, found.halves, found.sent_though_refused) == ([], [], [])


@pytest.mark.minutes
def test_with_everysec_a_power_cut_loses_a_second_at_most(
    serve: Serve,
    run: Run,
    live: Api,
    env: dict[str, str],
    notes_fsyncs: dict[str, str],
    messenger: FakeMessenger,
    long: bool,
) -> None:
    """DURABILITY=everysec; the power is cut under load, 10 times (short: 2).

    Figure: nothing lost that was acknowledged more than 1 s before (and what the disk took), no half of a message.
    """
    server = serve(environ=notes_fsyncs).start()
    env["REDIS_URL"] = server.url
    run("api")
    cuts = []
    with Load(live, **LATER) as load, Load(live, clients=1, recipients=100, **LATER) as large:
        for _ in range(10 if long else 2):
            load.wait_for_accepted(200)
            cuts.append((time.monotonic(), cut_power(server)))
            server.start()
    posts = load.posts + large.posts
    with connect(server.url) as client:
        stored = {key.decode().removeprefix("pr:m:") for key in client.scan_iter("pr:m:*")}
        deliveries = client.zcard("pr:in:scheduled")
    lost = [p for p in posts if p.accepted and p.answer["message"]["id"] not in stored]
    kept = sum(len(p.to) for p in posts if p.accepted) - sum(len(p.to) for p in lost)
    unsure = sum(len(p.to) for p in posts if p.status == 503 and not p.refused)
    before_s = [min(at - p.at - p.took_s for at, _ in cuts if at > p.at) for p in lost]
    print(
        len(posts),
        "posts,",
        len(lost),
        "lost, the oldest",
        max(before_s, default=0),
        "s; cut",
        cuts,
    )
    assert max(before_s, default=0) <= 1 + SLOW_DISK_S
    assert kept <= deliveries <= kept + unsure


@pytest.mark.parametrize(
    "cut", [1000, *(pytest.param(n, marks=pytest.mark.minutes) for n in (1, 7, 40))]
)
def test_a_file_that_stops_amid_a_command_is_read_up_to_there(
    cut: int, env: dict[str, str], run: Run, start: Start, live: Api, tmp_path: Path
) -> None:
    """The embedded Redis killed, its file cut short, and started again.

    Figure: it starts; nothing is missing but the last message, and of that no half is left.
    """
    redis, _ = start("postrider", "redis"), run("api")
    for _ in range(5):
        assert Load(live, recipients=100, **LATER).post(live).accepted
    redis.kill()
    redis.wait()
    (file,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    os.truncate(file, file.read_bytes().rindex(b"committed") + cut)  # amid the last message
    start("postrider", "redis")
    settings = Settings.from_env(env, None)
    with embedded.wait_ready(settings, GENEROUS_S) as client:
        assert len(list(client.scan_iter("pr:m:*"))) == 4
        assert client.zcard("pr:in:scheduled") == 400
        assert len(list(client.scan_iter("rq:job:*"))) == 400


def test_the_embedded_redis_fsyncs_as_durability_says(
    env: dict[str, str], start: Start, tmp_path: Path
) -> None:
    """Also one that still serves the folder with the settings of the day before."""
    settings = Settings.from_env(env, None)

    def appendfsync() -> str:
        with embedded.wait_ready(settings, GENEROUS_S) as client:
            return str(client.config_get("appendfsync")["appendfsync"])

    start("postrider", "redis")
    assert appendfsync() == "everysec"
    start("postrider", "redis", DURABILITY="always")
    wait_until(lambda: appendfsync() == "always", GENEROUS_S)
