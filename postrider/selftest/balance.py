"""What was accepted against what became of it, delivery by delivery: our records on one side, the messenger's on the other."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from postrider.errors import Unavailable
from postrider.finding import Finder, Wanted
from postrider.model import Attempt, Delivery, Recipient, State
from postrider.selftest.fake import Call, FakeMessenger
from postrider.selftest.fleet import Kill
from postrider.selftest.load import Post
from postrider.store import Page, Store

STILL_S = 120.0
"""What has not moved for so long will not: longer than any wait that a run may cause."""
PAGE = 1_000
LOOK_S = 0.1
COLUMNS = ("sent", "failed", "cancelled", "expired", "suppressed", "unknown", "waiting")
"""Where an accepted delivery can stand: together they are all that was accepted."""
_COLUMN: Mapping[State, str] = {
    State.DELIVERED: "sent",
    State.READ: "sent",
    **{State(name): name for name in COLUMNS if name != "waiting"},
}

Key = tuple[str, str]
"""Messenger and uuid: in a run, they name one delivery."""


@dataclass(frozen=True, slots=True)
class Found:
    """What Redis holds: deliveries that wait, that ended or are on hold, and what was tried for each (by id)."""

    waiting: Sequence[Delivery]
    ended: Sequence[Delivery]
    attempts: Mapping[str, Sequence[Attempt]]


@dataclass(frozen=True, slots=True)
class Balance:
    """The result. `lost`: accepted, and neither ended nor moving; `silent`: came twice, with one attempt on record."""

    accepted: int
    columns: Mapping[str, int]
    lost: Sequence[Key]
    silent: Sequence[Key]
    doubles: int
    """Times that a messenger got a message again, and our record shows why."""
    unasked: Sequence[Key]
    """What a messenger got though nobody was told that it was accepted, and no record has it."""
    early: Sequence[Key]
    lateness_s: Sequence[float]
    """Of each delivery's first call, sorted."""
    in_doubt: int
    """Messages whose client got no answer."""
    orphans_s: Sequence[float]
    """For each delivery that a killed worker held: how long until another process found it. Sorted."""
    failures: Counter[str] = field(default_factory=Counter)
    """Last words -> deliveries that failed with them."""

    @property
    def holds(self) -> bool:
        """Everything accepted stands in one column, and nothing else does."""
        return self.accepted == sum(self.columns.values()) and not self.unasked

    @property
    def ok(self) -> bool:
        """All that Postrider promises was kept."""
        return self.holds and not (self.lost or self.silent or self.early)


def read(store: Store) -> Found:
    """All that stands in the lists."""
    waiting = [delivery for delivery, _ in _pages(store.scheduled)]
    ended = [delivery for delivery, _ in _pages(store.finished)]
    ended += _cancelled(Finder(store.redis))
    return Found(waiting, ended, store.attempts([each.id for each in (*waiting, *ended)]))


def _pages(part: Callable[[int, str | None], Page]) -> Iterable[tuple[Delivery, object]]:
    cursor = None
    while True:
        page = part(PAGE, cursor)
        yield from page.rows
        if (cursor := page.next) is None:
            return


def _cancelled(finder: Finder) -> Iterable[Delivery]:
    """What was stopped, which the simple lists do not show."""
    cursor = None
    while True:
        found, cursor = finder.deliveries(Wanted(state=State.CANCELLED), PAGE, cursor)
        yield from (each.delivery for each in found)
        if cursor is None:
            return


def wait_until_still(
    store: Store, messenger: FakeMessenger, tell: Callable[[int], None] = lambda _: None
) -> bool:
    """Waits for the end of all that moves; False when something waits that has not moved for `STILL_S`.

    Tells `tell` how many deliveries have not ended yet.
    """
    last: object = None
    give_up_at = time.monotonic() + STILL_S
    while time.monotonic() < give_up_at:
        try:
            counts = store.counts()
        except Unavailable:  # on its way back
            time.sleep(LOOK_S)
            continue
        tell(left := counts.waiting + counts.sending)
        if left == 0:
            return True
        if (now := (counts, len(messenger.calls))) != last:
            last, give_up_at = now, time.monotonic() + STILL_S
        time.sleep(LOOK_S)
    return False


def weigh(
    posts: Sequence[Post],
    found: Found,
    calls: Sequence[Call],
    took: Sequence[Call],
    kills: Sequence[Kill] = (),
) -> Balance:
    """Holds what clients were told against what is on record, what came to the messenger, and what it took of that."""
    ids = {_key(each.recipient): each for each in (*found.ended, *found.waiting)}
    sent = {_key(each.recipient) for each in found.ended if _COLUMN[each.state] == "sent"}
    waiting = {_key(each.recipient) for each in found.waiting}
    times_taken = Counter(_receivers(took))

    due: dict[Key, float] = {}
    for post in posts:
        keys = list(map(_key, post.recipients))
        # Nobody was told, yet a part of it is there: then all of it must be.
        if post.accepted == "yes" or any(key in ids for key in keys):
            due |= dict.fromkeys(keys, post.due_at)
    first: dict[Key, float] = {}
    for call in calls:
        for receiver in call.receivers:
            first.setdefault((call.service, receiver), call.at)
    late = {key: at - due[key] for key, at in first.items() if key in due}

    doubled = {key: times for key, times in times_taken.items() if times > 1}
    silent = [
        key
        for key, times in doubled.items()
        if key in due and (key not in ids or len(found.attempts[ids[key].id]) < times)
    ]
    failed = [found.attempts[each.id] for each in found.ended if each.state is State.FAILED]
    return Balance(
        accepted=len(due),
        columns=_columns(found),
        lost=[
            k for k in due if k not in ids or k in waiting or (k in sent and k not in times_taken)
        ],
        silent=silent,
        doubles=sum(times - 1 for key, times in doubled.items() if key not in silent),
        unasked=[key for key in {*times_taken, *ids} if key not in due],
        early=[key for key, late_s in late.items() if late_s < 0],
        lateness_s=sorted(late.values()),
        in_doubt=sum(post.accepted == "nobody knows" for post in posts),
        orphans_s=sorted(_pick_ups(found.attempts, kills)),
        failures=Counter(tries[-1].reason if tries else "no attempt" for tries in failed),
    )


def _key(recipient: Recipient) -> Key:
    return recipient.service, recipient.uuid


def _receivers(calls: Iterable[Call]) -> Iterable[Key]:
    for call in calls:
        for receiver in call.receivers:
            yield call.service, receiver


def _columns(found: Found) -> dict[str, int]:
    columns = dict.fromkeys(COLUMNS, 0)
    for each in found.ended:
        columns[_COLUMN[each.state]] += 1
    columns["waiting"] = len(found.waiting)
    return columns


def _pick_ups(attempts: Mapping[str, Sequence[Attempt]], kills: Sequence[Kill]) -> Iterable[float]:
    held: dict[str, list[float]] = defaultdict(list)
    for kill in kills:
        for id_ in kill.held:
            held[id_].append(kill.at)
    for id_, died in held.items():
        for at in died:
            ends = (try_.ended_at.timestamp() for try_ in attempts.get(id_, ()))
            if after := [end for end in ends if end > at]:
                yield min(after) - at


def share(values: Sequence[float], part: float) -> float:
    """The value that `part` of the sorted `values` do not pass; 0 when there are none."""
    return values[min(len(values) - 1, int(part * len(values)))] if values else 0.0
