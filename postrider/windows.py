"""'When may it go?': the hours of the day and the days of the week outside which a delivery waits. Pure functions of `now`."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from postrider.errors import InvalidRequest
from postrider.timing import first_valid, zone_named

EVERY_DAY = frozenset(range(1, 8))
LOOKS_DAYS = 28
"""A weekly window that a change of clocks swallows opens a week later."""


class WindowIn(BaseModel):
    """The hours outside which a delivery waits, as a client writes them."""

    model_config = ConfigDict(extra="forbid")

    from_: Annotated[
        StrictStr,
        Field(alias="from", pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", examples=["09:00"]),
    ]
    to: Annotated[
        StrictStr,
        Field(
            pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$",
            description="Earlier than `from`: on the day after",
            examples=["20:00"],
        ),
    ]
    days: Annotated[
        list[Annotated[StrictInt, Field(ge=1, le=7)]] | None,
        Field(
            min_length=1,
            max_length=7,
            description="On which it opens; 1 is Monday; left out: every day",
            examples=[[1, 2, 3, 4, 5]],
        ),
    ] = None
    timezone: Annotated[
        StrictStr | None,
        Field(
            description="IANA zone; left out: the recipient's, else the message's",
            examples=["Europe/Berlin"],
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Window:
    """From `opens` to `closes` (not included) on these days; 1 is Monday.

    One that does not close after it opens lasts over midnight, and its day is the one on which it opens. `zone` is None
    where the recipient's or the message's counts.
    """

    opens: time
    closes: time
    days: frozenset[int] = EVERY_DAY
    zone: str | None = None

    @classmethod
    def asked(cls, given: WindowIn) -> Self:
        """The window that a client describes. Raises InvalidRequest."""
        if given.from_ == given.to:
            raise InvalidRequest(
                "window", "opens and closes at once; a whole day is 00:00 to 24:00"
            )
        if given.timezone is not None:
            try:
                zone_named(given.timezone)
            except ValueError as error:
                raise InvalidRequest("window.timezone", str(error)) from None
        return cls.from_fields(given.model_dump(by_alias=True))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_fields` told of."""
        return cls(
            opens=_hour(fields["from"]),
            closes=_hour(fields["to"]),
            days=frozenset(fields.get("days") or EVERY_DAY),
            zone=fields.get("timezone"),
        )

    def to_fields(self) -> dict[str, Any]:
        """As JSON, in a client's words."""
        closes = f"{self.closes:%H:%M}" if self.closes != time(0) else "24:00"
        fields: dict[str, Any] = {"from": f"{self.opens:%H:%M}", "to": closes}
        if self.days != EVERY_DAY:
            fields["days"] = sorted(self.days)
        if self.zone:
            fields["timezone"] = self.zone
        return fields

    def shows(self, local: datetime) -> bool:
        """Whether clocks that show `local` are inside."""
        at, day = local.time(), local.isoweekday()
        if self.opens < self.closes:
            return self.opens <= at < self.closes and day in self.days
        if at >= self.opens:
            return day in self.days
        return at < self.closes and (day - 2) % 7 + 1 in self.days  # it opened yesterday

    def opens_at(self, now: datetime, zone: ZoneInfo) -> datetime:
        """`now` when inside, else when it next opens; aware UTC. `zone` counts where the window has none of its own."""
        if self.zone:
            zone = ZoneInfo(self.zone)
        local = now.astimezone(zone)
        if self.shows(local):
            return now
        for at in self._openings(local.date() - timedelta(days=1), zone):
            if at > now and self.shows(at.astimezone(zone)):
                return at
        raise AssertionError("a window opens within four weeks")

    def _openings(self, day: date, zone: ZoneInfo) -> Iterator[datetime]:
        """When the clocks show that it opens, from `day` on: twice where they are set back over it."""
        for n in range(LOOKS_DAYS):
            local = datetime.combine(day + timedelta(days=n), self.opens)
            if local.isoweekday() in self.days:
                yield first_valid(local, zone)
                yield local.replace(fold=1, tzinfo=zone).astimezone(UTC)


def _hour(text: str) -> time:
    return time(0) if text == "24:00" else time.fromisoformat(text)


@lru_cache(maxsize=1_000)
def read(stored: str) -> Window:
    """The window that a message keeps, as the JSON of `to_fields`: cheap to ask for with each delivery."""
    return Window.from_fields(json.loads(stored))
