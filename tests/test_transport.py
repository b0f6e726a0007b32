"""Both transports, held to the same tests: against real sockets that behave as badly as sockets can."""

import asyncio
import base64
import contextlib
import io
import json
import select
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Literal

import pytest

from messengers.base import File, NoReply, Note, Reply, Request
from messengers.sandbox import FAILURES
from postrider import curl, dialogue, timeouts, transport
from postrider.curl import Concurrent
from postrider.errors import Unavailable
from postrider.transport import MAX_REPLY, Blocking
from tests import conftest
from tests.certificates import make_certificate, tls_of
from tests.fake import Answer, FakeMessenger

Send = Callable[[Request | Note], Reply | NoReply]
Notes = list[Note]


@pytest.fixture
def notes() -> Notes:
    return []


@pytest.fixture(params=["blocking", "concurrent", "concurrent without epoll"])
def send(
    request: pytest.FixtureRequest, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Send]:
    def keep(note: Note) -> None:
        if note.text == "Redis is away":
            raise Unavailable(note.text)
        notes.append(note)

    verify = request.node.get_closest_marker("no_verify") is None
    if request.param == "blocking":
        yield Blocking(keep, tls_verify=verify).send
        return
    if request.param.endswith("without epoll"):
        monkeypatch.delattr(select, "epoll")
    loop = asyncio.new_event_loop()

    async def make() -> Concurrent:
        return Concurrent(keep, tls_verify=verify)

    async def send(asked: Request | Note) -> Reply | NoReply:
        answer = loop.create_future()
        carrier.start(asked, answer.set_result)
        return await answer

    carrier = loop.run_until_complete(make())
    yield lambda asked: loop.run_until_complete(send(asked))
    carrier.close()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@contextlib.contextmanager
