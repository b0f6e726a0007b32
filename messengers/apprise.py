"""Apprise: a hundred and more services, each by one URL. A recipient is the name of a target, which has one or several.

A target is an account of its own, so that one that hangs or is refused delays no other. Apprise gives no id of what it sent
and no status, only its log lines; whoever carries a `Notification` digs them out, and here it is said what they mean.
https://github.com/caronc/apprise
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from messengers.base import (
    Errand,
    File,
    Identity,
    NoReply,
    Outbound,
    Outcome,
    Rejected,
    Reply,
    Retry,
    Sent,
    Unclear,
    by_status,
    unanswered,
)
from messengers.reading import entries, words

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}"
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_BETWEEN = re.compile(rf"[\s,]+(?=(?:{NAME}=)?{_SCHEME})")
_ENTRY = re.compile(rf"(?:({NAME})=)?({_SCHEME}[^\s/?]\S*)")
_NO_SECRETS = {
    "format",
    "overflow",
    "verify",
    "redirect",
    "image",
    "method",
    "priority",
    "cto",
    "rto",
}
"""Parameters of Apprise's URLs that hold words anybody may use."""
_NETWORKS = {"redis", "rediss", "unix", "redis+sentinel", "http", "https"}
_REFUSED = (401, 403)


def read_targets(text: str) -> dict[str, tuple[str, ...]]:
    """`NAME=URL`s with spaces, line ends or commas between them; a URL without a name belongs to the name before it.

    Raises ValueError, which tells no URL.
    """
    targets: dict[str, tuple[str, ...]] = {}
    name = ""
    for n, part in enumerate(_BETWEEN.split(text.strip(" \t\r\n,")), 1):
        found = _ENTRY.fullmatch(part)
        name = (found and found[1]) or name
        if found is None or not name:
            raise ValueError(f"number {n} is no NAME=SCHEME://..., as Apprise has its URLs")
        if name == "default":
            raise ValueError(f"number {n}: no target can be called default")
        targets[name] = (*targets.get(name, ()), found[2])
    return targets


def secrets_in(url: str) -> Iterator[str]:
    """What of an Apprise URL may be secret: it has tokens in the place of logins, hosts, folders and parameters."""
    try:
        parts = urlsplit(url)
    except ValueError:
        yield url
        return
    login, _, place = parts.netloc.rpartition("@")
    if login:
        yield from (login, login.partition(":")[2])
    if parts.scheme in _NETWORKS:
        return
    yield url
    host, _, port = place.partition(":")
    if port and not port.isdigit():
        yield place
        yield port
    elif "." not in host and host != "localhost":
        yield host
    if ":" not in login:
        yield login
    for part in parts.path.split("/"):
        yield from (part, unquote(part))
    for key, value in parse_qsl(parts.query):
        if key not in _NO_SECRETS:
            yield value


@dataclass(frozen=True, slots=True)
class Place:
    """Where one URL leads. `service`: in Apprise's words. `limit`: characters of a text; 0: it cuts longer ones itself."""

    url: str = field(repr=False)
    service: str = ""
    takes_files: bool = False
    limit: int = 0

    def __str__(self) -> str:
        scheme = self.url.partition("://")[0]
        return f"{self.service or 'unknown'} ({scheme}://***)"


@dataclass(frozen=True, slots=True)
class Notification(Errand):
    """A text to the places of these URLs, each asked once. `format`: text, markdown or html."""

    key: str
    urls: tuple[str, ...] = field(repr=False)
    body: str = field(repr=False)
    title: str = field(default="", repr=False)
    format: str = "text"
    files: tuple[File, ...] = ()


