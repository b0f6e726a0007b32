"""A messenger on loopback that costs next to nothing: it answers every POST as Telegram does, and notes when it came.

    python benchmarks/sink.py [--delay-ms 0] [--tls CERT KEY]

Prints its port. It speaks HTTP/1.1 with kept connections, with or without pipelining, and is no more of a server than that:
it looks for the end of a request and writes a canned answer. What came is kept as it is and read only when somebody asks:
`GET /count` gives how many, `GET /report` every recipient and the moment, `GET /reset` forgets them.
"""

import argparse
import asyncio
import json
import re
import signal
import ssl
import time
from functools import partial

import uvloop

LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)", re.IGNORECASE)
CHAT_ID = re.compile(rb'"chat_id": ?"?(\d+)')
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.18.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Connection: keep-alive\r\nStrict-Transport-Security: max-age=31536000; includeSubDomains; preload\r\n"
    b"Access-Control-Allow-Origin: *\r\n\r\n%b"
)
"""The headers that api.telegram.org sends, but for the date."""
BODY = (
    b'{"ok":true,"result":{"message_id":%d,"from":{"id":1,"is_bot":true,"first_name":"Post","username":"post_bot"},'
    b'"chat":{"id":42,"first_name":"Ana","username":"ana","type":"private"},"date":1760000000,"text":"Hello"}}'
)


class Sink:
    """What came, and how to answer it."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.count = 0
        self.came: list[tuple[float, bytes]] = []

    def told(self, path: bytes) -> object:
        """The answer to a question about what came."""
        match path:
            case b"/count":
                return self.count
            case b"/report":
                return [
                    (found[1].decode() if (found := CHAT_ID.search(body)) else None, at)
                    for at, body in self.came
                ]
            case b"/reset":
                self.count = 0
                self.came.clear()
        return None


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        at = time.time()
        if self.rest:
            data = self.rest + data
        start = 0
        while (head_end := data.find(b"\r\n\r\n", start)) > 0:
            end = head_end + 4
            if data.startswith(b"GET", start):
                text = json.dumps(self.sink.told(data.split(b" ", 2)[1])).encode()
                self.transport.write(ANSWER % (len(text), text))
            else:
                length = LENGTH.search(data, start, head_end)
                body_at = end
                end += int(length[1]) if length else 0
                if len(data) < end:
                    break
                self._answer(at, data[body_at:end])
            start = end
        self.rest = data[start:]

    def _answer(self, at: float, body: bytes) -> None:
        sink = self.sink
        sink.count += 1
        sink.came.append((at, body))
        text = BODY % sink.count
        answer = ANSWER % (len(text), text)
        if sink.delay_s:
            asyncio.get_running_loop().call_later(sink.delay_s, self.transport.write, answer)
        else:
            self.transport.write(answer)


async def serve(sink: Sink, tls: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(
        partial(Connection, sink), "127.0.0.1", 0, ssl=tls, backlog=1000
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay-ms", type=float, default=0, help="wait so long before each answer")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="speak HTTPS")
    args = parser.parse_args()
    tls = None
    if args.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*args.tls)
    uvloop.run(serve(Sink(args.delay_ms / 1000), tls))


if __name__ == "__main__":
    main()
