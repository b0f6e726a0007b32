"""Mail carried: TLS and logins, what servers say and when they hang up, connections that are kept; through the service, too."""

import contextlib
import hashlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from messengers.base import (
    File,
    Heading,
    Identity,
    NoReply,
    Outbound,
    Outcome,
    Rejected,
    Reply,
    Retry,
    Sent,
    Unclear,
    unanswered,
)
from messengers.mail import Mail
from postrider import dialogue, smtp, timeouts
from postrider.dialogue import CUT_OFF, MAILS, NO_ANSWER
from postrider.errands import Errands
from postrider.model import Attachment, NewMessage, Recipient, State
from postrider.planning import draft
from postrider.selftest.fleet import free_port
from postrider.service import Service
from postrider.smtp import Smtp
from postrider.transport import Blocking
from tests.certificates import make_certificate, tls_of
from tests.conftest import Api, Start, wait_until
from tests.mailserver import MailServer
from tests.test_files import PNG, keep
from tests.test_sending_files import turn

EVA = "eva@example.net"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The certificate, which those who start from here on trust."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return certificate


def adapter(url: str) -> Mail:
    found = Mail.from_env({"SMTP_URL": url, "MAIL_FROM": "Shop <shop@example.org>"})
    assert found
    return found


def send(url: str, out: Outbound | None = None, carrier: Smtp | None = None) -> Outcome:
    mail = adapter(url)
    reply = (carrier or Smtp()).carry(mail.request(out or Outbound(EVA, "Hi", "KEY-0")))
    return unanswered(reply) if isinstance(reply, NoReply) else mail.read(reply)


SENT = Sent("KEY-0@example.org")


def refused(said: str) -> Retry:
    return Retry(said, pauses="account", refused=True)


# -- TLS and logins


@pytest.mark.parametrize(
    ("scheme", "implicit", "exclude", "mechanism"),
    [
        ("smtp", False, (), "PLAIN"),
        ("smtp+starttls", False, ("PLAIN",), "LOGIN"),
        ("smtps", True, (), "PLAIN"),
    ],
)
def test_it_logs_in_behind_tls(
    trusted: Path, scheme: str, implicit: bool, exclude: tuple[str, ...], mechanism: str
) -> None:
    with MailServer(tls_of(trusted), login=True, implicit=implicit, exclude=exclude) as server:
        assert send(server.url(scheme)) == SENT
    assert server.logins == [mechanism]
    (taken,) = server.taken
    assert taken.secure
    assert (taken.sender, taken.recipients) == ("shop@example.org", [EVA])
    assert taken.mail["Message-ID"] == "<KEY-0@example.org>"


def test_a_wrong_password_is_the_accounts_fault(trusted: Path) -> None:
    with MailServer(tls_of(trusted), login=True) as server:
        outcome = send(server.url(login="shop%40example.org:wrong@"))
    assert isinstance(outcome, Retry)
    assert (outcome.pauses, outcome.refused) == ("account", True)
    assert outcome.reason.startswith("535 ")
    assert not server.taken


def test_a_missing_login_is_the_accounts_fault(trusted: Path) -> None:
    with MailServer(tls_of(trusted), login=True) as server:
        outcome = send(server.url("smtp+starttls", login=""))
    assert isinstance(outcome, Retry)
    assert outcome.refused
    assert outcome.reason.startswith("530 ")


def test_a_login_goes_over_no_plain_text_unless_that_is_asked_for() -> None:
    with MailServer(login=True) as server:
        assert send(server.url()) == refused("530 the server offers no STARTTLS")
        assert not server.logins
        assert send(server.url(query="?starttls=off")) == SENT


def test_a_certificate_that_nobody_vouches_for_is_not_accepted(certificate: Path) -> None:
    with MailServer(tls_of(certificate)) as server:
        assert send(server.url()) == Retry("its TLS certificate was not accepted")
        assert not server.taken
        assert send(server.url(), carrier=Smtp(tls_verify=False)) == SENT
    with MailServer(tls_of(certificate), implicit=True) as server:
        assert send(server.url("smtps")) == Retry("its TLS certificate was not accepted")


