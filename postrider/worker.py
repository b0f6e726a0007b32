"""Our worker: claims what is due in batches, sends concurrently, records in batches.

One event loop sends; two threads talk to Redis, one claiming while the other records. It sleeps until the next delivery
may go, or until somebody tells it of an earlier one. Each account has places of its own, so that a messenger that hangs
takes none from another. A live worker renews its leases; a dead one's run out, and the sweep of any other process finds
what it held.
"""

import asyncio
import faulthandler
import gc
import logging
import math
import resource
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import redis
import uvloop

from messengers.base import Errand, NoReply, Note, Reply, Request
from postrider import link, queue
from postrider.attempts import Exchange
from postrider.counts import FLUSH_S
from postrider.curl import Concurrent
from postrider.errors import Unavailable
from postrider.model import Claim, Verdict
from postrider.sender import LEASE_S
from postrider.service import Service, open_accounts
from postrider.settings import Settings
from postrider.store import CHUNK, WAKE, Claimed, Store
from postrider.verdicts import handed_back

T = TypeVar("T")
log = logging.getLogger("postrider.worker")

RENEW_S = 4.0
SWEEP_S = 5.0
SYNC_S = 1.0
"""Seconds between two looks at which phones are linked."""
STOPS = {signal.SIGTERM, signal.SIGINT}
LONGEST_SLEEP_S = 1.0
"""A wake-up can be lost, and a stock rqscheduler wakes nobody: look at least this often."""
DRAIN_S = 35.0
"""Seconds that sends under way get to finish at a stop; longer than any attempt but those with large files."""
RECORD_WITHIN_S = 5.0
"""Seconds that the last outcomes get to be recorded at a stop."""
REDIS_AWAY_S = 0.5
"""Seconds between tries while Redis is away."""
STUCK_S = 3.0
"""Seconds of work (CPU) after which an event loop that has not turned never will: the kernel ends the process."""
TICK_S = 0.5
ASK_FOR = 4
ASK_AFTER_S = 0.002
"""Free places are filled when a quarter of them is free, or after this time."""
GARBAGE = 10_000
"""Objects between two looks for cycles: what a delivery leaves behind holds none."""
SILENCE_S = 5
"""Seconds without a word on the channel after which Redis has to say that it is still there."""


def run(settings: Settings) -> int:
    """Works until SIGTERM or SIGINT; gives the exit code."""
    # Blocked and waited for: a handler would miss one that comes while it is set up.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    # A broken adapter may take all there is of memory, or never come back: that is to cost this process, nothing else.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or settings.worker_memory < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (settings.worker_memory, hard))
    faulthandler.register(signal.SIGPROF, chain=True)
    gc.freeze()
    gc.set_threshold(GARBAGE, 10, 10)
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


