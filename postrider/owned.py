"""One owner's part of a list that holds everybody's, found by looking through it.

Each call of a script looks at `CHUNK` entries, a page at `LOOKED_AT`: it may be short, even empty, while its cursor goes on.
A total counts the owner's among the first `COUNTED`.
"""

from collections.abc import Sequence
from typing import Any, Literal

from postrider.scripts import Scripts

CHUNK = 1_000
LOOKED_AT = 20_000
COUNTED = 100_000
Place = tuple[float, str]
"""Time and id: where an entry stands."""
Row = tuple[Any, ...]
"""Time (s), id, record; text and due time, where it went with others than its message has now."""


def row_of(told: Sequence[bytes]) -> Row:
    """A row as page.lua tells of it."""
    id_, at, *rest = told
    return (float(at), id_.decode(), *rest)


class Owned:
    """What `owner` has in `lists`. `messages`: of the rows, as the script gives them."""

    def __init__(self, scripts: Scripts, owner: str) -> None:
        self._scripts, self._owner = scripts, owner
        self.messages: list[Any] = []

    def page(
        self, lists: Sequence[str], order: Literal["up", "down"], limit: int, at: str, behind: str
    ) -> tuple[list[Row], Place | None]:
        """The next `limit` rows (time, id, record) over all lists, and where to go on, or None."""
        found: list[Row] = []
        ends: list[Place] = []  # how far those lists were seen that go on
        for key in lists:
            rows, end = self._look(key, order, limit + 1, at, behind)
            found += rows
            if end is not None:
                ends.append(end)
        found.sort(key=lambda row: row[:2], reverse=order == "down")
        end = (min if order == "up" else max)(ends, default=None)
        if end is not None:  # behind it, another list may hold what has not been seen
            found = [r for r in found if (r[:2] <= end if order == "up" else r[:2] >= end)]
        if len(found) > limit:
            return found[:limit], found[limit - 1][:2]
        return found, end

    def _look(
        self, key: str, order: str, most: int, at: str, behind: str
    ) -> tuple[list[Row], Place | None]:
        found: list[Row] = []
        for _ in range(LOOKED_AT // CHUNK):
            _, rows, texts, looked_at, last, time = self._scripts.run(
                "page", key, order, CHUNK, at, behind, self._owner
            )
            found += (row_of(row) for row in rows)
            self.messages += texts
            if looked_at < CHUNK:
                return found, None
            at, behind = repr(float(time)), last.decode()
            if len(found) >= most:
                break
        return found, (float(at), behind)

    def total(self, lists: Sequence[str]) -> int:
        """How many of the first `COUNTED` entries of each list are the owner's."""
        count = 0
        for key in lists:
            for first in range(0, COUNTED, CHUNK):
                looked_at, theirs = self._scripts.run("count_owned", key, self._owner, first, CHUNK)
                count += int(theirs)
                if looked_at < CHUNK:
                    break
        return count
