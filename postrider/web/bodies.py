"""What clients of /api/v1 write of messages and deliveries, as pydantic models: the source of its description."""

from typing import Annotated, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, FailFast, Field, StrictBool, StrictInt, StrictStr
from typing_extensions import TypedDict

from messengers.base import FileKind
from postrider.model import Format, MessageState
from postrider.recurrence import MAX_COUNT
from postrider.web.schemas import WORD, SendMessageIn
from postrider.windows import WindowIn

PAGE, LONGEST_PAGE = 100, 1_000
YEAR_S = 366 * 86_400
FAR_S = 1000 * YEAR_S
Word = Annotated[StrictStr, Field(min_length=1, max_length=64, pattern=WORD)]
Moment = Annotated[
    StrictStr,
    Field(
        description="YYYY-MM-DD HH:MM:SS in `timezone` or the service's zone, or ISO 8601 with an offset",
        examples=["2030-10-05 13:48:00"],
    ),
]
StateName = Literal[
    "scheduled", "queued", "sending", "retrying", "paused", "unknown", "sent", "delivered", "read", "failed",
    "cancelled", "expired", "suppressed",
]  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class To(TypedDict):
    """An address on one messenger."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    uuid: Annotated[
        StrictStr,
        Field(
            description="telegram: integer or @name; whatsapp: number or BSUID; viber: id; mail: address",
            examples=["42"],
        ),
    ]
    service: Annotated[StrictStr, Field(description="The messenger", examples=["telegram"])]
    account: NotRequired[
        Annotated[StrictStr, Field(description="The sender there, instead of the message's")]
    ]
    send_at: NotRequired[
        Annotated[StrictStr, Field(description="When, instead of with the others")]
    ]
    timezone: NotRequired[
        Annotated[
            StrictStr,
            Field(
                description="IANA zone of the recipient: a local `send_at`, also the message's, is meant there",
                examples=["Asia/Tokyo"],
            ),
        ]
    ]


class AttachmentIn(BaseModel):
    """A file that goes with the message: an uploaded one, or a URL, one of them."""

    model_config = ConfigDict(extra="forbid")

    file: Annotated[
        StrictStr | None, Field(max_length=64, description="The id that its upload gave")
    ] = None
    url: Annotated[
        StrictStr | None,
        Field(
            min_length=1,
            max_length=2000,
            description="Fetched once, when the message is accepted",
            examples=["https://example.com/holiday.jpg"],
        ),
    ] = None
    link: Annotated[
        StrictBool,
        Field(description="The url is not fetched, but handed on to messengers that fetch it"),
    ] = False
    name: Annotated[
        StrictStr | None, Field(min_length=1, max_length=150, description="Instead of its own")
    ] = None
    kind: Annotated[
        FileKind | None, Field(description="As what it is shown; left out: by what it holds")
    ] = None
    inline: Annotated[
        StrictBool, Field(description="mail: shown in the text, as `cid:` and its name")
    ] = False


Line = Annotated[StrictStr, Field(max_length=500)]
Box = Annotated[StrictStr, Field(max_length=500, examples=["Ana <ana@example.org>"])]


class Mail(BaseModel):
    """What mail has besides a text."""

    model_config = ConfigDict(extra="forbid")

    subject: Annotated[
        Line,
        Field(description="Left out: MAIL_SUBJECT, or the first line", examples=["Your order"]),
    ] = ""
    sender: Annotated[
        Line,
        Field(
            alias="from",
            description="One of MAIL_FROM, by address or name; left out: the first",
            examples=["shop@example.org"],
        ),
    ] = ""
    reply_to: Box | Literal[""] = ""
    cc: Annotated[tuple[Box, ...], Field(max_length=50)] = ()
    bcc: Annotated[tuple[Box, ...], Field(max_length=50)] = ()
    unsubscribe_url: Annotated[
        StrictStr,
        Field(
            max_length=2000,
            description="`List-Unsubscribe`; `{uuid}` and `{id}` stand for address and delivery. Left out: MAIL_UNSUBSCRIBE_URL, if it goes to several",
            examples=["https://example.org/unsubscribe?who={uuid}"],
        ),
    ] = ""


class RepeatIn(BaseModel):
    """When again: either `cron` or `rrule`, in the message's `timezone`."""

    model_config = ConfigDict(extra="forbid")

    cron: Annotated[
        StrictStr | None,
        Field(
            description="Five fields: minute, hour, day, month, weekday", examples=["0 9 * * 1-5"]
        ),
    ] = None
    rrule: Annotated[
        StrictStr | None,
        Field(
            description="A rule of RFC 5545, at least a minute between occurrences; begins at `send_at`",
            examples=["FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=9;BYMINUTE=0"],
        ),
    ] = None
    until: Annotated[
        StrictStr | None,
        Field(
            description="The last time that counts: a day, a local time, or ISO 8601 with an offset",
            examples=["2030-12-31"],
        ),
    ] = None
    count: Annotated[
        StrictInt | None, Field(ge=1, le=MAX_COUNT, description="Messages at most", examples=[10])
    ] = None
    missed: Annotated[
        Literal["skip", "once", "all"],
        Field(
            description="What is made of occurrences missed while nothing ran: none, one for all of them, or each"
        ),
    ] = "skip"


