"""Uploads to messengers: a file goes up once for each account, then its messenger's own id for it is sent.

Who claims a delivery whose file has no such id yet uploads it; others who claim one with the same file meanwhile hand theirs
back for a moment.

Redis
  pr:known:<account> <file> <kind>      string   the messenger's own id for it
  pr:known:<account> <file> <kind> by   string   delivery that uploads it now
  pr:parts:<delivery>                   string   JSON, what became of each piece, until the attempt is recorded
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import redis

from messengers.abilities import Pieces
from messengers.base import File, Messenger
from postrider import records
from postrider.errors import Unavailable
from postrider.files import Files
from postrider.model import BUCKET, Claim, Part, Verdict
from postrider.records import account_key
from postrider.scripts import Scripts, unavailable_when_redis_is
from postrider.timeouts import within_s

log = logging.getLogger("postrider.uploads")

PARTS_KEPT_S = 7 * 86_400
"""Longer than a delivery can wait for its next attempt, unless it is paused."""
CHUNK = 1_000
"""Locks that one script ends."""
NOTED_WITHIN_S = 5.0
"""Seconds that notes of what has gone get to be written before those that are recorded are deleted."""


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
        self.scripts = Scripts(client)
        self.files = files
        self.accounts = accounts
        self._threads = ThreadPoolExecutor(1, "went")
        self.places = places
        """Accounts whose deliveries go to several places: what each did is to be known, too."""

    @unavailable_when_redis_is
    def ready(self, claims: Sequence[Claim]) -> list[Claim]:
        """`claims`, those of messages with files made ready to be sent."""
        found = list(claims)
        in_parts = [
            n
            for n, claim in enumerate(found)
            if (claim.message.files or (self.places and self._goes_to_several(claim)))
            and not claim.message.unreadable
        ]
        if not in_parts:
            return found
        pipe: Any = self.redis.pipeline(transaction=False)
        for n in in_parts:
            mid, _, index = found[n].delivery_id.partition("-")
            pipe.hget(f"pr:a:{mid}:{int(index) // BUCKET}", index)
            pipe.get(_noted(found[n]))
            if found[n].message.files:
                pipe.mget([_known_key(found[n], file) for file in found[n].message.files])
        told = iter(pipe.execute())
        for n in in_parts:
            claim = found[n]
            tried, went = next(told), next(told)
            known = next(told) if claim.message.files else ()
            files = tuple(
                replace(self.files.opened(file), known=(id_ or b"").decode())
                for file, id_ in zip(claim.message.files, known, strict=True)
            )
            parts = records.merged(records.parts(tried), records.read_parts(went))
            found[n] = replace(claim, files=files, parts=parts)
        self._take_uploads(found)
        return found

    def _goes_to_several(self, claim: Claim) -> bool:
        return (claim.recipient.service, claim.recipient.account) in self.places

    def _take_uploads(self, claims: list[Claim]) -> None:
        """Has each upload what of its files its messenger does not know yet, or wait for who does."""
        asked: list[int] = []
        pipe: Any = self.redis.pipeline(transaction=False)
        for n, claim in enumerate(claims):
            missing = _missing(claim) if claim.files and self._reuses_s(claim) else []
            # They go up one after the other.
            lasts_s = int(sum(within_s(file.size) for file in missing)) + 1
            for file in missing:
                pipe.set(_lock(claim, file), claim.delivery_id, nx=True, get=True, ex=lasts_s)
                asked.append(n)
        if not asked:
            return
        wait = {
            n
            for n, holder in zip(asked, pipe.execute(), strict=True)
            # Who comes back for a dead worker's delivery goes on with its uploads.
            if holder not in {None, claims[n].delivery_id.encode()}
        }
        self._release([claims[n] for n in wait])
        for n in wait:
            claims[n] = replace(claims[n], waits=True)

    @unavailable_when_redis_is
    def learn(self, verdicts: Sequence[Verdict], moved: Sequence[bool]) -> None:
        """Keeps what messengers call the files that these sent, and lets others upload what did not get up.

        What was noted of those that `moved` is on record with them. Of others it says what whoever has them now has sent.
        """
        recorded = [
            _noted(verdict.claim)
            for verdict, ours in zip(verdicts, moved, strict=True)
            if ours and verdict.claim.files and verdict.attempt and verdict.attempt.parts
        ]
        pipe: Any = self.redis.pipeline(transaction=False)
        ended: list[Claim] = []
        for verdict in verdicts:
            claim = verdict.claim
            if not claim.files or not (keep_s := self._reuses_s(claim)):
                continue
            for index, id_ in (verdict.known or {}).items():
                if not claim.files[index].id:  # only linked to: nobody could tell it from another
                    continue
                key = _known_key(claim, claim.files[index])
                if id_:
                    pipe.set(key, id_, ex=int(keep_s))
                else:
                    pipe.delete(key)
            if not claim.waits:
                ended.append(claim)
        if len(pipe):
            pipe.execute()
        self._release(ended)
        if recorded:
            self._forget(recorded)

    def _forget(self, keys: Sequence[str]) -> None:
        """Deletes these notes: behind those that are still to be written. Raises Unavailable when that takes too long."""
        client: Any = self.redis
        try:
            self._threads.submit(client.delete, *keys).result(NOTED_WITHIN_S)
        except TimeoutError:
            raise Unavailable("Redis is slow to take what has gone") from None

    def went(self, claim: Claim, parts: Sequence[Part | None]) -> None:
        """Notes what has gone of a delivery of several pieces, should its worker die before it can record that.

        Soon, and not at once: who sends does not wait for Redis.
        """
        self._threads.submit(self._note, _noted(claim), records.parts_line(parts))

    def _note(self, key: str, told: str) -> None:
        try:
            self.redis.set(key, told, ex=PARTS_KEPT_S)
        except redis.RedisError as error:
            log.warning("what has gone is not noted: %s", error)

    def parts(self, claim: Claim) -> tuple[Part | None, ...]:
        """What has gone of a delivery whose worker died."""
        client: Any = self.redis
        return records.read_parts(client.get(_noted(claim)))

    def _release(self, claims: Iterable[Claim]) -> None:
        """Ends their uploads; another's lock is left alone."""
        held = [
            (_lock(claim, file), claim.delivery_id) for claim in claims for file in _missing(claim)
        ]
        for first in range(0, len(held), CHUNK):
            words = [word for pair in held[first : first + CHUNK] for word in pair]
            self.scripts.run("uploads_end", *words)

    def _reuses_s(self, claim: Claim) -> float:
        adapter: object = self.accounts.get((claim.recipient.service, claim.recipient.account))
        return adapter.reuses_s if isinstance(adapter, Pieces) else 0.0


def _noted(claim: Claim) -> str:
    return f"pr:parts:{claim.delivery_id}"


def _missing(claim: Claim) -> list[File]:
    """Which of its files have to go up."""
    return [file for file in claim.files if file.id and not file.known]


def _lock(claim: Claim, file: File) -> str:
    return f"{_known_key(claim, file)} by"


def _known_key(claim: Claim, file: File) -> str:
    to = claim.recipient
    return f"pr:known:{account_key(to.service, to.account)} {file.id} {file.kind}"