def _cut_short(verdict: Verdict) -> Verdict:
    """What becomes of one that we ended before its messenger had a say. What has gone of it before is noted."""
    if verdict.attempt is None or verdict.attempt.outcome != "retry":
        return verdict
    return replace(handed_back(verdict.claim), known=verdict.known)


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
        self.more = False
        """Something only waits for a place to become free."""
        self.freed = 0
        """How many places have become free since we last asked for claims."""
        self.nonce = secrets.token_hex(8)
        """The same until an answer has come, so that claims whose answer was lost are given again."""
        self.ended = asyncio.Event()
        """Something can be recorded, or the last of it has been."""
        self.give_up_at = math.inf
        """Until when outcomes wait for Redis; once nothing is under way any more, not for ever."""
        self.at_work: dict[str, tuple[Claim, ...]] = {}
        """First job of a call -> all that went out by it."""
        self.quiet = asyncio.Event()
        """Nothing is under way."""
        self.giving_up = False
        """What ends now does so because we stop."""
        self.verdicts: list[Verdict] = []
        self.recording: list[Verdict] = []
        self.broken = False
        self.threads = ThreadPoolExecutor(4, "redis")

    async def work(self) -> int:
        """Works until it is told to stop; 1 when a part of it broke, so that whoever supervises it starts anew."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._wait_to_be_stopped, args=(loop,), daemon=True).start()
        log.info("worker %s is ready", self.registration.name)
        self.service.start_alerts()
        carrier = Concurrent(self.service.keep_note, tls_verify=self.settings.tls_verify)
        with closing(carrier) as self.transport:
            chores = [
                asyncio.create_task(chore)
                for chore in (
                    self._every(RENEW_S, self._renew),
                    self._every(SWEEP_S, self.service.sweep),
                    self._every(SYNC_S, self.service.phones.sync),
                    self._every(queue.HEARTBEAT_S, self.registration.heartbeat),
                    self._every(FLUSH_S, self.service.counts.flush),
                    self._listen(),
                    self._tick(),
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
            await self._in_thread(self.service.counts.flush)
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

    # -- claiming

    async def _claim(self) -> None:
        """Fills the free places with claims, until it is told to stop."""
        while not self.stopping.is_set():
            self.woken.clear()
            self.freed = 0
            # What cannot be recorded must not pile up: it would all be sent again.
            if len(self.verdicts) > self.settings.worker_concurrency:
                self.more = True
                await self._sleep(LONGEST_SLEEP_S)
                continue
            self.looks_at = math.inf
            asked_at = time.monotonic()
            try:
                claimed = await self._in_thread(self._claims())
            except Unavailable as error:
                log.warning("%s", error)
                await self._sleep(REDIS_AWAY_S)
                continue
            self.nonce = secrets.token_hex(8)
            if self.stopping.is_set():
                self.verdicts += map(handed_back, claimed.claims)
                return
            begun = []
            for claims in self.service.sender.calls(claimed.claims):
                self._begin(claims)
                begun.append((claims, time.monotonic() - asked_at))
            if begun:
                self.service.counts.left(claimed.at.timestamp(), begun)
            wait_s = LONGEST_SLEEP_S
            if claimed.next_look_in_s is not None:
                wait_s = min(wait_s, claimed.next_look_in_s)
            self.looks_at = claimed.at.timestamp() + wait_s
            self.more = claimed.more
            await self._sleep(wait_s)

    def _claims(self) -> Callable[[], Claimed]:
        """The call that claims for the places that are free now."""
        most, limits = self.settings.worker_concurrency, self.service.sender.limits
        firsts = [claims[0] for claims in self.at_work.values()]
        used = Counter((c.recipient.service, c.recipient.account) for c in firsts)
        return partial(
            self.service.sender.claim,
            self.registration.name,
            {key: max(0, (its.places or most) - used[key]) for key, its in limits.items()},
            nonce=self.nonce,
            busy=len(firsts),
            alone=not any(claim.deaths is not None for claim in firsts),
        )

    async def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), seconds)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Runs what waits for Redis; in threads of its own, as name look-ups may block the loop's."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, call)

    def _begin(self, claims: tuple[Claim, ...]) -> None:
        """Sends what goes out by one call."""
        self.at_work[claims[0].job_id] = claims
        exchange = self.service.sender.attempt(claims)
        self._go_on(exchange, claims, partial(next, exchange))

    def _go_on(
        self,
        exchange: Exchange,
        claims: tuple[Claim, ...],
        step: Callable[[], Request | Note | Errand],
    ) -> None:
        """Starts the request that comes next in an exchange, if any does."""
        try:
            request = step()
        except StopIteration as stop:
            self._ended(claims, stop.value)
            return
        try:
            self.transport.start(request, partial(self._answered, exchange, claims))
        except Exception as error:  # noqa: BLE001 - who asked for it says what it means; else its claims would be held for ever
            self._go_on(exchange, claims, partial(exchange.throw, error))

    def _answered(
        self, exchange: Exchange, claims: tuple[Claim, ...], reply: Reply | NoReply
    ) -> None:
        self._go_on(exchange, claims, partial(exchange.send, reply))

    def _ended(self, claims: tuple[Claim, ...], verdicts: list[Verdict]) -> None:
        del self.at_work[claims[0].job_id]
        if self.giving_up:
            verdicts = list(map(_cut_short, verdicts))
        self.verdicts += verdicts
        self.ended.set()
        if self.more:
            self._ask_for_more()
        if not self.at_work:
            self.quiet.set()

    def _ask_for_more(self) -> None:
        """Claims soon: a little later, when others have ended, too, it is cheaper for each."""
        self.freed += 1
        if self.freed >= self.settings.worker_concurrency // ASK_FOR:
            self.woken.set()
        elif self.freed == 1:
            asyncio.get_running_loop().call_later(ASK_AFTER_S, self.woken.set)

    # -- recording

    async def _record(self) -> None:
        """Records what has ended, as soon as it can: while one batch is written, the next gathers."""
        while self.give_up_at == math.inf or self.verdicts:
            await self.ended.wait()
            self.ended.clear()
            await self._flush()

    async def _flush(self) -> None:
        while self.verdicts:
            batch, self.verdicts = self.verdicts[:CHUNK], self.verdicts[CHUNK:]
            self.recording = batch
            worked_s = sum(
                (v.attempt.ended_at - v.attempt.started_at).total_seconds()
                for v in batch
                if v.attempt
            )
            while True:
                try:
                    moved = await self._in_thread(
                        partial(self.service.sender.record, self.registration.name, batch, worked_s)
                    )
                    break
                except Unavailable as error:
                    log.warning("%d outcomes wait to be recorded: %s", len(batch), error)
                    if time.monotonic() > self.give_up_at:
                        return  # their leases run out, and they count as unknown
                    await asyncio.sleep(REDIS_AWAY_S)
            if self.more:
                self.woken.set()
            for verdict, ours in zip(batch, moved, strict=True):
                if not ours:
                    log.warning("delivery %s: ended after its lease", verdict.claim.delivery_id)

    # -- chores

    async def _every(self, seconds: float, chore: Callable[[], object]) -> None:
        while True:
            started = time.monotonic()
            try:
                await self._in_thread(chore)
            except (Unavailable, redis.RedisError) as error:
                log.warning("%s", error)
            await asyncio.sleep(max(0.0, started + seconds - time.monotonic()))

    def _renew(self) -> None:
        at_work = [claim for claims in list(self.at_work.values()) for claim in claims]
        ended = [verdict.claim for verdict in self.recording + self.verdicts]
        self.store.renew((claim.job_id for claim in at_work + ended), LEASE_S)

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

    async def _tick(self) -> None:
        """Puts off the end that the kernel makes of a process whose loop stands still: see STUCK_S."""
        while True:
            signal.setitimer(signal.ITIMER_PROF, STUCK_S)
            await asyncio.sleep(TICK_S)

    async def _drain(self) -> None:
        """Lets sends under way finish. Of those that do not in time, uploads that are not out whole are handed back; what else
        there is may have left: its lease runs out."""
        if self.at_work:
            log.info("sends under way: %d; waiting for them", len(self.at_work))
            self.quiet.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.quiet.wait(), DRAIN_S)
            self.giving_up = True
            self.transport.give_up()
            self.giving_up = False
        self.give_up_at = time.monotonic() + RECORD_WITHIN_S
        self.ended.set()
