"""What both bare loops share: where ids come from, what one POST looks like, and what it all cost.

Ids are popped from a list in Redis in batches by a Lua script; with `--count` they are made up, which leaves the HTTP client
alone and measures that. The request is the one that our worker sends: `postrider.transport` and `messengers.telegram`.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable

PATH = "/bot1:x/sendMessage"
HEADERS = {
    "Accept-Encoding": "identity",
    "User-Agent": "postrider",
    "Content-Type": "application/json",
}
TEXT = "x" * 200
POP = "return redis.call('LPOP', KEYS[1], ARGV[1])"
IDLE_S = 0.005
"""How soon an idle loop looks again."""

Pop = Callable[[], list[bytes] | None]


def arguments(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--url", required=True, help="of the sink")
    parser.add_argument("--connections", type=int, default=100)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--redis", help="socket of a Redis whose list `ids` holds them")
    source.add_argument("--count", type=int, help="make up so many, then print what they cost")
    return parser.parse_args()


def popping(socket_path: str, most: int) -> Pop:
    """Takes up to `most` ids from Redis, which forgets them."""
    import redis  # noqa: PLC0415 - a loop that makes up its ids needs none

    script = redis.Redis(unix_socket_path=socket_path).register_script(POP)
    return lambda: script(keys=["ids"], args=[most])


def counting(count: int, most: int) -> Pop:
    """Makes up `count` ids."""
    ids = iter([str(n).encode() for n in range(count)])
    return lambda: [id_ for _, id_ in zip(range(most), ids, strict=False)]


def body(id_: bytes) -> bytes:
    """The JSON of one POST."""
    message = {"chat_id": int(id_), "text": TEXT}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


class Cost:
    """Time and CPU from its making on."""

    def __init__(self) -> None:
        self.at, self.cpu_s = time.perf_counter(), _cpu_s()

    def tell(self, count: int) -> None:
        """Prints them, per second and per POST."""
        seconds, cpu_s = time.perf_counter() - self.at, _cpu_s() - self.cpu_s
        print(json.dumps({"per_s": count / seconds, "cpu_us": cpu_s / count * 1e6}))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
