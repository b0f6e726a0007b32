"""What operators do and ask: stop and go on, the balance."""

from typing import Annotated
from zoneinfo import ZoneInfo

from apiflask import APIBlueprint
from flask import Response, jsonify
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from postrider import listing, showing, stopping
from postrider.clients import Clients
from postrider.errors import NotFound
from postrider.service import Service
from postrider.web import asking
from postrider.web.auth import ANY_SCHEME, Gate, client
from postrider.web.problems import problems


class StopIn(BaseModel):
    """What to stop; nothing named: everything."""

    model_config = ConfigDict(extra="forbid")
    service: Annotated[StrictStr | None, Field(description="A messenger")] = None
    account: Annotated[
        StrictStr | None, Field(description="One of its accounts; needs `service`")
    ] = None
    client: Annotated[StrictStr | None, Field(description="The id of an API key or user")] = None


class StopOut(BaseModel):
    """Something that sends nothing until it goes on."""

    service: str | None
    account: str | None
    client: str | None
    since: str
    by: str


class StopsOut(BaseModel):
    """All that is stopped."""

    stops: list[StopOut]


class SpanIn(BaseModel):
    """From when to when: whole hours of acceptance."""

    model_config = ConfigDict(extra="forbid")
    from_: Annotated[
        str | None, Field(alias="from", description="ISO 8601, or local; rounded down to the hour")
    ] = None
    to: Annotated[str | None, Field(description="Up to the hour that this lies in")] = None


class LedgerOut(BaseModel):
    """accepted = sent + failed + cancelled + expired + suppressed + unknown + waiting. `sent` includes delivered and read."""

    start: str | None
    end: str | None
    accepted: int
    sent: int
    failed: int
    cancelled: int
    expired: int
    suppressed: int
    unknown: int
    waiting: int
    difference: Annotated[int, Field(description="Accepted and nowhere: 0")]


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The routes over `service`."""
    bp = gate.guard(
        APIBlueprint("operations", __name__, url_prefix="/api/v1", tag="Operations"), "admin"
    )
    bp.before_request(asking.only_json)
    zone = ZoneInfo(service.settings.tz)

    @bp.get("/stops")
    @bp.output(StopsOut)
    @bp.doc(summary="What is stopped", security=ANY_SCHEME, responses=problems(403))
    def stops() -> Response:
        found = sorted(service.changes.stops().items())
        return jsonify(stops=[showing.stop(name, at, by) for name, (at, by) in found])

    @bp.post("/stops")
    @bp.input(StopIn)
    @bp.output(StopsOut)
    @bp.doc(
        summary="Let nothing leave: of one client, one account, one messenger, or at all",
        description="Within a second; what is being sent just now ends. Deliveries wait, and use up no attempt.",
        security=ANY_SCHEME,
        responses=problems(400, 403, 413, 415),
    )
    def stop(json_data: StopIn) -> Response:
        scope = _scope(json_data, service)
        service.changes.stop(scope, client().name, service.store.now())
        return stops()

    @bp.delete("/stops")
    @bp.input(StopIn, location="query")
    @bp.output(StopsOut)
    @bp.doc(summary="Go on", security=ANY_SCHEME, responses=problems(400, 403, 404))
    def go_on(query_data: StopIn) -> Response:
        if not service.changes.go_on(_scope(query_data, service)):
            raise NotFound("that is not stopped; GET /api/v1/stops shows what is")
        return stops()

    @bp.get("/ledger")
    @bp.input(SpanIn, location="query")
    @bp.output(LedgerOut)
    @bp.doc(
        summary="The balance",
        description="GET /api/v1/deliveries with the same `from` and `to` exports what stands behind it, as long as it is kept.",
        security=ANY_SCHEME,
        responses=problems(400, 403),
    )
    def ledger(query_data: SpanIn) -> Response:
        start, end = (
            listing.at(field, text, zone)
            for field, text in (("from", query_data.from_), ("to", query_data.to))
        )
        return jsonify(showing.balance(service.ledger.balance(start, end)))

    return bp


def _scope(data: StopIn, service: Service) -> str:
    service.phones.sync()
    clients = Clients(service.store.redis)
    return stopping.name_of(
        service.accounts, data.service, data.account, data.client, clients.whose
    )
