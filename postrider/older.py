"""What the older WhatsApp interface asks for: check a number, send a message, log in, log out; the end of each is told to a return URL.

Nothing is asked of the sidecar while a client waits: a message is a message like any other, all else is a task that a keeper
works on, also while the phone is away.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from postrider.accounts import DEFAULT
from postrider.checks import Checks, unstorable
from postrider.errors import Forbidden, IllegalTransition, InvalidRequest, NotFound, Unavailable
from postrider.lookups import Looked
from postrider.model import Client, Message, NewMessage, Recipient
from postrider.numbers import NOT_LINKED, STOPPED, number_of
from postrider.phones import LEASE_S, SERVICE, Phones
from postrider.sessions import Session, session_id
from postrider.tasks import Kind, Result, Task, Tasks

log = logging.getLogger("postrider.older")

NAMES = {kind: f"whatsapp {kind}" for kind in ("check", "message", "login", "logout")}
"""What a client calls it -> its task's name."""
SCAN = "Please scan qr code"
LOGGED_IN = "Whatsapp already logged in"
LOGGED_OUT = "Log out successful"
NOBODY = "Currently not logged into any account"
URL = "return URL"
FIRST_S, LONGEST_S = 0.5, 10.0
"""Seconds until a session is looked at again that a task waits for: at first, and at most."""
AGAIN_S, AGAIN_MAX_S = 5.0, 60.0
"""Seconds until the next number is asked for behind one that nobody could say anything of: at first, and at most."""


class Engine(Protocol):
    """What is needed of the service."""

    checks: Checks

    def accept(self, new: NewMessage) -> tuple[Message, tuple[Recipient, ...]]:
        """Takes a message. Raises InvalidRequest, TooManyRequests, Unavailable."""


class LooksUp(Protocol):
    """Who finds out whether numbers are on WhatsApp."""

    def look_up(self, who: Client, session: str, given: Sequence[str]) -> list[Looked]:
        """What is known of each."""


@dataclass(frozen=True, slots=True)
class _Later:
    """It cannot be done now; in how many seconds it may be. `behind`: others may do better."""

    seconds: float
    why: str
    behind: bool = False


