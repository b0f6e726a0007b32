"""`postrider sessions`: linked phones. `add` draws the QR code in the terminal, and follows it until the phone is linked."""

import argparse
import hashlib
import sys
import time
from typing import Any

from messengers.phones import Code
from postrider import linked, qr
from postrider.commands import shell
from postrider.commands.shell import Parsers, Shell, opened, show_rows
from postrider.commands.terminal import refuse, say, say_json, told, uninterrupted
from postrider.errors import IllegalTransition, NotFound, Unavailable
from postrider.model import Client
from postrider.sessions import Session

ADMIN = Client("", "shell", "admin")
LOOK_S = 1.0
"""Seconds between two looks at a session that is being linked."""
ALONE_S = 3.0
"""Seconds after which a session that is due was looked at by no keeper: none runs, so we look ourselves."""
FOLLOW_S = 600.0
"""Seconds for which one is followed at most: its six codes last 160."""
ACTS = {
    "start": "have it run, linked or to be linked",
    "stop": "have it rest: its phone stays linked, its deliveries wait",
    "restart": "have it begin anew: its phone stays linked",
    "logout": "unlink its phone: its deliveries wait for another",
    "delete": "unlink its phone, and forget it",
}


def add_commands(commands: "Parsers[argparse.ArgumentParser]") -> None:
    """Adds these subcommands, each with its function as `run`."""
    what = "linked phones: add, link, list, start, stop, unlink them"
    parser = commands.add_parser("sessions", help=what, description=what)
    acts = parser.add_subparsers(metavar="COMMAND", required=True)
    what = "add one, and link a phone to it by the QR code that is drawn"
    parser = acts.add_parser("add", help=what, description=what)
    parser.add_argument("name", metavar="NAME", type=shell.text, help="letters, digits and -")
    parser.add_argument("--shared", action="store_true", help="every client may send by it")
    parser.add_argument("--no-follow", action="store_true", help="draw nothing, do not wait")
    parser.set_defaults(run=add)
    what = "draw the QR code of one that waits for its phone"
    parser = acts.add_parser("link", help=what, description=what)
    parser.add_argument("name", metavar="NAME", type=shell.text)
    parser.set_defaults(run=link)
    what = "list them"
    parser = acts.add_parser("list", help=what, description=what, parents=[shell.as_json()])
    shell.add_page(parser)
    parser.set_defaults(run=show)
    what = "give a code to type on the phone, instead of scanning"
    parser = acts.add_parser("pair", help=what, description=what)
    parser.add_argument("name", metavar="NAME", type=shell.text)
    parser.add_argument("number", metavar="NUMBER", help="of the phone, with country code")
    parser.set_defaults(run=pair)
    what = "say that phone and terminal show the same code, where a phone with a passkey asks"
    parser = acts.add_parser("confirm", help=what, description=what)
    parser.add_argument("name", metavar="NAME", type=shell.text)
    parser.set_defaults(run=confirm)
    for word, what in ACTS.items():
        parser = acts.add_parser(word, help=what, description=what)
        parser.add_argument("name", metavar="NAME", type=shell.text)
        parser.set_defaults(run=act, act=word)


@told
def add(args: argparse.Namespace) -> int:
    """Adds a session and follows it until its phone is linked; 1 when it is not."""
    with opened() as desk:
        added = desk.service.phones.add(ADMIN, args.name, shared=args.shared)
        desk.note("sessions add", added.id)
        say(f"{added.id} is added.")
        return 0 if args.no_follow else _Linking(desk, added).follow()


@told
def link(args: argparse.Namespace) -> int:
    """Starts a session that has no phone, and follows it until it has; 1 when it has not."""
    with opened() as desk:
        found = desk.service.phones.get(ADMIN, args.name)
        if found.state != "linked" and not (found.wanted and found.state in {"scan", "passkey"}):
            found = desk.service.phones.start(ADMIN, args.name)
            desk.note("sessions link", found.id)
        return _Linking(desk, found).follow()


@told
def show(args: argparse.Namespace) -> int:
    """One part of the sessions."""
    with opened() as desk:
        found, after = desk.service.phones.page(ADMIN, args.limit, args.cursor)
        rows = linked.sessions(desk.service, ADMIN, found)
    if args.json:
        return say_json({"sessions": rows, "next": after})
    heads = ("Name", "State", "Since", "Number", "Waiting", "Today", "Reason")
    lines = [
        (
            row["name"],
            row["state"],
            row["since"].replace("T", " ")[:16],
            row["number"] or "",
            str(row["waiting"]),
            _today(row["today"]),
            row["reason"],
        )
        for row in rows
    ]
    return show_rows(heads, lines, gives_way="Reason", after=after)


def _today(today: dict[str, Any]) -> str:
    return "" if today["cap"] is None else f"{today['sent']} of {today['cap']}"


