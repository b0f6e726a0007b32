"""Our worker: claims what is due in batches, sends concurrently, records in batches.

One event loop sends; two threads talk to Redis, one claiming while the other records. It sleeps until the next delivery
is due, or until somebody tells it of an earlier one. A live worker renews its leases; a dead one's run out, and the sweep
of any other process finds what it held.
"""

import asyncio
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import redis
import uvloop

from postrider import link, queue
from postrider.errors import Unavailable
from postrider.model import Claim, State, Verdict
from postrider.service import LEASE_S, Service, open_accounts
from postrider.settings import Settings
from postrider.store import WAKE, Store
from postrider.transport import Concurrent

log = logging.getLogger("postrider.worker")

RENEW_S = 4.0
SWEEP_S = 5.0
STOPS = {signal.SIGTERM, signal.SIGINT}
LONGEST_SLEEP_S = 1.0
"""A wake-up can be lost, and a stock rqscheduler wakes nobody: look at least this often."""
DRAIN_S = 35.0
"""Seconds that sends under way get to finish at a stop; longer than any attempt."""
RECORD_WITHIN_S = 5.0
"""Seconds that the last outcomes get to be recorded at a stop."""
REDIS_AWAY_S = 0.5
"""Seconds between tries while Redis is away."""
SILENCE_S = 5
"""Seconds without a word on the channel after which Redis has to say that it is still there."""


def run(settings: Settings) -> int:
    """Works until SIGTERM or SIGINT; gives the exit code."""
    # Blocked and waited for: a handler would miss one that comes while it is set up.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    with link.connect(settings.redis_address) as client:
        while not _prepared(client):
            if signal.sigtimedwait(STOPS, REDIS_AWAY_S):
                return 0
        registration = queue.Registration(client)
        with registration.alive():
            return uvloop.run(_Worker(settings, client, registration).work())


def _prepared(client: redis.Redis) -> bool:
    """Whether Redis takes writes; none of a worker's can be done before."""
    try:
        queue.prepare(client)
    except queue.ERRORS as error:
        log.warning("Redis is not ready for a worker: %s", error)
        return False
    return True


