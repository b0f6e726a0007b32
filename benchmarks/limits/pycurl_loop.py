"""The bare loop with libcurl's multi interface on epoll: pop ids, POST them concurrently, keep no books."""

import select
import time

import pycurl
from work import HEADERS, IDLE_S, PATH, Cost, Pop, arguments, body, counting, popping

EVENTS = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


class Loop:
    """One multi handle, and an easy handle for each place."""

    def __init__(self, url: str, connections: int) -> None:
        self.epoll = select.epoll()
        self.watched: set[int] = set()
        self.wakes_at: float | None = None
        self.multi = pycurl.CurlMulti()
        self.multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self.multi.setopt(pycurl.M_TIMERFUNCTION, self._wake_in)
        self.multi.setopt(pycurl.M_MAXCONNECTS, connections)
        self.free = [self._easy(url) for _ in range(connections)]
        self.failed: list[str] = []

    def _easy(self, url: str) -> pycurl.Curl:
        easy = pycurl.Curl()
        easy.reply = []
        easy.headers = []
        easy.setopt(pycurl.URL, url + PATH)
        # An empty Expect: else curl asks before it sends more than a little.
        lines = [*(f"{name}: {value}" for name, value in HEADERS.items()), "Expect:"]
        easy.setopt(pycurl.HTTPHEADER, lines)
        easy.setopt(pycurl.POST, 1)
        easy.setopt(pycurl.WRITEFUNCTION, easy.reply.append)
        easy.setopt(pycurl.HEADERFUNCTION, easy.headers.append)
        easy.setopt(pycurl.NOSIGNAL, 1)
        easy.setopt(pycurl.CONNECTTIMEOUT, 5)
        easy.setopt(pycurl.TIMEOUT, 30)
        easy.setopt(pycurl.SSL_VERIFYPEER, 0)
        easy.setopt(pycurl.SSL_VERIFYHOST, 0)
        easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        return easy

    def _watch(self, what: int, fd: int, _multi: object, _data: object) -> None:
        if what == pycurl.POLL_REMOVE:
            self.watched.discard(fd)
            self.epoll.unregister(fd)
        elif fd in self.watched:
            self.epoll.modify(fd, EVENTS[what])
        else:
            self.watched.add(fd)
            self.epoll.register(fd, EVENTS[what])

    def _wake_in(self, ms: int) -> None:
        self.wakes_at = None if ms < 0 else time.monotonic() + ms / 1000

    def start(self, id_: bytes) -> None:
        easy = self.free.pop()
        easy.reply.clear()
        easy.headers.clear()
        easy.setopt(pycurl.POSTFIELDS, body(id_))
        self.multi.add_handle(easy)

    def step(self, longest_s: float) -> int:
        """Waits for something to happen, and does it; how many have ended."""
        wait_s = longest_s
        if self.wakes_at is not None:
            wait_s = min(wait_s, max(0.0, self.wakes_at - time.monotonic()))
        for fd, event in self.epoll.poll(wait_s):
            mask = (pycurl.CSELECT_IN if event & ~select.EPOLLOUT else 0) | (
                pycurl.CSELECT_OUT if event & select.EPOLLOUT else 0
            )
            self.multi.socket_action(fd, mask)
        if self.wakes_at is not None and time.monotonic() >= self.wakes_at:
            self.wakes_at = None
            self.multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        ended = 0
        while True:
            left, done, failed = self.multi.info_read()
            self.failed += [why for _, _, why in failed]
            for easy in [*done, *(easy for easy, _, _ in failed)]:
                self.multi.remove_handle(easy)
                self.free.append(easy)
                ended += 1
            if not left:
                return ended


def run(url: str, connections: int, pop: Pop, *, ends: bool) -> None:
    """Sends all that `pop` gives; with `ends`, until it gives nothing."""
    loop = Loop(url, connections)
    ids: list[bytes] = []
    under_way = 0
    while True:
        if not ids and loop.free:
            ids = pop() or []
        while ids and loop.free:
            loop.start(ids.pop())
            under_way += 1
        if ends and not under_way:
            break
        under_way -= loop.step(1.0 if under_way else IDLE_S)
    if loop.failed:
        raise SystemExit(f"{len(loop.failed)} failed: {loop.failed[0]}")


def main() -> None:
    args = arguments(__doc__)
    if args.redis:
        run(args.url, args.connections, popping(args.redis, 100), ends=False)
    cost = Cost()
    run(args.url, args.connections, counting(args.count, 100), ends=True)
    cost.tell(args.count)


if __name__ == "__main__":
    main()
