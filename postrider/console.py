"""`postrider send`, `scheduled`, `finished`, `purge`, `suppressions`, `hooks set`: what the API does, for a person or a script at a shell.

Tables and colour on a terminal; one line per delivery, its fields between tabs, anywhere else; `--json` answers as the
API does. Somebody else wrote the texts, so none reaches a terminal as it is.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress as ignoring
from dataclasses import asdict
from typing import Literal
from zoneinfo import ZoneInfo

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from messengers import MESSENGERS
from messengers.base import Identity, NoReply, Webhook
from postrider import link, listing
from postrider.errors import InvalidRequest
from postrider.model import NewMessage, Recipient
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.shell import COLOURS
from postrider.store import Page, Store
from postrider.terminal import refuse as _refuse
from postrider.terminal import say as _say
from postrider.terminal import say_json as _say_json
from postrider.terminal import told as _told
from postrider.timing import in_zone
from postrider.transport import Blocking

SCREENFUL = 20
"""Deliveries in a table, when nobody says."""
RECIPIENT_SHOWN, TEXT_SHOWN = 24, 12
"""Columns of a table that a recipient takes at most, and a text at least."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds these subcommands, each with its function as `run`."""
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="answer as the API does")

    what = "send a message, now or at a time"
    parser = commands.add_parser("send", help=what, description=what, parents=[as_json])
    parser.add_argument(
        "--to",
        metavar="SERVICE:UUID",
        type=_recipient,
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
    parser.add_argument("body", metavar="BODY", help="the text; - reads it from standard input")
    parser.set_defaults(run=send)

    for which, what in (
        ("scheduled", "list what waits, soonest first"),
        ("finished", "list what ended, newest first"),
    ):
        parser = commands.add_parser(which, help=what, description=what, parents=[as_json])
        parser.add_argument(
            "--limit",
            metavar="N",
            type=_limit,
            help=f"at most so many; left out: {SCREENFUL} on a terminal, else {listing.PAGE}",
        )
        parser.add_argument("--cursor", metavar="C", help="where the part before left off")
        parser.set_defaults(run=show, which=which)

    what = "forget what is finished and failed, never what waits"
    parser = commands.add_parser("purge", help=what, description=what)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=purge)

    what = "addresses that nothing is sent to: they opted out, are dead, or you say so"
    suppressed = commands.add_parser("suppressions", help=what, description=what)
    acts = suppressed.add_subparsers(metavar="COMMAND", required=True)
    what = "list them"
    parser = acts.add_parser("list", help=what, description=what, parents=[as_json])
    parser.add_argument("--limit", metavar="N", type=_limit, default=listing.PAGE)
    parser.add_argument("--cursor", metavar="C", help="where the part before left off")
    parser.set_defaults(run=show_suppressions)
    for act, what in (("add", "send them nothing any more"), ("remove", "send to them again")):
        parser = acts.add_parser(act, help=what, description=what)
        parser.add_argument("to", metavar="SERVICE:UUID", type=_recipient, nargs="+")
        parser.set_defaults(run=suppress if act == "add" else lift)
        if act == "add":
            parser.add_argument("--reason", metavar="TEXT", default="", help="shown in the list")

    what = "tell a messenger where to reach us"
    hooks = commands.add_parser("hooks", help=what, description=what)
    what = "have a messenger post receipts and messages to us"
    parser = hooks.add_subparsers(metavar="COMMAND", required=True).add_parser(
        "set", help=what, description=what
    )
    parser.add_argument("messenger", metavar="MESSENGER", choices=MESSENGERS, help="such as viber")
    parser.add_argument("--account", metavar="NAME", default="default", help="left out: default")
    parser.add_argument(
        "--url", help="https:// address; left out: PUBLIC_URL/hooks/MESSENGER/ACCOUNT"
    )
    parser.set_defaults(run=set_hook)


def _recipient(text: str) -> Recipient:
    service, colon, uuid = text.partition(":")
    if not (service and colon):
        raise argparse.ArgumentTypeError(
            f"{text!r} names no messenger; write SERVICE:UUID, for example telegram:42"
        )
    return Recipient(uuid, service)


def _limit(text: str) -> int:
    with ignoring(ValueError):
        if 1 <= (number := int(text)) <= listing.LONGEST_PAGE:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not between 1 and {listing.LONGEST_PAGE}")


@_told
def send(args: argparse.Namespace) -> int:
    """Accepts one message and says what became of it."""
    with _service() as service:
        zone = ZoneInfo(service.settings.tz)
        new = NewMessage(
            body=_stdin() if args.body == "-" else args.body,
            recipients=tuple(args.to),
            send_at=listing.moment(args.at, args.timezone, zone),
        )
        answer = listing.accepted(*service.accept(new), zone)
    if args.json:
        return _say_json(answer)
    lines = answer["scheduled"] or answer["started"]
    for line in lines:
        _say(line)
    if (total := answer.get("total", 0)) > len(lines):
        _say(f"and {total - len(lines)} more")
    _say(f"Message: {answer['message']['id']}")
    return 0


def _stdin() -> str:
    """All of standard input, without the newline that ends its last line."""
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise InvalidRequest("body", "is not UTF-8") from None


