"""What clients of /api/v1 read of messages and deliveries, as pydantic models: the source of its description."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from messengers.base import FileKind
from postrider.model import Format, MessageState
from postrider.web.bodies import Mail, StateName


class PartOut(BaseModel):
    """What became of one piece of a delivery: files that went together, or its text."""

    outcome: Literal["sent", "retry", "rejected", "unclear"]
    reason: Annotated[str, Field(description="In the messenger's words")]
    provider_id: str


class AttemptOut(BaseModel):
    """One try."""

    started_at: datetime
    ended_at: datetime
    outcome: Literal["sent", "retry", "rejected", "unclear"]
    reason: str
    provider_id: str
    parts: Annotated[
        list[PartOut | None] | None,
        Field(description="What has become of each piece so far, where there are several"),
    ]


class ReceiptOut(BaseModel):
    """What the messenger said later, where that changed something."""

    at: datetime
    state: Literal["sent", "delivered", "read", "failed"]
    reason: Annotated[str, Field(description="In the messenger's words")]


class DeliveryOut(BaseModel):
    """One message to one recipient."""

    id: str
    message: str
    uuid: str
    service: str
    account: str
    state: StateName
    due_at: Annotated[datetime | None, Field(description="While it waits")]
    ended_at: datetime | None
    attempts: Annotated[
        int, Field(description="That count against RETRY_COUNT, and the one that was taken")
    ]
    reason: Annotated[str, Field(description="Of the last try, in the messenger's words")]
    provider_id: str
    reference: str | None


class DeliveryWithAttemptsOut(DeliveryOut):
    """One message to one recipient, what was tried, and what its messenger said later."""

    tries: list[AttemptOut]
    receipts: list[ReceiptOut]


class FileOut(BaseModel):
    """A file of a message."""

    id: Annotated[str, Field(description="Empty for one that is only linked to")]
    name: str
    media_type: str
    size: int
    kind: FileKind


class MessageOut(BaseModel):
    """A message, and how many of its deliveries stand where."""

    id: str
    body: str
    state: MessageState
    reference: str | None
    tags: list[str]
    accepted_at: datetime
    due_at: Annotated[datetime, Field(description="UTC")]
    due_local: Annotated[str, Field(description="The same in the service's zone")]
    expires_at: datetime | None
    check_first: Annotated[
        bool, Field(description="whatsapp-web: only to numbers that are on WhatsApp")
    ]
    total: int
    counts: Annotated[dict[str, int], Field(description="State -> deliveries; no zeros")]
    files: list[FileOut]
    format: Format
    mail: Annotated[Mail | None, Field(description="What was asked for besides a text, if it was")]


class AcceptedOut(MessageOut):
    """The accepted message with its first 1,000 deliveries."""

    deliveries: list[dict[str, str]]
    notices: Annotated[list[str], Field(description="What goes otherwise than asked for, and how")]


class MessagesOut(BaseModel):
    """A page of messages, newest first. It may hold fewer than asked for and still have a next one."""

    messages: list[MessageOut]
    next: str | None


class DeliveriesOut(BaseModel):
    """A page of deliveries. It may hold fewer than asked for and still have a next one."""

    deliveries: list[DeliveryOut]
    next: str | None


class ChangedOut(BaseModel):
    """How many deliveries were changed, and for how many it was too late, by the state they were in."""

    changed: int
    unchanged: dict[str, int]
