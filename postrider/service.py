"""The use cases: accept, list, purge, deliver, sweep. Knows no HTTP server and no queue's format."""

import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from messengers import MESSENGERS
from messengers.base import (
    Broadcast,
    Challenge,
    Messenger,
    NoReply,
    Note,
    Outbound,
    Outcome,
    Person,
    Reply,
    Request,
    Retry,
    Sent,
    Template,
    Templates,
    Unclear,
    Webhook,
)
from postrider import counts, records, verdicts
from postrider.accounts import Accounts
from postrider.accounts import open_accounts as open_accounts  # noqa: PLC0414 - for who wires a service
from postrider.alerts import Alerts
from postrider.changes import Changed, Changes
from postrider.counts import Counts
from postrider.errors import (
    BadSignature,
    IllegalTransition,
    InvalidRequest,
    NotFound,
    PostriderError,
    Unavailable,
)
from postrider.finding import Finder, Found, Summary, Wanted
from postrider.guard import Refused
from postrider.inbox import Inbox
from postrider.incoming import Arrivals, plain_words
from postrider.ledger import Ledger
from postrider.limits import Limits, limits_of
from postrider.model import (
    Claim,
    Client,
    Message,
    NewMessage,
    Recipient,
    Signal,
    State,
    Terms,
    Verdict,
    new_message_id,
)
from postrider.outbox import Outbox
from postrider.planning import Planner
from postrider.receipts import Receipts
from postrider.records import account_key
from postrider.repeats import Once, Repeats
from postrider.schedules import Schedules
from postrider.settings import Settings
from postrider.store import COMMIT_WITHIN_S, ENDED_ILL, ENDED_WELL, Claimed, Page, Store, accepted
from postrider.suppressions import Suppressions
from postrider.transport import Transport

log = logging.getLogger("postrider.service")

TEMPLATE_MAX_BYTES = 64 * 1024
_WHEN = {
    "cancel": "only what waits can be stopped",
    "retry": "only what failed, was cancelled, has expired, was suppressed or is unknown and on hold can be sent again",
}
PAST = "Date must be in a future!"
LEASE_S = 15.0
"""A claim of ours; renewed while its worker lives. With the longest grace still under a minute."""
STOCK_LEASE_S = 55.0
"""A stock worker cannot renew its lease: longer than any attempt (transport.WHOLE_S), and recording it."""
RESCUE_AFTER_S = 30.0
"""Seconds after its time at which a delivery that no list would send is armed anew."""
NOBODY_SERVES_S = 10.0
"""Seconds without a claim of ours after which RQ's own workers get what waits in our lines."""
AWAY_S = 0.5
"""Seconds between tries while Redis is away."""
RECORD_WITHIN_S = 20.0
"""Seconds for which a stock worker tries to record; with the attempt itself still under its lease."""


class DeliveryFailed(Exception):
    """A delivery failed for good; in words for RQ's list of failed jobs."""


Exchange = Generator[Request | Note, Reply | NoReply, list[Verdict]]


