"""Deliveries and messages, found again: by what they are, whose they are, and when they were accepted.

Each page walks the list that promises the shortest way; whatever else is asked for is looked at on the way, in bounded
parts. So a page may hold fewer than were asked for, or none, and still name a next one.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import redis

from postrider import records
from postrider.errors import InvalidRequest
from postrider.model import (
    LETTERS,
    QUEUED,
    STATES,
    Attempt,
    Delivery,
    Message,
    MessageState,
    State,
    first_message_id,
    is_delivery_id,
    is_message_id,
    message_state,
)
from postrider.records import account_key
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.vault import KEYLESS, Vault

SCAN = 2_000
"""Records that one call of a script looks at: a few milliseconds."""
PAGE_SCANS = 25
"""Such calls for one page."""
STATE_LISTS = {State.SENDING: ("pr:leases",), State.UNKNOWN: ("pr:in:held", "pr:in:unknown")}
"""Where deliveries stand in a state that has no list of its name, or more."""
_TIME = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,2})?")
"""A number of seconds as Redis writes one: Lua reads fewer ways to write it than Python."""
SOONEST_FIRST = frozenset({State.SCHEDULED, State.RETRYING, State.PAUSED})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for; None, or '', for whatever it is. `owner`: '' is the user of the settings.

    `accepted_from`, `accepted_to`: aware, from and up to, but not, then.
    """

    state: str | None = None
    service: str | None = None
    account: str | None = None
    uuid: str | None = None
    message: str | None = None
    reference: str | None = None
    tag: str | None = None
    owner: str | None = None
    accepted_from: datetime | None = None
    accepted_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A delivery as it stands. `at`: when it is due, or when it ended; None while it is being sent."""

    delivery: Delivery
    message: Message
    at: datetime | None
    last: Attempt | None

    def state(self, now: datetime) -> str:
        """Its state as it is shown: what is due and not yet claimed is queued."""
        due = self.delivery.state is State.SCHEDULED and self.at is not None and self.at <= now
        return QUEUED if due else self.delivery.state.value


@dataclass(frozen=True, slots=True)
class Summary:
    """A message, and how many of its deliveries stand in which state."""

    message: Message
    counts: dict[State, int]

    @property
    def state(self) -> MessageState:
        """The message's own state."""
        return message_state(self.counts, partial=self.message.partial)


