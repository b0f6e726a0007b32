"""The use cases: accept, list, purge, deliver, sweep. Knows no HTTP server and no queue's format."""

import json
import logging
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from messengers import MESSENGERS
from messengers.base import (
    Messenger,
    NoReply,
    Note,
    Outbound,
    Outcome,
    Rejected,
    Reply,
    Request,
    Retry,
    Sent,
    Template,
    Templates,
    Unclear,
    Webhook,
)
from postrider.errors import BadSignature, InvalidRequest, NotFound
from postrider.model import (
    Attempt,
    Claim,
    Message,
    NewMessage,
    Recipient,
    State,
    Verdict,
    new_message_id,
)
from postrider.settings import Settings
from postrider.store import Page, Store
from postrider.timing import backoff_s
from postrider.transport import Transport

log = logging.getLogger("postrider.service")

TEMPLATE_MAX_BYTES = 64 * 1024
PAST = "Date must be in a future!"
LEASE_S = 15.0
"""A claim of ours; renewed while its worker lives. With the longest grace still under a minute."""
STOCK_LEASE_S = 40.0
"""A stock worker cannot renew its lease: longer than any attempt (transport.WHOLE_S)."""
SHORTEST_PAUSE_S = 0.5
"""A pause uses up no try, so one that names no wait must not spin."""
RESCUE_AFTER_S = 30.0
"""Seconds after its time at which a delivery that no list would send is armed anew."""


class DeliveryFailed(Exception):
    """A delivery failed for good; in words for RQ's list of failed jobs."""


Exchange = Generator[Request | Note, Reply | NoReply, Verdict]


@dataclass(frozen=True, slots=True)
class Service:
    """What Postrider does, over one store and the messengers that are set up."""

    store: Store
    settings: Settings
    accounts: Mapping[tuple[str, str], Messenger]
    """(messenger, account name) -> its adapter."""

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
        now = self.store.now()
        self._check_time(new.send_at, now)
        message = self.store.accept(new_message_id(now), replace(new, recipients=recipients), now)
        return message, recipients

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
        self.store.keep_note(note.key, {"uuid": note.to, "text": note.text})

    def notes(
        self, limit: int, after: float | None = None
    ) -> list[tuple[datetime, dict[str, str]]]:
        """The sandbox's newest messages, or the first that came later than `after` (s); oldest first."""
        return self.store.notes(limit, after)

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
        self.store.remember_people(f"{service}/{account}", adapter.people(body))

    # -- delivering

    def attempt(self, claim: Claim) -> Exchange:
        """One try at a delivery: yields the request, is sent what came back, returns the verdict."""
        started = time.monotonic()
        recipient = claim.recipient
        adapter = self.accounts.get((recipient.service, recipient.account))
        if adapter is None:  # its settings were taken away; it waits until they are back
            return self.verdict(claim, Retry(self._why_not(recipient.service), pauses="account"))
        message = claim.message
        try:
            reply = yield adapter.request(
                Outbound(
                    claim.to, message.body, claim.delivery_id, claim.alarm + 1, message.template
                )
            )
            outcome = self._outcome(adapter, reply)
        except Exception:
            log.exception("delivery %s: the attempt broke", claim.delivery_id)
            outcome = Unclear("internal error")
        return self.verdict(claim, outcome, time.monotonic() - started)

    @staticmethod
    def _outcome(adapter: Messenger, reply: Reply | NoReply) -> Outcome:
        if isinstance(reply, Reply):
            return adapter.read(reply)
        return Unclear(reply.reason) if reply.left else Retry(reply.reason)

    def verdict(self, claim: Claim, outcome: Outcome, took_s: float = 0.0) -> Verdict:
        """What `outcome` means for the delivery."""
        ended_at = claim.at + timedelta(seconds=took_s)
        name = type(outcome).__name__.lower()
        reason = "" if isinstance(outcome, Sent) else outcome.reason
        provider_id = outcome.provider_id if isinstance(outcome, Sent) else ""
        attempt = Attempt(claim.at, ended_at, name, reason, provider_id)
        tries, interval_s = claim.attempts + 1, self.settings.retry_interval
        exhausted = tries > self.settings.retry_count

        match outcome:
            case Sent():
                return Verdict(claim, State.SENT, attempt)
            case Rejected():
                return Verdict(claim, State.FAILED, attempt, counts=True)
            case Retry(moved_to=str(address)):
                if claim.to != claim.recipient.uuid:  # followed once already
                    return Verdict(claim, State.FAILED, attempt, counts=True)
                return Verdict(claim, State.RETRYING, attempt, 0.0, moved_to=address)
            case Retry(after_s=after_s, pauses=None):
                if exhausted:
                    return Verdict(claim, State.FAILED, attempt, counts=True)
                wait_s = backoff_s(tries, interval_s) if after_s is None else after_s
                return Verdict(claim, State.RETRYING, attempt, wait_s, counts=True)
            case Retry(after_s=after_s):
                wait_s = backoff_s(claim.alarm + 1, interval_s) if after_s is None else after_s
                return Verdict(claim, State.RETRYING, attempt, max(wait_s, SHORTEST_PAUSE_S))
            case Unclear():
                if exhausted:
                    return Verdict(claim, State.UNKNOWN, attempt, counts=True)
                return Verdict(
                    claim, State.UNKNOWN, attempt, self._grace_s(claim, tries), counts=True
                )

    def _grace_s(self, claim: Claim, tries: int) -> float:
        """How long to wait for a receipt before sending again; from the second time on at least the backoff."""
        adapter = self.accounts.get((claim.recipient.service, claim.recipient.account))
        grace_s = self.settings.unknown_grace if adapter and adapter.has_receipts else 0.0
        return (
            max(grace_s, backoff_s(tries - 1, self.settings.retry_interval))
            if tries > 1
            else grace_s
        )

    def deliver(self, job_id: str, transport: Transport) -> None:
        """Sends what one job names, on behalf of a stock RQ worker; nothing when there is nothing to do.

        Raises DeliveryFailed after it is recorded, so that RQ lists the job as failed.
        """
        claim = self.store.claim_one(job_id, STOCK_LEASE_S)
        if claim is None:
            return
        exchange = self.attempt(claim)
        try:
            exchange.send(transport.send(next(exchange)))
        except StopIteration as stop:
            verdict: Verdict = stop.value
            self.record("", [verdict])
            if verdict.state is State.FAILED and verdict.attempt:
                raise DeliveryFailed(verdict.attempt.reason) from None
            return
        raise AssertionError("an attempt makes one request")

    def record(self, worker: str, verdicts: list[Verdict], worked_s: float = 0.0) -> list[bool]:
        """Writes down how attempts ended; False for a claim that was no longer ours."""
        return self.store.record(
            worker,
            verdicts,
            finished_ttl_s=self.settings.delete_finished_timeout,
            failed_ttl_s=self.settings.delete_failed_timeout,
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
            self.record(
                "sweep",
                [
                    self.verdict(c, Unclear("its worker died or hung during the attempt"))
                    for c in claims
                ],
            )
        if rescued := self.store.rescue(RESCUE_AFTER_S):
            log.warning("armed %d deliveries anew that stood in no list", rescued)


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
