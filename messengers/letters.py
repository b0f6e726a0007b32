"""What a mail is made of: mailboxes, the server that takes it, and the letter as it goes over the wire."""

import base64
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email import policy
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from html import unescape
from typing import BinaryIO, Literal
from urllib.parse import quote, unquote, urlsplit

from messengers.base import UNSEEN, Errand, File

ADDRESS_LIMIT = 254
"""Octets of an address. https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1 (a path, less its brackets)"""
LOCAL_LIMIT = 64
NAME_LIMIT = 200
LINE_OCTETS = 57
"""Octets of a file in one line of base64: 76 characters. https://www.rfc-editor.org/rfc/rfc2045#section-6.8"""
CHUNK = 1024 * LINE_OCTETS
_ATOM = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_NAMED = re.compile(r'(?:"(?P<quoted>[^"]*)"|(?P<name>[^<>"]*))\s*<(?P<address>[^<>]*)>')
_MEDIA_TYPE = re.compile(r"(?!multipart/|message/)[\w!#$&^.+-]+/[\w!#$&^.+-]+", re.ASCII)
ENCODED = "=?"
"""What an encoded word begins with. https://www.rfc-editor.org/rfc/rfc2047#section-2

The library reads one in what is given to it, too, also within quotes, and writes the line breaks that it stood for as such:
text of a client would begin headers of its own.
"""
_CID = re.compile(r'(<img [^>]*?src=")cid:([^"]*)"')


def line_fault(text: str) -> str | None:
    """Why `text` cannot stand in a header, or None: a line break there would begin another header."""
    if any(c in text for c in "\r\n"):
        return "must not hold line breaks"
    if not all(c.isprintable() or c == "\t" for c in text):
        return "must not hold control characters"
    return None


def _literal(text: str) -> str:
    """`text` in which nobody finds an encoded word."""
    return text.replace(ENCODED, "= ?")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Somebody's address and, perhaps, name."""

    address: str
    name: str = ""

    @classmethod
    def read(cls, text: str) -> "Mailbox":
        """`address`, or `Name <address>`. Raises ValueError with what is wrong."""
        if fault := line_fault(text):
            raise ValueError(fault)
        named = _NAMED.fullmatch(text.strip())
        address = named["address"] if named else text
        name = ((named["quoted"] or named["name"] or "") if named else "").strip()
        if len(name) > NAME_LIMIT:
            raise ValueError(f"has a name of over {NAME_LIMIT} characters")
        if fault := address_fault(address):
            raise ValueError(fault)
        return cls(address, name)

    @property
    def domain(self) -> str:
        """The part behind the @, in ASCII."""
        return _ascii(self.address.rpartition("@")[2])

    @property
    def wire(self) -> str:
        """The address as servers take it: the domain in ASCII."""
        return f"{self.address.rpartition('@')[0]}@{self.domain}"

    def header(self) -> Address:
        """How it stands in a header."""
        return Address(_literal(self.name), self.address.rpartition("@")[0], self.domain)

    def __str__(self) -> str:
        return f"{self.name} <{self.address}>" if self.name else self.address


def _ascii(domain: str) -> str:
    return domain if domain.isascii() else domain.encode("idna").decode()


def address_fault(address: str) -> str | None:
    """Why this is no mail address, or None. Letters of all scripts may stand in it; quoted local parts may not."""
    if fault := line_fault(address):
        return fault
    local, at, domain = address.rpartition("@")
    if not at or not _ATOM.fullmatch(local) or ENCODED in local:
        return "must be a mail address: name@example.org"
    try:
        domain = _ascii(domain)
    except UnicodeError:
        return "has a domain that is none"
    if len(local.encode()) > LOCAL_LIMIT:
        return f"has more than {LOCAL_LIMIT} bytes before the @"
    if len(local.encode()) + 1 + len(domain) > ADDRESS_LIMIT:
        return f"has more than {ADDRESS_LIMIT} bytes"
    if not all(map(_LABEL.fullmatch, domain.split("."))):
        return "has a domain that is none"
    return None