class Finder:
    """Finds in one Redis."""

    def __init__(self, client: redis.Redis, vault: Vault = KEYLESS) -> None:
        self.redis = client
        self.vault = vault
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def deliveries(
        self, wanted: Wanted, limit: int, cursor: str | None = None
    ) -> tuple[list[Found], str | None]:
        """One page, and the cursor of the next or None. Raises InvalidRequest.

        Newest first; with a state that ends, by when it ended; with one that waits, soonest first.
        """
        asked, ways, found = _asked(wanted), self._ways(wanted), list[Found]()
        walks = [f"{way['walk']} {way['key']}" for way in ways]
        n, after = _read_cursor(cursor, walks)
        for _ in range(PAGE_SCANS):
            more = {"most": limit - len(found), "scan": SCAN}
            if after is not None:
                more["after"] = after
            rows, texts, go_on = self.scripts.run("find", json.dumps(asked | ways[n] | more))
            messages = _messages(texts, self.vault)
            found += (_found(row, messages) for row in rows)
            after = json.loads(go_on) if go_on else None
            if after is None:
                n += 1
                if n == len(ways):
                    return found, None
            if len(found) >= limit:
                break
        return found, _cursor(walks[n], after)

    def all_deliveries(self, wanted: Wanted, page: int = 1_000) -> Iterator[Found]:
        """Every one, a page at a time."""
        cursor = None
        while True:
            found, cursor = self.deliveries(wanted, page, cursor)
            yield from found
            if cursor is None:
                return

    @unavailable_when_redis_is
    def messages(
        self, wanted: Wanted, limit: int, cursor: str | None = None
    ) -> tuple[list[Summary], str | None]:
        """One page of messages, newest first, and the cursor of the next or None. Raises InvalidRequest.

        `wanted.state` is a message's own; account and message are left aside.
        """
        if wanted.uuid is not None:
            return self._messages_to(wanted, limit, cursor)
        asked = _asked(replace(wanted, state=None))
        asked["key"], _ = self._shortest(_message_lists(wanted))
        _, after = _read_cursor(cursor, [asked["key"]])
        found: list[Summary] = []
        for _ in range(PAGE_SCANS):
            more = {"most": limit - len(found), "scan": SCAN // 10}
            if after is not None:
                more["after"] = after
            rows, go_on = self.scripts.run("find_messages", json.dumps(asked | more))
            found += (
                s
                for s in (_summary(row, self.vault) for row in rows)
                if wanted.state in {None, s.state}
            )
            if not go_on:
                return found, None
            after = go_on.decode()
            if len(found) >= limit:
                break
        return found, _cursor(asked["key"], after)

    def _messages_to(
        self, wanted: Wanted, limit: int, cursor: str | None
    ) -> tuple[list[Summary], str | None]:
        """The messages of which a delivery goes to `wanted.uuid`."""
        deliveries, further = self.deliveries(replace(wanted, state=None), limit, cursor)
        ids = list(dict.fromkeys(found.message.id for found in deliveries))
        if not ids:
            return [], further
        rows, _ = self.scripts.run("find_messages", json.dumps({"ids": ids}))
        summaries = (_summary(row, self.vault) for row in rows)
        return [s for s in summaries if wanted.state in {None, s.state}], further

    @unavailable_when_redis_is
    def message(self, message_id: str, owner: str | None) -> Summary | None:
        """One message, when there is such a one of that owner (None: of anybody)."""
        if not is_message_id(message_id):
            return None
        asked = {"ids": [message_id]} | ({} if owner is None else {"owner": owner})
        rows, _ = self.scripts.run("find_messages", json.dumps(asked))
        return _summary(rows[0], self.vault) if rows else None

    @unavailable_when_redis_is
    def states(self, message_ids: Sequence[str]) -> dict[str, MessageState]:
        """The own state of each of these messages that is there. Their texts are not read, whether they decrypt or not."""
        found: dict[str, MessageState] = {}
        for first in range(0, len(message_ids), SCAN // 10):
            part = list(message_ids[first : first + SCAN // 10])
            rows, _ = self.scripts.run("find_messages", json.dumps({"ids": part}))
            for mid, fields, counts in rows:
                partial = b"partial" in fields[::2]
                found[mid.decode()] = message_state(_counts(counts), partial=partial)
        return found

    @unavailable_when_redis_is
    def delivery(self, delivery_id: str, owner: str | None) -> Found | None:
        """One delivery, when there is such a one of that owner (None: of anybody)."""
        if not is_delivery_id(delivery_id):
            return None
        mid, _, index = delivery_id.partition("-")
        asked: dict[str, Any] = {"walk": "message", "key": mid, "after": [mid, int(index)]}
        asked |= {"most": 1, "scan": 1} | ({} if owner is None else {"owner": owner})
        rows, texts, _ = self.scripts.run("find", json.dumps(asked))
        if not rows or rows[0][0].decode() != delivery_id:
            return None
        return _found(rows[0], _messages(texts, self.vault))

    # -- which way

    def _ways(self, wanted: Wanted) -> list[dict[str, Any]]:
        """The lists to walk, one after the other."""
        if wanted.message is not None:
            return [{"walk": "message", "key": wanted.message}]
        if wanted.uuid is not None:
            return [{"walk": "recipient", "key": records.recipients_bucket(wanted.uuid)}]
        by_message, length = self._shortest(_message_lists(wanted))
        messages = [{"walk": "messages", "key": by_message}]
        if wanted.state is None:
            return messages
        state = _stored(wanted.state)
        keys = _lists_of(state)
        if by_message != "pr:messages":
            stand, all_messages = self._lengths(keys), self._lengths(["pr:messages"])
            deliveries = self._lengths([key for each in State for key in _lists_of(each)])
            if length * (sum(deliveries) / max(1, sum(all_messages))) < sum(stand):
                return messages
        return [{"walk": "list", "key": key, "up": state in SOONEST_FIRST} for key in keys]

    def _shortest(self, keys: Sequence[str]) -> tuple[str, int]:
        length, key = min(zip(self._lengths(keys), keys, strict=True))
        return key, length

    def _lengths(self, keys: Sequence[str]) -> list[int]:
        pipe: Any = self.redis.pipeline(transaction=False)
        for key in keys:
            pipe.zcard(key)
        lengths: list[int] = pipe.execute()
        return lengths


def _lists_of(state: State) -> tuple[str, ...]:
    return STATE_LISTS.get(state, (f"pr:in:{state}",))


def _stored(state: str) -> State:
    return State.SCHEDULED if state == QUEUED else State(state)


def _message_lists(wanted: Wanted) -> list[str]:
    """The lists in which every message stands that is looked for."""
    lists = ["pr:messages"]
    for letter, value in (
        ("o", wanted.owner),
        ("r", wanted.reference),
        ("t", wanted.tag),
        ("s", wanted.service),
    ):
        if value:
            lists.append(f"pr:messages:{letter}:{value}")
    return lists


def _asked(wanted: Wanted) -> dict[str, Any]:
    """What find.lua and find_messages.lua look at, as they take it."""
    asked: dict[str, Any] = {
        "service": wanted.service,
        "uuid": wanted.uuid,
        "owner": wanted.owner,
        "reference": wanted.reference,
        "tag": wanted.tag,
    }
    if wanted.account is not None:
        if wanted.service is None:
            raise InvalidRequest("account", "is one of a messenger's; name its service, too")
        asked["account"] = account_key(wanted.service, wanted.account)
    if wanted.state is not None:
        state = _stored(wanted.state)
        asked["states"] = LETTERS[state]
        if state is State.SCHEDULED:
            asked["due"] = int(wanted.state == QUEUED)
    if wanted.accepted_from is not None:
        asked["low"] = first_message_id(wanted.accepted_from)
    if wanted.accepted_to is not None:
        asked["high"] = first_message_id(wanted.accepted_to)
    return {name: value for name, value in asked.items() if value is not None}


def _found(row: Sequence[bytes], messages: Mapping[str, Message]) -> Found:
    id_, record, at, tried = row
    attempts = records.attempts(tried)
    return Found(
        records.delivery(id_.decode(), record),
        messages[id_.decode().partition("-")[0]],
        records.moment(at) if at else None,
        attempts[-1] if attempts else None,
    )


def _messages(flat: Sequence[Any], vault: Vault) -> dict[str, Message]:
    return {
        mid.decode(): records.message(mid.decode(), fields, vault)
        for mid, fields in zip(flat[::2], flat[1::2], strict=True)
    }


def _summary(row: Sequence[Any], vault: Vault) -> Summary:
    mid, fields, counts = row
    return Summary(records.message(mid.decode(), fields, vault), _counts(counts))


def _counts(flat: Sequence[Any]) -> dict[State, int]:
    return {STATES[letter.decode()]: n for letter, n in zip(flat[::2], flat[1::2], strict=True)}


def _cursor(walk: str, after: object) -> str:
    return base64.urlsafe_b64encode(json.dumps([walk, after]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str | None, walks: Sequence[str]) -> tuple[int, Any]:
    """Which of the walks to go on with, and behind what on it. Raises InvalidRequest."""
    if cursor is None:
        return 0, None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        walk, after = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        n = walks.index(walk)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        n, after = 0, ()
    if not _leads_on(walks[n].partition(" ")[0], after):
        raise InvalidRequest("cursor", "is not one that this service gave for these filters")
    return n, after


def _leads_on(walk: str, after: object) -> bool:
    match walk, after:
        case _, None:
            return True
        case "message" | "messages", [str(mid), int(index)]:
            return is_message_id(mid) and not isinstance(index, bool) and 0 <= index < 10**6
        case "recipient", [str(id_)]:
            return is_delivery_id(id_)
        case "list", [str(at), str(id_)]:
            return (
                bool(_TIME.fullmatch(at)) and len(id_) <= 40 and id_.isascii() and id_.isprintable()
            )
        case str(key), str(mid) if key.startswith("pr:messages"):
            return is_message_id(mid)
    return False
