"""Addresses that nothing is sent to: they opted out, are dead, or somebody said so."""

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import redis

from messengers.letters import Mailbox
from postrider import records
from postrider.errors import InvalidRequest
from postrider.model import Claim, Suppression
from postrider.scripts import Scripts, unavailable_when_redis_is

Why = Literal["opted_out", "dead", "manual"]
_WHYS: dict[str, Why] = {why[0]: why for why in get_args(Why)}
CHUNK = 1_000
AFTER_ALL = b"\xff"
"""Behind every address, as no text holds this byte."""


@dataclass(frozen=True, slots=True)
class SuppressionPage:
    """A part of the list, how many there are in all, and the cursor of the next part or None."""

    rows: list[Suppression]
    total: int
    next: str | None


class Suppressions:
    """The list of them in one Redis. A number is the same with its plus and without."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def add(
        self, addresses: Iterable[tuple[str, str]], why: Why = "manual", reason: str = ""
    ) -> int:
        """Has nothing sent to these (service, uuid) from here on; how many are new on the list."""
        return self._run([(service, uuid, why[0], reason) for service, uuid in addresses])

    @unavailable_when_redis_is
    def remove(self, addresses: Iterable[tuple[str, str]]) -> int:
        """Takes these off the list; how many were there."""
        return self._run([(s, uuid, "", "") for s, uuid in addresses if " " not in s])

    def _run(self, rows: list[tuple[str, str, str, str]]) -> int:
        count = 0
        for first in range(0, len(rows), CHUNK):
            args = [part for row in rows[first : first + CHUNK] for part in row]
            count += sum(self.scripts.run("suppress", *args))
        return count

    @unavailable_when_redis_is
    def get(self, service: str, uuid: str) -> Suppression | None:
        """The entry of this address, or None."""
        if " " in service:
            return None
        client: Any = self.redis
        member = f"{service} {_address(uuid)}".encode()
        found = client.hget("pr:suppressed", member)
        return None if found is None else _suppression(member, found)

    @unavailable_when_redis_is
    def spared(self, claims: list[Claim]) -> list[Claim]:
        """`claims`, whose copies go to no address on the list."""
        copies = {
            _copied(claim, box)
            for claim in claims
            if (heading := claim.message.heading)
            for box in (*heading.cc, *heading.bcc)
        }
        if not copies:
            return claims
        client: Any = self.redis
        members = list(copies)
        found = zip(members, client.hmget("pr:suppressed", members), strict=True)
        on_it = {member for member, why in found if why is not None}
        return [_spared(claim, on_it) for claim in claims] if on_it else claims

    @unavailable_when_redis_is
    def page(self, limit: int, cursor: str | None = None, service: str = "") -> SuppressionPage:
        """A part of the list, of all or of one messenger, in order of service and uuid."""
        client: Any = self.redis
        start = b"[" + f"{service} ".encode() if service else b"-"
        end = b"(" + f"{service} ".encode() + AFTER_ALL if service else b"+"
        total = client.zlexcount("pr:suppressed:order", start, end)
        if cursor is not None:
            _, behind = records.read_cursor(cursor)
            try:
                start = b"(" + bytes.fromhex(behind)
            except ValueError:
                raise InvalidRequest("cursor", "is not one that this service gave") from None
        members = client.zrangebylex("pr:suppressed:order", start, end, 0, limit + 1)
        shown = members[:limit]
        texts = client.hmget("pr:suppressed", shown) if shown else []
        rows = [_suppression(m, t) for m, t in zip(shown, texts, strict=True) if t is not None]
        more = len(members) > limit
        return SuppressionPage(rows, total, records.cursor(0.0, shown[-1].hex()) if more else None)


def _copied(claim: Claim, box: str) -> str:
    """How the address stands on the list that a copy goes to."""
    with suppress(ValueError):  # it was one when this was accepted
        box = Mailbox.read(box).address
    return f"{claim.recipient.service} {box}"


def _spared(claim: Claim, on_it: Collection[str]) -> Claim:
    if (heading := claim.message.heading) is None:
        return claim
    cc, bcc = (
        tuple(box for box in boxes if _copied(claim, box) not in on_it)
        for boxes in (heading.cc, heading.bcc)
    )
    if (cc, bcc) == (heading.cc, heading.bcc):
        return claim
    heading = replace(heading, cc=cc, bcc=bcc)
    return replace(claim, message=replace(claim.message, heading=heading))


def _address(uuid: str) -> str:
    """As `address` in lua/_suppressions.lua has it."""
    number = uuid.removeprefix("+")
    return number if number.isascii() and number.isdigit() else uuid


def _suppression(member: bytes, text: bytes) -> Suppression:
    service, _, uuid = member.decode().partition(" ")
    why, at, reason = text.decode(errors="replace").split(" ", 2)
    return Suppression(service, uuid, records.moment(float(at)), _WHYS[why], reason)
