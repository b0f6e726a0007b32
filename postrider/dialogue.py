"""One connection to a mail server: opened, secured, logged in, then a letter after the other.

With the standard library's smtplib, a command at a time: its own `sendmail` loses what the server answers to the letter, and
whether that had gone when the connection broke. What breaks before a letter's last byte has gone left nothing there.
"""

import base64
import hashlib
import hmac
import logging
import re
import select
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from messengers.base import NoReply, Reply
from messengers.letters import Letter, Mailbox, Server, size_of
from postrider.rendering import html_of
from postrider.timeouts import CONNECT_S, READ_S, WHOLE_S

AGE_S = 300.0
MAILS = 100
"""Letters that go over one connection: many servers refuse more."""
SAID_LIMIT = 2_000
REFUSED_TOLD = 5
CUT_OFF = "the connection broke before an answer came"
NO_ANSWER = "no answer in time"

log = logging.getLogger("postrider.smtp")


class Said(Exception):
    """The server says no; `stage`: to what."""

    def __init__(self, stage: str, code: int, said: bytes) -> None:
        super().__init__(stage, code)
        self.reply = Reply(code, said[:SAID_LIMIT], {"stage": stage})


class Broken(Exception):
    """There is no answer. `left`: whether the letter may have arrived."""

    def __init__(self, reason: str, *, left: bool = False) -> None:
        super().__init__(reason)
        self.reply = NoReply(left, reason)


