"""`check_first`: finds out whether a number is on WhatsApp before anything is written to it.

What is known already costs one look for all of a batch. Else the session is asked, as the first step of the attempt; over its
cap the delivery waits, and uses up no try.
"""

import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from messengers.base import NoReply, Outcome, Rejected, Reply, Request, Retry
from messengers.phones import Checked, Trouble
from messengers.whatsapp_web import WhatsAppWeb
from postrider.accounts import Accounts
from postrider.model import Claim, Number, Verdict
from postrider.numbers import Known, Numbers, number_of

log = logging.getLogger("postrider.check_first")

AGAIN_S = 30.0
"""Seconds until a session is asked again that was not linked, or stopped, just when it was to be."""


class CheckFirst:
    """Looks at what is to be sent only to numbers that are on WhatsApp."""

    def __init__(self, numbers: Numbers, accounts: Mapping[tuple[str, str], Any]) -> None:
        self.numbers = numbers
        self.accounts = accounts

    @property
    def is_on(self) -> bool:
        """Whether there can be any such message at all."""
        return isinstance(self.accounts, Accounts) and self.accounts.phone is not None

    def ready(self, claims: Sequence[Claim]) -> Sequence[Claim]:
        """`claims`, those that are to be looked at with what is known of their numbers, or a place to ask for them."""
        if not self.is_on:
            return claims
        asked: dict[int, tuple[str, str, str]] = {}
        for n, claim in enumerate(claims):
            if claim.message.terms.check_first and claim.how != "suppressed":
                to = claim.recipient
                if to.service == WhatsAppWeb.name and (digits := number_of(to.uuid)):
                    asked[n] = (claim.message.owner, digits, to.account)
        if not asked:
            return claims
        found = list(claims)
        told = self.numbers.ask(list(asked.values()), comes_back=True)
        for (n, (_, digits, _)), one in zip(asked.items(), told, strict=True):
            if isinstance(one, Known):
                number = Number(digits, one.found, one.to)
            elif one.may:
                number = Number(digits)
            else:
                number = Number(digits, wait_s=AGAIN_S if one.wait_s is None else one.wait_s)
            found[n] = replace(found[n], number=number)
        return found

    def ask(
        self, claim: Claim, adapter: object
    ) -> Generator[Request, Reply | NoReply, tuple[Claim, Outcome | None]]:
        """`claim` with what its session is told of its number, or the outcome if it cannot be."""
        number = claim.number
        if number is None or number.found or not isinstance(adapter, WhatsAppWeb):
            return claim, None
        found = yield from adapter.driver.check(adapter.session, number.digits)
        if isinstance(found, Checked):
            number = replace(number, found=found.found, to=found.to, asked=True)
            return replace(claim, number=number), None
        return claim, _trouble(found)

    def learn(self, verdicts: Sequence[Verdict]) -> None:
        """Keeps what sessions were told."""
        if not self.is_on:
            return
        found = [
            (v.claim.message.owner, number.digits, Checked(number.found, number.to))
            for v in verdicts
            if (number := v.claim.number) and number.asked and number.found
        ]
        if found:
            self.numbers.keep_all(found, verdicts[0].claim.at)


def _trouble(found: Trouble) -> Outcome | None:
    """What it means for a delivery that its number could not be looked up; None: it may be sent nevertheless."""
    match found.kind:
        case "limited":
            return Retry(found.reason, pauses="account", refused=True, stops=True)
        case "missing" | "unlinked":
            return Retry(found.reason, after_s=AGAIN_S, pauses="account")
        case "later" | "away":
            return Retry(found.reason)
    return None  # it is the sending that tells whether it is refused, too


def refusal(number: Number) -> Rejected:
    """Why nothing is sent to a number."""
    return Rejected(f"+{number.digits} is not on WhatsApp")
