"""Carries a call to an address that a client named: resolved once, each address checked, and none but these connected to.

Third of those that carry, beside `transport` and `curl`. It follows no redirect, keeps no connection, asks no proxy and
checks each certificate against the name. A name server that gives another address a moment later changes nothing: nobody
asks again, and the socket is opened here, for an address that was checked.
"""

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from ipaddress import ip_address
from typing import Any, Literal

import certifi
import pycurl

from messengers.base import NoReply, Reply
from postrider.curl import Headers
from postrider.guard import Address, Guard, Refused, Target
from postrider.timeouts import CONNECT_S
from postrider.transport import CUT_OFF, MAX_REPLY, NO_ANSWER

WHOLE_S = 10.0
"""Seconds for the call, once the name is resolved, unless its caller says otherwise."""
RESOLVE_S = 5.0

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """The addresses behind a name, as this machine's resolver has them. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Outward:
    """One call at a time for each thread that asks."""

    def __init__(
        self,
        guard: Guard,
        *,
        whole_s: float = WHOLE_S,
        ca_file: str | None = None,
        resolve: Resolve = resolve,
        tls_verify: bool = True,
    ) -> None:
        self._tls_verify = tls_verify
        self._guard = guard
        self._whole_s = whole_s
        self._ca_file = ca_file or certifi.where()
        self._resolve = resolve

    def send(
        self,
        method: Literal["GET", "POST"],
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Reply | NoReply:
        """What came back, its body cut after 64 KiB. Never raises for anything the network or the other side does."""
        try:
            target = self._guard.target(url)
            addresses = self._addresses(target)
        except Refused as error:
            return NoReply(left=False, reason=f"not called: the URL is refused: {error}")
        except (OSError, UnicodeError):  # a name too long for any name server is a UnicodeError
            return NoReply(left=False, reason="its name could not be resolved")
        return _Call(target, addresses, self._whole_s, self._ca_file).send(
            method, headers or {}, body
        )

    def fetch(
        self,
        url: str,
        write: Callable[[bytes], object],
        within_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Reply | NoReply:
        """What a GET brings: of a 200 the body goes to `write`, part by part. Raises what that raises, and Refused.

        It follows no redirect, either; who does asks again, and all is checked again.
        """
        try:
            target = self._guard.target(url)
            addresses = self._addresses(target)
        except (OSError, UnicodeError):
            return NoReply(left=False, reason="its name could not be resolved")
        call = _Call(target, addresses, within_s, self._ca_file, write, tls_verify=self._tls_verify)
        return call.send("GET", headers or {}, b"")

    def _addresses(self, target: Target) -> list[Address]:
        """Where to call, all of it checked. Raises Refused, OSError."""
        if target.address is not None:
            return [target.address]  # which `target` has checked
        names = _within(RESOLVE_S, lambda: self._resolve(target.host, target.port))
        addresses = [ip_address(name.partition("%")[0]) for name in names]
        self._guard.check(target, addresses)
        return addresses


def _within(seconds: float, ask: Callable[[], Sequence[str]]) -> Sequence[str]:
    """What `ask` gives, or OSError when it takes longer: a name server may let everybody wait."""
    answers: list[Sequence[str]] = []
    errors: list[OSError | UnicodeError] = []

    def run() -> None:
        try:
            answers.append(ask())
        except (OSError, UnicodeError) as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="resolve", daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0]
    raise errors[0] if errors else TimeoutError("the name server did not answer in time")


class _Call:
    """One exchange of libcurl's."""

    def __init__(
        self,
        target: Target,
        addresses: Sequence[Address],
        whole_s: float,
        ca_file: str,
        write: Callable[[bytes], object] | None = None,
        *,
        tls_verify: bool = True,
    ) -> None:
        self._write = write
        self._failed: Exception | None = None
        self._target = target
        self._addresses = addresses
        self._head: list[bytes] = []
        self._chunks: list[bytes] = []
        self._left = MAX_REPLY
        self._sockets: list[socket.socket] = []
        self._curl = curl = pycurl.Curl()
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(CONNECT_S * 1000))
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int(whole_s * 1000)))
        curl.setopt(pycurl.FORBID_REUSE, 1)
        curl.setopt(pycurl.CAINFO, ca_file)
        if not tls_verify:
            curl.setopt(pycurl.SSL_VERIFYPEER, 0)
            curl.setopt(pycurl.SSL_VERIFYHOST, 0)
        curl.setopt(pycurl.URL, target.url)
        if target.address is None:  # else libcurl would ask a name server again
            pinned = ",".join(f"[{a}]" if a.version == 6 else str(a) for a in addresses)
            curl.setopt(pycurl.RESOLVE, [f"{target.host}:{target.port}:{pinned}"])
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open)
        curl.setopt(pycurl.HEADERFUNCTION, self._head.append)
        curl.setopt(pycurl.WRITEFUNCTION, self._take)

    def send(self, method: str, headers: Mapping[str, str], body: bytes) -> Reply | NoReply:
        """What came back."""
        sent = {"Accept-Encoding": "identity", "User-Agent": "postrider", **headers, "Expect": ""}
        with closing(self._curl) as curl, closing(self):
            curl.setopt(pycurl.HTTPHEADER, [f"{k}: {v}" if v else f"{k}:" for k, v in sent.items()])
            if method == "POST":
                curl.setopt(pycurl.POST, 1)
                curl.setopt(pycurl.POSTFIELDS, body)
            error = 0
            try:
                curl.perform()
            except pycurl.error as failed:  # the words in it may hold the URL
                error = int(failed.args[0])
            if self._failed:
                raise self._failed
            if not error or (error == pycurl.E_WRITE_ERROR and self._left == 0):
                status = curl.getinfo(pycurl.RESPONSE_CODE)
                return Reply(status, b"".join(self._chunks), Headers(self._head))
            left = bool(curl.getinfo(pycurl.REQUEST_SIZE))
        return NoReply(left, _WHY.get((error, left), CUT_OFF if left else "could not connect"))

    def _open(self, _purpose: int, asked: Any) -> socket.socket | int:
        """A socket for an address that was checked, whatever libcurl has made of the URL."""
        host, port = asked.addr[0], asked.addr[1]
        if ip_address(host.partition("%")[0]) not in self._addresses or port != self._target.port:
            return int(pycurl.SOCKET_BAD)
        opened = socket.socket(asked.family, asked.socktype, asked.protocol)
        self._sockets.append(opened)  # pycurl takes a duplicate of it
        return opened

    def close(self) -> None:
        """Closes our ends of the sockets."""
        for opened in self._sockets:
            opened.close()

    def _take(self, chunk: bytes) -> int:
        if self._write and _status(self._head) == b"200":
            try:  # through libcurl no exception passes
                self._write(chunk)
            except Exception as error:  # noqa: BLE001 - raised once libcurl has ended
                self._failed = error
                return -1
            return len(chunk)
        part = chunk[: self._left]
        self._chunks.append(part)
        self._left -= len(part)
        return len(part)  # fewer than there are: libcurl reads no further


def _status(head: Sequence[bytes]) -> bytes:
    """Of the last answer among these lines; libcurl itself tells it only once it has ended."""
    last = next((line for line in reversed(head) if line.startswith(b"HTTP/")), b"")
    return [*last.split(), b"", b""][1]


_WHY = {
    (pycurl.E_OPERATION_TIMEDOUT, False): "could not connect in time",
    (pycurl.E_OPERATION_TIMEDOUT, True): NO_ANSWER,
    (pycurl.E_PEER_FAILED_VERIFICATION, False): "its TLS certificate was not accepted",
}
