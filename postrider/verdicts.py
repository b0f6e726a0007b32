"""What an outcome means for its delivery, and what its account learns from it. Pure functions.

Waiting for a pause, a rate limit or an open breaker uses up no try; only what the messenger did with this one delivery does.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from messengers.base import Outcome, Rejected, Retry, Sent, Unclear
from postrider.model import Attempt, Claim, Part, Signal, State, Verdict
from postrider.settings import Settings
from postrider.timing import backoff_s

SHORTEST_PAUSE_S = 0.5
"""A pause uses up no try, so one that names no wait must not spin."""
FREE_PROBES = 100
"""So often a delivery may find out for its account whether the messenger is back, before that uses up its tries."""
LONGEST_WAIT_S = 86_400.0
"""A messenger that asks for more is asked again after a day."""
LONE_DEATHS = 3
PARTIAL = "partial"
"""The reason of what has gone in part. `lua/record.lua` knows it, too."""
STOPPED = "account_stopped"
"""The kind of an outcome after which its account is stopped, until an operator lets it go on."""
CRASHED = "crashed_worker"
"""The reason of what a worker died with, or hung, each time that it was sent alone."""
DIED = Unclear("its worker died or hung during the attempt")
NOTHING = Unclear("nothing was left to send")


def verdict(
    claim: Claim, outcome: Outcome, settings: Settings, *, grace_s: float = 0.0, took_s: float = 0.0
) -> Verdict:
    """What `outcome`, after `took_s` seconds, means for the delivery.

    `grace_s`: how long a receipt may still settle a send that got no answer.
    """
    ended_at = claim.at + timedelta(seconds=took_s)
    name = type(outcome).__name__.lower()
    match outcome:
        case Sent(provider_id, reason):
            attempt = Attempt(claim.at, ended_at, name, reason, provider_id)
            return Verdict(claim, State.SENT, attempt, signal=Signal.ANSWERS, kind="accepted")
        case Rejected(reason, dead):
            attempt = Attempt(claim.at, ended_at, name, reason)
            return replace(_gives_up(claim, attempt, Signal.ANSWERS, "rejected"), dead=dead)
        case Retry(reason):
            again = _again(claim, outcome, Attempt(claim.at, ended_at, name, reason), settings)
            return replace(again, kind=_kind(outcome))
        case Unclear(reason):
            attempt = Attempt(claim.at, ended_at, name, reason)
            tries = claim.attempts + 1
            wait_s: float | None = grace_s
            if tries > 1:  # a messenger that answers nobody is not to be asked in a row
                wait_s = max(grace_s, backoff_s(tries - 1, settings.retry_interval))
            if (
                tries > settings.retry_count
                or (claim.message.terms.on_unknown or settings.on_unknown) == "hold"
            ):
                wait_s = None
            return Verdict(
                *(claim, State.UNKNOWN, attempt, wait_s),
                counts=True,
                signal=Signal.FAILS,
                kind="no_answer",
            )


def _kind(outcome: Retry) -> str:
    """Why it is not now, in one word."""
    if outcome.stops:
        return STOPPED
    if outcome.refused:
        return "account_refused"
    if outcome.moved_to is not None:
        return "moved"
    kinds = {"account": "rate_limited", "recipient": "recipient_limited", "nobody": "again"}
    return kinds[outcome.pauses] if outcome.pauses else "unavailable"


def _again(claim: Claim, outcome: Retry, attempt: Attempt, settings: Settings) -> Verdict:
    waits = Verdict(claim, State.RETRYING, attempt, 0.0, signal=Signal.ANSWERS)
    interval_s = settings.retry_interval
    if outcome.after_s is not None:
        outcome = replace(outcome, after_s=min(outcome.after_s, LONGEST_WAIT_S))
    match outcome:
        case Retry(moved_to=str(address)):
            if claim.to != claim.recipient.uuid or address == claim.to:  # followed already
                return _gives_up(claim, attempt, Signal.ANSWERS)
            return replace(waits, moved_to=address)
        case Retry(pauses="nobody"):
            return waits
        case Retry(after_s=after_s, pauses="account"):
            # Due at once: its account is what waits.
            pause_s = None if after_s is None else max(after_s, SHORTEST_PAUSE_S)
            signal = Signal.REFUSED if outcome.refused else Signal.PAUSES
            return replace(waits, signal=signal, pause_s=pause_s)
        case Retry(after_s=after_s, pauses="recipient"):
            wait_s = backoff_s(claim.alarm + 1, interval_s) if after_s is None else after_s
            wait_s = max(wait_s, SHORTEST_PAUSE_S)
            return replace(waits, due_in_s=wait_s, signal=Signal.RECIPIENT_PAUSES, pause_s=wait_s)
    waits = replace(waits, signal=Signal.FAILS)
    if claim.how == "probe" and claim.alarm < FREE_PROBES:
        return waits
    tries = claim.attempts + 1
    if tries > settings.retry_count:
        return _gives_up(claim, attempt, Signal.FAILS)
    wait_s = backoff_s(tries, interval_s) if outcome.after_s is None else outcome.after_s
    return replace(waits, due_in_s=wait_s, counts=True)


def _gives_up(claim: Claim, attempt: Attempt, signal: Signal, kind: str = "") -> Verdict:
    return Verdict(claim, State.FAILED, attempt, counts=True, signal=signal, kind=kind)


def died(claim: Claim, settings: Settings, *, grace_s: float = 0.0) -> Verdict:
    """What to do with a claim whose worker died: send it again, alone; give up when that kills each time."""
    deaths = 0 if claim.deaths is None else claim.deaths + 1
    if deaths >= LONE_DEATHS:
        attempt = Attempt(claim.at, claim.at, "unclear", CRASHED)
        return _gives_up(claim, attempt, Signal.NOTHING, CRASHED)
    again = verdict(claim, DIED, settings, grace_s=grace_s)
    return replace(again, signal=Signal.NOTHING, deaths=deaths, kind=CRASHED)


def waits(claim: Claim, after_s: float) -> Verdict:
    """Gives back a claim that cannot go now, whatever its account could do: no attempt, due then."""
    return replace(handed_back(claim), due_in_s=after_s)


def waits_for_number(claim: Claim, after_s: float) -> Verdict:
    """Hands back a claim whose number may be looked up then, and not before; its phone has sent nothing."""
    return replace(handed_back(claim), due_in_s=after_s, signal=Signal.NOT_USED)


def of_pieces(parts: Sequence[Part | None], last: Outcome) -> Outcome:
    """The outcome of a delivery out of what has become of its pieces; `last` is how the last one that was tried ended."""
    if isinstance(last, Retry | Unclear) or all(part and part.outcome == "sent" for part in parts):
        return last
    if any(part and part.outcome == "sent" for part in parts):
        return Rejected(PARTIAL)
    refused = [part.said for part in parts if part and part.outcome == "rejected"]
    return Rejected(refused[0], dead=isinstance(last, Rejected) and last.dead)


def in_parts(found: Verdict, parts: Sequence[Part | None]) -> Verdict:
    """`found`, with what has become of each piece where there are several; what has gone in part has not just failed."""
    if found.attempt is None or len(parts) < 2:
        return found
    attempt = replace(found.attempt, parts=tuple(parts))
    if found.state is State.FAILED and any(part and part.outcome == "sent" for part in parts):
        attempt = replace(attempt, reason=PARTIAL)  # also when its tries are used up
    return replace(found, attempt=attempt)


def of_places(parts: Sequence[Part | None], outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a delivery out of what has become of it at each place; `outcomes` are those of this attempt."""
    for kind in (Retry, Unclear):
        for outcome in outcomes:
            if isinstance(outcome, kind):
                return outcome
    if outcomes:
        return of_pieces(parts, outcomes[-1])
    gone = parts[-1] if parts else None  # all of them had it before
    return Sent(gone.said) if gone else NOTHING


def not_allowed(claim: Claim) -> Verdict | None:
    """What becomes of a claim whose message's terms forbid to send it now; None when they do not."""
    message = claim.message
    if not message.terms.allow(claim.at, message.due_at, claim.attempts):
        return Verdict(claim, State.EXPIRED, signal=Signal.HANDED_BACK)
    opens_at = message.terms.opens_at(claim.at, claim.zone)
    if opens_at > claim.at:
        return waits(claim, (opens_at - claim.at).total_seconds())
    return None


def suppressed(claim: Claim) -> Verdict:
    """Ends a claim whose address takes nothing: handed back untried, and not armed again."""
    return Verdict(claim, State.SUPPRESSED, signal=Signal.HANDED_BACK)


def handed_back(claim: Claim) -> Verdict:
    """Gives back a claim that was not begun: no attempt, due at once."""
    state = State.RETRYING if claim.attempts else State.SCHEDULED
    return Verdict(claim, state, due_in_s=0.0, signal=Signal.HANDED_BACK, deaths=claim.deaths)