class _Worker:
    def __init__(
        self, settings: Settings, client: redis.Redis, registration: queue.Registration
    ) -> None:
        self.settings = settings
        self.client = client
        self.registration = registration
        self.store = Store(client)
        self.service = Service(self.store, settings, open_accounts(settings))
        self.stopping = asyncio.Event()
        self.woken = asyncio.Event()
        """Something is due earlier than we meant to look."""
        self.looks_at = math.inf
        """When we look next, in Redis's time; while we look, any moment is earlier."""
        self.freed = asyncio.Event()
        """A place has become free."""
        self.ended = asyncio.Event()
        """Something can be recorded, or the last of it has been."""
        self.give_up_at = math.inf
        """Until when outcomes wait for Redis; once nothing is under way any more, not for ever."""
        self.at_work: dict[asyncio.Task[Verdict], Claim] = {}
        self.verdicts: list[Verdict] = []
        self.broken = False
        self.threads = ThreadPoolExecutor(4, "redis")

    async def work(self) -> int:
        """Works until it is told to stop; 1 when a part of it broke, so that whoever supervises it starts anew."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(self.threads)
        threading.Thread(target=self._wait_to_be_stopped, args=(loop,), daemon=True).start()
        log.info("worker %s is ready", self.registration.name)
        async with Concurrent(
            self.service.keep_note,
            connections=self.settings.worker_concurrency,
            tls_verify=self.settings.tls_verify,
        ) as self.transport:
            chores = [
                asyncio.create_task(chore)
                for chore in (
                    self._every(RENEW_S, self._renew),
                    self._every(SWEEP_S, self.service.sweep),
                    self._every(queue.HEARTBEAT_S, self.registration.heartbeat),
                    self._listen(),
                )
            ]
            recorder = asyncio.create_task(self._record())
            for part in (*chores, recorder):
                part.add_done_callback(self._stop_if_broken)
            await self._claim()
            await self._drain()
            await asyncio.gather(recorder, return_exceptions=True)
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
        log.info("worker %s has stopped", self.registration.name)
        return 1 if self.broken else 0

    def _stop_if_broken(self, part: asyncio.Task[None]) -> None:
        if not part.cancelled() and (error := part.exception()):
            log.error("a part of the worker broke; it stops", exc_info=error)
            self.broken = True
            self._stop()

    def _wait_to_be_stopped(self, loop: asyncio.AbstractEventLoop) -> None:
        signal.sigwait(STOPS)
        with suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self.stopping.set()
        self.woken.set()
        self.freed.set()

    # -- claiming

    async def _claim(self) -> None:
        """Fills the free places with claims, until it is told to stop."""
        while not self.stopping.is_set():
            free = self.settings.worker_concurrency - len(self.at_work)
            # What cannot be recorded must not pile up: it would all be sent again.
            if free == 0 or len(self.verdicts) > self.settings.worker_concurrency:
                self.freed.clear()
                await self.freed.wait()
                continue
            self.woken.clear()
            self.looks_at = math.inf
            try:
                claimed = await asyncio.to_thread(
                    self.store.claim, self.registration.name, free, LEASE_S, len(self.at_work)
                )
            except Unavailable as error:
                log.warning("%s", error)
                await self._sleep(REDIS_AWAY_S)
                continue
            if self.stopping.is_set():
                self._hand_back(claimed.claims)
                return
            for claim in claimed.claims:
                task = asyncio.create_task(self._attempt(claim))
                self.at_work[task] = claim
                task.add_done_callback(self._attempted)
            wait_s = LONGEST_SLEEP_S
            if claimed.next_due_in_s is not None:
                wait_s = min(wait_s, claimed.next_due_in_s)
            self.looks_at = claimed.at.timestamp() + wait_s
            await self._sleep(wait_s)

    async def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), seconds)

    async def _attempt(self, claim: Claim) -> Verdict:
        exchange = self.service.attempt(claim)
        try:
            exchange.send(await self.transport.send(next(exchange)))
        except StopIteration as stop:
            verdict: Verdict = stop.value
            return verdict
        raise AssertionError("an attempt makes one request")

    def _attempted(self, task: asyncio.Task[Verdict]) -> None:
        claim = self.at_work.pop(task)
        if task.cancelled():
            return
        if error := task.exception():  # its lease runs out, and it counts as unknown
            log.error("delivery %s: the attempt broke", claim.delivery_id, exc_info=error)
        else:
            self.verdicts.append(task.result())
            self.ended.set()
        self.freed.set()

    def _hand_back(self, claims: Sequence[Claim]) -> None:
        """Gives back what has not been started: no attempt, due at once."""
        self.verdicts += [
            Verdict(claim, State.RETRYING if claim.attempts else State.SCHEDULED, due_in_s=0.0)
            for claim in claims
        ]

    # -- recording

    async def _record(self) -> None:
        """Records what has ended, as soon as it can: while one batch is written, the next gathers."""
        while self.give_up_at == math.inf or self.verdicts:
            await self.ended.wait()
            self.ended.clear()
            await self._flush()

    async def _flush(self) -> None:
        while self.verdicts:
            batch, self.verdicts = self.verdicts, []
            worked_s = sum(
                (v.attempt.ended_at - v.attempt.started_at).total_seconds()
                for v in batch
                if v.attempt
            )
            while True:
                try:
                    moved = await asyncio.to_thread(
                        self.service.record, self.registration.name, batch, worked_s
                    )
                    break
                except Unavailable as error:
                    log.warning("%d outcomes wait to be recorded: %s", len(batch), error)
                    if time.monotonic() > self.give_up_at:
                        return  # their leases run out, and they count as unknown
                    await asyncio.sleep(REDIS_AWAY_S)
            self.freed.set()
            for verdict, ours in zip(batch, moved, strict=True):
                if not ours:
                    log.warning("delivery %s: ended after its lease", verdict.claim.delivery_id)

    # -- chores

    async def _every(self, seconds: float, chore: Callable[[], object]) -> None:
        while True:
            started = time.monotonic()
            try:
                await asyncio.to_thread(chore)
            except (Unavailable, redis.RedisError) as error:
                log.warning("%s", error)
            await asyncio.sleep(max(0.0, started + seconds - time.monotonic()))

    def _renew(self) -> None:
        held = [*self.at_work.values(), *(v.claim for v in self.verdicts)]
        self.store.renew([claim.job_id for claim in held], LEASE_S)

    async def _listen(self) -> None:
        """Wakes the claiming when somebody arms a delivery for an earlier moment than it waits for."""
        # Looks up each second: while it connects, redis-py takes being cancelled for a time-out.
        while not self.stopping.is_set():
            with suppress(redis.RedisError, OSError):
                async with (
                    await link.connect_async(self.settings.redis_address) as client,
                    client.pubsub(ignore_subscribe_messages=True) as channel,
                ):
                    await channel.subscribe(WAKE)
                    silent_s = 0
                    # After a failover a connection to the old master may stay, and stay silent.
                    while silent_s < 2 * SILENCE_S and not self.stopping.is_set():
                        message = await channel.get_message(timeout=1)
                        silent_s = 0 if message else silent_s + 1
                        if silent_s == SILENCE_S:
                            await channel.ping()
                        if (
                            message
                            and message["type"] == "message"
                            and float(message["data"]) < self.looks_at
                        ):
                            self.woken.set()
            await asyncio.sleep(REDIS_AWAY_S)

    async def _drain(self) -> None:
        """Lets sends under way finish. What does not make it in time may have left: its lease runs out."""
        if self.at_work:
            log.info("%d sends are under way; waiting for them", len(self.at_work))
            await asyncio.wait(self.at_work, timeout=DRAIN_S)
        self.give_up_at = time.monotonic() + RECORD_WITHIN_S
        self.ended.set()
