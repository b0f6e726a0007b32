"""Linked phones: sessions are added, linked, watched, stopped; each is an account that goes while its phone is there.

Every process that accepts or sends keeps its accounts as the sessions are (`sync`); a keeper looks at each (`look`), and
whatever it finds is written down once, by whoever was first.
"""

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar, get_args

from messengers.base import NoReply, Reply
from messengers.phones import Checked, Code, Hook, Link, Passkey, Talk, Trouble
from messengers.whatsapp_web import WhatsAppWeb
from postrider.accounts import DEFAULT, Accounts, PhonePaces
from postrider.alerts import Alerts
from postrider.errors import IllegalTransition, InvalidRequest, NotFound, Unavailable
from postrider.linking import Act, Step, step
from postrider.model import Client
from postrider.records import account_key
from postrider.sessions import CHANGES, Session, Sessions, SessionState, session_id
from postrider.settings import Settings
from postrider.shown import Shown
from postrider.transport import Blocking
from postrider.warmup import daily_cap

T = TypeVar("T")
log = logging.getLogger("postrider.phones")

SERVICE = WhatsAppWeb.name
LOST = "session"
"""The kind of alert that tells of a session whose phone is away."""
LEASE_S = 180.0
"""Seconds that one look may take: a few calls, each with a limit of its own."""
PAIRS = timedelta(seconds=160)
"""How long a pairing code can be typed: as long as WhatsApp shows codes."""
CAPS_S = 60.0
"""Seconds after which an account's cap for today is worked out anew."""


class Watcher(Protocol):
    """Who is told how a session goes, besides its operators: see `Phones.watchers`. May be told the same twice."""

    def scans(self, session: Session, code: Code) -> None:
        """A new QR code waits to be scanned."""

    def settled(self, session: Session) -> None:
        """Nothing waits to be scanned any more."""


