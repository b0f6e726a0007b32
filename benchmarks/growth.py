"""What a million that wait, or a million that are finished, cost those who work beside them.

python benchmarks/growth.py finish|purge    in the environment of a service; for the measurement itself
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import redis
from api import DAY_S, Client, percentile, served
from contestants import CONTESTANTS, accept, service
from drain import drain
from stage import HERE, Failed, Stage

from messengers.base import Reply
from postrider.link import connect
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store

BATCH = 100
PAGE, LONGEST_PAGE = 1_000, 10_000
TIMES = 10
"""How often a page is asked for."""
PROBE_EVERY_S = 0.002
SLOW_MS = 2.0
CLEAR_S = 1_800
SENT = Reply(200, b'{"ok":true,"result":{"message_id":1}}')

Say = Callable[[str], None]


def beside(waiting: int, due: int, runs: int) -> dict[str, Any]:
    """The figures of a service in which so many wait."""
    ours = next(who for who in CONTESTANTS if who.kind == "ours")
    drains = [drain(ours, due, 100, waiting=waiting).per_s for _ in range(runs)]
    with Stage() as stage:
        accept(stage, 0, 100, time.time() + DAY_S)
        before = stage.used_memory()
        accept(stage, 0, waiting, time.time() + DAY_S)
        stage.wait_settled()
        found = {
            "waiting": waiting,
            "drain_per_s": statistics.median(drains),
            "bytes": (stage.used_memory() - before) / waiting,
        }
        with served(stage) as client:
            found["page_ms"] = _pages(client, waiting)
        found |= _claims(stage, due)
    return found


def _pages(client: Client, waiting: int) -> dict[str, float]:
    """Milliseconds for a page of 1,000 at the beginning, the middle and the end of the list."""
    cursors: list[str] = [""]
    step = PAGE if waiting <= 2 * LONGEST_PAGE else LONGEST_PAGE
    while following := client.call("GET", f"/get_scheduled?limit={step}{cursors[-1]}").json()[
        "next"
    ]:
        cursors.append(f"&cursor={following}")
    took = {}
    for name, cursor in (
        ("first", cursors[0]),
        ("middle", cursors[len(cursors) // 2]),
        ("last", cursors[-2]),  # behind the very last one there may be only a few
    ):
        times = []
        for _ in range(TIMES):
            began = time.perf_counter()
            client.call("GET", f"/get_scheduled?limit={PAGE}{cursor}")
            times.append((time.perf_counter() - began) * 1000)
        took[name] = statistics.median(times)
    return took


def _claims(stage: Stage, due: int) -> dict[str, float]:
    """Milliseconds of the call that claims a batch of what is due."""
    ours = service(stage)
    accept(stage, 0, due)
    times, claimed = [], 0
    while True:
        began = time.perf_counter()
        got = len(ours.sender.claim("benchmark", BATCH, lease_s=60).claims)
        if not got:
            break
        times.append((time.perf_counter() - began) * 1000)
        claimed += got
    if claimed != due:
        raise Failed(f"{claimed} of {due} were claimed")
    return {"claim_p50_ms": percentile(times, 0.5), "claim_p99_ms": percentile(times, 0.99)}


# -- purging


def purging(say: Say, count: int) -> dict[str, float]:
    """The longest that another's command waits while so many finished deliveries are forgotten."""
    with Stage() as stage:
        accept(stage, 0, count)
        say(f"purge: {count:,} accepted; finishing them")
        helpers = [_helper(stage, "finish") for _ in range(2)]
        try:
            for helper in helpers:
                _check(helper)
            finished = service(stage).finished(1, None).total
            if finished != count:
                raise Failed(f"{finished} of {count} are finished")
            stage.wait_settled()
            idle, _ = _probe(stage.redis, lambda n: n < 1_000)
            stage.redis.config_set("slowlog-log-slower-than", int(SLOW_MS * 1000))
            stage.redis.slowlog_reset()
            began = time.perf_counter()
            helpers.append(_helper(stage, "purge"))
            waits, at_rewrites = _probe(stage.redis, lambda _: helpers[-1].poll() is None)
            took_s = time.perf_counter() - began
            _check(helpers[-1])
        finally:
            for helper in helpers:
                helper.kill()
                helper.communicate()
        slow = [entry["duration"] / 1000 for entry in stage.redis.slowlog_get(100)]
        left = service(stage).finished(1, None).total
    if left:
        raise Failed(f"{left} of {count} are left")
    at_rewrite = max(at_rewrites, default=0.0)
    say(
        f"purge: {count:,} in {took_s:.1f} s, longest wait {max(waits):.1f} ms,"
        f" while Redis took away its old file {at_rewrite:.1f} ms"
    )
    return {
        "finished": count,
        "seconds": took_s,
        "longest_wait_ms": max(waits),
        "longest_wait_at_rewrite_ms": at_rewrite,
        "p99_wait_ms": percentile(waits, 0.99),
        "longest_wait_idle_ms": max(idle),
        "longest_command_ms": max(slow, default=SLOW_MS),
    }


