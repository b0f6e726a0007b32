"""The courier: posts callbacks, many at once, in a process of its own, so that a dead receiver slows nothing else.

Any number of them work side by side, on any host. Killed at any moment, one loses nothing: what it was about to post is due
again when its lease ends, under the same id.
"""

import logging
import os
import queue
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import redis

from messengers.base import NoReply, Reply
from postrider import callbacks, link
from postrider.callbacks import Event, Result
from postrider.errors import Misconfigured, Unavailable
from postrider.outbox import Claimed, Outbox
from postrider.outward import Outward
from postrider.settings import Settings

log = logging.getLogger("postrider.courier")

STOPS = {signal.SIGTERM, signal.SIGINT}
PLACES = 50
PER_HOST = 10
"""How many are under way at once, and of those to one host."""
LEASE_S = 60.0
"""Longer than a name server and a call may take together, and recording it."""
LONGEST_SLEEP_S = 1.0
BELL_S = 1.0
"""Seconds for which Redis is asked at a time whether there is an event; shorter than our clients wait for an answer."""
REDIS_AWAY_S = 0.5
FORGET_S = 60.0
NICE = 10
"""Sends come first, where processors are few."""
DRAIN_S = 20.0
"""Seconds that calls under way get to end at a stop."""
RECORD_WITHIN_S = 5.0


def run(settings: Settings) -> int:
    """Works until SIGTERM or SIGINT; gives the exit code. Raises Misconfigured."""
    os.nice(NICE)
    # Blocked and waited for: a handler would miss one that comes while it is set up.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    if not settings.webhook_secrets:
        raise Misconfigured("WEBHOOK_SECRET is not set: ./run.sh makes one")
    with link.connect(settings.redis_address) as client:
        courier = Courier(client, settings, Outward(settings.guard))
        threading.Thread(target=courier.stop_at_signal, daemon=True).start()
        courier.work()
    return 0


class Courier:
    """One loop that claims and records, a thread for each call, and one that listens for events."""

    def __init__(self, client: redis.Redis, settings: Settings, outward: Outward) -> None:
        self._secrets = settings.webhook_secrets
        self._webhook_url = settings.webhook_url
        self._outbox = Outbox(client)
        self._outward = outward
        self._stopping = threading.Event()
        self._news: queue.SimpleQueue[tuple[Claimed, Result, datetime] | None] = queue.SimpleQueue()
        """What wakes the loop: a call that has ended; None: something else is new."""
        self._looked = threading.Event()
        """The loop has seen what the bell rang for."""
        self._at_work: dict[str, str] = {}
        """Callback -> the host it is for."""
        self._ended: list[tuple[Claimed, Result, datetime]] = []
        self._forget_at = time.monotonic()

    def stop(self) -> None:
        """Makes `work` come to its end: calls under way end, and are recorded."""
        self._stopping.set()
        self._news.put(None)

    def stop_at_signal(self) -> None:
        """Waits for a signal, then stops."""
        signal.sigwait(STOPS)
        self.stop()

    def work(self) -> None:
        """Posts what is due until it is told to stop."""
        log.info("the courier is ready")
        bell = threading.Thread(target=self._listen, name="bell", daemon=True)
        bell.start()
        threads = ThreadPoolExecutor(PLACES, "call")
        try:
            while not self._stopping.is_set():
                self._await_news(self._turn(threads))
            self._drain()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            bell.join()
        log.info("the courier has stopped")

    def _turn(self, threads: ThreadPoolExecutor) -> float:
        """Records what has ended and begins what is due; gives the seconds after which to look again."""
        try:
            self._record()
            if time.monotonic() >= self._forget_at:
                self._forget_at = time.monotonic() + FORGET_S
                if too_many := self._outbox.forget():
                    log.warning("forgot %d ended callbacks early: too many are kept", too_many)
            claimed, wait_s = self._outbox.claim(
                PLACES - len(self._at_work),
                per_host=PER_HOST,
                busy=Counter(self._at_work.values()),
                lease_s=LEASE_S,
                webhook_url=self._webhook_url,
            )
        except Unavailable as error:
            log.warning("%s", error)
            self._stopping.wait(REDIS_AWAY_S)
            return 0.0
        self._looked.set()
        for one in claimed:
            self._at_work[one.id] = one.host
            threads.submit(self._call, one)
        return LONGEST_SLEEP_S if wait_s is None else min(wait_s, LONGEST_SLEEP_S)

    def _call(self, claimed: Claimed) -> None:
        """One try, in a thread of its own."""
        started = time.monotonic()
        try:
            answer = self._post(claimed)
        except Exception:
            log.exception("callback %s: the try broke", claimed.id)
            answer = NoReply(left=False, reason="internal error")
        ended_at = claimed.at + timedelta(seconds=time.monotonic() - started)
        self._news.put((claimed, callbacks.result(answer, claimed.tries), ended_at))

    def _post(self, claimed: Claimed) -> Reply | NoReply:
        event = Event.read(claimed.line)
        body = event.body() if claimed.is_copy or event.task is None else event.task_body()
        headers = callbacks.headers(self._secrets, claimed.id, body, claimed.at)
        return self._outward.send("POST", claimed.url, headers, body)

    def _await_news(self, seconds: float) -> None:
        """Sleeps until something is new, and takes all that is."""
        try:
            news = self._news.get(timeout=seconds) if seconds > 0 else self._news.get_nowait()
            while True:
                if news is not None:
                    self._at_work.pop(news[0].id, None)
                    self._ended.append(news)
                news = self._news.get_nowait()
        except queue.Empty:
            return

    def _record(self) -> None:
        while self._ended:
            batch = self._ended[:PLACES]
            recorded = self._outbox.record(batch)
            del self._ended[: len(batch)]
            for (claimed, result, _), ours in zip(batch, recorded, strict=True):
                if not ours:
                    log.warning("callback %s: ended after its lease", claimed.id)
                elif result.state == "dead":
                    log.warning("callback %s is dead after %d tries", claimed.id, claimed.tries + 1)

    def _drain(self) -> None:
        """Lets calls under way end, and records them. What does not make it in time is posted again."""
        give_up_at = time.monotonic() + DRAIN_S
        while self._at_work and time.monotonic() < give_up_at:
            self._await_news(0.1)
        give_up_at = time.monotonic() + RECORD_WITHIN_S
        while self._ended and time.monotonic() < give_up_at:
            try:
                self._record()
            except Unavailable as error:
                log.warning("%s", error)
                time.sleep(REDIS_AWAY_S)

    def _listen(self) -> None:
        """Rings as soon as there is an event; Redis is asked to wait for one, so that nobody polls."""
        while not self._stopping.is_set():
            self._looked.clear()
            try:
                if self._outbox.has_something(BELL_S):
                    self._news.put(None)
                    self._looked.wait(BELL_S)
            except Unavailable:
                self._stopping.wait(REDIS_AWAY_S)