class Phones:
    """The sessions at one sidecar. Where none is set up, there are none."""

    def __init__(
        self,
        sessions: Sessions,
        settings: Settings,
        accounts: Mapping[tuple[str, str], Any],
        alerts: Alerts,
        now: Callable[[], datetime],
    ) -> None:
        self.sessions = sessions
        self.settings = settings
        self.accounts = accounts if isinstance(accounts, Accounts) else Accounts()
        self.alerts = alerts
        self.now = now
        self.watchers: list[Watcher] = []
        self.changed: Callable[[], None] = lambda: None
        """Called when accounts have come, gone, or may do something else."""
        self._shown = Shown(sessions.redis, settings.whatsapp_web_key)
        self._local = threading.local()
        self._seen: tuple[bytes, int] | None = None
        self._lock = threading.Lock()

    @property
    def phone(self) -> WhatsAppWeb | None:
        """The adapter that each session's is made from; None where no sidecar is set up."""
        return self.accounts.phone

    # -- accounts

    def sync(self) -> None:
        """Makes the accounts what the sessions are now; one look at Redis where nothing has changed."""
        if self.phone is None:
            return
        now = self.now()
        seen = (self.sessions.turn(), int(now.timestamp() // CAPS_S))
        if seen == self._seen:
            return
        with self._lock:
            accounts: dict[tuple[str, str], WhatsAppWeb] = {}
            paces: dict[tuple[str, str], PhonePaces] = {}
            for session in self.sessions.every():
                key = (SERVICE, session.id)
                accounts[key] = self.phone.of_session(session.id)
                paces[key] = self._paces(session, now)
            self.accounts.replace(SERVICE, accounts, paces)
            self._seen = seen
            self.changed()

    def _paces(self, session: Session, now: datetime) -> PhonePaces:
        """What this phone may do now."""
        cap, gap_s = self.cap(session, now), self.settings.whatsapp_web_gap_s
        there = session.state == "linked"
        return PhonePaces(
            daily_cap=cap,
            gap_s=gap_s,
            concurrency=1,
            there=there,
            owner=session.owner,
            shared=session.shared,
        )

    def cap(self, session: Session, now: datetime | None = None) -> int:
        """How many messages this phone may send today; 0: any number."""
        s = self.settings
        most, days = s.whatsapp_web_daily_cap, s.whatsapp_web_warmup
        return daily_cap(most, days, session.linked_at, now or self.now())

    def sees(self, client: Client, account: tuple[str, str]) -> bool:
        """Whether an account is there for this client at all: others' sessions are not."""
        paces = self.accounts.paces.get(account)
        if not isinstance(paces, PhonePaces):
            return True
        return paces.shared or client.sees(paces.owner)

    def account_of(self, name: str, owner: str) -> str:
        """The account that is meant when a client of this id names a session; '' when there is none for it.

        `default` means its only one, where it has none of that name.
        """
        if self.phone is None:
            return name
        self.sync()
        for own in (session_id(name, owner), name if name.endswith(f"_{owner}") else ""):
            if (SERVICE, own) in self.accounts:
                return own
        found = self.sessions.get(name) if owner else None
        if found and found.shared:
            return name
        if name != DEFAULT:
            return ""
        only, more = self.sessions.page(owner, 2)
        return only[0].id if len(only) == 1 and not more else ""

    def counts(self) -> dict[str, int]:
        """State -> sessions in it."""
        found = Counter(session.state for session in self.sessions.every())
        return {state: found[state] for state in get_args(SessionState)}

    # -- as asked by clients

    def add(self, client: Client, name: str, *, shared: bool = False) -> Session:
        """A new session, which the sidecar is told to make. Raises InvalidRequest, IllegalTransition, Unavailable."""
        phone = self._phone()
        if shared and client.id:
            raise InvalidRequest("shared", "only the user of the settings shares a session")
        new = self.sessions.add(name, client.id, self.now(), shared=shared)
        if new is None:
            raise IllegalTransition(f"there is a session {name!r} already")
        try:
            self.ask(phone.driver.create(new.id, self._hook(phone, new.id)))
        except (IllegalTransition, Unavailable) as error:  # a keeper makes it, when it can be
            new = self._write(new, reason=str(error))
        self.sessions.look_now(new.id)
        self.sync()
        return new

    def get(self, client: Client, name: str) -> Session:
        """The session that a client calls so; for an admin everybody's, by id. Raises NotFound."""
        found = self.sessions.get(session_id(name, client.id))
        if found is None and client.may("admin"):
            found = self.sessions.get(name)
        if found is None or not client.sees(found.owner):
            raise NotFound("there is no such session")
        return found

    def page(
        self, client: Client, limit: int, cursor: str | None
    ) -> tuple[list[Session], str | None]:
        """Sessions that a client sees, in order of their ids."""
        return self.sessions.page(None if client.may("admin") else client.id, limit, cursor)

    def start(self, client: Client, name: str) -> Session:
        """Has it run; one that does is left alone. Raises NotFound, IllegalTransition, Unavailable."""
        found, phone = self.get(client, name), self._phone()
        rests = not found.wanted or found.state in {"stopped", "unlinked"}
        stands = self._stands(found, "starting") if rests else {}
        new = self._write(found, wanted=True, tries=0, tried_at=None, **stands)
        try:
            self.ask(phone.driver.create(found.id, self._hook(phone, found.id)))
        finally:
            self.sessions.look_now(found.id)
        return new

    def restart(self, client: Client, name: str) -> Session:
        """Has it begin anew; its phone stays linked. Raises NotFound, IllegalTransition, Unavailable."""
        found = self.get(client, name)
        self.ask(self._phone().driver.restart(found.id))
        new = self._write(found, wanted=True, tries=0, tried_at=None)
        self.sessions.look_now(found.id)
        return new

    def stop(self, client: Client, name: str) -> Session:
        """Has it rest; its phone stays linked, its deliveries wait. Raises NotFound, IllegalTransition, Unavailable."""
        found, phone = self.get(client, name), self._phone()
        new = self._rest(found, "stopped" if found.state != "unlinked" else "unlinked")
        try:
            self.ask(phone.driver.stop(found.id), but="missing")
        finally:
            self.sessions.look_now(found.id)
        return new

    def logout(self, client: Client, name: str) -> Session:
        """Unlinks its phone; its deliveries wait for another. Raises NotFound, IllegalTransition, Unavailable."""
        found, phone = self.get(client, name), self._phone()
        self.ask(phone.driver.logout(found.id), but="missing")
        new = self._rest(found, "unlinked", "logged out", number="", phone="")
        self._talk(phone.driver.stop(found.id))  # which begins anew then; a keeper tries again
        self.sessions.look_now(found.id)
        self.alerts.over(LOST, found.id, f"session {found.id} was logged out")
        return new

    def delete(self, client: Client, name: str) -> Session:
        """Unlinks its phone and forgets the session. What waits for it waits until there is one of that name. Raises NotFound, Unavailable."""
        found, phone = self.get(client, name), self._phone()
        found = self._rest(found, found.state)  # or a keeper would make it anew meanwhile
        self.ask(phone.driver.delete(found.id), but="missing")
        self.sessions.delete(found)
        self.alerts.over(LOST, found.id, f"session {found.id} was deleted")
        self.sync()
        return found

    def _rest(self, session: Session, state: str, reason: str = "", **more: Any) -> Session:
        """`session`, no longer to run; a keeper looks at it next, and takes back the code that it shows."""
        stands = self._stands(session, state, reason)
        return self._write(session, wanted=False, tries=0, tried_at=None, **stands, **more)

    def code(self, client: Client, name: str) -> Code:
        """The QR code to scan now. Raises NotFound, IllegalTransition when there is none, Unavailable."""
        found, phone = self.get(client, name), self._phone()
        code = self._told(self._code(phone, found.id))
        self.sessions.look_now(found.id)
        return code

    def _code(self, phone: WhatsAppWeb, id_: str) -> Code | Trouble:
        """The code to scan now: of a sidecar that makes a new one each time, the one that others show."""
        if not phone.driver.remakes_codes:
            return self._talk(phone.driver.code(id_))
        return self._shown.code(id_, lambda: self._talk(phone.driver.code(id_)))

    def pair(self, client: Client, name: str, number: str) -> str:
        """A code to type on the phone instead. Raises NotFound, InvalidRequest, IllegalTransition, Unavailable."""
        digits = number.removeprefix("+")
        if not (digits.isascii() and digits.isdigit() and 5 <= len(digits) <= 15):
            raise InvalidRequest("number", "has 5 to 15 digits, with country code")
        found, driver = self.get(client, name), self._phone().driver
        if driver.remakes_codes:  # before it is asked for: a keeper may be about to fetch the next
            found = self._write(found, pairs_until=self.now() + PAIRS)
            self._shown.drop(found.id)
        try:
            return self.ask(driver.pair(found.id, digits))
        except (IllegalTransition, Unavailable):
            self._write(found, pairs_until=None)  # nobody types it: QR codes are shown again
            raise

    def passkey(self, client: Client, name: str) -> Passkey:
        """What a phone with a passkey asks for. Raises NotFound, IllegalTransition, Unavailable."""
        return self.ask(self._phone().driver.passkey(self.get(client, name).id))

    def answer_passkey(self, client: Client, name: str, assertion: Mapping[str, object]) -> None:
        """Hands over an authenticator's answer, or with an empty one says that the codes are the same. Raises the same."""
        found, driver = self.get(client, name), self._phone().driver
        self.ask(
            driver.answer_passkey(found.id, assertion)
            if assertion
            else driver.confirm_passkey(found.id)
        )
        self.sessions.look_now(found.id)

    def presence(self, client: Client, name: str, *, online: bool) -> None:
        """Shows its user as online, or not. Raises NotFound, IllegalTransition, Unavailable."""
        self.ask(self._phone().driver.presence(self.get(client, name).id, online=online))

    def check(self, session: str, number: str) -> Checked | Trouble:
        """Whether a number (digits) is on WhatsApp, as this session is told; no cache, no cap."""
        return self._talk(self._phone().driver.check(session, number))

    # -- as kept by a keeper

    def heard(self, session: str) -> None:
        """The sidecar has said that something about it is new."""
        self.sessions.look_now(session)

    def look(self, id_: str) -> None:
        """Finds out how a session stands, does what follows, and says when it is looked at again."""
        if (session := self.sessions.get(id_)) is None or (phone := self.phone) is None:
            return
        found = self._talk(phone.driver.look(id_))
        now = self.now()
        tried_s = (now - session.tried_at).total_seconds() if session.tried_at else None
        follows = step(
            session,
            found,
            standing_s=(now - session.since).total_seconds(),
            tried_s=tried_s,
            check_s=self.settings.session_check_interval,
        )
        new = self.sessions.change(session, **_changes(session, follows, found, now))
        if new is None:
            self.sessions.look_now(id_)  # somebody else has changed it: their word counts
            return
        if follows.act:
            self._act(phone, new, follows.act)
        self._tell(session, new)
        if new.state == "scan":
            new = self._show_code(phone, new)
        elif session.code or (new.state == "passkey" and session.state != "passkey"):
            self._settled(new)
        self.sessions.look_in(id_, follows.look_in_s)

    def _act(self, phone: WhatsAppWeb, session: Session, act: Act) -> None:
        driver, hook = phone.driver, self._hook(phone, session.id)
        talks: dict[Act, Talk[Link | Trouble | None]] = {
            "create": driver.create(session.id, hook),
            "start": driver.start(session.id),
            "restart": driver.restart(session.id),
            "stop": driver.stop(session.id),
        }
        if isinstance(done := self._talk(talks[act]), Trouble):
            log.warning("session %s: no %s: %s", session.id, act, done.reason)

    def _tell(self, before: Session, after: Session) -> None:
        """Has operators told, once, that a phone is away or has been unlinked; and that it is there again."""
        id_ = after.id
        if after.state == "linked":
            if before.state != "linked":
                self.sessions.goes(account_key(SERVICE, id_))
            self.alerts.over(LOST, id_, f"session {id_} is there again")
        elif after.state in {"scan", "unlinked"} and before.state in {"linked", "dropped"}:
            text = f"session {id_} is no longer linked: postrider sessions link {id_}; its deliveries wait"
            if before.state == "linked":
                self.alerts.alert(LOST, id_, text, lasts=True)
            else:  # that it dropped was told
                self.alerts.alert("unlinked", id_, text)
        elif after.state == "dropped" and before.state == "linked":
            text = f"session {id_} has dropped, and is being brought back; its deliveries wait. {after.reason}"
            self.alerts.alert(LOST, id_, text.rstrip(), lasts=True)
        elif after.state == "passkey" and before.state != "passkey":
            text = f"session {id_} asks for the passkey of its phone: finish it at the sidecar's dashboard, or by /api/v1/sessions/{id_}/passkey"
            self.alerts.alert("passkey", id_, text)

    def _show_code(self, phone: WhatsAppWeb, session: Session) -> Session:
        """Has whoever watches told of a code that is new."""
        if session.pairs_until and session.pairs_until > self.now():
            return session
        code = self._code(phone, session.id)
        if isinstance(code, Trouble):
            return session
        digest = hashlib.sha256(code.text.encode() or code.png).hexdigest()[:16]
        if digest == session.code or (new := self.sessions.change(session, code=digest)) is None:
            return session
        for watcher in self.watchers:
            watcher.scans(new, code)
        return new

    def _settled(self, session: Session) -> None:
        self._shown.drop(session.id)
        for watcher in self.watchers:
            watcher.settled(session)

    # -- writing and asking

    def _stands(self, session: Session, state: str, reason: str = "") -> dict[str, Any]:
        since = self.now() if state != session.state else session.since
        return {"state": state, "reason": reason, "since": since}

    def _write(self, session: Session, **changes: Any) -> Session:
        """`session` changed, whatever a keeper writes meanwhile. Raises NotFound, Unavailable."""
        for _ in range(CHANGES):
            if new := self.sessions.change(session, **changes):
                return new
            if (again := self.sessions.get(session.id)) is None:
                raise NotFound("there is no such session")
            session = again
        raise Unavailable("the session is being changed by others; try again")

    def _hook(self, phone: WhatsAppWeb, id_: str) -> Hook:
        return phone.of_session(id_).hook(self.settings.hooks_url)

    def _phone(self) -> WhatsAppWeb:
        if self.phone is None:
            raise InvalidRequest(SERVICE, "is not set up here; it needs WAHA_URL or GOWA_URL")
        return self.phone

    def ask(self, talk: Talk[T | Trouble], but: str = "") -> T:
        """What the sidecar answers. Raises IllegalTransition, Unavailable; not for a trouble of the kind `but`."""
        found = self._talk(talk)
        if isinstance(found, Trouble) and found.kind == but:
            return None  # type: ignore[return-value] # of a talk that gives nothing else
        return self._told(found)

    def _told(self, found: T | Trouble) -> T:
        if not isinstance(found, Trouble):
            return found
        if found.kind in {"missing", "unlinked"}:
            raise IllegalTransition(f"the session does not allow that now: {found.reason}")
        if found.kind == "limited":
            raise IllegalTransition(f"WhatsApp restricts this phone: {found.reason}")
        raise Unavailable(f"the sidecar does not do it: {found.reason}", retry_after_s=5)

    def _talk(self, talk: Talk[T]) -> T:
        if not hasattr(self._local, "transport"):
            self._local.transport = Blocking(lambda _: None, tls_verify=self.settings.tls_verify)
        reply: Reply | NoReply
        try:
            request = next(talk)
            while True:
                reply = self._local.transport.send(request)
                request = talk.send(reply)
        except StopIteration as stop:
            found: T = stop.value
            return found


def _changes(
    session: Session, follows: Step, found: Link | Trouble, now: datetime
) -> dict[str, Any]:
    """What of `session` is no longer so."""
    changes: dict[str, Any] = {
        "state": follows.state,
        "reason": follows.reason,
        "tries": follows.tries,
    }
    if follows.state != session.state:
        changes["since"] = now
    if follows.state != "scan":
        changes |= {"code": "", "pairs_until": None}
    if follows.state in {"scan", "passkey", "unlinked"}:
        changes |= {"number": "", "phone": ""}
    if follows.act:
        changes["tried_at"] = now
    if follows.gives_up:
        changes["wanted"] = False
    if follows.state == "linked" and isinstance(found, Link):
        changes |= {"number": found.number, "phone": found.name}
        if session.linked_at is None or session.last not in {"", found.number}:
            changes["linked_at"] = now
        changes["last"] = found.number or session.last
    return changes
