"""The keeper: looks after linked phones, in a process of its own, so that a sidecar that hangs slows nothing else.

Any number of them work side by side, on any host: each session is looked at by one at a time. Killed at any moment, one loses
nothing: what it was looking at is due again when its lease ends.
"""

import logging
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial

import redis

from postrider import link
from postrider.codes import Codes
from postrider.errors import Unavailable
from postrider.gathering import Gathering
from postrider.hands import Hands
from postrider.phones import LEASE_S
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import Store
from postrider.tasks import Task

log = logging.getLogger("postrider.keeper")

STOPS = {signal.SIGTERM, signal.SIGINT}
PLACES = 20
"""Sessions that are looked at at once."""
TASKS = 10
IN_A_ROW = 50
"""Tasks that are worked on at once, each of another queue; and of one queue, before others have their turn."""
LOOK_S = 0.5
"""Seconds between two looks at what is due."""
REDIS_AWAY_S = 2.0


def run(settings: Settings) -> int:
    """Works until SIGTERM or SIGINT; gives the exit code."""
    # Blocked and waited for: a handler would miss one that comes while it is set up.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    with link.connect(settings.redis_address) as client:
        service = Service(Store(client), settings, open_accounts(settings))
        service.start_alerts()
        codes = Codes(client, service.phones.sessions, settings)
        service.phones.watchers.append(codes)
        gathering = Gathering(service.awaited, service.files, settings, service.accounts)
        keeper = Keeper(service, (codes.turn, gathering.turn))
        threading.Thread(target=keeper.stop_at_signal, daemon=True).start()
        keeper.work()
    return 0


class Keeper:
    """One loop that asks what is due, and a thread for each session."""

    def __init__(
        self,
        service: Service,
        chores: Sequence[Callable[[], None]] = (),
        *,
        look_s: float = LOOK_S,
        lease_s: float = LEASE_S,
    ) -> None:
        """`chores`: what else is done all the time; each hands on what may take long."""
        self.service = service
        self._chores = chores
        self.look_s = look_s
        self.lease_s = lease_s
        self._stopping = threading.Event()
        self._at_work: set[str] = set()
        self._tasks: set[str] = set()

    def stop(self) -> None:
        """Makes `work` come to its end; looks under way are not waited for: others take over."""
        self._stopping.set()

    def stop_at_signal(self) -> None:
        """Waits for a signal, then stops."""
        signal.sigwait(STOPS)
        self.stop()

    def work(self) -> None:
        """Looks at what is due until it is told to stop."""
        log.info("the keeper is ready")
        # Not an executor's threads, which Python waits for at its end: a sidecar may take minutes to answer.
        hands = Hands("look", PLACES + TASKS, PLACES + TASKS)
        while not self._stopping.wait(self.look_s):
            self._quietly(partial(self._turn, hands))
            for chore in self._chores:
                self._quietly(chore)
        log.info("the keeper has stopped")

    def _turn(self, hands: Hands) -> None:
        phones = self.service.phones
        phones.sync()
        for id_ in phones.sessions.take_due(PLACES - len(self._at_work), self.lease_s):
            self._at_work.add(id_)
            hands.give(partial(self._look, id_))
        for task in self.service.older.take(TASKS - len(self._tasks)):
            self._tasks.add(task.id)
            hands.give(partial(self._work, task))

    def _look(self, id_: str) -> None:
        try:
            self._quietly(lambda: self.service.phones.look(id_))
        finally:
            self._at_work.discard(id_)

    def _work(self, first: Task) -> None:
        try:
            self._quietly(lambda: self._work_on(first))
        finally:
            self._tasks.discard(first.id)

    def _work_on(self, first: Task) -> None:
        """Works on it and on those behind it."""
        task: Task | None = first
        for _ in range(IN_A_ROW):
            if task is None:
                return
            if self._stopping.is_set():
                break
            task = self.service.older.work(task)
        if task is not None:
            self.service.older.hand_back(task)

    def _quietly(self, chore: Callable[[], None]) -> None:
        """Does it; what breaks is logged, and due again later."""
        try:
            chore()
        except (Unavailable, redis.RedisError) as error:
            log.warning("%s", error)
            self._stopping.wait(REDIS_AWAY_S)
        except Exception:
            log.exception("the keeper's look broke")
