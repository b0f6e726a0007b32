"""`postrider suppressions list`, `add`, `remove`: addresses that nothing is sent to."""

import argparse
import sys
from dataclasses import asdict

from postrider import listing
from postrider.commands.shell import Parsers, add_page, as_json, opened, recipient
from postrider.commands.terminal import say, say_json, told


def add_commands(commands: "Parsers[argparse.ArgumentParser]") -> None:
    """Adds these subcommands, each with its function as `run`."""
    what = "addresses that nothing is sent to: they opted out, are dead, or you say so"
    suppressed = commands.add_parser("suppressions", help=what, description=what)
    acts = suppressed.add_subparsers(metavar="COMMAND", required=True)
    what = "list them"
    parser = acts.add_parser("list", help=what, description=what, parents=[as_json()])
    add_page(parser)
    parser.set_defaults(run=show_suppressions)
    for act, what in (("add", "send them nothing any more"), ("remove", "send to them again")):
        parser = acts.add_parser(act, help=what, description=what)
        parser.add_argument("to", metavar="SERVICE:UUID", type=recipient, nargs="+")
        parser.set_defaults(run=suppress if act == "add" else lift)
        if act == "add":
            parser.add_argument("--reason", metavar="TEXT", default="", help="shown in the list")


@told
def show_suppressions(args: argparse.Namespace) -> int:
    """One part of the addresses that nothing is sent to."""
    with opened() as desk:
        page = desk.service.suppressions.page(args.limit, args.cursor)
    if args.json:
        rows = [{**asdict(row), "at": row.at.isoformat()} for row in page.rows]
        return say_json({"suppressions": rows, "total": page.total, "next": page.next})
    for row in page.rows:
        fields = (row.service, row.uuid, row.why, row.at.isoformat(), row.reason)
        sys.stdout.write("\t".join(map(listing.printable, fields)) + "\n")
    more = f"; the next: postrider suppressions list --cursor {page.next}" if page.next else ""
    sys.stderr.write(f"{len(page.rows)} of {page.total}{more}\n")
    return 0


@told
def suppress(args: argparse.Namespace) -> int:
    """Has nothing sent to these addresses any more."""
    with opened() as desk:
        for to in args.to:
            desk.service.suppress(to.service, to.uuid, args.reason)
            desk.note("suppressions add", to.service)
    say(f"{len(args.to)} suppressed.")
    return 0


@told
def lift(args: argparse.Namespace) -> int:
    """Has these addresses sent to again; 1 when none of them was on the list."""
    with opened() as desk:
        removed = desk.service.suppressions.remove([(to.service, to.uuid) for to in args.to])
        desk.note("suppressions remove", "")
    say(f"{removed} of {len(args.to)} removed.")
    return 0 if removed else 1