@dataclass(frozen=True, slots=True)
class Service:
    """What Postrider does, over one store and the messengers that are set up."""

    store: Store
    settings: Settings
    accounts: Mapping[tuple[str, str], Messenger]
    """(messenger, account name) -> its adapter."""
    limits: dict[tuple[str, str], Limits] = field(init=False)
    """The same -> what it may do; an account that turns out not to be allowed to broadcast no longer does."""

    inbox: Inbox = field(init=False)
    finder: Finder = field(init=False)
    changes: Changes = field(init=False)
    repeats: Repeats = field(init=False)
    ledger: Ledger = field(init=False)
    receipts: Receipts = field(init=False)
    arrivals: Arrivals = field(init=False)
    suppressions: Suppressions = field(init=False)
    counts: Counts = field(init=False)
    outbox: Outbox = field(init=False)
    alerts: Alerts = field(init=False)
    schedules: Planner = field(init=False)

    def __post_init__(self) -> None:
        for name, part in (
            ("inbox", Inbox),
            ("finder", Finder),
            ("changes", Changes),
            ("repeats", Repeats),
            ("ledger", Ledger),
            ("receipts", Receipts),
            ("arrivals", Arrivals),
            ("suppressions", Suppressions),
            ("counts", Counts),
            ("outbox", Outbox),
        ):
            object.__setattr__(self, name, part(self.store.redis))
        object.__setattr__(self, "alerts", Alerts(self.store.redis, self.settings))
        planner = Planner(
            Schedules(self.store.redis, self.store.room),
            self,
            self.store.now,
            self.settings.delete_finished_timeout,
        )
        object.__setattr__(self, "schedules", planner)
        paces = self.accounts.paces if isinstance(self.accounts, Accounts) else {}
        limits = {
            key: limits_of(adapter, self.settings, paces.get(key))
            for key, adapter in self.accounts.items()
        }
        object.__setattr__(self, "limits", limits)

    # -- accepting

    def accept(
        self, new: NewMessage, once: Once | None = None
    ) -> tuple[Message, tuple[Recipient, ...]]:
        """Takes the message with all its recipients, or none of it.

        Gives it back with the recipients it has, exact duplicates dropped. With `once` a repeated call gives what the first
        one gave. Raises InvalidRequest, IdempotencyConflict, Unavailable.
        """
        asked = self.check(new)
        recipients = asked.recipients
        now = self.store.now()
        new = _timed(asked, now)
        message_id = new_message_id(now)
        if once is None:
            self.check_times(new, now)
            return self._accept(message_id, new, now), recipients
        kept_s = self.settings.idempotency_ttl
        runs_s = 2 * COMMIT_WITHIN_S
        before = self.repeats.begin(new.owner, once, message_id, now, runs_s=runs_s, kept_s=kept_s)
        if before is not None:
            return accepted(before[0], _timed(asked, before[1]), before[1]), recipients
        try:
            self.check_times(new, now)
            message = self._accept(message_id, new, now)
        except PostriderError as error:
            if not (isinstance(error, Unavailable) and error.accepted_unknown):
                with suppress(
                    Unavailable
                ):  # else it is free once nothing can be committed any more
                    self.repeats.end(new.owner, once, message_id, accepted=False)
            raise
        with suppress(Unavailable):  # the message itself tells
            self.repeats.end(new.owner, once, message_id, accepted=True)
        return message, recipients

    def accept_occurrence(self, new: NewMessage, message_id: str, schedule: str) -> None:
        """Takes the message that `schedule` plans under this id, also one whose time is past.

        Raises IllegalTransition when it has it already, or no longer plans it; InvalidRequest, Unavailable.
        """
        new, now = self.check(new), self.store.now()
        self.store.accept(
            message_id,
            new,
            now,
            self._receivers(new),
            schedule=schedule,
            told=self._is_told(new),
        )
        self._count(new)

    def stop(self, message_id: str) -> int:
        """Stops what has not gone of a message; how many deliveries had, or may have. Doing it twice is no harm."""
        met = self.changes.message("cancel", message_id).unchanged
        stays = (State.CANCELLED, State.EXPIRED, State.SUPPRESSED)
        return sum(n for state, n in met.items() if state not in stays)

    def check(self, new: NewMessage) -> NewMessage:
        """`new` with exact duplicates among its recipients dropped, if it can be sent. Raises InvalidRequest."""
        recipients = tuple(dict.fromkeys(new.recipients))
        if not recipients:
            raise InvalidRequest("recipients", "names nobody; give at least one recipient")
        if len(new.recipients) > self.settings.max_recipients:
            raise InvalidRequest(
                "recipients",
                f"has {len(new.recipients)} entries; at most {self.settings.max_recipients} (MAX_RECIPIENTS) are taken",
            )
        self._check_recipients(new)
        self._check_body(new)
        self._check_callback(new)
        return replace(new, recipients=recipients)

    def _accept(self, message_id: str, new: NewMessage, now: datetime) -> Message:
        if new.dedupe_within_s:
            self._refuse_repeats(message_id, new, new.dedupe_within_s)
        message = self.store.accept(
            message_id, new, now, self._receivers(new), told=self._is_told(new)
        )
        self._count(new)
        return message

    def _is_told(self, new: NewMessage) -> bool:
        return bool(new.callback_url or self.settings.webhook_url)

    def _count(self, new: NewMessage) -> None:
        self.counts.add(counts.MESSAGES)
        for service, number in Counter(to.service for to in new.recipients).items():
            self.counts.add(counts.DELIVERIES, service, by=number)

    def _refuse_repeats(self, message_id: str, new: NewMessage, within_s: float) -> None:
        said = [
            f"{new.owner}\0{to.service}\0{to.account}\0{to.uuid}\0{new.body}"
            for to in new.recipients
        ]
        if (index := self.repeats.say(message_id, said, within_s)) is not None:
            raise InvalidRequest(
                f"recipients[{index}]",
                f"got this text less than {within_s:g} s ago (dedupe_within_s)",
            )

    def _receivers(self, new: NewMessage) -> int | None:
        """How many recipients of `new` one call reaches, where calls reach several."""
        several: dict[tuple[str, str], list[str]] = {}
        for to in new.recipients:
            if self.limits[to.service, to.account].receivers > 1:
                several.setdefault((to.service, to.account), []).append(to.uuid)
        found = []
        for key, tos in several.items():
            adapter: object = self.accounts[key]
            if isinstance(adapter, Broadcast):
                found.append(adapter.most_receivers(new.body, tos))
        return min(found, default=None)

    def _check_recipients(self, new: NewMessage) -> None:
        for index, recipient in enumerate(new.recipients):
            adapter = self.accounts.get((recipient.service, recipient.account))
            if adapter is None:
                raise self._not_offered(index, recipient)
            reason = _unstorable(recipient.uuid) or adapter.check_recipient(recipient.uuid)
            if reason:
                raise InvalidRequest(f"recipients[{index}].uuid", reason)

    def _not_offered(self, index: int, to: Recipient) -> InvalidRequest:
        service, which = to.service, "service"
        if there := sorted(name for messenger, name in self.accounts if messenger == service):
            which = "account"
            why = f"{service} has no account {to.account[:40]!r} here; it has {', '.join(there)}"
        elif service in MESSENGERS:
            needs = ", ".join(MESSENGERS[service].needs) or "SANDBOX=on"
            why = f"{service} is not set up here; it needs {needs}"
        else:
            why = self._no_messenger(service)
        return InvalidRequest(f"recipients[{index}].{which}", why)

    def _no_messenger(self, name: str) -> str:
        offered = ", ".join(sorted({service for service, _ in self.accounts})) or "none"
        return f"unknown messenger {name[:40]!r}; offered here: {offered}"

    def _check_body(self, new: NewMessage) -> None:
        if reason := _unstorable(new.body):
            raise InvalidRequest("body", reason)
        first_of: dict[tuple[str, str], int] = {}
        for index, recipient in enumerate(new.recipients):
            first_of.setdefault((recipient.service, recipient.account), index)
        templated = False
        for key, index in first_of.items():
            adapter: object = self.accounts[key]
            if new.template and isinstance(adapter, Templates):
                templated = True
                if reason := _unsendable(new.template) or adapter.check_template(new.template):
                    raise InvalidRequest("template", reason)
                continue
            if not new.body.strip():
                raise InvalidRequest("body", "must hold more than white space")
            if reason := self.accounts[key].check_text(new.body):
                raise InvalidRequest("body", f"{reason} (recipients[{index}], {key[0]})")
        if new.template and not templated:
            raise InvalidRequest("template", "is for whatsapp, and no recipient is there")

    def _check_callback(self, new: NewMessage) -> None:
        if new.callback_url is None:
            if new.callback_format != "event":
                raise InvalidRequest("callback_format", "is for a callback_url, and there is none")
            return
        if self.settings.webhook_secret is None:
            raise InvalidRequest("callback_url", "callbacks need WEBHOOK_SECRET, which is not set")
        try:
            self.settings.guard.target(new.callback_url)
        except Refused as error:
            raise InvalidRequest("callback_url", str(error)) from None

    def check_times(self, new: NewMessage, now: datetime) -> None:
        """Whether its times can be kept. Raises InvalidRequest."""
        self._check_time(new.send_at, now)
        last = new.send_at or now
        own = [(n, to.send_at) for n, to in enumerate(new.recipients) if to.send_at]
        for n, send_at in own:
            self._check_time(send_at, now, f"recipients[{n}].send_at")
            last = max(last, send_at)
        if own and new.terms.late_s is not None:
            raise InvalidRequest(
                "late_s", "cannot be said where recipients have times of their own"
            )
        if new.terms.expires_at is not None and new.terms.expires_at <= last:
            raise InvalidRequest("expires_at", "must be later than the message is due")

    def _check_time(self, send_at: datetime | None, now: datetime, field: str = "send_at") -> None:
        if send_at is None:
            return
        if send_at <= now:
            raise InvalidRequest(field, PAST, alone=field == "send_at")
        days = self.settings.max_ahead_days
        if send_at - now > timedelta(days=days):
            raise InvalidRequest(field, f"is more than {days} days (MAX_AHEAD_DAYS) ahead")

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
            self._check_time(send_at, self.store.now())
        if body is not None:
            self._rewrite(message, body)
        if paused is True:
            done = self.changes.message("pause", message.id)
        if send_at is not None:
            done = self.changes.message("move", message.id, send_at)
        if paused is False:
            done = self.changes.message("resume", message.id)
        return done

    def _rewrite(self, message: Message, body: str) -> None:
        if message.template is not None:
            raise InvalidRequest("body", "this message is a template; cancel it and send another")
        for service in message.services:
            adapter = next(a for (name, _), a in self.accounts.items() if name == service)
            if reason := _unstorable(body) or adapter.check_text(body):
                raise InvalidRequest("body", f"{reason} ({service})")
        if not body.strip():
            raise InvalidRequest("body", "must hold more than white space")
        self.changes.rewrite(message.id, body)

    def change_delivery(
        self, what: Literal["cancel", "retry"], id_: str, owner: str | None
    ) -> Found:
        """Stops one, or sends it again; gives it as it then is. Raises NotFound, IllegalTransition."""
        found = self.delivery(id_, owner)
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
        return self.store.purge((*ENDED_WELL, *ENDED_ILL, State.CANCELLED))

    def keep_note(self, note: Note) -> None:
        """Puts a sandbox message into the inbox."""
        self.inbox.keep_note(note.key, {"uuid": note.to, "text": note.text})

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

    # -- hearing from messengers

    def receive(self, service: str, account: str, headers: Mapping[str, str], body: bytes) -> None:
        """Takes what a messenger posted to our webhook. `headers`: lower-case names; `body`: as it came.

        Raises NotFound for one that is not set up or calls nobody, BadSignature. May be called twice with the same.
        """
        adapter = self._webhook(service, account)
        now = self.store.now()
        if not adapter.authentic(headers, body, now):
            raise BadSignature("the signature does not match the body, or is too old")
        self.receipts.take(
            account_key(service, account),
            adapter.receipts(body),
            finished_ttl_s=self.settings.delete_finished_timeout,
            failed_ttl_s=self.settings.delete_failed_timeout,
        )
        messages = adapter.incoming(body)
        people = [Person(m.sender, m.name) for m in messages if m.kind != "left"]
        self.inbox.remember_people(f"{service}/{account}", people)
        self.arrivals.take(
            service,
            account,
            messages,
            kept=self.settings.incoming_kept,
            opt_out=plain_words(self.settings.opt_out_words),
            opt_in=plain_words(self.settings.opt_in_words),
            told_at=now if self.settings.webhook_url else None,
        )

    def _webhook(self, service: str, account: str) -> Webhook:
        adapter: object = self.accounts.get((service, account))
        if not isinstance(adapter, Webhook) or adapter.webhook_lacks():
            raise NotFound("no such webhook")
        return adapter

    def challenge(self, service: str, account: str, query: Mapping[str, str]) -> str:
        """The answer to a messenger that asks whether the webhook is ours. Raises NotFound, BadSignature."""
        adapter: object = self._webhook(service, account)
        if not isinstance(adapter, Challenge):
            raise NotFound("no such webhook")
        if (word := adapter.challenge(query)) is None:
            raise BadSignature("the query does not hold our verify token")
        return word

    def suppress(self, service: str, uuid: str, reason: str = "") -> None:
        """Has nothing sent to this address any more, on any account. Raises NotFound for a messenger that is none, InvalidRequest."""
        adapters = [a for (name, _), a in self.accounts.items() if name == service]
        if not adapters and service not in MESSENGERS:
            raise NotFound(self._no_messenger(service))
        for check in (_unstorable, *(a.check_recipient for a in adapters[:1])):
            if wrong := check(uuid):
                raise InvalidRequest("uuid", wrong)
        if wrong := _unstorable(reason):
            raise InvalidRequest("reason", wrong)
        self.suppressions.add([(service, uuid)], "manual", reason)

    # -- delivering

    def claim(
        self,
        worker: str,
        free: Mapping[tuple[str, str], int] | int,
        *,
        nonce: str | None = None,
        busy: int = 0,
        alone: bool = True,
        lease_s: float = LEASE_S,
    ) -> Claimed:
        """Takes what is due and may go now: at most `free` calls per account (an int: for each).

        The same `nonce` again, after an answer that was lost, gives the same claims. `busy`: how many older ones are at
        work. `alone`: whether one may be among them that goes by itself.
        """
        return self.store.claim(
            worker,
            nonce or secrets.token_hex(8),
            self._specs(free),
            lease_s,
            busy=busy,
            alone=alone,
        )

    def _specs(self, free: Mapping[tuple[str, str], int] | int) -> dict[str, Any]:
        offset = datetime.now(ZoneInfo(self.settings.tz)).utcoffset() or timedelta()
        return {
            account_key(*key): limits.spec(
                free if isinstance(free, int) else free.get(key, 0), int(offset.total_seconds())
            )
            for key, limits in self.limits.items()
        }

    def calls(self, claims: Sequence[Claim]) -> Iterator[tuple[Claim, ...]]:
        """`claims`, cut into what goes out by one call each: alone, or many of one message."""
        together: dict[tuple[str, str, str], list[Claim]] = {}
        for claim in claims:
            to = claim.recipient
            if self.limits[to.service, to.account].receivers == 1 or claim.how:
                yield (claim,)
            else:
                together.setdefault((claim.message.id, to.service, to.account), []).append(claim)
        for (_, *account), group in together.items():
            adapter: object = self.accounts[account[0], account[1]]
            most = 1
            if isinstance(adapter, Broadcast):
                most = adapter.most_receivers(group[0].message.body, [c.to for c in group])
            for first in range(0, len(group), most):
                yield tuple(group[first : first + most])

    def attempt(self, claims: Sequence[Claim]) -> Exchange:
        """One try at what goes out by one call: yields the request, is sent what came back, returns the verdicts."""
        if claims[0].how == "suppressed":
            return [verdicts.suppressed(claim) for claim in claims]
        started = time.monotonic()
        # All are of one message, and so under the same terms.
        if forbidden := [v for v in map(verdicts.not_allowed, claims) if v is not None]:
            allowed = {v.claim.job_id for v in forbidden}
            return forbidden + [verdicts.handed_back(c) for c in claims if c.job_id not in allowed]
        to = claims[0].recipient
        adapter = self.accounts[to.service, to.account]
        left = False
        try:
            outs = [_outbound(claim) for claim in claims]
            request = _request(adapter, outs)
            left = True
            reply = yield request
            outcomes = self._outcomes(adapter, reply, outs)
            took_s = time.monotonic() - started
            return _one_sign(
                [self.verdict(c, o, took_s) for c, o in zip(claims, outcomes, strict=True)]
            )
        except Exception:
            log.exception("delivery %s: the attempt broke", claims[0].delivery_id)
            broke = NoReply(left, "internal error")
            outcomes = self._outcomes(adapter, broke, [_outbound(claim) for claim in claims])
            return _one_sign([self.verdict(c, o) for c, o in zip(claims, outcomes, strict=True)])

    def _outcomes(
        self, adapter: Messenger, reply: Reply | NoReply, outs: Sequence[Outbound]
    ) -> list[Outcome]:
        if isinstance(reply, NoReply):
            return [Unclear(reply.reason) if reply.left else Retry(reply.reason)] * len(outs)
        several: object = adapter
        if len(outs) == 1 or not isinstance(several, Broadcast):
            return [adapter.read(reply)]
        if (outcomes := several.read_broadcast(reply, outs)) is not None:
            return outcomes
        for key, mine in self.accounts.items():
            if mine is adapter:
                log.warning(
                    "%s may not broadcast; it sends one by one from here on", account_key(*key)
                )
                self.limits[key] = replace(self.limits[key], receivers=1)
        return [Retry("not allowed to broadcast", after_s=0, pauses="nobody")] * len(outs)

    def verdict(self, claim: Claim, outcome: Outcome, took_s: float = 0.0) -> Verdict:
        """What `outcome` means for the delivery, and for its account."""
        grace_s = self._grace_s(claim)
        found = verdicts.verdict(claim, outcome, self.settings, grace_s=grace_s, took_s=took_s)
        service, account = claim.recipient.service, claim.recipient.account
        if not isinstance(outcome, Sent) or not self.accounts[service, account].has_receipts:
            return found
        to = claim.to if isinstance(self.accounts[service, account], Broadcast) else ""
        mark = records.mark(account_key(service, account), outcome.provider_id, to)
        return replace(found, mark=mark)

    def _grace_s(self, claim: Claim) -> float:
        adapter = self.accounts.get((claim.recipient.service, claim.recipient.account))
        return self.settings.unknown_grace if adapter and adapter.has_receipts else 0.0

    def deliver(self, job_id: str, transport: Transport) -> None:
        """Sends what one job names, on behalf of a stock RQ worker; nothing when there is nothing to do.

        Raises DeliveryFailed after it is recorded, so that RQ lists the job as failed.
        """
        asked_at = time.monotonic()
        claim = self.store.claim_one(job_id, self._specs(1), STOCK_LEASE_S)
        if claim is None:
            return
        exchange = self.attempt([claim])
        try:
            request = next(exchange)
            self.counts.left(claim.at.timestamp(), [([claim], time.monotonic() - asked_at)])
            exchange.send(transport.send(request))
        except StopIteration as stop:
            (verdict,) = stop.value
            self._record_patiently(verdict)
            self.counts.flush()
            if verdict.state is State.FAILED and verdict.attempt:
                raise DeliveryFailed(verdict.attempt.reason) from None
            return
        raise AssertionError("an attempt makes one request")

    def _record_patiently(self, verdict: Verdict) -> None:
        """Records, also when Redis is away for a moment: what was sent must not be sent again."""
        give_up_at = time.monotonic() + RECORD_WITHIN_S
        while True:
            try:
                self.record("", [verdict])
            except Unavailable:
                if time.monotonic() > give_up_at:
                    raise  # its lease runs out, and it counts as unknown
                time.sleep(AWAY_S)
            else:
                return

    def record(self, worker: str, verdicts: list[Verdict], worked_s: float = 0.0) -> list[bool]:
        """Writes down how attempts ended; False for a claim that was no longer ours."""
        moved = self.store.record(
            worker,
            verdicts,
            finished_ttl_s=self.settings.delete_finished_timeout,
            failed_ttl_s=self.settings.delete_failed_timeout,
            refused_s=self.settings.retry_interval,
            worked_s=worked_s,
        )
        self.counts.ended(verdicts, moved)
        return moved

    # -- sweeping

    def start_alerts(self) -> None:
        """Tells operators of accounts that are refused, and whatever else is raised, from here on."""
        self.alerts.start([account_key(*key) for key in self.accounts])

    def sweep(self) -> None:
        """Finds what a dead process left behind, and forgets what has been kept long enough. Any process may run it."""
        now = self.store.now()
        # First what only frees: in a full Redis the rest fails.
        finished_s, failed_s = (
            timedelta(seconds=s)
            for s in (self.settings.delete_finished_timeout, self.settings.delete_failed_timeout)
        )
        self.store.purge(ENDED_WELL, now - finished_s)
        self.store.purge((*ENDED_ILL, State.CANCELLED), now - failed_s)
        self.store.finish_accepting()
        while claims := self.store.overdue(LEASE_S):
            died = [verdicts.died(c, self.settings, grace_s=self._grace_s(c)) for c in claims]
            self.record("sweep", died)
        self.store.release(NOBODY_SERVES_S)
        self.changes.sweep(now)
        if rescued := self.store.rescue(RESCUE_AFTER_S):
            log.warning("armed %d deliveries anew that stood in no list", rescued)
        self.schedules.sweep()


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


