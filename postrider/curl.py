"""Carries many requests at once over kept-alive connections, with libcurl: what our worker sends with."""

import asyncio
import functools
import logging
import select
import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import certifi
import pycurl

from messengers import sandbox
from messengers.base import Errand, NoReply, Note, Reply, Request
from postrider.errands import Errands
from postrider.streamed import Body
from postrider.timeouts import CONNECT_S, READ_S, within_s
from postrider.transport import (
    CUT_OFF,
    MAX_REPLY,
    NO_ANSWER,
    NOT_KEPT,
    Inbox,
    body_of,
    broke_off,
    headers_of,
    kept,
    limit_s,
    silence_s,
    unreadable,
)

LOOK_S = 1.0
"""Seconds between two looks for calls that have been silent for READ_S."""
KEPT_CONNECTIONS = 512
KEPT_CALLS = 100
"""Handles kept for the next call: each takes tens of kilobytes."""
AT_ONCE = 64
"""Sockets that are served before the loop turns: whoever fills free places must not wait until all have been."""
ERRANDS = 32
"""Errands of one kind that are run at once."""
KEPT_ALIVE_S = 15
"""Seconds for which an idle connection is used again: shorter than servers close them after."""

log = logging.getLogger("postrider.curl")

Done = Callable[[Reply | NoReply], None]

_IN, _OUT = 1, 4  # epoll's, and poll's, numbers
_EVENTS = {
    pycurl.POLL_NONE: 0,
    pycurl.POLL_IN: _IN,
    pycurl.POLL_OUT: _OUT,
    pycurl.POLL_INOUT: _IN | _OUT,
}
_READY = {_IN: pycurl.CSELECT_IN, _OUT: pycurl.CSELECT_OUT}


class Sockets:
    """What `select.epoll` does on Linux, for systems that have kqueue."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def fileno(self) -> int:
        """Readable when one of them is ready."""
        return self._selector.fileno()

    def close(self) -> None:
        """Forgets them all."""
        self._selector.close()

    def register(self, fd: int, events: int) -> None:
        """Watches `fd`."""
        self._selector.register(fd, _turned(events))

    def modify(self, fd: int, events: int) -> None:
        """Watches it for something else, also when `fd` is another one's by now."""
        self._selector.unregister(fd)
        self._selector.register(fd, _turned(events))

    def unregister(self, fd: int) -> None:
        """Watches it no more."""
        self._selector.unregister(fd)

    def poll(self, _timeout: int, most: int) -> list[tuple[int, int]]:
        """Those that are ready, and for what."""
        return [(key.fd, _turned(events)) for key, events in self._selector.select(0)[:most]]


def _turned(events: int) -> int:
    """epoll's numbers for selectors', and back: both have 1 for reading, and 4 and 2 for writing."""
    return events & 1 | (events & 2) << 1 | (events & 4) >> 1


