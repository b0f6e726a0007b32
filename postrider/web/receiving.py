"""/api/v1/incoming and /api/v1/suppressions: what people sent us, and who is sent nothing. For admins: both are of accounts, and
accounts belong to nobody else."""

from datetime import datetime
from typing import Annotated, Literal

from apiflask import APIBlueprint
from flask import Response, jsonify
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from postrider import listing
from postrider.errors import Forbidden, NotFound
from postrider.incoming import Heard
from postrider.model import Suppression
from postrider.service import Service
from postrider.web.auth import Gate, client
from postrider.web.problems import problems


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PageOfIn(_Strict):
    """Which part of a list, and of which messenger."""

    limit: Annotated[int, Field(ge=1, le=listing.LONGEST_PAGE)] = listing.PAGE
    cursor: Annotated[str | None, Field(description="`next` of the page before")] = None
    service: Annotated[str | None, Field(description="The messenger", examples=["viber"])] = None


class IncomingIn(PageOfIn):
    """The same, and to whom, from whom."""

    account: Annotated[str | None, Field(description="The account it came to")] = None
    uuid: Annotated[str | None, Field(description="Who sent it", examples=["491701234567"])] = None


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


class SuppressionIn(_Strict):
    """Why."""

    reason: Annotated[StrictStr, Field(max_length=200, examples=["asked by phone"])] = ""


class SuppressionOut(BaseModel):
    """An address that nothing is sent to."""

    service: str
    uuid: str
    at: datetime
    why: Literal["opted_out", "dead", "manual"]
    reason: Annotated[str, Field(description="In the recipient's or the messenger's own words")]


class SuppressionsOut(BaseModel):
    """Suppressed addresses in order of service and uuid."""

    suppressions: list[SuppressionOut]
    total: int
    next: str | None


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """Both, over `service`."""
    bp = gate.guard(APIBlueprint("receiving", __name__, url_prefix="/api/v1", tag="Receiving"))
    # A Viber id may hold slashes, and two in a row are no mistake.
    one = {"rule": "/suppressions/<service_name>/<path:uuid>", "merge_slashes": False}

    @bp.before_request
    def only_admins() -> None:
        if client().role != "admin":
            raise Forbidden("this is for admins")

    @bp.get("/incoming")
    @bp.input(IncomingIn, location="query")
    @bp.output(IncomingOut)
    @bp.doc(
        summary="What people sent to our accounts",
        security="basic",
        responses=problems(400, 401, 403, 503),
    )
    def incoming(query_data: IncomingIn) -> Response:
        q = query_data
        page = service.arrivals.page(
            q.limit, q.cursor, service=q.service, account=q.account, uuid=q.uuid
        )
        return jsonify(incoming=[_heard(row) for row in page.rows], next=page.next)

    @bp.get("/suppressions")
    @bp.input(PageOfIn, location="query")
    @bp.output(SuppressionsOut)
    @bp.doc(summary="Who is sent nothing", security="basic", responses=problems(400, 401, 403, 503))
    def suppressions(query_data: PageOfIn) -> Response:
        q = query_data
        page = service.suppressions.page(q.limit, q.cursor, q.service or "")
        rows = [_suppression(row) for row in page.rows]
        return jsonify(suppressions=rows, total=page.total, next=page.next)

    @bp.get(**one)
    @bp.output(SuppressionOut)
    @bp.doc(
        summary="Whether this address is sent nothing, and why",
        security="basic",
        responses=problems(401, 403, 404, 503),
    )
    def suppression(service_name: str, uuid: str) -> Response:
        return jsonify(_suppression(_found(service_name, uuid)))

    @bp.put(**one)
    @bp.input(SuppressionIn)
    @bp.output(SuppressionOut)
    @bp.doc(
        summary="Send nothing to this address any more, on any account",
        security="basic",
        responses=problems(400, 401, 403, 413, 415, 503),
    )
    def suppress(service_name: str, uuid: str, json_data: SuppressionIn) -> Response:
        service.suppress(service_name, uuid, json_data.reason)
        return jsonify(_suppression(_found(service_name, uuid)))

    @bp.delete(**one)
    @bp.output({}, status_code=204)
    @bp.doc(
        summary="Send to this address again",
        security="basic",
        responses=problems(401, 403, 404, 503),
    )
    def lift(service_name: str, uuid: str) -> tuple[str, int]:
        if not service.suppressions.remove([(service_name, uuid)]):
            raise NotFound("this address is not suppressed")
        return "", 204

    def _found(service_name: str, uuid: str) -> Suppression:
        if (found := service.suppressions.get(service_name, uuid)) is None:
            raise NotFound("this address is not suppressed")
        return found

    return bp


def _heard(row: Heard) -> dict[str, object]:
    return HeardOut.model_validate(row, from_attributes=True).model_dump(mode="json")


def _suppression(row: Suppression) -> dict[str, object]:
    return SuppressionOut.model_validate(row, from_attributes=True).model_dump(mode="json")
