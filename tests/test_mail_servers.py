"""Mail as others read it: maildev's own parser, and postfix's smtp-sink, slow and broken."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from messengers.base import File, Heading, NoReply, Outbound, Rejected, Retry, Sent
from messengers.mail import Mail
from postrider.selftest.fleet import free_port
from postrider.smtp import Smtp
from tests.conftest import wait_until
from tests.test_files import PNG

CACHE = Path(tempfile.gettempdir()) / "postrider-maildev-2"


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def carry(port: int, out: Outbound) -> object:
    mail = Mail.from_env(
        {"SMTP_URL": f"smtp://127.0.0.1:{port}", "MAIL_FROM": "Blüten <shop@bücher.example>"}
    )
    assert mail
    reply = Smtp().carry(mail.request(out))
    return reply if isinstance(reply, NoReply) else mail.read(reply)


@pytest.fixture(scope="module")
def maildev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """maildev: the port of its SMTP server, the URL of what it has read."""
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("npm is missing: maildev cannot read our mail")
    program = CACHE / "node_modules" / ".bin" / "maildev"
    if not program.exists():
        install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(CACHE), "maildev@2"]
        CACHE.mkdir(exist_ok=True)
        done = subprocess.run(install, capture_output=True, timeout=180, check=False)
        if done.returncode:
            pytest.skip("npm cannot install maildev: it cannot read our mail")
    smtp, web = free_port(), free_port()
    command = [str(program), "-s", str(smtp), "-w", str(web), "--ip", "127.0.0.1", "--silent"]
    command += ["--mail-directory", str(tmp_path_factory.mktemp("maildev"))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: listens(smtp) and listens(web), 20, "maildev")
        yield smtp, f"http://127.0.0.1:{web}"
        process.terminate()


def test_maildev_reads_what_was_sent(maildev: tuple[int, str], tmp_path: Path) -> None:
    port, url = maildev
    (tmp_path / "a").write_bytes(PNG)
    paper = os.urandom(200_000)
    (tmp_path / "b").write_bytes(paper)
    files = (
        File("Bild ü.png", "image/png", len(PNG), open=lambda: (tmp_path / "a").open("rb")),
        File(
            "Rechnung, März.pdf",
            "application/pdf",
            len(paper),
            open=lambda: (tmp_path / "b").open("rb"),
        ),
    )
    text = "# Grüße 👋\n\n.dot\n\n![Bild](<cid:Bild ü.png>) **fett** <script>x</script>\n"
    heading = Heading(
        subject="Привет, 世界 👋 " + "ü" * 100,
        cc=("Ana Müller <ana@example.net>",),
        reply_to="help@example.org",
        unsubscribe_url="https://example.org/" + "x" * 300,
    )
    out = Outbound("eva@bücher.example", text, "KEY-0", files=files, heading=heading, markdown=True)
    assert carry(port, out) == Sent("KEY-0@xn--bcher-kva.example")
    wait_until(lambda: requests.get(f"{url}/email", timeout=5).json(), what="the mail")
    (mail,) = requests.get(f"{url}/email", timeout=5).json()
    assert mail["subject"] == heading.subject
    assert mail["from"] == [{"address": "shop@bücher.example", "name": "Blüten"}] or (
        mail["from"] == [{"address": "shop@xn--bcher-kva.example", "name": "Blüten"}]
    )
    assert mail["cc"] == [{"address": "ana@example.net", "name": "Ana Müller"}]
    assert mail["text"].splitlines() == text.splitlines()
    assert "<h1>Grüße 👋</h1>" in mail["html"]
    assert "<script>" not in mail["html"]
    assert mail["headers"]["list-unsubscribe"] == f"<{heading.unsubscribe_url}>"
    picture, attached = mail["attachments"]
    assert (picture["fileName"], picture["contentId"]) == (
        "Bild ü.png",
        "0.KEY-0@xn--bcher-kva.example",
    )
    assert attached["fileName"] == "Rechnung, März.pdf"
    for name, content in ((picture, PNG), (attached, paper)):
        got = requests.get(
            f"{url}/email/{mail['id']}/attachment/{name['generatedFileName']}", timeout=5
        )
        assert got.content == content


@pytest.mark.parametrize(
    ("flags", "outcome"),
    [
        ((), Sent("KEY-0@xn--bcher-kva.example")),
        (("-w", "1"), Sent("KEY-0@xn--bcher-kva.example")),
        (("-r", "rcpt"), Retry("450 4.3.0 Error: command failed")),
        (("-f", "mail"), Rejected("500 5.3.0 Error: command failed")),
        (("-q", "data"), NoReply(False, "the connection broke before an answer came")),
        (("-q", "."), NoReply(True, "the connection broke before an answer came")),
    ],
)
def test_smtp_sink_slow_and_broken(flags: tuple[str, ...], outcome: object) -> None:
    program = shutil.which("smtp-sink") or os.environ.get("SMTP_SINK")
    if not program:
        pytest.skip("smtp-sink (Debian: postfix) is missing")
    port = free_port()
    command = [
        program,
        *(("-u", "nobody") if os.geteuid() == 0 else ()),
        *flags,
        f"127.0.0.1:{port}",
        "10",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: listens(port), what="smtp-sink")
        try:
            assert carry(port, Outbound("eva@example.net", "Hi", "KEY-0")) == outcome
        finally:
            process.terminate()
