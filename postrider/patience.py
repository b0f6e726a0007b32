"""How long the API waits for a request: slow clients must not keep its threads from everybody else.

gunicorn's threaded worker has no limit of its own once the first byte is there (docs.gunicorn.org: design, "gthread").
"""

import functools
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker  # type: ignore[import-untyped]

THREADS = 256
"""Of one process; made when they are needed. Most of them only ever wait for slow clients."""
UPLOADS = THREADS // 2
"""How many of them may read files at the same time: an upload may go on for hours, and others want to be served."""
REQUEST_S = 30.0
"""For all of a request, its body included, to be sent; or, where files are uploaded, for each part of 64 KiB."""
LOOK_S = 1.0
"""Seconds between two looks at who is over it."""
STEP_S, MOST_STEPS = 0.0005, 10
"""By how much a process lets others go first, for each connection that it has; at most."""
SKIPPED = 32 << 10
"""Bytes of a body that nobody wants which are read past, so that the connection goes on; gunicorn gives up at 64 KiB."""
PART_S = 2.0
"""How long a client that is hung up on may go on sending, and has its answer all the same."""
LINGER_S = 0.05
"""How long the thread that answered waits for the next request of its client, before the loop that waits for all of them does."""


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """Reads no longer than `REQUEST_S` from a client; the answer may take its time.

    Whoever reads an upload says with `wsgi.input.renew()` that enough of it has come to wait as long again.
    """

    def init_process(self) -> None:
        """Starts the watch, then works until it is told to stop."""
        self._until: dict[TConn, float] = {}
        threading.Thread(target=self._watch, daemon=True, name="patience").start()
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """Takes a new connection, unless a process with fewer of them is faster.

        All processes wake up for each; and clients that keep their connections would stay with whoever took them.
        """
        if self.cfg.workers > 1:
            time.sleep(min(self.nr_conns, MOST_STEPS) * STEP_S)
        super().accept(listener)

    def handle(self, conn: TConn) -> Any:
        """Reads and answers requests, as long as the next one follows at once; in a thread of the pool.

        To go through the loop between any two of them costs a third of the processor's time for a short request: each is handed
        over twice, from thread to thread.
        """
        while True:
            self._until[conn] = time.monotonic() + REQUEST_S
            try:
                kept = super().handle(conn)
            finally:
                del self._until[conn]
            if not kept:
                _part(conn.sock)
            if kept is not True or not self._goes_on(conn):
                return kept

    def _goes_on(self, conn: TConn) -> bool:
        """Whether another request comes at once. Nobody waits for the thread meanwhile: there is one for each connection."""
        if not self.alive or self.nr_conns > THREADS or conn.parser.unreader.buf.getvalue():
            return False  # the loop knows what to do
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(LINGER_S * 1000))

    def handle_request(self, req: Any, conn: TConn) -> Any:
        """Answers one request, whose body can be given more time."""
        if req.body is not None:
            req.body.renew = functools.partial(self._renew, conn)
        req.should_close = functools.partial(_ends, req, req.should_close)
        return super().handle_request(req, conn)

    def _renew(self, conn: TConn) -> None:
        if conn in self._until:
            self._until[conn] = time.monotonic() + REQUEST_S

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_S)
            now = time.monotonic()
            for conn, until in list(self._until.items()):
                if until < now:
                    # Whoever reads from it meets the end of what was sent; writing is not touched. Not conn.sock.shutdown():
                    # under TLS that would take the keys from the thread that uses them.
                    with suppress(OSError):
                        socket.socket.shutdown(conn.sock, socket.SHUT_RD)


def _part(sock: socket.socket) -> None:
    """Waits a little for the client to hang up, too, so that it has the whole answer. gunicorn does so in the loop that serves
    everybody; a socket that is shut both ways it closes at once."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        give_up_at, left = time.monotonic() + PART_S, 2 * SKIPPED
        while left > 0 and (wait_s := give_up_at - time.monotonic()) > 0:
            sock.settimeout(wait_s)
            if not (read := len(sock.recv(4096))):
                break
            left -= read
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RD)


def _ends(req: Any, asked: Callable[[], bool]) -> bool:
    """Whether the connection ends with the answer to `req`, and the answer is to say so: a client that is not told sends its next
    request in vain."""
    return asked() or getattr(getattr(req.body, "reader", None), "length", 0) > SKIPPED
