"""Which numbers are on WhatsApp: what is known of them, and how many more a linked phone may look up in this hour.

Who looks up many numbers is restricted by WhatsApp. So what was found out is kept, each client's for itself: that somebody
else has asked for a number is none of its business.

Redis
  pr:number:<owner> <number>    string  `y` or `n`, when that was found out (s), and the address to write to, if it is another
  pr:checks:<session>           zset    what was asked by it in the last hour -> when (s)
  pr:checks:<session> next      string  the time that was last told to somebody who comes back for a place (s)
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import redis

from messengers.phones import Checked
from messengers.whatsapp_web import WhatsAppWeb
from postrider import records
from postrider.records import account_key
from postrider.scripts import Scripts, unavailable_when_redis_is

YES_KEPT_S, NO_KEPT_S = 30 * 86_400, 86_400
HOUR_S = 3_600
_WRITTEN = re.compile(r"(\+|00)?[0-9 ()./-]{5,40}")
_MEXICAN = re.compile(r"521([0-9]{10})")
"""Mobile numbers of Mexico had a 1 before them until 2019. WhatsApp's ids still have it; phonenumbers refuses it."""
_PERSON = re.compile(r"([0-9]{5,15})@(s\.whatsapp\.net|c\.us)")

Found = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept of a number: since when it is known, and the address to write to ('': the number itself)."""

    found: Literal["yes", "no"]
    at: datetime
    to: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Whether a session may be asked for a number now. `wait_s`: seconds until it may, where that is known."""

    may: bool
    why: str = ""
    wait_s: float | None = None


NOT_LINKED = "the session is not linked"
STOPPED = "the session is stopped"


def digits_of(given: str) -> str:
    """A number as messengers know it, digits with country code; '' when `given` is none that could exist.

    It is written with country code; `+`, `00` or nothing before it, spaces and the like between.
    """
    import phonenumbers  # noqa: PLC0415 - what starts without it starts sooner

    text = given.strip()
    if not (text.isascii() and _WRITTEN.fullmatch(text)):
        return ""
    digits = re.sub(r"^00|[^0-9]", "", text)
    if mexican := _MEXICAN.fullmatch(digits):
        digits = f"52{mexican[1]}"
    try:
        number = phonenumbers.parse(f"+{digits}")
    except phonenumbers.NumberParseException:
        return ""
    if not phonenumbers.is_possible_number(number):
        return ""
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)[1:]


def number_of(uuid: str) -> str:
    """The number of a recipient; '' for a group, and for who hides it."""
    person = _PERSON.fullmatch(uuid)
    return digits_of(person[1] if person else uuid)


class Numbers:
    """Numbers in one Redis. `cap`: how many a session may look up in an hour; 0: any."""

    def __init__(self, client: redis.Redis, cap: int) -> None:
        self.redis = client
        self.cap = cap
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def known(self, owner: str, numbers: Sequence[str]) -> list[Known | None]:
        """What is kept of each."""
        if not numbers:
            return []
        client: Any = self.redis
        return [_known(told) for told in client.mget([_key(owner, one) for one in numbers])]

    @unavailable_when_redis_is
    def ask(
        self, asked: Sequence[tuple[str, str, str]], *, comes_back: bool = False
    ) -> list[Known | Place]:
        """What is kept of each (owner, number, session); or whether that session may be asked now, which then counts.

        `comes_back`: who gets no place is told a time of its own to come back at.
        """
        args: list[str] = []
        for owner, number, session in asked:
            args += (_key(owner, number), session, account_key(WhatsAppWeb.name, session))
        told = self.scripts.run("numbers_ask", self.cap, int(comes_back), *args)
        return [_known(one) or _place(one.decode()) for one in told]

    @unavailable_when_redis_is
    def keep(self, owner: str, number: str, found: Checked, now: datetime) -> None:
        """Keeps what a session was told; nothing of what it was not."""
        self._keep(self.redis, owner, number, found, now)

    @unavailable_when_redis_is
    def keep_all(self, all_: Sequence[tuple[str, str, Checked]], now: datetime) -> None:
        """The same of many."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for owner, number, found in all_:
            self._keep(pipe, owner, number, found, now)
        pipe.execute()

    def _keep(self, client: Any, owner: str, number: str, found: Checked, now: datetime) -> None:
        if found.found == "unknown":
            return
        to = "" if found.to == number else found.to
        told = f"{found.found[0]} {records.seconds(now.timestamp())} {to}"
        kept_s = YES_KEPT_S if found.found == "yes" else NO_KEPT_S
        client.set(_key(owner, number), told, ex=kept_s)


def _key(owner: str, number: str) -> str:
    return f"pr:number:{owner} {number}"


def _known(told: bytes | None) -> Known | None:
    letter, _, rest = (told or b"").decode().partition(" ")
    if letter not in {"y", "n"}:
        return None
    at, _, to = rest.partition(" ")
    return Known("yes" if letter == "y" else "no", records.moment(float(at)), to)


def _place(told: str) -> Place:
    word, _, wait_s = told.partition(" ")
    if word == "wait":
        return Place(False, "as many numbers as allowed were looked up in this hour", float(wait_s))
    return Place(word == "ask", {"unlinked": NOT_LINKED, "stopped": STOPPED}.get(word, ""))
