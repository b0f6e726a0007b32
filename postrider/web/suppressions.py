"""/api/v1/suppressions: addresses that nothing is sent to. For admins: they hold for everybody's messages."""

from datetime import datetime
from typing import Annotated, Literal

from apiflask import APIBlueprint
from flask import Response, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from postrider.errors import NotFound, WrongMediaType
from postrider.model import Suppression
from postrider.service import Service
from postrider.web.auth import ANY_SCHEME, Gate
from postrider.web.problems import problems
from postrider.web.schemas import PageOfIn

# A Viber id may hold slashes, and two in a row are no mistake.
ONE = "/suppressions/<service_name>/<path:uuid>"


class SuppressionIn(BaseModel):
    """Why."""

    model_config = ConfigDict(extra="forbid")

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
    """The routes over `service`."""
    bp = gate.guard(
        APIBlueprint("suppressions", __name__, url_prefix="/api/v1", tag="Suppressions"), "admin"
    )

    @bp.before_request
    def only_json() -> None:
        if request.method == "PUT" and request.mimetype != "application/json":
            raise WrongMediaType("send the body as application/json")

    @bp.get("/suppressions")
    @bp.input(PageOfIn, location="query")
    @bp.output(SuppressionsOut)
    @bp.doc(summary="Who is sent nothing", security=ANY_SCHEME, responses=problems(400, 403))
    def suppressions(query_data: PageOfIn) -> Response:
        q = query_data
        page = service.suppressions.page(q.limit, q.cursor, q.service or "")
        rows = [_suppression(row) for row in page.rows]
        return jsonify(suppressions=rows, total=page.total, next=page.next)

    @bp.get(ONE, merge_slashes=False)
    @bp.output(SuppressionOut)
    @bp.doc(
        summary="Whether this address is sent nothing, and why",
        security=ANY_SCHEME,
        responses=problems(403, 404),
    )
    def suppression(service_name: str, uuid: str) -> Response:
        return jsonify(_suppression(_found(service_name, uuid)))

    @bp.put(ONE, merge_slashes=False)
    @bp.input(SuppressionIn)
    @bp.output(SuppressionOut)
    @bp.doc(
        summary="Send nothing to this address any more, on any account",
        security=ANY_SCHEME,
        responses=problems(400, 403, 404, 413, 415),
    )
    def suppress(service_name: str, uuid: str, json_data: SuppressionIn) -> Response:
        service.suppress(service_name, uuid, json_data.reason)
        return jsonify(_suppression(_found(service_name, uuid)))

    @bp.delete(ONE, merge_slashes=False)
    @bp.output({}, status_code=204)
    @bp.doc(
        summary="Send to this address again",
        security=ANY_SCHEME,
        responses=problems(403, 404),
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


def _suppression(row: Suppression) -> dict[str, object]:
    return SuppressionOut.model_validate(row, from_attributes=True).model_dump(mode="json")