def test_what_is_said_before_tls_begins_counts_for_nothing(trusted: Path) -> None:
    def serve(conn: socket.socket) -> None:
        conn.sendall(b"220 hi\r\n")
        conn.recv(1000)
        conn.sendall(b"250-hi\r\n250 STARTTLS\r\n")
        conn.recv(1000)
        conn.sendall(b"220 go\r\n250-injected\r\n250 AUTH PLAIN\r\n")
        with tls_of(trusted).wrap_socket(conn, server_side=True) as secure:
            heard.append(secure.recv(1000))

    heard: list[bytes] = []
    with answering(serve) as port:
        send(f"smtp://u:planted-secret@localhost:{port}")
    assert heard[0].startswith(b"ehlo ")


def test_who_we_are_is_asked_by_a_login_that_sends_nothing(trusted: Path) -> None:
    with MailServer(tls_of(trusted), login=True) as server:
        for login, right in ((None, True), ("x:y@", False)):
            mail = adapter(server.url(login=login))
            reply = Smtp().carry(mail.whoami())
            assert isinstance(reply, Reply)
            said = mail.read_whoami(reply)
            if right:
                assert said == Identity(f"Shop <shop@example.org> at localhost:{server.port}")
            else:
                assert isinstance(said, Retry)
                assert said.refused
    assert not server.taken


# -- what the server says


@pytest.mark.parametrize(
    ("says", "outcome"),
    [
        ({EVA: "451 4.7.1 Greylisted"}, Retry("451 4.7.1 Greylisted")),
        ({EVA: "550 Denied"}, Rejected("550 Denied")),
        ({EVA: "550 5.1.1 No such user"}, Rejected("550 5.1.1 No such user", dead=True)),
        ({"MAIL": "452 Full"}, Retry("452 Full")),
        ({"MAIL": "530 Log in"}, refused("530 Log in")),
        ({"MAIL": "553 Not yours"}, Rejected("553 Not yours")),
        (
            {EVA: "550 5.7.1 Client host [185.1.1.20] blocked"},
            Rejected("550 5.7.1 Client host [185.1.1.20] blocked"),
        ),
        ({"354": "450 4.3.2 Not now"}, Retry("450 4.3.2 Not now")),
        ({"DATA": "451 Busy"}, Retry("451 Busy")),
        ({"DATA": "554 5.7.1 Spam"}, Rejected("554 5.7.1 Spam")),
        ({EVA: "421 Too many"}, Retry("421 Too many")),
        ({"MAIL": "535 No longer"}, refused("535 No longer")),
    ],
)
def test_codes_say_whether_it_is_later_never_or_the_account(
    says: dict[str, str], outcome: Outcome
) -> None:
    with MailServer(says=says) as server:
        carrier = Smtp()
        assert send(server.url(), carrier=carrier) == outcome
        server.says.clear()
        assert send(server.url(), carrier=carrier) == SENT  # nothing of the first is left there
    assert len(server.taken) == 1


def test_who_of_several_is_refused_is_told() -> None:
    heading = Heading(cc=("Ana <ana@example.net>", "bob@example.net"), bcc=("zoe@example.net",))
    out = Outbound(EVA, "Hi", "KEY-0", heading=heading)
    with MailServer(
        says={"bob@example.net": "550 No Bob", "zoe@example.net": "451 Later"}
    ) as server:
        outcome = send(server.url(), out)
        assert outcome == replace(
            SENT, reason="not taken: cc bob@example.net: 550 No Bob; bcc zoe@example.net: 451 Later"
        )
        server.says = {EVA: "550 No Eva"}
        assert send(server.url(), out) == Rejected("550 No Eva")
    (taken,) = server.taken
    assert taken.recipients == [EVA, "ana@example.net"]
    assert taken.mail["Cc"] == "Ana <ana@example.net>, bob@example.net"
    assert b"zoe" not in taken.raw


def test_letters_beyond_ascii_before_the_at_need_a_server_for_them() -> None:
    out = Outbound("дима@bücher.example", "Hi", "KEY-0")
    with MailServer() as server:
        assert send(server.url(), out) == SENT
        assert server.taken[0].recipients == ["дима@xn--bcher-kva.example"]
        assert server.taken[0].utf8
    with MailServer(utf8=False) as server:
        outcome = send(server.url(), out)
        assert isinstance(outcome, Rejected)
        assert "SMTPUTF8" in outcome.reason
        assert send(server.url(), Outbound("eva@bücher.example", "Hi", "KEY-0")) == SENT


