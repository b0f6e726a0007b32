"""One try at a delivery, or at all that one call reaches: what is asked, and what comes of it. Carries nothing itself."""

import logging
import math
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

from messengers.abilities import Broadcast, Pieces, TakesFiles
from messengers.base import (
    Errand,
    File,
    Messenger,
    NoReply,
    Note,
    Outbound,
    Outcome,
    Piece,
    Rejected,
    Reply,
    Request,
    Retry,
    Sent,
    Steps,
    Taken,
    Unclear,
    unanswered,
)
from postrider import records, verdicts
from postrider.check_first import CheckFirst, refusal
from postrider.model import Claim, Message, Part, Signal, Verdict
from postrider.records import account_key
from postrider.settings import Settings
from postrider.uploads import Uploads

log = logging.getLogger("postrider.attempts")

UNREADABLE_S = 60.0
"""Seconds after which a message that cannot be read is looked at again: its key may be back."""
TOLD = 1_000
"""Messages of which it is remembered that the log has them."""
UPLOADED_S = 1.0
"""Seconds after which is looked again whether somebody else's upload of a file has ended."""

Exchange = Generator[Request | Note | Errand, Reply | NoReply, list[Verdict]]


class Attempts:
    """Attempts by these accounts: (messenger, account name) -> adapter.

    `places`: those whose deliveries go to several places. `one_by_one`: told of one that turns out not to be allowed to broadcast.
    """

    def __init__(
        self,
        settings: Settings,
        accounts: Mapping[tuple[str, str], Messenger],
        *,
        uploads: Uploads,
        first: CheckFirst,
        places: Collection[tuple[str, str]],
        one_by_one: Callable[[tuple[str, str]], None],
    ) -> None:
        self.accounts = accounts
        self._settings = settings
        self._uploads = uploads
        self._first = first
        self._places = places
        self._one_by_one = one_by_one
        self._told: dict[str, float] = {}

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
        if (to.service, to.account) in self._places:
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
        try:
            forbidden = [v for v in map(verdicts.not_allowed, claims) if v is not None]
        except ZoneInfoNotFoundError as error:  # who accepted it knew of more
            self._tell_unreadable(claims[0].message, str(error))
            return [verdicts.waits(claim, UNREADABLE_S) for claim in claims]
        if forbidden:
            stay = {v.claim.job_id for v in forbidden}
            return forbidden + [verdicts.handed_back(c) for c in claims if c.job_id not in stay]
        if claims[0].message.unreadable:
            self._tell_unreadable(claims[0].message, claims[0].message.unreadable)
            return [verdicts.waits(claim, UNREADABLE_S) for claim in claims]
        return None

    def _tell_unreadable(self, message: Message, why: str) -> None:
        """Says so in the log, of each message once a minute at most, however many deliveries it has."""
        now = time.monotonic()
        if now < self._told.get(message.id, -math.inf) + UNREADABLE_S:
            return
        log.warning("message %s waits, as it cannot be read: %s", message.id, why)
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
            claim, outcome = yield from self._first.ask(claim, adapter)
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
                self._uploads.went(claim, parts)
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
                self._one_by_one(key)
        return [Retry("not allowed to broadcast", after_s=0, pauses="nobody")] * len(outs)

    def verdict(self, claim: Claim, outcome: Outcome, took_s: float = 0.0) -> Verdict:
        """What `outcome` means for the delivery, and for its account."""
        grace_s = self.grace_s(claim)
        found = verdicts.verdict(claim, outcome, self._settings, grace_s=grace_s, took_s=took_s)
        service, account = claim.recipient.service, claim.recipient.account
        adapter = self.accounts.get((service, account))
        if not isinstance(outcome, Sent) or adapter is None or not adapter.has_receipts:
            return found
        several: object = adapter
        to = claim.to if isinstance(several, Broadcast) else ""
        mark = records.mark(account_key(service, account), outcome.provider_id, to)
        return replace(found, mark=mark)

    def grace_s(self, claim: Claim) -> float:
        """Seconds for which a receipt may still settle a send that got no answer."""
        adapter = self.accounts.get((claim.recipient.service, claim.recipient.account))
        return self._settings.unknown_grace if adapter and adapter.has_receipts else 0.0


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
    if len(found) == 1:
        return found
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
