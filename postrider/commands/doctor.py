"""`postrider doctor`: the diagnosis, told to a person at a terminal or to a script; and who has written to our bots.

The way to learn ids: people write to a bot, the doctor names them. Secrets are never shown.
"""

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from postrider import listing
from postrider.diagnosis import Report, State, examine

PEOPLE_SHOWN = 20
MARKS: Mapping[State, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "fault": ("✗", "red"),
    "off": ("-", "dim"),
}
"""State -> its mark and colour."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `doctor`."""
    what = "look into settings, Redis, workers and messengers; list who has written to the bots"
    parser = commands.add_parser("doctor", help=what, description=what)
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(run=doctor)


def doctor(args: argparse.Namespace) -> int:
    """Looks, tells; 0 when nothing is at fault."""
    if args.json:
        report = examine()
        sys.stdout.write(json.dumps(_as_json(report)) + "\n")
    elif sys.stdout.isatty():
        console = Console(highlight=False)
        with console.status("Looking …") as status:
            report = examine(lambda what: status.update(f"Looking at {what} …"))
        console.print(_as_page(report))
    else:
        report = examine()
        sys.stdout.writelines(f"{line}\n" for line in _as_lines(report))
    return 0 if report.ok else 1


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "checks": [asdict(check) for check in report.checks],
        "people": {
            account: [{"uuid": person.to, "name": person.name} for person in people.values()]
            for account, people in report.people.items()
        },
    }


def _as_lines(report: Report) -> Iterator[str]:
    """One check, one person a line."""
    for check in report.checks:
        remedy = f" -> {check.remedy}" if check.remedy else ""
        yield listing.printable(f"{check.state:8}{check.name}: {check.detail}{remedy}")
    for account, people in report.people.items():
        for person in people.values():
            yield listing.printable(f"person  {account}: {person.to} {person.name}")


def _as_page(report: Report) -> Group:
    checks = Table.grid(padding=(0, 2))
    for check in report.checks:
        mark, colour = MARKS[check.state]
        told = Text(listing.printable(check.detail), "dim" if check.state == "off" else "")
        if check.remedy:
            told.append(
                f"\n→ {listing.printable(check.remedy)}", "dim" if check.state == "off" else colour
            )
        checks.add_row(Text(mark, f"bold {colour}"), Text(check.name, "bold"), told)
    title = Text.assemble(
        ("Postrider", "bold"), f" {version('postrider')}, Python {platform.python_version()}"
    )
    return Group("", title, "", Padding(checks, (0, 1)), "", *_people(report), _verdict(report), "")


def _people(report: Report) -> Iterator[Table | Text]:
    rows = [(a, person) for a, people in report.people.items() for person in people.values()]
    if rows:
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for column in ("service", "uuid", "who has written there"):
            table.add_column(column, overflow="fold")
        for account, person in rows[:PEOPLE_SHOWN]:
            service = account.removesuffix("/default")
            table.add_row(service, Text(person.to, "cyan"), Text(listing.printable(person.name)))
        yield table
        if len(rows) > PEOPLE_SHOWN:
            more = len(rows) - PEOPLE_SHOWN
            yield Text(f"and {more} more: postrider doctor --json lists all", "dim")
        yield Text()
    elif report.people:
        bots = " or ".join(account.removesuffix("/default") for account in report.people)
        yield Text(
            f"Nobody has written to {bots} yet. Write to the bot, then run this again: it shows your id.\n"
        )


def _verdict(report: Report) -> Text:
    count = {state: sum(check.state == state for check in report.checks) for state in MARKS}
    told = ", ".join(
        f"{count[state]} {state}{'s' * (count[state] > 1)}"
        for state in ("fault", "warning")
        if count[state]
    )
    if not told:
        return Text("All is well.", "bold green")
    return Text(
        f"{told}: the arrows say what to do", "bold red" if count["fault"] else "bold yellow"
    )
