"""Looks up numbers for clients: what is known already, else what a linked phone is told, within a limit of time.

One number after the other: a phone that asks for many at once is taken for what it should not be.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from messengers.phones import Checked, Trouble
from messengers.whatsapp_web import WhatsAppWeb
from postrider.accounts import DEFAULT
from postrider.errors import InvalidRequest
from postrider.model import Client
from postrider.numbers import Found, Known, Numbers, digits_of
from postrider.phones import Phones
from postrider.records import account_key

log = logging.getLogger("postrider.lookups")

WITHIN_S = 25.0
"""Seconds that one call may take: what could not be asked by then is unknown."""
MOST = 1_000
"""Numbers in one call."""
AT_ONCE = 8
"""Sessions that one process asks at the same time."""
CLOUD = "whatsapp"
NO_NUMBER = "is no number that could exist; write it with its country code"
NOT_TOLD = "the Cloud API does not tell who has WhatsApp; what is sent there fails where nobody has"
NOT_YET = "there was no time left to ask"


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of one number. `to`: the address to write to; `again_at`: when it may be asked for again, if that helps.

    `known_from`: '' for what is not known.
    """

    given: str
    number: str
    found: Found = "unknown"
    to: str = ""
    known_from: Literal["cache", "asked", ""] = ""
    at: datetime | None = None
    reason: str = ""
    again_at: datetime | None = None


class Lookups:
    """Looks up numbers by the sessions of linked phones."""

    def __init__(
        self, numbers: Numbers, phones: Phones, on_limited: Callable[[str, str], None]
    ) -> None:
        """`on_limited` stops an account that WhatsApp restricts; told why."""
        self.numbers = numbers
        self.phones = phones
        self.on_limited = on_limited
        self._threads = ThreadPoolExecutor(AT_ONCE, "lookup")

    def by_cloud(self, given: Sequence[str]) -> list[Looked]:
        """What an account of the Cloud API tells of numbers. Raises InvalidRequest where there is none."""
        if not any(service == CLOUD for service, _ in self.phones.accounts):
            raise InvalidRequest(
                "service",
                f"{CLOUD} is not set up here; it needs WHATSAPP_ACCESS_TOKEN and WHATSAPP_PHONE_NUMBER_ID",
            )
        return [Looked(one, digits_of(one), reason=NOT_TOLD) for one in given]

    def session_of(self, who: Client, name: str) -> str:
        """The session that `who` means; '' is its only one, or `default`. Raises NotFound, InvalidRequest."""
        if self.phones.phone is None:
            raise InvalidRequest(
                "service", f"{WhatsAppWeb.name} is not set up here; it needs WAHA_URL or GOWA_URL"
            )
        if found := self.phones.account_of(name or DEFAULT, who.id):
            return found
        return self.phones.get(who, name or DEFAULT).id

    def look_up(
        self, who: Client, session: str, given: Sequence[str], *, within_s: float = WITHIN_S
    ) -> list[Looked]:
        """What is known of each number, as it was given; `session` is asked for what is not."""
        ends_at = time.monotonic() + within_s
        digits = [digits_of(one) for one in given]
        each = [one for one in dict.fromkeys(digits) if one]
        found = {
            number: _as_known(number, known)
            for number, known in zip(each, self.numbers.known(who.id, each), strict=True)
            if known
        }
        missing = [number for number in each if number not in found]
        found |= self._ask(who, session, missing, ends_at)
        return [
            replace(found[number], given=one) if number else Looked(one, "", reason=NO_NUMBER)
            for one, number in zip(given, digits, strict=True)
        ]

    def _ask(
        self, who: Client, session: str, numbers: Sequence[str], ends_at: float
    ) -> dict[str, Looked]:
        """Asks for one after the other, until there is a reason to ask for no more."""
        found: dict[str, Looked] = {}
        for n, number in enumerate(numbers):
            one, goes_on = self._ask_one(who, session, number, ends_at)
            found[number] = one
            if not goes_on:
                rest = {late: replace(one, number=late) for late in numbers[n + 1 :]}
                return found | rest
        return found

    def _ask_one(
        self, who: Client, session: str, number: str, ends_at: float
    ) -> tuple[Looked, bool]:
        """What came of it, and whether there is sense in asking for another."""
        unknown = Looked("", number)
        now = self.phones.now()
        if (left_s := ends_at - time.monotonic()) <= 0:
            return replace(unknown, reason=NOT_YET, again_at=now), False
        (place,) = self.numbers.ask([(who.id, number, session)])
        if isinstance(place, Known):
            return _as_known(number, place), True
        if not place.may:
            again_at = None if place.wait_s is None else now + timedelta(seconds=place.wait_s)
            return replace(unknown, reason=place.why, again_at=again_at), False
        # In a thread, which ends by its own limit: what it is told after ours is kept nevertheless.
        asking = self._threads.submit(self._told, who.id, session, number)
        try:
            told = asking.result(left_s)
        except FutureTimeoutError:
            asking.cancel()
            return replace(unknown, reason=NOT_YET, again_at=self.phones.now()), False
        if isinstance(told, Trouble):
            if told.kind == "limited":
                self.on_limited(account_key(WhatsAppWeb.name, session), told.reason)
            again_at = self.phones.now() if told.kind in {"later", "away"} else None
            of_this_one = told.kind == "refused"
            return replace(unknown, reason=told.reason, again_at=again_at), of_this_one
        if told.found == "unknown":
            reason = told.reason or "WhatsApp does not say"
            return replace(unknown, reason=reason, again_at=self.phones.now()), True
        known = Known(told.found, self.phones.now(), told.to)
        return replace(_as_known(number, known), known_from="asked"), True

    def _told(self, owner: str, session: str, number: str) -> Checked | Trouble:
        told = self.phones.check(session, number)
        if isinstance(told, Checked):
            self.numbers.keep(owner, number, told, self.phones.now())
        return told


def _as_known(number: str, known: Known) -> Looked:
    to = (known.to or number) if known.found == "yes" else ""
    return Looked("", number, known.found, to, "cache", known.at)
