"""The service, for a command: opened over the settings; what is changed is noted; lists as a table or line by line."""

import argparse
import getpass
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from postrider import link
from postrider.audit import Audit
from postrider.clients import Clients
from postrider.commands.terminal import say
from postrider.listing import printable
from postrider.model import Recipient
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.showing import csv_lines
from postrider.store import Store

PAGE, LONGEST_PAGE = 100, 1_000
"""Rows in one part of a list: when nobody says, and at most."""
NARROWEST = 12
"""Columns of a table that the cell which gives way keeps."""
COLOURS = {
    **dict.fromkeys(("sent", "delivered", "read", "active"), "green"),
    **dict.fromkeys(("scheduled", "queued", "sending"), "cyan"),
    **dict.fromkeys(("retrying", "unknown", "paused", "partially_delivered"), "yellow"),
    **dict.fromkeys(("failed", "expired"), "red"),
}
Parsers = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it


@dataclass(frozen=True, slots=True)
class Shell:
    """What the commands work with, and who is at work."""

    service: Service
    zone: ZoneInfo
    who: str

    @property
    def clients(self) -> Clients:
        """Who may come in."""
        return Clients(self.service.store.redis)

    @property
    def audit(self) -> Audit:
        """Who did what."""
        return Audit(self.service.store.redis, self.service.settings.audit_kept)

    def note(self, action: str, what: str) -> None:
        """Writes into the audit log that it was done."""
        self.audit.write(
            "changed", actor="", name=self.who, action=action, what=what, address="", result="ok"
        )


@contextmanager
def opened() -> Iterator[Shell]:
    """The service over the settings, with all that the user of the settings may do."""
    settings = Settings.from_env()
    with link.connect(settings.redis_address) as client:
        service = Service(
            Store(client, durability=settings.durability), settings, open_accounts(settings)
        )
        yield Shell(service, ZoneInfo(settings.tz), f"shell:{user()}")
        service.counts.flush()


def user() -> str:
    """Who is at the shell, as the system calls them."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user on this machine, as in many a container
        return "?"


# -- what is asked for


def as_json() -> argparse.ArgumentParser:
    """What is asked the same way everywhere, as a parent of parsers."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--json", action="store_true", help="answer as the API does")
    return parser


def add_page(parser: argparse.ArgumentParser) -> None:
    """Has it ask which part of a list."""
    parser.add_argument(
        "--limit", metavar="N", type=up_to(LONGEST_PAGE), default=PAGE, help="at most so many"
    )
    parser.add_argument("--cursor", metavar="C", type=text, help="where the part before left off")


def up_to(most: int) -> Callable[[str], int]:
    """What reads an argument that says how many rows, at most `most`."""

    def limit(given: str) -> int:
        number = int(given) if given.isdecimal() and len(given) < 6 else 0
        if not 1 <= number <= most:
            raise argparse.ArgumentTypeError(f"{given!r} is not between 1 and {most}")
        return number

    return limit


def recipient(text: str) -> Recipient:
    """An argument that names one recipient."""
    service, colon, uuid = text.partition(":")
    if not (service and colon):
        raise argparse.ArgumentTypeError(
            f"{text!r} names no messenger; write SERVICE:UUID, for example telegram:42"
        )
    return Recipient(uuid, service)


def text(given: str) -> str:
    """An argument as it is, if it is text: Redis can be asked for nothing else."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not UTF-8") from None
    return given


# -- what is answered


def show_rows(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, gives_way: str, after: str | None = None
) -> int:
    """A table at a terminal, whose column `gives_way` takes what the others leave; anywhere else lines, with tabs between.

    `after`: the cursor of the next part, or None.
    """
    safe = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty() and safe:
        _print_table(heads, safe, heads.index(gives_way))
    else:
        sys.stdout.writelines("\t".join(row) + "\n" for row in safe)
    if after:
        sys.stderr.write(f"the next: the same with --cursor {after}\n")
    elif sys.stdout.isatty() and not safe:
        sys.stderr.write("There is none.\n")
    return 0


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], gives_way: int) -> None:
    console = Console()
    widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    others = sum(widths) - widths[gives_way] + 2 * (len(widths) - 1)
    widths[gives_way] = max(NARROWEST, min(widths[gives_way], console.width - others))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for head, width in zip(heads, widths, strict=True):
        table.add_column(head, width=width, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(
            *(
                Text(cell, COLOURS.get(cell, "") if head == "State" else "")
                for head, cell in zip(heads, row, strict=True)
            )
        )
    console.print(table)


def show_fields(fields: Mapping[str, Any]) -> None:
    """A line for each that has a value."""
    for name, value in fields.items():
        if worded := _in_words(value):
            say(f"{name}: {worded}")


def _in_words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {n}" for name, n in value.items() if n is not None)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def write_csv(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> int:
    """What stands in rows under these names, as CSV; a terminal gets no text as it is."""
    if sys.stdout.isatty():
        rows = ({k: printable(v) if isinstance(v, str) else v for k, v in r.items()} for r in rows)
    sys.stdout.writelines(csv_lines(rows, names))
    return 0
