"""Sending: claims what is due, makes each attempt, records how it ended. Carries nothing itself: workers do."""

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from messengers.base import (
    Broadcast,
    Errand,
    File,
    Messenger,
    NoReply,
    Note,
    Outbound,
    Outcome,
    Piece,
    Pieces,
    Places,
    Rejected,
    Reply,
    Request,
    Retry,
    Sent,
    Steps,
    Taken,
    TakesFiles,
    Unclear,
    unanswered,
)
from postrider import records, verdicts
from postrider.accounts import Accounts
from postrider.check_first import CheckFirst, refusal
from postrider.counts import Counts
from postrider.errors import Unavailable
from postrider.files import Files
from postrider.limits import Limits, limits_of
from postrider.model import Claim, Message, NewMessage, Part, Signal, State, Verdict
from postrider.numbers import Numbers
from postrider.records import account_key
from postrider.settings import Settings
from postrider.store import Claimed, Store
from postrider.suppressions import Suppressions
from postrider.transport import Transport
from postrider.uploads import Uploads

log = logging.getLogger("postrider.sender")

LEASE_S = 15.0
"""A claim of ours; renewed while its worker lives. With the longest grace still under a minute."""
STOCK_LEASE_S = 55.0
"""A stock worker cannot renew its lease: longer than any attempt (timeouts.WHOLE_S), and recording it."""
AWAY_S = 0.5
"""Seconds between tries while Redis is away."""
RENEW_S = 15.0
UNREADABLE_S = 60.0
"""Seconds after which a message that cannot be read is looked at again: its key may be back."""
TOLD = 1_000
"""Messages of which it is remembered that the log has them."""
UPLOADED_S = 1.0
"""Seconds after which is looked again whether somebody else's upload of a file has ended."""
RECORD_WITHIN_S = 20.0
"""Seconds for which a stock worker tries to record; with the attempt itself still under its lease."""

TROUBLE = {Signal.FAILS, Signal.PAUSES, Signal.REFUSED}

Exchange = Generator[Request | Note | Errand, Reply | NoReply, list[Verdict]]


class DeliveryFailed(Exception):
    """A delivery failed for good; in words for RQ's list of failed jobs."""


