"""Uploads to messengers: a file goes up once for each account, then its messenger's own id for it is sent.

Who claims a delivery whose file has no such id yet uploads it; others who claim one with the same file meanwhile hand theirs
back for a moment.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import redis

from messengers.base import File, Messenger, TakesFiles
from postrider import records
from postrider.files import Files
from postrider.model import BUCKET, Claim, Verdict
from postrider.records import account_key
from postrider.scripts import unavailable_when_redis_is
from postrider.transport import BYTES_A_S, WHOLE_S


class Uploads:
    """Which messenger knows which file, kept in one Redis."""

    def __init__(
        self,
        client: redis.Redis,
        files: Files,
        accounts: Mapping[tuple[str, str], Messenger],
        places: Collection[tuple[str, str]] = (),
    ) -> None:
        self.redis = client
        self.files = files
        self.accounts = accounts
        self.places = places
        """Accounts whose deliveries go to several places: what each did is to be known, too."""

    @unavailable_when_redis_is
    def ready(self, claims: Sequence[Claim]) -> list[Claim]:
        """`claims`, those of messages with files made ready to be sent."""
        found = list(claims)
        with_files = [n for n, claim in enumerate(found) if claim.message.files]
        if self.places:
            with_files = [n for n, claim in enumerate(found) if self._has_parts(claim)]
        if not with_files:
            return found
        pipe: Any = self.redis.pipeline(transaction=False)
        for n in with_files:
            mid, _, index = found[n].delivery_id.partition("-")
            pipe.hget(f"pr:a:{mid}:{int(index) // BUCKET}", index)
            if found[n].message.files:
                pipe.mget([_known_key(found[n], file) for file in found[n].message.files])
        told = iter(pipe.execute())
        for n in with_files:
            claim = found[n]
            tried, known = next(told), next(told) if claim.message.files else ()
            files = tuple(
                replace(self.files.opened(file), known=(id_ or b"").decode())
                for file, id_ in zip(claim.message.files, known, strict=True)
            )
            found[n] = replace(claim, files=files, parts=records.parts(tried))
        return [self._with_uploads(claim) if claim.files else claim for claim in found]

    def _has_parts(self, claim: Claim) -> bool:
        to = claim.recipient
        return bool(claim.message.files) or (to.service, to.account) in self.places

    def _with_uploads(self, claim: Claim) -> Claim:
        """`claim`, which uploads what of its files its messenger does not know yet, or waits for who does."""
        if not self._reuses_s(claim):
            return claim
        client: Any = self.redis
        for file in claim.files:
            if file.known or not file.id:
                continue
            within_s = WHOLE_S + file.size / BYTES_A_S
            lock = f"{_known_key(claim, file)} by"
            if client.set(lock, claim.job_id, nx=True, ex=int(within_s) + 1):
                continue
            if client.get(lock) != claim.job_id.encode():
                self._release(claim)
                return replace(claim, waits=True)
        return claim

    @unavailable_when_redis_is
    def learn(self, verdicts: Sequence[Verdict]) -> None:
        """Keeps what messengers call the files that these sent, and lets others upload what did not get up."""
        for verdict in verdicts:
            claim = verdict.claim
            if not claim.files or not (keep_s := self._reuses_s(claim)):
                continue
            pipe: Any = self.redis.pipeline(transaction=False)
            for index, id_ in (verdict.known or {}).items():
                key = _known_key(claim, claim.files[index])
                if id_:
                    pipe.set(key, id_, ex=int(keep_s))
                else:
                    pipe.delete(key)
            pipe.execute()
            if not claim.waits:
                self._release(claim)

    def _release(self, claim: Claim) -> None:
        """Ends its uploads; another's lock it leaves alone."""
        client: Any = self.redis
        for file in claim.files:
            if file.id and not file.known:
                lock = f"{_known_key(claim, file)} by"
                if client.get(lock) == claim.job_id.encode():
                    client.delete(lock)

    def _reuses_s(self, claim: Claim) -> float:
        adapter: object = self.accounts.get((claim.recipient.service, claim.recipient.account))
        return adapter.reuses_s if isinstance(adapter, TakesFiles) else 0.0


def _known_key(claim: Claim, file: File) -> str:
    to = claim.recipient
    return f"pr:known:{account_key(to.service, to.account)} {file.id} {file.kind}"
