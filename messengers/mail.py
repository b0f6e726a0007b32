"""Mail over SMTP: a letter to each recipient. Its own Message-ID is what a mail is known by.

https://www.rfc-editor.org/rfc/rfc5321, and what MIME is made of in `letters`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self
from urllib.parse import quote

from messengers.base import (
    Errand,
    File,
    Heading,
    Identity,
    Outbound,
    Outcome,
    Rejected,
    Reply,
    Retry,
    Sent,
    Unclear,
    not_sent,
)
from messengers.letters import (
    Letter,
    Login,
    Mailbox,
    Server,
    address_fault,
    line_fault,
    mailboxes,
    pictures,
    shown_in,
    size_of,
)
from messengers.reading import words

# 530, 534, 535, 538: log in, differently, or with another password. https://www.rfc-editor.org/rfc/rfc4954#section-6
_ACCOUNT = frozenset({530, 534, 535, 538})
# Nobody has this address, or its domain takes no mail. https://www.rfc-editor.org/rfc/rfc3463#section-3.2
# Its place is first, or part of an address may look like it. https://www.rfc-editor.org/rfc/rfc2034#section-4
_DEAD = re.compile(r"\d{3} 5\.1\.(?:1|10)\b")
_MARKS = re.compile(r"^(?:[#>\s]|[-*+]\s)+|[*_`~]{1,3}(?=\S)|(?<=\S)[*_`~]{1,3}")
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Mail:
    """One login at one server, with the senders that it may use. Sent is final: what bounces later, nobody tells us."""

    name: ClassVar[str] = "mail"
    needs: ClassVar[tuple[str, ...]] = ("SMTP_URL", "MAIL_FROM")
    idempotent: ClassVar[bool] = False
    """Receivers may drop a second one with the same Message-ID; none has to."""
    has_receipts: ClassVar[bool] = False
    slower: ClassVar[Mapping[str, float]] = {}
    takes_links: ClassVar[bool] = False
    TEXT_LIMIT: ClassVar[int] = 250_000
    SUBJECT_LIMIT: ClassVar[int] = 500
    COPIES_LIMIT: ClassVar[int] = 50
    URL_LIMIT: ClassVar[int] = 900
    """A line of a mail has 998 at most. https://www.rfc-editor.org/rfc/rfc5322#section-2.1.1"""

    server: Server
    senders: tuple[Mailbox, ...]
    subject: str = ""
    unsubscribe_url: str = ""
    max_bytes: int = 25 * MIB

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        url, senders = env.get("SMTP_URL", "").strip(), env.get("MAIL_FROM", "").strip()
        if not url or not senders:
            return None
        return cls(
            Server.read(url),
            mailboxes(senders),
            env.get("MAIL_SUBJECT", ""),
            env.get("MAIL_UNSUBSCRIBE_URL", ""),
            int(env.get("MAIL_MAX_BYTES") or 25 * MIB),
        )

    # -- checking

    def check_recipient(self, uuid: str) -> str | None:
        return address_fault(uuid)

    def check_text(self, text: str) -> str | None:
        if len(text) > self.TEXT_LIMIT:
            return f"has {len(text)} characters; mail takes {self.TEXT_LIMIT}; attach longer ones"
        return None

    def check_files(self, files: Sequence[File], text: str) -> tuple[int, str] | None:  # noqa: ARG002
        """The first that is only a link. Their size counts together: `check_letter`."""
        for n, file in enumerate(files):
            if file.link and not file.id:
                return n, "is only linked to; mail takes it when it is fetched or uploaded"
        return None

    def notices(self, files: Sequence[File]) -> list[str]:  # noqa: ARG002
        return []

    def check_letter(
        self, heading: Heading, text: str, html: str, files: Sequence[File]
    ) -> tuple[str, str] | None:
        return next(self._faults(heading, text, html, tuple(files)), None)

    def _faults(
        self, heading: Heading, text: str, html: str, files: tuple[File, ...]
    ) -> Iterator[tuple[str, str]]:
        if fault := line_fault(heading.subject):
            yield "mail.subject", fault
        if len(heading.subject) > self.SUBJECT_LIMIT:
            yield "mail.subject", f"has over {self.SUBJECT_LIMIT} characters"
        yield from self._box_faults(heading)
        if heading.sender and self._sender(heading.sender) is None:
            senders = ", ".join(map(str, self.senders))
            yield "mail.from", f"is none of this account's senders: {senders} (MAIL_FROM)"
        if heading.unsubscribe_url and (fault := url_fault(heading.unsubscribe_url)):
            yield "mail.unsubscribe_url", fault
        for name in shown_in(html):
            if name not in pictures(files):
                yield "body", f"shows cid:{name[:80]}, and no attached picture has that name"
        size = size_of(text, html, files)
        if size > self.max_bytes:
            whose = "attachments" if files else "body"
            said = f"make a mail of {size} bytes, as base64 takes a third more"
            yield whose, f"{said}; mail takes {self.max_bytes} (MAIL_MAX_BYTES)"

    def _box_faults(self, heading: Heading) -> Iterator[tuple[str, str]]:
        boxes = {"mail.reply_to": heading.reply_to} if heading.reply_to else {}
        for what, copies in (("cc", heading.cc), ("bcc", heading.bcc)):
            boxes |= {f"mail.{what}[{n}]": box for n, box in enumerate(copies)}
        for field, box in boxes.items():
            try:
                Mailbox.read(box)
            except ValueError as error:
                yield field, str(error)
        if len(heading.cc) + len(heading.bcc) > self.COPIES_LIMIT:
            yield "mail.cc", f"names over {self.COPIES_LIMIT} together with bcc"

    def _sender(self, wanted: str) -> Mailbox | None:
        """One of ours, by its address, its name, or both."""
        given = wanted.strip().casefold()
        for box in self.senders:
            if given in {box.address.casefold(), box.name.casefold(), str(box).casefold()}:
                return box
        return None

    # -- sending

    def request(self, out: Outbound) -> Letter:
        heading = out.heading or Heading()
        # What the settings named when this was accepted may be gone by now.
        sender = (heading.sender and self._sender(heading.sender)) or self.senders[0]
        unsubscribe = heading.unsubscribe_url or (self.unsubscribe_url if heading.bulk else "")
        return Letter(
            server=self.server,
            sender=sender,
            to=Mailbox(out.to),
            id=f"{out.key}@{sender.domain}",
            subject=heading.subject.strip() or self.subject or _first_line(out),
            text=out.text,
            markdown=out.markdown,
            cc=tuple(map(Mailbox.read, heading.cc)),
            bcc=tuple(map(Mailbox.read, heading.bcc)),
            reply_to=Mailbox.read(heading.reply_to) if heading.reply_to else None,
            unsubscribe_url=unsubscribe.replace("{uuid}", quote(out.to, safe="@")).replace(
                "{id}", out.key
            ),
            files=out.files,
        )

    def read(self, reply: Reply) -> Outcome:
        """By the code, and by what was said last: `stage` is hello, login, mail, rcpt or data.

        https://www.rfc-editor.org/rfc/rfc5321#section-4.2.1
        """
        code, stage = reply.status, reply.headers.get("stage", "")
        why = self._why(reply)
        if 200 <= code <= 299:
            id_ = words(reply.headers.get("message-id"))
            if stage == "data" and id_:
                return Sent(id_, self._clean(reply.headers.get("refused")))
            return Unclear(why)
        if 400 <= code <= 499:
            return Retry(why)
        if 500 <= code <= 599:
            if code in _ACCOUNT or stage in {"hello", "login"}:
                return Retry(why, pauses="account", refused=True)
            return Rejected(why, dead=stage == "rcpt" and bool(_DEAD.match(why)))
        return Unclear(why)

    def whoami(self) -> Errand:
        return Login(self.server)

    def read_whoami(self, reply: Reply) -> Identity | Retry | Rejected | Unclear:
        if reply.status == 250 and reply.headers.get("stage") == "login":
            return Identity(words(f"{', '.join(map(str, self.senders))} at {self.server}"))
        return not_sent(self.read(reply))

    def _why(self, reply: Reply) -> str:
        said = self._clean(reply.body.decode(errors="replace"))
        code = f"{reply.status}" if -999 < reply.status < 999 else "?"
        return f"{code} {said}" if said else f"SMTP {code}"

    def _clean(self, said: object) -> str:
        for secret in self.server.secrets():
            said = said.replace(secret, "***") if isinstance(said, str) else said
        return words(said)


def url_fault(url: str) -> str | None:
    """Why this cannot stand in List-Unsubscribe, or None."""
    if not re.fullmatch(r"[!-;=?-~]+", url) or len(url) > Mail.URL_LIMIT:
        return (
            f"must have at most {Mail.URL_LIMIT} characters, all of them ASCII, no spaces, < or >"
        )
    if not re.match(r"(https?://|mailto:)[^/]", url):
        return "must be a URL: https, http or mailto"
    return None


def _first_line(out: Outbound) -> str:
    """A subject out of the text, or of the first file's name."""
    line = next((line.strip() for line in out.text.splitlines() if line.strip()), "")
    if out.markdown:
        line = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", _MARKS.sub("", line))
    line = words(line)
    if not line and out.files:
        line = words(out.files[0].name)
    return line if len(line) <= 78 else line[:77].rstrip() + "…"
