"""Carries a `Request` to a messenger and brings back a `Reply`, or `NoReply`: one at a time, for stock RQ workers.

`curl` does so for many at once, for our own worker; both pass the same tests. Neither follows redirects (a followed POST
may turn into a GET), neither waits without limit, and no reason given here holds a URL: a URL may hold a token.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Protocol

import requests
import urllib3

from messengers import sandbox
from messengers.base import Errand, File, NoReply, Note, Reply, Request
from postrider.errands import Errands
from postrider.errors import Unavailable
from postrider.hands import Bounded, Late
from postrider.streamed import Body, FormBody, JsonBody
from postrider.timeouts import BYTES_A_S, CONNECT_S, READ_S, within_s

MAX_REPLY = 64 * 1024
"""Bytes of a reply that are read; what is longer is cut, and then means nothing."""

Inbox = Callable[[Note], None]
"""Where the sandbox keeps a note."""
LEFT_BEHIND = 4
"""Calls that have not come back in time, and go on nevertheless: at most so many."""
NO_ANSWER = "no answer in time"
CUT_OFF = "the connection broke before an answer came"
NOT_KEPT = NoReply(left=False, reason="the inbox could not be written")
log = logging.getLogger("postrider.transport")


class Transport(Protocol):
    """Carries one request."""

    def send(self, request: Request | Note | Errand) -> Reply | NoReply:
        """What came back. Never raises for anything the network or the other side does."""


# Made once: half the time.
_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def body_of(request: Request) -> bytes | Body | None:
    """What is sent as its body; one that is a `Body` is to be closed. Raises OSError when a file of it is not there."""
    if request.form:
        return FormBody(request.form)
    if request.json is None:
        return None
    try:
        return _as_json(request.json).encode()
    except TypeError:  # there is a file in it: rare enough not to be looked for
        return JsonBody(request.json)


def headers_of(request: Request) -> dict[str, str]:
    """What is sent as its headers, but for a form's type."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "postrider", **request.headers}
    if request.json is not None:
        headers["Content-Type"] = "application/json"
    return headers


def _size(request: Request) -> int:
    """Bytes of its files, as many as are sent of them."""
    formed = sum(value.size for _, value in request.form if not isinstance(value, str))
    encoded = sum(file.size for file in _files_in(request.json))
    return formed + encoded * 4 // 3


def _files_in(value: object) -> Iterator[File]:
    if isinstance(value, File):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _files_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _files_in(inner)


def limit_s(request: Request) -> float:
    """Seconds after which a call ends, whatever the other side does."""
    return within_s(_size(request))


def silence_s(request: Request) -> float:
    """Seconds without a byte in either direction that end a call: who got large files first passes them on."""
    return READ_S + _size(request) / BYTES_A_S / 4


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class Blocking:
    """One request at a time, with `requests`: what a stock RQ worker sends with."""

    def __init__(self, inbox: Inbox, *, tls_verify: bool = True) -> None:
        self._inbox = inbox
        self._errands = Errands(tls_verify=tls_verify)
        self._session = requests.Session()
        self._session.verify = tls_verify
        self._session.trust_env = False
        # requests bounds each read, not their sum: a thread that is left behind bounds the whole. Not an executor's: Python
        # would wait for it at its end.
        self._bounded = Bounded("send", LEFT_BEHIND)

    def send(self, request: Request | Note | Errand) -> Reply | NoReply:
        """What came back."""
        if isinstance(request, Errand):
            return self._errands.carry(request)
        if isinstance(request, Note):
            answer = sandbox.answer(request)
            if answer.keeps and not kept(self._inbox, request):
                return NOT_KEPT
            time.sleep(answer.after_s)
            return answer.reply
        try:
            return self._bounded(limit_s(request), lambda: self._exchange(request))
        except Late:
            return NoReply(left=True, reason=NO_ANSWER)

    def _exchange(self, request: Request) -> Reply | NoReply:
        try:
            body = body_of(request)
        except OSError as error:
            return unreadable(error)
        if not isinstance(body, Body):
            return self._sent(request, body, headers_of(request))
        with closing(body):
            headers = headers_of(request) | {"Content-Type": body.content_type}
            return self._sent(request, body, headers)

    def _sent(
        self, request: Request, body: bytes | Body | None, headers: Mapping[str, str]
    ) -> Reply | NoReply:
        streamed = body if isinstance(body, Body) else None
        try:
            with self._session.request(
                request.method,
                request.url,
                data=body,
                headers=headers,
                timeout=(CONNECT_S, silence_s(request)),
                allow_redirects=False,
                stream=True,
            ) as response:
                said = response.raw.read(MAX_REPLY, decode_content=False)
                return Reply(response.status_code, said, _lower(response.headers))
        except requests.ConnectTimeout:
            return NoReply(left=False, reason="could not connect in time")
        except requests.ConnectionError as error:
            return _not_connected(error) or broke_off(streamed, CUT_OFF)
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            return broke_off(streamed, NO_ANSWER)
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            return broke_off(streamed, CUT_OFF)


def broke_off(body: Body | None, reason: str) -> NoReply:
    """No answer to what had begun to leave: a body that was cut cannot have been taken."""
    if body is None or not body.is_cut:
        return NoReply(left=True, reason=reason)
    return unreadable(body.broken) if body.broken else NoReply(left=False, reason=reason)


def unreadable(error: OSError) -> NoReply:
    """No answer, as a file of the request is not there."""
    log.error("a file cannot be read: %s", error.strerror or error)
    return NoReply(left=False, reason="a file of it cannot be read")


def _not_connected(error: requests.ConnectionError) -> NoReply | None:
    """NoReply with nothing left, when `error` says that there was never a connection."""
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", None)
    if isinstance(error, requests.exceptions.SSLError):
        return NoReply(left=False, reason="its TLS certificate was not accepted")
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return NoReply(left=False, reason="could not connect")
    return None


def kept(inbox: Inbox, note: Note) -> bool:
    """Whether the inbox has taken it."""
    try:
        inbox(note)
    except Unavailable as error:
        log.warning("a note for the sandbox was not kept: %s", error)
        return False
    return True