def serving(
    handle: Callable[[socket.socket], None], context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """A server that does with each connection whatever `handle` does."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                connection = self.request
                if context:
                    secure = context.wrap_socket(connection, server_side=True)
                    connection = stack.enter_context(secure)
                request = b""
                while not request.endswith(b"}"):  # a request that is not read to its end is reset
                    if not (part := connection.recv(65536)):
                        return  # it hung up, as it did not like our certificate
                    request += part
                handle(connection)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(5)


def drip(head: bytes, piece: bytes, every_s: float = 0.2) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(every_s)

    return handle


def post(url: str) -> Request:
    return Request(
        "POST", f"{url}/bot123:planted-secret/sendMessage", {"X-Extra": "1"}, {"text": "Grüße 👋"}
    )


def test_what_is_sent_arrives_as_it_is(send: Send, messenger: FakeMessenger) -> None:
    reply = send(post(messenger.url))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.object()["ok"]) == (200, True)
    (call,) = messenger.calls
    assert call.json == {"text": "Grüße 👋"}
    assert call.headers["Content-Type"] == "application/json"
    assert call.headers["X-Extra"] == "1"


def test_a_get_has_no_body(send: Send, messenger: FakeMessenger) -> None:
    assert isinstance(send(Request("GET", f"{messenger.url}/bot1/getMe")), Reply)
    assert messenger.calls[0].json == {}
    assert "Content-Type" not in messenger.calls[0].headers


METHODS: list[Literal["POST", "PUT", "PATCH", "DELETE"]] = ["POST", "PUT", "PATCH", "DELETE"]


@contextlib.contextmanager
def reading(answers: int = 20) -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    """A server that reads each request to its end: method, headers and body of each."""
    got: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for _ in range(answers):
                if not (first := self.rfile.readline()):
                    return
                headers = {}
                while line := self.rfile.readline().decode().strip():
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                body = self.rfile.read(int(headers.get("content-length", 0)))
                got.append((first.decode().partition(" ")[0], headers, body))
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", got
        server.shutdown()
        thread.join(5)


def test_each_method_goes_as_itself_with_a_body_or_without(send: Send) -> None:
    with reading() as (url, got):
        for method in METHODS:
            assert isinstance(
                send(Request(method, url, {"X-Extra": "1"}, {"text": "Grüße"})), Reply
            )
            assert isinstance(send(Request(method, url, {"X-Extra": "1"})), Reply)
            assert isinstance(send(Request("GET", url, {"X-Extra": "1"})), Reply)
    assert [method for method, _, _ in got] == [m for one in METHODS for m in (one, one, "GET")]
    for nth, (_, headers, body) in enumerate(got):
        with_body = nth % 3 == 0
        assert body == (b'{"text":"Gr\xc3\xbc\xc3\x9fe"}' if with_body else b"")
        assert headers.get("content-type") == ("application/json" if with_body else None)
        assert headers["x-extra"] == "1"
        assert "transfer-encoding" not in headers
    assert all("content-length" not in headers for _, headers, _ in got[2::3])


class Measured(io.RawIOBase):
    """A file of `size` bytes that are nowhere, and how it is read."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.most = 0
        self.closed_once = False

    def read(self, size: int = -1) -> bytes:
        assert size >= 0, "it is never read as a whole"
        self.most = max(self.most, size)
        part = min(size, self.left)
        self.left -= part
        return b"x" * part

    def close(self) -> None:
        self.closed_once = True


def with_file(url: str, size: int, told: int | None = None) -> tuple[Request, list[Measured]]:
    """A request with that file in its JSON, and what was opened of it."""
    opened: list[Measured] = []

    def open_it() -> Any:
        opened.append(Measured(size))
        return opened[-1]

    file = File("a", "application/pdf", size if told is None else told, open=open_it)
    said = {"chatId": "1@c.us", "file": {"data": file, "name": "отчёт"}}
    return Request("POST", url, {}, said), opened


@pytest.mark.parametrize("size", [0, 1, 2, 3, 48 * 1024, 5_000_001])
def test_a_file_in_json_goes_as_base64_and_is_read_part_by_part(send: Send, size: int) -> None:
    with reading() as (url, got):
        request, opened = with_file(url, size)
        assert isinstance(send(request), Reply)
        assert isinstance(send(Request("POST", url, {}, {"then": "small"})), Reply)
    (_, headers, body), (_, _, after) = got
    told = json.loads(body)
    assert base64.b64decode(told["file"]["data"], validate=True) == b"x" * size
    assert (told["chatId"], told["file"]["name"]) == ("1@c.us", "отчёт")
    assert headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)
    assert after == b'{"then":"small"}'
    assert all(one.most <= 64 * 1024 and one.closed_once for one in opened)


def test_a_file_in_json_that_is_cut_or_gone_has_not_left(send: Send) -> None:
    with reading() as (url, got):
        short, _ = with_file(url, 100_000, told=200_000)
        reply = send(short)
        assert isinstance(reply, NoReply)
        assert (reply.left, reply.reason) == (False, "a file of it cannot be read")
        gone = Request("POST", url, {}, {"data": File("a", "b", 3)})
        assert send(gone) == NoReply(left=False, reason="a file of it cannot be read")
        assert isinstance(send(Request("POST", url, {}, {"then": "small"})), Reply)
    assert [body for _, _, body in got if body.endswith(b"}")] == [b'{"then":"small"}']


def test_files_in_json_have_as_long_as_their_bytes_take() -> None:
    request, _ = with_file("http://x", 3 * transport.BYTES_A_S)
    assert transport.limit_s(request) == timeouts.within_s() + 4
    assert transport.silence_s(request) == transport.READ_S + 1
    assert (
        transport.limit_s(Request("POST", "http://x", {}, {"text": ["x", {"y": 1}]}))
        == timeouts.within_s()
    )


def test_what_is_no_json_is_told_to_whoever_wrote_it() -> None:
    with pytest.raises(TypeError):
        transport.body_of(Request("POST", "http://x", {}, {"text": object()}))


