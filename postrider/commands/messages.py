"""`postrider messages`, `deliveries`, `show`, `cancel`, `pause`, `resume`, `move`, `rewrite`, `retry`: what was accepted, found and changed.

What /api/v1 does for an admin, for whoever has a shell here. 1 where nothing could be changed any more.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, get_args

from postrider import listing, showing
from postrider.changes import Changed
from postrider.commands import shell
from postrider.commands.shell import Parsers, Shell, opened, show_fields
from postrider.commands.terminal import refuse, say, say_json, told
from postrider.errors import InvalidRequest
from postrider.finding import Found, Summary, Wanted
from postrider.model import QUEUED, MessageState, State, is_delivery_id
from postrider.timing import in_zone

FAR_S = 1000 * 366 * 86_400


def add_commands(commands: "Parsers[argparse.ArgumentParser]") -> None:
    """Adds these subcommands, each with its function as `run`."""
    _add_lists(commands)
    as_json = shell.as_json()
    for run, what, target in (
        (show, "show a message or a delivery, with its tries and receipts", "ID"),
        (cancel, "stop what has not gone: one message or delivery, or all with a tag", "ID"),
        (pause, "let what has not gone of a message wait until it is resumed", "MESSAGE"),
        (resume, "let what was paused of a message go on", "MESSAGE"),
        (move, "have what has not gone of a message sent at another time", "MESSAGE"),
        (rewrite, "give what has not gone of a message another text", "MESSAGE"),
        (retry, "send a delivery again that ended without being sent", "DELIVERY"),
    ):
        parser = commands.add_parser(run.__name__, help=what, description=what, parents=[as_json])
        parser.set_defaults(run=run)
        if run is cancel:
            which = parser.add_mutually_exclusive_group(required=True)
            which.add_argument("id", metavar=target, type=shell.text, nargs="?")
            which.add_argument("--tag", metavar="T", type=shell.text, help="all messages with it")
            which.add_argument(
                "--reference", metavar="R", type=shell.text, help="all messages with it"
            )
            continue
        parser.add_argument("id", metavar=target, type=shell.text)
        if run is move:
            _add_moment(parser)
        elif run is rewrite:
            parser.add_argument("body", metavar="BODY", help="the text")


def _add_moment(parser: argparse.ArgumentParser) -> None:
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument(
        "--at",
        metavar="TIME",
        help="YYYY-MM-DD HH:MM:SS in the zone TZ, or ISO 8601 with an offset",
    )
    when.add_argument("--in", metavar="SECONDS", dest="in_s", type=_seconds, help="from now on")
    parser.add_argument(
        "--timezone", metavar="ZONE", help="IANA zone of --at, for example Europe/Berlin"
    )


def _seconds(given: str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = 0
    if not 0 < number <= FAR_S:
        raise argparse.ArgumentTypeError(f"{given!r} is no number of seconds from now on")
    return number


def _add_lists(commands: "Parsers[argparse.ArgumentParser]") -> None:
    states = [state.value for state in State]
    for run, what, choices in (
        (messages, "find messages, newest first", get_args(MessageState)),
        (
            deliveries,
            "find deliveries, newest first; those that wait soonest first",
            [*states, QUEUED],
        ),
    ):
        parser = commands.add_parser(run.__name__, help=what, description=what)
        parser.set_defaults(run=run, account=None, message=None)
        parser.add_argument("--state", choices=choices, metavar="STATE", help=", ".join(choices))
        names = ["tag", "reference", "service", "uuid"]
        names += ["message", "account"] if run is deliveries else []
        for name in names:
            parser.add_argument(f"--{name}", metavar=name[0].upper(), type=shell.text)
        parser.add_argument("--from", metavar="TIME", dest="from_", help="accepted from then on")
        parser.add_argument("--to", metavar="TIME", help="accepted before then")
        shell.add_page(parser)
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="answer as the API does")
        form.add_argument("--csv", action="store_true", help="all that is found, as CSV")
        form.add_argument("--ndjson", action="store_true", help="all that is found, a line each")


def _wanted(args: argparse.Namespace, desk: Shell) -> Wanted:
    return Wanted(
        state=args.state,
        service=args.service,
        account=args.account,
        uuid=args.uuid,
        message=args.message,
        reference=args.reference,
        tag=args.tag,
        accepted_from=listing.at("--from", args.from_, desk.zone),
        accepted_to=listing.at("--to", args.to, desk.zone),
    )


# -- seeing


@told
def messages(args: argparse.Namespace) -> int:
    """One part of the messages that are looked for, or all of them."""
    with opened() as desk:
        wanted = _wanted(args, desk)
        if args.csv or args.ndjson:
            return _export(args, _every_message(desk, wanted), showing.MESSAGE)
        found, after = desk.service.find_messages(wanted, args.limit, args.cursor)
    if args.json:
        rows = [showing.message(one, desk.zone) for one in found]
        return say_json({"messages": rows, "next": after})
    heads = (f"Due ({desk.zone.key})", "State", "Deliveries", "Text", "Id")
    return shell.show_rows(
        heads, [_message_row(one, desk) for one in found], gives_way="Text", after=after
    )


def _every_message(desk: Shell, wanted: Wanted) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        found, cursor = desk.service.find_messages(wanted, shell.LONGEST_PAGE, cursor)
        yield from (showing.message(one, desk.zone) for one in found)
        if cursor is None:
            return


def _message_row(one: Summary, desk: Shell) -> tuple[str, ...]:
    message = one.message
    text = message.body or (f"[{message.template.name}]" if message.template else "")
    return in_zone(message.due_at, desk.zone), one.state, str(message.total), text, message.id


@told
def deliveries(args: argparse.Namespace) -> int:
    """One part of the deliveries that are looked for, or all of them."""
    with opened() as desk:
        wanted, now = _wanted(args, desk), desk.service.store.now()
        if args.csv or args.ndjson:
            every = desk.service.finder.all_deliveries(wanted)
            each = (showing.delivery(one, now) for one in every)
            return _export(args, each, showing.DELIVERY)
        found, after = desk.service.finder.deliveries(wanted, args.limit, args.cursor)
    if args.json:
        rows = [showing.delivery(one, now) for one in found]
        return say_json({"deliveries": rows, "next": after})
    heads = (f"Due or ended ({desk.zone.key})", "Messenger", "Recipient", "State", "Reason", "Id")
    cells = [_delivery_row(one, one.state(now), desk) for one in found]
    return shell.show_rows(heads, cells, gives_way="Reason", after=after)


def _delivery_row(one: Found, state: str, desk: Shell) -> tuple[str, ...]:
    at = in_zone(one.at, desk.zone) if one.at else ""
    to, reason = one.delivery.recipient, one.last.reason if one.last else ""
    return at, to.service, to.uuid, state, reason, one.delivery.id


def _export(args: argparse.Namespace, rows: Iterable[dict[str, Any]], names: Sequence[str]) -> int:
    if args.csv:
        return shell.write_csv(rows, names)
    # ASCII only, so that no text in it can reach a terminal as a command.
    sys.stdout.writelines(json.dumps(row) + "\n" for row in rows)
    return 0


@told
def show(args: argparse.Namespace) -> int:
    """One delivery, or one message with the first of its deliveries; each with what was tried and said later."""
    with opened() as desk:
        service = desk.service
        if is_delivery_id(args.id):
            answer = _whole(desk, [service.delivery(args.id, None)])[0]
        else:
            summary = service.message(args.id, None)
            found, after = service.finder.deliveries(Wanted(message=args.id), shell.PAGE)
            answer = showing.message(summary, desk.zone)
            answer |= {"deliveries": _whole(desk, found), "next": after}
    if args.json:
        return say_json(answer)
    further = answer.pop("deliveries", [])
    after = answer.pop("next", None)
    _show_whole(answer)
    for one in further:
        say("")
        _show_whole(one)
    if after:
        sys.stderr.write(f"the others: postrider deliveries --message {args.id} --cursor {after}\n")
    return 0


def _whole(desk: Shell, found: list[Found]) -> list[dict[str, Any]]:
    """Deliveries with their tries and receipts."""
    ids, now = [one.delivery.id for one in found], desk.service.store.now()
    tries, receipts = desk.service.store.attempts(ids), desk.service.receipts.of(ids)
    return [
        showing.delivery(one, now)
        | {
            "tries": [showing.attempt(a) for a in tries[one.delivery.id]],
            "receipts": [showing.receipt(r) for r in receipts[one.delivery.id]],
        }
        for one in found
    ]


def _show_whole(answer: dict[str, Any]) -> None:
    tries, receipts = answer.pop("tries", []), answer.pop("receipts", [])
    show_fields(answer)
    for a in tries:
        words = (a["outcome"], a["reason"], a["provider_id"])
        say(f"try: {a['started_at']} to {a['ended_at']}: {' '.join(filter(None, words))}")
    for r in receipts:
        say(f"receipt: {r['at']}: {' '.join(filter(None, (r['state'], r['reason'])))}")


# -- changing


@told
def cancel(args: argparse.Namespace) -> int:
    """Stops what has not gone of one, or of all with a tag or reference."""
    with opened() as desk:
        if args.id is None:
            wanted = Wanted(tag=args.tag, reference=args.reference)
            done = desk.service.cancel_all(wanted)
            what = f"tag {args.tag}" if args.reference is None else f"reference {args.reference}"
        elif is_delivery_id(args.id):
            return _changed_one(args, desk, "cancel")
        else:
            done, what = desk.service.cancel(args.id, None), args.id
        desk.note("cancel", what)
    return _tell(args, done, "cancelled")


@told
def retry(args: argparse.Namespace) -> int:
    """Sends one again that ended without being sent."""
    with opened() as desk:
        return _changed_one(args, desk, "retry")


def _changed_one(args: argparse.Namespace, desk: Shell, what: Any) -> int:
    found = desk.service.change_delivery(what, args.id, None)
    desk.note(what, args.id)
    answer = showing.delivery(found, desk.service.store.now())
    if args.json:
        return say_json(answer)
    say(f"{answer['id']} is {answer['state']}.")
    return 0


@told
def pause(args: argparse.Namespace) -> int:
    """Lets what has not gone of a message wait."""
    return _change(args, "pause", "paused", paused=True)


@told
def resume(args: argparse.Namespace) -> int:
    """Lets what was paused go on."""
    return _change(args, "resume", "resumed", paused=False)


@told
def rewrite(args: argparse.Namespace) -> int:
    """Gives what has not gone of a message another text."""
    with opened() as desk:
        done = desk.service.change(args.id, None, body=args.body)
        desk.note("rewrite", args.id)
    return _tell(args, done, "rewritten")


@told
def move(args: argparse.Namespace) -> int:
    """Has what has not gone of a message sent at another time."""
    if args.in_s is not None and args.timezone is not None:
        raise InvalidRequest("--timezone", "is for --at, and there is none")
    return _change(args, "move", "moved")


def _change(args: argparse.Namespace, action: str, word: str, *, paused: bool | None = None) -> int:
    with opened() as desk:
        send_at = None
        if action == "move":
            send_at = listing.moment(args.at, args.timezone, desk.zone)
            send_at = send_at or desk.service.store.now() + timedelta(seconds=args.in_s)
        done = desk.service.change(args.id, None, send_at=send_at, paused=paused)
        desk.note(action, args.id)
    return _tell(args, done, word)


def _tell(args: argparse.Namespace, done: Changed, word: str) -> int:
    """How many were changed, and for how many it was too late; 1 when none was."""
    if args.json:
        say_json(showing.changed(done))
        return 0 if done.total else 1
    late = ", ".join(f"{n} {state.value}" for state, n in sorted(done.unchanged.items()))
    told_ = f"{done.total} {word}" + (f"; as before: {late}" if late else "") + "."
    if done.total:
        say(told_)
        return 0
    return refuse(told_)