class Concurrent:
    """Many requests at once; what came back goes to a callback.

    To be made and used in a running event loop, which watches one descriptor for all of libcurl's. libcurl takes a third
    of the CPU that aiohttp does (benchmarks/clients.py).
    """

    def __init__(self, inbox: Inbox, *, tls_verify: bool = True) -> None:
        self._inbox = inbox
        self._tls_verify = tls_verify
        self._loop = asyncio.get_running_loop()
        self._multi = self._new_multi()
        self._used_at_s = time.monotonic()
        self._sockets = select.epoll() if hasattr(select, "epoll") else Sockets()
        self._watched: set[int] = set()
        self._unused: set[int] = set()
        """Those of them that libcurl does not ask about now: most are soon used again, which saves two calls of the kernel's."""
        self._loop.add_reader(self._sockets, self._sockets_are_ready)
        self._timer: asyncio.Handle | None = None
        self._is_due = False
        self._idle: list[_Call] = []
        self._busy: dict[pycurl.Curl, _Call] = {}
        self._notes: set[asyncio.Task[None]] = set()
        self._errands = Errands(tls_verify=tls_verify)
        self._threads: dict[type[Errand], ThreadPoolExecutor] = {}
        self._look = self._loop.call_later(LOOK_S, self._end_the_silent)

    def _new_multi(self) -> pycurl.CurlMulti:
        multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        multi.setopt(pycurl.M_MAXCONNECTS, KEPT_CONNECTIONS)
        return multi

    def close(self) -> None:
        """Drops what is under way."""
        for note in self._notes:
            note.cancel()
        self._look.cancel()
        self._loop.remove_reader(self._sockets)
        if self._timer:
            self._timer.cancel()
        for curl, call in self._busy.items():
            self._multi.remove_handle(curl)
            call.close_body()
        self._busy.clear()
        self._multi.close()
        self._sockets.close()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    def start(self, request: Request | Note | Errand, done: Done) -> None:
        """Sends, and calls `done` once with what came back. Raises ValueError for what is no request at all."""
        if not isinstance(request, Request):
            way = (
                self._keep(request, done) if isinstance(request, Note) else self._run(request, done)
            )
            task = self._loop.create_task(way)
            self._notes.add(task)
            task.add_done_callback(self._notes.discard)
            return
        call = self._idle.pop() if self._idle else _Call(tls_verify=self._tls_verify)
        try:
            call.prepare(request, done)
        except OSError as error:
            self._loop.call_soon(done, unreadable(error))
            return
        self._busy[call.curl] = call
        self._multi.add_handle(call.curl)

    async def _run(self, errand: Errand, done: Done) -> None:
        threads = self._threads.get(type(errand))
        if threads is None:  # each kind has its own, so that none waits for another
            threads = self._threads[type(errand)] = ThreadPoolExecutor(ERRANDS, "errand")
        try:
            reply = await self._loop.run_in_executor(threads, self._errands.carry, errand)
        except RuntimeError as error:  # no thread can be started; one that there is may do it yet
            log.error("an errand was not begun: %s", error)  # noqa: TRY400 - no trace needed
            reply = NoReply(left=True, reason="internal error")
        done(reply)

    async def _keep(self, note: Note, done: Done) -> None:
        answer = sandbox.answer(note)
        if answer.keeps and not await asyncio.to_thread(kept, self._inbox, note):
            done(NOT_KEPT)
            return
        await asyncio.sleep(answer.after_s)
        done(answer.reply)

    # -- libcurl's side

    def _watch(self, what: int, fd: int, _multi: object, _data: object) -> None:
        """Called by libcurl: it wants to know when `fd` is ready for `what`."""
        if what == pycurl.POLL_REMOVE:
            self._unused.add(fd)
            return
        self._unused.discard(fd)
        if fd in self._watched:
            with suppress(FileNotFoundError):  # closed since, and opened anew
                self._sockets.modify(fd, _EVENTS[what])
                return
        self._watched.add(fd)
        self._sockets.register(fd, _EVENTS[what])

    def _set_timer(self, after_ms: int) -> None:
        """Called by libcurl: it wants to be called after that time; -1: no more."""
        if after_ms == 0 and self._is_due:
            return
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._is_due = after_ms == 0
        if after_ms == 0:
            self._timer = self._loop.call_soon(self._time_is_up)
        elif after_ms > 0:
            self._timer = self._loop.call_later(after_ms / 1000, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self._is_due = False
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._finish()

    def _sockets_are_ready(self) -> None:
        for fd, events in self._sockets.poll(0, AT_ONCE):
            if fd in self._unused:  # its server has hung up
                self._forget(fd)
            else:
                # Without a direction libcurl looks for itself: so an error shows, too.
                self._multi.socket_action(fd, _READY.get(events, 0))
        self._finish()

    def _forget(self, fd: int) -> None:
        self._unused.discard(fd)
        self._watched.discard(fd)
        with suppress(OSError):  # closed already
            self._sockets.unregister(fd)

    def _finish(self) -> None:
        more = 1
        while more:
            more, well, badly = self._multi.info_read()
            for curl in well:
                self._end(curl, 0)
            for curl, error, _ in badly:  # the words in it may hold the URL
                self._end(curl, error)

    def _end_the_silent(self) -> None:
        """Ends calls that have been silent for READ_S: libcurl's own limit is a speed, averaged over longer."""
        for curl, call in list(self._busy.items()):
            if call.is_silent(time.monotonic()):
                self._end(curl, pycurl.E_OPERATION_TIMEDOUT)
        if self._busy:
            self._used_at_s = time.monotonic()
        elif time.monotonic() - self._used_at_s > KEPT_ALIVE_S and self._idle:
            # libcurl closes an idle connection no sooner than it looks for one to use.
            self._idle.clear()
            self._multi.close()
            self._multi = self._new_multi()
        self._look = self._loop.call_later(LOOK_S, self._end_the_silent)

    def give_up(self) -> None:
        """Ends each call whose form is not out whole: nobody can have taken it."""
        for curl, call in list(self._busy.items()):
            if call.is_cut():
                self._end(curl, pycurl.E_OPERATION_TIMEDOUT)

    def _end(self, curl: pycurl.Curl, error: int) -> None:
        call = self._busy.pop(curl)
        outcome, done = call.outcome(error), call.done
        self._multi.remove_handle(curl)
        call.close_body()
        if len(self._idle) < KEPT_CALLS:
            self._idle.append(call)
        try:
            done(outcome)
        except Exception:  # the calls that ended together with this one are to be told, too
            log.exception("what an answer said could not be used")


class _Call:
    """One exchange of libcurl's; used again for the next, as setting it up costs more than the exchange."""

    def __init__(self, *, tls_verify: bool) -> None:
        self.curl = curl = pycurl.Curl()
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.UPLOAD_BUFFERSIZE, 16 * 1024)  # the least that libcurl takes
        curl.setopt(pycurl.PROXY, "")  # the environment's business is not ours
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(CONNECT_S * 1000))
        curl.setopt(pycurl.TIMEOUT_MS, int(within_s() * 1000))
        curl.setopt(pycurl.MAXAGE_CONN, KEPT_ALIVE_S)
        curl.setopt(pycurl.CAINFO, certifi.where())
        curl.setopt(pycurl.SSL_VERIFYPEER, int(tls_verify))
        curl.setopt(pycurl.SSL_VERIFYHOST, 2 if tls_verify else 0)
        curl.setopt(pycurl.WRITEFUNCTION, self._take)
        # A body that is handed out once: libcurl sends what it can rewind a second time, when a kept connection breaks
        # before an answer comes. https://curl.se/libcurl/c/CURLOPT_SEEKFUNCTION.html
        curl.setopt(pycurl.READFUNCTION, self._give)
        self._head: list[bytes] = []
        curl.setopt(pycurl.HEADERFUNCTION, self._head.append)
        self._url = ""
        self._headers: tuple[Mapping[str, str], bool] | None = None
        self._body = b""
        self._streamed: Body | None = None
        self._silence_s = READ_S
        self._chunks: list[bytes] = []
        self._left = 0
        self._method = ""

    def prepare(self, request: Request, done: Done) -> None:
        """Makes it ready for `request`."""
        self.done = done
        self._chunks = []
        self._left = MAX_REPLY
        self._head.clear()
        self._come, self._since_s = (-1, 0, 0), 0.0
        self._given = 0
        body = body_of(request)
        self._silence_s = READ_S
        if isinstance(body, Body):
            self._streamed, self._body = body, b""
            self._silence_s = silence_s(request)
            self.curl.setopt(pycurl.TIMEOUT_MS, int(limit_s(request) * 1000))
        else:
            self._body = body or b""
        if request.method != self._method:
            self._choose(request.method)
        if request.method != "GET":
            length = self._streamed.len if self._streamed else len(self._body)
            self.curl.setopt(pycurl.POSTFIELDSIZE_LARGE, length)
        if request.url != self._url:
            self.curl.setopt(pycurl.URL, request.url.encode())
            self._url = request.url
        wanted = (request.headers, body is None)
        if wanted != self._headers or self._streamed:
            headers = {**headers_of(request), "Expect": ""}
            if self._streamed:
                headers["Content-Type"] = self._streamed.content_type
            elif body is None:
                headers["Content-Type"] = ""  # libcurl would name a form's
            self.curl.setopt(
                pycurl.HTTPHEADER, [f"{k}: {v}" if v else f"{k}:" for k, v in headers.items()]
            )
            self._headers = None if self._streamed else wanted

    def _choose(self, method: str) -> None:
        """Has libcurl use `method`; what is no GET goes as a POST by another name."""
        self._method = method
        self._headers = None
        self.curl.unsetopt(pycurl.CUSTOMREQUEST)
        self.curl.setopt(pycurl.HTTPGET if method == "GET" else pycurl.POST, 1)
        if method not in {"GET", "POST"}:
            self.curl.setopt(pycurl.CUSTOMREQUEST, method)

    def close_body(self) -> None:
        """Closes the files that it sent, if any."""
        if self._streamed:
            self._streamed.close()
            self._streamed = None
            self.curl.setopt(pycurl.TIMEOUT_MS, int(within_s() * 1000))

    def is_cut(self) -> bool:
        """Whether it sends files, and some of that is still here."""
        return self._streamed is not None and self._streamed.is_cut

    def is_silent(self, now_s: float) -> bool:
        """Whether nothing has come for so long, nor gone."""
        come = (len(self._head), self._left, self._given)
        if come != self._come:
            self._come, self._since_s = come, now_s
        return now_s - self._since_s >= self._silence_s

    def _give(self, most: int) -> bytes | int:
        if self._streamed:
            try:
                part = self._streamed.read(most)
            except OSError:  # it keeps which
                return pycurl.READFUNC_ABORT
        else:
            part, self._body = self._body[:most], self._body[most:]
        self._given += len(part)
        return part

    def _take(self, chunk: bytes) -> int:
        part = chunk[: self._left]
        self._chunks.append(part)
        self._left -= len(part)
        return len(part)  # fewer than there are: libcurl reads no further

    def outcome(self, error: int) -> Reply | NoReply:
        """What came of it; `error` is libcurl's number, 0 for none."""
        if error in {0, pycurl.E_WRITE_ERROR} and (self._left == 0 or not error):
            return Reply(
                self.curl.getinfo(pycurl.RESPONSE_CODE),
                b"".join(self._chunks),
                Headers(self._head),
            )
        # One that broke on a kept connection may have been sent before it was tried anew.
        if error != pycurl.E_SEND_FAIL_REWIND and not self.curl.getinfo(pycurl.REQUEST_SIZE):
            return NoReply(left=False, reason=_NOT_SENT.get(error, "could not connect"))
        timed_out = error == pycurl.E_OPERATION_TIMEDOUT
        return broke_off(self._streamed, NO_ANSWER if timed_out else CUT_OFF)


_NOT_SENT = {
    pycurl.E_OPERATION_TIMEDOUT: "could not connect in time",
    pycurl.E_PEER_FAILED_VERIFICATION: "its TLS certificate was not accepted",
}


class Headers(Mapping[str, str]):
    """Header lines as they came, read only when somebody asks: most answers are a plain yes."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = tuple(lines)

    @functools.cached_property
    def _fields(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        for line in self._lines:
            text = line.decode("latin-1").strip()
            name, colon, value = text.partition(":")
            if text.startswith(
                "HTTP/"
            ):  # those of an earlier answer, such as 100 Continue, do not count
                fields = {}
            elif colon:
                fields[name.lower()] = value.strip()
        return fields

    def __getitem__(self, name: str) -> str:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)
