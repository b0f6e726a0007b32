"""What becomes of a session, by what its sidecar says of it. Pure functions.

A session that drops is brought back, later and later; one whose phone was unlinked waits for its user.
"""

import random
from dataclasses import dataclass
from typing import Literal

from messengers.phones import Link, Trouble
from postrider.sessions import Session, SessionState

SCAN_POLL_S = 3.0
"""Seconds between two looks at a session that waits for its user: a QR code lives 20 s."""
START_POLL_S = 2.0
STARTS_WITHIN_S = 120.0
"""Seconds that a session may take to start before it is started anew."""
FIRST_S, LONGEST_S = 5.0, 300.0
"""Seconds before a session is brought back once more, at first and at most."""
WELL_S = 60.0
"""Seconds after which a linked session stands well: what was tried before counts no more."""

Act = Literal["create", "start", "restart", "stop"]


@dataclass(frozen=True, slots=True)
class Step:
    """What a session is from now on, what is to be done with it, and in how many seconds it is looked at again; None: not."""

    state: SessionState
    reason: str = ""
    act: Act | None = None
    tries: int = 0
    look_in_s: float | None = None
    gives_up: bool = False
    """It is no longer to run: nobody scanned its code."""


def step(
    session: Session,
    found: Link | Trouble,
    *,
    standing_s: float,
    tried_s: float | None,
    check_s: float,
    rng: random.Random | None = None,
) -> Step:
    """What follows for `session`, which has stood like this for `standing_s`, from what was `found`.

    `tried_s`: seconds since something was last done to bring it about; None: nothing was. Whoever tells us that something is
    new has it looked at at once: only this keeps a session that fails at each start from being started in a circle.
    `check_s`: seconds between two looks at one that is well.
    """
    if isinstance(found, Trouble):
        return _in_vain(session, found, rng)
    if not session.wanted:
        return _rests(session, found, tried_s, rng)
    match found.state:
        case "linked":
            return _is_there(session, standing_s, check_s)
        case "scan" | "passkey":
            return Step(found.state, found.reason, None, session.tries, SCAN_POLL_S)
        case "starting":
            return _starts(session, standing_s, tried_s, rng)
    return _ended(session, found, standing_s, tried_s, rng)


def _in_vain(session: Session, trouble: Trouble, rng: random.Random | None) -> Step:
    """The sidecar could not say."""
    state: SessionState = "dropped" if session.state == "linked" else session.state
    tries = session.tries + 1
    return Step(state, trouble.reason, None, tries, backoff_s(tries, rng))


def _rests(session: Session, link: Link, tried_s: float | None, rng: random.Random | None) -> Step:
    """It is not to run; a sidecar that was started anew, or has unlinked its phone, may have it run all the same."""
    state: SessionState = "unlinked" if session.state == "unlinked" else "stopped"
    if link.state in {"missing", "stopped", "failed"}:
        return Step(state, session.reason)
    if wait_s := _too_early_s(session.tries, tried_s, rng):
        return Step(state, session.reason, None, session.tries, wait_s)
    tries = session.tries + 1
    return Step(state, session.reason, "stop", tries, backoff_s(tries, rng))


def _is_there(session: Session, standing_s: float, check_s: float) -> Step:
    if not session.tries:
        return Step("linked", look_in_s=check_s)
    if session.state == "linked" and standing_s >= WELL_S:
        return Step("linked", look_in_s=check_s)
    return Step("linked", tries=session.tries, look_in_s=min(WELL_S, check_s))


def _starts(
    session: Session, standing_s: float, tried_s: float | None, rng: random.Random | None
) -> Step:
    was_linked = session.state in {"linked", "dropped"}
    state: SessionState = "dropped" if was_linked else "starting"
    since_s = standing_s if tried_s is None else min(standing_s, tried_s)
    if since_s > STARTS_WITHIN_S and session.state == state:
        tries = session.tries + 1
        return Step(state, "takes too long to start", "restart", tries, backoff_s(tries, rng))
    return Step(state, session.reason, None, session.tries, START_POLL_S)


def _ended(
    session: Session,
    link: Link,
    standing_s: float,
    tried_s: float | None,
    rng: random.Random | None,
) -> Step:
    """It does not run, and is to."""
    reason = link.reason or f"the sidecar says: {link.state}"
    if session.state in {"scan", "passkey"} and link.state != "missing":
        return Step("unlinked", "no phone was linked in time; start it again", gives_up=True)
    state: SessionState = "dropped" if session.state in {"linked", "dropped"} else "starting"
    stood_well = session.state == "linked" and standing_s >= WELL_S
    before = 0 if stood_well else session.tries
    if wait_s := _too_early_s(before, tried_s, rng):
        return Step(state, reason, None, before, wait_s)
    acts: dict[str, Act] = {"missing": "create", "stopped": "start"}
    tries = before + 1
    return Step(state, reason, acts.get(link.state, "restart"), tries, backoff_s(tries, rng))


def _too_early_s(tries: int, tried_s: float | None, rng: random.Random | None) -> float:
    """Seconds until something may be done once more; 0: now."""
    if not tries or tried_s is None:
        return 0.0
    return max(0.0, EARLIEST * backoff_s(tries, rng) - tried_s)


EARLIEST = 0.8
"""Of the time between two tries: who looks again when it is over must not find it a little too early."""


def backoff_s(tries: int, rng: random.Random | None = None) -> float:
    """Seconds before a session is looked at again that was in vain so often."""
    longest = min(LONGEST_S, FIRST_S * 2.0 ** min(tries - 1, 20))
    return longest * (rng or random).uniform(0.8, 1.0)
