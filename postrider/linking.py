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
"""Seconds before a session is first brought back, and at most."""

Act = Literal["create", "start", "restart"]


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
    check_s: float,
    rng: random.Random | None = None,
) -> Step:
    """What follows for `session`, which has stood like this for `standing_s`, from what was `found`.

    `check_s`: seconds between two looks at one that is well.
    """
    if isinstance(found, Trouble):
        return _in_vain(session, found, rng)
    match found.state:
        case "linked":
            return Step("linked", look_in_s=check_s)
        case "scan" | "passkey":
            return Step(found.state, found.reason, look_in_s=SCAN_POLL_S)
        case "starting":
            return _starts(session, standing_s, rng)
    if not session.wanted:
        return Step("stopped" if session.state != "unlinked" else "unlinked", session.reason)
    return _ended(session, found, rng)


def _in_vain(session: Session, trouble: Trouble, rng: random.Random | None) -> Step:
    """The sidecar could not say."""
    state: SessionState = "dropped" if session.state == "linked" else session.state
    tries = session.tries + 1
    return Step(state, trouble.reason, None, tries, backoff_s(tries, rng))


def _starts(session: Session, standing_s: float, rng: random.Random | None) -> Step:
    was_linked = session.state in {"linked", "dropped"}
    state: SessionState = "dropped" if was_linked else "starting"
    if standing_s > STARTS_WITHIN_S and session.state == state:
        tries = session.tries + 1
        return Step(state, "takes too long to start", "restart", tries, backoff_s(tries, rng))
    return Step(state, session.reason, None, session.tries, START_POLL_S)


def _ended(session: Session, link: Link, rng: random.Random | None) -> Step:
    """It does not run, and is to."""
    reason = link.reason or f"the sidecar says: {link.state}"
    if session.state in {"scan", "passkey"}:
        return Step("unlinked", "no phone was linked in time; start it again", gives_up=True)
    tries = session.tries + 1
    act: Act = "create" if link.state == "missing" else "restart"
    if link.state == "stopped":
        act = "start"
    state: SessionState = "dropped" if session.state in {"linked", "dropped"} else "starting"
    return Step(state, reason, act, tries, backoff_s(tries, rng))


def backoff_s(tries: int, rng: random.Random | None = None) -> float:
    """Seconds before a session is looked at again that was in vain so often."""
    longest = min(LONGEST_S, FIRST_S * 2 ** min(tries - 1, 20))
    return longest * (rng or random).uniform(0.8, 1.0)
