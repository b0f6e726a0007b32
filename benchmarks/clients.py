"""What a POST costs in the HTTP client alone, without TLS and with it: 100 kept connections, no Redis, one process."""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import install
from install import PEERS
from stage import HERE, Stage

CLIENTS = {
    "aiohttp on uvloop": ("aiohttp_loop.py", Path(sys.executable)),
    "libcurl multi": ("pycurl_loop.py", PEERS / "python"),
    "by hand on uvloop": ("raw_loop.py", Path(sys.executable)),
}
"""The last one shows what the sink can take."""


def measure(say: Callable[[str], None], runs: int, count: int) -> dict[str, dict[str, float]]:
    """POSTs a second, and microseconds of CPU for each."""
    install.ready("python", say)
    shown: dict[str, list[dict[str, float]]] = {}
    for tls in (False, True):
        with Stage(tls=tls) as stage:
            for _ in range(runs):
                for name, (script, python) in CLIENTS.items():
                    command = [python, HERE / "limits" / script]
                    cost = stage.run([*command, "--url", stage.url, "--count", str(count)])
                    shown.setdefault(f"{name}{', TLS' * tls}", []).append(cost)
                    say(
                        f"clients: {name}{', TLS' * tls}: {cost['per_s']:,.0f}/s, {cost['cpu_us']:.0f} us"
                    )
    return {
        name: {key: statistics.median(cost[key] for cost in costs) for key in costs[0]}
        for name, costs in shown.items()
    }