class NewMessageIn(SendMessageIn):
    """One message: what, when, to whom, and on what terms."""

    recipients: Annotated[list[To], FailFast(), Field(min_length=1)]  # type: ignore[assignment]
    send_in_s: Annotated[
        float | None,
        Field(gt=0, le=FAR_S, strict=True, description="Instead of `send_at`: seconds from now"),
    ] = None
    account: Annotated[StrictStr, Field(description="Which of a messenger's accounts sends")] = (
        "default"
    )
    priority: Literal["high", "normal", "low"] = "normal"
    reference: Annotated[
        Word | None, Field(description="Your own name for it; may be shared", examples=["order-17"])
    ] = None
    tags: Annotated[tuple[Word, ...], Field(max_length=10, examples=[["autumn"]])] = ()
    expires_at: Annotated[
        Moment | None, Field(description="What has not gone by then never goes")
    ] = None
    late_s: Annotated[
        float | None,
        Field(
            ge=0,
            le=YEAR_S,
            strict=True,
            description="Drop what is later than that, after an outage; left out: send it however late",
        ),
    ] = None
    window: Annotated[WindowIn | None, Field(description="The hours outside which it waits")] = None
    on_unknown: Annotated[
        Literal["resend", "hold"] | None,
        Field(
            description="What to do when a messenger gives no answer; left out: as the settings say"
        ),
    ] = None
    repeat: Annotated[
        RepeatIn | None,
        Field(description="Send it again and again; the answer is then a schedule"),
    ] = None
    callback_url: Annotated[
        StrictStr | None,
        Field(
            max_length=2000,
            description="Told what becomes of each delivery",
            examples=["https://example.com/postrider"],
        ),
    ] = None
    callback_format: Annotated[
        Literal["event", "task"],
        Field(
            description="`event`: Standard Webhooks; `task`: `{task_id, result}`, once a delivery has ended"
        ),
    ] = "event"
    attachments: Annotated[
        tuple[AttachmentIn, ...],
        Field(max_length=10, description="Files that go with it; `body` may then be left empty"),
    ] = ()
    format: Annotated[
        Format,
        Field(
            description="How `body` is written; markdown is for mail (sent as text and as HTML) and apprise (made what each service shows)"
        ),
    ] = "plain"
    mail: Annotated[Mail | None, Field(description="What mail has besides a text")] = None
    dedupe_within_s: Annotated[
        float | None,
        Field(
            gt=0,
            le=YEAR_S,
            strict=True,
            description="Refuse the message when a recipient got the same text less than that ago",
        ),
    ] = None


class ChangeIn(_Strict):
    """What to change of all that has not gone."""

    body: Annotated[StrictStr | None, Field(description="Another text")] = None
    send_at: Moment | None = None
    send_in_s: Annotated[
        float | None,
        Field(gt=0, le=FAR_S, strict=True, description="Instead of `send_at`: seconds from now"),
    ] = None
    timezone: Annotated[StrictStr | None, Field(description="IANA zone of `send_at`")] = None
    paused: Annotated[StrictBool | None, Field(description="true: wait; false: go on")] = None


class PageIn(_Strict):
    """Which part of a list."""

    limit: Annotated[int, Field(ge=1, le=LONGEST_PAGE)] = PAGE
    cursor: Annotated[str | None, Field(description="`next` of the page before")] = None


class _Span(PageIn):
    service: str | None = None
    reference: str | None = None
    tag: str | None = None
    from_: Annotated[
        str | None, Field(alias="from", description="Accepted from then on: ISO 8601, or local")
    ] = None
    to: Annotated[str | None, Field(description="Accepted before then")] = None


class Which(_Strict):
    """All messages with one of these."""

    tag: str | None = None
    reference: str | None = None


class MessagesIn(_Span):
    """Which messages."""

    state: MessageState | None = None
    uuid: str | None = None


class DeliveriesIn(_Span):
    """Which deliveries."""

    state: StateName | None = None
    uuid: str | None = None
    account: str | None = None
    message: str | None = None
