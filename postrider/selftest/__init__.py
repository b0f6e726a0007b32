"""`postrider selftest [--kill]`: a proof on this machine that nothing is lost and nothing doubled in silence.

It needs no account and touches no live data: a Redis of its own, messengers of its own, in a folder of its own.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from postrider.selftest.balance import COLUMNS, Key, share
from postrider.selftest.run import Plan, Result, run

MESSAGES = 2_000
SECONDS = {True: 60, False: 15}
"""How long messages fall due when nobody says: with kills, and without."""
KILLS = 20
MOST_MESSAGES, LONGEST_S, MOST_KILLS = 1_000_000, 86_400, 100_000

REMOVALS = 50
Line = tuple[bool | None, str, str]
"""Whether that is well (None: it is neither), what it is, and how much."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `selftest`."""
    what = "prove on this machine that nothing is lost: private Redis, fake messengers, real kills"
    parser = commands.add_parser("selftest", help=what, description=what)
    parser.add_argument(
        "--kill", action="store_true", help="SIGKILL random processes of it meanwhile"
    )
    numbers: tuple[tuple[str, int, int, str], ...] = (
        ("--messages", 1, MOST_MESSAGES, f"messages to send; left out: {MESSAGES}"),
        (
            "--seconds",
            1,
            LONGEST_S,
            f"time over which they fall due; left out: {SECONDS[True]} with --kill, else {SECONDS[False]}",
        ),
        ("--kills", 1, MOST_KILLS, f"how many, with --kill; left out: {KILLS}"),
        ("--seed", 0, 2**63, "repeats the choices of an earlier run"),
    )
    for name, least, most, help_ in numbers:
        parser.add_argument(name, metavar="N", type=_between(least, most), help=help_)
    parser.set_defaults(run=selftest, parser=parser)


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        with suppress(ValueError):
            if least <= (found := int(text)) <= most:
                return found
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number between {least} and {most}"
        )

    return number


def selftest(args: argparse.Namespace) -> int:
    """0 when nothing was lost, nothing doubled in silence, and the balance holds."""
    if args.kills and not args.kill:
        args.parser.error("--kills: says how many processes --kill kills; give --kill, too")
    plan = Plan(
        messages=args.messages or MESSAGES,
        seconds=args.seconds or SECONDS[args.kill],
        kills=(args.kills or KILLS) if args.kill else 0,
        seed=random.SystemRandom().randrange(10**9) if args.seed is None else args.seed,
    )
    folder = Path(tempfile.mkdtemp(prefix="postrider-selftest-"))
    keep = False
    console = Console(highlight=False)
    try:
        sys.stdout.write(f"seed {plan.seed}\n")
        sys.stdout.flush()
        if console.is_terminal:
            with console.status("Starting …") as status:
                result = run(plan, folder, lambda what: status.update(f"{what} …"))
        else:
            result = run(plan, folder, _in_silence)
        keep = not result.balance.ok
        _print(console, list(lines(plan, result)))
        console.print(verdict(result, folder), soft_wrap=True)
    except KeyboardInterrupt:
        return 130
    except BaseException:
        keep = (folder / "processes.log").exists()  # it says why
        raise
    finally:
        if not keep:
            _remove(folder)
    return 1 if keep else 0


def _remove(folder: Path) -> None:
    """Takes the folder away, also when a process that was just being started still writes into it."""
    for _ in range(REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _in_silence(_: str) -> None:
    """Nobody watches: a log has no use for progress."""


def _print(console: Console, told: list[Line]) -> None:
    if not console.is_terminal:
        sys.stdout.writelines(f"{name:22}{value}\n" for _, name, value in told)
        return
    table = Table.grid(padding=(0, 2))
    for well, name, value in told:
        mark = Text("") if well is None else Text("✓", "green") if well else Text("✗", "bold red")
        table.add_row(mark, Text(name, "bold"), Text(value, "" if well is not False else "red"))
    console.print("", table, "")


def lines(plan: Plan, result: Result) -> Iterator[Line]:
    """The balance, one figure each."""
    b = result.balance
    doubt = f"; {b.in_doubt} of them without an answer to their client" if b.in_doubt else ""
    yield None, "messages", f"{plan.messages} in {result.took_s:.0f} s{doubt}"
    told = ", ".join(f"{count} {name}" for name, count in sorted(result.kills.items()))
    yield None, "kills", f"{sum(result.kills.values())}{f': {told}' if told else ''}"
    yield None, "calls to messengers", f"{result.calls}"
    yield b.holds, "accepted deliveries", f"{b.accepted}"
    for name in COLUMNS:
        why = "; ".join(f"{count} {words}" for words, count in b.failures.most_common(3))
        note = f": {why}" if name == "failed" and why else ""
        yield None, f"  {name}", f"{b.columns[name]}{note}"
    yield not b.lost, "lost", _some(b.lost)
    yield not b.silent, "silent doubles", _some(b.silent)
    yield None, "doubles on record", f"{b.doubles}: the answer was lost, or a worker killed"
    if b.unasked:
        yield False, "never accepted", _some(b.unasked)
    yield not b.early, "early", _some(b.early)
    late = [f"{share(b.lateness_s, part):.3f}" for part in (0.5, 0.99, 1)]
    yield None, "lateness", f"half {late[0]} s, 99 % {late[1]} s, most {late[2]} s"
    if result.kills["worker"]:
        longest = f", all found within {b.orphans_s[-1]:.1f} s" if b.orphans_s else ""
        yield None, "orphans", f"{len(b.orphans_s)} held by killed workers{longest}"


def _some(keys: Sequence[Key]) -> str:
    """How many, and the first of them."""
    shown = ", ".join(":".join(key) for key in keys[:5])
    return f"{len(keys)}{f': {shown}' if shown else ''}{' …' if len(keys) > 5 else ''}"


def verdict(result: Result, folder: Path) -> Text:
    """The last words; after a failure, what to do next."""
    if result.balance.ok:
        return Text("Nothing was lost, and nothing was doubled in silence.", "bold green")
    what = "Something waits and moves no more" if not result.still else "A promise was broken"
    return Text(
        f"{what}. That is a fault of Postrider: report it with the lines above and {folder}, which was kept;"
        f" {folder / 'processes.log'} tells what its processes said. It holds no data of yours.",
        "bold red",
    )
