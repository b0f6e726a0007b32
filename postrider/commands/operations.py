"""`postrider stops`, `stop`, `go-on`, `ledger`, `incoming`, `schedules`: what operators do and ask.

What /api/v1 does for an admin, for whoever has a shell here.
"""

import argparse
import sys
from typing import Any

from postrider import listing, showing, stopping
from postrider.commands import shell
from postrider.commands.shell import Parsers, Shell, opened, show_fields
from postrider.commands.terminal import say, say_json, told
from postrider.errors import InvalidRequest, NotFound
from postrider.model import Client, is_message_id

ADMIN = Client("", "shell", "admin")


def add_commands(commands: "Parsers[argparse.ArgumentParser]") -> None:
    """Adds these subcommands, each with its function as `run`."""
    as_json = shell.as_json()
    what = "show what is stopped"
    parser = commands.add_parser("stops", help=what, description=what, parents=[as_json])
    parser.add_argument("list", nargs="?", choices=["list"], help="the same")
    parser.set_defaults(run=stops)
    for word, run, what in (
        ("stop", stop, "let nothing leave: of a client, an account, a messenger, or at all"),
        ("go-on", go_on, "undo a stop"),
    ):
        parser = commands.add_parser(word, help=what, description=what, parents=[as_json])
        parser.add_argument("--service", metavar="S", type=shell.text, help="a messenger")
        parser.add_argument(
            "--account", metavar="A", type=shell.text, help="one of its accounts; needs --service"
        )
        parser.add_argument(
            "--client", metavar="C", type=shell.text, help="the id or name of an API key or user"
        )
        parser.set_defaults(run=run)
    what = "show the balance: what was accepted, and what became of it"
    parser = commands.add_parser("ledger", help=what, description=what, parents=[as_json])
    parser.add_argument("--from", metavar="TIME", dest="from_", help="rounded down to the hour")
    parser.add_argument("--to", metavar="TIME", help="up to the hour that this lies in")
    parser.set_defaults(run=ledger)
    what = "show what people sent to our accounts, newest first"
    parser = commands.add_parser("incoming", help=what, description=what, parents=[as_json])
    for name, what in (("service", "a messenger"), ("account", "to which"), ("uuid", "from whom")):
        parser.add_argument(f"--{name}", metavar=name[0].upper(), type=shell.text, help=what)
    shell.add_page(parser)
    parser.set_defaults(run=incoming)
    _add_schedules(commands, as_json)


def _add_schedules(
    commands: "Parsers[argparse.ArgumentParser]", as_json: argparse.ArgumentParser
) -> None:
    what = "messages that repeat: list, show, pause, resume, delete"
    parser = commands.add_parser("schedules", help=what, description=what)
    parser.set_defaults(run=schedules, json=False, limit=shell.PAGE, cursor=None)
    acts = parser.add_subparsers(metavar="COMMAND")
    what = "list them, newest first"
    parser = acts.add_parser("list", help=what, description=what, parents=[as_json])
    shell.add_page(parser)
    parser.set_defaults(run=schedules)
    for word, run, what in (
        ("show", show_schedule, "show one, with its next dates and its message"),
        ("pause", pause_schedule, "stop its next message until it is resumed"),
        ("resume", resume_schedule, "let it go on"),
        ("delete", delete_schedule, "remove it, and stop its next message"),
    ):
        parser = acts.add_parser(word, help=what, description=what, parents=[as_json])
        parser.add_argument("id", metavar="ID", type=shell.text)
        parser.set_defaults(run=run)


# -- stops


@told
def stops(args: argparse.Namespace) -> int:
    """What is stopped, since when, and by whom."""
    with opened() as desk:
        return _show_stops(args, desk)


@told
def stop(args: argparse.Namespace) -> int:
    """Lets nothing leave of what is named; nothing named: nothing at all."""
    with opened() as desk:
        name = _scope(args, desk)
        desk.service.changes.stop(name, desk.who, desk.service.store.now())
        desk.note("stop", name)
        sys.stderr.write(
            "Nothing of it leaves, and nothing is lost, until `postrider go-on` with the same words.\n"
        )
        return _show_stops(args, desk)


@told
def go_on(args: argparse.Namespace) -> int:
    """Undoes a stop."""
    with opened() as desk:
        name = _scope(args, desk)
        if not desk.service.changes.go_on(name):
            raise NotFound("that is not stopped; `postrider stops` shows what is")
        desk.note("go-on", name)
        sys.stderr.write("It goes on.\n")
        return _show_stops(args, desk)


