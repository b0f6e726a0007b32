"""Mail that would have headers of its own choosing: refused when it is posted, or sent with none but ours."""

import email
import email.policy
import io
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from messengers.base import File, Heading, Outbound
from messengers.mail import Mail
from postrider.accounts import open_accounts
from postrider.arriving import clean_name
from postrider.checks import Checks
from postrider.errors import InvalidRequest
from postrider.model import NewMessage, Recipient
from postrider.rendering import html_of
from postrider.settings import Settings

ENV = {
    "SMTP_URL": "smtp://h",
    "MAIL_FROM": '"Shop, Berlin" <shop@example.org>, news@example.org',
    "MAIL_SUBJECT": "From the shop",
    "MAIL_UNSUBSCRIBE_URL": "https://shop.example/{uuid}/{id}",
}
EVA = "eva@example.net"
SPELLINGS = {
    "CR LF": "\r\n", "LF": "\n", "CR": "\r", "LF CR": "\n\r", "CR CR LF": "\r\r\n", "folded": "\r\n ", "tab fold": "\n\t",
    "an empty line": "\r\n\r\n", "VT": "\v", "FF": "\f", "FS": "\x1c", "GS": "\x1d", "RS": "\x1e", "NEL": "\x85",
    "LS": "\u2028", "PS": "\u2029", "NUL": "\0", "BS": "\b", "ESC": "\x1b", "DEL": "\x7f", "low bytes of CR LF": "\u560d\u560a",
    "percent": "%0d%0a", "escaped": "\\r\\n", "quoted-printable": "=0D=0A", "encoded word": "=?utf-8?q?=0D=0A?=",
    "encoded word, apart": " =?utf-8?q?=0D=0ABcc:=20planted@evil.example?= ", "encoded word, base64": "=?utf-8?b?DQo=?=",
    "encoded word, no charset": "=?x y?q?=0A?=",
    "entities": "&#13;&#10;", "comma": ", ", "semicolon": "; ", "bracket": "> ", "attribute": "{uuid.__class__}{0.__init__}",
}  # fmt: skip
"""What might pass for the end of a line somewhere on the way, or for more than a word."""
SMUGGLED = "Bcc: planted@evil.example"


def a_file(name: str) -> File:
    """As an upload of that name is kept."""
    return File(clean_name(name), "text/plain", 1, id="A" * 22, open=lambda: io.BytesIO(b"x"))


Put = Callable[[str], dict[str, Any]]
FIELDS: dict[str, Put] = {
    "recipient": lambda bad: {"to": f"eva{bad}@example.net"},
    "recipient, behind": lambda bad: {"to": EVA + bad},
    "recipient, encoded": lambda bad: {
        "to": f"=?utf-8?q?{bad.strip()}=0D=0ABcc=3A_a?=@example.net"
    },
    "body": lambda bad: {"body": bad},
    "first line": lambda bad: {"body": bad, "MAIL_SUBJECT": ""},
    "subject": lambda bad: {"heading": Heading(subject=f"Hi{bad}")},
    "sender": lambda bad: {"heading": Heading(sender=f"news@example.org{bad}")},
    "reply-to": lambda bad: {"heading": Heading(reply_to=f"a@b.example{bad}")},
    "reply-to's name": lambda bad: {"heading": Heading(reply_to=f"A{bad} <a@b.example>")},
    "cc": lambda bad: {"heading": Heading(cc=(f"a@b.example{bad}",))},
    "cc's name": lambda bad: {"heading": Heading(cc=(f'"A{bad}" <a@b.example>',))},
    "bcc": lambda bad: {"heading": Heading(bcc=(f"A{bad} <a@b.example>",))},
    "unsubscribe": lambda bad: {"heading": Heading(unsubscribe_url=f"https://b.example/{bad}")},
    "file's name": lambda bad: {"files": (a_file(f"a{bad}.txt"),)},
}
FORMS = ("plain", "markdown")


def posted(to: str = EVA, body: str = "Hi", **more: Any) -> NewMessage:
    """What a client might post."""
    return NewMessage(body, (Recipient(to, "mail"),), **more)


def as_sent(MAIL_SUBJECT: str = ENV["MAIL_SUBJECT"], **asked: Any) -> bytes:  # noqa: N803 - a setting
    """It as it goes over the wire, when it is taken. Raises InvalidRequest."""
    env = ENV | {"MAIL_SUBJECT": MAIL_SUBJECT}
    settings = Settings.from_env(env, None)
    taken = Checks(settings, open_accounts(settings)).message(posted(**asked))
    mail = Mail.from_env(env)
    assert mail
    markdown = taken.format == "markdown"
    out = Outbound(taken.recipients[0].uuid, taken.body, "KEY-0", markdown=markdown)
    letter = mail.request(replace(out, heading=taken.heading, files=taken.files))
    assert [box.wire for _, box in letter.recipients if "planted" in box.wire] == []
    html = html_of(taken.body) if markdown else ""
    return b"".join(letter.chunks(html, datetime(2026, 1, 2, tzinfo=UTC)))


def names(raw: bytes) -> list[str]:
    """The headers as a strict reader and as a lax one finds them."""
    found = []
    for policy in (email.policy.default, email.policy.compat32):
        read = email.message_from_bytes(raw, policy=policy)
        assert not read.defects
        found += sorted(read.keys())
    lax = re.split(rb"\r\n\r\n|\n\n|\r\r", raw)[0]
    return found + sorted(n.decode() for n in re.findall(rb"(?:^|[\r\n])([\w-]+):", lax))


@pytest.mark.parametrize("form", FORMS)
def test_no_spelling_of_a_line_break_adds_a_header(form: Any) -> None:
    """Each spelling in each field, in both forms of a text."""
    refused, sent = [], []
    for (spelling, bad), (field, put) in itertools.product(SPELLINGS.items(), FIELDS.items()):
        try:
            raw = as_sent(format=form, **put(bad + SMUGGLED))
        except InvalidRequest:
            refused.append((field, spelling))
            continue
        sent.append((field, spelling))
        innocent = as_sent(format=form, **put("x"))
        assert names(raw) == names(innocent), (field, spelling)
        assert b"<class" not in raw, (field, spelling)
    print(f"{form}: {len(refused)} refused, {len(sent)} sent as they are")  # noqa: T201 - the figures
    assert len(refused) + len(sent) == len(SPELLINGS) * len(FIELDS) >= 200
    # Else the one or the other half would prove nothing.
    assert {field for field, _ in refused} >= FIELDS.keys() - {
        "file's name"
    }  # made a file's own name elsewhere
    assert {"body", "first line", "subject", "cc's name", "file's name"} <= {f for f, _ in sent}
    breaks = {"CR LF", "LF", "CR", "folded", "an empty line"}
    assert breaks <= {spelling for field, spelling in refused if field == "subject"}


@pytest.mark.parametrize(
    "subject", ["Is =?utf-8?q?this=0D=0A?= one?", "https://x.org/?q=?", "a =?b " * 20, "ä=?"]
)
def test_what_looks_like_an_encoded_word_is_sent_as_it_stands(subject: str) -> None:
    raw = as_sent(heading=Heading(subject=subject))
    read = email.message_from_bytes(raw, policy=email.policy.default)
    assert read["Subject"] == subject.strip()
    assert max(map(len, raw.split(b"\r\n"))) <= 78