def test_connections_are_kept(send: Send, messenger: FakeMessenger) -> None:
    started = time.perf_counter()
    for _ in range(50):
        send(post(messenger.url))
    assert time.perf_counter() - started < 5
    assert len(messenger.calls) == 50


def test_header_names_come_back_in_lower_case(send: Send, messenger: FakeMessenger) -> None:
    messenger.script = lambda _: Answer(429, b"{}", {"Retry-After": "7"})
    reply = send(post(messenger.url))
    assert isinstance(reply, Reply)
    assert reply.retry_after_s() == 7


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(send: Send, messenger: FakeMessenger, status: int) -> None:
    messenger.script = lambda _: Answer(status, b"", {"Location": f"{messenger.url}/elsewhere"})
    reply = send(post(messenger.url))
    assert isinstance(reply, Reply)
    assert reply.status == status
    assert len(messenger.calls) == 1


def test_nothing_left_when_nobody_listens(send: Send) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        reply = send(post(f"http://127.0.0.1:{closed.getsockname()[1]}"))
    assert reply == NoReply(left=False, reason="could not connect")


def test_nothing_left_when_the_name_does_not_exist(send: Send) -> None:
    reply = send(post("http://nowhere.invalid"))
    assert reply == NoReply(left=False, reason="could not connect")


def test_nothing_left_when_connecting_takes_too_long(
    send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a full backlog: the kernel answers no further connection
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        started = time.monotonic()
        reply = send(post(f"http://127.0.0.1:{full.getsockname()[1]}"))
    assert isinstance(reply, NoReply)
    assert not reply.left
    assert time.monotonic() - started < timeouts.CONNECT_S + 2


def test_an_answer_cut_off_is_no_answer(send: Send, messenger: FakeMessenger) -> None:
    messenger.script = lambda _: Answer(cut=True)
    reply = send(post(messenger.url))
    assert isinstance(reply, NoReply)
    assert reply.left


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"\0\0\0\0",
        b"HTTP/1.1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=range(10),
)
def test_half_an_answer_or_no_http_at_all_never_raises(send: Send, words: bytes) -> None:
    def handle(connection: socket.socket) -> None:
        connection.sendall(words)
        connection.close()

    with serving(handle) as url:
        reply = send(post(url))
    assert isinstance(reply, NoReply) or reply.object() == {}
    if isinstance(reply, NoReply):
        assert reply.left


def test_of_a_huge_answer_only_the_beginning_is_read(send: Send, messenger: FakeMessenger) -> None:
    messenger.script = lambda _: Answer(200, b"x" * 20_000_000)
    reply = send(post(messenger.url))
    assert isinstance(reply, Reply)
    assert len(reply.body) == MAX_REPLY


def test_a_compressed_answer_is_not_unpacked(send: Send, messenger: FakeMessenger) -> None:
    import gzip  # noqa: PLC0415

    bomb = gzip.compress(b"\0" * 50_000_000)
    messenger.script = lambda _: Answer(200, bomb, {"Content-Encoding": "gzip"})
    reply = send(post(messenger.url))
    assert isinstance(reply, Reply)
    assert reply.object() == {}
    assert len(reply.body) <= MAX_REPLY


@pytest.mark.parametrize("module", [timeouts, transport, curl, dialogue])
def test_whoever_carries_has_5_s_to_connect_10_to_read_and_30_for_all(module: ModuleType) -> None:
    whole_s = module.within_s() if hasattr(module, "within_s") else module.WHOLE_S
    assert (module.CONNECT_S, module.READ_S, whole_s) == (5, 10, 30)


