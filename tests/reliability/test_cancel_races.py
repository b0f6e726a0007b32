"""Stopped in the very moment in which it would leave."""

import threading
import time
from collections.abc import Sequence

import pytest

from postrider.errors import IllegalTransition
from tests.reliability.rig import Rig

TOGETHER = 20
"""Deliveries that are due at once, and are all stopped around then."""
EVERY_S, AROUND_S = 0.05, (0.004,)
BESIDE_EVERY_S, BESIDE_AROUND_S = 0.2, (0.004, 0.02)
"""In the short form half of them spread more: so that stops are not all late where others need the machine, too."""


@pytest.mark.dice
def test_what_was_said_to_be_cancelled_is_never_sent(rig: Rig, long: bool) -> None:
    """500 (long: 10,000) deliveries, each stopped within 4 ms (short: half of them 20 ms) of when it is due, with two workers
    at it.

    Each is sent or cancelled, and the answer said which.
    """
    total = 10_000 if long else 500
    every_s, around_s = (EVERY_S, AROUND_S) if long else (BESIDE_EVERY_S, BESIDE_AROUND_S)
    rig.start(workers=2)
    begins_at = time.time() + 2 + total / 2_000
    told: dict[str, bool] = {}
    groups: list[tuple[float, Sequence[tuple[str, str]]]] = []
    for n in range(total // TOGETHER):
        due_at = begins_at + n * every_s
        post = rig.post(rig.recipients.take(TOGETHER), due_at - time.time())
        ids = rig.ids[-TOGETHER:]
        tos = [to.uuid for to in post.recipients]
        groups.append((post.due_at, list(zip(ids, tos, strict=True))))
    delays = {id_: rig.dice.uniform(-1, 1) * rig.dice.choice(around_s) for id_ in rig.ids}

    def stop(part: int, parts: int) -> None:
        for due_at, deliveries in groups:
            for id_, to in sorted(deliveries[part::parts], key=lambda d: delays[d[0]]):
                time.sleep(max(0.0, due_at + delays[id_] - time.time()))
                try:
                    rig.service.change_delivery("cancel", id_, None)
                except IllegalTransition:
                    told[to] = False
                else:
                    told[to] = True

    threads = [threading.Thread(target=stop, args=(part, 4)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    balance = rig.settle()
    assert balance.ok
    sent = {call.to for call in rig.messenger.calls}
    cancelled = {to for to, stopped in told.items() if stopped}
    print(f"of {total}: {len(cancelled)} cancelled, {len(sent)} sent, {len(cancelled & sent)} both")
    assert cancelled
    assert sent
    assert not cancelled & sent
    assert len(cancelled | sent) == total == len(told)
    assert balance.columns["cancelled"] == len(cancelled)
