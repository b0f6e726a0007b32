"""How long the API waits for a request: slow clients must not keep its threads from everybody else.

gunicorn's threaded worker has no limit of its own once the first byte is there (docs.gunicorn.org: design, "gthread").
"""

import functools
import socket
import threading
import time
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


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """Reads no longer than `REQUEST_S` from a client; the answer may take its time.

    Whoever reads an upload says with `wsgi.input.renew()` that enough of it has come to wait as long again.
    """

    def init_process(self) -> None:
        """Starts the watch, then works until it is told to stop."""
        self._until: dict[TConn, float] = {}
        threading.Thread(target=self._watch, daemon=True, name="patience").start()
        super().init_process()

    def handle(self, conn: TConn) -> Any:
        """Reads and answers one request; in a thread of the pool."""
        self._until[conn] = time.monotonic() + REQUEST_S
        try:
            return super().handle(conn)
        finally:
            del self._until[conn]

    def handle_request(self, req: Any, conn: TConn) -> Any:
        """Answers one request, whose body can be given more time."""
        if req.body is not None:
            req.body.renew = functools.partial(self._renew, conn)
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