def mailboxes(text: str) -> tuple[Mailbox, ...]:
    """Several, between commas; a name that holds a comma stands in quotes. Raises ValueError."""
    if text.count('"') % 2:
        raise ValueError("has a quote that does not end")
    parts = re.findall(r'(?:"[^"]*"|[^,"])+', text)
    return tuple(Mailbox.read(part.strip()) for part in parts if part.strip())


Tls = Literal["implicit", "required", "offered", "off"]
_PORTS = {"implicit": 465, "required": 587, "offered": 25, "off": 25}


@dataclass(frozen=True, slots=True)
class Server:
    """A mail server, and our login there."""

    host: str
    port: int
    tls: Tls
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def read(cls, url: str) -> "Server":
        """`smtp://`, `smtp+starttls://` or `smtps://`. Raises ValueError, whose words hold nothing of the URL."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host, port, parts = "", None, urlsplit("")
        if line_fault(url) or not host or parts.scheme not in {"smtp", "smtp+starttls", "smtps"}:
            raise ValueError(
                "cannot be read; write it as smtp://USER:PASSWORD@HOST:587, smtps:// for TLS from the first byte;"
                " in user and password %40 for @, %3A for :, %2F for /"
            )
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        # A login over plain text is a password given away, so that must be asked for.
        tls: Tls = "required" if user or parts.scheme == "smtp+starttls" else "offered"
        if parts.scheme == "smtps":
            tls = "implicit"
        wanted = re.fullmatch(r"(?:starttls=(require|off))?", parts.query)
        if wanted is None or (wanted[1] and parts.scheme != "smtp"):
            raise ValueError(
                "takes ?starttls=require or ?starttls=off behind smtp://, nothing else"
            )
        if wanted[1]:
            tls = "required" if wanted[1] == "require" else "off"
        default_port = 587 if user and tls == "off" else _PORTS[tls]
        return cls(host, port or default_port, tls, user, password)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def secrets(self) -> tuple[str, ...]:
        """The password, also as it goes over the wire, where a server may quote it."""
        if not self.password:
            return ()
        plain = f"\0{self.user}\0{self.password}"
        wire = (base64.b64encode(said.encode()).decode() for said in (plain, self.password))
        return (*wire, self.password)


@dataclass(frozen=True, slots=True)
class Login(Errand):
    """Asks a server whether it lets us in; sends nothing."""

    server: Server = field(repr=False)


@dataclass(frozen=True, slots=True)
class Letter(Errand):
    """One mail. `id` is its Message-ID, without brackets; `unsubscribe_url` is for who wants no more of them."""

    server: Server = field(repr=False)
    sender: Mailbox
    to: Mailbox
    id: str
    subject: str = field(repr=False)
    text: str = field(repr=False)
    markdown: bool = False
    cc: tuple[Mailbox, ...] = ()
    bcc: tuple[Mailbox, ...] = field(default=(), repr=False)
    reply_to: Mailbox | None = None
    unsubscribe_url: str = field(default="", repr=False)
    files: tuple[File, ...] = ()

    @property
    def recipients(self) -> Iterator[tuple[str, Mailbox]]:
        """Whom it goes to, and as what; the one whom it is for comes first."""
        yield "to", self.to
        yield from (("cc", box) for box in self.cc)
        yield from (("bcc", box) for box in self.bcc)

    @property
    def international(self) -> bool:
        """Whether only a server with SMTPUTF8 can take it."""
        boxes = [self.sender, *(box for _, box in self.recipients)]
        boxes += [self.reply_to] if self.reply_to else []
        return not all(box.wire.isascii() for box in boxes)

    def chunks(self, html: str, now: datetime) -> Iterator[bytes]:
        """It as it is sent, line ends and all, its files read part by part. `html`: of its Markdown. Raises OSError."""
        places: dict[bytes, File] = {}
        whole = self._frame(html, places)
        head = f"Message-ID: <{self.id}>\r\nDate: {format_datetime(now)}\r\n"
        if self.unsubscribe_url:  # the library would fold a long URL, and so break it
            head += f"List-Unsubscribe: <{self.unsubscribe_url}>\r\n"
            if self.unsubscribe_url.startswith("https:"):
                # https://www.rfc-editor.org/rfc/rfc8058#section-3.1
                head += "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
        if ENCODED in self.subject:
            head += f"Subject: {_all_encoded(self.subject)}\r\n"
        yield head.encode()
        pattern = b"|".join(re.escape(place) + rb"\r\n" for place in places) or rb"(?!)"
        at = 0
        for found in re.finditer(pattern, whole):
            yield whole[at : found.start()]
            at = found.end()
            yield from _encoded(places[found[0][:-2]])
        yield whole[at:]

    def _frame(self, html: str, places: dict[bytes, File]) -> bytes:
        """All of it but what the files hold; `places` is told what stands where that comes."""
        kind = policy.SMTPUTF8 if self.international else policy.SMTP
        message = EmailMessage(kind.clone(cte_type="7bit"))
        message["From"] = self.sender.header()
        message["To"] = self.to.header()
        if self.cc:
            message["Cc"] = [box.header() for box in self.cc]
        if self.reply_to:
            message["Reply-To"] = self.reply_to.header()
        if ENCODED not in self.subject:  # else `chunks` writes it
            message["Subject"] = self.subject
        message.set_content(self.text)
        shown: list[File] = []
        if self.markdown:
            self._add_html(message, html, shown, places)
        for file in self.files:
            if file not in shown:
                disposition = "inline" if file.inline else "attachment"
                message.add_attachment(
                    *_place(file, places), disposition=disposition, filename=file.name
                )
        return message.as_bytes()

    def _add_html(
        self, message: EmailMessage, html: str, shown: list[File], places: dict[bytes, File]
    ) -> None:
        """Adds the other form of the text, with the pictures that it shows."""
        by_name = pictures(self.files)
        ids: dict[str, str] = {}

        def numbered(found: re.Match[str]) -> str:
            name = unquote(unescape(found[2]))
            if name not in by_name:
                return found[0]
            ids.setdefault(name, f"{len(ids)}.{self.id}")
            return f'{found[1]}cid:{quote(ids[name], safe="@")}"'

        page = _CID.sub(numbered, html)
        message.add_alternative(
            f'<!doctype html>\n<html><head><meta charset="utf-8"></head><body>\n{page}</body></html>\n',
            subtype="html",
        )
        *_, part = message.iter_parts()
        for name, id_ in ids.items():
            file = by_name[name]
            shown.append(file)
            what = _place(file, places)
            part.add_related(*what, cid=f"<{id_}>", disposition="inline", filename=file.name)


def _all_encoded(subject: str) -> str:
    """The subject in encoded words from the first letter to the last: read back it is what it was."""
    return Header(subject, "utf-8", header_name="Subject").encode(linesep="\r\n")


def pictures(files: tuple[File, ...]) -> Mapping[str, File]:
    """Those that a text may show, by name: the first of each."""
    return {file.name: file for file in reversed(files) if file.media_type.startswith("image/")}


def shown_in(html: str) -> list[str]:
    """The names behind `cid:` in it."""
    return [unquote(unescape(name)) for _, name in _CID.findall(html)]


def size_of(text: str, html: str, files: tuple[File, ...]) -> int:
    """Bytes that a mail of these has on the wire, at most."""
    return sum(
        (
            *(max(_in_base64(len(t.encode())), len(t) + t.count("\n")) for t in (text, html)),
            *(_in_base64(file.size) + 1_000 for file in files),
            4_000,
        )
    )


def _in_base64(octets: int) -> int:
    return -(-octets // LINE_OCTETS) * 78


def _place(file: File, places: dict[bytes, File]) -> tuple[bytes, str, str]:
    """What stands for the content of `file` for now, and its media type."""
    token = secrets.token_bytes(24)
    places[base64.b64encode(token)] = file
    known = _MEDIA_TYPE.fullmatch(file.media_type)
    main, _, sub = (file.media_type if known else UNSEEN).partition("/")
    return token, main, sub


def _encoded(file: File) -> Iterator[bytes]:
    left = file.size
    with file.open() as content:
        while part := _read(content, CHUNK):
            left -= len(part)
            yield base64.encodebytes(part).replace(b"\n", b"\r\n")
    if left:
        raise OSError("a file has another length than when it was uploaded")


def _read(content: BinaryIO, most: int) -> bytes:
    parts = []
    while most and (part := content.read(most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)
