"""Mail's adapter: addresses, servers and senders read, headings checked."""

import pytest

from messengers.base import Heading, Outbound, Reply, Retry, Sent, Unclear
from messengers.letters import Mailbox, Server, address_fault, mailboxes
from messengers.mail import Mail

MAIL = Mail.from_env(
    {"SMTP_URL": "smtp://h", "MAIL_FROM": '"Shop, Berlin" <shop@example.org>, news@example.org'}
)


@pytest.mark.parametrize(
    "address",
    ["a@b.org", "a.b+c@x-y.example", "root@localhost", "дима@пример.рф", "x@bücher.example",
     "a" * 64 + "@b.org"],
)  # fmt: skip
def test_an_address(address):
    assert address_fault(address) is None


@pytest.mark.parametrize(
    "address",
    ["", "a", "a@", "@b.org", "a b@c.org", "a@b@c.org", "a@b..org", "a@-b.org", "a.@b.org", "<a@b.org>",
     "a@b.org\r\nX: y", "a@b.org\n", "a\0@b.org", "a@b.org,c@d.org", "a" * 65 + "@b.org",
     "a@" + "b" * 64 + ".org", "a@" + "b." * 125 + "org", "a@b_c.org", "a@[127.0.0.1]"],
)  # fmt: skip
def test_no_address(address):
    assert address_fault(address)


def test_senders_stand_between_commas():
    assert MAIL.senders == (
        Mailbox("shop@example.org", "Shop, Berlin"),
        Mailbox("news@example.org"),
    )
    for wrong in ("Shop", 'x" <a@b.org>', "A <a@b.org\r\nX: y>"):
        with pytest.raises(ValueError, match=r"must|quote"):
            mailboxes(wrong)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://h", Server("h", 25, "offered")),
        ("smtp://u:p%40s@h", Server("h", 587, "required", "u", "p@s")),
        ("smtp+starttls://h", Server("h", 587, "required")),
        ("smtps://u:p@h", Server("h", 465, "implicit", "u", "p")),
        ("smtp://u:p@h:2525?starttls=off", Server("h", 2525, "off", "u", "p")),
        ("smtp://h?starttls=require", Server("h", 587, "required")),
    ],
)
def test_a_server_and_how_it_is_protected(url, server):
    assert Server.read(url) == server


@pytest.mark.parametrize(
    "url", ["h:25", "http://planted@h", "smtp://", "smtp://u:planted@h:x", "smtps://h?starttls=off",
            "smtp://u:planted@h?verify=no", "smtp://u:planted#1@h"],
)  # fmt: skip
def test_a_server_that_cannot_be_read_shows_nothing_of_its_password(url):
    with pytest.raises(ValueError, match=r"cannot be read|takes") as caught:
        Server.read(url)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "markdown", "subject"),
    [
        ("\n Hello \nthere", False, "Hello"),
        ("# **Hello** [you](https://x.org)\n", True, "Hello you"),
        ("x" * 100, False, "x" * 77 + "…"),
    ],
)
def test_a_subject_is_the_first_line(text, markdown, subject):
    out = Outbound("eva@example.net", text, "K-0", markdown=markdown)
    assert MAIL.request(out).subject == subject


def test_a_sender_is_named_by_address_or_name_and_gives_the_id_its_domain():
    for sender in ("NEWS@example.org", "shop, berlin", ""):
        assert MAIL.check_letter(Heading(sender=sender), "Hi", "", ()) is None
    assert MAIL.check_letter(Heading(sender="x@y.org"), "Hi", "", ())[0] == "mail.from"
    letter = MAIL.request(Outbound("eva@example.net", "Hi", "K-0", nth=7))
    assert letter.id == "K-0@example.org"


def test_only_an_answer_to_the_data_with_our_id_is_a_yes():
    headers = {"stage": "data", "message-id": "K-0@example.org"}
    assert MAIL.read(Reply(250, b"OK", headers)) == Sent("K-0@example.org")
    for stage in ("rcpt", "mail", "login", ""):
        assert isinstance(MAIL.read(Reply(250, b"OK", headers | {"stage": stage})), Unclear)


@pytest.mark.parametrize("quoted", ["p@ss word", "cEBzcyB3b3Jk", "AHNob3AAcEBzcyB3b3Jk"])
def test_a_server_that_quotes_the_login_does_not_have_it_kept(quoted: str) -> None:
    mail = Mail.from_env(
        {"SMTP_URL": "smtp://shop:p%40ss%20word@localhost", "MAIL_FROM": "shop@example.org"}
    )
    assert mail
    outcome = mail.read(Reply(535, f"bad login {quoted}".encode(), {"stage": "login"}))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "535 bad login ***"
