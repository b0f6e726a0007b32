"""Carries a `Request` to a messenger and brings back a `Reply`, or `NoReply`: one at a time, for stock RQ workers.

`curl` does so for many at once, for our own worker; both pass the same tests. Neither follows redirects (a followed POST
may turn into a GET), neither waits without limit, and no reason given here holds a URL: a URL may hold a token.
"""

import base64
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import closing
from typing import BinaryIO, Protocol

import requests
import urllib3
from requests_toolbelt import MultipartEncoder  # type: ignore[import-untyped]

from messengers import sandbox
from messengers.base import Errand, File, NoReply, Note, Reply, Request
from postrider.errands import Errands
from postrider.errors import Unavailable
from postrider.timeouts import BYTES_A_S, CONNECT_S, READ_S, within_s

MAX_REPLY = 64 * 1024
"""Bytes of a reply that are read; what is longer is cut, and then means nothing."""

Inbox = Callable[[Note], None]
"""Where the sandbox keeps a note."""
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


def body_of(request: Request) -> "bytes | Body | None":
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


class Body:
    """A body with files in it, as it is sent, part by part: `len` bytes in all, of `content_type`; to be closed.

    Both of our clients take what has a `read`. One file is open at a time.
    """

    content_type: str
    len: int

    def __init__(self) -> None:
        self._contents: list[_Content] = []
        self.given = 0
        self.broken: OSError | None = None

    def read(self, most: int = -1) -> bytes:
        """The next bytes. Raises OSError."""
        try:
            part = self._next(most)
        except OSError as error:
            self.broken = error
            raise
        self.given += len(part)
        return part

    def _next(self, most: int) -> bytes:
        raise NotImplementedError

    def _content(self, file: File) -> "_Content":
        content = _Content(file)
        content.look()
        self._contents.append(content)
        return content

    @property
    def is_cut(self) -> bool:
        """Whether no more than a part was handed out: then nobody can have taken it for the whole."""
        return self.given < self.len

    def close(self) -> None:
        """Closes what is open of its files."""
        for content in self._contents:
            content.close()


class FormBody(Body):
    """A form. requests-toolbelt's encoder streams it."""

    def __init__(self, form: Sequence[tuple[str, str | File]]) -> None:
        super().__init__()
        fields: list[tuple[str, object]] = []
        for name, value in form:
            if isinstance(value, str):
                fields.append((name, value))
            else:
                fields.append((name, (value.name, self._content(value), value.media_type)))
        self._encoder = MultipartEncoder(fields)
        self.content_type = self._encoder.content_type
        self.len = self._encoder.len

    def _next(self, most: int) -> bytes:
        part: bytes = self._encoder.read(most)
        return part


class JsonBody(Body):
    """JSON in which each file stands as a string: its content in base64."""

    content_type = "application/json"

    def __init__(self, said: Mapping[str, object]) -> None:
        super().__init__()
        mark = secrets.token_hex(16)  # stands where a file is to be; nobody's words hold it
        files: list[File] = []

        def marked(value: object) -> str:
            if not isinstance(value, File):
                raise TypeError(f"{type(value).__name__} is no JSON")
            files.append(value)
            return mark

        around = json.dumps(said, ensure_ascii=False, separators=(",", ":"), default=marked)
        texts = [text.encode() for text in around.split(mark)]
        encoded = [_Base64(self._content(file)) for file in files]
        self.len = sum(map(len, texts)) + sum(one.len for one in encoded)
        self._parts = self._in_turn(texts, encoded)
        self._ready = b""

    @staticmethod
    def _in_turn(texts: list[bytes], encoded: "list[_Base64]") -> Iterator[bytes]:
        yield texts[0]
        for one, text in zip(encoded, texts[1:], strict=True):
            yield from one.parts()
            yield text

    def _next(self, most: int) -> bytes:
        while most < 0 or not self._ready:
            part = next(self._parts, None)
            if part is None:
                break
            self._ready += part
        end = len(self._ready) if most < 0 else most
        part, self._ready = self._ready[:end], self._ready[end:]
        return part


class _Base64:
    """A file's content in base64; `len` characters in all."""

    PART = 3 * 16 * 1024
    """Bytes that are encoded at once; a multiple of three, so that the parts join."""

    def __init__(self, content: "_Content") -> None:
        self._content = content
        self.len = (content.len + 2) // 3 * 4

    def parts(self) -> Iterator[bytes]:
        """All of it, in order. Raises OSError."""
        left = b""
        while self._content.len:
            left += self._content.read(self.PART - len(left))
            whole = len(left) - (len(left) % 3 if self._content.len else 0)
            yield base64.b64encode(left[:whole])
            left = left[whole:]


class _Content:
    """A file's content, of a length that is known before it is read. What has been cut since is an error."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._opened: BinaryIO | None = None
        self.len = file.size

    def look(self) -> None:
        """Raises OSError when there is nothing to read."""
        self._file.open().close()

    def read(self, most: int = -1) -> bytes:
        if not self.len:
            return b""
        if self._opened is None:
            self._opened = self._file.open()
        part = self._opened.read(self.len if most < 0 else min(most, self.len))
        if not part and most:
            raise OSError("a file has become shorter since it was uploaded")
        self.len -= len(part)
        if not self.len:
            self.close()
        return part

    def close(self) -> None:
        if self._opened:
            self._opened.close()
            self._opened = None


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
        # requests bounds each read, not their sum: a thread that is left behind bounds the whole
        self._threads = ThreadPoolExecutor(1, "send")

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
            return self._threads.submit(self._exchange, request).result(limit_s(request))
        except FutureTimeoutError:
            self._threads.shutdown(wait=False)
            self._threads = ThreadPoolExecutor(1, "send")
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
