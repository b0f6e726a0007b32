"""Measures Postrider beside its peers and beside what the machine could do at most, and prints one page of tables.

    python benchmarks/run.py [--quick] [--runs 3] [--only postrider,bullmq-2,growth]

The page, its figures as JSON and a picture go to docs/, those of a part or of a quick run to .benchmarks/. What it does
meanwhile stands on stderr. benchmarks/README.md says what is measured, and how.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import api
import clients
import growth
import lateness
import picture
import table
from contestants import CONTESTANTS
from drain import Board, Sizes
from stage import CACHE, HERE, Failed, ends_on_signals

from postrider import embedded

PARTS = ("api", "lateness", "growth", "purge", "clients")
STARTED_AT = time.monotonic()


def say(words: str) -> None:
    """Progress."""
    seconds = time.monotonic() - STARTED_AT
    print(f"{seconds // 60:3.0f}:{seconds % 60:04.1f} {words}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Where it was measured, and what was."""
    cpus = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpus[1] if cpus else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "node": _says("node", "--version").removeprefix("v"),
        "redis": (re.findall(r"v=(\S+)", _says(embedded.find_server(), "--version")) or ["?"])[0],
        "commit": _says("git", "-C", HERE, "rev-parse", "--short", "HEAD"),
    }


def _says(*command: str | Path) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "none"
    return done.stdout.strip()


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    everything = [*(who.key for who in CONTESTANTS), *PARTS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="of each; the median counts")
    parser.add_argument("--quick", action="store_true", help="one small run of each: a rough look")
    parser.add_argument("--only", help=f"some of {', '.join(everything)}")
    parser.add_argument("--out", type=Path, help="folder for the page, the figures, the picture")
    args = parser.parse_args(argv)
    args.only = set(args.only.split(",")) if args.only else set(everything)
    if unknown := args.only - set(everything):
        parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(everything)}")
    if args.quick:
        args.runs = 1
    whole = args.only == set(everything) and not args.quick
    args.out = args.out or (HERE.parent / "docs" if whole else CACHE)
    return args


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every figure that was asked for."""
    quick = args.quick
    sizes = (
        Sizes(1, 2_000, 500, serial_messages=40, tries=False)
        if quick
        else Sizes(args.runs, 10_000, 2_000)
    )
    many = 50_000 if quick else 1_000_000
    found: dict[str, Any] = {
        "measured": machine(),
        "runs": args.runs,
        "messages": sizes.messages,
        "failed": {},
    }

    def part(name: str, figures: Callable[[], Any]) -> None:
        if name not in args.only:
            return
        try:
            found[name] = figures()
        except (Failed, OSError) as error:
            found["failed"][name] = str(error)
            say(f"{name}: FAILED: {error}")

    board = Board(args.only, sizes, say)
    board.run()
    found["contestants"] = board.told()
    part("lateness", lambda: lateness.measure(50 if quick else 200, 0.1, args.runs))
    part("api", lambda: api.measure(say, args.runs, 100_000, 3 if quick else 15))
    part("clients", lambda: clients.measure(say, args.runs, 5_000 if quick else 20_000))
    part("growth", lambda: growth.beside_all(say, many, args.runs))
    part("purge", lambda: growth.purging(say, many))
    return found


def main() -> None:
    args = parse()
    with ends_on_signals():
        found = measure(args)
    args.out.mkdir(exist_ok=True)
    (args.out / "benchmarks.json").write_text(json.dumps(found, indent=1) + "\n")
    page = table.page(found)
    (args.out / "benchmarks.md").write_text(page)
    if drawn := picture.draw(found):
        (args.out / "benchmarks.svg").write_text(drawn)
    print(page)
    say(f"written to {args.out}")


if __name__ == "__main__":
    main()
