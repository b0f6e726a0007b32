"""A load as cheap as Python makes one: what the sink can take at most. No time-outs, no chunks, nothing that may go wrong."""

import asyncio
import ssl
from urllib.parse import urlsplit

import uvloop
from work import HEADERS, PATH, Cost, Pop, arguments, body, counting


class Place(asyncio.Protocol):
    """One connection, with one POST under way at a time."""

    def __init__(self, head: bytes, ids: Pop) -> None:
        self.head, self.ids = head, ids
        self.rest = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._post()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed"))

    def data_received(self, data: bytes) -> None:
        self.rest += data
        head, end, rest = self.rest.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length:")[2].split(b"\r\n", 1)[0]) if end else 0
        if end and len(rest) >= length:
            self.rest = b""
            self._post()

    def _post(self) -> None:
        if id_ := self.ids():
            text = body(id_[0])
            self.transport.write(self.head + b"Content-Length: %d\r\n\r\n%b" % (len(text), text))
        else:
            self.done.set_result(None)
            self.transport.close()


async def run(url: str, connections: int, ids: Pop) -> None:
    """Sends all that `ids` gives."""
    loop = asyncio.get_running_loop()
    place = urlsplit(url)
    tls = None
    if place.scheme == "https":
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    lines = [f"POST {PATH} HTTP/1.1", f"Host: {place.netloc}"]
    lines += [f"{name}: {value}" for name, value in HEADERS.items()]
    head = "\r\n".join([*lines, ""]).encode()
    made = [
        await loop.create_connection(lambda: Place(head, ids), place.hostname, place.port, ssl=tls)
        for _ in range(connections)
    ]
    await asyncio.gather(*(one.done for _, one in made))


def main() -> None:
    args = arguments(__doc__)
    cost = Cost()
    uvloop.run(run(args.url, args.connections, counting(args.count, 1)))
    cost.tell(args.count)


if __name__ == "__main__":
    main()
