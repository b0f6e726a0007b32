"""What messengers say later of what they took: it moves deliveries, and is kept with them."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import redis

from messengers.inward import Receipt
from postrider import records
from postrider.model import BUCKET, LETTERS, ReceiptKept, State
from postrider.scripts import Scripts, unavailable_when_redis_is

CHUNK = 500
"""Receipts that one script call takes at most: Redis answers nobody else meanwhile."""
EARLY_S = 600
"""Seconds for which one is kept that came before its delivery was recorded: longer than any attempt with its lease."""


class Receipts:
    """Receipts in one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self.scripts = Scripts(client)

    @unavailable_when_redis_is
    def take(
        self, account: str, receipts: Sequence[Receipt], *, finished_ttl_s: int, failed_ttl_s: int
    ) -> Counter[str]:
        """Moves what these are about; how many `moved`, how many are `early` and wait, how many are no `news`.

        Taking them again changes nothing.
        """
        words = {b"m": "moved", b"p": "early", b"n": "news"}
        gave: Counter[str] = Counter()
        for first in range(0, len(receipts), CHUNK):
            now = records.moment_of(self.redis)
            args: list[str | bytes] = []
            for receipt in receipts[first : first + CHUNK]:
                args += (
                    records.mark(account, receipt.provider_id, receipt.to),
                    receipt.key,
                    LETTERS[State(receipt.state)],
                    records.receipt_line(receipt, now),
                    "1" if receipt.dead else "0",
                )
            found = self.scripts.run(
                "receipt", account, finished_ttl_s, failed_ttl_s, EARLY_S, *args
            )
            gave.update(words[letter] for letter in found)
        return gave

    @unavailable_when_redis_is
    def of(self, ids: Sequence[str]) -> dict[str, list[ReceiptKept]]:
        """What was said of each of these deliveries, in the order in which it changed something."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for mid, _, index in (id_.partition("-") for id_ in ids):
            pipe.hget(f"pr:a:{mid}:{int(index) // BUCKET}", index)
        return dict(zip(ids, map(records.receipts, pipe.execute()), strict=True))