def test_a_line_that_is_a_dot_ends_nothing() -> None:
    text = ".\n..\n.x\nend\n"
    with MailServer() as server:
        assert send(server.url(), Outbound(EVA, text, "KEY-0")) == SENT
    assert server.taken[0].mail.get_content().splitlines() == text.splitlines()


# -- when it breaks


@contextlib.contextmanager
def answering(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port behind which each connection is served by `serve`, and then closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    conn, _ = listener.accept()
                except OSError:
                    return
                with conn, contextlib.suppress(OSError):
                    serve(conn)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def speaks(*answers: bytes) -> Callable[[socket.socket], None]:
    """One answer a line that comes, then it hangs up."""

    def serve(conn: socket.socket) -> None:
        lines = conn.makefile("rb")
        for n, answer in enumerate(answers):
            if n:
                lines.readline()
            conn.sendall(answer)

    return serve


OK = b"250 OK\r\n"


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ((), Retry(CUT_OFF)),
        ((b"554 No service for you\r\n",), refused("554 No service for you")),
        ((b"421 Later\r\n",), Retry("421 Later")),
        ((b"220 hi\r\n",), Retry(CUT_OFF)),
        ((b"HTTP/1.1 400 Bad Request\r\n",), Retry("an answer that makes no sense to hello")),
        ((b"220 hi\r\n", OK, OK), Retry(CUT_OFF)),
        ((b"220 hi\r\n", OK, b"250-" + b"x" * 9000 + b"\r\n"), Retry("an answer that makes no sense to mail")),
    ],
)  # fmt: skip
def test_what_breaks_before_the_last_byte_has_gone_left_nothing(
    answers: tuple[bytes, ...], outcome: Outcome
) -> None:
    with answering(speaks(*answers)) as port:
        assert send(f"smtp://localhost:{port}") == outcome


def test_a_port_where_nobody_is() -> None:
    assert send(f"smtp://127.0.0.1:{free_port()}") == Retry("could not connect")


def test_a_server_that_hangs_up_on_the_data_may_have_it() -> None:
    with MailServer(cut=1) as server:
        carrier = Smtp()
        assert send(server.url(), carrier=carrier) == Unclear(CUT_OFF)
        assert send(server.url(), carrier=carrier) == SENT
    assert len(server.taken) == 2
    assert len({taken.mail["Message-ID"] for taken in server.taken}) == 1


def test_a_silent_server_is_waited_for_no_longer_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialogue, "READ_S", 0.1)
    release = threading.Event()
    with answering(lambda _: bool(release.wait(5)) and None) as port:
        assert send(f"smtp://localhost:{port}") == Retry(NO_ANSWER)
        release.set()


def test_a_server_that_dribbles_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(conn: socket.socket) -> None:
        conn.sendall(b"220-")
        while True:
            conn.sendall(b"x")
            time.sleep(0.05)

    monkeypatch.setattr(timeouts, "WHOLE_S", 0.3)
    with answering(serve) as port:
        assert send(f"smtp://localhost:{port}") == Retry(NO_ANSWER)


def test_a_file_that_is_gone_or_shorter_leaves_nothing_there() -> None:
    def gone() -> io.BytesIO:
        raise FileNotFoundError(2, "No such file")

    file = File("a.txt", "text/plain", 5000)
    with MailServer() as server:
        for opened in (gone, lambda: io.BytesIO(b"x" * 4999)):
            out = Outbound(EVA, "Hi", "KEY-0", files=(replace(file, open=opened),))
            assert send(server.url(), out) == Retry("a file of it cannot be read")
    assert not server.taken


# -- connections


def outs(count: int) -> list[Outbound]:
    return [Outbound(f"eva{n}@example.net", f"Hi {n}", f"KEY-{n}") for n in range(count)]


