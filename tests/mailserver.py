"""A mail server on loopback that behaves as a test wants it to."""

import asyncio
import email
import email.policy
import ssl
import threading
import warnings
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

LOGIN = (b"shop@example.org", "planted-pässword")
URL_LOGIN = "shop%40example.org:planted-p%C3%A4ssword@"


@dataclass
class Taken:
    """A mail that was taken."""

    sender: str
    recipients: list[str]
    raw: bytes
    utf8: bool
    secure: bool

    @property
    def mail(self) -> EmailMessage:
        found = email.message_from_bytes(self.raw, policy=email.policy.default)
        assert isinstance(found, EmailMessage)
        assert not found.defects
        return found


class _Protocol(SMTP):
    async def smtp_DATA(self, arg: str) -> None:
        if no := self.event_handler.says.get("354"):
            await self.push(no)  # and keeps the transaction, as some servers do
            return
        await super().smtp_DATA(arg)


@dataclass
class MailServer:
    """aiosmtpd. `says`: address, or `MAIL`, `DATA` or `354` -> what it answers to it, or instead of that; `cut`: it hangs up when it has the data."""

    tls: ssl.SSLContext | None = None
    login: bool = False
    implicit: bool = False
    exclude: tuple[str, ...] = ()
    utf8: bool = True
    says: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    hangs_up_after: int = 0
    taken: list[Taken] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    logins: list[str] = field(default_factory=list)
    protocols: list[SMTP] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(
            self.loop.create_server(
                self._protocol, "127.0.0.1", 0, ssl=self.tls if self.implicit else None
            )
        )
        self.port: int = self.server.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    def _protocol(self) -> SMTP:
        # It finds a login without STARTTLS worth a warning, also below TLS.
        warnings.simplefilter("ignore", UserWarning)
        protocol = _Protocol(
            self,
            loop=self.loop,
            hostname="localhost",
            tls_context=None if self.implicit else self.tls,
            enable_SMTPUTF8=self.utf8,
            authenticator=self.authenticate if self.login else None,
            auth_required=self.login,
            auth_require_tls=self.tls is not None and not self.implicit,
            auth_exclude_mechanism=self.exclude,
        )
        self.protocols.append(protocol)
        return protocol

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    async def _end(self) -> None:
        self.server.close()
        for protocol in self.protocols:
            if protocol.transport:
                protocol.transport.abort()
        here = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not here]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def url(self, scheme: str = "smtp", query: str = "", *, login: str | None = None) -> str:
        login = login if login is not None else URL_LOGIN if self.login else ""
        return f"{scheme}://{login}localhost:{self.port}{query}"

    def authenticate(
        self, _s: Any, _session: Any, _e: Any, mechanism: str, said: Any
    ) -> AuthResult:
        self.logins.append(mechanism)
        assert isinstance(said, LoginPassword)
        right = (said.login, said.password.decode()) == LOGIN
        return AuthResult(success=right, handled=False)

    async def handle_EHLO(
        self, _s: SMTP, session: Session, _e: Envelope, host: str, said: list[str]
    ) -> list[str]:
        session.host_name = host
        self.connections.add(session.peer)
        return said

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if (no := self.says.get("MAIL")) is not None:
            return no
        envelope.mail_from = address
        envelope.mail_options += options
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if no := self.says.get(address):
            return no
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if no := self.says.get("DATA"):
            return no
        assert isinstance(envelope.content, bytes)
        assert envelope.mail_from
        secure = session.ssl is not None or self.implicit
        self.taken.append(
            Taken(
                envelope.mail_from,
                [*envelope.rcpt_tos],
                envelope.content,
                envelope.smtp_utf8,
                secure,
            )
        )
        if len(self.taken) <= self.cut or (
            self.hangs_up_after and len(self.taken) % self.hangs_up_after == 0
        ):
            assert server.transport
            if len(self.taken) <= self.cut:
                server.transport.abort()
            else:
                server.loop.call_later(0.02, server.transport.close)
        return "250 2.0.0 queued as ABC123"
