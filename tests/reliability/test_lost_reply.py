"""The messenger has the message, and its reply is lost."""

import pytest

from postrider.model import State
from postrider.selftest.balance import read
from postrider.selftest.fake import Answer, Call, FakeMessenger
from tests.reliability.rig import Rig


@pytest.mark.parametrize("tries_left", [True, False], ids=["to be tried again", "no try left"])
def test_every_lost_reply_is_on_record(
    rig: Rig, messenger: FakeMessenger, fleet_env: dict[str, str], long: bool, tries_left: bool
) -> None:
    """The connection is cut after the body, once for every second one of 200 (long: 5,000) deliveries.

    Silent doubles 0; each of them shows: as an attempt without an answer before the one that was sent, or, where no try
    is left, as unknown.
    """
    total = 5_000 if long else 200
    lost: set[str] = set()

    def script(call: Call) -> Answer | None:
        if int(call.to) % 2 and call.to not in lost:
            lost.add(call.to)
            return Answer(cut=True)
        return None

    messenger.script = script
    rig.fleet.start("worker", **({} if tries_left else {"RETRY_COUNT": "0"}))
    rig.spread(total, 30 if long else 2)
    balance = rig.settle()
    assert balance.ok
    assert len(lost) == total / 2
    found = read(rig.store)
    seen = {
        each.recipient.uuid: (each.state, [a.outcome for a in found.attempts[each.id]])
        for each in found.ended
    }
    assert len(seen) == total
    shows = (State.SENT, ["unclear", "sent"]) if tries_left else (State.UNKNOWN, ["unclear"])
    assert {uuid for uuid, what in seen.items() if what == shows} == lost
    assert balance.doubles == (len(lost) if tries_left else 0)
