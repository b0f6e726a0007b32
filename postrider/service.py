"""The use cases: accept, list, purge, deliver, sweep. Knows no HTTP server and no queue's format."""

import json
import logging
import secrets
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from messengers import MESSENGERS
from messengers.base import (
    Broadcast,
    Messenger,
    NoReply,
    Note,
    Outbound,
    Outcome,
    Reply,
    Request,
    Retry,
    Template,
    Templates,
    Unclear,
    Webhook,
)
from postrider import verdicts
from postrider.errors import BadSignature, InvalidRequest, NotFound, Unavailable
from postrider.guard import Refused
from postrider.inbox import Inbox
from postrider.limits import Limits, limits_of
from postrider.model import (
    Claim,
    Message,
    NewMessage,
    Recipient,
    Signal,
    State,
    Verdict,
    new_message_id,
)
from postrider.outbox import Outbox
from postrider.records import account_key
from postrider.settings import Settings
from postrider.store import Claimed, Page, Store
from postrider.transport import Transport

log = logging.getLogger("postrider.service")

TEMPLATE_MAX_BYTES = 64 * 1024
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
    outbox: Outbox = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inbox", Inbox(self.store.redis))
        object.__setattr__(self, "outbox", Outbox(self.store.redis))
        limits = {key: limits_of(adapter, self.settings) for key, adapter in self.accounts.items()}
        object.__setattr__(self, "limits", limits)

    # -- accepting

    def accept(self, new: NewMessage) -> tuple[Message, tuple[Recipient, ...]]:
        """Takes the message with all its recipients, or none of it.

        Gives it back with the recipients it has, exact duplicates dropped. Raises InvalidRequest, Unavailable.
        """
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
        now = self.store.now()
        self._check_time(new.send_at, now)
        message = self.store.accept(
            new_message_id(now),
            replace(new, recipients=recipients),
            now,
            self._receivers(new),
            told=bool(new.callback_url or self.settings.webhook_url),
        )
        return message, recipients

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
                raise InvalidRequest(
                    f"recipients[{index}].service", self._why_not(recipient.service)
                )
            reason = _unstorable(recipient.uuid) or adapter.check_recipient(recipient.uuid)
            if reason:
                raise InvalidRequest(f"recipients[{index}].uuid", reason)

    def _why_not(self, service: str) -> str:
        if service in MESSENGERS:
            needs = ", ".join(MESSENGERS[service].needs) or "SANDBOX=on"
            return f"{service} is not set up here; it needs {needs}"
        offered = ", ".join(sorted({service for service, _ in self.accounts})) or "none"
        return f"unknown messenger {service[:40]!r}; offered here: {offered}"

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

    def _check_time(self, send_at: datetime | None, now: datetime) -> None:
        if send_at is None:
            return
        if send_at <= now:
            raise InvalidRequest("send_at", PAST, alone=True)
        days = self.settings.max_ahead_days
        if send_at - now > timedelta(days=days):
            raise InvalidRequest("send_at", f"is more than {days} days (MAX_AHEAD_DAYS) ahead")

    # -- seeing and forgetting

    def scheduled(self, limit: int, cursor: str | None) -> Page:
        """What waits, soonest first."""
        return self.store.scheduled(limit, cursor)

    def finished(self, limit: int, cursor: str | None) -> Page:
        """What ended, newest first."""
        return self.store.finished(limit, cursor)

    def purge(self) -> int:
        """Forgets what is finished and failed; never what waits or is unknown."""
        return self.store.purge("finished") + self.store.purge("failed")

    def keep_note(self, note: Note) -> None:
        """Puts a sandbox message into the inbox."""
        self.inbox.keep_note(note.key, {"uuid": note.to, "text": note.text})

    def notes(
        self, limit: int, after: float | None = None
    ) -> list[tuple[datetime, dict[str, str]]]:
        """The sandbox's newest messages, or the first that came later than `after` (s); oldest first."""
        return self.inbox.notes(limit, after)

    # -- hearing from messengers

    def receive(self, service: str, account: str, headers: Mapping[str, str], body: bytes) -> None:
        """Takes what a messenger posted to our webhook. `headers`: lower-case names; `body`: as it came.

        Raises NotFound for one that is not set up or calls nobody, BadSignature.
        """
        adapter: object = self.accounts.get((service, account))
        if not isinstance(adapter, Webhook):
            raise NotFound("no such webhook")
        if not adapter.authentic(headers, body, self.store.now()):
            raise BadSignature("the signature does not match the body")
        self.inbox.remember_people(f"{service}/{account}", adapter.people(body))

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
        started = time.monotonic()
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
        return verdicts.verdict(claim, outcome, self.settings, grace_s=grace_s, took_s=took_s)

    def _grace_s(self, claim: Claim) -> float:
        adapter = self.accounts.get((claim.recipient.service, claim.recipient.account))
        return self.settings.unknown_grace if adapter and adapter.has_receipts else 0.0

    def deliver(self, job_id: str, transport: Transport) -> None:
        """Sends what one job names, on behalf of a stock RQ worker; nothing when there is nothing to do.

        Raises DeliveryFailed after it is recorded, so that RQ lists the job as failed.
        """
        claim = self.store.claim_one(job_id, self._specs(1), STOCK_LEASE_S)
        if claim is None:
            return
        exchange = self.attempt([claim])
        try:
            exchange.send(transport.send(next(exchange)))
        except StopIteration as stop:
            (verdict,) = stop.value
            self._record_patiently(verdict)
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
        return self.store.record(
            worker,
            verdicts,
            finished_ttl_s=self.settings.delete_finished_timeout,
            failed_ttl_s=self.settings.delete_failed_timeout,
            refused_s=self.settings.retry_interval,
            worked_s=worked_s,
        )

    # -- sweeping

    def sweep(self) -> None:
        """Finds what a dead process left behind, and forgets what has been kept long enough. Any process may run it."""
        now = self.store.now()
        # First what only frees: in a full Redis the rest fails.
        self.store.purge("finished", now - timedelta(seconds=self.settings.delete_finished_timeout))
        self.store.purge("failed", now - timedelta(seconds=self.settings.delete_failed_timeout))
        self.store.finish_accepting()
        while claims := self.store.overdue(LEASE_S):
            died = [verdicts.died(c, self.settings, grace_s=self._grace_s(c)) for c in claims]
            self.record("sweep", died)
        self.store.release(NOBODY_SERVES_S)
        if rescued := self.store.rescue(RESCUE_AFTER_S):
            log.warning("armed %d deliveries anew that stood in no list", rescued)


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


def open_accounts(settings: Settings) -> dict[tuple[str, str], Messenger]:
    """The accounts that the settings describe: (messenger, account name) -> adapter."""
    env = settings.messenger_env()
    made = {(name, "default"): cls.from_env(env) for name, cls in MESSENGERS.items()}
    return {key: adapter for key, adapter in made.items() if adapter is not None}


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