@_told
def show(args: argparse.Namespace) -> int:
    """One part of what waits or of what ended."""
    as_table = sys.stdout.isatty() and not args.json
    limit = args.limit or (SCREENFUL if as_table else listing.PAGE)
    which: Literal["scheduled", "finished"] = args.which
    with _service() as service:
        zone = ZoneInfo(service.settings.tz)
        list_ = service.scheduled if which == "scheduled" else service.finished
        page = list_(limit, args.cursor)
        rows = list(_rows(page, service, zone))
    if args.json:
        word = listing.scheduled if which == "scheduled" else listing.finished
        return _say_json(word(page, zone))
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


@_told
def purge(args: argparse.Namespace) -> int:
    """Forgets what ended, once somebody has said yes to how many."""
    with _service() as service:
        if not args.yes:
            count = _forgettable(service.store)
            if not sys.stdin.isatty():
                raise InvalidRequest(
                    "--yes",
                    f"is needed where nobody can be asked; it would forget {count} deliveries",
                )
            if count and not _asks(f"Forget {count} finished and failed deliveries? [y/N] "):
                _say("Nothing was forgotten.")
                return 1
        _say(f"{service.purge()} deliveries forgotten.")
    return 0


def _forgettable(store: Store) -> int:
    """How many deliveries `purge` would forget."""
    counts = store.counts()
    return counts.finished + counts.failed


def _asks(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


@_told
def show_suppressions(args: argparse.Namespace) -> int:
    """One part of the addresses that nothing is sent to."""
    with _service() as service:
        page = service.suppressions.page(args.limit, args.cursor)
    if args.json:
        rows = [{**asdict(row), "at": row.at.isoformat()} for row in page.rows]
        return _say_json({"suppressions": rows, "total": page.total, "next": page.next})
    for row in page.rows:
        fields = (row.service, row.uuid, row.why, row.at.isoformat(), row.reason)
        sys.stdout.write("\t".join(map(listing.printable, fields)) + "\n")
    more = f"; the next: postrider suppressions list --cursor {page.next}" if page.next else ""
    sys.stderr.write(f"{len(page.rows)} of {page.total}{more}\n")
    return 0


@_told
def suppress(args: argparse.Namespace) -> int:
    """Has nothing sent to these addresses any more."""
    with _service() as service:
        for to in args.to:
            service.suppress(to.service, to.uuid, args.reason)
    _say(f"{len(args.to)} suppressed.")
    return 0


@_told
def lift(args: argparse.Namespace) -> int:
    """Has these addresses sent to again; 1 when none of them was on the list."""
    with _service() as service:
        removed = service.suppressions.remove([(to.service, to.uuid) for to in args.to])
    _say(f"{removed} of {len(args.to)} removed.")
    return 0 if removed else 1


@_told
def set_hook(args: argparse.Namespace) -> int:
    """Has the messenger call our webhook from now on."""
    settings = Settings.from_env()
    name, account = args.messenger, args.account
    accounts = open_accounts(settings)
    adapter: object = accounts.get((name, account))
    if adapter is None:
        there = ", ".join(other for messenger, other in accounts if messenger == name)
        needs = ", ".join(MESSENGERS[name].needs) or "SANDBOX=on"
        why = (
            f"has no account {account!r}, only {there}"
            if there
            else f"is not set up; it needs {needs}"
        )
        raise InvalidRequest(name, why)
    if not isinstance(adapter, Webhook):
        raise InvalidRequest(name, "calls no webhook, so there is none to set")
    if lacks := adapter.webhook_lacks():
        raise InvalidRequest(
            name,
            f"could not be told from a forger: set {' and '.join(lacks)}, and start the API anew",
        )
    url = _hook_url(args.url, settings, f"/hooks/{name}/{account}")
    transport = Blocking(lambda _: None, tls_verify=settings.tls_verify)
    reply = transport.send(adapter.webhook_request(url))
    outcome = reply if isinstance(reply, NoReply) else adapter.read_webhook(reply)
    if isinstance(outcome, Identity):
        _say(f"{name} calls {url} from now on, with: {outcome.name}")
        return 0
    return _refuse(
        f"{name}: {outcome.reason or 'refuses without a reason'}: it calls {url} before it answers,"
        " so the API must run and be reached there from outside"
    )


def _hook_url(given: str | None, settings: Settings, path: str) -> str:
    if given is None and settings.public_url is None:
        raise InvalidRequest(
            "PUBLIC_URL", "is not set: how is this API reached from outside? Set it, or give --url"
        )
    name, url = (
        ("--url", given) if given else ("PUBLIC_URL", f"{settings.public_url}".rstrip("/") + path)
    )
    if not url.startswith("https://"):
        raise InvalidRequest(name, f"messengers call https:// addresses only, and {url} is none")
    return url


@contextmanager
def _service() -> Iterator[Service]:
    settings = Settings.from_env()
    with link.connect(settings.redis_address) as client:
        store = Store(client, durability=settings.durability)
        service = Service(store, settings, open_accounts(settings))
        yield service
        service.counts.flush()
