"""/api/v1/audit: who did what when, from where, with what result."""

import re
from datetime import UTC, datetime
from typing import Annotated

from apiflask import APIBlueprint
from flask import Response, jsonify
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from postrider import access
from postrider.audit import Audit, Wanted
from postrider.errors import InvalidRequest
from postrider.web.auth import ANY_SCHEME, Gate
from postrider.web.problems import problems

OLDEST, NEWEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def _written_out(value: object) -> object:
    """Refuses a bare number, which pydantic takes for seconds."""
    if not (isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[T ]", value)):
        raise ValueError("write it as ISO 8601 with an offset, 2030-10-05T13:48:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]


class AuditPageIn(BaseModel):
    """Which part of the log."""

    model_config = ConfigDict(extra="forbid")
    actor: Annotated[str | None, Field(description="A client's id or name")] = None
    action: Annotated[
        str | None,
        Field(
            description="Method and route, `login`, or a command", examples=["DELETE /delete_all"]
        ),
    ] = None
    since: Annotated[Moment | None, Field(alias="from", description="ISO 8601")] = None
    until: Annotated[Moment | None, Field(alias="to", description="ISO 8601; up to, not with")] = (
        None
    )
    limit: Annotated[int, Field(ge=1, le=access.LONGEST_PAGE)] = access.PAGE
    cursor: Annotated[str | None, Field(description="`next` of the page before")] = None


class EntryOut(BaseModel):
    """One thing that somebody did, or was not let do."""

    id: str
    at: datetime
    actor: Annotated[str, Field(description="Id; '' for the user of the settings, or nobody known")]
    name: str
    action: str
    what: Annotated[str, Field(description="Which one")]
    address: str
    result: Annotated[str, Field(description="HTTP status, or `ok` for a command")]


class AuditOut(BaseModel):
    """Newest first. Behind a filter a page may be short, and `next` still go on."""

    entries: list[EntryOut]
    next: str | None


def blueprint(audit: Audit, gate: Gate) -> APIBlueprint:
    """The route over `audit`."""
    bp = gate.guard(APIBlueprint("audit", __name__, url_prefix="/api/v1", tag="Audit"), "admin")

    @bp.get("/audit")
    @bp.input(AuditPageIn, location="query")
    @bp.output(AuditOut)
    @bp.doc(
        summary="Who did what",
        security=ANY_SCHEME,
        responses=problems(400, 403),
    )
    def list_audit(query_data: AuditPageIn) -> Response:
        for name, at in (("from", query_data.since), ("to", query_data.until)):
            if at is not None and not OLDEST <= at <= NEWEST:
                raise InvalidRequest(name, "lies outside of all that is kept")
        wanted = Wanted(query_data.actor, query_data.action, query_data.since, query_data.until)
        entries, after = audit.page(wanted, query_data.limit, query_data.cursor)
        return jsonify(entries=[access.told_entry(entry) for entry in entries], next=after)

    return bp
