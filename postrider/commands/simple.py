"""`postrider send`, `scheduled`, `finished`, `purge`: what the simple API does, for a person or a script at a shell.

Tables and colour on a terminal; one line per delivery, its fields between tabs, anywhere else; `--json` answers as the
API does. Somebody else wrote the texts, so none reaches a terminal as it is.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from postrider import listing
from postrider.commands import files
from postrider.commands.shell import COLOURS, Parsers, as_json, opened, recipient, up_to
from postrider.commands.terminal import say, say_json, told
from postrider.errors import InvalidRequest
from postrider.model import Attachment, NewMessage
from postrider.service import Service
from postrider.store import Page, Store
from postrider.timing import in_zone

SCREENFUL = 20
"""Deliveries in a table, when nobody says."""
RECIPIENT_SHOWN, TEXT_SHOWN = 24, 12
"""Columns of a table that a recipient takes at most, and a text at least."""


def add_commands(commands: "Parsers[argparse.ArgumentParser]") -> None:
    """Adds these subcommands, each with its function as `run`."""
    json_too = as_json()
    what = "send a message, now or at a time"
    parser = commands.add_parser("send", help=what, description=what, parents=[json_too])
    parser.add_argument(
        "--to",
        metavar="SERVICE:UUID",
        type=recipient,
        action="append",
        required=True,
        help="whom to, for example telegram:42; may be repeated",
    )
    parser.add_argument(
        "--at",
        metavar="TIME",
        help="YYYY-MM-DD HH:MM:SS in the zone TZ, or ISO 8601 with an offset; left out: now",
    )
    parser.add_argument(
        "--timezone", metavar="ZONE", help="IANA zone of --at, for example Europe/Berlin"
    )
    parser.add_argument(
        "--attach",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="a file that goes with it; may be repeated, and BODY may then be ''",
    )
    parser.add_argument("body", metavar="BODY", help="the text; - reads it from standard input")
    parser.set_defaults(run=send)

    for which, what in (
        ("scheduled", "list what waits, soonest first"),
        ("finished", "list what ended, newest first"),
    ):
        parser = commands.add_parser(which, help=what, description=what, parents=[json_too])
        parser.add_argument(
            "--limit",
            metavar="N",
            type=up_to(listing.LONGEST_PAGE),
            help=f"at most so many; left out: {SCREENFUL} on a terminal, else {listing.PAGE}",
        )
        parser.add_argument("--cursor", metavar="C", help="where the part before left off")
        parser.set_defaults(run=show, which=which)

    what = "forget what is finished and failed, never what waits"
    parser = commands.add_parser("purge", help=what, description=what)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=purge)


@told
def send(args: argparse.Namespace) -> int:
    """Accepts one message and says what became of it."""
    with opened() as desk:
        service, zone, now = desk.service, desk.zone, desk.service.store.now()
        new = NewMessage(
            body=_stdin() if args.body == "-" else args.body,
            recipients=tuple(args.to),
            send_at=listing.moment(args.at, args.timezone, zone),
        )
        kept = files.keep(desk, args.attach) if args.attach else []
        try:
            attached = tuple(Attachment(stored.file.id) for stored in kept)
            message, recipients = service.accept(replace(new, attachments=attached))
        except BaseException:
            # But not what was accepted after all.
            service.files.forget([stored.file.id for stored in kept], now)
            raise
        answer = listing.accepted(message, recipients, zone)
        notices = service.checks.notices(message.files, recipients)
        desk.note("send", message.id)
    if args.json:
        return say_json(answer | ({"notices": notices} if notices else {}))
    lines = answer["scheduled"] or answer["started"]
    for line in lines:
        say(line)
    if (total := answer.get("total", 0)) > len(lines):
        say(f"and {total - len(lines)} more")
    for notice in notices:
        say(notice)
    say(f"Message: {answer['message']['id']}")
    return 0


def _stdin() -> str:
    """All of standard input, without the newline that ends its last line."""
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise InvalidRequest("body", "is not UTF-8") from None


@told
def show(args: argparse.Namespace) -> int:
    """One part of what waits or of what ended."""
    as_table = sys.stdout.isatty() and not args.json
    most = args.limit or (SCREENFUL if as_table else listing.PAGE)
    which: Literal["scheduled", "finished"] = args.which
    with opened() as desk:
        service, zone = desk.service, desk.zone
        list_ = service.scheduled if which == "scheduled" else service.finished
        page = list_(most, args.cursor)
        rows = list(_rows(page, service, zone))
    if args.json:
        word = listing.scheduled if which == "scheduled" else listing.finished
        return say_json(word(page, zone))
    if as_table and rows:
        _print_table(rows, zone)
    else:
        for row in rows:
            sys.stdout.write("\t".join(row) + "\n")
    if page.total or as_table:
        more = f"; the next: postrider {which} --cursor {page.next}" if page.next else ""
        sys.stderr.write(f"{len(rows)} of {page.total}{more}\n")
    return 0


def _rows(page: Page, service: Service, zone: ZoneInfo) -> Iterator[tuple[str, ...]]:
    """Due, messenger, recipient, state, text, id: safe to show."""
    now = service.store.now()
    for delivery, message in page.rows:
        due, to = in_zone(message.due_at, zone), delivery.recipient
        state = listing.state(delivery, message, now)
        text = message.body or (f"[{message.template.name}]" if message.template else "")
        yield tuple(map(listing.printable, (due, to.service, to.uuid, state, text, delivery.id)))


def _print_table(rows: list[tuple[str, ...]], zone: ZoneInfo) -> None:
    """As wide as the terminal: the text takes what the rest leaves, and where that is too little, the id goes."""
    console = Console()
    heads = (f"Due ({zone.key})", "Messenger", "Recipient", "State", "Text", "Id")
    widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    widths[2] = min(widths[2], RECIPIENT_SHOWN)
    if console.width - _width_beside_text(widths) < TEXT_SHOWN:
        widths.pop()
    widths[4] = max(TEXT_SHOWN, min(widths[4], console.width - _width_beside_text(widths)))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for head, width in zip(heads, widths, strict=False):
        table.add_column(head, width=width, no_wrap=True, overflow="ellipsis")
    for due, service, uuid, state, text, id_ in rows:
        colour = COLOURS.get(state, "dim")
        cells = (due, service, Text(uuid), Text(state, colour), Text(text), Text(id_, "dim"))
        table.add_row(*cells[: len(widths)])
    console.print(table)


def _width_beside_text(widths: list[int]) -> int:
    """What the other columns and the gaps between all of them take."""
    return sum(widths) - widths[4] + 2 * (len(widths) - 1)


@told
def purge(args: argparse.Namespace) -> int:
    """Forgets what ended, once somebody has said yes to how many."""
    with opened() as desk:
        if not args.yes:
            count = _forgettable(desk.service.store)
            if not sys.stdin.isatty():
                raise InvalidRequest(
                    "--yes",
                    f"is needed where nobody can be asked; it would forget {count} deliveries",
                )
            if count and not _asks(f"Forget {count} finished and failed deliveries? [y/N] "):
                say("Nothing was forgotten.")
                return 1
        say(f"{desk.service.purge()} deliveries forgotten.")
        desk.note("purge", "")
    return 0


def _forgettable(store: Store) -> int:
    """How many deliveries `purge` would forget."""
    counts = store.counts()
    return counts.finished + counts.failed


def _asks(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