def test_many_mails_need_few_connections(trusted: Path, long: bool) -> None:
    count, threads = (1_000, 32) if long else (100, 8)
    with MailServer(tls_of(trusted), login=True) as server:
        carrier, url = Smtp(), server.url()
        with ThreadPoolExecutor(threads) as pool:
            outcomes = list(pool.map(lambda out: send(url, out, carrier), outs(count)))
    assert outcomes == [Sent(f"KEY-{n}@example.org") for n in range(count)]
    assert len({taken.mail["Message-ID"] for taken in server.taken}) == len(server.taken) == count
    assert len(server.connections) <= threads + count // MAILS


def test_a_kept_connection_that_the_server_closed_costs_no_try() -> None:
    with MailServer(hangs_up_after=1) as server:
        carrier = Smtp()
        for out in outs(3):
            assert isinstance(send(server.url(), out, carrier), Sent)
            time.sleep(0.03)
    assert (len(server.taken), len(server.connections)) == (3, 3)


def test_a_kept_connection_that_breaks_at_the_next_letter_is_replaced() -> None:
    letter = (OK, OK, b"354 go\r\n")

    def serve(conn: socket.socket) -> None:
        lines = conn.makefile("rb")
        conn.sendall(b"220 hi\r\n")
        lines.readline()
        for answer in (OK, *letter):
            conn.sendall(answer)
            line = lines.readline()
        while line != b".\r\n":
            line = lines.readline()
        conn.sendall(OK)
        ends.append(lines.readline())  # hangs up on the next letter's MAIL

    ends: list[bytes] = []
    with answering(serve) as port:
        carrier = Smtp()
        for out in outs(3):
            assert isinstance(send(f"smtp://localhost:{port}", out, carrier), Sent)
    assert [end[:4] for end in ends[:2]] == [b"MAIL", b"MAIL"]


def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp, "KEPT_S", 0.1)
    monkeypatch.setattr(smtp, "LOOK_S", 0.01)
    carrier = Smtp()
    with MailServer() as server:
        assert isinstance(send(server.url(), carrier=carrier), Sent)
        assert carrier.open_connections() == 1
        wait_until(lambda: carrier.open_connections() == 0)
        assert isinstance(send(server.url(), carrier=carrier), Sent)
    assert len(server.connections) == 2


def test_another_login_has_connections_of_its_own(trusted: Path) -> None:
    with MailServer(tls_of(trusted), login=True) as server:
        carrier = Smtp()
        assert isinstance(send(server.url(), carrier=carrier), Sent)
        outcome = send(server.url(login="shop%40example.org:wrong@"), carrier=carrier)
        assert isinstance(outcome, Retry)
        assert outcome.refused


def test_what_it_shows_holds_no_password(trusted: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with MailServer(tls_of(trusted), login=True, says={EVA: "550 planted-pässword?"}) as server:
        mail = adapter(server.url())
        letter = mail.request(Outbound(EVA, "words of mine", "KEY-0"))
        carrier = Errands()
        reply = carrier.carry(letter)
        assert isinstance(reply, Reply)
        shown = repr([mail, letter, mail.whoami(), reply, mail.read(reply)])
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("postrider")]
    assert "planted" not in shown + " ".join(ours)
    assert "words of mine" not in shown


# -- through the whole service


@pytest.fixture
def env(env: dict[str, str], mailserver: MailServer) -> dict[str, str]:
    return env | {
        "SMTP_URL": mailserver.url(),
        "MAIL_FROM": "Shop <shop@example.org>, News <news@example.org>",
    }


def deliver(service: Service, new: NewMessage) -> str:
    message = service.accept(new)[0].id
    service.sender.deliver(f"{message}-0", Blocking(service.keep_note))
    return f"{message}-0"


@pytest.mark.parametrize("by_stock", [True, False])
def test_who_is_suppressed_gets_no_copy_and_is_not_named(
    service: Service, mailserver: MailServer, *, by_stock: bool
) -> None:
    service.suppress("mail", "zoe@example.net")
    service.suppress("mail", "bo@example.net")
    heading = Heading(
        cc=("Zoe <zoe@example.net>", "Ana <ana@example.net>"),
        bcc=("bo@example.net", "cy@example.net"),
    )
    new = NewMessage("Hi", (Recipient(EVA, "mail"),), heading=heading)
    if by_stock:
        deliver(service, new)
    else:
        service.accept(new)
        turn(service)
    (taken,) = mailserver.taken
    assert sorted(taken.recipients) == ["ana@example.net", "cy@example.net", EVA]
    assert taken.mail["Cc"] == "Ana <ana@example.net>"