def _probe(client: redis.Redis, goes_on: Callable[[int], bool]) -> tuple[list[float], list[float]]:
    """Milliseconds that a PING and a GET take, one of each every few ms; those apart that met the end of a rewrite.

    Then Redis has removed its old append-only file, and waits for the disk in the thread that answers: on one mounted with
    `discard`, for all the blocks of that file. Whatever is written brings such a rewrite about.
    """
    waits: list[float] = []
    at_rewrites: list[float] = []
    base_bytes = _base_bytes(client)
    while goes_on(len(waits)):
        for ask in (client.ping, lambda: client.get("nothing")):
            began = time.perf_counter()
            ask()
            wait_ms = (time.perf_counter() - began) * 1000
            rewritten = wait_ms > SLOW_MS and base_bytes != (base_bytes := _base_bytes(client))
            (at_rewrites if rewritten else waits).append(wait_ms)
        time.sleep(PROBE_EVERY_S)
    return waits, at_rewrites


def _base_bytes(client: redis.Redis) -> int:
    """The size of the append-only file when it was last rewritten."""
    return int(client.info("persistence")["aof_base_size"])


def _helper(stage: Stage, task: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, HERE / "growth.py", task],
        env=stage.env,
        stderr=subprocess.PIPE,
        text=True,
    )


def _check(helper: subprocess.Popen[str]) -> None:
    try:
        _, words = helper.communicate(timeout=CLEAR_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"not within {CLEAR_S} s") from None
    if helper.returncode:
        raise Failed(words.strip().splitlines()[-1][:200])


def finish(ours: Service) -> None:
    """Ends all that is due as a worker does, without sending any of it."""
    while claims := ours.sender.claim("benchmark", 1_000, lease_s=60).claims:
        verdicts = []
        for claim in claims:
            attempt = ours.sender.attempt([claim])
            next(attempt)
            try:
                attempt.send(SENT)
            except StopIteration as stop:
                verdicts += stop.value
        ours.sender.record("benchmark", verdicts)


def beside_all(say: Say, most: int, runs: int) -> list[dict[str, Any]]:
    """With 10,000 and with `most` waiting."""
    rows = []
    for waiting in (10_000, most):
        found = beside(waiting, 10_000, runs)
        say(
            "growth: {waiting:,} waiting: drain {drain_per_s:,.0f}/s, claim p99 {claim_p99_ms:.1f} ms,"
            " {bytes:.0f} bytes, pages {page_ms}".format(**found)
        )
        rows.append(found)
    return rows


if __name__ == "__main__":
    settings = Settings.from_env(env_file=None)
    mine = Service(
        Store(connect(settings.redis_address, answer_within_s=30)),
        settings,
        open_accounts(settings),
    )
    if sys.argv[1] == "finish":
        finish(mine)
    else:
        mine.purge()