def _scope(args: argparse.Namespace, desk: Shell) -> str:
    desk.service.phones.sync()
    names = (args.service, args.account, args.client)
    return stopping.name_of(desk.service.accounts, *names, desk.clients.whose)


def _show_stops(args: argparse.Namespace, desk: Shell) -> int:
    found = sorted(desk.service.changes.stops().items())
    if args.json:
        return say_json({"stops": [showing.stop(name, at, by) for name, (at, by) in found]})
    rows = [(name, showing.iso(at) or "", by) for name, (at, by) in found]
    return shell.show_rows(("Stopped", "Since", "By"), rows, gives_way="By")


# -- asking


@told
def ledger(args: argparse.Namespace) -> int:
    """The balance of a span."""
    with opened() as desk:
        start = listing.at("--from", args.from_, desk.zone)
        end = listing.at("--to", args.to, desk.zone)
        answer = showing.balance(desk.service.ledger.balance(start, end))
    if args.json:
        return say_json(answer)
    show_fields(answer)
    return 0


@told
def incoming(args: argparse.Namespace) -> int:
    """One part of what people sent to our accounts."""
    with opened() as desk:
        page = desk.service.arrivals.page(
            args.limit, args.cursor, service=args.service, account=args.account, uuid=args.uuid
        )
    if args.json:
        return say_json({"incoming": [showing.heard(row) for row in page.rows], "next": page.next})
    rows = [
        (
            *(showing.iso(r.at) or "", r.service, r.account, r.uuid, r.name, r.kind),
            r.text or (r.file.name if r.file else ""),
        )
        for r in page.rows
    ]
    heads = ("At", "Messenger", "Account", "From", "Name", "Kind", "Text")
    return shell.show_rows(heads, rows, gives_way="Text", after=page.next)


# -- schedules


@told
def schedules(args: argparse.Namespace) -> int:
    """One part of the schedules."""
    if args.cursor is not None and not is_message_id(args.cursor):
        raise InvalidRequest("cursor", "is not one that this service gave")
    with opened() as desk:
        found = desk.service.schedules.page(ADMIN, args.limit + 1, args.cursor)
    shown = [showing.schedule(one) for one in found[: args.limit]]
    after = shown[-1]["id"] if len(found) > args.limit else None
    if args.json:
        return say_json({"schedules": shown, "next": after})
    heads = ("Next", "Zone", "State", "Made", "Repeats", "Id")
    return shell.show_rows(heads, list(map(_schedule_row, shown)), gives_way="Repeats", after=after)


def _schedule_row(one: dict[str, Any]) -> tuple[str, ...]:
    at = one["next"]["local"] if one["next"] else ""
    repeats = one["repeat"]["cron"] or one["repeat"]["rrule"] or ""
    return at, one["timezone"], one["state"], str(one["made"]), repeats, one["id"]


@told
def show_schedule(args: argparse.Namespace) -> int:
    """One schedule."""
    with opened() as desk:
        planner = desk.service.schedules
        answer = showing.whole_schedule(planner, planner.get(ADMIN, args.id))
    return _show_schedule(args, answer)


@told
def pause_schedule(args: argparse.Namespace) -> int:
    """Stops its next message until it is resumed."""
    return _change_schedule(args, "schedules pause", pause=True)


@told
def resume_schedule(args: argparse.Namespace) -> int:
    """Lets it go on."""
    return _change_schedule(args, "schedules resume", pause=False)


def _change_schedule(args: argparse.Namespace, action: str, *, pause: bool) -> int:
    with opened() as desk:
        planner = desk.service.schedules
        answer = showing.whole_schedule(planner, planner.change(ADMIN, args.id, pause=pause))
        desk.note(action, args.id)
    return _show_schedule(args, answer)


def _show_schedule(args: argparse.Namespace, answer: dict[str, Any]) -> int:
    if args.json:
        return say_json(answer)
    dates, makes = answer.pop("dates"), answer.pop("makes")
    show_fields(answer)
    for date in dates:
        say(f"date: {date['local']} ({date['utc']})")
    say(f"body: {makes.get('body', '')}")
    return 0


@told
def delete_schedule(args: argparse.Namespace) -> int:
    """Removes it, and stops its next message."""
    with opened() as desk:
        desk.service.schedules.delete(ADMIN, args.id)
        desk.note("schedules delete", args.id)
    if not args.json:
        say(f"{args.id} is removed.")
    return 0