def test_copies_are_looked_up_at_once_and_only_where_there_are_any(
    service: Service, client: redis.Redis
) -> None:
    def asked() -> int:
        return int(client.info("commandstats").get("cmdstat_hmget", {}).get("calls", 0))

    def claimed(heading: Heading | None) -> int:
        for n in range(20):
            to = Recipient(f"eva{n}@example.net", "mail")
            service.accept(NewMessage("Hi", (to,), heading=heading))
        claims = list(service.sender.claim("test", 100).claims)
        assert len(claims) == 20
        before = asked()
        assert service.sender.suppressions.spared(claims) == claims
        return asked() - before

    assert claimed(Heading(subject="Hi")) == 0
    assert claimed(Heading(cc=("ana@example.net",))) == 1


def test_a_message_with_files_goes_by_a_stock_worker(
    service: Service, mailserver: MailServer
) -> None:
    picture, paper = (
        keep(service, PNG, "a.png"),
        keep(service, b"%PDF-1.4 " + b"x" * 99_999, "b.pdf"),
    )
    new = NewMessage(
        "# Hello\n\n![picture](cid:a.png)",
        (Recipient(EVA, "mail"),),
        format="markdown",
        heading=Heading(sender="news", reply_to="help@example.org", bcc=("zoe@example.net",)),
        attachments=(Attachment(picture.file.id), Attachment(paper.file.id)),
    )
    mailserver.says["zoe@example.net"] = "550 No Zoe"
    id_ = deliver(service, new)
    found = service.delivery(id_, None)
    assert found.delivery.state is State.SENT
    assert found.last
    assert found.last.provider_id == f"{id_}@example.org"
    assert found.last.reason == "not taken: bcc zoe@example.net: 550 No Zoe"
    mail = mailserver.taken[0].mail
    assert (mail["From"], mail["Reply-To"]) == ("News <news@example.org>", "help@example.org")
    assert mail["Subject"] == "Hello"
    by_name = {part.get_filename(): part for part in mail.walk() if part.get_filename()}
    digests = {
        name: hashlib.sha256(part.get_payload(decode=True)).hexdigest()
        for name, part in by_name.items()
    }
    assert digests == {"a.png": picture.sha256, "b.pdf": paper.sha256}


