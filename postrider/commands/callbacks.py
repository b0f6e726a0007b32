"""`postrider callbacks list`, `replay`, `test`: what became of callbacks, and a signed event to see whether a receiver is well.

One line per callback, its fields between tabs; `--json` answers as the API does.
"""

import argparse
import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from messengers.base import NoReply, Reply
from postrider import callbacks, link, listing
from postrider.callbacks import Event
from postrider.errors import Misconfigured, PostriderError
from postrider.outbox import Callback, Outbox
from postrider.outward import Outward
from postrider.settings import Settings

SHOWN = 100


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `callbacks` with its subcommands, each with its function as `run`."""
    what = "list and replay callbacks, and test a receiver of them"
    parser = commands.add_parser("callbacks", help=what, description=what)
    subcommands = parser.add_subparsers(metavar="COMMAND", required=True)

    what = "list callbacks, newest first"
    parser = subcommands.add_parser("list", help=what, description=what)
    parser.add_argument("--state", choices=("dead", "waiting", "done"), default="dead")
    parser.add_argument("--limit", metavar="N", type=int, default=SHOWN, help=f"left out: {SHOWN}")
    parser.add_argument("--cursor", metavar="C", help="where the part before left off")
    parser.add_argument("--json", action="store_true", help="answer as the API does")
    parser.set_defaults(run=show)

    what = "try callbacks anew that have ended; without an id, all dead ones"
    parser = subcommands.add_parser("replay", help=what, description=what)
    parser.add_argument("id", metavar="ID", nargs="*")
    parser.set_defaults(run=replay)

    what = "post a signed event to a receiver, and show what it answers"
    parser = subcommands.add_parser("test", help=what, description=what)
    parser.add_argument("url", metavar="URL")
    parser.set_defaults(run=test)


@contextmanager
def _outbox() -> Iterator[Outbox]:
    with link.connect(Settings.from_env().redis_address) as client:
        yield Outbox(client)


def show(args: argparse.Namespace) -> int:
    """Lists."""
    try:
        with _outbox() as outbox:
            limit = min(max(args.limit, 1), listing.LONGEST_PAGE)
            found, total, cursor = outbox.page(args.state, None, limit, args.cursor)
    except PostriderError as error:
        return _failed(error)
    if args.json:
        told = {"callbacks": [c.as_dict() for c in found], "total": total, "next": cursor}
        sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n")
        return 0
    sys.stdout.writelines(_line(one) for one in found)
    if cursor:
        sys.stderr.write(f"{total} in all; go on with --cursor {cursor}\n")
    return 0


def _line(c: Callback) -> str:
    answer = " ".join(filter(None, (str(c.status or ""), c.reason)))
    fields = (c.id, c.type, c.state, str(c.tries), f"{c.at:%Y-%m-%dT%H:%M:%SZ}", c.url, answer)
    return "\t".join(map(listing.printable, fields)) + "\n"


def replay(args: argparse.Namespace) -> int:
    """Tries those anew that are named, or all that are dead."""
    replayed = 0
    try:
        with _outbox() as outbox:
            for id_ in args.id:
                outbox.replay(id_, None)
                replayed += 1
            while not args.id:
                some, left = outbox.replay_dead(None)
                replayed += some
                if not some or not left:
                    break
    except PostriderError as error:
        return _failed(error)
    sys.stdout.write(f"{replayed} tried anew\n")
    return 0


def _failed(error: PostriderError) -> int:
    if isinstance(error, Misconfigured):
        raise error
    sys.stderr.write(f"postrider: {error}\n")
    return 1


def test(args: argparse.Namespace) -> int:
    """Posts one event; 0 when it is taken."""
    settings = Settings.from_env()
    if not settings.webhook_secrets:
        raise Misconfigured("WEBHOOK_SECRET is not set: ./run.sh makes one")
    now = datetime.now(UTC)
    event = Event(f"test_{secrets.token_hex(8)}", "test", now, {"text": "A test of Postrider's"})
    headers = callbacks.headers(settings.webhook_secrets, event.id, event.body(), now)
    answer = Outward(settings.guard).send("POST", args.url, headers, event.body())
    what, advice, well = _told(answer)
    said = listing.printable(what)
    sys.stdout.write(f"{event.body().decode()}\nwebhook-id: {event.id}\n{said}\n-> {advice}\n")
    return 0 if well else 1


def _told(answer: Reply | NoReply) -> tuple[str, str, bool]:
    """What came back, what to do about it, and whether all is well."""
    if isinstance(answer, NoReply):
        if answer.left:
            return (
                answer.reason,
                "answer within 10 s: keep the event first, work on it later",
                False,
            )
        if answer.reason.startswith("not called"):
            return (
                answer.reason,
                "give a URL that is https:// and public, or open private ones: CALLBACK_ALLOW_PRIVATE",
                False,
            )
        return answer.reason, "see that it runs, and that this machine can reach it", False
    result = callbacks.result(answer, 0)
    what = f"HTTP {answer.status} {result.reason}".rstrip()
    match answer.status:
        case status if 200 <= status <= 299:
            return what, "well: it would not be sent again", True
        case 401 | 403:
            advice = (
                "does it ask for a login, or know another secret? It verifies with WEBHOOK_SECRET"
            )
        case 404 | 405:
            advice = "see that the path is right, and takes POST"
        case 410:
            advice = "410 turns an address off until one of its callbacks is replayed"
        case status if 300 <= status <= 399:
            advice = f"give the address it redirects to: {listing.printable(answer.headers.get('location', '?'))}"
        case _:
            advice = "only 2xx is a yes; its own log may say more"
    return what, advice, False
