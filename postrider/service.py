"""The use cases: accept, change, list, purge, sweep. Knows no HTTP server and no queue's format."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

from messengers.base import Messenger, Note
from postrider import counts
from postrider.accounts import DEFAULT
from postrider.accounts import open_accounts as open_accounts  # noqa: PLC0414 - for who wires a service
from postrider.alerts import Alerts
from postrider.arriving import Arriving
from postrider.changes import Changed, Changes
from postrider.checks import Checks, unstorable
from postrider.clock import Clock
from postrider.counts import Counts
from postrider.desk import LOOK, Desk
from postrider.errors import (
    IllegalTransition,
    InvalidRequest,
    NotFound,
    PostriderError,
    Unavailable,
)
from postrider.fetching import Fetching
from postrider.files import Files, Stored
from postrider.finding import Finder, Found, Summary, Wanted
from postrider.forwarding import tells
from postrider.handovers import Handovers
from postrider.keys import Keys
from postrider.ledger import Ledger
from postrider.lookups import Lookups
from postrider.media import Awaited
from postrider.model import (
    Attachment,
    Client,
    Message,
    NewMessage,
    Recipient,
    State,
    Terms,
    new_message_id,
)
from postrider.older import Older
from postrider.opening import opened
from postrider.outbox import Outbox
from postrider.phones import SERVICE, Phones
from postrider.planning import Planner
from postrider.records import account_key
from postrider.repeats import Once, Repeats
from postrider.schedules import Schedules
from postrider.sender import Sender
from postrider.sessions import Sessions
from postrider.settings import Settings
from postrider.signing import Links
from postrider.store import COMMIT_WITHIN_S, ENDED_ILL, ENDED_WELL, Page, Store, accepted
from postrider.suppressions import Suppressions
from postrider.tasks import Tasks
from postrider.vault import Vault
from postrider.webhooks import Webhooks

log = logging.getLogger("postrider.service")

_WHEN = {
    "cancel": "only what waits can be stopped",
    "retry": "only what failed, was cancelled, has expired, was suppressed or is unknown and on hold can be sent again",
}
SWEEP_S = 2.0
"""Seconds for which one sweep forgets at most."""
RESCUE_AFTER_S = 30.0
"""Seconds after its time at which a delivery that no list would send is armed anew."""
NOBODY_SERVES_S = 10.0
"""Seconds without a claim of ours after which RQ's own workers get what waits in our lines."""