def test_a_real_worker_sends_to_many(
    api: Api, start: Start, client: redis.Redis, mailserver: MailServer
) -> None:
    start("postrider", "worker")
    to = [{"uuid": f"eva{n}@example.net", "service": "mail"} for n in range(50)]
    mailserver.says["eva7@example.net"] = "550 5.1.1 No such user"
    mail = {"subject": "Ünsere Nachrichten", "unsubscribe_url": "https://example.org/u?{uuid}&{id}"}
    answer = api.post("/api/v1/messages", json={"body": "Hi", "recipients": to, "mail": mail})
    assert answer.status_code == 201, answer.text
    id_ = answer.json()["id"]
    ended = {"sent": 49, "failed": 1}
    wait_until(lambda: api.get(f"/api/v1/messages/{id_}").json()["counts"] == ended, 20)
    sent = {taken.recipients[0]: taken.mail for taken in mailserver.taken}
    assert len(sent) == len(mailserver.taken) == 49
    assert len(mailserver.connections) <= 32
    mail_3 = sent["eva3@example.net"]
    assert mail_3["Subject"] == "Ünsere Nachrichten"
    assert mail_3["List-Unsubscribe"] == f"<https://example.org/u?eva3@example.net&{id_}-3>"
    assert mail_3["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    dead = api.get("/api/v1/suppressions", params={"service": "mail"}).json()["suppressions"]
    assert [entry["uuid"] for entry in dead] == ["eva7@example.net"]


def test_a_cut_off_mail_is_sent_again_under_the_same_id(
    service: Service, mailserver: MailServer, client: redis.Redis, start: Start
) -> None:
    mailserver.cut = 1
    message = service.accept(NewMessage("Hi", (Recipient(EVA, "mail"),)))[0].id
    start("postrider", "worker")
    wait_until(lambda: service.delivery(f"{message}-0", None).delivery.state is State.SENT, 20)
    assert [t.mail["Message-ID"] for t in mailserver.taken] == [f"<{message}-0@example.org>"] * 2


REFUSED = {
    "mail.subject": {"mail": {"subject": "Hi\r\nBcc: all@example.org"}},
    "mail.from": {"mail": {"from": "ceo@example.org"}},
    "mail.reply_to": {"mail": {"reply_to": "a@example.org\nX: y"}},
    "mail.cc[1]": {"mail": {"cc": ["a@example.org", "b@example.org\r\nX: y"]}},
    "mail.bcc[0]": {"mail": {"bcc": ["nobody"]}},
    "mail.unsubscribe_url": {"mail": {"unsubscribe_url": "https://x.org/>\r\nX: y"}},
    "recipients[0].uuid": {"recipients": [{"uuid": "eva@x.org\r\nDATA", "service": "mail"}]},
    "body": {"body": "![x](cid:none.png)", "format": "markdown"},
    "format": {"format": "markdown", "recipients": [{"uuid": "ana", "service": "sandbox"}]},
    "mail": {"mail": {"subject": "x"}, "recipients": [{"uuid": "ana", "service": "sandbox"}]},
}  # fmt: skip


@pytest.mark.parametrize("field", REFUSED)
def test_what_could_do_harm_is_refused_at_once_and_named(api: Api, field: str) -> None:
    asked = {"body": "Hi", "recipients": [{"uuid": EVA, "service": "mail"}]} | REFUSED[field]
    answer = api.post("/api/v1/messages", json=asked)
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field], answer.text


def test_a_mail_is_as_large_as_it_is_in_base64(
    env: dict[str, str], service: Service, mailserver: MailServer
) -> None:
    mail = service.accounts["mail", "default"]
    assert isinstance(mail, Mail)
    file = File("a.bin", "application/octet-stream", 100_000)
    for most, fits in ((140_000, False), (145_000, True)):
        wrong = replace(mail, max_bytes=most).check_letter(Heading(), "Hi", "", [file])
        assert (wrong is None) is fits
        if wrong:
            assert wrong[0] == "attachments"
            assert "140000 (MAIL_MAX_BYTES)" in wrong[1]


def test_a_repeated_mail_keeps_its_heading(service: Service) -> None:
    body = {
        "body": "*Hi*",
        "format": "markdown",
        "mail": {"subject": "Weekly", "from": "news@example.org", "cc": ["ana@example.org"]},
        "recipients": [{"uuid": EVA, "service": "mail"}],
    }
    new = draft(body, "", service.store.now())
    heading = Heading("Weekly", "news@example.org", cc=("ana@example.org",))
    assert (new.format, new.heading) == ("markdown", heading)
    service.checks.message(new)


def test_what_was_asked_of_a_mail_is_shown(api: Api) -> None:
    eva, ben = ({"uuid": to, "service": "mail"} for to in (EVA, "ben@example.net"))
    asked = {
        "subject": "Weekly",
        "from": "news@example.org",
        "reply_to": "help@example.org",
        "cc": ["ana@example.org"],
        "bcc": [],
        "unsubscribe_url": "https://example.org/u?{uuid}",
    }

    def shown(**asked_: object) -> tuple[object, object]:
        answer = api.post("/api/v1/messages", json={"body": "*Hi*", **asked_})
        assert answer.status_code == 201, answer.text
        kept = api.get(f"/api/v1/messages/{answer.json()['id']}").json()
        assert (kept["format"], kept["mail"]) == (answer.json()["format"], answer.json()["mail"])
        return kept["format"], kept["mail"]

    assert shown(recipients=[eva], format="markdown", mail=asked) == ("markdown", asked)
    again = {**dict.fromkeys(asked, ""), "cc": [], "bcc": [], "subject": "Hi"}
    assert shown(recipients=[eva, ben], mail={"subject": "Hi"}) == ("plain", again)
    # That it goes to several is known of it, and was not asked for.
    assert shown(recipients=[eva, ben]) == ("plain", None)
