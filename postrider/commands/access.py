"""`postrider keys`, `users`, `audit`: who may come in, and who did what, for whoever has a shell here.

Nobody is asked who they are: who can read the settings can do all this anyway. The audit log has the name of the shell's user.
"""

import argparse
import getpass
import sys

from postrider import access
from postrider.audit import Wanted
from postrider.clients import Clients, Kind, Known
from postrider.commands import shell
from postrider.commands.shell import Parsers, opened
from postrider.commands.terminal import say, say_json, told
from postrider.errors import InvalidRequest, NotFound
from postrider.model import ROLES, Quota


def add_commands(commands: "Parsers[argparse.ArgumentParser]") -> None:
    """Adds these subcommands, each with its function as `run`."""
    as_json = shell.as_json()
    _add_keys(commands, as_json)
    _add_users(commands, as_json)
    what = "show who did what"
    parser = commands.add_parser("audit", help=what, description=what, parents=[as_json])
    parser.add_argument("--actor", metavar="WHO", help="only what this client did, by id or name")
    parser.add_argument("--action", metavar="WHAT", help="only this, for example login")
    shell.add_page(parser)
    parser.set_defaults(run=show_audit)


def _add_keys(
    commands: "Parsers[argparse.ArgumentParser]", as_json: argparse.ArgumentParser
) -> None:
    what = "make, list and revoke API keys"
    parser = commands.add_parser("keys", help=what, description=what)
    keys = parser.add_subparsers(metavar="COMMAND", required=True)
    what = "make a key; it is shown this once"
    parser = keys.add_parser("create", help=what, description=what, parents=[as_json])
    _add_client(parser)
    parser.set_defaults(run=create_key)
    _add_list(keys, "key", as_json)
    _add_drop(keys, "revoke", "key", "take a key away at once")


def _add_users(
    commands: "Parsers[argparse.ArgumentParser]", as_json: argparse.ArgumentParser
) -> None:
    what = "make, list and delete users, and set their passwords"
    parser = commands.add_parser("users", help=what, description=what)
    users = parser.add_subparsers(metavar="COMMAND", required=True)
    what = "make a user; the password is asked for, or read from standard input"
    parser = users.add_parser("create", help=what, description=what, parents=[as_json])
    _add_client(parser)
    parser.set_defaults(run=create_user)
    _add_list(users, "user", as_json)
    _add_drop(users, "delete", "user", "take a user away at once")
    what = "set a user's password; it is asked for, or read from standard input"
    parser = users.add_parser("password", help=what, description=what)
    parser.add_argument("who", metavar="ID|NAME")
    parser.set_defaults(run=set_password)