class Service:
    """What Postrider does, over one store and the messengers that are set up: (messenger, account name) -> adapter."""

    def __init__(
        self, store: Store, settings: Settings, accounts: Mapping[tuple[str, str], Messenger]
    ) -> None:
        self.store = store
        self.clock = Clock(store.now)
        self.settings = settings
        self.accounts = accounts
        self.vault = store.vault = Vault(
            settings.keys_dir / "at-rest", seals=settings.encrypt_at_rest
        )
        self.finder = Finder(store.redis, self.vault)
        self.changes = Changes(store.redis, self.vault)
        self.repeats = Repeats(store.redis)
        self.ledger = Ledger(store.redis)
        self.suppressions = Suppressions(store.redis)
        self.counts = Counts(store.redis)
        self.outbox = Outbox(store.redis)
        self.alerts = Alerts(store.redis, settings)
        links = None
        if settings.public_url:
            links = Links(settings.public_url, settings.keys_dir)
        self.files = Files(store.redis, settings.data_dir / "files", self.vault, links)
        self.fetching = Fetching(self.files, settings.file_guard, settings.max_file_bytes)
        self.sender = Sender(store, settings, accounts, self.counts, self.files)
        self.webhooks = Webhooks(store, settings, accounts)
        sessions = Sessions(store.redis, tells(settings.webhook_url, store.now))
        self.phones = Phones(sessions, settings, accounts, self.alerts, store.now)
        self.awaited = Awaited(store.redis, self.vault)
        self.checks = Checks(settings, accounts, self.phones.account_of)
        self.phones.changed = self.sender.know_accounts
        self.sender.on_stop = self._stop_account
        self.sender.on_trouble = self._trouble
        self.lookups = Lookups(self.sender.first.numbers, self.phones, self._stop_account)
        self.webhooks.heard = self.phones.heard
        self.webhooks.sync = self.phones.sync
        self.older = Older(Tasks(store.redis), self.phones, self.lookups, self, store.now)
        self.inbox = self.webhooks.inbox
        self.receipts = self.webhooks.receipts
        self.arrivals = self.webhooks.arrivals
        plans = Schedules(store.redis, store.room, self.vault)
        self.schedules = Planner(plans, self, store.now, settings.delete_finished_timeout)
        # Often enough to see how a message has ended before it is purged.
        look = min(LOOK, timedelta(seconds=settings.delete_finished_timeout / 2))
        self.keys = Keys(settings.keys_dir)
        self.desk = Desk(Handovers(store.redis), self, store.now, look=look)

    # -- files

    def keep(
        self, owner: str, arrived: Sequence[tuple[str, Arriving]], key: bytes | None = None
    ) -> list[Stored]:
        """Keeps files under their names, all of them or none; what is in them, if they came encrypted, by `key` or in an envelope.

        What came in stays the caller's to close. Raises NotOpened, TooManyRequests, Unavailable.
        """
        with ExitStack() as stack:
            plain = []
            for name, incoming in arrived:
                field = name[:100] or "file"
                one = opened(incoming, self.files, self.keys, key, field=field)
                stack.callback(one.close)
                plain.append((one, name))
            return self.files.keep_all(plain, owner, self.store.now())

    def delete_file(self, id_: str, owner: str | None) -> None:
        """Deletes a file that nothing needs. `owner`: whose it must be; None: anybody's. Raises NotFound, IllegalTransition."""
        if not self.files.delete(id_, owner, self.store.now()):
            raise IllegalTransition(
                "a message or a schedule needs it still, or an upload that waits for /msg"
            )

    # -- accepting

    def accept(
        self, new: NewMessage, once: Once | None = None
    ) -> tuple[Message, tuple[Recipient, ...]]:
        """Takes the message with all its recipients, or none of it.

        Gives it back with the recipients it has, exact duplicates dropped. With `once` a repeated call gives what the first
        one gave. Raises InvalidRequest, IdempotencyConflict, TooManyRequests, Unavailable.
        """
        if not new.attachments:
            return self._accept_once(new, once)
        # A repeated call has what the first one had, whatever has become of its files and URLs since.
        if once and (first := self.repeats.accepted(new.owner, once)):
            asked = self.checks.message(replace(new, files=first.files))
            return accepted(first.message, _timed(asked, first.at), first.at), asked.recipients
        now = self.clock.now()
        attachments, fetched = self.fetching.fetch_all(new.attachments, new.owner, self.store.now)
        vain = {stored.file.id for stored in fetched}
        try:
            taken = self._accept_once(replace(new, attachments=attachments), once, new.attachments)
            vain -= {file.id for file in taken[0].files}  # but where another call was faster
        except PostriderError as error:
            if isinstance(error, Unavailable) and error.accepted_unknown:
                vain.clear()
            raise
        finally:
            if vain:
                self.files.forget(vain, now)
        return taken

    def _accept_once(
        self, new: NewMessage, once: Once | None, named: Sequence[Attachment] = ()
    ) -> tuple[Message, tuple[Recipient, ...]]:
        """`named`: its attachments as the client named them."""
        asked = self.checks.message(self.with_files(new))
        recipients = asked.recipients
        now = self.clock.now()
        new = _timed(asked, now)
        message_id = new_message_id(now)
        if once is None:
            self.checks.times(new, now)
            return self._accept(message_id, new, now, named), recipients
        kept_s = self.settings.idempotency_ttl
        runs_s = 2 * COMMIT_WITHIN_S
        before = self.repeats.begin(new.owner, once, message_id, now, runs_s=runs_s, kept_s=kept_s)
        if before is not None:
            if asked.files and (first := self.repeats.accepted(new.owner, once)):
                asked = replace(asked, files=first.files)
            return accepted(before[0], _timed(asked, before[1]), before[1]), recipients
        try:
            self.checks.times(new, now)
            message = self._accept(message_id, new, now, named)
        except PostriderError as error:
            if not (isinstance(error, Unavailable) and error.accepted_unknown):
                # Should this fail, too: it is free once nothing can be committed any more.
                with suppress(Unavailable):
                    self.repeats.end(new.owner, once, message_id, accepted=False)
            raise
        with suppress(Unavailable):  # the message itself tells
            self.repeats.end(new.owner, once, message_id, accepted=True, files=message.files)
        return message, recipients

    def with_files(self, new: NewMessage) -> NewMessage:
        """`new` with the files that it names. Raises InvalidRequest."""
        if new.files or not new.attachments:
            return new
        return replace(new, files=self.fetching.resolve(new.attachments, new.owner))

    def accept_occurrence(self, new: NewMessage, message_id: str, schedule: str) -> None:
        """Takes the message that `schedule` plans under this id, also one whose time is past.

        Raises IllegalTransition when it has it already, or no longer plans it; InvalidRequest, Unavailable.
        """
        new, now = self.checks.message(self.with_files(new)), self.store.now()
        self.store.accept(
            message_id,
            new,
            now,
            self.sender.receivers(new),
            schedule=schedule,
            told=self._is_told(new),
        )
        self._count(new)

    def stop(self, message_id: str) -> int:
        """Stops what has not gone of a message; how many deliveries had, or may have. Doing it twice is no harm."""
        met = self.changes.message("cancel", message_id).unchanged
        stays = (State.CANCELLED, State.EXPIRED, State.SUPPRESSED)
        return sum(n for state, n in met.items() if state not in stays)

    def _accept(
        self, message_id: str, new: NewMessage, now: datetime, named: Sequence[Attachment]
    ) -> Message:
        if new.dedupe_within_s:
            self._refuse_repeats(message_id, new, named, new.dedupe_within_s)
        message = self.store.accept(
            message_id, new, now, self.sender.receivers(new), told=self._is_told(new)
        )
        self._count(new)
        return message

    def _is_told(self, new: NewMessage) -> bool:
        return bool(new.callback_url or self.settings.webhook_url)

    def _count(self, new: NewMessage) -> None:
        self.counts.add(counts.MESSAGES)
        for service, number in Counter(to.service for to in new.recipients).items():
            self.counts.add(counts.DELIVERIES, service, by=number)

    def _refuse_repeats(
        self, message_id: str, new: NewMessage, named: Sequence[Attachment], within_s: float
    ) -> None:
        # By what was named: what is fetched gets another id each time.
        text = "\0".join((new.body, *(one.file or one.url for one in named)))
        said = [
            f"{new.owner}\0{to.service}\0{to.account}\0{to.uuid}\0{text}" for to in new.recipients
        ]
        if (index := self.repeats.say(message_id, said, within_s)) is not None:
            raise InvalidRequest(
                f"recipients[{index}]",
                f"got this text{' with these files' if named else ''} less than {within_s:g} s ago (dedupe_within_s)",
            )

    def _stop_account(self, account: str, why: str) -> None:
        """Lets nothing leave by an account that its messenger restricts, and has operators told."""
        self.changes.stop(f"account {account}", f"its messenger: {why}", self.store.now())
        service, _, name = account.partition("/")
        go_on = f"postrider go-on --service {service} --account {name or DEFAULT}"
        text = f"{account} is stopped: {why}. Its deliveries wait until you let it go on: {go_on}"
        self.alerts.alert("stopped", account, text)

    def _trouble(self, service: str, account: str) -> None:
        """Has a linked phone looked at that does not send: its sidecar need not tell that it is away."""
        if service == SERVICE:
            self.phones.heard(account)

    # -- changing what was accepted

    def cancel(self, message_id: str, owner: str | None) -> Changed:
        """Stops what of a message has not gone. `owner`: whose it must be; None: anybody's. Raises NotFound."""
        return self.changes.message("cancel", self.message(message_id, owner).message.id)

    def cancel_all(self, wanted: Wanted) -> Changed:
        """Stops what has not gone of every message with a reference or tag."""
        done = Changed()
        cursor = None
        while True:
            page, cursor = self.finder.messages(wanted, 100, cursor)
            for summary in page:
                done.merge(self.changes.message("cancel", summary.message.id))
            if cursor is None:
                return done

    def change(
        self,
        message_id: str,
        owner: str | None,
        *,
        body: str | None = None,
        send_at: datetime | None = None,
        paused: bool | None = None,
    ) -> Changed:
        """Gives what of a message has not gone another text, another time, or a rest. Raises NotFound, InvalidRequest."""
        message = self.message(message_id, owner).message
        done = Changed()
        if send_at is not None:
            self.checks.time(send_at, self.store.now())
            expires_at = message.terms.expires_at
            if expires_at is not None and send_at >= expires_at:
                raise InvalidRequest(
                    "send_at",
                    f"is not before {expires_at:%Y-%m-%dT%H:%M:%SZ}, when the message expires",
                )
        if body is not None:
            self.checks.text(message, body)
            done = self.changes.rewrite(message.id, body)  # what may follow tells whom it reached
        if paused is True:
            done = self.changes.message("pause", message.id)
        if send_at is not None:
            done = self.changes.message("move", message.id, send_at)
        if paused is False:
            done = self.changes.message("resume", message.id)
        return done

    def change_delivery(
        self, what: Literal["cancel", "retry"], id_: str, owner: str | None
    ) -> Found:
        """Stops one, or sends it again; gives it as it then is. Raises NotFound, IllegalTransition."""
        found = self.delivery(id_, owner)
        expires_at = found.message.terms.expires_at
        if what == "retry" and expires_at is not None and expires_at <= self.store.now():
            raise IllegalTransition("its message has expired; send it as a new one")
        if not self.changes.deliveries(what, [id_]).total:
            state = self.delivery(id_, owner).delivery.state
            raise IllegalTransition(f"it is {state}; {_WHEN[what]}")
        return self.finder.delivery(id_, owner) or found

    def find_messages(
        self, wanted: Wanted, limit: int, cursor: str | None
    ) -> tuple[list[Summary], str | None]:
        """A page of messages, newest first."""
        return self.finder.messages(wanted, limit, cursor)

    def message(self, id_: str, owner: str | None) -> Summary:
        """One message and its counts. Raises NotFound."""
        if (found := self.finder.message(id_, owner)) is None:
            raise NotFound("there is no such message")
        return found

    def delivery(self, id_: str, owner: str | None) -> Found:
        """One delivery. Raises NotFound."""
        if (found := self.finder.delivery(id_, owner)) is None:
            raise NotFound("there is no such delivery")
        return found

    # -- seeing and forgetting

    def scheduled(self, limit: int, cursor: str | None, client: Client | None = None) -> Page:
        """What waits, soonest first: of what `client` sees."""
        return self.store.scheduled(limit, cursor, _owner_seen(client))

    def finished(self, limit: int, cursor: str | None, client: Client | None = None) -> Page:
        """What ended, newest first: of what `client` sees."""
        return self.store.finished(limit, cursor, _owner_seen(client))

    def purge(self) -> int:
        """Forgets what is finished and failed; never what waits or is unknown."""
        self.desk.settle()
        return self.store.purge((*ENDED_WELL, *ENDED_ILL, State.CANCELLED))

    def keep_note(self, note: Note) -> None:
        """Puts a sandbox message into the inbox."""
        told = {"uuid": note.to, "text": note.text}
        if note.files:
            told["files"] = json.dumps([[f.name, f.media_type, f.size, f.id] for f in note.files])
        self.inbox.keep_note(note.key, told)

    def notes(
        self, limit: int, after: float | None = None
    ) -> list[tuple[datetime, dict[str, str]]]:
        """The sandbox's newest messages, or the first that came later than `after` (s); oldest first."""
        return self.inbox.notes(limit, after)

    def sees_notes(self, keys: Sequence[str], client: Client) -> list[bool]:
        """Which of the sandbox's messages `client` sees. Whose one was is known until its message is purged."""
        if client.role == "admin":
            return [True] * len(keys)
        return [
            owner is not None and client.sees(owner)
            for owner in self.store.owners([key.partition("-")[0] for key in keys])
        ]

    def suppress(self, service: str, uuid: str, reason: str = "") -> None:
        """Has nothing sent to this address any more, on any account. Raises NotFound for a messenger that is none, InvalidRequest."""
        self.checks.address(service, uuid)
        if wrong := unstorable(reason):
            raise InvalidRequest("reason", wrong)
        self.suppressions.add([(service, uuid)], "manual", reason)

    # -- sweeping

    def start_alerts(self) -> None:
        """Tells operators of accounts that are refused, and whatever else is raised, from here on."""
        self.alerts.start(lambda: [account_key(*key) for key in self.accounts])

    def sweep(self) -> None:
        """Finds what a dead process left behind, and forgets what has been kept long enough. Any process may run it."""
        now = self.store.now()
        with suppress(Unavailable):  # a full Redis, which the next lines empty
            self.desk.sweep()
        # First what only frees: in a full Redis the rest fails. Of a great deal a part at a time, as the rest is urgent.
        finished_s, failed_s = (
            timedelta(seconds=s)
            for s in (self.settings.delete_finished_timeout, self.settings.delete_failed_timeout)
        )
        self.store.purge(ENDED_WELL, now - finished_s, SWEEP_S)
        self.store.purge((*ENDED_ILL, State.CANCELLED), now - failed_s, SWEEP_S)
        self.store.finish_accepting()
        self.sender.settle_overdue()
        self.store.release(NOBODY_SERVES_S)
        self.changes.sweep(now)
        if rescued := self.store.rescue(RESCUE_AFTER_S):
            log.warning("armed %d deliveries anew that stood in no list", rescued)
        self.schedules.sweep()
        self.awaited.forget()
        self.files.sweep(now)