@told
def pair(args: argparse.Namespace) -> int:
    """A code to type on the phone."""
    with opened() as desk:
        code = desk.service.phones.pair(ADMIN, args.name, args.number)
        desk.note("sessions pair", args.name)
    say(f"{code}: type it on the phone, under Linked devices, Link with phone number.")
    return 0


@told
def confirm(args: argparse.Namespace) -> int:
    """Has the sidecar told that both codes are the same."""
    with opened() as desk:
        desk.service.phones.answer_passkey(ADMIN, args.name, {})
        desk.note("sessions confirm", args.name)
    say("Confirmed.")
    return 0


@told
def act(args: argparse.Namespace) -> int:
    """Does one thing to a session."""
    with opened() as desk:
        done: Session = getattr(desk.service.phones, args.act)(ADMIN, args.name)
        desk.note(f"sessions {args.act}", done.id)
    if args.act == "delete":
        say(f"{done.id} is deleted.")
    else:
        say(f"{done.id} is {done.state}.")
    return 0


class _Linking:
    """A terminal that shows the code of the moment until somebody has scanned it."""

    def __init__(self, desk: Shell, session: Session) -> None:
        self.desk = desk
        self.phones = desk.service.phones
        self.session = session
        self._drawn = ""
        """Digest of the code that stands there."""
        self._lines = 0
        self._said = ""

    def follow(self) -> int:
        """Draws each new code until its phone is linked; 0 then, 1 when it is not going to be."""
        ends_at = time.monotonic() + FOLLOW_S
        try:
            while time.monotonic() < ends_at:
                if (code := self._look()) is not None:
                    return code
                time.sleep(LOOK_S)
        except KeyboardInterrupt:
            self._erase()
            say(f"It goes on without you; to see its code: {self._again()}")
            raise
        self._erase()
        return refuse(f"{self.session.id} is not linked yet; go on with: {self._again()}")

    def _again(self) -> str:
        return f"postrider sessions link {self.session.id}"

    def _look(self) -> int | None:
        """What there is to see now; the exit code once it has ended."""
        found = self._now()
        if found.state == "linked":
            self._erase()
            name = f" ({found.phone})" if found.phone else ""
            say(f"{found.id} is linked: +{found.number}{name}")
            return 0
        if not found.wanted:
            self._erase()
            return refuse(f"{found.reason or f'it is {found.state}'}: {self._again()}")
        if found.state == "passkey":
            self._passkey()
            return None
        try:
            self._draw(self.phones.code(ADMIN, found.id))
        except IllegalTransition:
            self._erase()
            self._tell(f"{found.id} is {found.state} ...")
        except Unavailable as error:
            self._erase()
            self._tell(f"{error}; trying again ...")
        return None

    def _now(self) -> Session:
        """The session as it stands; looked at by us where no keeper does it."""
        sessions = self.phones.sessions
        sessions.look_now(self.session.id)
        if sessions.overdue_s(self.session.id) > ALONE_S:
            self.phones.look(self.session.id)
        if (found := sessions.get(self.session.id)) is None:
            raise NotFound("the session was deleted")
        return found

    def _passkey(self) -> None:
        self._erase()
        try:
            asked = self.phones.passkey(ADMIN, self.session.id)
        except (IllegalTransition, Unavailable):
            return
        if asked.code:
            self._tell(
                f"Does the phone show {asked.code}? Then, elsewhere: postrider sessions confirm {self.session.id}"
            )
        else:
            self._tell(
                "The phone has a passkey. Answer its challenge in the sidecar's dashboard, or by"
                f" /api/v1/sessions/{self.session.id}/passkey"
            )

    def _draw(self, code: Code) -> None:
        """Draws a code that is new, over the one before."""
        digest = hashlib.sha256(code.text.encode() or code.png).hexdigest()
        if digest == self._drawn:
            return
        self._erase()
        drawn = qr.matrix(code.text) if code.text else qr.read(code.png)
        if drawn is None:
            self._tell(
                f"The sidecar's picture cannot be drawn here: see /api/v1/sessions/{self.session.id}/qr"
            )
            return
        lives = f", within {code.lives_s:.0f} s" if code.lives_s else ""
        lines = [
            *qr.in_terminal(drawn, coloured=sys.stdout.isatty()),
            f"Scan it with the phone{lives}: WhatsApp, Linked devices, Link a device.",
            f"Or type a code there: postrider sessions pair {self.session.id} NUMBER",
        ]
        with uninterrupted():  # `_erase` must know what stands there
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
            self._drawn, self._lines, self._said = digest, len(lines), ""

    def _erase(self) -> None:
        """Leaves no code on a terminal that can be scanned no more, or must not be."""
        with uninterrupted():
            if self._lines and sys.stdout.isatty():
                sys.stdout.write(f"\x1b[{self._lines}F\x1b[J")
            self._lines, self._drawn = 0, ""

    def _tell(self, line: str) -> None:
        """Says it once."""
        if line != self._said:
            say(line)
            sys.stdout.flush()
            self._said = line
