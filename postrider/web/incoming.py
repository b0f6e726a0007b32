"""/api/v1/incoming: what people sent to our accounts. For admins: accounts belong to nobody else."""

from datetime import datetime
from typing import Annotated

from apiflask import APIBlueprint
from flask import Response, jsonify
from pydantic import BaseModel, Field

from postrider import showing
from postrider.service import Service
from postrider.web.auth import ANY_SCHEME, Gate
from postrider.web.problems import problems
from postrider.web.schemas import PageOfIn


class IncomingIn(PageOfIn):
    """The same, and to whom, from whom."""

    account: Annotated[str | None, Field(description="The account it came to")] = None
    uuid: Annotated[str | None, Field(description="Who sent it", examples=["441632960961"])] = None


class HeardOut(BaseModel):
    """One incoming message."""

    id: str
    provider_id: Annotated[str, Field(description="The messenger's own id")]
    service: str
    account: str
    uuid: Annotated[str, Field(description="Where to answer to")]
    name: str
    text: str
    kind: str
    at: Annotated[datetime, Field(description="When it was sent")]
    received_at: datetime


class IncomingOut(BaseModel):
    """Incoming messages, newest first. With a filter a part may be short, or empty, though `next` has more."""

    incoming: list[HeardOut]
    next: str | None


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The route over `service`."""
    bp = gate.guard(
        APIBlueprint("incoming", __name__, url_prefix="/api/v1", tag="Incoming"), "admin"
    )

    @bp.get("/incoming")
    @bp.input(IncomingIn, location="query")
    @bp.output(IncomingOut)
    @bp.doc(
        summary="What people sent to our accounts",
        security=ANY_SCHEME,
        responses=problems(400, 403),
    )
    def incoming(query_data: IncomingIn) -> Response:
        q = query_data
        page = service.arrivals.page(
            q.limit, q.cursor, service=q.service, account=q.account, uuid=q.uuid
        )
        return jsonify(incoming=[showing.heard(row) for row in page.rows], next=page.next)

    return bp
