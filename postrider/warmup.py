"""How much a phone may send that was linked not long ago. Pure functions."""

import math
from datetime import datetime, timedelta

FIRST_DAY = 20
"""Messages on the first day, however many there may be later."""
GROWN = 1_000
"""Messages on the last day of a warm-up where there is no cap afterwards."""


def daily_cap(cap: int, days: int, linked_at: datetime | None, now: datetime) -> int:
    """Messages that a phone may send today; 0: as many as it likes.

    From the day it was linked, over `days` days, it grows evenly up to `cap`.
    """
    if not days or linked_at is None:
        return cap
    day = (now - linked_at) // timedelta(days=1)
    if day >= days:
        return cap
    most = cap or GROWN
    first = min(FIRST_DAY, most)
    return first + math.floor((most - first) * max(0, day) / days)