def _add_client(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", metavar="N", required=True, help="unlike any other's")
    parser.add_argument("--role", choices=ROLES, required=True, help="what it may do")
    parser.add_argument("--rate", metavar="N", type=float, help="requests per second")
    parser.add_argument("--waiting", metavar="N", type=int, help="deliveries that wait at once")
    parser.add_argument("--recipients", metavar="N", type=int, help="recipients in one message")
    parser.add_argument("--file-bytes", metavar="N", type=int, help="bytes of all files kept")


def _add_list(
    commands: "Parsers[argparse.ArgumentParser]", kind: Kind, as_json: argparse.ArgumentParser
) -> None:
    what = f"list {kind}s"
    parser = commands.add_parser("list", help=what, description=what, parents=[as_json])
    shell.add_page(parser)
    parser.set_defaults(run=show_clients, kind=kind)


def _add_drop(
    commands: "Parsers[argparse.ArgumentParser]", word: str, kind: Kind, what: str
) -> None:
    parser = commands.add_parser(word, help=what, description=what)
    parser.add_argument("who", metavar="ID|NAME")
    parser.set_defaults(run=drop, kind=kind)


def _quota(args: argparse.Namespace) -> Quota:
    access.check_name(args.name)
    quota = Quota(args.rate, args.waiting, args.recipients, args.file_bytes)
    access.check_quota(quota)
    return quota


@told
def create_key(args: argparse.Namespace) -> int:
    """Makes a key and shows it, this once."""
    quota = _quota(args)
    with opened() as desk:
        made, key = desk.clients.add_key(args.name, args.role, desk.who, quota)
        desk.note("keys create", made.id)
    if args.json or not sys.stdout.isatty():
        return say_json({"id": made.id, "key": key})
    say(f"Id: {made.id}")
    say(f"Key: {key}")
    sys.stderr.write("It is shown this once; whoever has it may do what its role may.\n")
    return 0


@told
def create_user(args: argparse.Namespace) -> int:
    """Makes a user."""
    quota = _quota(args)
    with opened() as desk:
        access.refuse_name(args.name, desk.service.settings)
        password = _password()
        made = desk.clients.add_user(args.name, args.role, desk.who, quota, password)
        desk.note("users create", made.id)
    if args.json:
        return say_json(access.told(made))
    say(f"Id: {made.id}")
    return 0


def _password() -> str:
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Once more: ") != password:
            raise InvalidRequest("password", "is another one the second time")
    else:
        password = sys.stdin.readline().rstrip("\n")
    access.check_password(password)
    return password


@told
def set_password(args: argparse.Namespace) -> int:
    """Gives a user another password."""
    with opened() as desk:
        one = _find(desk.clients, "user", args.who)
        desk.clients.change("user", one.id, password=_password())
        desk.note("users password", one.id)
    say(f"{one.name} has another password; the one before is worth nothing from now on.")
    return 0


@told
def show_clients(args: argparse.Namespace) -> int:
    """A part of the keys or of the users: id, name, role, made, last there, state."""
    with opened() as desk:
        found, after = desk.clients.page(args.kind, args.limit, args.cursor)
    if args.json:
        return say_json({f"{args.kind}s": [access.told(one) for one in found], "next": after})
    for one in found:
        used = f"{one.used_at:%Y-%m-%d %H:%M}" if one.used_at else "never"
        state = "disabled" if one.disabled_at else "on"
        row = (one.id, one.name, one.role, f"{one.created_at:%Y-%m-%d %H:%M}", used, state)
        sys.stdout.write("\t".join(row) + "\n")
    return _tell_next(f"{args.kind}s list", after)


def _tell_next(command: str, after: str | None) -> int:
    if after:
        sys.stderr.write(f"the next: postrider {command} --cursor {after}\n")
    return 0


@told
def drop(args: argparse.Namespace) -> int:
    """Takes a key or a user away."""
    with opened() as desk:
        one = _find(desk.clients, args.kind, args.who)
        desk.clients.delete(args.kind, one.id)
        desk.note(f"{args.kind}s {'revoke' if args.kind == 'key' else 'delete'}", one.id)
    say(f"{one.name} is worth nothing from now on; what it sent stays, and goes out.")
    return 0


def _find(clients: Clients, kind: Kind, who: str) -> Known:
    one = clients.find(who) if len(who) <= access.LONGEST_NAME else None
    if one is None or one.kind != kind:
        one = clients.named(kind, who)
    if one is None:
        raise NotFound(f"no {kind} has the id or name {who[: access.LONGEST_NAME]}")
    return one


@told
def show_audit(args: argparse.Namespace) -> int:
    """A part of the audit log, newest first: when, who, what, which, from where, with what result."""
    with opened() as desk:
        found, after = desk.audit.page(Wanted(args.actor, args.action), args.limit, args.cursor)
    if args.json:
        return say_json({"entries": [access.told_entry(e) for e in found], "next": after})
    for e in found:
        row = (f"{e.at:%Y-%m-%d %H:%M:%S}", e.name, e.action, e.what, e.address, e.result)
        say("  ".join(field or "-" for field in row))
    return _tell_next("audit", after)
