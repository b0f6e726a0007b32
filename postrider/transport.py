"""The transports: carry a `Request` to a messenger and bring back a `Reply`, or `NoReply`. The only importer of HTTP
clients.

Two of them pass the same tests: `Blocking` for stock RQ workers, `Concurrent` for ours. Neither follows redirects (a
followed POST may turn into a GET), neither waits without limit, and no reason given here holds a URL: a URL may hold a
token.
"""

import asyncio
import functools
import json
import logging
import select
import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Protocol

import certifi
import pycurl
import requests
import urllib3

from messengers import sandbox
from messengers.base import NoReply, Note, Reply, Request

CONNECT_S = 5.0
READ_S = 10.0
WHOLE_S = 30.0
"""Seconds for one attempt, whatever the other side does."""
MAX_REPLY = 64 * 1024
"""Bytes of a reply that are read; what is longer is cut, and then means nothing."""

LOOK_S = 1.0
"""Seconds between two looks for calls that have been silent for READ_S."""
KEPT_CONNECTIONS = 512
KEPT_ALIVE_S = 15
"""Seconds for which an idle connection is used again: shorter than servers close them after."""

Inbox = Callable[[Note], None]
"""Where the sandbox keeps a note."""
NO_ANSWER = "no answer in time"
CUT_OFF = "the connection broke before an answer came"
NOT_KEPT = NoReply(left=False, reason="the inbox could not be written")
log = logging.getLogger("postrider.transport")


class Transport(Protocol):
    """Carries one request."""

    def send(self, request: Request | Note) -> Reply | NoReply:
        """What came back. Never raises for anything the network or the other side does."""


_as_json = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":")
).encode  # made once: half the time


def _body(request: Request) -> bytes | None:
    return None if request.json is None else _as_json(request.json).encode()


def _headers(request: Request) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "postrider", **request.headers}
    if request.json is not None:
        headers["Content-Type"] = "application/json"
    return headers


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class Blocking:
    """One request at a time, with `requests`: what a stock RQ worker sends with."""

    def __init__(self, inbox: Inbox, *, tls_verify: bool = True) -> None:
        self._inbox = inbox
        self._session = requests.Session()
        self._session.verify = tls_verify
        self._session.trust_env = False
        # requests bounds each read, not their sum: a thread that is left behind bounds the whole
        self._threads = ThreadPoolExecutor(1, "send")

    def send(self, request: Request | Note) -> Reply | NoReply:
        """What came back."""
        if isinstance(request, Note):
            answer = sandbox.answer(request)
            if answer.keeps and not _kept(self._inbox, request):
                return NOT_KEPT
            time.sleep(answer.after_s)
            return answer.reply
        try:
            return self._threads.submit(self._exchange, request).result(WHOLE_S)
        except FutureTimeoutError:
            self._threads.shutdown(wait=False)
            self._threads = ThreadPoolExecutor(1, "send")
            return NoReply(left=True, reason=NO_ANSWER)

    def _exchange(self, request: Request) -> Reply | NoReply:
        try:
            with self._session.request(
                request.method,
                request.url,
                data=_body(request),
                headers=_headers(request),
                timeout=(CONNECT_S, READ_S),
                allow_redirects=False,
                stream=True,
            ) as response:
                body = response.raw.read(MAX_REPLY, decode_content=False)
                return Reply(response.status_code, body, _lower(response.headers))
        except requests.ConnectTimeout:
            return NoReply(left=False, reason="could not connect in time")
        except requests.ConnectionError as error:
            return _not_connected(error) or NoReply(left=True, reason=CUT_OFF)
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            return NoReply(left=True, reason=NO_ANSWER)
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            return NoReply(left=True, reason=CUT_OFF)


def _not_connected(error: requests.ConnectionError) -> NoReply | None:
    """NoReply with nothing left, when `error` says that there was never a connection."""
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", None)
    if isinstance(error, requests.exceptions.SSLError):
        return NoReply(left=False, reason="its TLS certificate was not accepted")
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return NoReply(left=False, reason="could not connect")
    return None


def _kept(inbox: Inbox, note: Note) -> bool:
    try:
        inbox(note)
    except Exception:
        log.exception("a note for the sandbox was not kept")
        return False
    return True


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
        """Watches it for something else."""
        self._selector.modify(fd, _turned(events))

    def unregister(self, fd: int) -> None:
        """Watches it no more."""
        self._selector.unregister(fd)

    def poll(self, _timeout: int) -> list[tuple[int, int]]:
        """Those that are ready, and for what."""
        return [(key.fd, _turned(events)) for key, events in self._selector.select(0)]


def _turned(events: int) -> int:
    """epoll's numbers for selectors', and back: both have 1 for reading, and 4 and 2 for writing."""
    return events & 1 | (events & 2) << 1 | (events & 4) >> 1


