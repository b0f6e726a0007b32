"""How late messages leave: one every `--every` seconds, through the real API, to a messenger on loopback.

    python benchmarks/lateness.py [--messages 200] [--every 0.1]

Starts a Redis, the API and one worker in a temporary folder, and prints the lateness of each request as the messenger saw
it: below zero would be early.
"""

import argparse
import statistics
import time

from api import medians, message, percentile, served
from contestants import BIN
from stage import Stage, ends_on_signals


def measure(messages: int, every_s: float, runs: int) -> dict[str, object]:
    """The medians of so many runs; of the worst and of those too early, all that there were."""
    found = [once(messages, every_s) for _ in range(runs)]
    worst, early = max(one["worst_ms"] for one in found), sum(one["early"] for one in found)
    return {**medians(found), "worst_ms": worst, "early": early}


def once(messages: int, every_s: float) -> dict[str, float]:
    """The lateness in ms."""
    with Stage() as stage, served(stage) as client:
        stage.start([BIN / "postrider", "worker"])
        stage.wait_quiet()
        first_at = time.time() + 2 + messages * 0.01
        due = {str(n): first_at + n * every_s for n in range(messages)}
        for uuid, at in due.items():
            body = message(range(int(uuid), int(uuid) + 1), at)
            client.call("POST", "/send_message", body)
        time.sleep(max(0.0, max(due.values()) - time.time()))
        stage.wait_for(messages)
        arrived = dict(stage.ask_sink("report"))
    late_ms = [(arrived[uuid] - at) * 1000 for uuid, at in due.items()]
    return {
        "messages": messages,
        "every_s": every_s,
        "first_ms": min(late_ms),
        "p50_ms": statistics.median(late_ms),
        "p99_ms": percentile(late_ms, 0.99),
        "worst_ms": max(late_ms),
        "early": sum(late < 0 for late in late_ms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--every", type=float, default=0.1, help="seconds between two")
    parser.add_argument("--runs", type=int, default=1, help="of which the medians count")
    args = parser.parse_args()
    with ends_on_signals():
        found = measure(args.messages, args.every, args.runs)
    print("{messages:.0f} messages, one every {every_s} s; lateness in ms:".format(**found))
    print(
        "  first {first_ms:.1f}  p50 {p50_ms:.1f}  p99 {p99_ms:.1f}  worst {worst_ms:.1f}  early {early}".format(
            **found
        )
    )


if __name__ == "__main__":
    main()
