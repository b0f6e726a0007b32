"""Sending: claims what is due, makes each attempt, records how it ended. Carries nothing itself: workers do."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from messengers.abilities import Broadcast, Places
from messengers.base import Messenger, Outcome
from postrider import verdicts
from postrider.accounts import Accounts
from postrider.attempts import Attempts, Exchange
from postrider.check_first import CheckFirst
from postrider.counts import Counts
from postrider.errors import Unavailable
from postrider.files import Files
from postrider.limits import Limits, limits_of
from postrider.model import Claim, NewMessage, Signal, State, Verdict
from postrider.numbers import Numbers
from postrider.records import account_key
from postrider.settings import Settings
from postrider.store import Claimed, Store
from postrider.suppressions import Suppressions
from postrider.transport import Transport
from postrider.uploads import Uploads

log = logging.getLogger("postrider.sender")

LEASE_S = 15.0
"""A claim of ours; renewed while its worker lives. With the longest grace still under a minute."""
STOCK_LEASE_S = 55.0
"""A stock worker cannot renew its lease: longer than any attempt (timeouts.WHOLE_S), and recording it."""
AWAY_S = 0.5
"""Seconds between tries while Redis is away."""
RENEW_S = 15.0
RECORD_WITHIN_S = 20.0
"""Seconds for which a stock worker tries to record; with the attempt itself still under its lease."""

TROUBLE = {Signal.FAILS, Signal.PAUSES, Signal.REFUSED}


class DeliveryFailed(Exception):
    """A delivery failed for good; in words for RQ's list of failed jobs."""