def _timed(new: NewMessage, now: datetime) -> NewMessage:
    """`new` with the moments that it names by seconds from now, or by a window that is closed then."""
    if new.send_in_s is not None:
        new = replace(new, send_at=now + timedelta(seconds=new.send_in_s))
    terms = new.terms
    if terms.window is None:
        return new
    zoned = terms.window.zone is None and any(to.zone for to in new.recipients)
    due_at = new.send_at or now
    opens_at = terms.opens_at(due_at)
    if opens_at > due_at:
        new = replace(new, send_at=opens_at)
    if not zoned and not any(to.send_at for to in new.recipients):
        return new
    recipients = tuple(_opened(to, due_at, opens_at, terms) for to in new.recipients)
    return replace(new, recipients=recipients, terms=replace(terms, zoned=zoned))


def _opened(to: Recipient, due_at: datetime, opens_at: datetime, terms: Terms) -> Recipient:
    """`to`, with a time of its own where its window opens at another time than the message's."""
    own = terms.opens_at(to.send_at or due_at, to.zone)
    return to if own == opens_at and to.send_at is None else replace(to, send_at=own)


def _owner_seen(client: Client | None) -> str | None:
    """Whose messages a list is to hold; None: everybody's."""
    return None if client is None or client.role == "admin" else client.id
