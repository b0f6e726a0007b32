"""One fleet, its messengers and what was accepted: to be loaded, harmed, and weighed."""

import os
import random
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import redis

from postrider.link import connect
from postrider.model import NewMessage, Recipient
from postrider.selftest.balance import COLUMNS, Balance, read, share, wait_until_still, weigh
from postrider.selftest.fake import FakeMessenger
from postrider.selftest.fleet import Fleet, Member
from postrider.selftest.load import Post, Recipients
from postrider.service import Service, open_accounts
from postrider.store import Store
from tests.conftest import wait_until


class Rig:
    """A service of its own. Its Redis runs from the start, the rest when a test starts it."""

    def __init__(self, fleet: Fleet, messenger: FakeMessenger, dice: random.Random) -> None:
        self.fleet = fleet
        self.messenger = messenger
        self.dice = dice
        self.posts: list[Post] = []
        self.ids: list[str] = []
        """Of every delivery that was accepted through `post`."""
        self.recipients = Recipients("telegram")
        self.redis: redis.Redis = connect(fleet.settings.redis_address)
        self.store = Store(self.redis)
        self.service = Service(self.store, fleet.settings, open_accounts(fleet.settings))
        fleet.start("redis")
        wait_until(self._redis_answers, 15, "Redis")

    def _redis_answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except redis.RedisError:
            return False

    def start(self, *, workers: int = 0, api: bool = False) -> list[Member]:
        """Starts them and waits until they are ready; gives the workers."""
        if api:
            self.fleet.start("api")
        started = [self.fleet.start("worker") for _ in range(workers)]
        self.fleet.wait_ready()
        return started

    # -- load

    def post(self, recipients: Sequence[Recipient], in_s: float | None = None) -> Post:
        """Has one message accepted that is due in so many seconds, or now."""
        now = self.store.now()
        send_at = None if in_s is None else now + timedelta(seconds=in_s)
        text = f"Hello {len(self.posts)}"
        message, _ = self.service.accept(NewMessage(text, tuple(recipients), send_at))
        self.posts.append(post := Post(text, tuple(recipients), message.due_at.timestamp(), "yes"))
        self.ids += (f"{message.id}-{n}" for n in range(message.total))
        return post

    def spread(self, total: int, seconds: float, *, source: Recipients | None = None) -> None:
        """Has `total` deliveries accepted that fall due evenly from now on."""
        source = source or self.recipients
        steps = min(total, max(1, int(seconds * 10)))
        sizes = [total // steps + (n < total % steps) for n in range(steps)]
        started_at = time.time()
        for n, size in enumerate(sizes):
            due_at = started_at + 0.5 + seconds * n / steps
            self.post(source.take(size), max(0.1, due_at - time.time()))

    # -- harm

    def kill_at_random(self, workers: Sequence[Member], kills: int, seconds: float) -> None:
        """So many SIGKILLs to random ones of them, at random moments of the next seconds."""
        started = time.monotonic()
        for at in sorted(self.dice.uniform(0, seconds) for _ in range(kills)):
            time.sleep(max(0.0, started + at - time.monotonic()))
            self.fleet.kill(self.dice.choice(workers))

    @staticmethod
    @contextmanager
    def frozen(worker: Member) -> Iterator[None]:
        """SIGSTOP at the beginning, SIGCONT at the end."""
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(worker.pid, signal.SIGCONT)

    # -- what came of it

    def settle(self) -> Balance:
        """The balance, once nothing moves any more; prints its figures."""
        wait_until_still(self.store, self.messenger)
        return self.balance()

    def balance(self, *others: FakeMessenger) -> Balance:
        """The balance as it stands now."""
        all_ = (self.messenger, *others)
        calls = [call for each in all_ for call in each.calls]
        took = [call for each in all_ for call in each.took]
        found = weigh(self.posts, read(self.store), calls, took, self.fleet.kills)
        columns = " ".join(f"{name}={found.columns[name]}" for name in COLUMNS)
        held = sum(len(kill.held) for kill in self.fleet.kills)
        print(f"\naccepted={found.accepted}: {columns}")
        print(f"lost={len(found.lost)} silent={len(found.silent)} doubles={found.doubles}")
        print(f"kills={len(self.fleet.kills)} in flight at them={held} early={len(found.early)}")
        print(f"orphans={len(found.orphans_s)} longest pick-up={share(found.orphans_s, 1):.1f} s")
        late = [f"{share(found.lateness_s, part):.3f}" for part in (0.5, 0.99, 1)]
        print(f"lateness p50={late[0]} p99={late[1]} max={late[2]} s")
        return found


def children(pid: int) -> list[int]:
    """The processes that this one has started, and that live."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def memory_mb(pid: int, which: str = "VmRSS") -> float:
    """Megabytes that a process has in memory; `VmHWM`: had at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no {which} in /proc/{pid}/status")


def open_files(pids: Iterable[int]) -> int:
    """Files and connections that these processes have open."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