class Sender:
    """Sends what is due through these accounts: (messenger, account name) -> adapter."""

    limits: dict[tuple[str, str], Limits]
    """What each account may do; one that turns out not to be allowed to broadcast no longer does."""
    on_stop: Callable[[str, str], None]
    """Stops an account until an operator lets it go on; told why."""
    on_trouble: Callable[[str, str], None]
    """Told of an account, by messenger and name, whose messenger does not take what it is given now."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        accounts: Mapping[tuple[str, str], Messenger],
        counts: Counts,
        files: Files,
    ) -> None:
        self.store = store
        self.on_stop = lambda _account, _why: None
        self.on_trouble = lambda _service, _account: None
        self.settings = settings
        self.accounts = accounts
        self.counts = counts
        self.files = files
        self.suppressions = Suppressions(store.redis)
        adapters: Mapping[tuple[str, str], object] = accounts
        places = {key: a.several() for key, a in adapters.items() if isinstance(a, Places)}
        several = frozenset(key for key, count in places.items() if count > 1)
        self.uploads = Uploads(store.redis, files, accounts, several)
        self.first = CheckFirst(Numbers(store.redis, settings.whatsapp_web_check_cap), accounts)
        self.limits = {}
        self.know_accounts()
        self.attempts = Attempts(
            settings,
            accounts,
            uploads=self.uploads,
            first=self.first,
            places=frozenset(places),
            one_by_one=self._one_by_one,
        )

    def know_accounts(self) -> None:
        """Has what each account may do worked out anew, once some have come, gone, or changed."""
        paces = self.accounts.paces if isinstance(self.accounts, Accounts) else {}
        found = {
            key: limits_of(adapter, self.settings, paces.get(key))
            for key, adapter in self.accounts.items()
        }
        for key, limits in self.limits.items():
            if key in found and limits.receivers == 1:  # what an account may not is not forgotten
                found[key] = replace(found[key], receivers=1)
        self.limits = found

    def receivers(self, new: NewMessage) -> int | None:
        """How many recipients of `new` one call reaches, where calls reach several."""
        if new.files:
            return 1
        several: dict[tuple[str, str], list[str]] = {}
        for to in new.recipients:
            limits = self.limits.get((to.service, to.account))
            if limits and limits.receivers > 1:
                several.setdefault((to.service, to.account), []).append(to.uuid)
        found = []
        for key, tos in several.items():
            adapter: object = self.accounts[key]
            if isinstance(adapter, Broadcast):
                found.append(adapter.most_receivers(new.body, tos))
        return min(found, default=None)

    def claim(
        self,
        worker: str,
        free: Mapping[tuple[str, str], int] | int,
        *,
        nonce: str | None = None,
        busy: int = 0,
        alone: bool = True,
        lease_s: float = LEASE_S,
    ) -> Claimed:
        """Takes what is due and may go now: at most `free` calls per account (an int: for each).

        The same `nonce` again, after an answer that was lost, gives the same claims. `busy`: how many older ones are at
        work. `alone`: whether one may be among them that goes by itself.
        """
        claimed = self.store.claim(
            worker,
            nonce or secrets.token_hex(8),
            self._specs(free),
            lease_s,
            busy=busy,
            alone=alone,
        )
        return replace(claimed, claims=self._ready(claimed.claims))

    def _ready(self, claims: Sequence[Claim]) -> list[Claim]:
        return self.suppressions.spared(self.uploads.ready(self.first.ready(claims)))

    def _specs(self, free: Mapping[tuple[str, str], int] | int) -> dict[str, Any]:
        offset = datetime.now(ZoneInfo(self.settings.tz)).utcoffset() or timedelta()
        return {
            account_key(*key): limits.spec(
                free if isinstance(free, int) else free.get(key, 0), int(offset.total_seconds())
            )
            for key, limits in self.limits.items()
            if limits.goes
        }

    def calls(self, claims: Sequence[Claim]) -> Iterator[tuple[Claim, ...]]:
        """`claims`, cut into what goes out by one call each: alone, or many of one message."""
        together: dict[tuple[str, str, str], list[Claim]] = {}
        for claim in claims:
            to = claim.recipient
            limits = self.limits.get((to.service, to.account))  # None: gone since
            if limits is None or limits.receivers == 1 or claim.how or claim.files:
                yield (claim,)
            else:
                together.setdefault((claim.message.id, to.service, to.account), []).append(claim)
        for (_, *account), group in together.items():
            adapter: object = self.accounts[account[0], account[1]]
            most = 1
            if isinstance(adapter, Broadcast):
                most = adapter.most_receivers(group[0].message.body, [c.to for c in group])
            for first in range(0, len(group), most):
                yield tuple(group[first : first + most])

    def attempt(self, claims: Sequence[Claim]) -> Exchange:
        """One try at what goes out by one call: yields the request, is sent what came back, returns the verdicts."""
        return self.attempts.attempt(claims)

    def verdict(self, claim: Claim, outcome: Outcome, took_s: float = 0.0) -> Verdict:
        """What `outcome` means for the delivery, and for its account."""
        return self.attempts.verdict(claim, outcome, took_s)

    def _one_by_one(self, key: tuple[str, str]) -> None:
        log.warning("%s may not broadcast; it sends one by one from here on", account_key(*key))
        self.limits[key] = replace(self.limits[key], receivers=1)

    def deliver(self, job_id: str, transport: Transport) -> None:
        """Sends what one job names, on behalf of a stock RQ worker; nothing when there is nothing to do.

        Raises DeliveryFailed after it is recorded, so that RQ lists the job as failed.
        """
        asked_at = time.monotonic()
        claim = self.store.claim_one(job_id, self._specs(1), STOCK_LEASE_S)
        if claim is None:
            return
        (claim,) = self._ready([claim])
        exchange = self.attempt([claim])
        try:
            with self._held(claim):
                request = next(exchange)
                self.counts.left(claim.at.timestamp(), [([claim], time.monotonic() - asked_at)])
                while True:
                    request = exchange.send(transport.send(request))
        except StopIteration as stop:
            (verdict,) = stop.value
        self._record_patiently(verdict)
        self.counts.flush()
        if verdict.state is State.FAILED and verdict.attempt:
            raise DeliveryFailed(verdict.attempt.reason)

    @contextmanager
    def _held(self, claim: Claim) -> Iterator[None]:
        """Renews the lease of a claim whose files may take longer than it to be sent."""
        if not claim.files:
            yield
            return
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEW_S):
                with suppress(Unavailable):
                    self.store.renew([claim.job_id], STOCK_LEASE_S)

        thread = threading.Thread(target=renew, daemon=True, name="renew")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _record_patiently(self, verdict: Verdict) -> None:
        """Records, also when Redis is away for a moment: what was sent must not be sent again."""
        give_up_at = time.monotonic() + RECORD_WITHIN_S
        while True:
            try:
                self.record("", [verdict])
            except Unavailable:
                if time.monotonic() > give_up_at:
                    raise  # its lease runs out, and it counts as unknown
                time.sleep(AWAY_S)
            else:
                return

    def record(self, worker: str, verdicts: list[Verdict], worked_s: float = 0.0) -> list[bool]:
        """Writes down how attempts ended; False for a claim that was no longer ours."""
        self._stop_accounts(verdicts)
        moved = self.store.record(
            worker,
            verdicts,
            finished_ttl_s=self.settings.delete_finished_timeout,
            failed_ttl_s=self.settings.delete_failed_timeout,
            refused_s=self.settings.retry_interval,
            worked_s=worked_s,
        )
        self.counts.ended(verdicts, moved)
        self._tell_trouble(verdicts)
        try:
            self.uploads.learn(verdicts, moved)
            self.first.learn(verdicts)
        # It is recorded; a file may go up, a number be asked for, once more.
        except Unavailable as error:
            log.warning(
                "what messengers call some files, or say of numbers, is not kept: %s", error
            )
        return moved

    def _stop_accounts(self, found: Sequence[Verdict]) -> None:
        """Stops accounts that must not even be tried again before somebody has looked."""
        for verdict in found:
            if verdict.kind == verdicts.STOPPED and verdict.attempt:
                to = verdict.claim.recipient
                self.on_stop(account_key(to.service, to.account), verdict.attempt.reason)

    def _tell_trouble(self, found: Sequence[Verdict]) -> None:
        ill = {
            (verdict.claim.recipient.service, verdict.claim.recipient.account)
            for verdict in found
            if verdict.signal in TROUBLE
        }
        for account in ill:
            with suppress(Unavailable):
                self.on_trouble(*account)

    def settle_overdue(self) -> None:
        """Finds what a dead worker left under its lease, and says what becomes of it."""
        while claims := self.store.overdue(LEASE_S):
            self.record("sweep", [self._died(claim) for claim in claims])

    def _died(self, claim: Claim) -> Verdict:
        found = verdicts.died(claim, self.settings, grace_s=self.attempts.grace_s(claim))
        if not claim.message.files or not found.attempt:
            return found
        return replace(found, attempt=replace(found.attempt, parts=self.uploads.parts(claim)))
