"""What clients write and read, as pydantic models: the source of the OpenAPI description."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, StrictBool, StrictStr
from typing_extensions import TypedDict

from postrider import listing

WORD = r"^[\w.:@/+-]+$"
"""What a reference or a tag is made of."""


class _Strict(BaseModel):
    # An unknown field is most often a misspelt one: `sendat` would send at once.
    model_config = ConfigDict(extra="forbid")


class RecipientIn(TypedDict):
    """An address on one messenger."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    uuid: Annotated[
        StrictStr,
        Field(
            description="telegram: integer or @name; whatsapp: number or BSUID; viber: id",
            examples=["42"],
        ),
    ]
    service: Annotated[StrictStr, Field(description="The messenger", examples=["telegram"])]


class TemplateIn(_Strict):
    """A WhatsApp template that Meta has approved: the only text it takes outside the 24 h window."""

    name: Annotated[StrictStr, Field(examples=["appointment_reminder"])]
    language: Annotated[StrictStr, Field(examples=["en_US"])]
    components: Annotated[list[dict[str, Any]], FailFast()] = []


class SendMessageIn(_Strict):
    """One message: what, when, to whom."""

    body: Annotated[
        StrictStr,
        Field(
            description="The text; may be left out where all recipients get a template",
            examples=["Hello"],
        ),
    ] = ""
    recipients: Annotated[list[RecipientIn], FailFast(), Field(min_length=1)]
    send_at: Annotated[
        StrictStr | None,
        Field(
            description="YYYY-MM-DD HH:MM:SS in the service's zone, or ISO 8601 with an offset; left out: now",
            examples=["2030-10-05 13:48:00"],
        ),
    ] = None
    timezone: Annotated[
        StrictStr | None,
        Field(description="IANA zone of `send_at`", examples=["Europe/Berlin"]),
    ] = None
    template: TemplateIn | None = None
    check_first: Annotated[
        StrictBool,
        Field(
            description="whatsapp-web: a number that is not on WhatsApp fails at once, and nothing is sent to it. Each that"
            " is not known yet is looked up, under WHATSAPP_WEB_CHECK_CAP; a delivery over it waits"
        ),
    ] = False


class TakenDeliveryOut(BaseModel):
    """One message to one recipient."""

    id: str
    uuid: str
    service: str
    state: Literal["scheduled", "queued"]


class TakenMessageOut(BaseModel):
    """The accepted message, with its first 1,000 deliveries."""

    id: str
    deliveries: list[TakenDeliveryOut]


class SendMessageOut(BaseModel):
    """A line per recipient: under `scheduled` if it has a time, else under `started`."""

    scheduled: list[str]
    started: list[str]
    message: TakenMessageOut
    total: Annotated[int | None, Field(description="How many there are, when over 1,000")] = None


class PageIn(_Strict):
    """Which part of a list."""

    limit: Annotated[int, Field(ge=1, le=listing.LONGEST_PAGE)] = listing.PAGE
    cursor: Annotated[str | None, Field(description="`next` of the page before")] = None


class PageOfIn(PageIn):
    """Which part of a list, and of which messenger."""

    service: Annotated[str | None, Field(description="The messenger", examples=["viber"])] = None


class ScheduledOut(BaseModel):
    """What waits, soonest first."""

    scheduled: list[str]
    total: int
    next: str | None


class FinishedOut(BaseModel):
    """What ended, newest first: sent at once, sent at a time, failed."""

    finished_main: list[str]
    finished_scheduled: list[str]
    finished_with_fail: list[str]
    total: int
    next: str | None
