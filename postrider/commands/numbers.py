"""`postrider numbers check`: which numbers are on WhatsApp. 0 when all are known, 1 when some are not."""

import argparse

from postrider import linked, lookups
from postrider.commands import shell
from postrider.commands.operations import ADMIN
from postrider.commands.shell import Parsers, opened, show_rows
from postrider.commands.terminal import say_json, told
from postrider.errors import InvalidRequest


def add_commands(commands: "Parsers[argparse.ArgumentParser]") -> None:
    """Adds these subcommands, each with its function as `run`."""
    what = "find out which numbers are on WhatsApp"
    parser = commands.add_parser("numbers", help=what, description=what)
    acts = parser.add_subparsers(metavar="COMMAND", required=True)
    what = "ask a linked phone for those that are not known yet, as far as WHATSAPP_WEB_CHECK_CAP allows"
    parser = acts.add_parser("check", help=what, description=what, parents=[shell.as_json()])
    parser.add_argument(
        "number", metavar="NUMBER", type=shell.text, nargs="+", help="with country code"
    )
    parser.add_argument(
        "--session",
        metavar="NAME",
        type=shell.text,
        default="",
        help="left out: the only one, or `default`",
    )
    parser.set_defaults(run=check)


@told
def check(args: argparse.Namespace) -> int:
    """What is known of each."""
    if len(args.number) > lookups.MOST:
        raise InvalidRequest("number", f"at most {lookups.MOST} at once")
    with opened() as desk:
        session = desk.service.lookups.session_of(ADMIN, args.session)
        found = desk.service.lookups.look_up(ADMIN, session, args.number)
        desk.note("numbers check", f"{len(found)} numbers")
    code = int(any(one.found == "unknown" for one in found))
    if args.json:
        say_json({"session": session, "numbers": [linked.looked(one) for one in found]})
        return code
    heads = ("Number", "Found", "To", "Known from", "Reason")
    rows = [
        (
            f"+{one.number}" if one.number else one.given,
            one.found,
            one.to,
            one.known_from,
            one.reason,
        )
        for one in found
    ]
    show_rows(heads, rows, gives_way="Reason")
    return code