@dataclass(frozen=True, slots=True)
class Apprise:
    """Apprise's adapter: all targets, or one of them, which alone `name`s its places."""

    name: ClassVar[str] = "apprise"
    needs: ClassVar[tuple[str, ...]] = ("APPRISE_TARGETS",)
    idempotent: ClassVar[bool] = False
    has_receipts: ClassVar[bool] = False
    slower: ClassVar[Mapping[str, float]] = {}
    TEXT_LIMIT: ClassVar[int] = 32_768
    FILE_LIMIT: ClassVar[int] = 50 * 1024 * 1024
    """Bytes of all files together: Apprise reads them whole."""
    takes_links: ClassVar[bool] = False
    takes_markdown: ClassVar[bool] = True
    AT_ONCE: ClassVar[int] = 4
    """Sends to one target that a worker has under way: they take a thread each."""

    targets: Mapping[str, tuple[Place, ...]] = field(repr=False)
    target: str = ""
    """The one that this account is; '' for all."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        if not (text := env.get("APPRISE_TARGETS")):
            return None
        return cls({name: tuple(map(Place, urls)) for name, urls in read_targets(text).items()})

    def single(self) -> dict[str, Self]:
        """Each target, by its name, as an account of its own."""
        return {name: replace(self, target=name) for name in self.targets}

    @property
    def places(self) -> tuple[Place, ...]:
        """Of this account's target; of all of them."""
        if self.target:
            return self.targets[self.target]
        return tuple(place for places in self.targets.values() for place in places)

    def described(self) -> str:
        """What this account reaches, without secrets."""
        if not self.target:
            return f"{len(self.targets)} targets: {', '.join(sorted(self.targets))}"
        return " and ".join(map(str, self.places))

    def account_of(self, uuid: str) -> str:
        """The account that sends to this address; '' when there is no such address."""
        return uuid if uuid in self.targets else ""

    def check_recipient(self, uuid: str) -> str | None:
        if uuid not in self.targets:
            return f"is no target; there are {', '.join(sorted(self.targets))}"
        if self.target not in {"", uuid}:
            return f"is not the target of this account, {self.target}"
        return None

    def check_text(self, text: str) -> str | None:
        for place in self.places:
            if place.limit and len(text) > place.limit:
                return f"has {len(text)} characters; {place.service} takes {place.limit}"
        if len(text) > self.TEXT_LIMIT:
            return f"has {len(text)} characters; apprise takes {self.TEXT_LIMIT}"
        return None

    def check_files(self, files: Sequence[File], text: str) -> tuple[int, str] | None:  # noqa: ARG002
        for place in self.places:
            if not place.takes_files:
                return 0, f"cannot be sent: {place.service} takes no files"
        size = 0
        for n, file in enumerate(files):
            size += file.size
            if not file.size:
                return n, "is empty, and would be left out"
            if size > self.FILE_LIMIT:
                limit = self.FILE_LIMIT // 1024**2
                return n, f"makes them {size} bytes; apprise takes {limit} MiB in one message"
        return None

    def notices(self, files: Sequence[File]) -> list[str]:  # noqa: ARG002
        return []

    def request(self, out: Outbound) -> Notification:
        return self.request_to(out, range(len(self.places)))

    def read(self, reply: Reply) -> Outcome:
        outcomes = self.read_each(reply, range(len(self.places)))
        return next((o for o in outcomes if not isinstance(o, Sent)), outcomes[0])

    # -- each place by itself

    def several(self) -> int:
        """How many places a delivery goes to."""
        return len(self.places)

    def request_to(self, out: Outbound, which: Sequence[int]) -> Notification:
        """What sends `out` to these of its places."""
        urls = tuple(self.places[n].url for n in which)
        return Notification(
            out.key,
            urls,
            out.text,
            title=out.heading.subject if out.heading else "",
            format="markdown" if out.markdown else "text",
            files=out.files,
        )

    def read_each(self, reply: Reply | NoReply, which: Sequence[int]) -> list[Outcome]:
        """What became of each of them. Total."""
        if isinstance(reply, NoReply):
            return [unanswered(reply)] * len(which)
        told = reply.object()
        found = entries(told.get("places"))
        key = told.get("key")
        if len(found) != len(which) or not isinstance(key, str) or not key or reply.status != 200:
            outcome = by_status(replace(reply, headers={}))
            return [outcome] * len(which)
        known_by = self._hidden(key)
        return [self._outcome(place, known_by) for place in found]

    def _outcome(self, place: Mapping[str, Any], key: str) -> Outcome:
        if place.get("ok") is True:
            return Sent(key or "sent")
        why = self._hidden(place.get("words")) or "Apprise did not say why"
        status = place.get("status")
        if type(status) is not int or not 400 <= status <= 599:
            return Unclear(why) if place.get("left") is True else Retry(why)
        if len(self.places) > 1:  # the others must not wait with this one
            gone = status < 500 and status not in {408, 425, 429}
            return Rejected(why) if gone else Retry(why)
        if status in _REFUSED:
            return Retry(why, pauses="account", refused=True)
        if status in {408, 425}:
            return Retry(why)
        return by_status(Reply(status), why)

    def _hidden(self, said: object) -> str:
        if not isinstance(said, str):
            return ""
        hidden = {s for place in self.places for s in secrets_in(place.url) if len(s) >= 6}
        for secret in sorted(hidden, key=len, reverse=True):
            said = said.replace(secret, "***")
        return words(said)

    def whoami(self) -> None:
        """Nothing: whatever one asked these services would be a message."""

    def read_whoami(self, reply: Reply) -> Identity | Retry | Rejected | Unclear:
        return Unclear(f"Apprise is never asked, yet HTTP {reply.status} came")
