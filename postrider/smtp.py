"""Carries letters to mail servers by SMTP, over connections that are kept for the next letter."""

import functools
import ssl
import threading
import time
from contextlib import suppress

import certifi

from messengers.base import Errand, NoReply, Reply
from messengers.letters import Letter, Login, Server
from postrider.dialogue import CUT_OFF, Broken, Connection, Said
from postrider.timeouts import within_s

KEPT_S = 15.0
"""Seconds for which an idle connection is kept: shorter than servers close them after."""
KEPT_CONNECTIONS = 32
"""For each login."""
LOOK_S = 0.25


class Smtp:
    """What kept connections carry. For any number of threads; one of its own closes what is idle or takes too long."""

    def __init__(self, *, tls_verify: bool = True) -> None:
        self._tls_verify = tls_verify
        self._lock = threading.Lock()
        self._idle: dict[Server, list[Connection]] = {}
        self._busy: set[Connection] = set()
        self._looking = False

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        """Made when it is needed: reading all certificates takes its time. SSL_CERT_FILE may name further ones."""
        tls = ssl.create_default_context()
        tls.load_verify_locations(certifi.where())
        if not self._tls_verify:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        return tls

    def carry(self, errand: Errand) -> Reply | NoReply:
        """What the server said last, with its code as the status and `stage`, `message-id` and `refused` as headers."""
        if not isinstance(errand, Letter | Login):
            raise TypeError(f"no letter: {type(errand).__name__}")
        files = errand.files if isinstance(errand, Letter) else ()
        give_up_at = time.monotonic() + within_s(sum(file.size for file in files))
        kept = self._kept(errand.server, give_up_at) if isinstance(errand, Letter) else None
        if kept:
            with suppress(Broken):  # the server closes what is idle when it likes: try a new one
                return self._by(kept, errand, again=True)
        try:
            return self._by(self._opened(errand.server, give_up_at), errand)
        except Broken as broken:
            return broken.reply
        except Said as no:
            return no.reply

    def open_connections(self) -> int:
        """How many there are."""
        with self._lock:
            return len(self._busy) + sum(map(len, self._idle.values()))

    def _by(
        self, connection: "Connection", errand: Letter | Login, *, again: bool = False
    ) -> Reply | NoReply:
        """What comes of it by this connection. `again`: raises Broken when it may go by another."""
        try:
            reply = connection.asked() if isinstance(errand, Login) else connection.send(errand)
        except Said as no:
            if again and no.reply.status == 421:  # its way to say that it closes an idle one
                self._drop(connection)
                raise Broken(CUT_OFF) from None
            reply = no.reply
        except Broken as broken:
            self._drop(connection)
            if again and not broken.reply.left:
                raise
            return broken.reply
        except BaseException:
            self._drop(connection)
            raise
        self._keep(connection)
        return reply

    def _opened(self, server: Server, give_up_at: float) -> "Connection":
        connection = Connection(server, lambda: self._tls, give_up_at)
        with self._lock:
            self._busy.add(connection)
            self._look()
        try:
            connection.open()
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def _kept(self, server: Server, give_up_at: float) -> "Connection | None":
        """One that is idle and still open."""
        while True:
            with self._lock:
                idle = self._idle.get(server)
                if not idle:
                    return None
                connection = idle.pop()
                connection.give_up_at = give_up_at
                self._busy.add(connection)
            if connection.is_fresh():
                return connection
            self._drop(connection)

    def _keep(self, connection: "Connection") -> None:
        with self._lock:
            self._busy.discard(connection)
            idle = self._idle.setdefault(connection.server, [])
            if connection.may_go_on() and len(idle) < KEPT_CONNECTIONS:
                connection.idle_since = time.monotonic()
                idle.append(connection)
                return
        connection.leave()

    def _drop(self, connection: "Connection") -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def _look(self) -> None:
        """Starts the thread that closes what is idle or takes too long, if there is none; under the lock."""
        if not self._looking:
            self._looking = True
            threading.Thread(target=self._close_in_time, daemon=True, name="smtp").start()

    def _close_in_time(self) -> None:
        while True:
            time.sleep(LOOK_S)
            now = time.monotonic()
            with self._lock:
                for connection in self._busy:
                    if now > connection.give_up_at:
                        connection.interrupt()
                over = [
                    (idle, connection)
                    for idle in self._idle.values()
                    for connection in idle
                    if now - connection.idle_since > KEPT_S
                ]
                for idle, connection in over:
                    idle.remove(connection)
                self._idle = {server: idle for server, idle in self._idle.items() if idle}
                if not self._idle and not self._busy:
                    self._looking = False
                still = self._looking
            for _, connection in over:
                connection.leave()
            if not still:
                return
