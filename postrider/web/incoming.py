"""/api/v1/incoming: what people sent to our accounts. A client sees what came to its sessions; all others are the admins'."""

from datetime import datetime
from typing import Annotated, Literal

from apiflask import APIBlueprint
from flask import Response, jsonify
from pydantic import BaseModel, Field

from messengers.whatsapp_web import WhatsAppWeb
from postrider import showing
from postrider.errors import InvalidRequest
from postrider.service import Service
from postrider.sessions import session_id
from postrider.web.asking import owner_of
from postrider.web.auth import ANY_SCHEME, Gate, client
from postrider.web.problems import problems
from postrider.web.schemas import PageOfIn


class IncomingIn(PageOfIn):
    """The same, and to whom, from whom."""

    account: Annotated[str | None, Field(description="The account it came to")] = None
    session: Annotated[
        str | None,
        Field(description="The linked phone it came to, by its session's name", examples=["shop"]),
    ] = None
    uuid: Annotated[str | None, Field(description="Who sent it", examples=["441632960961"])] = None


class AttachedOut(BaseModel):
    """A file that came with a message: fetched a moment after it, and kept as long."""

    state: Annotated[
        Literal["waits", "kept", "missing"], Field(description="`waits`: it is being fetched")
    ]
    id: Annotated[str | None, Field(description="Of `/api/v1/files`, once it is kept")]
    name: str
    media_type: Annotated[str, Field(description="By what it holds, once it is kept")]
    size: Annotated[int, Field(description="Bytes; 0: not known")]
    reason: Annotated[str, Field(description="Why it is missing")]


class HeardOut(BaseModel):
    """One incoming message."""

    id: str
    provider_id: Annotated[str, Field(description="The messenger's own id")]
    service: str
    account: str
    session: Annotated[str | None, Field(description="Of a linked phone, as its owner calls it")]
    uuid: Annotated[str, Field(description="Where to answer to")]
    name: str
    text: str
    kind: str
    at: Annotated[datetime, Field(description="When it was sent")]
    received_at: datetime
    file: AttachedOut | None


class IncomingOut(BaseModel):
    """Incoming messages, newest first. With a filter a part may be short, or empty, though `next` has more."""

    incoming: list[HeardOut]
    next: str | None


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The route over `service`."""
    bp = gate.guard(APIBlueprint("incoming", __name__, url_prefix="/api/v1", tag="Incoming"))

    @bp.get("/incoming")
    @bp.input(IncomingIn, location="query")
    @bp.output(IncomingOut)
    @bp.doc(
        summary="What people sent to our accounts",
        description="An admin sees all of it; anybody else what came to their own sessions of linked phones.",
        security=ANY_SCHEME,
        responses=problems(400),
    )
    def incoming(query_data: IncomingIn) -> Response:
        q, owner = query_data, owner_of(client())
        service_name, account = q.service, q.account
        if q.session is not None:
            if account is not None:
                raise InvalidRequest("session", "and `account` are one or the other")
            account = session_id(q.session, owner or "")
            service_name = service_name or WhatsAppWeb.name
        page = service.arrivals.page(
            q.limit, q.cursor, service=service_name, account=account, uuid=q.uuid, owner=owner
        )
        return jsonify(incoming=[showing.heard(row) for row in page.rows], next=page.next)

    return bp