class Connection:
    """One connection to a server, logged in."""

    def __init__(
        self, server: Server, tls: Callable[[], ssl.SSLContext], give_up_at: float
    ) -> None:
        self.server = server
        self.give_up_at = give_up_at
        self.opened_at = self.idle_since = time.monotonic()
        self._tls = tls
        self._mails = 0
        self._smtp: smtplib.SMTP = smtplib.SMTP(local_hostname="localhost")
        self._sound = True

    @property
    def _sock(self) -> socket.socket:
        if self._smtp.sock is None:  # closed, as an answer made no sense
            raise Broken(CUT_OFF)
        return self._smtp.sock

    # -- opening

    def open(self) -> None:
        """Connects and logs in. Raises Said, Broken."""
        smtp, server = self._smtp, self.server
        try:
            smtp.sock = socket.create_connection(
                (server.host, server.port), self._patience(CONNECT_S)
            )
        except OSError as error:
            late = isinstance(error, TimeoutError)
            raise Broken("could not connect in time" if late else "could not connect") from None
        smtp.local_hostname = _our_name(smtp.sock)
        smtp.command_encoding = (
            "utf-8"  # an address may need it; whether the server takes it is asked before
        )
        if server.tls == "implicit":
            self._secure()
        code, said = self._do("hello", smtp.getreply)
        if code != 220:
            raise Said("hello", code, said)
        self._hello()
        if server.tls == "required" or (server.tls == "offered" and smtp.has_extn("starttls")):
            self._start_tls()
        if server.user:
            self._log_in()

    def _secure(self) -> None:
        try:
            self._sock.settimeout(self._patience(READ_S))
            self._smtp.sock = self._tls().wrap_socket(self._sock, server_hostname=self.server.host)
        except ssl.SSLCertVerificationError:
            raise Broken("its TLS certificate was not accepted") from None
        except (OSError, ValueError):
            raise Broken("no TLS could be agreed on") from None
        self._smtp.file = None

    def _start_tls(self) -> None:
        smtp = self._smtp
        if not smtp.has_extn("starttls"):
            raise Said("hello", 530, b"the server offers no STARTTLS")
        self._command("hello", "STARTTLS", wants=220)
        self._secure()
        # What it said before in clear counts for nothing. https://www.rfc-editor.org/rfc/rfc3207#section-4.2
        smtp.helo_resp, smtp.ehlo_resp, smtp.esmtp_features, smtp.does_esmtp = None, None, {}, False
        self._hello()

    def _hello(self) -> None:
        smtp = self._smtp
        code, said = self._do("hello", smtp.ehlo)
        if code in {500, 502}:
            code, said = self._do("hello", smtp.helo)
        if code != 250:
            raise Said("hello", code, said)

    def _log_in(self) -> None:
        """https://www.rfc-editor.org/rfc/rfc4954#section-4 - by smtplib only ASCII could log in"""
        user, password = self.server.user.encode(), self.server.password.encode()
        offered = self._smtp.esmtp_features.get("auth", "").upper().split()
        if "PLAIN" in offered:
            both = b"\0" + user + b"\0" + password
            self._command("login", f"AUTH PLAIN {_b64(both)}", wants=235)
        elif "LOGIN" in offered:
            self._command("login", f"AUTH LOGIN {_b64(user)}", wants=334)
            self._command("login", _b64(password), wants=235)
        elif "CRAM-MD5" in offered:
            asked = self._command("login", "AUTH CRAM-MD5", wants=334)
            with suppress(ValueError):
                asked = base64.b64decode(asked)
            digest = hmac.new(password, asked, hashlib.md5).hexdigest()
            self._command("login", _b64(user + b" " + digest.encode()), wants=235)
        else:
            raise Said("login", 535, b"the server offers no login that we know")

    # -- using

    def asked(self) -> Reply:
        """That it is there and lets us in."""
        said = self._command("login", "NOOP", wants=250)
        return Reply(250, said[:SAID_LIMIT], {"stage": "login"})

    def send(self, letter: Letter) -> Reply:
        """What the server says to the letter. Raises Said, Broken."""
        self._mails += 1
        self._sound = True
        try:
            return self._send(letter)
        except Said as no:
            # Else the next letter would find half of this one there: some servers keep it even after a no to DATA.
            self._sound = 400 <= no.reply.status <= 599 and no.reply.status != 421
            if self._sound:
                try:
                    self._command("rset", "RSET", wants=250)
                except (Said, Broken):
                    self._sound = False
            raise

    def _send(self, letter: Letter) -> Reply:
        html = html_of(letter.text) if letter.markdown else ""
        options = []
        if self._smtp.has_extn("size"):
            options.append(f"SIZE={size_of(letter.text, html, letter.files)}")
        if letter.international:
            if not self._smtp.has_extn("smtputf8"):
                raise Said(
                    "mail", 553, b"the server takes no address with letters beyond ASCII (SMTPUTF8)"
                )
            options.append("SMTPUTF8")
        # What cannot be made is found out while nothing has left.
        chunks = letter.chunks(html, datetime.now(UTC))
        first = self._next(chunks)
        line = f"MAIL FROM:<{letter.sender.wire}>"
        self._command("mail", " ".join((line, *options)), wants=250)
        refused = [*self._refused(letter.recipients)]
        self._command("data", "DATA", wants=354)
        code, said = self._content(first, chunks)
        if not 200 <= code <= 299:
            raise Said("data", code, said)
        headers = {"stage": "data", "message-id": letter.id}
        if refused:
            headers["refused"] = _told(refused)
        return Reply(code, said[:SAID_LIMIT], headers)

    def _refused(self, recipients: Iterator[tuple[str, Mailbox]]) -> Iterator[str]:
        """Which copies the server does not take; raises Said when it does not take that to whom it is for."""
        for n, (what, box) in enumerate(recipients):
            try:
                # 251: it knows that they have moved. 252: it cannot tell.
                self._command("rcpt", f"RCPT TO:<{box.wire}>", wants=(250, 251, 252))
            except Said as no:
                if n == 0 or no.reply.status == 421:
                    raise
                yield f"{what} {box.address}: {no.reply.status} {no.reply.body.decode(errors='replace')}"

    def _content(self, chunk: bytes, further: Iterator[bytes]) -> tuple[int, bytes]:
        sock = self._sock
        while chunk:
            if chunk[:1] == b"." or b"\n." in chunk:  # a lone dot would end it
                chunk = re.sub(rb"(?m)^\.", b"..", chunk)
            try:
                sock.settimeout(self._patience(READ_S))
                sock.sendall(chunk)
            except OSError:
                raise Broken(CUT_OFF) from None
            chunk = self._next(further)
        # A server may look for viruses now: it gets all the time there is, which is asked for while nothing has left.
        sock.settimeout(self._patience())
        try:
            sock.sendall(b".\r\n")
            return self._smtp.getreply()
        except TimeoutError:
            raise Broken(NO_ANSWER, left=True) from None
        except smtplib.SMTPServerDisconnected as error:
            late = time.monotonic() >= self.give_up_at or "timed out" in str(error)
            raise Broken(NO_ANSWER if late else CUT_OFF, left=True) from None
        except (OSError, smtplib.SMTPException):
            raise Broken(CUT_OFF, left=True) from None

    def _next(self, chunks: Iterator[bytes]) -> bytes:
        """The next one that is not empty; b"" at the end."""
        try:
            return next(filter(None, chunks), b"")
        except OSError as error:
            log.error("a file cannot be read: %s", error.strerror or error)  # noqa: TRY400 - no trace needed
            raise Broken("a file of it cannot be read") from None
        except ValueError:
            log.exception("a mail cannot be made")
            raise Broken("it cannot be made into a mail") from None

    def _command(self, stage: str, line: str, *, wants: int | Sequence[int]) -> bytes:
        code, said = self._do(stage, lambda: self._smtp.docmd(line))
        if code not in ((wants,) if isinstance(wants, int) else wants):
            raise Said(stage, code, said)
        return said

    def _do(self, stage: str, step: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
        """What the server answers to one step, of which nothing is left when it breaks."""
        self._sock.settimeout(self._patience(READ_S))
        try:
            code, said = step()
        except smtplib.SMTPResponseException as error:
            raise Broken(f"an answer that makes no sense to {stage}") from error
        except smtplib.SMTPServerDisconnected as error:
            late = time.monotonic() >= self.give_up_at or "timed out" in str(error)
            raise Broken(NO_ANSWER if late else CUT_OFF) from None
        except TimeoutError:
            raise Broken(NO_ANSWER) from None
        except OSError:
            raise Broken(CUT_OFF) from None
        if not 200 <= code <= 599:
            raise Broken(f"an answer that makes no sense to {stage}")
        return code, said

    def _patience(self, most_s: float = WHOLE_S * 1000) -> float:
        """Seconds to wait for the next byte."""
        left_s = self.give_up_at - time.monotonic()
        if left_s <= 0:
            raise Broken(NO_ANSWER)
        return min(most_s, left_s)

    # -- ending

    def is_fresh(self) -> bool:
        """Whether the server has said nothing since: what it says unasked is goodbye."""
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLIN)
        except (OSError, ValueError, Broken):
            return False
        return not poll.poll(0)

    def may_go_on(self) -> bool:
        """Whether it is good for another letter."""
        return self._sound and self._mails < MAILS and time.monotonic() - self.opened_at < AGE_S

    def interrupt(self) -> None:
        """Ends whatever another thread waits for on it."""
        with suppress(OSError, Broken):
            # Not SSLSocket's own, which takes the TLS away below whoever is reading.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def leave(self) -> None:
        """Says goodbye, and waits for no answer."""
        with suppress(OSError, smtplib.SMTPException, Broken):
            self._sock.settimeout(1.0)
            self._smtp.putcmd("QUIT")
        self.close()

    def close(self) -> None:
        """Closes it."""
        with suppress(OSError):
            self._smtp.close()


def _our_name(sock: socket.socket) -> str:
    """What EHLO says: a full name, if this host has one, else its address. No question to a name server, which may hang."""
    name = socket.gethostname()
    if "." in name and re.fullmatch(r"[A-Za-z0-9.-]{3,253}", name):
        return name
    host = str(sock.getsockname()[0])
    return f"[IPv6:{host}]" if ":" in host else f"[{host}]"


def _b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _told(refused: Sequence[str]) -> str:
    more = f" (and {len(refused) - REFUSED_TOLD} more)" if len(refused) > REFUSED_TOLD else ""
    return "not taken: " + "; ".join(refused[:REFUSED_TOLD]) + more