def test_silence_after_the_request_ends_in_time(send: Send) -> None:
    with serving(lambda _: time.sleep(60)) as url:
        started = time.monotonic()
        reply = send(post(url))
    assert reply == NoReply(left=True, reason=transport.NO_ANSWER)
    assert time.monotonic() - started < timeouts.READ_S + 2


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
    ],
    ids=["headers that never end", "a byte now and then"],
)
def test_an_answer_that_trickles_ends_with_the_whole_attempt(
    send: Send, head: bytes, piece: bytes, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    whole_s = timeouts.WHOLE_S if long else timeouts.READ_S / 2
    monkeypatch.setattr(timeouts, "WHOLE_S", whole_s)
    with serving(drip(head, piece)) as url:
        started = time.monotonic()
        reply = send(post(url))
    took_s = time.monotonic() - started
    assert isinstance(reply, NoReply)
    assert reply.left
    assert took_s < whole_s + (1 if conftest.patience == 1 else 5)


def test_nothing_is_sent_twice_when_a_kept_connection_breaks(send: Send) -> None:
    connections = []

    def answer_once_then_hang_up(connection: socket.socket) -> None:
        connections.append(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        connection.recv(65536)

    with serving(answer_once_then_hang_up) as url:
        assert isinstance(send(post(url)), Reply)
        reply = send(post(url))
    assert reply == NoReply(left=True, reason=transport.CUT_OFF)
    assert len(connections) == 1


def test_an_answer_that_is_no_use_to_who_asked_keeps_no_others_from_theirs() -> None:
    all_are_here = threading.Barrier(11)

    def answer_together(connection: socket.socket) -> None:
        all_are_here.wait(10)
        says_yes(connection)

    async def send_ten(url: str) -> list[Reply | NoReply]:
        carrier, found = Concurrent(notes.append), []

        def use(reply: Reply | NoReply) -> None:
            found.append(reply)
            if len(found) % 2:
                raise ZeroDivisionError

        for _ in range(10):
            carrier.start(post(url), use)
        await asyncio.to_thread(all_are_here.wait, 10)
        time.sleep(0.3)  # noqa: ASYNC251 - so that all answers are there when the loop looks
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while len(found) < 10:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        carrier.close()
        return found

    notes: Notes = []
    with serving(answer_together) as url:
        found = asyncio.run(send_ten(url))
    assert [type(reply) for reply in found] == [Reply] * 10


@pytest.fixture(scope="session")
def own_certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return tls_of(make_certificate(tmp_path_factory.mktemp("tls")))


def says_yes(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def test_a_certificate_that_nobody_vouches_for_is_refused(
    send: Send, own_certificate: ssl.SSLContext
) -> None:
    with serving(says_yes, own_certificate) as url:
        reply = send(post(url))
    assert reply == NoReply(left=False, reason="its TLS certificate was not accepted")


@pytest.mark.no_verify
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_with_tls_verify_off_it_is_taken(send: Send, own_certificate: ssl.SSLContext) -> None:
    with serving(says_yes, own_certificate) as url:
        assert isinstance(send(post(url)), Reply)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1", "http://nowhere.invalid", "nonsense", "http://[", "http://x:99999"],
)
def test_no_reason_holds_the_url_with_its_token(send: Send, url: str) -> None:
    reply = send(post(url))
    assert isinstance(reply, NoReply)
    assert "planted" not in reply.reason


@pytest.mark.parametrize("uuid", ["ana", *FAILURES])
def test_the_sandbox_keeps_what_it_takes(send: Send, notes: Notes, uuid: str) -> None:
    for nth in (1, 2, 3):
        reply = send(Note(uuid, "Hello", "key-0", nth))
        assert isinstance(reply, Reply | NoReply)
    kept = {"blocked": 0, "unknown": 0, "down": 0, "429": 2, "flaky": 1, "refused": 2}.get(uuid, 3)
    assert len(notes) == kept


def test_a_note_that_cannot_be_kept_has_not_left(send: Send) -> None:
    assert send(Note("ana", "Redis is away", "key-7")) == transport.NOT_KEPT
    assert not transport.NOT_KEPT.left


def test_a_sandbox_yes_is_the_key(send: Send) -> None:
    reply = send(Note("ana", "x", "key-7"))
    assert isinstance(reply, Reply)
    assert reply.object() == {"ok": True, "id": "key-7"}
