"""The simple API: /send_message, /get_scheduled, /get_finished, /delete_all. Its shapes never change."""

from zoneinfo import ZoneInfo

from apiflask import APIBlueprint
from flask import Response, jsonify

from postrider import listing
from postrider.model import NewMessage, Recipient, Terms
from postrider.service import Service
from postrider.web import asking
from postrider.web.auth import ANY_SCHEME, Gate, audited, client, needs
from postrider.web.problems import documented
from postrider.web.schemas import (
    FinishedOut,
    PageIn,
    ScheduledOut,
    SendMessageIn,
    SendMessageOut,
)


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The four routes over `service`."""
    bp = gate.guard(APIBlueprint("simple", __name__, tag="Simple API"))
    zone = ZoneInfo(service.settings.tz)

    bp.before_request(asking.only_json)

    @bp.post("/send_message")
    @bp.input(SendMessageIn)
    @bp.output(SendMessageOut)
    @bp.doc(
        summary="Send a message, now or at a time",
        security=ANY_SCHEME,
        responses=documented(400, 403, 409, 413, 415),
    )
    def send_message(json_data: SendMessageIn) -> Response:
        new = NewMessage(
            body=json_data.body,
            recipients=tuple(Recipient(r["uuid"], r["service"]) for r in json_data.recipients),
            send_at=listing.moment(json_data.send_at, json_data.timezone, zone),
            template=asking.template_of(json_data.template),
            owner=client().id,
            terms=Terms(check_first=json_data.check_first),
        )
        message, recipients = service.accept(new, asking.once())
        audited(message.id)
        return jsonify(listing.accepted(message, recipients, zone))

    @bp.get("/get_scheduled")
    @bp.input(PageIn, location="query")
    @bp.output(ScheduledOut)
    @bp.doc(summary="What waits", security=ANY_SCHEME, responses=documented(400))
    def get_scheduled(query_data: PageIn) -> Response:
        page = service.scheduled(query_data.limit, query_data.cursor, client())
        return jsonify(listing.scheduled(page, zone))

    @bp.get("/get_finished")
    @bp.input(PageIn, location="query")
    @bp.output(FinishedOut)
    @bp.doc(summary="What ended", security=ANY_SCHEME, responses=documented(400))
    def get_finished(query_data: PageIn) -> Response:
        page = service.finished(query_data.limit, query_data.cursor, client())
        return jsonify(listing.finished(page, zone))

    @bp.delete("/delete_all")
    @needs("admin")  # it forgets what others sent, too
    @bp.doc(
        summary="Forget what is finished and failed",
        security=ANY_SCHEME,
        responses={
            200: {
                "description": "Done; what waits is still there",
                "content": {"application/json": {"schema": {"type": "string", "const": "Success"}}},
            },
            **documented(403),
        },
    )
    def delete_all() -> Response:
        service.purge()
        return jsonify("Success")

    return bp