class Older:
    """The four calls over linked phones, and the work that three of them make."""

    def __init__(
        self,
        tasks: Tasks,
        phones: Phones,
        lookups: LooksUp,
        engine: Engine,
        now: Callable[[], datetime],
    ) -> None:
        self.tasks = tasks
        self.phones = phones
        self.lookups = lookups
        self.engine = engine
        self.now = now

    # -- asked by clients

    def message(self, client: Client, phone: str, text: str, url: str) -> str:
        """Sends a text; gives the message's id. True is told once it is sent, false once it is not going to be.

        Raises InvalidRequest, TooManyRequests, Unavailable.
        """
        self._check(phone, text, url)
        session = self._session(client)
        to = (Recipient(phone, SERVICE, session.id),)
        new = NewMessage(text, to, owner=client.id, callback_url=url, callback_format="task")
        self._link(client, session)  # first: what an error answers must not be kept, and come again
        message, _ = self.engine.accept(new)
        return message.id

    def check(self, client: Client, phone: str, url: str) -> str:
        """Finds out whether a number is on WhatsApp; gives the task's id. Raises as `message`."""
        self._check(phone, None, url)
        if not (number := number_of(phone)):
            raise InvalidRequest("phone", "is no number with country code")
        session = self._session(client)
        self._link(client, session)
        return self._put("check", client, session.id, url, number)

    def login(self, client: Client, url: str) -> str:
        """Has a phone linked; gives the task's id. Raises as `message`, and Forbidden."""
        self._check(None, None, url)
        session = self._session(client)
        self._own(client, session)
        self._link(client, session, asked=True)
        return self._put("login", client, session.id, url)

    def logout(self, client: Client, url: str) -> str:
        """Unlinks the phone; gives the task's id. Raises as `login`."""
        self._check(None, None, url)
        session = self._there(client)
        if session:
            self._own(client, session)
        return self._put("logout", client, session.id if session else self._id(client), url)

    def _put(self, kind: Kind, client: Client, session: str, url: str, number: str = "") -> str:
        return self.tasks.put(kind, session, client.id, url=url, now=self.now(), to=number)

    def _own(self, client: Client, session: Session) -> None:
        if not client.sees(session.owner):
            raise Forbidden("the session is shared with you; its owner links and unlinks its phone")

    def _check(self, phone: str | None, text: str | None, url: str) -> None:
        """Whether all of it could be used. Raises InvalidRequest."""
        if (adapter := self.phones.phone) is None:
            raise InvalidRequest(SERVICE, "is not set up here; it needs WAHA_URL or GOWA_URL")
        if phone is not None and (wrong := adapter.check_recipient(phone)):
            raise InvalidRequest("phone", wrong)
        if text is not None:
            blank = "" if text.strip() else "must hold more than white space"
            if wrong := adapter.check_text(text) or unstorable(text) or blank:
                raise InvalidRequest("message", wrong)
        self.engine.checks.callback_url(url, URL)

    def _session(self, client: Client) -> Session:
        """The session that is meant: WS_SESSION, else the client's only one, else `default`; there from now on."""
        if found := self._there(client):
            return found
        sessions = self.phones.sessions
        new = sessions.add(self._name, client.id, self.now()) or sessions.get(self._id(client))
        if new is None:
            raise Unavailable("the session is being deleted; try again")
        sessions.look_now(new.id)  # a keeper makes it at the sidecar
        self.phones.sync()
        return new

    def _there(self, client: Client) -> Session | None:
        self.phones.sync()
        id_ = self.phones.account_of(self._name, client.id)
        return self.phones.sessions.get(id_) if id_ else None

    @property
    def _name(self) -> str:
        return self.phones.settings.ws_session or DEFAULT

    def _id(self, client: Client) -> str:
        return session_id(self._name, client.id)

    def _link(self, client: Client, session: Session, *, asked: bool = False) -> None:
        """Has a session of the client's run that has no phone; one that rests with its phone only where that is `asked` for."""
        if session.wanted or not client.sees(session.owner):
            return
        if asked or not _has_phone(session):
            self._start(session)

    def _start(self, session: Session) -> None:
        new: dict[str, object] = {"wanted": True, "tries": 0}
        if session.state in {"unlinked", "stopped"}:
            new |= {"state": "starting", "reason": "", "since": self.now()}
        self.phones.sessions.change(session, **new)  # in vain where others do: their word counts
        self.phones.sessions.look_now(session.id)

    # -- worked on by a keeper

    def take(self, most: int) -> list[Task]:
        """Tasks that are to be worked on now, at most so many."""
        return self.tasks.take(most, LEASE_S)

    def hand_back(self, task: Task) -> None:
        """Leaves it to another keeper."""
        self.tasks.wait(task, 0, tried=False)

    def work(self, task: Task) -> Task | None:
        """Does it, or puts it off; gives the next one that is ours to do. May be done twice by those who are killed."""
        does: dict[Kind, Callable[[Task], Result | _Later]] = {
            "check": self._found,
            "login": self._logged_in,
            "logout": self._logged_out,
        }
        came = does[task.kind](task)
        if not isinstance(came, _Later):
            return self.tasks.end(task, came, LEASE_S)
        log.debug("task %s waits: %s", task.id, came.why)
        self.tasks.wait(task, came.seconds, behind=came.behind)
        return None

    def _found(self, task: Task) -> bool | _Later:
        """Whether its number is on WhatsApp, as far as the phone is there and may be asked."""
        asks = Client(task.owner, "", "sender")
        (looked,) = self.lookups.look_up(asks, task.session, [task.to])
        if looked.found != "unknown":
            return looked.found == "yes"
        if looked.reason in {NOT_LINKED, STOPPED}:
            return self._later(task, looked.reason)
        if looked.again_at and (wait_s := (looked.again_at - self.now()).total_seconds()) > 0:
            return _Later(wait_s, looked.reason)
        self.phones.heard(task.session)  # it may have been lost just now
        seconds = min(AGAIN_MAX_S, AGAIN_S * 2 ** min(task.tries, 20))
        return _Later(seconds, looked.reason, behind=True)

    def _logged_in(self, task: Task) -> Result | _Later:
        """Whether there is a phone already, or somebody has been shown a code to scan."""
        session = self._seen(task)
        if session is None:
            return False
        if not session.wanted:
            self._start(session)
        if session.state == "linked":
            return LOGGED_IN
        if session.state in {"scan", "passkey"}:
            return SCAN
        return self._later(task, f"the session is {session.state}")

    def _logged_out(self, task: Task) -> Result | _Later:
        """Whether a phone was unlinked, or there was none."""
        session = self._seen(task)
        if session is None or not _has_phone(session):
            return LOGGED_OUT if task.begun else NOBODY
        # Noted first: whoever goes on after a kill finds no phone, and knows that it was us.
        if not self.tasks.begin(task):
            return self._later(task, "another works on it")
        try:
            self.phones.logout(Client(session.owner, "", "sender"), session.name)
        except NotFound:
            return LOGGED_OUT
        except (IllegalTransition, Unavailable) as error:
            self.phones.heard(session.id)
            return self._later(task, str(error))
        return LOGGED_OUT

    def _seen(self, task: Task) -> Session | None:
        """The session as it stands; at the first try its sidecar is asked, and shows its QR code if there is one."""
        if not task.tries:
            self.phones.look(task.session)
        return self.phones.sessions.get(task.session)

    def _later(self, task: Task, why: str) -> _Later:
        """When the session may be able to: looked for often at first."""
        waited_s = (self.now() - task.made_at).total_seconds()
        return _Later(min(LONGEST_S, max(FIRST_S, waited_s / 10)), why)


def _has_phone(session: Session) -> bool:
    """Whether a phone is linked to it, there or not."""
    if session.state in {"starting", "stopped", "dropped"}:
        return bool(session.number)
    return session.state == "linked"