class Concurrent:
    """Many requests at once over kept-alive connections, with libcurl: what our worker sends with.

    To be made and used in a running event loop, which watches one descriptor for all of libcurl's. libcurl takes a third
    of the CPU that aiohttp does (benchmarks/transports.py).
    """

    def __init__(self, inbox: Inbox, *, tls_verify: bool = True) -> None:
        self._inbox = inbox
        self._tls_verify = tls_verify
        self._loop = asyncio.get_running_loop()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, KEPT_CONNECTIONS)
        self._sockets = select.epoll() if hasattr(select, "epoll") else Sockets()
        self._watched: set[int] = set()
        self._loop.add_reader(self._sockets, self._sockets_are_ready)
        self._timer: asyncio.Handle | None = None
        self._is_due = False
        self._idle: list[_Call] = []
        self._busy: dict[pycurl.Curl, _Call] = {}
        self._notes: set[asyncio.Task[None]] = set()
        self._look = self._loop.call_later(LOOK_S, self._end_the_silent)

    def close(self) -> None:
        """Drops what is under way."""
        for note in self._notes:
            note.cancel()
        self._look.cancel()
        self._loop.remove_reader(self._sockets)
        if self._timer:
            self._timer.cancel()
        for curl in self._busy:
            self._multi.remove_handle(curl)
        self._busy.clear()
        self._multi.close()
        self._sockets.close()

    def start(self, request: Request | Note, done: Done) -> None:
        """Sends, and calls `done` once with what came back. Raises ValueError for what is no request at all."""
        if isinstance(request, Note):
            task = self._loop.create_task(self._keep(request, done))
            self._notes.add(task)
            task.add_done_callback(self._notes.discard)
            return
        call = self._idle.pop() if self._idle else _Call(tls_verify=self._tls_verify)
        call.prepare(request, done)
        self._busy[call.curl] = call
        self._multi.add_handle(call.curl)

    async def _keep(self, note: Note, done: Done) -> None:
        answer = sandbox.answer(note)
        if answer.keeps and not await asyncio.to_thread(_kept, self._inbox, note):
            done(NOT_KEPT)
            return
        await asyncio.sleep(answer.after_s)
        done(answer.reply)

    # -- libcurl's side

    def _watch(self, what: int, fd: int, _multi: object, _data: object) -> None:
        """Called by libcurl: it wants to know when `fd` is ready for `what`."""
        if what == pycurl.POLL_REMOVE:
            self._watched.discard(fd)
            with suppress(OSError):  # closed already
                self._sockets.unregister(fd)
        elif fd in self._watched:
            self._sockets.modify(fd, _EVENTS[what])
        else:
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
        for fd, events in self._sockets.poll(0):
            # Without a direction libcurl looks for itself: so an error shows, too.
            self._multi.socket_action(fd, _READY.get(events, 0))
        self._finish()

    def _finish(self) -> None:
        more = 1
        while more:
            more, well, badly = self._multi.info_read()
            for curl in well:
                self._end(curl, 0)
            for curl, error, _ in badly:  # the words in it may hold the URL
                self._end(curl, error)

    def _end_the_silent(self) -> None:
        """libcurl's own limit for this is a speed, averaged over more than READ_S."""
        for curl, call in list(self._busy.items()):
            if call.is_silent(time.monotonic()):
                self._end(curl, pycurl.E_OPERATION_TIMEDOUT)
        self._look = self._loop.call_later(LOOK_S, self._end_the_silent)

    def _end(self, curl: pycurl.Curl, error: int) -> None:
        call = self._busy.pop(curl)
        outcome, done = call.outcome(error), call.done
        self._multi.remove_handle(curl)
        self._idle.append(call)
        done(outcome)


class _Call:
    """One exchange of libcurl's; used again for the next, as setting it up costs more than the exchange."""

    def __init__(self, *, tls_verify: bool) -> None:
        self.curl = curl = pycurl.Curl()
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.PROXY, "")  # the environment's business is not ours
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(CONNECT_S * 1000))
        curl.setopt(pycurl.TIMEOUT_MS, int(WHOLE_S * 1000))
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
        self._headers: Mapping[str, str] | None = None
        self._body = b""
        self._chunks: list[bytes] = []
        self._left = 0
        self._method = ""

    def prepare(self, request: Request, done: Done) -> None:
        """Makes it ready for `request`."""
        self.done = done
        self._chunks = []
        self._left = MAX_REPLY
        self._head.clear()
        self._come, self._since_s = (-1, 0), 0.0
        self._body = _body(request) or b""
        if request.method != self._method:
            self._method = request.method
            self._headers = None
            self.curl.setopt(pycurl.POST if request.method == "POST" else pycurl.HTTPGET, 1)
        if request.method == "POST":
            self.curl.setopt(pycurl.POSTFIELDSIZE, len(self._body))
        if request.url != self._url:
            self.curl.setopt(pycurl.URL, request.url.encode())
            self._url = request.url
        if request.headers != self._headers:
            headers = {**_headers(request), "Expect": ""}
            self.curl.setopt(
                pycurl.HTTPHEADER, [f"{k}: {v}" if v else f"{k}:" for k, v in headers.items()]
            )
            self._headers = request.headers

    def is_silent(self, now_s: float) -> bool:
        """Whether nothing has come for READ_S."""
        come = (len(self._head), self._left)
        if come != self._come:
            self._come, self._since_s = come, now_s
        return now_s - self._since_s >= READ_S

    def _give(self, most: int) -> bytes:
        part, self._body = self._body[:most], self._body[most:]
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
                _Headers(self._head),
            )
        # One that broke on a kept connection may have been sent before it was tried anew.
        if error != pycurl.E_SEND_FAIL_REWIND and not self.curl.getinfo(pycurl.REQUEST_SIZE):
            return NoReply(left=False, reason=_NOT_SENT.get(error, "could not connect"))
        timed_out = error == pycurl.E_OPERATION_TIMEDOUT
        return NoReply(left=True, reason=NO_ANSWER if timed_out else CUT_OFF)


_NOT_SENT = {
    pycurl.E_OPERATION_TIMEDOUT: "could not connect in time",
    pycurl.E_PEER_FAILED_VERIFICATION: "its TLS certificate was not accepted",
}


class _Headers(Mapping[str, str]):
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