class Sender:
    """Sends what is due through these accounts: (messenger, account name) -> adapter."""

    limits: dict[tuple[str, str], Limits]
    """What each account may do; one that turns out not to be allowed to broadcast no longer does."""
    on_stop: Callable[[str, str], None]
    """Stops an account until an operator lets it go on; told why."""
    on_trouble: Callable[[str, str], None]
    """Told of an account, by messenger and name, whose messenger does not take what it is given now."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        accounts: Mapping[tuple[str, str], Messenger],
        counts: Counts,
        files: Files,
    ) -> None:
        self.store = store
        self.on_stop = lambda _account, _why: None
        self.on_trouble = lambda _service, _account: None
        self.settings = settings
        self.accounts = accounts
        self.counts = counts
        self.files = files
        self.suppressions = Suppressions(store.redis)
        adapters: Mapping[tuple[str, str], object] = accounts
        places = {key: a.several() for key, a in adapters.items() if isinstance(a, Places)}
        self.places = frozenset(places)
        several = frozenset(key for key, count in places.items() if count > 1)
        self.uploads = Uploads(store.redis, files, accounts, several)
        self.first = CheckFirst(Numbers(store.redis, settings.whatsapp_web_check_cap), accounts)
        self.limits = {}
        self.know_accounts()
        self._told: dict[str, float] = {}

    def know_accounts(self) -> None:
        """Has what each account may do worked out anew, once some have come, gone, or changed."""
        paces = self.accounts.paces if isinstance(self.accounts, Accounts) else {}
        found = {
            key: limits_of(adapter, self.settings, paces.get(key))
            for key, adapter in self.accounts.items()
        }
        for key, limits in self.limits.items():
            if key in found and limits.receivers == 1:  # what an account may not is not forgotten
                found[key] = replace(found[key], receivers=1)
        self.limits = found

    def receivers(self, new: NewMessage) -> int | None:
        """How many recipients of `new` one call reaches, where calls reach several."""
        if new.files:
            return 1
        several: dict[tuple[str, str], list[str]] = {}
        for to in new.recipients:
            limits = self.limits.get((to.service, to.account))
            if limits and limits.receivers > 1:
                several.setdefault((to.service, to.account), []).append(to.uuid)
        found = []
        for key, tos in several.items():
            adapter: object = self.accounts[key]
            if isinstance(adapter, Broadcast):
                found.append(adapter.most_receivers(new.body, tos))
        return min(found, default=None)

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
        claimed = self.store.claim(
            worker,
            nonce or secrets.token_hex(8),
            self._specs(free),
            lease_s,
            busy=busy,
            alone=alone,
        )
        return replace(claimed, claims=self._ready(claimed.claims))

    def _ready(self, claims: Sequence[Claim]) -> list[Claim]:
        return self.suppressions.spared(self.uploads.ready(self.first.ready(claims)))

    def _specs(self, free: Mapping[tuple[str, str], int] | int) -> dict[str, Any]:
        offset = datetime.now(ZoneInfo(self.settings.tz)).utcoffset() or timedelta()
        return {
            account_key(*key): limits.spec(
                free if isinstance(free, int) else free.get(key, 0), int(offset.total_seconds())
            )
            for key, limits in self.limits.items()
            if limits.goes
        }

    def calls(self, claims: Sequence[Claim]) -> Iterator[tuple[Claim, ...]]:
        """`claims`, cut into what goes out by one call each: alone, or many of one message."""
        together: dict[tuple[str, str, str], list[Claim]] = {}
        for claim in claims:
            to = claim.recipient
            limits = self.limits.get((to.service, to.account))  # None: gone since
            if limits is None or limits.receivers == 1 or claim.how or claim.files:
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
        if (stay := self._stay(claims)) is not None:
            return stay
        started = time.monotonic()
        to = claims[0].recipient
        adapter = self.accounts.get((to.service, to.account))
        if adapter is None:  # a session that was deleted since it was claimed
            return [verdicts.handed_back(claim) for claim in claims]
        if claims[0].number is not None:
            first, ended = yield from self._look_up(claims[0], adapter, started)
            if ended is not None:
                return [ended]
            claims = [first]
        if (to.service, to.account) in self.places:
            return [(yield from self._attempt_places(claims[0], adapter, started))]
        if claims[0].files:
            several: object = adapter
            if isinstance(several, Pieces):
                return [(yield from self._attempt_files(claims[0], several, started))]
            if not isinstance(several, TakesFiles):  # it was another one when this was accepted
                return [self.verdict(claims[0], Rejected("takes no files"))]
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
        except Exception as error:  # noqa: BLE001 - an adapter may do anything
            outcome = _broke(claims[0], error, left=left)
            return _one_sign([self.verdict(claim, outcome) for claim in claims])

    def _stay(self, claims: Sequence[Claim]) -> list[Verdict] | None:
        """What becomes of claims that nothing is to be sent of now; None: something is."""
        if claims[0].how == "suppressed":
            return [verdicts.suppressed(claim) for claim in claims]
        # All are of one message, and so under the same terms.
        if forbidden := [v for v in map(verdicts.not_allowed, claims) if v is not None]:
            stay = {v.claim.job_id for v in forbidden}
            return forbidden + [verdicts.handed_back(c) for c in claims if c.job_id not in stay]
        if claims[0].message.unreadable:
            self._tell_unreadable(claims[0].message)
            return [verdicts.waits(claim, UNREADABLE_S) for claim in claims]
        return None

    def _tell_unreadable(self, message: Message) -> None:
        """Says so in the log, of each message once a minute at most, however many deliveries it has."""
        now = time.monotonic()
        if now < self._told.get(message.id, -math.inf) + UNREADABLE_S:
            return
        log.warning("message %s waits, as it cannot be read: %s", message.id, message.unreadable)
        self._told.pop(message.id, None)
        self._told[message.id] = now
        if len(self._told) > TOLD:
            del self._told[next(iter(self._told))]

    def _look_up(
        self, claim: Claim, adapter: object, started: float
    ) -> Generator[Request, Reply | NoReply, tuple[Claim, Verdict | None]]:
        """`claim`, its number looked up; or how it ends, if that is no reason to send."""
        outcome: Outcome | None = None
        if claim.number and claim.number.wait_s is not None:
            return claim, verdicts.waits_for_number(claim, claim.number.wait_s)
        try:
            claim, outcome = yield from self.first.ask(claim, adapter)
        except Exception:
            log.exception("delivery %s: its number could not be looked up", claim.delivery_id)
            outcome = Retry("internal error")
        number = claim.number
        if outcome is None and number and number.found == "no":
            found = self.verdict(claim, refusal(number), time.monotonic() - started)
            return claim, replace(found, signal=Signal.NOT_USED)
        if outcome is not None:
            return claim, self.verdict(claim, outcome, time.monotonic() - started)
        return (replace(claim, to=number.to) if number and number.to else claim), None

    def _attempt_files(
        self, claim: Claim, adapter: Pieces, started: float
    ) -> Generator[Request | Note | Errand, Reply | NoReply, Verdict]:
        """One try at a message with files: each of its pieces that has not gone, until one cannot go now."""
        if claim.waits:
            # Sent by somebody else's upload then, by the id that this gives.
            return verdicts.waits(claim, UPLOADED_S)
        out = _outbound(claim)
        try:
            pieces = adapter.pieces(out)
        except Exception as error:  # noqa: BLE001 - an adapter may do anything
            return self.verdict(claim, _broke(claim, error, left=False))
        parts = _parts_of(claim, len(pieces))
        known: dict[int, str] = {}
        last: Outcome = verdicts.NOTHING
        for n, piece in enumerate(pieces):
            done = parts[n]
            if done and done.outcome == "sent":
                last = Sent(done.said)
                continue
            taken = yield from _send_piece(claim, adapter, out, piece)
            known |= taken.known
            last = taken.outcome
            parts[n] = _part(last)
            if isinstance(last, Retry | Unclear) or (isinstance(last, Rejected) and last.dead):
                break
            if n + 1 < len(pieces):
                self.uploads.went(claim, parts)
            if known:  # one file may stand in several pieces
                out = replace(out, files=_with_known(out.files, known))
        outcome = verdicts.of_pieces(parts, last)
        found = self.verdict(claim, outcome, time.monotonic() - started)
        return replace(verdicts.in_parts(found, parts), known=known)

    def _attempt_places(
        self, claim: Claim, adapter: Any, started: float
    ) -> Generator[Request | Note | Errand, Reply | NoReply, Verdict]:
        """One try at a message that goes to several places: all those at once that have not had it."""
        parts: list[Part | None] = []
        which: list[int] = []
        outcomes: list[Outcome] = []
        left = False
        try:
            parts = _parts_of(claim, adapter.several())
            which = [n for n, part in enumerate(parts) if not part or part.outcome != "sent"]
            if which:
                request = adapter.request_to(_outbound(claim), which)
                left = True
                reply = yield request
                outcomes = adapter.read_each(reply, which)
            for n, outcome in zip(which, outcomes, strict=True):
                parts[n] = _part(outcome)
        except Exception as error:  # noqa: BLE001 - an adapter may do anything
            outcomes = [_broke(claim, error, left=left)]
            for n in which:
                parts[n] = _part(outcomes[0])
        took_s = time.monotonic() - started
        found = self.verdict(claim, verdicts.of_places(parts, outcomes), took_s)
        if any(part and part.outcome == "sent" for part in parts) and len(parts) > 1:
            found = replace(found, signal=Signal.ANSWERS)  # one place that is away stops no other
        return verdicts.in_parts(found, parts)

    def _outcomes(
        self, adapter: Messenger, reply: Reply | NoReply, outs: Sequence[Outbound]
    ) -> list[Outcome]:
        if isinstance(reply, NoReply):
            return [unanswered(reply)] * len(outs)
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
        adapter = self.accounts.get((service, account))
        if not isinstance(outcome, Sent) or adapter is None or not adapter.has_receipts:
            return found
        several: object = adapter
        to = claim.to if isinstance(several, Broadcast) else ""
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
        (claim,) = self._ready([claim])
        exchange = self.attempt([claim])
        try:
            with self._held(claim):
                request = next(exchange)
                self.counts.left(claim.at.timestamp(), [([claim], time.monotonic() - asked_at)])
                while True:
                    request = exchange.send(transport.send(request))
        except StopIteration as stop:
            (verdict,) = stop.value
        self._record_patiently(verdict)
        self.counts.flush()
        if verdict.state is State.FAILED and verdict.attempt:
            raise DeliveryFailed(verdict.attempt.reason)

    @contextmanager
    def _held(self, claim: Claim) -> Iterator[None]:
        """Renews the lease of a claim whose files may take longer than it to be sent."""
        if not claim.files:
            yield
            return
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEW_S):
                with suppress(Unavailable):
                    self.store.renew([claim.job_id], STOCK_LEASE_S)

        thread = threading.Thread(target=renew, daemon=True, name="renew")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

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
        self._stop_accounts(verdicts)
        moved = self.store.record(
            worker,
            verdicts,
            finished_ttl_s=self.settings.delete_finished_timeout,
            failed_ttl_s=self.settings.delete_failed_timeout,
            refused_s=self.settings.retry_interval,
            worked_s=worked_s,
        )
        self.counts.ended(verdicts, moved)
        self._tell_trouble(verdicts)
        try:
            self.uploads.learn(verdicts, moved)
            self.first.learn(verdicts)
        # It is recorded; a file may go up, a number be asked for, once more.
        except Unavailable as error:
            log.warning(
                "what messengers call some files, or say of numbers, is not kept: %s", error
            )
        return moved

    def _stop_accounts(self, found: Sequence[Verdict]) -> None:
        """Stops accounts that must not even be tried again before somebody has looked."""
        for verdict in found:
            if verdict.kind == verdicts.STOPPED and verdict.attempt:
                to = verdict.claim.recipient
                self.on_stop(account_key(to.service, to.account), verdict.attempt.reason)

    def _tell_trouble(self, found: Sequence[Verdict]) -> None:
        ill = {
            (verdict.claim.recipient.service, verdict.claim.recipient.account)
            for verdict in found
            if verdict.signal in TROUBLE
        }
        for account in ill:
            with suppress(Unavailable):
                self.on_trouble(*account)

    def settle_overdue(self) -> None:
        """Finds what a dead worker left under its lease, and says what becomes of it."""
        while claims := self.store.overdue(LEASE_S):
            self.record("sweep", [self._died(claim) for claim in claims])

    def _died(self, claim: Claim) -> Verdict:
        found = verdicts.died(claim, self.settings, grace_s=self._grace_s(claim))
        if not claim.message.files or not found.attempt:
            return found
        return replace(found, attempt=replace(found.attempt, parts=self.uploads.parts(claim)))


def _send_piece(claim: Claim, adapter: Pieces, out: Outbound, piece: Piece) -> Steps:
    """The adapter's own steps; when they break, what that means: before the first call nothing has left."""
    left = False
    try:
        steps = adapter.send_piece(out, piece)
        request = next(steps)
        left = True
        while True:
            request = steps.send((yield request))
    except StopIteration as stop:
        taken: Taken = stop.value
        return taken
    except Exception as error:  # noqa: BLE001 - an adapter may do anything
        return Taken(_broke(claim, error, left=left))