def _outbound(claim: Claim) -> Outbound:
    message = claim.message
    return Outbound(claim.to, message.body, claim.delivery_id, claim.alarm + 1, message.template)


def _one_sign(found: list[Verdict]) -> list[Verdict]:
    """A call is one sign of the messenger's health, however many it was for; each recipient's pause is its own."""
    signals = [v.signal for v in found]
    speaks = signals.index(Signal.ANSWERS) if Signal.ANSWERS in signals else 0
    return [
        v
        if n == speaks or v.signal is Signal.RECIPIENT_PAUSES
        else replace(v, signal=Signal.NOTHING)
        for n, v in enumerate(found)
    ]


def _request(adapter: Messenger, outs: Sequence[Outbound]) -> Request | Note:
    several: object = adapter
    if len(outs) > 1 and isinstance(several, Broadcast):
        return several.broadcast(outs)
    return adapter.request(outs[0])


def _unsendable(template: Template) -> str | None:
    """Why the components of `template` cannot be written as JSON for a messenger, or None."""
    try:
        size = len(json.dumps(template.components, ensure_ascii=False, allow_nan=False).encode())
    except ValueError:  # a lone surrogate, or a number too large to be one
        return "components hold what no JSON can say"
    return None if size <= TEMPLATE_MAX_BYTES else f"components are over {TEMPLATE_MAX_BYTES} bytes"


def _unstorable(text: str) -> str | None:
    """Why `text` cannot be kept exactly as it is, or None."""
    if "\0" in text:
        return "must not hold NUL"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "must not hold lone surrogates"
    return None