def _broke(claim: Claim, error: Exception, *, left: bool) -> Retry | Unclear:
    """What it means that something of ours broke; `left`: when a call had left already."""
    log.error("delivery %s: the attempt broke", claim.delivery_id, exc_info=error)
    return unanswered(NoReply(left, "internal error"))


def _outbound(claim: Claim) -> Outbound:
    message = claim.message
    return Outbound(
        claim.to,
        message.body,
        claim.delivery_id,
        claim.alarm + 1,
        message.template,
        claim.files,
        message.heading,
        message.format == "markdown",
    )


def _parts_of(claim: Claim, count: int) -> list[Part | None]:
    """What earlier attempts did with each piece; nothing where it was cut into another number of them then."""
    return [*claim.parts] if len(claim.parts) == count else [None] * count


def _part(outcome: Outcome) -> Part:
    said = outcome.provider_id if isinstance(outcome, Sent) else outcome.reason
    return Part(type(outcome).__name__.lower(), said)


def _with_known(files: Sequence[File], known: Mapping[int, str]) -> tuple[File, ...]:
    return tuple(
        replace(file, known=known.get(index, file.known)) for index, file in enumerate(files)
    )


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


def _request(adapter: Messenger, outs: Sequence[Outbound]) -> Request | Note | Errand:
    several: object = adapter
    if len(outs) > 1 and isinstance(several, Broadcast):
        return several.broadcast(outs)
    return adapter.request(outs[0])
